//! The fence protocol's statements. They make each record's effect happen exactly once, whatever crashes, hangs or is
//! answered too late. This module holds SQL and nothing else: `postgres` sends it; what the engine makes of the answers, the
//! other half of the protocol, is in [`rules`](crate::engine::rules).
//!
//! # The tables
//! For each partition a shard keeps one *anchor* (`forebay.partition`) and one *fence* per lane (`forebay.fence`). A fence
//! says: every record of this lane below `next_offset` is durable here. A worker moves the fences of its batch in the
//! transaction that writes the rows, so rows and fences survive together or are lost together. The anchor holds `origin`
//! (where this shard began), `done` (the stored progress: every record of this shard below it is durable) and the token of
//! the present owner; the fences repeat that token.
//!
//! # The rules, and what breaks without each
//! - **A token is 64 random bits, new at every takeover.** With a counter, a database that falls back to an earlier state
//!   hands the same number to a second owner, and both write.
//! - **A takeover marks the anchor first.** All takeovers of a partition queue up at that row; the later one sees all of
//!   the earlier one's work.
//! - **Then, in a statement of its own, it locks and reads the fences.** Their lock waits for transactions of the previous
//!   owner that are still in flight. Each statement under READ COMMITTED sees the state at its own start: read in the
//!   statement that marks the anchor, the fences would come from before the wait, and a record that was just written would be
//!   written again. Fences are locked in lane order, as the workers do, so that the two cannot wait for each other.
//! - **Only a takeover creates or deletes fences.** A worker that inserted a missing one would bring back a fence that a
//!   fallen-back database no longer has, at a place that its rows never reached, or write as nobody's owner.
//! - **The number of lanes changes only while no fence lies beyond `done`.** A fence beyond it says that *some* records above
//!   `done` are written; with other lanes, nobody could say which. With all fences at or below `done` nothing above it is
//!   written, and the new lanes begin at `done`.
//! - **A worker's transaction first locks its fences, then counts them, and moves them only if all match** token and
//!   `next_offset`. An ordinary conditional update would move lane 0's fence when lane 1's does not match, and lane 0's
//!   rows, which belong to the same statement, would be skipped for ever.
//! - **`done` is raised only where the token is ours and every fence is at least where we believe it to be.** Unverified, a
//!   database that fell back is told that records are durable that it lost, Kafka's commit passes them, and nothing brings
//!   them back. The same statement, sent while nothing moves, is what discovers such a fall behind a pooler.
//! - **After a mismatch or a lost answer the fences are read again**, with a plain read; the table in
//!   [`rules`](crate::engine::rules) says what follows.
//!
//! Workers look for their fences where they moved them last ([`place`](super::place)), and where they are not there, by their keys:
//! only that says that they are another's, or elsewhere.
//!
//! Everything here relies on READ COMMITTED; `connect` refuses a session that works otherwise. `source` is the small number
//! of (group, topic) in `forebay.source`.

use postgres::types::Type;

/// A statement and the types of its parameters.
pub struct Sql {
    pub text: &'static str,
    pub types: &'static [Type],
}

/// A topic's number and identity. $1 group, $2 topic.
pub const SOURCE: Sql = Sql {
    text: "SELECT id, cluster_id, topic_id FROM forebay.source WHERE grp = $1 AND topic = $2",
    types: &[Type::TEXT, Type::TEXT],
};

/// Registers a topic where nobody did. $1 group, $2 topic, $3 cluster id, $4 topic id.
pub const REGISTER: Sql = Sql {
    text: "INSERT INTO forebay.source (grp, topic, cluster_id, topic_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    types: &[Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT],
};

/// The broker did not know topic ids when the topic was registered, and does now. $1 source, $2 topic id.
pub const LEARN_TOPIC_ID: Sql = Sql {
    text: "UPDATE forebay.source SET topic_id = $2 WHERE id = $1 AND topic_id IS NULL",
    types: &[Type::INT4, Type::TEXT],
};

/// Where the shard stands. $1 source, $2 partitions.
pub const LOCATE: Sql = Sql {
    text: "SELECT partition, origin, done FROM forebay.partition WHERE source = $1 AND partition = ANY ($2::int[])",
    types: &[Type::INT4, Type::INT4_ARRAY],
};

/// Takeover 0: keeps `forebay fences reset` from deleting the topic meanwhile. $1 source. Does not wait for other takeovers.
pub const HOLD_SOURCE: Sql =
    Sql { text: "SELECT 1 FROM forebay.source WHERE id = $1 FOR KEY SHARE", types: &[Type::INT4] };

/// Takeover 1: creates or marks the anchor, behind every other takeover of this partition. $1 source, $2 partition, $3 lanes,
/// $4 token, $5 where to begin if nobody did, $6 who we are. A row that was inserted has no xmax.
pub const ANCHOR: Sql = Sql {
    text: "\
INSERT INTO forebay.partition AS p (source, partition, lanes, token, origin, done, taken_by) VALUES ($1, $2, $3, $4, $5, $5, $6) \
ON CONFLICT (source, partition) DO UPDATE SET token = EXCLUDED.token, taken_by = EXCLUDED.taken_by, taken_at = now() \
RETURNING p.lanes, p.origin, p.done, (xmax = 0) AS created",
    types: &[Type::INT4, Type::INT4, Type::INT2, Type::INT8, Type::INT8, Type::TEXT],
};

/// Takeover 2: waits for the previous owner's transactions in flight. $1 source, $2 partition.
pub const LOCK_FENCES: Sql = Sql {
    text: "\
SELECT lane, next_offset FROM forebay.fence WHERE source = $1 AND partition = $2 ORDER BY lane FOR NO KEY UPDATE",
    types: &[Type::INT4, Type::INT4],
};

/// Takeover 3, for a new anchor or other lanes. $1 source, $2 partition, $3 lanes, $4 where they begin, $5 token.
pub const MAKE_FENCES: Sql = Sql {
    text: "\
INSERT INTO forebay.fence (source, partition, lane, next_offset, token) \
SELECT $1::int, $2::int, l, $4::bigint, $5::bigint FROM generate_series(0, $3::smallint - 1) l",
    types: &[Type::INT4, Type::INT4, Type::INT2, Type::INT8, Type::INT8],
};

/// Takeover 3, for other lanes: before `MAKE_FENCES`. $1 source, $2 partition.
pub const DROP_FENCES: Sql =
    Sql { text: "DELETE FROM forebay.fence WHERE source = $1 AND partition = $2", types: &[Type::INT4, Type::INT4] };

/// Takeover 3, for other lanes: after `MAKE_FENCES`. $1 source, $2 partition, $3 lanes.
pub const SET_LANES: Sql = Sql {
    text: "UPDATE forebay.partition SET lanes = $3 WHERE source = $1 AND partition = $2",
    types: &[Type::INT4, Type::INT4, Type::INT2],
};

/// Takeover 3, otherwise: the fences become ours. $1 source, $2 partition, $3 token.
pub const MARK_FENCES: Sql = Sql {
    text: "UPDATE forebay.fence SET token = $3 WHERE source = $1 AND partition = $2",
    types: &[Type::INT4, Type::INT4, Type::INT8],
};

/// The fences of some lanes as they are. $1 source, $2 partitions, $3 lanes.
pub const REREAD: Sql = Sql {
    text: "\
SELECT f.partition, f.lane, f.next_offset, f.token FROM forebay.fence f \
JOIN UNNEST($2::int[], $3::smallint[]) AS u(p, l) ON f.source = $1 AND f.partition = u.p AND f.lane = u.l",
    types: &[Type::INT4, Type::INT4_ARRAY, Type::INT2_ARRAY],
};

/// Raises the stored progress of many partitions at once. $1 source; $2..$4 partition, token, done; $5..$8 every fence we
/// believe in: partition, lane, next offset, and the partition's token again. A partition that does not come back has another
/// owner or fell back. The fences are compared once for all partitions: asked per partition, PostgreSQL reads the whole list
/// for each of them, which takes more than half a second for 600.
pub const PROGRESS: Sql = Sql {
    text: "\
WITH bad AS MATERIALIZED (\
SELECT DISTINCT e.p FROM UNNEST($5::int[], $6::smallint[], $7::bigint[], $8::bigint[]) AS e(p, l, n, t) \
LEFT JOIN forebay.fence f ON f.source = $1 AND f.partition = e.p AND f.lane = e.l AND f.token = e.t \
WHERE f.next_offset IS NULL OR f.next_offset < e.n) \
UPDATE forebay.partition p SET done = greatest(p.done, u.done) FROM UNNEST($2::int[], $3::bigint[], $4::bigint[]) AS u(p, t, done) \
WHERE p.source = $1 AND p.partition = u.p AND p.token = u.t AND u.p NOT IN (SELECT bad.p FROM bad) RETURNING p.partition, p.done",
    types: &[
        Type::INT4,
        Type::INT4_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::INT4_ARRAY,
        Type::INT2_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
    ],
};

/// How many parameters [`batch`] takes before those of the rows.
pub const BATCH_PARAMS: usize = 7;

/// What a statement that writes rows in the same breath must be conditional on.
pub const CONDITION: &str = "(SELECT ok FROM ok)";

/// How a worker's statement finds its fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    ByKey,
    /// At the places where they were last, with the same key, token and offset; what was moved since is not there. Both parts of
    /// the statement look at the places that were given, so that they see the same versions, or wait for the same successors.
    ByPlace,
}

/// A worker's statement: moves fences, all or nothing; together with `others`, statements conditional on [`CONDITION`] with
/// their parameters from $8 on, it is a whole transaction in one round trip. $1 source; $2..$7 partition, lane, token,
/// expected, new, place (not looked at where they are found by key), in (partition, lane) order. Answers one row: whether
/// everything happened or nothing; where the fences lie now. That all fences that were locked also moved is made sure of: a
/// setting that nobody has is no answer, and undoes everything.
pub fn batch(found: Found, others: &[&str]) -> String {
    let others: String = others.iter().enumerate().map(|(n, sql)| format!(", t{n} AS ({sql})")).collect();
    let these = match found {
        Found::ByKey => "f.source = $1 AND f.partition = u.p AND f.lane = u.l",
        // Sums keep the index out of it, whose cost the planner thinks little of: it knows of one version of each.
        Found::ByPlace => "f.ctid = u.c AND f.source + 0 = $1 AND f.partition + 0 = u.p AND f.lane + 0 = u.l",
    };
    format!(
        "WITH l AS MATERIALIZED (SELECT 1 FROM forebay.fence f JOIN UNNEST($2, $3, $4, $5, $7) AS u(p, l, t, o, c) \
         ON {these} WHERE f.token = u.t AND f.next_offset = u.o \
         ORDER BY f.partition, f.lane FOR NO KEY UPDATE OF f), \
         ok AS MATERIALIZED (SELECT count(*) = cardinality($2) AS ok FROM l), \
         f AS (UPDATE forebay.fence f SET next_offset = u.n FROM UNNEST($2, $3, $6, $7) AS u(p, l, n, c) \
         WHERE {these} AND {CONDITION} \
         RETURNING f.partition AS p, f.lane AS l, f.ctid AS c){others} \
         SELECT CASE WHEN ok.ok AND moved.n <> cardinality($2) THEN current_setting('forebay.fences_did_not_move')::bool \
         ELSE ok.ok END, moved.places \
         FROM ok, (SELECT count(*) AS n, array_agg(f.c ORDER BY f.p, f.l) AS places FROM f) AS moved"
    )
}

/// The types of [`batch`]'s own parameters.
pub fn batch_types() -> [Type; BATCH_PARAMS] {
    [
        Type::INT4,
        Type::INT4_ARRAY,
        Type::INT2_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::TID_ARRAY,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_behind_the_fences() {
        for found in [Found::ByKey, Found::ByPlace] {
            let sql = batch(found, &["INSERT INTO t SELECT 1 WHERE (SELECT ok FROM ok)"]);
            assert!(sql.find("FOR NO KEY UPDATE") < sql.find("INSERT INTO t"));
            assert!(!batch(found, &[]).contains("t0 AS ("));
            assert_eq!(sql.matches("f.ctid = u.c").count(), if found == Found::ByPlace { 2 } else { 0 });
        }
    }
}
