//! How many connections a server lets in, and who has them. Asks, and counts; what follows others decide.

use postgres::types::Type;
use postgres::{Client, Row};

use crate::sink::connect::application_prefix;
use crate::sink::fence::Sql;
use crate::sink::{Failure, Reason, sqlstate};

/// How application names of a gateway's connections end: of those that write rows, and of those that ask what tables are like. Neither
/// owns a partition.
pub const SYNC: &str = "sync";
pub const INGEST: &str = "ingest";

/// $1 is what the group's application names begin with, $2 how that of the connection that asks ends.
///
/// `pg_stat_database` shows its numbers to everyone; of others' rows in `pg_stat_activity` a plain role sees no states, but
/// names of all. A limit below 0 is none; superusers have none.
pub const CONNECTIONS: Sql = Sql {
    text: "\
SELECT current_setting('max_connections')::int AS max,
       current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
       (SELECT sum(numbackends)::int FROM pg_stat_database WHERE datid <> 0) AS used,
       (SELECT count(*)::int FROM pg_stat_activity WHERE starts_with(application_name, $1)) AS of_group,
       (SELECT count(*)::int FROM pg_stat_activity WHERE application_name = $1 || $2) AS asking,
       (SELECT count(*)::int FROM pg_stat_activity WHERE application_name IN ($1 || 'sync', $1 || 'ingest')) AS of_gateways,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_max,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_max,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started",
    types: &[Type::TEXT, Type::TEXT],
};

/// A separate statement: it may be forbidden. Clones share the number, so that it alone proves nothing.
const SYSTEM: &str = "SELECT system_identifier FROM pg_control_system()";

/// A running PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Server {
    pub system: Option<i64>,
    /// Seconds since 1970, to the microsecond.
    pub started: f64,
}

/// A shard's server and what it has left.
#[derive(Debug, Clone, PartialEq)]
pub struct Connections {
    pub server: Server,
    pub max: i32,
    pub reserved: i32,
    /// In use by somebody else than this group.
    pub others: i32,
    /// In use by processes of this group that run already.
    pub group: i32,
    /// Of these by gateways.
    pub gateways: i32,
    pub role_max: Option<i32>,
    pub database_max: Option<i32>,
}

/// Asks a server; `purpose` ends the application name of our own connections.
pub fn ask(client: &mut Client, group: &str, purpose: &str) -> Result<Connections, postgres::Error> {
    let params = [(&application_prefix(group) as _, Type::TEXT), (&purpose as _, Type::TEXT)];
    let row = client.query_typed_one(CONNECTIONS.text, &params)?;
    let system = client.query_typed_one(SYSTEM, &[]).ok().map(|row| row.get("system_identifier"));
    let number = |name: &str| row.get::<_, i32>(name);
    let limit = |name: &str| Some(number(name)).filter(|limit| *limit >= 0);
    Ok(Connections {
        server: Server { system, started: row.get("started") },
        max: number("max"),
        reserved: number("reserved"),
        others: number("used") - number("of_group"),
        group: number("of_group") - number("asking"),
        gateways: number("of_gateways"),
        role_max: limit("role_max"),
        database_max: limit("database_max"),
    })
}

/// Before somebody makes a table to measure with.
///
/// # Errors
/// [`Failure::Shard`] where a publication sends every new table on: its subscribers stop at one that they do not have.
pub fn nobody_follows(client: &mut Client) -> Result<(), Failure> {
    let sql = "SELECT pubname::text FROM pg_catalog.pg_publication WHERE puballtables ORDER BY 1 LIMIT 1";
    let Some(row) = client.query_typed_opt(sql, &[]).map_err(|error| sqlstate::failure(&error))? else { return Ok(()) };
    let name: String = row.get(0);
    Err(Failure::Shard(Reason::new(format!(
        "found publication {name} FOR ALL TABLES, expected none to measure beside: its subscribers would stop at a table that they do not have; \
         nothing was written"
    ))))
}

/// What the server lets in, less what it reserves; and what is in use, by everybody together.
pub fn all(row: &Row) -> (u32, u32) {
    let number = |name: &str| row.get::<_, Option<i32>>(name).unwrap_or_default();
    ((number("max") - number("reserved")).max(0) as u32, number("used").max(0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_knows_a_gateway_s_names() {
        for name in [SYNC, INGEST] {
            assert!(CONNECTIONS.text.contains(&format!("$1 || '{name}'")), "{name}");
        }
    }
}
