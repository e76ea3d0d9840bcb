//! The schema of a measurement: made, looked at, and removed, whatever happens in between.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use postgres::Client;
use postgres::types::Type;

use crate::bench::database::left_behind;
use crate::config::load::parse;
use crate::config::{Shard, Target};
use crate::planner::PlanError;
use crate::planner::measure::Bounds;
use crate::planner::measure::writer::Probe;
use crate::sink::connect::{Connector, Opened};
use crate::sink::connections::nobody_follows;
use crate::sink::plan::TablePlan;
use crate::sink::{Failure, schema, sqlstate};

const PURPOSE: &str = "plan";
/// How long a connection may take to show that it is alive.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);
/// Also where every COMMIT waits for standbys.
const LOCAL: &str = "SET synchronous_commit = local; ";
const TABLE: &str = "records";
/// As the reference job has it.
const COLUMNS: &str = "app_id uuid, subscription_id uuid, country text, device text, sessions int, updated_at timestamptz, tags jsonb, \
                       PRIMARY KEY (app_id, subscription_id)";
/// 42501: insufficient_privilege.
const NO_PRIVILEGE: &str = "42501";

/// See the module's text.
pub struct Scratch {
    shard: Shard,
    group: String,
    name: String,
    /// For looking, and for removing: taken when that is done.
    client: RefCell<Option<Opened>>,
    /// Of the table; none before there is one.
    plan: Option<Arc<TablePlan>>,
    /// Whose the fences are.
    pub source: i32,
    pub token: i64,
}

impl Scratch {
    pub fn create(shard: &Shard, group: &str, bounds: &Bounds) -> Result<Scratch, PlanError> {
        let failed = |failure: Failure| PlanError::of_shard(&shard.name, &failure);
        let mut opened = Connector::new(shard, group, PURPOSE).and_then(|mut c| c.open()).map_err(failed)?;
        let name = format!("forebay_probe_{:x}", fastrand::u64(..));
        let made = takes_writes(&mut opened.client, &shard.name)
            .and_then(|()| nobody_follows(&mut opened.client).map_err(failed))
            .and_then(|()| make(&mut opened.client, &shard.name, &name));
        if let Err(error) = made {
            opened.discard();
            return Err(error);
        }
        // From here on it is removed, whatever happens.
        let mut scratch = Scratch {
            shard: shard.clone(),
            group: group.to_owned(),
            name,
            client: RefCell::new(Some(opened)),
            plan: None,
            source: 1,
            token: i64::from(fastrand::i32(1..)),
        };
        scratch.fill(bounds)?;
        Ok(scratch)
    }

    /// The tables: of records, and the fences'.
    fn fill(&mut self, bounds: &Bounds) -> Result<(), PlanError> {
        let Scratch { name, source, token, .. } = self;
        let (table, fences) = (format!("{name}.{TABLE}"), schema::fences_in(name));
        let Bounds { partitions, lanes, .. } = bounds;
        let sql = format!(
            "CREATE TABLE {table} ({COLUMNS});{fences}\
             INSERT INTO {name}.fence (source, partition, lane, next_offset, token) \
             SELECT {source}, p, l, 0, {token} FROM generate_series(0, {partitions} - 1) p, generate_series(0, {lanes} - 1) l"
        );
        self.ask(|client| client.batch_execute(&sql))?;
        let mut client = self.client.borrow_mut();
        let opened = client.as_mut().expect("it was just asked");
        self.plan = Some(Arc::new(table_plan(&mut opened.client, &table)?));
        Ok(())
    }

    /// A connection that writes, with everything prepared.
    pub fn probe(&self, bounds: &Bounds, number: usize) -> Result<Probe, PlanError> {
        let connected = Connector::new(&self.shard, &self.group, PURPOSE).and_then(|mut c| c.connect());
        let opened = connected.map_err(|failure| PlanError::of_shard(&self.shard.name, &failure))?;
        let plan = self.plan.as_ref().expect("it was filled");
        Probe::new(self, opened, Arc::clone(plan), bounds, number)
    }

    pub fn shard(&self) -> &str {
        &self.shard.name
    }

    pub fn schema(&self) -> &str {
        &self.name
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> Result<T, PlanError> {
        let mut client = self.client.borrow_mut();
        let Some(opened) = client.as_mut() else { return Err(PlanError::Failed("the schema is gone".to_owned())) };
        ask(&mut opened.client).map_err(|error| PlanError::of_shard(&self.shard.name, &sqlstate::failure(&error)))
    }

    /// Bytes of WAL that the server has written.
    pub fn wal(&self) -> Result<u64, PlanError> {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8";
        self.ask(|client| client.query_typed_one(sql, &[])).map(|row| row.get::<_, i64>(0) as u64)
    }

    /// Whatever these do, or wait for: the answer comes to whoever waits for it.
    pub fn cancel(&self, pids: &[i32]) {
        let sql = "SELECT pg_cancel_backend(pid) FROM unnest($1::int4[]) pid";
        // Without an answer, the connections' own time-outs are left.
        let _ = self.ask(|client| client.query_typed(sql, &[(&pids, Type::INT4_ARRAY)]).map(|_| ()));
    }

    pub fn analyze(&self) -> Result<(), PlanError> {
        let name = &self.name;
        self.ask(|client| client.batch_execute(&format!("ANALYZE {name}.{TABLE}; ANALYZE {name}.fence")))
    }

    /// # Errors
    /// The schema stays behind; the text says how to remove it.
    pub fn remove(self) -> Result<(), PlanError> {
        let opened = self.client.borrow_mut().take();
        removed(&self.shard, &self.group, &self.name, opened)
    }
}

/// Also where something panics.
impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(opened) = self.client.borrow_mut().take()
            && let Err(error) = removed(&self.shard, &self.group, &self.name, Some(opened))
        {
            crate::console::err(error);
        }
    }
}

fn make(client: &mut Client, shard: &str, name: &str) -> Result<(), PlanError> {
    left_behind(client, name, shard);
    client.batch_execute(&format!("{LOCAL}CREATE SCHEMA {name}")).map_err(|error| match error.code() {
        Some(code) if code.code() == NO_PRIVILEGE => PlanError::Configuration(format!(
            "shard {shard}: this role may not make a schema to measure in: GRANT CREATE ON DATABASE … TO …, or measure with another role (dsn), or \
             give --shard-rows-per-second instead"
        )),
        _ => PlanError::of_shard(shard, &sqlstate::failure(&error)),
    })
}

/// By the connection that there is, or, where that one is broken, by a new one.
fn removed(shard: &Shard, group: &str, name: &str, opened: Option<Opened>) -> Result<(), PlanError> {
    let sql = format!("DROP SCHEMA IF EXISTS {name} CASCADE");
    let local = format!("{LOCAL}{sql}");
    if let Some(mut opened) = opened {
        let dropped = opened.client.batch_execute(&local);
        opened.discard();
        if dropped.is_ok() {
            return Ok(());
        }
    }
    let again = Connector::new(shard, group, PURPOSE).and_then(|mut c| c.connect()).and_then(|mut opened| {
        let dropped = opened.client.batch_execute(&local).map_err(|error| sqlstate::failure(&error));
        opened.discard();
        dropped
    });
    again.map_err(|failure| {
        PlanError::Unavailable(format!(
            "shard {}: schema {name} stays behind ({}): {sql}",
            shard.name,
            failure.reason()
        ))
    })
}

/// Nothing is measured at a replica, and nobody waits for it to become something else.
fn takes_writes(client: &mut Client, shard: &str) -> Result<(), PlanError> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let row = client.query_typed_one(sql, &[]);
    let row = row.map_err(|error| PlanError::of_shard(shard, &sqlstate::failure(&error)))?;
    let what = match (row.get(0), row.get(1)) {
        (true, _) => "a replica (in recovery)",
        (_, true) => "a database that is read-only",
        _ => return Ok(()),
    };
    Err(PlanError::Configuration(format!(
        "shard {shard}: found {what}, expected a primary to measure at: nothing was written"
    )))
}

/// What a worker would make of the topic's records.
fn table_plan(client: &mut Client, table: &str) -> Result<TablePlan, PlanError> {
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = \"none\"\n\"group.id\" = \"none\"\n[[shard]]\nname = \"main\"\ndsn = \"host=none\"\n[[topic]]\n\
         name = \"probe\"\ntable = \"{table}\"\ninsert_mode = \"upsert\"\npk_fields = [\"app_id\", \"subscription_id\"]\n"
    );
    let loaded = parse(std::path::Path::new("probe"), &text, &|_| None)?;
    let topic = &loaded.config.topics[0];
    let Target::Table(of) = &topic.target else { unreachable!("it names a table") };
    TablePlan::read(client, topic, of).map_err(|problems| {
        let text = problems.join("; ");
        // It says in words only what it could not read.
        if client.is_valid(ALIVE_WITHIN).is_ok() { PlanError::Failed(text) } else { PlanError::Unavailable(text) }
    })
}
