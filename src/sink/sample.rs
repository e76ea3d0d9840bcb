//! What PostgreSQL says of our own backends, and of whoever is in their way: `pg_stat_activity`, `pg_locks`, the statistics of tables
//! and of the log. Only looks: its session is read-only, its statements end after [`ANSWER_MAX`], and of others' queries nothing
//! but the command's name leaves the server.
//!
//! - **Which backends are ours.** Every connection says its server process when it opens ([`Backends`]), because processes of a
//!   group share application names. Behind a pooler that deals connections out by transaction nobody can know: there whatever is in a
//!   transaction under the group's names in this database is sampled, of all its processes together, and nothing of what idles.
//! - **What a look at the locks costs.** `pg_blocking_pids` and `pg_locks` take the locks of the server's whole lock table, shared, for
//!   some microseconds each: so they are asked only when somebody waits who did not before, and otherwise once a second while somebody
//!   does or is remembered; and for no more than [`ASKED_MAX`] at a time.
//! - **Locks that nobody waits for.** A row that the probe found locked is parked, and the slow lane passes it by: no backend of ours
//!   waits for it. The row itself names the transaction that has it (xmax); who that is the lock on its number tells.
//! - **What a plain role sees** of other users' sessions is pid, name and application. `GRANT pg_read_all_stats` shows the rest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postgres::types::{FromSql, Type};
use postgres::{Error, GenericClient, Row};

use crate::config::{self, Config, Pooler, Target};
use crate::sink::backends::{Backends, MetLock};
use crate::sink::catalog;
use crate::sink::connect::application_prefix;
use crate::sink::connections::{self, CONNECTIONS};
use crate::sink::fence::Sql;
use crate::sink::session::{Live, Param, Ready, Session, Text, own_failure};
use crate::sink::{Failure, Sampler};
use crate::state::blocking::{Edge, Holder, Look, Session as Seen, Waiting};
use crate::state::contention::{Ask, Backend, Connections, Sample, Server, State, TableNumbers};
use crate::types::ShardIx;

mod sql;

/// How long a statement may take.
pub const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Waiting backends that are looked after at a time, those that wait longest; and likewise what is met and remembered.
const ASKED_MAX: usize = 16;
/// Whoever waits for somebody who waits for somebody: so far that is followed.
const DEPTH_MAX: usize = 5;
/// How the application name ends.
const NAME: &str = "sampler";

/// See the module's text. Connects when first used.
pub struct PostgresSampler {
    session: Session<&'static str>,
    backends: Arc<Backends>,
    pooler: Pooler,
    /// What our application names begin with.
    prefix: String,
    /// Of all topics, as SQL takes their names.
    tables: Vec<String>,
    statements: Option<Statements>,
    /// What the last look at the server could not see.
    notes: Vec<String>,
    /// Whose locks the last look at the locks was about: met again, they are looked at in their time.
    known: BTreeSet<String>,
}

/// All that is asked.
struct Statements {
    backends: Ready,
    locks: Ready,
    members: Ready,
    blocking: Ready,
    sessions: Ready,
    connections: Ready,
    server: Ready,
    tables: Ready,
}

/// A backend of ours, writing or not.
struct Own {
    backend: Backend,
    query_age: Duration,
}

impl PostgresSampler {
    pub fn new(config: &Config, shard: ShardIx, backends: Arc<Backends>) -> PostgresSampler {
        let mut session = Session::new(config, shard, NAME);
        session.only_looks(ANSWER_MAX);
        session.known_to(&backends);
        let pooler = config.shards[usize::from(shard.0)].pooler;
        let mut tables: Vec<String> = config.topics.iter().filter_map(table_name).collect();
        tables.extend(["forebay.fence", "forebay.parked"].map(str::to_owned));
        tables.sort();
        tables.dedup();
        let prefix = application_prefix(&config.kafka.group_id);
        PostgresSampler {
            session,
            backends,
            pooler,
            prefix,
            tables,
            statements: None,
            notes: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    fn sampled(&mut self, ask: &Ask) -> Result<Sample, Failure> {
        let (live, fresh) = self.session.open()?;
        if fresh {
            self.statements = None;
        }
        let statements = match &mut self.statements {
            Some(statements) => statements,
            none => none.insert(Statements::new(live, self.pooler).map_err(|error| own_failure(&error))?),
        };
        let (open, prefix, tables, notes) = (self.backends.open(), &self.prefix, &self.tables, &mut self.notes);
        let mut taken = Taken { statements, open, prefix, tables, pooler: self.pooler, notes };
        // Of a connection that fails what was met is asked for again when it is met again.
        let met = match ask.locks || self.backends.has_met_others(&self.known) {
            true => self.backends.take_met(),
            false => Vec::new(),
        };
        if !met.is_empty() {
            self.known = met.iter().map(|met| met.transaction.clone()).collect();
        }
        let sample = match self.pooler {
            Pooler::None => taken.sample(&mut live.client, ask, met)?,
            Pooler::Transaction => {
                let begin = live.client.build_transaction().read_only(true).start();
                let mut transaction = begin.map_err(|error| own_failure(&error))?;
                let bound = format!("SET LOCAL statement_timeout = {}", ANSWER_MAX.as_millis());
                transaction.batch_execute(&bound).map_err(|error| own_failure(&error))?;
                let sample = taken.sample(&mut transaction, ask, met)?;
                transaction.commit().map_err(|error| own_failure(&error))?;
                sample
            }
        };
        Ok(Sample { fresh, ..sample })
    }
}

impl Sampler for PostgresSampler {
    fn sample(&mut self, ask: &Ask) -> Result<Sample, Failure> {
        let result = self.sampled(ask);
        self.session.settle(result)
    }

    fn rest(&mut self) {
        self.session.close();
    }
}

impl Statements {
    fn new(live: &mut Live<&'static str>, pooler: Pooler) -> Result<Statements, Error> {
        let version = live.client.query_typed_one("SELECT current_setting('server_version_num')::int", &[])?;
        let own = match pooler {
            Pooler::None => &sql::BY_PID,
            Pooler::Transaction => &sql::BY_NAME,
        };
        let mut ready = |sql: &Sql| {
            let make = || Text { sql: sql.text.to_owned(), types: sql.types.to_vec() };
            live.statements.get(&mut live.client, sql.text, make)
        };
        Ok(Statements {
            backends: ready(own)?,
            locks: ready(&sql::LOCKS)?,
            members: ready(&sql::MEMBERS)?,
            blocking: ready(&sql::BLOCKING)?,
            sessions: ready(&sql::SESSIONS)?,
            connections: ready(&CONNECTIONS)?,
            server: ready(if version.get::<_, i32>(0) >= 170_000 { &sql::SERVER_17 } else { &sql::SERVER_12 })?,
            tables: ready(&sql::TABLES)?,
        })
    }
}

/// One sample being taken.
struct Taken<'s> {
    statements: &'s Statements,
    open: Vec<(String, i32)>,
    prefix: &'s String,
    tables: &'s Vec<String>,
    pooler: Pooler,
    notes: &'s mut Vec<String>,
}

impl Taken<'_> {
    fn sample(&mut self, client: &mut impl GenericClient, ask: &Ask, met: Vec<MetLock>) -> Result<Sample, Failure> {
        let own = self.own(client)?;
        let mut passing = Vec::new();
        let new = own.iter().any(|o| o.backend.waits_for_lock() && !ask.seen_waiting.contains(&o.backend.pid));
        let look = match ask.locks || new || !met.is_empty() {
            true => tolerated(self.look(client, &own, ask, met), "locks", &mut passing)?,
            false => None,
        };
        let server = match ask.server {
            true => {
                self.notes.clear();
                tolerated(self.server(client, &own), "the server's statistics", self.notes)?
            }
            false => None,
        };
        let tables = match ask.tables {
            true => tolerated(self.table_numbers(client), "the tables' statistics", &mut passing)?,
            false => None,
        };
        self.note_what_is_hidden(&own, &mut passing);
        let writes = |own: &Own| own.backend.thread.starts_with("fb-w") || own.backend.thread.starts_with("fb-s");
        let backends = own.into_iter().filter(writes).map(|own| own.backend).collect();
        Ok(Sample { backends, look, server, tables, notes: [&self.notes[..], &passing].concat(), fresh: false })
    }

    fn own(&self, client: &mut impl GenericClient) -> Result<Vec<Own>, Failure> {
        let pids: Vec<i32> = self.open.iter().map(|(_, pid)| *pid).collect();
        let params: &[Param<'_>] = match self.pooler {
            Pooler::None => &[self.prefix, &pids],
            Pooler::Transaction => &[self.prefix],
        };
        let rows = self.statements.backends.query(client, params).map_err(|error| own_failure(&error))?;
        Ok(rows.iter().map(own).collect())
    }

    fn note_what_is_hidden(&self, own: &[Own], notes: &mut Vec<String>) {
        if self.pooler == Pooler::Transaction {
            let text = "behind a pooler: what is in a transaction under this group's names is sampled, of all its processes together";
            notes.push(text.to_owned());
        } else if self.open.iter().any(|(thread, _)| thread != NAME) && own.iter().all(|own| own.backend.thread == NAME)
        {
            let text = "this server knows none of our other connections: something in between leads each connection to another server";
            notes.push(text.to_owned());
        }
        if own.iter().any(|own| own.backend.state == State::Unknown) {
            notes.push("PostgreSQL does not say what our connections do: track_activities is off".to_owned());
        }
    }

    /// Who is in the way of those of ours that wait, of those who met locks, and of whom that is known already.
    fn look(&self, client: &mut impl GenericClient, own: &[Own], ask: &Ask, met: Vec<MetLock>) -> Result<Look, Error> {
        let mut waiting: Vec<&Own> = own.iter().filter(|own| own.backend.waits_for_lock()).collect();
        waiting.sort_by_key(|own| std::cmp::Reverse(own.query_age));
        waiting.truncate(ASKED_MAX);
        let waiters: Vec<i32> = waiting.iter().map(|own| own.backend.pid).collect();
        let mut look = Look::default();
        let mut transactions: Vec<&str> = met.iter().map(|met| met.transaction.as_str()).collect();
        transactions.sort_unstable();
        transactions.dedup();
        let locks = match waiters.is_empty() && transactions.is_empty() {
            true => Vec::new(),
            false => self.statements.locks.query(client, &[&waiters, &transactions])?,
        };
        for own in waiting {
            look.waiting.push(own.waiting(&locks));
        }
        look.holders = self.holders(client, &locks, met)?;
        let asked = look.holders.iter().map(|holder| holder.pid).chain(ask.remembered.iter().copied());
        let asked: BTreeSet<i32> = asked.take(ASKED_MAX).collect();
        look.edges = self.edges(client, &waiters, &asked)?;
        let named = look.edges.iter().flat_map(|edge| [edge.waiter, edge.blocker]).chain(asked);
        let named: BTreeSet<i32> = named.chain(ask.remembered.iter().copied()).collect();
        let named: Vec<i32> = named.into_iter().collect();
        if !named.is_empty() {
            let rows = self.statements.sessions.query(client, &[&named, self.prefix])?;
            look.sessions = rows.iter().map(session).collect();
        }
        Ok(look)
    }

    /// The sessions that have the rows which ours met, as `locks` say, or, of rows that several share, the number that they have
    /// in common.
    fn holders(&self, client: &mut impl GenericClient, locks: &[Row], met: Vec<MetLock>) -> Result<Vec<Holder>, Error> {
        let mut of: Vec<(String, i32)> = locks
            .iter()
            .filter_map(|row| Some((row.get::<_, Option<String>>(4)?, row.get::<_, Option<i32>>(0)?)))
            .collect();
        let rest: Vec<&str> = met.iter().map(|met| met.transaction.as_str()).collect();
        let rest: Vec<&str> = rest.into_iter().filter(|t| !of.iter().any(|(known, _)| known == t)).collect();
        if !rest.is_empty() {
            let rows = self.statements.members.query(client, &[&rest])?;
            of.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
        }
        let holder = |met: &MetLock| {
            let MetLock { thread, relation, transaction } = met.clone();
            let found = of.iter().filter(|(of, _)| *of == transaction).map(|(_, pid)| *pid).collect::<Vec<_>>();
            found.into_iter().map(move |pid| Holder { thread: thread.clone(), relation: plain(&relation), pid })
        };
        Ok(met.iter().flat_map(holder).collect())
    }

    fn edges(
        &self,
        client: &mut impl GenericClient,
        waiters: &[i32],
        others: &BTreeSet<i32>,
    ) -> Result<Vec<Edge>, Error> {
        let mut asked: BTreeSet<i32> = BTreeSet::new();
        let mut ask: Vec<i32> = waiters.iter().chain(others).copied().collect();
        let mut edges: Vec<Edge> = Vec::new();
        for _ in 0..DEPTH_MAX {
            ask.retain(|pid| *pid != 0 && asked.insert(*pid));
            if ask.is_empty() {
                break;
            }
            let rows = self.statements.blocking.query(client, &[&ask])?;
            let found = rows.iter().map(|row| Edge { waiter: row.get(0), blocker: row.get(1) });
            ask = Vec::new();
            for edge in found {
                ask.push(edge.blocker);
                edges.push(edge);
            }
            ask.truncate(ASKED_MAX);
        }
        Ok(edges)
    }

    fn server(&mut self, client: &mut impl GenericClient, own: &[Own]) -> Result<Server, Error> {
        let row = self.statements.server.query_one(client, &[])?;
        if row.get(4) {
            self.notes.push("this server is a replica: nothing is written here".to_owned());
        }
        if !row.get::<_, bool>(3) {
            let Foreign(role) = row.get(5);
            self.notes.push(format!(
                "of other users' sessions role {role} sees neither state nor age: GRANT pg_read_all_stats TO {role}"
            ));
        }
        let (server_max, server_used) =
            connections::all(&self.statements.connections.query_one(client, &[self.prefix, &NAME])?);
        let open = (self.pooler == Pooler::None).then_some(own.len() as u32);
        Ok(Server {
            wal: row.get(0),
            checkpoints_timed: row.get(1),
            checkpoints_requested: row.get(2),
            connections: Connections { open, server_max, server_used },
        })
    }

    fn table_numbers(&self, client: &mut impl GenericClient) -> Result<Vec<TableNumbers>, Error> {
        let rows = self.statements.tables.query(client, &[self.tables])?;
        let numbers = |row: &Row| TableNumbers {
            table: plain(row.get(0)),
            updates: row.get(1),
            hot_updates: row.get(2),
            live_rows: row.get(3),
            dead_rows: row.get(4),
            last_vacuum_at_ms: row.get(5),
        };
        Ok(rows.iter().map(numbers).collect())
    }
}

impl Own {
    fn waiting(&self, locks: &[Row]) -> Waiting {
        let Backend { thread, pid, wait, .. } = self.backend.clone();
        let kind = |row: &Row| row.get::<_, String>(1);
        let of_it = || locks.iter().filter(|row| row.get::<_, Option<i32>>(0) == Some(pid));
        let waits = of_it().find(|row| !row.get::<_, bool>(3));
        let in_line = || of_it().find(|row| kind(row) == "tuple");
        let relation = waits.and_then(|row| row.get(2)).or_else(|| in_line().and_then(|row| row.get(2)));
        let lock = waits.map(kind).or(wait.map(|(_, event)| event));
        // An upsert that meets a row stands in no line for it. Where it writes to one table there is no doubt which.
        let written = || {
            let written: BTreeSet<String> = of_it().filter_map(|row| row.get(2)).collect();
            let mut theirs = written.into_iter().filter(|name| !name.starts_with("forebay."));
            theirs.next().filter(|_| theirs.next().is_none())
        };
        let of_a_row = lock.as_deref() == Some("transactionid");
        let relation = relation.or_else(|| written().filter(|_| of_a_row));
        Waiting { thread, pid, since: self.query_age, lock, relation }
    }
}

/// What is not our backends' own state is worth a note, and no more, unless the connection is gone.
fn tolerated<T>(result: Result<T, Error>, what: &str, notes: &mut Vec<String>) -> Result<Option<T>, Failure> {
    match result.map_err(|error| own_failure(&error)) {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Outage(reason)) => Err(Failure::Outage(reason)),
        Err(failure) => {
            notes.push(format!("{what} cannot be seen: {}", failure.reason()));
            Ok(None)
        }
    }
}

fn millis(row: &Row, column: usize) -> Option<Duration> {
    row.get::<_, Option<i64>>(column).map(|ms| Duration::from_millis(ms.max(0) as u64))
}

fn own(row: &Row) -> Own {
    let state = match row.get::<_, Option<&str>>(2) {
        Some("active" | "fastpath function call") => State::Active,
        Some("idle") => State::Idle,
        // One that failed and was not rolled back yet, too.
        Some(state) if state.starts_with("idle in transaction") => State::InTransaction,
        _ => State::Unknown,
    };
    let wait = row.get::<_, Option<String>>(3).zip(row.get(4));
    let (thread, pid) = (row.get(1), row.get(0));
    let backend = Backend { thread, pid, state, wait, quiet: millis(row, 5).unwrap_or_default() };
    Own { backend, query_age: millis(row, 6).unwrap_or_default() }
}

/// Text that somebody else chose. What the whole server shares, a role's name for one, is in the encoding of the database where it
/// was made, and PostgreSQL sends it as it is: bytes that are no UTF-8 are replaced.
struct Foreign(String);

impl<'a> FromSql<'a> for Foreign {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Foreign, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Foreign(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(of: &Type) -> bool {
        matches!(*of, Type::TEXT | Type::NAME | Type::VARCHAR)
    }
}

fn foreign(row: &Row, column: usize) -> Option<String> {
    row.get::<_, Option<Foreign>>(column).map(|Foreign(text)| text)
}

fn session(row: &Row) -> Seen {
    Seen {
        pid: row.get(0),
        transaction: foreign(row, 1),
        application: foreign(row, 2),
        user: foreign(row, 3),
        state: foreign(row, 4),
        transaction_age: millis(row, 5),
        query_age: millis(row, 6),
        command: foreign(row, 7),
        ours: row.get(8),
    }
}

fn table_name(topic: &config::Topic) -> Option<String> {
    match &topic.target {
        Target::Table(table) => Some(catalog::table_name(table)),
        Target::Handler => None,
    }
}

/// A table's name as people write it, where it needs no quotes: with its schema, unless that is the usual one.
fn plain(quoted: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.\"".contains(c);
    match quoted.chars().all(is_plain) {
        true => quoted.replace('"', "").trim_start_matches("public.").to_owned(),
        false => quoted.to_owned(),
    }
}
