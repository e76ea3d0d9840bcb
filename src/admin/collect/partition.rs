//! A partition's part of the status: how far it is, and who holds it up.

use crate::admin::status::{Frontier, Partition};
use crate::config::Target;
use crate::engine::observed::{Doing, OldestOf, OldestView, PartitionView, Whereabouts};
use crate::sink::{OldestParked, Reason};
use crate::state::blocking;
use crate::state::parked::Why;
use crate::types::{NextOffset, ShardIx};

use super::look::Look;
use super::words::{age_ms, millis, reason, text, writer_name};

impl Look<'_> {
    pub(super) fn partition(&self, p: &PartitionView) -> Partition {
        let end = self.observer.end(p.at);
        let log_end = end.map(|end| end.end).or((p.end > NextOffset(0)).then_some(p.end));
        let committed = p.committed.or((p.phase == "running").then_some(p.start));
        let message_lag =
            log_end.zip(committed).map(|(end, committed)| end.0.saturating_sub(committed.0).max(0) as u64);
        let (frontier, unparked) = self.frontier(p);
        let ages = frontier.iter().chain(&unparked).map(|frontier| frontier.age_ms);
        let is_parked = |frontier: &&Frontier| frontier.place == "parked";
        let parked_age_ms = frontier.iter().find(is_parked).map(|frontier| frontier.age_ms);
        let unparked_lag_ms = frontier.iter().chain(&unparked).find(|f| !is_parked(f)).map(|f| f.age_ms);
        Partition {
            topic: self.config.topics[usize::from(p.at.topic.0)].name.clone(),
            partition: p.at.partition,
            state: p.phase.to_owned(),
            paused: p.paused,
            committed: p.committed.map(|next| next.0),
            durable: Some(p.durable.0),
            fetched: Some(p.fetched.0),
            end: log_end.map(|end| end.0),
            message_lag,
            time_lag_ms: ages.max().unwrap_or_default(),
            unparked_lag_ms: unparked_lag_ms.unwrap_or_default(),
            parked_age_ms,
            in_flight_records: p.in_flight_records as u64,
            in_flight_bytes: p.in_flight_bytes as u64,
            frontier,
            unparked,
        }
    }

    /// What holds a partition up; and, where that is parked, what does beside it.
    fn frontier(&self, p: &PartitionView) -> (Option<Frontier>, Option<Frontier>) {
        let running = self.running.as_ref();
        let parked = running.into_iter().flat_map(|running| running.parked.iter().enumerate());
        let parked = parked.filter_map(|(shard, parked)| Some((ShardIx(shard as u16), parked.oldest(p.at)?)));
        let parked = parked.min_by_key(|(_, oldest)| oldest.offset);
        let parked = parked.map(|(shard, oldest)| self.parked_frontier(p, shard, oldest));
        let unparked = self.unparked(p);
        match (parked, unparked) {
            (Some(parked), Some(unparked)) if unparked.offset < parked.offset => (Some(unparked), None),
            (Some(parked), unparked) => (Some(parked), unparked),
            (None, unparked) => (unparked, None),
        }
    }

    fn parked_frontier(&self, p: &PartitionView, shard: ShardIx, oldest: OldestParked) -> Frontier {
        let OldestParked { offset, timestamp_ms, key, why, attempts, last, .. } = oldest;
        let topic = &self.config.topics[usize::from(p.at.topic.0)];
        let table = match &topic.target {
            Target::Table(table) => Some(table.name.as_str()),
            Target::Handler => None,
        };
        // Nobody may wait for the lock at this moment; who held it when somebody did is known.
        let blockers = self.snapshots[usize::from(shard.0)].iter().flat_map(|snapshot| &snapshot.blockers);
        let is_table = |relation: &str| table.is_none_or(|table| relation.rsplit('.').next() == Some(table));
        let of_table = |blocker: &&blocking::Blocker| blocker.relation.as_deref().is_none_or(is_table);
        Frontier {
            offset: offset.0,
            key: key.map(|key| text(&key)),
            age_ms: age_ms(self.now_ms, timestamp_ms),
            place: "parked".to_owned(),
            shard: Some(self.config.shards[usize::from(shard.0)].name.clone()),
            lane: None,
            worker: None,
            attempt: Some(attempts),
            last: last.or_else(|| Some(parked_for(why))).map(reason),
            blocked_by: blockers.filter(of_table).map(|blocker| blocker.session.pid).collect(),
        }
    }

    fn unparked(&self, p: &PartitionView) -> Option<Frontier> {
        let committed = p.committed.unwrap_or(p.start);
        let bare = |offset: i64, age_ms: u64, place: &str| Frontier {
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
        };
        if let Some(timestamp_ms) = p.uncommitted_ms.filter(|_| committed < p.durable) {
            return Some(bare(committed.0, age_ms(self.now_ms, timestamp_ms), "uncommitted"));
        }
        if let Some(oldest) = &p.oldest {
            return Some(self.oldest(p, oldest, bare(oldest.offset.0, 0, "waiting")));
        }
        // Nothing that is fetched waits. Since when something has not been fetched is all that is known of its age.
        let end = self.observer.end(p.at).filter(|end| end.end > p.reached())?;
        let since = end.stuck_since?;
        Some(bare(p.reached().0, millis(self.now.saturating_sub(since)), "unfetched"))
    }

    fn oldest(&self, p: &PartitionView, oldest: &OldestView, bare: Frontier) -> Frontier {
        let shard = oldest.place.shard;
        let known = Frontier {
            age_ms: age_ms(self.now_ms, oldest.timestamp_ms),
            shard: Some(self.config.shards[usize::from(shard.0)].name.clone()),
            lane: oldest.place.lane,
            ..bare
        };
        let worker = match oldest.at {
            Whereabouts::Waiting => return known,
            Whereabouts::Held => return Frontier { place: "held".to_owned(), ..known },
            Whereabouts::Worker(worker) => worker,
        };
        let name = writer_name(&self.config, shard, worker);
        let blockers = self.snapshots[usize::from(shard.0)].iter().flat_map(|snapshot| &snapshot.blockers);
        let blocked_by: Vec<i32> =
            blockers.filter(|b| b.blocks.contains(&name)).map(|blocker| blocker.session.pid).collect();
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

/// Why a key is parked of which no try has said more.
fn parked_for(why: Why) -> Reason {
    let sqlstate = (why == Why::Blocked).then(|| LOCK_NOT_AVAILABLE.to_owned());
    Reason { sqlstate, ..Reason::new(why.to_string()) }
}

/// What a lock that could not be had in time is called.
const LOCK_NOT_AVAILABLE: &str = "55P03";
