//! A shard's part of the status: whether it is there, what its writes wait for, and what its workers are at.

use std::time::Duration;

use crate::admin::status::{self, Blocker, Connections, Contention, Shard, TableHealth, Wait, Wal, Worker};
use crate::config::Config;
use crate::engine::observed::{Doing, Task};
use crate::sink::Reason;
use crate::state::blocking;
use crate::state::contention::{self, Snapshot};
use crate::state::pace::{Active, Said};
use crate::state::verdict::{Ours, Verdict, verdict};
use crate::types::{ShardIx, TopicIx};

use super::look::Look;
use super::words::{millis, reason, unanswered, writer_name};

impl Look<'_> {
    pub(super) fn shard(&self, index: ShardIx) -> Shard {
        let at = usize::from(index.0);
        let config = &self.config.shards[at];
        let view = self.view.shards.get(at);
        let trouble = view.and_then(|shard| shard.trouble.clone());
        let barred = self.running.as_ref().is_some_and(|running| running.gates[at].is_open());
        let snapshot = self.snapshots[at].as_ref();
        let state = match &trouble {
            Some(trouble) if trouble.refused => "refused",
            _ if barred => "down",
            _ if snapshot.is_some() || view.is_some_and(|shard| shard.reached) => "up",
            _ => "unknown",
        };
        // What one connection met is no trouble of the shard's while its breaker is closed.
        let mut trouble = trouble.filter(|_| state != "up");
        let probing = self.running.as_ref().and_then(|running| running.gates[at].probing());
        if let Some((trouble, since)) = trouble.as_mut().zip(probing) {
            unanswered(&mut trouble.reason, since);
        }
        let well_since = view.map_or(Duration::ZERO, |shard| shard.well_since);
        let since = trouble.as_ref().map_or(well_since, |trouble| trouble.since);
        let pace = self.pace(index);
        let queued: Vec<usize> = view.map(|shard| shard.queued.clone()).unwrap_or_default();
        let Verdict { kind, text } = self.verdict(index, state, trouble.as_ref().map(|t| &t.reason), &pace, &queued);
        let sizes = self.running.as_ref().map(|running| running.parked[at].size()).unwrap_or_default();
        Shard {
            name: config.name.clone(),
            state: state.to_owned(),
            since_ms: millis(self.now.saturating_sub(since)),
            reason: trouble.map(|trouble| reason(trouble.reason)),
            verdict: status::Verdict { kind: kind.name().to_owned(), text },
            connections: connections(&self.config, snapshot),
            pace,
            parked_keys: sizes.0 as u64,
            parked_records: sizes.1,
            contention: snapshot.map(seen),
            workers: self.workers(index, barred, &queued),
        }
    }

    fn verdict(
        &self,
        index: ShardIx,
        state: &str,
        trouble: Option<&Reason>,
        pace: &status::Pace,
        queued: &[usize],
    ) -> Verdict {
        let at = usize::from(index.0);
        let workers = self.config.engine.workers_per_shard;
        let busy = &self.rates.busy[at][..workers.min(self.rates.busy[at].len())];
        let why = trouble.map_or("its breaker is open".to_owned(), ToString::to_string);
        let records_max = self.config.engine.batch_records_max;
        let ours = Ours {
            busy,
            queued: queued.iter().sum::<usize>() > records_max,
            paced: pace.active.first().map(String::as_str),
            down: matches!(state, "down" | "refused").then_some(why.as_str()),
        };
        verdict(self.snapshots[at].as_ref(), &ours)
    }

    fn pace(&self, index: ShardIx) -> status::Pace {
        let status = self.observer.pace(index);
        let topic = |topic: TopicIx| self.config.topics[usize::from(topic.0)].name.as_str();
        let words = |active: &Active| Said::Holds(active.limit).text(&status, topic);
        status::Pace {
            active: status.active.iter().map(words).collect(),
            replica_lag_ms: status.replica_lag.map(millis),
        }
    }

    fn workers(&self, index: ShardIx, barred: bool, queued: &[usize]) -> Vec<Worker> {
        let at = usize::from(index.0);
        let worker = |(writer, task): (usize, &Task)| {
            let idle = task.doing == Doing::Idle;
            let topic = task.topic.filter(|_| !idle);
            Worker {
                name: writer_name(&self.config, index, writer as u16),
                state: if barred && !idle { "barred".to_owned() } else { task.doing.word().to_owned() },
                busy: self.rates.busy[at].get(writer).copied().unwrap_or_default(),
                topic: topic.map(|topic| self.config.topics[usize::from(topic.0)].name.clone()),
                records: if idle { 0 } else { task.records as u64 },
                since_ms: (!idle).then(|| millis(self.now.saturating_sub(task.since))),
                attempt: (!idle).then_some(task.attempt),
                last: task.last.clone().filter(|_| !idle).map(reason),
                queued_records: queued.get(writer).copied().unwrap_or_default() as u64,
            }
        };
        self.tasks[at].iter().enumerate().map(worker).collect()
    }
}

fn connections(config: &Config, snapshot: Option<&Snapshot>) -> Connections {
    let needed = config.engine.writers_per_shard() + config.connections_besides_writers();
    let known = snapshot.and_then(|snapshot| snapshot.connections);
    Connections {
        needed: needed as u32,
        open: known.and_then(|known| known.open),
        server_max: known.map(|known| known.server_max),
        server_used: known.map(|known| known.server_used),
    }
}

fn seen(snapshot: &Snapshot) -> Contention {
    let wait = |wait: &contention::Wait| Wait { kind: wait.kind.clone(), event: wait.event.clone(), share: wait.share };
    let blocker = |blocker: &blocking::Blocker| Blocker {
        pid: blocker.session.pid,
        application: blocker.session.application.clone(),
        user: blocker.session.user.clone(),
        state: blocker.session.state.clone(),
        transaction_age_ms: blocker.session.transaction_age.map(millis),
        query_age_ms: blocker.session.query_age.map(millis),
        command: blocker.session.command.clone(),
        blocks: blocker.blocks.clone(),
        blocked_for_ms: millis(blocker.blocked_for),
        lock: blocker.lock.clone(),
        relation: blocker.relation.clone(),
        ours: blocker.session.ours,
    };
    let table = |table: &contention::TableHealth| TableHealth {
        table: table.table.clone(),
        hot_ratio: table.hot_ratio(),
        live_rows: table.live_rows,
        dead_rows: table.dead_rows,
        last_vacuum_at_ms: table.last_vacuum_at_ms,
    };
    Contention {
        sampled_at_ms: snapshot.sampled_at_ms,
        waits: snapshot.waits.iter().map(wait).collect(),
        blockers: snapshot.blockers.iter().map(blocker).collect(),
        tables: snapshot.tables.iter().map(table).collect(),
        wal: snapshot.wal.map(|wal| Wal {
            bytes_per_s: wal.bytes_per_s,
            checkpoints_timed: wal.checkpoints_timed,
            checkpoints_requested: wal.checkpoints_requested,
        }),
        notes: snapshot.notes.clone(),
    }
}
