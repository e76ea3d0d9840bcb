//! What replicas have of a shard's database: asks the primary, and lets stored progress pass once enough of them have it. Kafka's
//! commit follows; rows are applied all the same. Writes nothing.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use postgres::Row;
use postgres::types::Type;

use crate::config::CommitGate;
use crate::sink::Progress;
use crate::sink::fence::Sql;
use crate::state::gate::{Gate, LogPosition};
use crate::state::retry::Trying;
use crate::types::{NextOffset, Token, TopicIx};

/// Behind everything that is committed now; and up to where the `$2`-th best of the replicas `$1` has flushed it, 0 where there are
/// not so many. Of several connections of one name the furthest counts. The last column: whether this role may see where they are.
pub const POSITIONS: Sql = Sql {
    text: "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, coalesce((SELECT \
           pg_wal_lsn_diff(r.flushed, '0/0')::bigint FROM (SELECT max(flush_lsn) AS flushed FROM pg_stat_replication \
           WHERE application_name = ANY ($1) AND flush_lsn IS NOT NULL GROUP BY application_name) r \
           ORDER BY r.flushed DESC OFFSET $2 - 1 LIMIT 1), 0), \
           NOT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = ANY ($1) AND state IS NULL)",
    types: &[Type::TEXT_ARRAY, Type::INT8],
};

/// A tenure of a partition.
type Tenure = (TopicIx, i32, Token);

/// One shard's gate.
pub struct Replicas {
    settings: CommitGate,
    shard: String,
    gate: Gate<Tenure>,
    began: Instant,
    trying: BTreeMap<TopicIx, Trying>,
}

impl Replicas {
    pub fn new(settings: CommitGate, shard: &str) -> Replicas {
        let shard = shard.to_owned();
        Replicas { settings, shard, gate: Gate::default(), began: Instant::now(), trying: BTreeMap::new() }
    }

    /// What [`POSITIONS`] asks about.
    pub fn params(&self) -> (Vec<String>, i64) {
        (self.settings.replicas.clone(), self.settings.replicas_min as i64)
    }

    /// Another connection: its server may have another history.
    pub fn forget(&mut self) {
        self.gate.forget(|_| true);
    }

    /// Of the progress that was stored a moment ago what replicas have, `positions` being asked behind it.
    pub fn pass(
        &mut self,
        (topic, name): (TopicIx, &str),
        asked: &[Progress],
        stored: &[(i32, NextOffset)],
        positions: &Positions,
    ) -> Vec<(i32, NextOffset)> {
        let tenures: HashMap<i32, Token> = asked.iter().map(|p| (p.partition, p.token)).collect();
        // An earlier tenure is not asked for again. Partitions that nobody asks about this time (a revocation's commit is about
        // those that go) keep what they have.
        let is_over = |partition: &i32, token: &Token| tenures.get(partition).is_some_and(|now| now != token);
        self.gate.forget(|(of, partition, token)| *of == topic && is_over(partition, token));
        let mut waits = false;
        let mut pass = |&(partition, progress): &(i32, NextOffset)| {
            let token = *tenures.get(&partition).expect("only what was asked for is answered");
            let passed = self.gate.pass((topic, partition, token), progress, positions.written, positions.confirmed);
            waits |= passed.waits;
            // Nothing lies below 0.
            (partition, passed.progress.unwrap_or(NextOffset(0)))
        };
        let passed = stored.iter().map(&mut pass).collect();
        self.say(topic, name, waits, positions);
        passed
    }

    /// Kafka's commit that stands still must not look like a quiet day.
    fn say(&mut self, topic: TopicIx, name: &str, waits: bool, positions: &Positions) {
        let (shard, now) = (&self.shard, self.began.elapsed());
        let trying = self.trying.entry(topic).or_default();
        if !waits {
            if let Some(lasted) = trying.ended(now) {
                let seconds = lasted.as_secs();
                tracing::info!(
                    shard,
                    topic = name,
                    "shard {shard}, topic {name}: replicas confirm what is stored again, after {seconds} s"
                );
            }
            return;
        }
        let Some(lasted) = trying.failed(now) else { return };
        tracing::warn!(
            shard,
            topic = name,
            "shard {shard}, topic {name}: for {} s {} of the replicas {} have not confirmed what is stored ({}): Kafka's commit \
             stands still, rows are applied all the same",
            lasted.as_secs(),
            self.settings.replicas_min,
            self.settings.replicas.join(", "),
            positions.why()
        );
    }
}

/// What [`POSITIONS`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    written: LogPosition,
    confirmed: LogPosition,
    may_see: bool,
}

impl Positions {
    pub fn new(row: &Row) -> Positions {
        Positions { written: LogPosition(row.get(0)), confirmed: LogPosition(row.get(1)), may_see: row.get(2) }
    }

    /// Whether enough replicas are there, for all that this role sees.
    pub fn are_known(&self) -> bool {
        self.confirmed > LogPosition(0)
    }

    /// Why nothing is confirmed.
    pub fn why(&self) -> &'static str {
        match (self.may_see, self.are_known()) {
            (false, _) => "the role may not see where they are: GRANT pg_monitor TO it",
            (true, false) => "too few of them are connected",
            (true, true) => "they are behind",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of progress that was stored by this tenure, up to `confirmed` of a log that ends at 100.
    fn pass(replicas: &mut Replicas, token: i64, stored: &[(i32, i64)], confirmed: i64) -> Vec<(i32, i64)> {
        let stored: Vec<_> = stored.iter().map(|(partition, next)| (*partition, NextOffset(*next))).collect();
        let progress = |(partition, done): &(i32, NextOffset)| Progress {
            partition: *partition,
            token: Token(token),
            done: *done,
            fences: Vec::new(),
        };
        let asked: Vec<Progress> = stored.iter().map(progress).collect();
        let positions = Positions { written: LogPosition(100), confirmed: LogPosition(confirmed), may_see: true };
        let passed = replicas.pass((TopicIx(0), "t"), &asked, &stored, &positions);
        passed.into_iter().map(|(partition, next)| (partition, next.0)).collect()
    }

    /// Once a revocation's commit, which asks only about the partitions that go, made the others begin from nothing.
    #[test]
    fn partitions_that_are_not_asked_about_keep_what_was_confirmed() {
        let mut replicas = Replicas::new(CommitGate { replicas: vec!["r".to_owned()], replicas_min: 1 }, "s");
        assert_eq!(pass(&mut replicas, 1, &[(0, 10), (1, 10)], 100), [(0, 10), (1, 10)]);
        assert_eq!(pass(&mut replicas, 1, &[(1, 20)], 0), [(1, 10)]);
        assert_eq!(pass(&mut replicas, 1, &[(0, 20)], 0), [(0, 10)]);
        // Another tenure may stand before what an earlier one had.
        assert_eq!(pass(&mut replicas, 2, &[(1, 5)], 0), [(1, 0)]);
        assert_eq!(pass(&mut replicas, 1, &[(1, 20)], 0), [(1, 0)], "what is over is forgotten");
    }
}
