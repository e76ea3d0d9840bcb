//! A batch into a table. The common case, one shape of record, is a single statement: fences and rows in one round trip.
//!
//! The one thing done twice is what did nothing the first time: a statement that failed because its table was altered is
//! built anew from the catalog, once.

use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use postgres::{Client, Error, Statement};

use crate::config::{self, Delivery, Target};
use crate::sink::catalog::{Catalog, CatalogError};
use crate::sink::dead_letter::Letters;
use crate::sink::session::Live;
use crate::sink::sift_table::Sifting;
use crate::sink::table::{TablePlan, TableWriter};
use crate::sink::writer::{FenceArrays, Name, PostgresWriter};
use crate::sink::{BadRecord, Failure, Reason, RowCounts, Tolerates, Written, dead_letter, fence, sqlstate};
use crate::state::batch::Batch;
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
        batch: &Batch,
        range: Range<usize>,
        mut tolerates: Option<&mut Tolerates<'_>>,
    ) -> Result<Written, Failure> {
        match self.try_table(topic, batch, range.clone(), tolerates.as_mut().map(|t| &mut **t as &mut Tolerates<'_>)) {
            Ok(written) => Ok(written),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Altered(failure)) => {
                tracing::info!(
                    topic = self.topic_name(topic),
                    "reading the table's columns again after: {}",
                    failure.reason()
                );
                // A new connection also looks whether forebay's own tables are there.
                self.session.close();
                match self.try_table(topic, batch, range, tolerates) {
                    Ok(written) => Ok(written),
                    Err(Stop::Failed(failure) | Stop::Altered(failure)) => Err(self.about(topic, failure)),
                }
            }
        }
    }

    /// Without `tolerates` a record at fault fails the whole.
    fn try_table(
        &mut self,
        topic: TopicIx,
        batch: &Batch,
        range: Range<usize>,
        tolerates: Option<&mut Tolerates<'_>>,
    ) -> Result<Written, Stop> {
        let settings = &self.config.topics[usize::from(topic.0)];
        let Target::Table(table) = &settings.target else { unreachable!("only table topics come here") };
        let (live, fresh) = self.session.open()?;
        if fresh {
            self.tables.clear();
        }
        let known = match self.tables.entry(topic) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(read_table(&mut live.client, settings, table)?),
        };
        let mut bad = Vec::new();
        known.writer.load(batch, range.clone(), &mut bad);
        if !bad.is_empty() && known.read_at.elapsed() > PLAN_TRUSTED {
            *known = read_table(&mut live.client, settings, table)?;
            // What the old plan called a shape is another one now.
            live.statements.forget(|name| name.topic() == Some(topic));
            bad.clear();
            known.writer.load(batch, range.clone(), &mut bad);
        }
        if let Some(tolerates) = tolerates {
            let of = self.fences.of(&self.config, topic);
            // Nobody has tried yet whether PostgreSQL takes the others.
            if !bad.is_empty() && known.writer.groups() == 1 {
                if !tolerates(&bad) {
                    return Err(Failure::Record(Some(bad[0].index), bad[0].reason.clone()).into());
                }
                if let [letters] = &Letters::new(of, batch, &bad)[..] {
                    let counts = RowCounts { dead: bad.len() as u32, ..known.writer.counts() };
                    match live.fenced_letters(topic, &known.writer, &self.fences, letters).map_err(Stop::from) {
                        Ok(true) => return Ok(Written::Applied(counts)),
                        Ok(false) => return Ok(Written::Mismatch),
                        Err(Stop::Failed(Failure::Record(..))) => {}
                        Err(other) => return Err(other),
                    }
                }
            }
            // Else they were refused: this is called behind a try without a word about a record.
            let refused = bad.is_empty() || known.writer.groups() == 1;
            let alone = range.len() == 1;
            let mut sifting = Sifting { topic, of, batch, alone, writer: &mut known.writer, tolerates };
            let result = sifting.run(live, range, bad, refused, &self.fences);
            if !matches!(result, Ok(Written::Applied(_))) && live.client.batch_execute("ROLLBACK").is_err() {
                self.session.close();
            }
            return result;
        }
        if let Some(BadRecord { index, reason }) = bad.into_iter().next() {
            return Err(Failure::Record(Some(index), reason).into());
        }
        let writer = &known.writer;
        let fences = (settings.delivery == Delivery::ExactlyOnce).then_some(&self.fences);
        let counts = writer.counts();
        let applied = match (fences, writer.groups()) {
            (None, 0) => true,
            (None, 1) => live.rows(topic, writer, 0).map(|()| true)?,
            (Some(fences), 0) => live.fences(fences)?,
            (Some(fences), 1) => live.fenced_rows(topic, writer, fences)?,
            (fences, _) => {
                let result = live.transaction(topic, writer, fences);
                if !matches!(result, Ok(true)) && live.client.batch_execute("ROLLBACK").is_err() {
                    // Whatever is wrong with the connection, it ends the transaction when it goes.
                    self.session.close();
                }
                result?
            }
        };
        Ok(if applied { Written::Applied(counts) } else { Written::Mismatch })
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

impl Live<Name> {
    fn prepared_rows(&mut self, topic: TopicIx, table: &TableWriter, group: usize) -> Result<Statement, Error> {
        let make = || (table.sql(group, 1, None), table.param_types(group));
        self.statements.get(&mut self.client, Name::Rows(topic, table.shape(group)), make)
    }

    fn fences(&mut self, fences: &FenceArrays) -> Result<bool, Error> {
        let statement = self.prepared_fences()?;
        Ok(self.client.query_one(&statement, &fences.params())?.get(0))
    }

    pub(super) fn rows(&mut self, topic: TopicIx, table: &TableWriter, group: usize) -> Result<(), Error> {
        let statement = self.prepared_rows(topic, table, group)?;
        self.client.execute(&statement, &table.params(group))?;
        Ok(())
    }

    /// The common case: everything in one statement, which is a transaction of its own.
    fn fenced_rows(&mut self, topic: TopicIx, table: &TableWriter, fences: &FenceArrays) -> Result<bool, Error> {
        let make = || {
            let rows = table.sql(0, fence::BATCH_PARAMS + 1, Some(fence::CONDITION));
            let mut types = fence::batch_types().to_vec();
            types.extend(table.param_types(0));
            (fence::batch(&[&rows]), types)
        };
        let statement = self.statements.get(&mut self.client, Name::Fenced(topic, table.shape(0)), make)?;
        let mut params: Vec<&(dyn ToSql + Sync)> = fences.params().to_vec();
        params.extend(table.params(0));
        Ok(self.client.query_one(&statement, &params)?.get(0))
    }

    /// As `fenced_rows`, and what does not decode into the dead letters.
    fn fenced_letters(
        &mut self,
        topic: TopicIx,
        table: &TableWriter,
        fences: &FenceArrays,
        letters: &Letters<'_>,
    ) -> Result<bool, Error> {
        let shape = table.shape(0);
        let make = || {
            let first = fence::BATCH_PARAMS + 1;
            let rows = table.sql(0, first, Some(fence::CONDITION));
            let columns = table.param_types(0);
            let letters = dead_letter::sql(first + columns.len(), Some(fence::CONDITION));
            let types = [&fence::batch_types()[..], &columns, &dead_letter::types()].concat();
            (fence::batch(&[&rows, &letters]), types)
        };
        let statement = self.statements.get(&mut self.client, Name::FencedLetters(topic, shape), make)?;
        let params = [&fences.params()[..], &table.params(0), &letters.params()].concat();
        Ok(self.client.query_one(&statement, &params)?.get(0))
    }

    /// Several statements: fences first, then the groups in their order. The caller rolls back what did not succeed.
    fn transaction(
        &mut self,
        topic: TopicIx,
        table: &TableWriter,
        fences: Option<&FenceArrays>,
    ) -> Result<bool, Error> {
        // Prepared before the transaction begins, so that it holds its locks for its own statements only.
        let fence_statement = fences.map(|_| self.prepared_fences()).transpose()?;
        let groups: Vec<Statement> =
            (0..table.groups()).map(|group| self.prepared_rows(topic, table, group)).collect::<Result<_, _>>()?;
        self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")?;
        if let (Some(fences), Some(statement)) = (fences, fence_statement)
            && !self.client.query_one(&statement, &fences.params())?.get::<_, bool>(0)
        {
            return Ok(false);
        }
        for (group, statement) in groups.iter().enumerate() {
            self.client.execute(statement, &table.params(group))?;
        }
        self.client.batch_execute("COMMIT")?;
        Ok(true)
    }
}

/// # Errors
/// [`Failure::Topic`] with every reason why records of this topic cannot be written as configured; or what kept the
/// catalog from answering.
fn read_table(client: &mut Client, topic: &config::Topic, table: &config::Table) -> Result<KnownTable, Failure> {
    let refused = |text: String| Failure::Topic(Reason::new(text));
    let plan = match Catalog::read(client, table) {
        Ok(catalog) => TablePlan::new(topic, table, &catalog).map_err(|problems| refused(problems.join("; ")))?,
        Err(CatalogError::Database(error)) => return Err(sqlstate::failure(&error)),
        Err(error) => return Err(refused(format!("topic {:?}: {error}", topic.name))),
    };
    Ok(KnownTable { writer: TableWriter::new(Arc::new(plan)), read_at: Instant::now() })
}
