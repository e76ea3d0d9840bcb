//! The slow lane's connection: reads the first parked records of some keys, applies them and takes them out, in one transaction.
//! Never waits for a row that somebody else has locked, and never for another slow lane.

use std::collections::BTreeSet;
use std::sync::Arc;

use postgres::{GenericClient, IsolationLevel};

use crate::config::{Target, Then};
use crate::sink::aside::Aside;
use crate::sink::careful_table::TablePieces;
use crate::sink::dead_letter::{self, Letters, Of};
use crate::sink::parked::{self, State, typed};
use crate::sink::session::own_failure;
use crate::sink::sift::Pieces;
use crate::sink::table::TableWriter;
use crate::sink::write_handler::{Call, HandlerPieces, commit};
use crate::sink::write_table::{Stop, loaded};
use crate::sink::writer::PostgresWriter;
use crate::sink::{BadRecord, Drain, DrainLimits, Drained, Failure, ParkedRecord, Reason, SlowLane, Waiting, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::{Blocks, Chunk, RawRecord};
use crate::state::tolerance::Tolerance;
use crate::types::{Generation, KeyHash, NextOffset, Offset, Token, TopicIx, TopicPartition};

/// Rows that are locked are seen by the probe; a lock that it does not show is not waited for long, because other keys wait, too.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '100ms'";

impl SlowLane for PostgresWriter {
    fn read(&mut self, topic: TopicIx, keys: &[(i32, KeyHash)], limits: DrainLimits) -> Result<Vec<Waiting>, Failure> {
        let result = self.read_waiting(topic, keys, limits);
        self.session.settle(result)
    }

    fn drain(&mut self, topic: TopicIx, keys: &[Waiting], how: &mut Drain) -> Result<Vec<Drained>, Failure> {
        let lot = Lot::new(topic, keys, *how);
        let result = match self.config.topics[usize::from(topic.0)].target {
            Target::Table(_) => self.drain_table(&lot),
            Target::Handler => self.drain_handled(&lot),
        };
        let (drained, tolerance) = self.session.settle(result)?;
        how.tolerance = tolerance;
        Ok(drained)
    }

    fn tidy(&mut self) -> Result<(), Failure> {
        let result = self.session.open().and_then(|(live, _)| {
            // A role that does not own the table gets a warning, and autovacuum does it, later.
            live.client.batch_execute("VACUUM forebay.parked").map_err(|error| own_failure(&error))
        });
        self.session.settle(result)
    }
}

impl PostgresWriter {
    fn read_waiting(
        &mut self,
        topic: TopicIx,
        keys: &[(i32, KeyHash)],
        limits: DrainLimits,
    ) -> Result<Vec<Waiting>, Failure> {
        let source = self.ids.get(topic);
        let partitions: Vec<i32> = keys.iter().map(|(partition, _)| *partition).collect();
        let hashes: Vec<i64> = keys.iter().map(|(_, hash)| *hash).collect();
        let each = |all: usize| (all / keys.len().max(1)).max(1) as i64;
        let records = each(limits.records_max).min(limits.key_records_max.try_into().unwrap_or(i64::MAX));
        let bytes = each(limits.bytes_max);
        let (live, _) = self.session.open()?;
        let params = typed(&[&source, &partitions, &hashes, &records, &bytes], &parked::READ_TYPES);
        let rows = live.client.query_typed(parked::READ, &params).map_err(|error| own_failure(&error))?;
        let mut waiting: Vec<(i64, Waiting)> = Vec::new();
        for row in &rows {
            let n: i64 = row.get(0);
            if waiting.last().is_none_or(|(last, _)| *last != n) {
                let (partition, hash) = keys[(n - 1) as usize];
                let (dead, tries) = (row.get::<_, i8>(3) == State::Dead.letter(), row.get::<_, i32>(4) as u32);
                // A replay forgets what was wrong, and not that it was tried.
                let (unroutable, error) = (row.get::<_, i8>(8) == parked::UNROUTABLE, row.get::<_, Option<String>>(9));
                // What names no shard has one try, and its error, from the beginning.
                let replayed = !dead && if unroutable { tries > 1 } else { tries > 0 && error.is_none() };
                waiting.push((n, Waiting { partition, hash, dead, tries, replayed, records: Vec::new() }));
            }
            let Some((_, key)) = waiting.last_mut().filter(|(_, key)| !key.dead) else { continue };
            key.records.push(ParkedRecord {
                offset: Offset(row.get(1)),
                timestamp_ms: row.get::<_, Option<i64>>(2).unwrap_or(-1),
                key: row.get(5),
                value: row.get(6),
                headers: row.get::<_, Option<Vec<u8>>>(7).unwrap_or_default(),
                unroutable: (row.get::<_, i8>(8) == parked::UNROUTABLE)
                    .then(|| row.get::<_, Option<String>>(9).unwrap_or_default()),
            });
        }
        Ok(waiting.into_iter().map(|(_, key)| key).collect())
    }

    fn drain_table(&mut self, lot: &Lot<'_>) -> Result<Judged, Failure> {
        let source = self.ids.get(lot.topic);
        let of = Of::new(source, &self.config, lot.topic);
        let settings = &self.config.topics[usize::from(lot.topic.0)];
        let Target::Table(table) = &settings.target else { unreachable!("only table topics come here") };
        let (live, fresh) = self.session.open()?;
        if fresh {
            self.tables.clear();
        }
        let every: BTreeSet<usize> = (0..lot.keys.len()).collect();
        let mut drain = || -> Result<Judged, Stop> {
            // Before the transaction begins: the catalog is read in one of its own.
            let (mut records, mut bad) = lot.to_apply(&every);
            let load = |writer: &mut TableWriter, records: &[usize]| {
                let mut undecoded = Vec::new();
                writer.load(&lot.batch, records.iter().copied(), &mut undecoded);
                undecoded
            };
            let (writer, undecoded) =
                loaded(&mut self.tables, lot.topic, live, settings, table, |writer| load(writer, &records))?;
            bad.extend(undecoded);
            live.client.batch_execute(BEGIN)?;
            let locked = lot.lock(&mut live.client, source)?;
            // Another slow lane has the others.
            if locked != every {
                (records, bad) = lot.to_apply(&locked);
                bad.extend(load(writer, &records));
            }
            let mut pieces = TablePieces::new(lot.topic, &lot.batch, writer, lot.how.then, records.len() == 1, live);
            pieces.impatient = lot.impatient();
            pieces.probe(0)?;
            bad.into_iter().for_each(|bad| pieces.bad(bad));
            pieces.apply(&records, false)?;
            let TablePieces { mut aside, .. } = pieces;
            let drained = lot.finish(&mut live.client, of, &locked, &mut aside)?;
            live.client.batch_execute("COMMIT")?;
            Ok(drained)
        };
        let result = drain();
        live.roll_back_unless(result.is_ok());
        result.map_err(|stop| match stop {
            // The next try reads the catalog again; if it was read only now, there is something else wrong.
            Stop::Altered(failure) => {
                live.statements.forget(|name| name.topic() == Some(lot.topic));
                match self.tables.remove(&lot.topic).is_some_and(|known| known.is_old()) {
                    true => Failure::Transient(failure.reason().clone()),
                    false => failure,
                }
            }
            Stop::Failed(failure) => failure,
        })
    }

    fn drain_handled(&mut self, lot: &Lot<'_>) -> Result<Judged, Failure> {
        let failed = |error: postgres::Error| sqlstate::failure(&error);
        let config = Arc::clone(&self.config);
        let settings = &config.topics[usize::from(lot.topic.0)];
        let source = self.ids.get(lot.topic);
        let (live, _) = self.session.open()?;
        let mut call = Call::new(lot.topic, &settings.name, &self.factories, &mut self.handlers)?;
        let begin = live.client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start();
        let mut transaction = begin.map_err(failed)?;
        let locked = lot.lock(&mut transaction, source)?;
        let (records, unroutable) = lot.to_apply(&locked);
        let mut pieces = HandlerPieces::new(&mut call, &mut transaction, &lot.batch, lot.how.then, records.len() == 1);
        pieces.impatient = lot.impatient();
        unroutable.into_iter().for_each(|bad| pieces.bad(bad));
        pieces.apply(&records, true)?;
        let HandlerPieces { mut aside, .. } = pieces;
        let drained = lot.finish(&mut transaction, Of::new(source, &config, lot.topic), &locked, &mut aside)?;
        commit(transaction, &settings.name)?;
        Ok(drained)
    }
}

/// What became of each key, and what follows for the topic's tolerance.
type Judged = (Vec<Drained>, Option<Tolerance>);

/// What is drained in one transaction.
struct Lot<'a> {
    topic: TopicIx,
    keys: &'a [Waiting],
    how: Drain,
    /// All records by partition and offset.
    batch: Batch,
    /// Of each key: its records' indices in the batch.
    indices: Vec<Vec<usize>>,
}

impl<'a> Lot<'a> {
    fn new(topic: TopicIx, keys: &'a [Waiting], how: Drain) -> Lot<'a> {
        let mut order: Vec<(i32, Offset, usize, &ParkedRecord)> = Vec::new();
        let (mut chunk, mut blocks) = (Chunk::new(topic), Blocks::default());
        for (key, waiting) in keys.iter().enumerate() {
            let at = TopicPartition { topic, partition: waiting.partition };
            chunk.open_run(at, 0, Generation(0), Token(0), NextOffset(0));
            order.extend(waiting.records.iter().map(|record| (waiting.partition, record.offset, key, record)));
        }
        order.sort_by_key(|(partition, offset, ..)| (*partition, *offset));
        let mut indices = vec![Vec::new(); keys.len()];
        for (index, (_, offset, key, record)) in order.into_iter().enumerate() {
            let raw = RawRecord {
                offset,
                timestamp_ms: record.timestamp_ms,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &record.headers,
            };
            chunk.push_hashed(key as u32, 0, 0, keys[key].hash, &raw, &mut blocks);
            record.unroutable.iter().for_each(|why| chunk.mark_unroutable(why));
            indices[key].push(index);
        }
        let mut batch = Batch::new();
        batch.push(Box::new(chunk));
        Lot { topic, keys, how, batch, indices }
    }

    /// The first record, where it has waited for its parent long enough.
    fn impatient(&self) -> Option<usize> {
        let [key] = self.keys else { return None };
        self.indices[0].first().copied().filter(|_| self.how.is_last_try(key.tries))
    }

    /// Locks the keys' first rows; answers the keys that are ours for as long as the transaction lasts.
    fn lock(&self, client: &mut impl GenericClient, source: i32) -> Result<BTreeSet<usize>, Failure> {
        let with_rows: Vec<usize> = (0..self.keys.len()).filter(|key| !self.keys[*key].records.is_empty()).collect();
        let partitions: Vec<i32> = with_rows.iter().map(|key| self.keys[*key].partition).collect();
        let hashes: Vec<i64> = with_rows.iter().map(|key| self.keys[*key].hash).collect();
        let offsets: Vec<i64> = with_rows.iter().map(|key| self.keys[*key].records[0].offset.0).collect();
        let params = typed(&[&source, &partitions, &hashes, &offsets], &parked::ROWS);
        let rows = client.query_typed(parked::LOCK_HEADS, &params).map_err(|error| own_failure(&error))?;
        Ok(rows.iter().filter_map(|row| with_rows.get((row.get::<_, i64>(0) - 1) as usize).copied()).collect())
    }

    fn records_of(&self, keys: &BTreeSet<usize>) -> Vec<usize> {
        let mut records: Vec<usize> = keys.iter().flat_map(|key| self.indices[*key].iter().copied()).collect();
        records.sort_unstable();
        records
    }

    /// The records of these keys, and those of them that name no shard.
    fn to_apply(&self, keys: &BTreeSet<usize>) -> (Vec<usize>, Vec<BadRecord>) {
        let (mut named, mut bad) = (Vec::new(), Vec::new());
        for index in self.records_of(keys) {
            match self.batch.unroutable(index) {
                None => named.push(index),
                Some(why) => bad.push(BadRecord { index, reason: Reason::new(why) }),
            }
        }
        (named, bad)
    }

    /// Takes out what was applied, and what became dead letters; notes what is wrong with what waits. Says what became of each key.
    fn finish(
        &self,
        client: &mut impl GenericClient,
        of: Of<'_>,
        locked: &BTreeSet<usize>,
        aside: &mut Aside,
    ) -> Result<Judged, Failure> {
        let batch = &self.batch;
        aside.settle(batch);
        let tolerance = self.judge(locked, aside)?;
        if self.how.then == Then::Skip {
            for letters in Letters::new(of, batch, aside.bad_ones()) {
                let params = typed(&letters.params(), &dead_letter::types());
                client.query_typed(&dead_letter::sql(1, None), &params).map_err(|error| own_failure(&error))?;
            }
        }
        let bad: BTreeSet<usize> = aside.bad_ones().iter().map(|b| b.index).collect();
        let waits = |index: &usize| aside.waits_behind(batch, *index).is_some();
        let out: Vec<usize> = self.records_of(locked).into_iter().filter(|index| !waits(index)).collect();
        let (partitions, hashes, offsets) = self.places(&out);
        let params = typed(&[&of.source, &partitions, &hashes, &offsets], &parked::ROWS);
        let taken = client.execute_typed(parked::TAKE_OUT, &params).map_err(|error| own_failure(&error))?;
        if taken != out.len() as u64 {
            // A database that fell back since has the first row, and not the others: Kafka brings those again.
            return Err(Failure::Transient(Reason::new("parked records are gone that were read a moment ago")));
        }
        self.note(client, of.source, locked, aside)?;
        let outcome = |key: usize| {
            if !locked.contains(&key) {
                return Drained::Busy;
            }
            let of_key = &self.indices[key];
            let rows = of_key.iter().filter(|index| !waits(index)).count();
            debug_assert!(of_key[..rows].iter().all(|index| !waits(index)), "what waits of a key is its end");
            match of_key.get(rows).map(|first| aside.head(batch, *first)) {
                None => {
                    let dead = of_key.iter().filter(|index| bad.contains(index)).count();
                    Drained::Taken { rows: rows as u64, dead: dead as u64 }
                }
                Some(Some((State::Dead, reason))) => Drained::Dead { rows: rows as u64, reason: reason.clone() },
                Some(Some((State::Waiting, reason))) => Drained::Waits { rows: rows as u64, reason: reason.clone() },
                Some(None) => {
                    Drained::Waits { rows: rows as u64, reason: Reason::new("its row is locked by somebody else") }
                }
            }
        };
        Ok(((0..self.keys.len()).map(outcome).collect(), tolerance))
    }

    /// Whether all that is bad may become dead letters. What waits has not been judged; and a letter that a person wanted tried
    /// again, and that is one still, is none more.
    fn judge(&self, locked: &BTreeSet<usize>, aside: &Aside) -> Result<Option<Tolerance>, Failure> {
        let batch = &self.batch;
        let bad: BTreeSet<usize> = aside.bad_ones().iter().map(|b| b.index).collect();
        let replayed = self.keys.iter().zip(&self.indices).filter(|(key, _)| key.replayed);
        let replayed: BTreeSet<usize> = replayed.filter_map(|(_, of_key)| of_key.first().copied()).collect();
        let judged = |index: &usize| match bad.contains(index) {
            true => !replayed.contains(index),
            false => aside.waits_behind(batch, *index).is_none(),
        };
        let judged: Vec<usize> = self.records_of(locked).into_iter().filter(judged).collect();
        let bad = (0..judged.len()).filter(|place| bad.contains(&judged[*place]));
        let limit = match self.how.tolerance {
            Some(tolerance) => match tolerance.after(0..judged.len(), bad) {
                Ok(after) => return Ok(Some(after)),
                Err(limit) => format!("; stopping because of {limit}"),
            },
            None => String::new(),
        };
        let Some(first) = aside.bad_ones().first() else { return Ok(None) };
        let record = batch.record(first.index);
        let text = format!("partition {} offset {}: {}{limit}", record.partition, record.offset, first.reason.text);
        Err(Failure::Record(None, Reason { text, ..first.reason.clone() }))
    }

    /// Where these records are in the table.
    fn places(&self, records: &[usize]) -> (Vec<i32>, Vec<i64>, Vec<i64>) {
        let place = |index: &usize| {
            let (meta, run) = self.batch.meta(*index);
            (run.partition, meta.hash, meta.offset.0)
        };
        let (mut partitions, mut hashes, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
        for (partition, hash, offset) in records.iter().map(place) {
            partitions.push(partition);
            hashes.push(hash);
            offsets.push(offset);
        }
        (partitions, hashes, offsets)
    }

    fn note(
        &self,
        client: &mut impl GenericClient,
        source: i32,
        locked: &BTreeSet<usize>,
        aside: &Aside,
    ) -> Result<(), Failure> {
        let heads: Vec<(usize, State, &Reason)> = self
            .records_of(locked)
            .into_iter()
            .filter_map(|index| aside.head(&self.batch, index).map(|(state, reason)| (index, state, reason)))
            .collect();
        if heads.is_empty() {
            return Ok(());
        }
        let (partitions, hashes, offsets) = self.places(&heads.iter().map(|(index, ..)| *index).collect::<Vec<_>>());
        let states: Vec<i8> = heads.iter().map(|(_, state, _)| state.letter()).collect();
        let codes: Vec<Option<&str>> = heads.iter().map(|(.., reason)| reason.sqlstate.as_deref()).collect();
        let errors: Vec<String> = heads.iter().map(|(.., reason)| dead_letter::error_text(reason)).collect();
        let params = typed(&[&source, &partitions, &hashes, &offsets, &states, &codes, &errors], &parked::NOTE_TYPES);
        client.query_typed(parked::NOTE, &params).map(|_| ()).map_err(|error| own_failure(&error))
    }
}
