//! A worker's connection: one transaction for a batch, fences first. Never retries what the engine must decide about.

use std::collections::HashMap;
use std::sync::Arc;

use postgres::Error;
use postgres::types::ToSql;

use crate::config::{Config, Delivery, Target};
use crate::sink::handler::{Handler, HandlerFactory};
use crate::sink::parked::typed;
use crate::sink::postgres::SourceIds;
use crate::sink::session::{Live, Ready, Session, Text, own_failure};
use crate::sink::table::Shape;
use crate::sink::write_table::KnownTable;
use crate::sink::{
    BadRecord, Care, Failure, FenceRow, Job, Reason, RowCounts, Writer, Written, dead_letter, fence, parked,
};
use crate::state::batch::LaneMove;
use crate::state::parked::Tail;
use crate::state::router::Router;
use crate::types::{KeyHash, Lane, NextOffset, ShardIx, Token, TopicIx};

/// Names a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Fences,
    Reread,
    /// Fences, rows and what else there is in one.
    Fenced(TopicIx, Shape, Beside),
    Rows(TopicIx, Shape),
    DeadLetters,
}

/// What a batch puts into one of forebay's own tables beside the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Beside {
    Nothing,
    Parked,
    Letters,
}

impl Name {
    pub(super) fn topic(&self) -> Option<TopicIx> {
        match self {
            Name::Fences | Name::Reread | Name::DeadLetters => None,
            Name::Fenced(topic, ..) | Name::Rows(topic, _) => Some(*topic),
        }
    }
}

/// See the module's text. Connects when first used; an outage makes the next call connect again.
pub struct PostgresWriter {
    pub(super) config: Arc<Config>,
    pub(super) ids: Arc<SourceIds>,
    pub(super) factories: Arc<HashMap<TopicIx, HandlerFactory>>,
    pub(super) session: Session<Name>,
    /// What the catalog said on this connection.
    pub(super) tables: HashMap<TopicIx, KnownTable>,
    pub(super) handlers: HashMap<TopicIx, Box<dyn Handler>>,
    pub(super) fences: FenceArrays,
    /// For the tenants of parked records.
    pub(super) router: Arc<Router>,
}

impl PostgresWriter {
    /// `name` is the worker thread's; the server shows it.
    pub fn new(
        config: Arc<Config>,
        shard: ShardIx,
        ids: Arc<SourceIds>,
        name: &str,
        handlers: Arc<HashMap<TopicIx, HandlerFactory>>,
    ) -> PostgresWriter {
        let session = Session::new(&config, shard, name);
        PostgresWriter {
            router: Arc::new(Router::new(&config)),
            config,
            ids,
            factories: handlers,
            session,
            tables: HashMap::new(),
            handlers: HashMap::new(),
            fences: FenceArrays::default(),
        }
    }

    /// Takes over what reloads of the configuration.
    pub fn following(mut self, live: Arc<crate::config::live::Live>, shard: ShardIx) -> PostgresWriter {
        self.session.follow(live, shard);
        self
    }

    /// Lays out the fences' parameters. Where keys can be parked, nobody waits long for their locks; once a probe has shown which those
    /// are, what is still in the way may be about every key of the batch, and is waited for.
    fn begin(&mut self, topic: TopicIx, moves: &[LaneMove], probe: bool) -> &Target {
        let settings = &self.config.topics[usize::from(topic.0)];
        let may_park = settings.delivery == Delivery::ExactlyOnce;
        self.session.wait_for_locks((may_park && !probe).then_some(self.config.engine.park_after));
        if may_park {
            self.fences.fill(self.ids.get(topic), moves);
        }
        &settings.target
    }

    fn read_parked(&mut self, topic: TopicIx, keys: &[(i32, KeyHash)]) -> Result<Vec<(i32, Tail)>, Failure> {
        let source = self.ids.get(topic);
        let partitions: Vec<i32> = keys.iter().map(|(partition, _)| *partition).collect();
        let hashes: Vec<i64> = keys.iter().map(|(_, hash)| *hash).collect();
        let (live, _) = self.session.open()?;
        let result = live.client.query_typed(parked::OF_KEYS, &typed(&[&source, &partitions, &hashes], &parked::KEYS));
        let rows = result.map_err(|error| own_failure(&error))?;
        Ok(rows.iter().map(|row| (row.get(0), parked::tail(row, 1))).collect())
    }

    fn read_again(&mut self, topic: TopicIx, lanes: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure> {
        let source = self.ids.get(topic);
        let partitions: Vec<i32> = lanes.iter().map(|(partition, _)| *partition).collect();
        let numbers: Vec<i16> = lanes.iter().map(|(_, lane)| smallint(*lane)).collect();
        let (live, _) = self.session.open()?;
        let make = || Text { sql: fence::REREAD.text.to_owned(), types: fence::REREAD.types.to_vec() };
        let result = live
            .statements
            .get(&mut live.client, Name::Reread, make)
            .and_then(|statement| statement.query(&mut live.client, &[&source, &partitions, &numbers]));
        let rows = result.map_err(|error| own_failure(&error))?;
        Ok(rows.iter().map(fence_row).collect())
    }
}

impl Writer for PostgresWriter {
    fn write(&mut self, job: &Job<'_>) -> Result<Written, Failure> {
        let Some(topic) = job.batch.topic() else { return Ok(RowCounts::default().into()) };
        let only = (job.range.len() == 1).then_some(job.range.start);
        if let Some(BadRecord { index, reason }) = unroutable(job).into_iter().next() {
            return Err(Failure::Record(Some(index), reason));
        }
        let result = match self.begin(topic, job.moves, false) {
            Target::Table(_) => self.write_table(topic, job, None),
            Target::Handler => self.write_handled(topic, job),
        };
        let result = result.map_err(|failure| match failure {
            // PostgreSQL does not say which; among one there is no doubt.
            Failure::Record(None, reason) => Failure::Record(only, reason),
            other => other,
        });
        self.session.settle(result)
    }

    fn write_with_care(&mut self, job: &Job<'_>, care: Care<'_, '_>) -> Result<Written, Failure> {
        let Some(topic) = job.batch.topic() else { return Ok(RowCounts::default().into()) };
        let result = match self.begin(topic, job.moves, care.probe) {
            Target::Table(_) => self.write_table(topic, job, Some(care)),
            Target::Handler => self.write_handled_with_care(topic, job, care),
        };
        self.session.settle(result)
    }

    fn parked(&mut self, topic: TopicIx, keys: &[(i32, KeyHash)]) -> Result<Vec<(i32, Tail)>, Failure> {
        let result = self.read_parked(topic, keys);
        self.session.settle(result)
    }

    fn reread(&mut self, topic: TopicIx, lanes: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure> {
        let result = self.read_again(topic, lanes);
        self.session.settle(result)
    }
}

/// The records to apply that name no shard: bad without a look at what they hold.
pub(super) fn unroutable(job: &Job<'_>) -> Vec<BadRecord> {
    let bad = |index| job.batch.unroutable(index).map(|why| BadRecord { index, reason: Reason::new(why) });
    match job.batch.has_unroutable() {
        true => job.to_apply().into_iter().filter_map(bad).collect(),
        false => Vec::new(),
    }
}

impl Live<Name> {
    pub(super) fn ready_letters(&mut self) -> Result<Ready, Error> {
        let make = || Text { sql: dead_letter::sql(1, None), types: dead_letter::types().to_vec() };
        self.statements.get(&mut self.client, Name::DeadLetters, make)
    }

    pub(super) fn ready_fences(&mut self) -> Result<Ready, Error> {
        let make = || Text { sql: fence::batch(&[]), types: fence::batch_types().to_vec() };
        self.statements.get(&mut self.client, Name::Fences, make)
    }
}

/// The fence statement's parameters, filled anew for each batch.
#[derive(Debug, Default)]
pub(super) struct FenceArrays {
    source: i32,
    partitions: Vec<i32>,
    lanes: Vec<i16>,
    tokens: Vec<i64>,
    expected: Vec<i64>,
    next: Vec<i64>,
}

impl FenceArrays {
    fn fill(&mut self, source: i32, moves: &[LaneMove]) {
        debug_assert!(moves.is_sorted_by_key(|m| (m.partition, m.lane)), "locks are taken in this order");
        self.source = source;
        for column in [&mut self.tokens, &mut self.expected, &mut self.next] {
            column.clear();
        }
        self.partitions.clear();
        self.lanes.clear();
        for each in moves {
            self.partitions.push(each.partition);
            self.lanes.push(smallint(each.lane));
            self.tokens.push(each.token.0);
            self.expected.push(each.expected.0);
            self.next.push(each.next.0);
        }
    }

    pub(super) fn source(&self) -> i32 {
        self.source
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); fence::BATCH_PARAMS] {
        [&self.source, &self.partitions, &self.lanes, &self.tokens, &self.expected, &self.next]
    }
}

fn fence_row(row: &postgres::Row) -> FenceRow {
    let lane: i16 = row.get(1);
    FenceRow {
        partition: row.get(0),
        lane: Lane::try_from(lane).unwrap_or(Lane::MAX),
        next: NextOffset(row.get(2)),
        token: Token(row.get(3)),
    }
}

/// Lanes are numbered below 2^15: the configuration and the table both say so.
fn smallint(lane: Lane) -> i16 {
    i16::try_from(lane).expect("a lane's number fits a smallint")
}
