//! A partition's part of the status: how far it is, and who holds it up.

use crate::admin::status::{Frontier, Partition, Reason};
use crate::config::Target;
use crate::engine::ends::End;
use crate::engine::observed::{Doing, OldestOf, OldestView, PartitionView, Whereabouts};
use crate::sink::OldestParked;
use crate::state::blocking;
use crate::state::parked::Why;
use crate::types::{NextOffset, ShardIx};

use super::look::Look;
use super::words::{age_ms, millis, reason, text, writer_name};

/// What a lock that could not be had in time is called.
const LOCK_NOT_AVAILABLE: &str = "55P03";

impl Look<'_> {
    pub(super) fn partition(&self, p: &PartitionView) -> Partition {
        let end = self.end(p).map(|end| end.end).or((p.end > NextOffset(0)).then_some(p.end));
        let committed = p.committed.or(p.begun.then_some(p.start));
        let message_lag = end.zip(committed).map(|(end, committed)| end.0.saturating_sub(committed.0).max(0) as u64);
        let parked = self.parked(p);
        let unparked = self.unparked(p);
        // What waits for the commit is older than what waits for its row, and of less interest.
        let uncommitted = self.uncommitted(p).map_or(0, |uncommitted| uncommitted.age_ms);
        let unparked_lag_ms = unparked.as_ref().map_or(0, |unparked| unparked.age_ms).max(uncommitted);
        let parked_age_ms = parked.as_ref().map(|parked| parked.age_ms);
        let (frontier, unparked) = match parked {
            Some(parked) => (Some(parked), unparked),
            None => (unparked, None),
        };
        Partition {
            topic: self.config.topics[usize::from(p.at.topic.0)].name.clone(),
            partition: p.at.partition,
            state: p.phase.to_owned(),
            paused: p.paused,
            committed: p.committed.map(|next| next.0),
            durable: p.begun.then_some(p.durable.0),
            fetched: p.begun.then_some(p.fetched.0),
            end: end.map(|end| end.0),
            message_lag,
            time_lag_ms: unparked_lag_ms.max(parked_age_ms.unwrap_or_default()),
            unparked_lag_ms,
            parked_age_ms,
            in_flight_records: p.in_flight_records as u64,
            in_flight_bytes: p.in_flight_bytes as u64,
            frontier,
            unparked,
        }
    }

    fn end(&self, p: &PartitionView) -> Option<End> {
        self.running.as_ref()?.ends.of(p.at)
    }

    fn shard_name(&self, shard: ShardIx) -> String {
        self.config.shards[usize::from(shard.0)].name.clone()
    }

    /// The oldest record of it that is parked.
    fn parked(&self, p: &PartitionView) -> Option<Frontier> {
        let parked = self.running.iter().flat_map(|running| running.parked.iter().enumerate());
        let oldest = parked.filter_map(|(shard, parked)| Some((ShardIx(shard as u16), parked.oldest(p.at)?)));
        let (shard, oldest) = oldest.min_by_key(|(_, oldest)| oldest.offset)?;
        let blocked_by = self.who_may_block(p, shard, &oldest);
        let OldestParked { offset, timestamp_ms, key, why, dead, attempts, sqlstate, .. } = oldest;
        // No try has said more of one that was parked in passing.
        let sqlstate = sqlstate.or((why == Why::Blocked).then(|| LOCK_NOT_AVAILABLE.to_owned()));
        let text_of = match dead {
            true => "it is a dead letter, and its key waits for a person (forebay dead-letters list)".to_owned(),
            false => why.to_string(),
        };
        Some(Frontier {
            key: key.map(|key| text(&key)),
            shard: Some(self.shard_name(shard)),
            attempt: Some(attempts),
            last: Some(Reason { sqlstate, text: text_of }),
            blocked_by,
            ..bare(offset.0, age_ms(self.now_ms, timestamp_ms), "parked")
        })
    }

    /// Nobody may wait for the lock of a parked record at this moment; who held one in its table when somebody did is known.
    fn who_may_block(&self, p: &PartitionView, shard: ShardIx, oldest: &OldestParked) -> Vec<i32> {
        if oldest.why != Why::Blocked || oldest.dead {
            return Vec::new();
        }
        let table = match &self.config.topics[usize::from(p.at.topic.0)].target {
            Target::Table(table) => Some(table.name.as_str()),
            Target::Handler => None,
        };
        let is_table = |relation: &str| table.is_none_or(|table| relation.rsplit('.').next() == Some(table));
        let of_table = |blocker: &&blocking::Blocker| blocker.relation.as_deref().is_none_or(is_table);
        self.blockers(shard, of_table)
    }

    /// Those of a shard's blockers of which this is true.
    fn blockers(&self, shard: ShardIx, is: impl Fn(&&blocking::Blocker) -> bool) -> Vec<i32> {
        let blockers = self.snapshots[usize::from(shard.0)].iter().flat_map(|snapshot| &snapshot.blockers);
        blockers.filter(is).map(|blocker| blocker.session.pid).collect()
    }

    /// The oldest record that is not durable; where all that is fetched is, what comes next.
    fn unparked(&self, p: &PartitionView) -> Option<Frontier> {
        if let Some(oldest) = &p.oldest {
            return Some(self.oldest(p, oldest));
        }
        if let Some(uncommitted) = self.uncommitted(p) {
            return Some(uncommitted);
        }
        // Nothing that is fetched waits. Since when something has not been fetched is all that is known of its age. One that is yet to
        // be located may be at its end already.
        let end = self.end(p).filter(|end| p.begun && end.end > p.reached())?;
        Some(bare(p.reached().0, millis(self.now.saturating_sub(end.stuck_since?)), "unfetched"))
    }

    /// The oldest record that is durable and not committed.
    fn uncommitted(&self, p: &PartitionView) -> Option<Frontier> {
        let committed = p.committed.unwrap_or(p.start);
        let timestamp_ms = p.uncommitted_ms.filter(|_| p.begun && committed < p.durable)?;
        let shard = p.unconfirmed.map(|shard| self.shard_name(shard));
        Some(Frontier { shard, ..bare(committed.0, age_ms(self.now_ms, timestamp_ms), "uncommitted") })
    }

    fn oldest(&self, p: &PartitionView, oldest: &OldestView) -> Frontier {
        let shard = oldest.place.shard;
        let known = Frontier {
            shard: Some(self.shard_name(shard)),
            lane: oldest.place.lane,
            ..bare(oldest.offset.0, age_ms(self.now_ms, oldest.timestamp_ms), "waiting")
        };
        let worker = match oldest.at {
            Whereabouts::Waiting => return known,
            Whereabouts::Held => return Frontier { place: "held".to_owned(), ..known },
            Whereabouts::Worker(worker) => worker,
        };
        let name = writer_name(&self.config, shard, worker);
        let blocked_by = self.blockers(shard, |blocker| blocker.blocks.contains(&name));
        let known = Frontier { place: "queued".to_owned(), worker: Some(name), blocked_by, ..known };
        let task = &self.tasks[usize::from(shard.0)][usize::from(worker)];
        let at_hand = |of: &&OldestOf| of.partition == p.at.partition && of.offset == oldest.offset;
        match task.oldest.iter().find(at_hand).filter(|_| task.doing != Doing::Idle && task.topic == Some(p.at.topic)) {
            None => known,
            Some(of) => Frontier {
                place: "writing".to_owned(),
                key: of.key.as_deref().map(text),
                attempt: Some(task.attempt),
                last: task.last.clone().map(reason),
                ..known
            },
        }
    }
}

/// As little as is known of any.
fn bare(offset: i64, age_ms: u64, place: &str) -> Frontier {
    Frontier {
        offset,
        key: None,
        age_ms,
        place: place.to_owned(),
        shard: None,
        lane: None,
        worker: None,
        attempt: None,
        last: None,
        blocked_by: Vec::new(),
    }
}
