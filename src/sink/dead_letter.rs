//! Dead letters: records that cannot be applied, kept whole in `forebay.dead_letter` of their shard by the transaction that
//! moves their fences. So each is there exactly once, and never one that a retry applied after all.

use std::ops::Range;

use postgres::types::{ToSql, Type};

use crate::config::Config;
use crate::sink::{BadRecord, Reason};
use crate::state::batch::Batch;
use crate::types::TopicIx;

/// How many parameters [`sql`] takes.
pub const PARAMS: usize = 11;

/// Inserts letters, where the SQL expression `condition` holds. From `$first` on: source, group, topic; per letter: partition,
/// offset, timestamp (ms), SQLSTATE, error, key, payload, headers. A record that is read again after `forebay fences reset`,
/// and fails again, takes its former letter's place, and is forwarded again.
pub fn sql(first: usize, condition: Option<&str>) -> String {
    let p = |place: usize| format!("${}", first + place);
    let arrays: Vec<String> = (3..PARAMS).map(p).collect();
    let condition = condition.map(|c| format!(" WHERE {c}")).unwrap_or_default();
    format!(
        "INSERT INTO forebay.dead_letter AS d (source, grp, topic, partition, \"offset\", ts, sqlstate, error, key, payload, \
         headers) SELECT {}, {}, {}, u.p, u.o, to_timestamp(u.ts::float8 / 1000), u.code, u.error, u.key, u.payload, u.headers \
         FROM UNNEST({}) AS u(p, o, ts, code, error, key, payload, headers){condition} \
         ON CONFLICT (source, partition, \"offset\") DO UPDATE SET at = now(), ts = EXCLUDED.ts, sqlstate = EXCLUDED.sqlstate, \
         error = EXCLUDED.error, resolution = NULL, forwarded_at = NULL, forward_error = NULL, key = EXCLUDED.key, payload = EXCLUDED.payload, headers = EXCLUDED.headers",
        p(0),
        p(1),
        p(2),
        arrays.join(", ")
    )
}

/// The types of [`sql`]'s parameters.
pub fn types() -> [Type; PARAMS] {
    [
        Type::INT4,
        Type::TEXT,
        Type::TEXT,
        Type::INT4_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
    ]
}

/// Letters that one statement takes, in bytes of their records: a message of the protocol ends at 1 GiB.
const STATEMENT_BYTES_MAX: usize = 64 << 20;

/// Whose letters they are.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// The topic's number in `forebay.source`.
    pub source: i32,
    pub group: &'a str,
    pub topic: &'a str,
}

impl<'a> Of<'a> {
    pub fn new(source: i32, config: &'a Config, topic: TopicIx) -> Of<'a> {
        Of { source, group: &config.kafka.group_id, topic: &config.topics[usize::from(topic.0)].name }
    }
}

/// Letters as one statement's parameters.
pub struct Letters<'a> {
    of: Of<'a>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    timestamps: Vec<Option<i64>>,
    codes: Vec<Option<&'a str>>,
    errors: Vec<String>,
    keys: Vec<Option<&'a [u8]>>,
    payloads: Vec<Option<&'a [u8]>>,
    headers: Vec<Option<&'a [u8]>>,
}

impl<'a> Letters<'a> {
    /// In as few as a statement's size allows.
    pub fn new(of: Of<'a>, batch: &'a Batch, bad: &'a [BadRecord]) -> Vec<Letters<'a>> {
        let pieces = pieces(bad, |b| batch.record(b.index).bytes());
        pieces.into_iter().map(|piece| Letters::piece(of, batch, &bad[piece])).collect()
    }

    fn piece(of: Of<'a>, batch: &'a Batch, bad: &'a [BadRecord]) -> Letters<'a> {
        let records = || bad.iter().map(|b| batch.record(b.index));
        Letters {
            of,
            partitions: records().map(|r| r.partition).collect(),
            offsets: records().map(|r| r.offset.0).collect(),
            timestamps: records().map(|r| timestamp(r.timestamp_ms)).collect(),
            codes: bad.iter().map(|b| b.reason.sqlstate.as_deref()).collect(),
            errors: bad.iter().map(|b| error_text(&b.reason)).collect(),
            keys: records().map(|r| r.key).collect(),
            payloads: records().map(|r| r.value).collect(),
            headers: records().map(|r| Some(r.headers.0).filter(|h| !h.is_empty())).collect(),
        }
    }

    pub fn params(&self) -> [&(dyn ToSql + Sync); PARAMS] {
        let Of { source, group, topic } = &self.of;
        [
            source,
            group,
            topic,
            &self.partitions,
            &self.offsets,
            &self.timestamps,
            &self.codes,
            &self.errors,
            &self.keys,
            &self.payloads,
            &self.headers,
        ]
    }
}

/// The end of the year 294275: PostgreSQL's timestamps reach a little further.
const TIMESTAMP_MS_MAX: i64 = 9_224_286_393_600_000;

/// A record's time as a table takes it: none where the broker gave none, or where its producer meant something else than
/// milliseconds.
pub fn timestamp(ms: i64) -> Option<i64> {
    (0..=TIMESTAMP_MS_MAX).contains(&ms).then_some(ms)
}

/// What went wrong, as a table takes it: whole, beside the record itself. A handler's own words may hold anything, PostgreSQL's text
/// holds no NUL.
pub fn error_text(reason: &Reason) -> String {
    match &reason.theirs {
        Some(theirs) => plain(&format!("{}: {theirs}", reason.text)),
        None => plain(&reason.text),
    }
}

pub fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Cuts what is kept of records so that no piece of several is larger than a statement may be.
pub fn pieces<T>(records: &[T], bytes: impl Fn(&T) -> usize) -> Vec<Range<usize>> {
    let (mut pieces, mut from, mut held) = (Vec::new(), 0, 0);
    for (at, each) in records.iter().enumerate() {
        let size = bytes(each);
        if at > from && held + size > STATEMENT_BYTES_MAX {
            pieces.push(from..at);
            (from, held) = (at, 0);
        }
        held += size;
    }
    if from < records.len() {
        pieces.push(from..records.len());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_letters_go_in_several_statements() {
        let bad: Vec<BadRecord> = (0..5).map(|index| BadRecord { index, reason: Reason::new("") }).collect();
        let sizes = [10, STATEMENT_BYTES_MAX, STATEMENT_BYTES_MAX / 2, STATEMENT_BYTES_MAX / 2, 1];
        assert_eq!(pieces(&bad, |b| sizes[b.index]), [0..1, 1..2, 2..4, 4..5]);
        assert!(pieces(&[] as &[BadRecord], |_| 1).is_empty());
    }
}
