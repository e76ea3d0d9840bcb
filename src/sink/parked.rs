//! `forebay.parked`: records that wait for their turn. The rules that keep each key in order, and each record applied once:
//!
//! - **A key is parked while it has a row.** Nothing else says so: no marker that could be forgotten. All its later records
//!   follow it there, those that a batch's folding would have merged into others, too.
//! - **Rows are put in by the transaction that moves their fences**, and only under the token of a tenure that read, behind its
//!   locks on the fences and in a statement of its own, what was parked before. So a zombie cannot append, and nobody overtakes.
//! - **A key goes on without a detour when a transaction that moves its lane's fence finds no row of it.** Seen outside of such a
//!   transaction, a database that fell back behind a pooler would bring the rows back and leave the fences as they were.
//! - **The slow lane locks the first row of a key, makes sure that it is the first, and applies and deletes from there in one
//!   transaction,** exactly the rows that are there. Two of them, and zombies, pass each other by (SKIP LOCKED) or find the first
//!   row gone.
//! - **State 'd', a dead letter that blocks its key, exists only at the key's head.** Behind waiting rows a record that is at
//!   fault waits like the others: it may be mended by what comes before it.
//! - **A record without a key parks alone**: its hash is its offset, which no other record looks up.
//!
//! Statements on this table are sent unnamed (`query_typed`): one that was prepared while the table was empty keeps a plan for an
//! empty table. `source` is the topic's number in `forebay.source`.

use std::ops::Range;

use postgres::GenericClient;
use postgres::types::{ToSql, Type};

use crate::sink::fence::Sql;
use crate::sink::session::own_failure;
use crate::sink::{Failure, FreeKey, Reason, dead_letter};
use crate::state::batch::Batch;
use crate::state::chunk::RawRecord;
use crate::state::parked::{Tail, Why};
use crate::state::router::Router;
use crate::types::Offset;

/// How many parameters [`insert`] takes.
pub const PARAMS: usize = 13;

/// Parks records, where the SQL expression `condition` holds. From `$first` on: source; per record: partition, key hash, offset,
/// timestamp (ms), state, reason, SQLSTATE, error, tenant, key, payload, headers. A record that is there stays as it is.
pub fn insert(first: usize, condition: Option<&str>) -> String {
    let arrays: Vec<String> = (1..PARAMS).map(|place| format!("${}", first + place)).collect();
    let condition = condition.map(|c| format!(" WHERE {c}")).unwrap_or_default();
    format!(
        "INSERT INTO forebay.parked (source, partition, key_hash, \"offset\", ts, state, reason, sqlstate, error, attempts, tenant, \
         key, payload, headers) SELECT ${first}, u.p, u.h, u.o, to_timestamp(u.ts::float8 / 1000), u.s, u.r, u.code, u.error, \
         (u.error IS NOT NULL)::int, u.tenant, u.key, u.payload, u.headers \
         FROM UNNEST({}) AS u(p, h, o, ts, s, r, code, error, tenant, key, payload, headers){condition} ON CONFLICT DO NOTHING",
        arrays.join(", ")
    )
}

/// The types of [`insert`]'s parameters.
pub fn insert_types() -> [Type; PARAMS] {
    [
        Type::INT4,
        Type::INT4_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::CHAR_ARRAY,
        Type::CHAR_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
    ]
}

/// Whether none of these keys has a row. $1 source, $2 partitions, $3 hashes.
pub const FREE: &str = "\
SELECT NOT EXISTS (SELECT 1 FROM UNNEST($2, $3) AS u(p, h), LATERAL (SELECT 1 FROM forebay.parked q \
WHERE q.source = $1 AND q.partition = u.p AND q.key_hash = u.h LIMIT 1) AS found)";

/// The keys of a partition that are parked: hash, last offset, rows, reason. $1 source, $2 partition.
pub const SET: &str = "\
SELECT key_hash, max(\"offset\"), count(*), min(reason::text)::\"char\" FROM forebay.parked WHERE source = $1 AND partition = $2 GROUP BY key_hash";

/// Likewise of some keys: partition, hash, last offset, rows, reason. $1 source, $2 partitions, $3 hashes.
pub const OF_KEYS: &str = "\
SELECT u.p, u.h, q.tail, q.rows, q.reason FROM UNNEST($2, $3) AS u(p, h), LATERAL (SELECT max(\"offset\") AS tail, count(*) AS rows, \
min(reason::text)::\"char\" AS reason FROM forebay.parked WHERE source = $1 AND partition = u.p AND key_hash = u.h) AS q WHERE q.rows > 0";

/// The types of the parameters of [`FREE`] and [`OF_KEYS`].
pub const KEYS: [Type; 3] = [Type::INT4, Type::INT4_ARRAY, Type::INT8_ARRAY];

/// The first parked record of each of these partitions: partition, offset, timestamp (ms; when it was parked where it has none, or
/// its producer's clock ran ahead), the key's first bytes, reason, state, attempts, SQLSTATE; not what is written of the error, which
/// may hold values. $1 source, $2 partitions, $3 bytes of the key.
pub const OLDEST: &str = "\
SELECT u.p, q.\"offset\", (extract(epoch FROM least(q.ts, q.parked_at)) * 1000)::bigint, substring(q.key FOR $3), q.reason, q.state, \
q.attempts, q.sqlstate FROM UNNEST($2) AS u(p), LATERAL (SELECT * FROM forebay.parked WHERE source = $1 AND partition = u.p \
ORDER BY \"offset\" LIMIT 1) AS q";

/// What a person has decided about a topic: which version of the topic's row this is ([`TELL`] makes a new one), and, with each
/// hold or once without any, scope and value. $1 source.
pub const DECIDED: Sql = Sql {
    text: "SELECT s.xmin::text::bigint, h.scope, h.value FROM forebay.source s LEFT JOIN forebay.hold h ON h.source = s.id WHERE s.id = $1",
    types: &[Type::INT4],
};

/// Tells the processes at work that something was decided about letters that block their keys, of the sources in `found`: changes
/// nothing but the version of their rows, which [`DECIDED`] shows. A member of a WITH.
pub const TELL: &str = "told AS (UPDATE forebay.source s SET topic = s.topic WHERE s.id IN (SELECT source FROM found))";

/// The first rows of some keys: number of the key, offset, timestamp (ms), state, attempts, key, payload, headers, reason, error.
/// Of a key whose first row is a dead letter that row alone, without what it holds: it is asked for again and again.
/// $1 source, $2 partitions, $3 hashes, $4 rows a key, $5 bytes a key (the row that goes beyond it is the last).
pub const READ: &str = "\
SELECT k.n, q.\"offset\", (extract(epoch FROM q.ts) * 1000)::bigint, q.state, q.attempts, \
CASE q.state WHEN 'w' THEN q.key END, CASE q.state WHEN 'w' THEN q.payload END, CASE q.state WHEN 'w' THEN q.headers END, \
q.reason, CASE q.state WHEN 'w' THEN q.error END \
FROM UNNEST($2, $3) WITH ORDINALITY AS k(p, h, n), LATERAL (\
SELECT f.state FROM forebay.parked f WHERE f.source = $1 AND f.partition = k.p AND f.key_hash = k.h ORDER BY f.\"offset\" LIMIT 1) head, \
LATERAL (SELECT s.*, sum(s.bytes) OVER (ORDER BY s.\"offset\") - s.bytes AS before FROM (\
SELECT r.*, coalesce(octet_length(r.key), 0)::bigint + coalesce(octet_length(r.payload), 0) + coalesce(octet_length(r.headers), 0) AS bytes \
FROM forebay.parked r WHERE r.source = $1 AND r.partition = k.p AND r.key_hash = k.h ORDER BY r.\"offset\" LIMIT CASE head.state WHEN 'd' THEN 1 ELSE $4 END) s) q \
WHERE q.before < $5 ORDER BY k.n, q.\"offset\"";

/// The types of [`READ`]'s parameters.
pub const READ_TYPES: [Type; 5] = [Type::INT4, Type::INT4_ARRAY, Type::INT8_ARRAY, Type::INT8, Type::INT8];

/// Locks these rows, and answers the numbers of those that are locked now and the first of their keys: rows that another slow lane
/// has, has taken out, or that wait for a person are left out; so are rows before which a database that fell back has others again. $1 source, $2 partitions, $3 hashes, $4 offsets.
pub const LOCK_HEADS: &str = "\
SELECT u.n FROM UNNEST($2, $3, $4) WITH ORDINALITY AS u(p, h, o, n) JOIN forebay.parked q \
ON q.source = $1 AND q.partition = u.p AND q.key_hash = u.h AND q.\"offset\" = u.o WHERE q.state = 'w' AND NOT EXISTS (\
SELECT 1 FROM forebay.parked b WHERE b.source = $1 AND b.partition = u.p AND b.key_hash = u.h AND b.\"offset\" < u.o) \
FOR UPDATE OF q SKIP LOCKED";

/// Takes rows out that were applied. Parameters as for [`LOCK_HEADS`].
pub const TAKE_OUT: &str = "\
DELETE FROM forebay.parked q USING UNNEST($2, $3, $4) AS u(p, h, o) \
WHERE q.source = $1 AND q.partition = u.p AND q.key_hash = u.h AND q.\"offset\" = u.o";

/// The types of the parameters of [`LOCK_HEADS`] and [`TAKE_OUT`].
pub const ROWS: [Type; 4] = [Type::INT4, Type::INT4_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY];

/// Notes what was wrong with the first row of some keys. As for [`LOCK_HEADS`], then $5 states, $6 SQLSTATEs, $7 errors.
pub const NOTE: &str = "\
UPDATE forebay.parked q SET state = u.s, sqlstate = u.code, error = u.error, attempts = q.attempts + 1 \
FROM UNNEST($2, $3, $4, $5, $6, $7) AS u(p, h, o, s, code, error) \
WHERE q.source = $1 AND q.partition = u.p AND q.key_hash = u.h AND q.\"offset\" = u.o";

/// The types of [`NOTE`]'s parameters.
pub const NOTE_TYPES: [Type; 7] = [
    Type::INT4,
    Type::INT4_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::CHAR_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
];

/// The reason of a record that follows its key and names no shard: whoever takes it out must not apply it.
pub const UNROUTABLE: i8 = b'u' as i8;

/// A row's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waiting,
    Dead,
}

impl State {
    pub fn letter(self) -> i8 {
        match self {
            State::Waiting => b'w' as i8,
            State::Dead => b'd' as i8,
        }
    }
}

/// A record of the batch that is put into the table.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub index: usize,
    pub why: Why,
    pub state: State,
    /// What is wrong with it, where it was tried.
    pub reason: Option<&'a Reason>,
}

/// Records as one statement's parameters.
pub struct Rows<'a> {
    source: i32,
    partitions: Vec<i32>,
    hashes: Vec<i64>,
    offsets: Vec<i64>,
    timestamps: Vec<Option<i64>>,
    states: Vec<i8>,
    reasons: Vec<i8>,
    codes: Vec<Option<&'a str>>,
    errors: Vec<Option<String>>,
    tenants: Vec<Option<Vec<u8>>>,
    keys: Vec<Option<&'a [u8]>>,
    payloads: Vec<Option<&'a [u8]>>,
    headers: Vec<Option<&'a [u8]>>,
}

impl<'a> Rows<'a> {
    /// In as few as a statement's size allows.
    pub fn new(source: i32, batch: &'a Batch, router: &Router, rows: &[Row<'a>]) -> Vec<Rows<'a>> {
        let pieces = dead_letter::pieces(rows, |row| batch.record(row.index).bytes());
        pieces.into_iter().map(|piece: Range<usize>| Rows::piece(source, batch, router, &rows[piece])).collect()
    }

    fn piece(source: i32, batch: &'a Batch, router: &Router, rows: &[Row<'a>]) -> Rows<'a> {
        let records = || rows.iter().map(|row| batch.record(row.index));
        let unroutable = |row: &Row<'_>| batch.unroutable(row.index);
        let reason = |row: &Row<'_>| unroutable(row).map_or(row.why.letter() as i8, |_| UNROUTABLE);
        let error = |row: &Row<'_>| match unroutable(row) {
            Some(why) => Some(dead_letter::plain(why)),
            None => row.reason.map(dead_letter::error_text),
        };
        let tenant = |record| router.tenant_of(&RawRecord::from(record)).map(|tenant| tenant.into_owned());
        Rows {
            source,
            partitions: records().map(|r| r.partition).collect(),
            hashes: rows.iter().map(|row| batch.meta(row.index).0.hash).collect(),
            offsets: records().map(|r| r.offset.0).collect(),
            timestamps: records().map(|r| dead_letter::timestamp(r.timestamp_ms)).collect(),
            states: rows.iter().map(|row| row.state.letter()).collect(),
            reasons: rows.iter().map(reason).collect(),
            codes: rows.iter().map(|row| row.reason.and_then(|reason| reason.sqlstate.as_deref())).collect(),
            errors: rows.iter().map(error).collect(),
            tenants: records().map(tenant).collect(),
            keys: records().map(|r| r.key).collect(),
            payloads: records().map(|r| r.value).collect(),
            headers: records().map(|r| Some(r.headers.0).filter(|h| !h.is_empty())).collect(),
        }
    }

    pub fn params(&self) -> [&(dyn ToSql + Sync); PARAMS] {
        [
            &self.source,
            &self.partitions,
            &self.hashes,
            &self.offsets,
            &self.timestamps,
            &self.states,
            &self.reasons,
            &self.codes,
            &self.errors,
            &self.tenants,
            &self.keys,
            &self.payloads,
            &self.headers,
        ]
    }
}

/// Whether none of these keys has a row.
pub fn is_free(client: &mut impl GenericClient, source: i32, free: &[FreeKey]) -> Result<bool, Failure> {
    if free.is_empty() {
        return Ok(true);
    }
    let partitions: Vec<i32> = free.iter().map(|key| key.partition).collect();
    let hashes: Vec<i64> = free.iter().map(|key| key.hash).collect();
    let rows = client.query_typed(FREE, &typed(&[&source, &partitions, &hashes], &KEYS));
    Ok(rows.map_err(|error| own_failure(&error))?.first().is_some_and(|row| row.get(0)))
}

/// Puts records in.
pub fn park(
    client: &mut impl GenericClient,
    source: i32,
    batch: &Batch,
    router: &Router,
    rows: &[Row<'_>],
) -> Result<(), Failure> {
    let sql = insert(1, None);
    for piece in Rows::new(source, batch, router, rows) {
        let result = client.query_typed(&sql, &typed(&piece.params(), &insert_types()));
        result.map_err(|error| own_failure(&error))?;
    }
    Ok(())
}

/// A key as [`SET`] and [`OF_KEYS`] answer it, from column `first` on.
pub fn tail(row: &postgres::Row, first: usize) -> Tail {
    Tail {
        hash: row.get(first),
        offset: Offset(row.get(first + 1)),
        rows: row.get::<_, i64>(first + 2) as u64,
        why: Why::of_letter(row.get::<_, i8>(first + 3) as u8 as char),
    }
}

/// Parameters with their types, as an unnamed statement takes them.
pub fn typed<'p>(params: &[&'p (dyn ToSql + Sync)], types: &[Type]) -> Vec<(&'p (dyn ToSql + Sync), Type)> {
    debug_assert_eq!(params.len(), types.len());
    params.iter().copied().zip(types.iter().cloned()).collect()
}
