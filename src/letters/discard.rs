//! Letters that need nothing more: they stay in the table, marked, and are listed only where that is asked.

use crate::config::Config;
use crate::letters::{Answer, Filter, MATCHES, each, with_params};
use crate::sink::Failure;

/// How many each shard discarded, as a list of their ids.
///
/// # Errors
/// [`Failure::Shard`] for a filter that names no shard of the configuration.
pub fn discard(config: &Config, filter: &Filter) -> Result<Vec<Answer<i64>>, Failure> {
    let sql = format!("UPDATE forebay.dead_letter d SET resolution = 'discarded' WHERE {MATCHES} RETURNING d.id");
    let filter = Filter { decided: false, ..filter.clone() };
    each(config, &filter, |client, _| {
        with_params(&config.kafka.group_id, &filter, |params| {
            Ok(client.query_typed(&sql, params)?.iter().map(|row| row.get(0)).collect())
        })
    })
}
