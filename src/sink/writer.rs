//! A worker's connection: one transaction for a batch, fences first. Never retries what the engine must decide about.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use postgres::types::ToSql;
use postgres::{Error, Row};

use crate::config::{self, Config, Delivery, InsertMode, Target};
use crate::sink::backends::Backends;
use crate::sink::fence::Found;
use crate::sink::handler::{Handler, HandlerFactory};
use crate::sink::parked::typed;
use crate::sink::place::{Place, Places};
use crate::sink::postgres::OwnRows;
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
    Fences(Found),
    Reread,
    /// Fences, rows and what else there is in one.
    Fenced(TopicIx, Shape, Beside, Found),
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
            Name::Fences(_) | Name::Reread | Name::DeadLetters => None,
            Name::Fenced(topic, ..) | Name::Rows(topic, _) => Some(*topic),
        }
    }
}

/// See the module's text. Connects when first used; an outage makes the next call connect again.
pub struct PostgresWriter {
    pub(super) config: Arc<Config>,
    pub(super) ids: Arc<OwnRows>,
    pub(super) factories: Arc<HashMap<TopicIx, HandlerFactory>>,
    pub(super) session: Session<Name>,
    /// What the catalog said on this connection.
    pub(super) tables: HashMap<TopicIx, KnownTable>,
    pub(super) handlers: HashMap<TopicIx, Box<dyn Handler>>,
    pub(super) fences: FenceArrays,
    /// Whether fences are looked for where they were last: where PostgreSQL can be made to go straight there.
    by_place: bool,
    /// For the tenants of parked records.
    pub(super) router: Arc<Router>,
}

impl PostgresWriter {
    /// `name` is the worker thread's; the server shows it.
    pub fn new(
        config: Arc<Config>,
        shard: ShardIx,
        ids: Arc<OwnRows>,
        name: &str,
        handlers: Arc<HashMap<TopicIx, HandlerFactory>>,
    ) -> PostgresWriter {
        let mut session = Session::new(&config, shard, name);
        // Others' statements are planned on the same connection: what a handler sends, or an update by columns without an index.
        let by_index = |topic: &config::Topic| match &topic.target {
            Target::Table(table) => {
                table.insert_mode == InsertMode::Upsert
                    || table.insert_mode == InsertMode::Insert && !table.delete_enabled && table.delete_field.is_none()
            }
            Target::Handler => false,
        };
        let by_place = config.topics.iter().all(by_index) && session.avoid_scans();
        PostgresWriter {
            by_place,
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

    /// Tells which of the server's processes serves it, and whose locks it meets.
    pub fn known_to(mut self, backends: &Arc<Backends>) -> PostgresWriter {
        self.session.known_to(backends);
        self
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
            let source = self.ids.get(topic);
            self.fences.fill(source, moves);
            if self.by_place {
                self.fences.look_at(self.ids.places(), moves);
            }
        } else {
            self.fences.forget();
        }
        &settings.target
    }

    /// Nothing was done because fences were not where they were looked for: from now on by their keys.
    fn were_elsewhere(&mut self, result: &Result<Written, Failure>) -> bool {
        let elsewhere = self.fences.found() == Found::ByPlace && matches!(result, Ok(Written::Mismatch));
        if elsewhere {
            self.fences.by_key();
        }
        elsewhere
    }

    fn note_places(&self, result: &Result<Written, Failure>, moves: &[LaneMove]) {
        if let (true, Ok(Written::Applied(_))) = (self.by_place, result) {
            let (source, found) = (self.fences.source, self.fences.found());
            self.ids.places().moved(source, moves, found, &self.fences.moved.borrow());
        }
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
        let mut result = match self.begin(topic, job.moves, false) {
            Target::Table(_) => self.write_table(topic, job, None),
            Target::Handler => self.write_handled(topic, job),
        };
        if self.were_elsewhere(&result) {
            result = self.write_table(topic, job, None);
        }
        self.note_places(&result, job.moves);
        let result = result.map_err(|failure| match failure {
            // PostgreSQL does not say which; among one there is no doubt.
            Failure::Record(None, reason) => Failure::Record(only, reason),
            other => other,
        });
        self.session.settle(result)
    }

    fn write_with_care(&mut self, job: &Job<'_>, mut care: Care<'_, '_>) -> Result<Written, Failure> {
        let Some(topic) = job.batch.topic() else { return Ok(RowCounts::default().into()) };
        let mut result = match self.begin(topic, job.moves, care.probe) {
            Target::Table(_) => self.write_table(topic, job, Some(care.again())),
            Target::Handler => self.write_handled_with_care(topic, job, care.again()),
        };
        if self.were_elsewhere(&result) {
            result = self.write_table(topic, job, Some(care));
        }
        self.note_places(&result, job.moves);
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

    pub(super) fn ready_fences(&mut self, found: Found) -> Result<Ready, Error> {
        let make = || Text { sql: fence::batch(found, &[]), types: fence::batch_types().to_vec() };
        self.statements.get(&mut self.client, Name::Fences(found), make)
    }
}

/// The fence statement's parameters, filled anew for each batch.
#[derive(Debug, Default)]
pub(crate) struct FenceArrays {
    source: i32,
    partitions: Vec<i32>,
    lanes: Vec<i16>,
    tokens: Vec<i64>,
    expected: Vec<i64>,
    next: Vec<i64>,
    /// Where they are looked for; by their keys where it is empty.
    places: Vec<Place>,
    /// Where those of the last statement lie now.
    moved: RefCell<Vec<Place>>,
}

impl FenceArrays {
    pub(crate) fn fill(&mut self, source: i32, moves: &[LaneMove]) {
        debug_assert!(moves.is_sorted_by_key(|m| (m.partition, m.lane)), "locks are taken in this order");
        self.source = source;
        for column in [&mut self.tokens, &mut self.expected, &mut self.next] {
            column.clear();
        }
        self.partitions.clear();
        self.lanes.clear();
        self.forget();
        for each in moves {
            self.partitions.push(each.partition);
            self.lanes.push(smallint(each.lane));
            self.tokens.push(each.token.0);
            self.expected.push(each.expected.0);
            self.next.push(each.next.0);
        }
    }

    fn look_at(&mut self, places: &Places, moves: &[LaneMove]) {
        places.of(self.source, moves, &mut self.places);
    }

    /// There are none.
    fn forget(&mut self) {
        self.places.clear();
        self.moved.borrow_mut().clear();
    }

    fn by_key(&mut self) {
        self.places.clear();
    }

    pub(super) fn found(&self) -> Found {
        if self.places.is_empty() { Found::ByKey } else { Found::ByPlace }
    }

    /// What the fence statement says: whether everything happened.
    pub(crate) fn answer(&self, row: &Row) -> bool {
        let places: Option<Vec<Place>> = row.get(1);
        *self.moved.borrow_mut() = places.unwrap_or_default();
        row.get(0)
    }

    pub(super) fn source(&self) -> i32 {
        self.source
    }

    pub(crate) fn params(&self) -> [&(dyn ToSql + Sync); fence::BATCH_PARAMS] {
        [&self.source, &self.partitions, &self.lanes, &self.tokens, &self.expected, &self.next, &self.places]
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
