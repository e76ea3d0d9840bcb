//! A batch into a table. The common case, one shape of record, is a single statement: fences and rows in one round trip.
//!
//! The one thing done twice is what did nothing the first time: a statement that failed because its table was altered is
//! built anew from the catalog, once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::{Client, Error};

use crate::config::{self, Delivery, Target, Then};
use crate::sink::careful_table::Careful;
use crate::sink::catalog::{Catalog, CatalogError};
use crate::sink::dead_letter::{Letters, Of};
use crate::sink::session::{Live, Param, Ready, Text};
use crate::sink::table::{TablePlan, TableWriter};
use crate::sink::writer::{Beside, FenceArrays, Name, PostgresWriter, unroutable};
use crate::sink::{BadRecord, Care, Failure, Job, Reason, RowCounts, Written, dead_letter, fence, parked, sqlstate};
use crate::state::router::Router;
use crate::types::TopicIx;

/// A record that does not decode is believed to be at fault only by a view of the table that is younger than this: the column
/// that it does not fit may have been altered for it.
const PLAN_TRUSTED: Duration = Duration::from_secs(5);

/// A topic's table as the catalog described it.
pub(super) struct KnownTable {
    writer: TableWriter,
    read_at: Instant,
}

/// Why a statement did nothing.
pub(super) enum Stop {
    Failed(Failure),
    /// It may be that a table was altered.
    Altered(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        let failure = sqlstate::failure(&error);
        if sqlstate::may_be_altered_table(&error) { Stop::Altered(failure) } else { Stop::Failed(failure) }
    }
}

impl PostgresWriter {
    pub(super) fn write_table(
        &mut self,
        topic: TopicIx,
        job: &Job<'_>,
        mut care: Option<Care<'_, '_>>,
    ) -> Result<Written, Failure> {
        match self.try_table(topic, job, care.as_mut().map(|care| care.again())) {
            Ok(written) => Ok(written),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Altered(failure)) => {
                let (name, reason) = (self.topic_name(topic), failure.reason());
                let sqlstate = &reason.sqlstate;
                tracing::info!(
                    topic = name,
                    sqlstate,
                    "topic {name}: reading the table's columns again after: {reason}"
                );
                // A new connection also looks whether forebay's own tables are there.
                self.session.close();
                match self.try_table(topic, job, care) {
                    Ok(written) => Ok(written),
                    Err(Stop::Failed(failure) | Stop::Altered(failure)) => Err(self.about(topic, failure)),
                }
            }
        }
    }

    /// Without `care` a record at fault fails the whole, and so does a lock that cannot be had in time.
    fn try_table(&mut self, topic: TopicIx, job: &Job<'_>, care: Option<Care<'_, '_>>) -> Result<Written, Stop> {
        let settings = &self.config.topics[usize::from(topic.0)];
        let Target::Table(table) = &settings.target else { unreachable!("only table topics come here") };
        let (live, fresh) = self.session.open()?;
        if fresh {
            self.tables.clear();
        }
        let (writer, bad) = loaded(&mut self.tables, topic, live, settings, table, |writer| load(writer, job))?;
        let fences = &self.fences;
        let Some(mut care) = care else {
            if let Some(BadRecord { index, reason }) = bad.into_iter().next() {
                return Err(Failure::Record(Some(index), reason).into());
            }
            let fences = (settings.delivery == Delivery::ExactlyOnce).then_some(fences);
            return live.plain(topic, job, writer, fences, &self.router);
        };
        let of = Of::new(fences.source(), &self.config, topic);
        if let Some(written) = live.plain_with_letters(topic, job, writer, fences, of, &bad, &mut care)? {
            return Ok(written);
        }
        let (table, probe) = (writer.plan().table.clone(), care.probe);
        let careful = Careful { topic, of, job, writer, router: &self.router, fences, care };
        let result = careful.run(live, bad);
        live.roll_back_unless(matches!(result, Ok(Written::Applied(_))));
        match result {
            Err(Stop::Failed(Failure::LockWait(reason))) if probe => {
                Err(live.second_time_out(&settings.target, Some(&table), reason).into())
            }
            other => other,
        }
    }

    fn topic_name(&self, topic: TopicIx) -> &str {
        &self.config.topics[usize::from(topic.0)].name
    }

    /// Puts the topic's name in front of what is about the topic.
    fn about(&self, topic: TopicIx, failure: Failure) -> Failure {
        match failure {
            Failure::Topic(mut reason) => {
                let prefix = format!("topic {:?}: ", self.topic_name(topic));
                if !reason.text.starts_with(prefix.trim_end_matches(": ")) {
                    reason.text.insert_str(0, &prefix);
                }
                Failure::Topic(reason)
            }
            other => other,
        }
    }
}

impl<'t> Care<'_, 't> {
    pub(super) fn again(&mut self) -> Care<'_, 't> {
        let Care { probe, refused, then, room, tolerates } = self;
        Care { probe: *probe, refused: *refused, then: *then, room: *room, tolerates: &mut **tolerates }
    }
}

impl KnownTable {
    /// Whether a record that does not fit may be told by an outdated view of the table.
    pub(super) fn is_old(&self) -> bool {
        self.read_at.elapsed() > PLAN_TRUSTED
    }
}

/// What the job does not park. Answers the records that cannot be applied, in order.
fn load(writer: &mut TableWriter, job: &Job<'_>) -> Vec<BadRecord> {
    let (mut bad, unroutable) = (Vec::new(), unroutable(job));
    match (job.park, &unroutable[..]) {
        ([], []) => writer.load(job.batch, job.range.clone(), &mut bad),
        (_, []) => writer.load(job.batch, job.to_apply().into_iter(), &mut bad),
        _ => {
            let named = |index: &usize| job.batch.unroutable(*index).is_none();
            writer.load(job.batch, job.to_apply().into_iter().filter(named), &mut bad);
            bad.extend(unroutable);
            bad.sort_by_key(|b| b.index);
        }
    }
    bad
}

impl Live<Name> {
    /// Everything at once, where it can be.
    fn plain(
        &mut self,
        topic: TopicIx,
        job: &Job<'_>,
        table: &TableWriter,
        fences: Option<&FenceArrays>,
        router: &Router,
    ) -> Result<Written, Stop> {
        let counts = RowCounts { parked: job.park.len() as u32, ..table.counts() };
        let applied = match (fences, table.groups()) {
            (None, 0) => true,
            (None, 1) => self.rows(topic, table, 0).map(|()| true)?,
            (Some(fences), 0) if job.park.is_empty() && job.free.is_empty() => self.fences(fences)?,
            (Some(fences), 1) if job.park.is_empty() && job.free.is_empty() => {
                self.fenced(topic, table, fences, Beside::Nothing, &[])?
            }
            (Some(fences), 1) if job.free.is_empty() => {
                match &parked::Rows::new(fences.source(), job.batch, router, &job.rows_to_park())[..] {
                    [rows] => self.fenced(topic, table, fences, Beside::Parked, &rows.params())?,
                    _ => return self.in_transaction(topic, job, table, Some(fences), router, counts),
                }
            }
            (fences, _) => return self.in_transaction(topic, job, table, fences, router, counts),
        };
        Ok(if applied { counts.into() } else { Written::Mismatch })
    }

    fn in_transaction(
        &mut self,
        topic: TopicIx,
        job: &Job<'_>,
        table: &TableWriter,
        fences: Option<&FenceArrays>,
        router: &Router,
        counts: RowCounts,
    ) -> Result<Written, Stop> {
        let result = self.transaction(topic, job, table, fences, router);
        self.roll_back_unless(matches!(result, Ok(None)));
        Ok(result?.unwrap_or_else(|| counts.into()))
    }

    /// What does not decode into the dead letters, and all the rest as ever: where nobody has tried yet whether PostgreSQL takes it,
    /// and one statement does it. None where that is not so, or it was refused.
    #[allow(clippy::too_many_arguments)]
    fn plain_with_letters(
        &mut self,
        topic: TopicIx,
        job: &Job<'_>,
        table: &TableWriter,
        fences: &FenceArrays,
        of: Of<'_>,
        bad: &[BadRecord],
        care: &mut Care<'_, '_>,
    ) -> Result<Option<Written>, Stop> {
        let alone = table.groups() == 1 && job.park.is_empty() && job.free.is_empty();
        if bad.is_empty() || !alone || care.probe || care.then == Then::Park {
            return Ok(None);
        }
        if !(care.tolerates)(bad) {
            return Err(Failure::Record(Some(bad[0].index), bad[0].reason.clone()).into());
        }
        let [letters] = &Letters::new(of, job.batch, bad)[..] else { return Ok(None) };
        let counts = RowCounts { dead: bad.len() as u32, ..table.counts() };
        match self.fenced(topic, table, fences, Beside::Letters, &letters.params()).map_err(Stop::from) {
            Ok(true) => Ok(Some(counts.into())),
            Ok(false) => Ok(Some(Written::Mismatch)),
            Err(Stop::Failed(Failure::Record(..))) => {
                care.refused = true;
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    fn ready_rows(&mut self, topic: TopicIx, table: &TableWriter, group: usize) -> Result<Ready, Error> {
        let make = || Text { sql: table.sql(group, 1, None), types: table.param_types(group) };
        self.statements.get(&mut self.client, Name::Rows(topic, table.shape(group)), make)
    }

    fn fences(&mut self, fences: &FenceArrays) -> Result<bool, Error> {
        let statement = self.ready_fences(fences.found())?;
        Ok(fences.answer(&statement.query_one(&mut self.client, &fences.params())?))
    }

    pub(super) fn rows(&mut self, topic: TopicIx, table: &TableWriter, group: usize) -> Result<(), Error> {
        let statement = self.ready_rows(topic, table, group)?;
        statement.execute(&mut self.client, &table.params(group))?;
        Ok(())
    }

    /// The common case: everything in one statement, which is a transaction of its own: fences, rows, and what is put `beside`
    /// them, with its parameters. (An insert has one plan, whatever is in its table.)
    fn fenced(
        &mut self,
        topic: TopicIx,
        table: &TableWriter,
        fences: &FenceArrays,
        beside: Beside,
        more: &[Param<'_>],
    ) -> Result<bool, Error> {
        let found = fences.found();
        let make = || {
            let mut types = [&fence::batch_types()[..], &table.param_types(0)].concat();
            let (rows, first) = (table.sql(0, fence::BATCH_PARAMS + 1, Some(fence::CONDITION)), types.len() + 1);
            let sql = match beside {
                Beside::Nothing => fence::batch(found, &[&rows]),
                Beside::Parked => {
                    types.extend(parked::insert_types());
                    fence::batch(found, &[&rows, &parked::insert(first, Some(fence::CONDITION))])
                }
                Beside::Letters => {
                    types.extend(dead_letter::types());
                    fence::batch(found, &[&rows, &dead_letter::sql(first, Some(fence::CONDITION))])
                }
            };
            Text { sql, types }
        };
        let statement =
            self.statements.get(&mut self.client, Name::Fenced(topic, table.shape(0), beside, found), make)?;
        let params = [&fences.params()[..], &table.params(0), more].concat();
        Ok(fences.answer(&statement.query_one(&mut self.client, &params)?))
    }

    /// Several statements: fences first, then the groups in their order, then what is parked. None if all was done. The caller
    /// rolls back what did not succeed.
    fn transaction(
        &mut self,
        topic: TopicIx,
        job: &Job<'_>,
        table: &TableWriter,
        fences: Option<&FenceArrays>,
        router: &Router,
    ) -> Result<Option<Written>, Stop> {
        // Before the transaction begins, so that it holds its locks for its own statements only.
        let fence_statement = fences.map(|fences| self.ready_fences(fences.found())).transpose()?;
        let groups: Vec<Ready> =
            (0..table.groups()).map(|group| self.ready_rows(topic, table, group)).collect::<Result<_, _>>()?;
        self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")?;
        if let (Some(fences), Some(statement)) = (fences, fence_statement) {
            if !fences.answer(&statement.query_one(&mut self.client, &fences.params())?) {
                return Ok(Some(Written::Mismatch));
            }
            if !parked::is_free(&mut self.client, fences.source(), job.free)? {
                return Ok(Some(Written::NotFree));
            }
            parked::park(&mut self.client, fences.source(), job.batch, router, &job.rows_to_park())?;
        }
        for (group, statement) in groups.iter().enumerate() {
            statement.execute(&mut self.client, &table.params(group))?;
        }
        self.client.batch_execute("COMMIT")?;
        Ok(None)
    }

    /// Ends a transaction that was not committed.
    pub(super) fn roll_back_unless(&mut self, committed: bool) {
        if !committed && self.client.batch_execute("ROLLBACK").is_err() {
            // Whatever is wrong with the connection, it ends the transaction when it goes.
            self.unusable = true;
        }
    }
}

/// The table as the catalog described it, and records that `load` decodes for it; as the catalog describes it now, where some of
/// these do not fit what it said a while ago. Answers those that do not fit.
pub(super) fn loaded<'k>(
    tables: &'k mut HashMap<TopicIx, KnownTable>,
    topic: TopicIx,
    live: &mut Live<Name>,
    settings: &config::Topic,
    table: &config::Table,
    load: impl Fn(&mut TableWriter) -> Vec<BadRecord>,
) -> Result<(&'k mut TableWriter, Vec<BadRecord>), Failure> {
    let known = match tables.entry(topic) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert(KnownTable::read(&mut live.client, settings, table)?),
    };
    let mut bad = load(&mut known.writer);
    if !bad.is_empty() && known.is_old() {
        *known = KnownTable::read(&mut live.client, settings, table)?;
        // What the old plan called a shape is another one now.
        live.statements.forget(|name| name.topic() == Some(topic));
        bad = load(&mut known.writer);
    }
    Ok((&mut known.writer, bad))
}

impl KnownTable {
    /// # Errors
    /// [`Failure::Topic`] with every reason why records of this topic cannot be written as configured; or what kept the
    /// catalog from answering.
    pub(super) fn read(
        client: &mut Client,
        topic: &config::Topic,
        table: &config::Table,
    ) -> Result<KnownTable, Failure> {
        let refused = |text: String| Failure::Topic(Reason::new(text));
        let plan = match Catalog::read(client, table) {
            Ok(catalog) => TablePlan::new(topic, table, &catalog).map_err(|problems| refused(problems.join("; ")))?,
            Err(CatalogError::Database(error)) => return Err(sqlstate::failure(&error)),
            Err(error) => return Err(refused(format!("topic {:?}: {error}", topic.name))),
        };
        Ok(KnownTable { writer: TableWriter::new(Arc::new(plan)), read_at: Instant::now() })
    }
}
