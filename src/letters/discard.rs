//! Letters that need nothing more: they stay in the table, marked, and are listed only where that is asked. One that blocks its
//! key moves there from the head of the key, which goes on.

use crate::config::Config;
use crate::letters::{Answer, Filter, IS_FOUND, MATCHES, each, found, with_params};
use crate::sink::parked::TELL;
use crate::sink::{Failure, schema};

/// A letter that nobody need look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discarded {
    pub id: i64,
    /// Its key waited behind it, and goes on.
    pub blocked: bool,
}

const MARK: &str = "UPDATE forebay.dead_letter d SET resolution = 'discarded' WHERE ";

/// Only from the head of a key, and only what is a letter still: somebody else may have set it back at this moment.
fn move_out() -> String {
    format!(
        "WITH {}, {TELL}, out AS (DELETE FROM forebay.parked q USING found f WHERE {IS_FOUND} AND NOT EXISTS (\
         SELECT 1 FROM forebay.parked b WHERE b.source = q.source AND b.partition = q.partition AND b.key_hash = q.key_hash \
         AND b.\"offset\" < q.\"offset\") RETURNING q.*) \
         INSERT INTO forebay.dead_letter AS d (source, grp, topic, partition, \"offset\", ts, sqlstate, error, resolution, key, payload, \
         headers) SELECT o.source, s.grp, s.topic, o.partition, o.\"offset\", o.ts, o.sqlstate, coalesce(o.error, ''), 'discarded', o.key, \
         o.payload, o.headers FROM out o JOIN forebay.source s ON s.id = o.source \
         ON CONFLICT (source, partition, \"offset\") DO UPDATE SET at = now(), ts = EXCLUDED.ts, sqlstate = EXCLUDED.sqlstate, \
         error = EXCLUDED.error, resolution = EXCLUDED.resolution, key = EXCLUDED.key, payload = EXCLUDED.payload, \
         headers = EXCLUDED.headers RETURNING d.id",
        found()
    )
}

/// What each shard discarded.
///
/// # Errors
/// [`Failure::Shard`] for a filter that names no shard of the configuration.
pub fn discard(config: &Config, filter: &Filter) -> Result<Vec<Answer<Discarded>>, Failure> {
    let filter = Filter { decided: false, ..filter.clone() };
    each(config, &filter, |client, version| {
        let mut discarded = Vec::new();
        let mut of_kind = |blocked: bool, sql: &str| -> Result<(), Failure> {
            let rows = with_params(&config.kafka.group_id, &filter, |params| client.query_typed(sql, params))?;
            discarded.extend(rows.iter().map(|row| Discarded { id: row.get(0), blocked }));
            Ok(())
        };
        of_kind(false, &format!("{MARK}{MATCHES} RETURNING d.id"))?;
        if version >= schema::PARKING {
            of_kind(true, &move_out())?;
        }
        Ok(discarded)
    })
}
