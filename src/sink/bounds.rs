//! What a session must bring along whoever opened it: time-outs that bound every statement, lock and idle transaction. Directly
//! they are options of the connection, where the DSN's own win, and what counts is what came of it. A pooler drops those, and its
//! transactions run in sessions that it opened itself: there the role must set them. Asks, and says what to do; sets nothing.

use std::net::SocketAddr;
use std::time::Duration;

use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::config::{Pooler, Shard};
use crate::sink::connect::idle_in_transaction_timeout;
use crate::sink::{Failure, Reason, sqlstate};

/// A setting without a meaning to PostgreSQL, whose presence shows that the options of the connection arrived.
pub const MARK: &str = "forebay.options";

/// The time-outs, as PostgreSQL calls them, and the most that each may be, in milliseconds.
fn bounds(shard: &Shard) -> [(&'static str, u128); 3] {
    [
        ("lock_timeout", shard.lock_timeout.as_millis()),
        ("statement_timeout", shard.statement_timeout.as_millis()),
        ("idle_in_transaction_session_timeout", idle_in_transaction_timeout(shard).as_millis()),
    ]
}

/// How a session that is bounded is.
pub struct Bounded {
    /// Whether the server itself is at the other end, where anybody can tell: it sees the address that we have.
    pub direct: bool,
    /// For so long PostgreSQL may keep whoever waits for it waiting: for the end of a statement, or of a transaction that idles.
    pub wait_max: Duration,
    /// The server's process at the other end, where that stays the same.
    pub pid: Option<i32>,
}

/// What PostgreSQL says bounds the session. `local` is our address.
///
/// # Errors
/// [`Failure::Shard`] for a session that is not bounded as the configuration says, with the way to bound it.
pub fn check(client: &mut Client, shard: &Shard, local: Option<SocketAddr>) -> Result<Bounded, Failure> {
    // In milliseconds, all of them.
    let sql = format!(
        "SELECT current_setting('{MARK}', true), inet_client_port(), quote_ident(session_user), \
         quote_ident(current_database()), {}, pg_backend_pid()",
        bounds(shard).map(|(name, _)| format!("(SELECT setting FROM pg_settings WHERE name = '{name}')")).join(", ")
    );
    let answer = client.simple_query(&sql).map_err(|error| sqlstate::connect_failure(&error))?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(row) = row else {
        return Err(Failure::Outage(Reason::new("the server answered its settings with nothing")));
    };
    match shard.pooler {
        Pooler::None if row.get(0) != Some("on") => Err(Failure::Shard(Reason::new(
            "pooler: found a session without the settings that it was opened with, expected them: something on the way drops \
             them, as poolers do. A pooler is declared: pooler = \"transaction\" (which serves one that pools sessions, too)",
        ))),
        Pooler::None => {
            let pid = row.get(7).and_then(|pid| pid.parse().ok());
            Ok(Bounded { direct: true, wait_max: bounded_by_options(settings(row))?, pid })
        }
        Pooler::Transaction => {
            bounded_by_role(row, shard)?;
            let port = row.get(1).and_then(|port| port.parse::<u16>().ok());
            let direct = local.is_some_and(|local| port == Some(local.port()));
            // The next transaction may be another session's.
            Ok(Bounded { direct, wait_max: idle_in_transaction_timeout(shard), pid: None })
        }
    }
}

/// The time-outs of [`bounds`] as the session has them, in milliseconds.
fn settings(row: &SimpleQueryRow) -> [u64; 3] {
    [4, 5, 6].map(|column| row.get(column).and_then(|setting| setting.parse().ok()).unwrap_or_default())
}

/// The DSN's own options may say otherwise than the configuration, and still there must be an end to everything.
fn bounded_by_options([lock, statement, idle]: [u64; 3]) -> Result<Duration, Failure> {
    // 0 is no time-out at all.
    if statement == 0 || idle == 0 || lock == 0 || lock >= statement {
        return Err(Failure::Shard(Reason::new(format!(
            "dsn: options: found lock_timeout {lock}, statement_timeout {statement}, idle_in_transaction_session_timeout {idle} \
             (in ms, 0 is none), expected all three, and a lock_timeout shorter than statement_timeout, or waits for locks look \
             like slow statements; without them in `options` those of the configuration hold"
        ))));
    }
    Ok(Duration::from_millis(statement.max(idle)))
}

/// Behind a pooler: what the role sets, each at most what the configuration says.
fn bounded_by_role(row: &SimpleQueryRow, shard: &Shard) -> Result<(), Failure> {
    let (mut found, mut commands) = (Vec::new(), Vec::new());
    for ((name, most), setting) in bounds(shard).into_iter().zip(settings(row)) {
        // 0 is no time-out at all.
        if (1..=most).contains(&u128::from(setting)) {
            continue;
        }
        found.push(format!("{name} {setting}"));
        let (role, database) = (row.get(2).unwrap_or_default(), row.get(3).unwrap_or_default());
        commands.push(format!("ALTER ROLE {role} IN DATABASE {database} SET {name} = {most};"));
    }
    if found.is_empty() {
        return Ok(());
    }
    let text = format!(
        "pooler = \"transaction\": found {} (in ms, 0 is none), expected time-outs that the role brings along, because a pooler \
         drops those of a connection. Run: {} Then let the pooler open new connections (pgbouncer: RECONNECT)",
        found.join(", "),
        commands.join(" ")
    );
    Err(Failure::Shard(Reason::new(text)))
}
