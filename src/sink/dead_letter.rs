//! Dead letters: records that cannot be applied, kept whole in `forebay.dead_letter` of their shard by the transaction that
//! moves their fences. So each is there exactly once, and never one that a retry applied after all.

use std::ops::Range;

use postgres::types::Type;
use postgres::{Error, GenericClient};

use crate::sink::BadRecord;
use crate::state::batch::Batch;

/// $1 source, $2 group, $3 topic; per letter: $4 partition, $5 offset, $6 timestamp (ms), $7 SQLSTATE, $8 error, $9 key,
/// $10 payload, $11 headers. A record that is read again after `forebay fences reset`, and fails again, takes its former letter's place.
pub const INSERT: &str = "\
INSERT INTO forebay.dead_letter AS d (source, grp, topic, partition, \"offset\", ts, sqlstate, error, key, payload, headers) \
SELECT $1, $2, $3, u.p, u.o, to_timestamp(u.ts::float8 / 1000), u.code, u.error, u.key, u.payload, u.headers \
FROM UNNEST($4, $5, $6, $7, $8, $9, $10, $11) AS u(p, o, ts, code, error, key, payload, headers) \
ON CONFLICT (source, partition, \"offset\") DO UPDATE SET at = now(), ts = EXCLUDED.ts, sqlstate = EXCLUDED.sqlstate, \
error = EXCLUDED.error, resolution = NULL, key = EXCLUDED.key, payload = EXCLUDED.payload, headers = EXCLUDED.headers";

pub fn insert_types() -> Vec<Type> {
    vec![
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

/// Inserts them, by the statement [`INSERT`].
pub fn insert(
    client: &mut impl GenericClient,
    statement: &postgres::Statement,
    of: Of<'_>,
    batch: &Batch,
    bad: &[BadRecord],
) -> Result<(), Error> {
    for piece in pieces(bad, |b| batch.record(b.index).bytes()) {
        let bad = &bad[piece];
        let records: Vec<_> = bad.iter().map(|b| batch.record(b.index)).collect();
        let partitions: Vec<i32> = records.iter().map(|r| r.partition).collect();
        let offsets: Vec<i64> = records.iter().map(|r| r.offset.0).collect();
        let timestamps: Vec<Option<i64>> = records.iter().map(|r| Some(r.timestamp_ms).filter(|ms| *ms >= 0)).collect();
        let codes: Vec<Option<&str>> = bad.iter().map(|b| b.reason.sqlstate.as_deref()).collect();
        // A handler's own words may hold anything; PostgreSQL's text holds no NUL.
        let errors: Vec<String> = bad.iter().map(|b| b.reason.text.replace('\0', "\u{fffd}")).collect();
        let keys: Vec<Option<&[u8]>> = records.iter().map(|r| r.key).collect();
        let payloads: Vec<Option<&[u8]>> = records.iter().map(|r| r.value).collect();
        let headers: Vec<Option<&[u8]>> = records.iter().map(|r| Some(r.headers.0).filter(|h| !h.is_empty())).collect();
        client.execute(
            statement,
            &[
                &of.source,
                &of.group,
                &of.topic,
                &partitions,
                &offsets,
                &timestamps,
                &codes,
                &errors,
                &keys,
                &payloads,
                &headers,
            ],
        )?;
    }
    Ok(())
}

/// Cuts the letters so that no piece of several is larger than a statement may be.
fn pieces(bad: &[BadRecord], bytes: impl Fn(&BadRecord) -> usize) -> Vec<Range<usize>> {
    let (mut pieces, mut from, mut held) = (Vec::new(), 0, 0);
    for (at, each) in bad.iter().enumerate() {
        let size = bytes(each);
        if at > from && held + size > STATEMENT_BYTES_MAX {
            pieces.push(from..at);
            (from, held) = (at, 0);
        }
        held += size;
    }
    if from < bad.len() {
        pieces.push(from..bad.len());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Reason;

    #[test]
    fn large_letters_go_in_several_statements() {
        let bad: Vec<BadRecord> = (0..5).map(|index| BadRecord { index, reason: Reason::new("") }).collect();
        let sizes = [10, STATEMENT_BYTES_MAX, STATEMENT_BYTES_MAX / 2, STATEMENT_BYTES_MAX / 2, 1];
        assert_eq!(pieces(&bad, |b| sizes[b.index]), [0..1, 1..2, 2..4, 4..5]);
        assert!(pieces(&[], |_| 1).is_empty());
    }
}
