//! `forebay.dead_letter` as an outbox, on a connection of its own. A group's processes take turns: who forwards holds an advisory
//! lock of its transaction (the only kind that outlives no transaction behind a pooler), so that letters leave in the order of
//! their ids. Letters that somebody else holds at the moment (a replay) are passed over.

use std::sync::Arc;

use postgres::types::Type;
use postgres::{IsolationLevel, Row, Transaction};

use crate::config::Config;
use crate::forward::{Letter, Outbox, Publish, Verdict};
use crate::sink::Failure;
use crate::sink::backends::Backends;
use crate::sink::fence::Sql;
use crate::sink::session::{Ready, Session, Text, own_failure};
use crate::types::ShardIx;

/// Most letters, and most bytes of their records, that are claimed at once; a larger letter is claimed alone.
const RECORDS_MAX: i64 = 500;
const BYTES_MAX: i64 = 8 << 20;

/// The index `dead_letter_to_forward` holds exactly these.
const DUE: Sql = Sql {
    text: "\
SELECT EXISTS (SELECT 1 FROM forebay.dead_letter d WHERE d.grp = $1 AND d.topic = t.topic \
AND d.forwarded_at IS NULL AND d.forward_error IS NULL AND d.resolution IS NULL) \
FROM UNNEST($2::text[]) WITH ORDINALITY AS t(topic, place) ORDER BY t.place",
    types: &[Type::TEXT, Type::TEXT_ARRAY],
};

const TURN: Sql = Sql {
    text: "SELECT pg_try_advisory_xact_lock(hashtextextended('forebay.dead_letter ' || $1::text, 0))",
    types: &[Type::TEXT],
};

/// Their sizes are known without reading what is stored out of line.
const LOCK: Sql = Sql {
    text: "\
SELECT id, (coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0) + coalesce(octet_length(headers), 0))::bigint \
FROM forebay.dead_letter WHERE grp = $1 AND topic = $2 AND forwarded_at IS NULL AND forward_error IS NULL \
AND resolution IS NULL ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED",
    types: &[Type::TEXT, Type::TEXT, Type::INT8],
};

/// In a statement of its own: its snapshot is younger than the locks, so what is sent is what is marked.
const READ: Sql = Sql {
    text: "\
SELECT id, source, topic, partition, \"offset\", to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
(extract(epoch FROM ts) * 1000)::bigint, sqlstate, error, key, payload, headers \
FROM forebay.dead_letter WHERE id = ANY($1) ORDER BY id",
    types: &[Type::INT8_ARRAY],
};

/// $1 ids; $2 why the topic will never take it, null where it has it.
const MARK: Sql = Sql {
    text: "\
UPDATE forebay.dead_letter AS d SET forward_error = u.error, \
forwarded_at = CASE WHEN u.error IS NULL THEN clock_timestamp() END \
FROM UNNEST($1::bigint[], $2::text[]) AS u(id, error) WHERE d.id = u.id",
    types: &[Type::INT8_ARRAY, Type::TEXT_ARRAY],
};

/// See the module's text.
pub struct PostgresOutbox {
    session: Session<&'static str>,
    group: String,
}

impl PostgresOutbox {
    pub fn new(config: &Config, shard: ShardIx) -> PostgresOutbox {
        PostgresOutbox { session: Session::new(config, shard, "forward"), group: config.kafka.group_id.clone() }
    }

    /// Tells which of the server's processes serves it.
    pub fn known_to(mut self, backends: &Arc<Backends>) -> PostgresOutbox {
        self.session.known_to(backends);
        self
    }

    /// Before a transaction begins, so that it takes its own round trips only.
    fn ready(&mut self, sql: &Sql) -> Result<Ready, Failure> {
        let (live, _) = self.session.open()?;
        let make = || Text { sql: sql.text.to_owned(), types: sql.types.to_vec() };
        let statement = live.statements.get(&mut live.client, sql.text, make);
        statement.map_err(|error| own_failure(&error))
    }

    fn ask(&mut self, topics: &[String]) -> Result<Vec<bool>, Failure> {
        let due = self.ready(&DUE)?;
        let (live, _) = self.session.open()?;
        let rows = due.query(&mut live.client, &[&self.group, &topics]).map_err(|error| own_failure(&error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn forward(&mut self, topic: &str, publish: &mut Publish<'_>) -> Result<bool, Failure> {
        let failed = |error: postgres::Error| own_failure(&error);
        let statements = Statements {
            turn: self.ready(&TURN)?,
            lock: self.ready(&LOCK)?,
            read: self.ready(&READ)?,
            mark: self.ready(&MARK)?,
        };
        let (live, _) = self.session.open()?;
        let begin = live.client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let mut transaction = begin.start().map_err(failed)?;
        let mine: bool = statements.turn.query_one(&mut transaction, &[&self.group]).map_err(failed)?.get(0);
        if !mine {
            return Ok(false);
        }
        let letters = claim(&mut transaction, &statements, &self.group, topic).map_err(failed)?;
        if !letters.is_empty() {
            let verdicts = publish(&letters);
            mark(&mut transaction, &statements, &letters, &verdicts).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(true)
    }
}

impl Outbox for PostgresOutbox {
    fn due(&mut self, topics: &[String]) -> Result<Vec<bool>, Failure> {
        let result = self.ask(topics);
        self.session.settle(result)
    }

    fn claim(&mut self, topic: &str, publish: &mut Publish<'_>) -> Result<bool, Failure> {
        let result = self.forward(topic, publish);
        self.session.settle(result)
    }
}

struct Statements {
    turn: Ready,
    lock: Ready,
    read: Ready,
    mark: Ready,
}

fn claim(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    group: &str,
    topic: &str,
) -> Result<Vec<Letter>, postgres::Error> {
    let locked = statements.lock.query(transaction, &[&group, &topic, &RECORDS_MAX])?;
    let locked: Vec<(i64, i64)> = locked.iter().map(|row| (row.get(0), row.get(1))).collect();
    let ids = fitting(&locked);
    Ok(statements.read.query(transaction, &[&ids])?.iter().map(letter).collect())
}

/// The first letters (id, bytes), as many as fit; always one.
fn fitting(locked: &[(i64, i64)]) -> Vec<i64> {
    let mut before = 0;
    let fits = |(_, bytes): &&(i64, i64)| {
        let first = before == 0;
        before += bytes.max(&1);
        first || before <= BYTES_MAX
    };
    locked.iter().take_while(fits).map(|(id, _)| *id).collect()
}

fn letter(row: &Row) -> Letter {
    Letter {
        id: row.get(0),
        source: row.get(1),
        topic: row.get(2),
        partition: row.get(3),
        offset: row.get(4),
        at: row.get(5),
        timestamp_ms: row.get(6),
        sqlstate: row.get(7),
        error: row.get(8),
        key: row.get(9),
        payload: row.get(10),
        headers: row.get::<_, Option<Vec<u8>>>(11).unwrap_or_default(),
    }
}

fn mark(
    transaction: &mut Transaction<'_>,
    statements: &Statements,
    letters: &[Letter],
    verdicts: &[Verdict],
) -> Result<(), postgres::Error> {
    assert_eq!(letters.len(), verdicts.len(), "a verdict on every letter");
    let decided = letters.iter().zip(verdicts).filter_map(|(letter, verdict)| match verdict {
        Verdict::Acknowledged => Some((letter.id, None)),
        Verdict::Refused(reason) => Some((letter.id, Some(reason.as_str()))),
        Verdict::NotNow(_) => None,
    });
    let (ids, errors): (Vec<i64>, Vec<Option<&str>>) = decided.unzip();
    if !ids.is_empty() {
        statements.mark.execute(transaction, &[&ids, &errors])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_bounded_in_bytes_but_never_empty() {
        let ids = |sizes: &[i64]| fitting(&sizes.iter().zip(1..).map(|(bytes, id)| (id, *bytes)).collect::<Vec<_>>());
        assert_eq!(ids(&[]), [0; 0]);
        assert_eq!(ids(&[0, 0, 5]), [1, 2, 3]);
        assert_eq!(ids(&[BYTES_MAX + 1, 1]), [1], "too large for a claim, so alone");
        assert_eq!(ids(&[1, BYTES_MAX, 1]), [1], "what is behind a large one keeps its place");
        assert_eq!(ids(&[1, BYTES_MAX - 1, 1]), [1, 2]);
    }
}
