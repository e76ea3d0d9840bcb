//! Is a request a record that its table can take, and which record is it: value, key, partition. Value in, value out: it waits for nobody,
//! knows no connection and asks no clock. Types and fields are judged by the consumer's own decoder, so that the two cannot disagree.
//!
//! What only the database can tell passes: unique and foreign keys, CHECK and exclusion constraints, what triggers refuse, values that are
//! too long for another index than the primary key's, the texts of types that PostgreSQL reads itself (interval, citext, macaddr), and
//! whether the row of a partial PATCH is there. Then it is a dead letter, as of any other producer.

mod document;
mod key;
#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::ingest::{Method, Mode};
use crate::ingest::problem::Problem;
use crate::ingest::rules::{RouteRules, Rules, Variant};
use crate::metrics::labelled::Refused;
use crate::sink::fold::Op;
use crate::sink::plan::TablePlan;
use crate::sink::table::TableWriter;
use crate::state::chunk::{Headers, RawRecord, RecordRef};
use crate::state::placement::Misplaced;
use crate::types::{Offset, ShardIx};

use document::{Document, Published};
use key::Key;

/// What of a request matters here.
pub struct Asked<'r> {
    pub route: usize,
    pub method: Method,
    /// Of the path, in its order.
    pub values: &'r [Cow<'r, str>],
    pub body: &'r [u8],
    /// Packed, under the records' names.
    pub headers: &'r [u8],
    pub now_ms: i64,
}

/// A record that its table can take, as far as anybody knows here.
#[derive(Debug)]
pub struct Passed<'d> {
    pub topic: usize,
    pub shard: ShardIx,
    pub partition: i32,
    pub key: &'d [u8],
    pub value: Option<&'d [u8]>,
    /// What it was judged by.
    pub plan: Arc<TablePlan>,
}

/// One thread's: rules, and buffers that are used again.
pub struct Door {
    rules: Arc<Rules>,
    /// By route and variant.
    writers: Vec<Vec<TableWriter>>,
    work: Work,
}

/// What is made of a request.
#[derive(Default)]
struct Work {
    document: Document,
    key: Key,
}

impl Door {
    pub fn new(rules: Arc<Rules>) -> Door {
        let writers = |route: &Result<RouteRules, String>| {
            let variants = route.iter().flat_map(|route| &route.variants);
            variants.map(|variant| TableWriter::new(Arc::clone(&variant.plan))).collect()
        };
        Door { writers: rules.routes.iter().map(writers).collect(), rules, work: Work::default() }
    }

    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// # Errors
    /// Why it is refused.
    pub fn check<'d>(&'d mut self, asked: &'d Asked<'_>) -> Result<Passed<'d>, Problem> {
        let rules = Arc::clone(&self.rules);
        let unknown = |why: &str| Problem::new(Refused::Unknown, why.to_owned());
        let route = rules.routes[asked.route].as_ref().map_err(|why| unknown(why))?;
        let placement = rules.placements[route.topic].as_ref();
        let needs_partition = route.mode == Mode::Async || rules.router.asks_partitions();
        if placement.is_none() && needs_partition {
            return Err(unknown("the brokers have not said yet how many partitions the topic has"));
        }
        let writers = &mut self.writers[asked.route];
        let mut refusal = None;
        for (index, (variant, writer)) in route.variants.iter().zip(writers).enumerate() {
            let published = match self.work.pass(variant, writer, asked) {
                Ok(published) => published,
                Err(problem) => {
                    refusal.get_or_insert(problem);
                    continue;
                }
            };
            let value = match published {
                Published::Null => None,
                Published::Body => Some(asked.body),
                Published::Made => Some(self.work.document.value().as_bytes()),
            };
            let key = self.work.key.bytes();
            let record = RawRecord {
                offset: Offset(0),
                timestamp_ms: asked.now_ms,
                key: Some(key),
                value,
                headers: asked.headers,
            };
            let place = match placement {
                Some(placement) if needs_partition => {
                    placement.place(&rules.router, &record).map(|place| (place.shard, place.partition))
                }
                // Its row needs no partition, and no broker.
                _ => rules.router.route(0, &record).map(|shard| (shard, 0)).map_err(Misplaced::Route),
            };
            let (shard, partition) = place.map_err(words::misplaced)?;
            match &route.of_shard[usize::from(shard.0)] {
                Ok(own) if *own == index => {}
                // It fits another form of the table than its own shard has.
                Ok(_) => continue,
                Err(why) => return Err(unknown(why)),
            }
            // Borrowed again, because a borrow that is returned would last through the loop.
            let topic = route.topic;
            let made = matches!(published, Published::Made);
            let value = if made { Some(self.work.document.value().as_bytes()) } else { value.map(|_| asked.body) };
            let plan = Arc::clone(&variant.plan);
            return Ok(Passed { topic, shard, partition, key: self.work.key.bytes(), value, plan });
        }
        Err(refusal.unwrap_or_else(|| unknown("the shards' tables differ, and this fits none of them as a whole")))
    }
}

impl Work {
    fn pass(&mut self, variant: &Variant, writer: &mut TableWriter, asked: &Asked<'_>) -> Result<Published, Problem> {
        self.document.begin(variant, asked.values)?;
        if asked.method == Method::Delete {
            return self.delete(variant, writer, asked).map(|()| Published::Null);
        }
        let inner = self.document.append(variant, asked.body)?;
        let fault = |fault| words::fault(variant, &fault, asked.body);
        writer.locate(self.document.text()).map_err(fault)?;
        let published = self.document.agree(variant, writer, asked.values, inner)?;
        self.key.make(variant, writer, &self.document)?;
        self.key.tenant(variant, writer, &self.document)?;
        let record = self.record(asked, Some(self.document.text().as_bytes()));
        let op = writer.check_only(&record).map_err(fault)?;
        key::check_primary(variant, writer)?;
        // A PATCH may be of a row that is there, and leaves alone what it does not name.
        let is_new = matches!((op, asked.method), (Op::Insert, _) | (Op::Upsert, Method::Put | Method::Post));
        if is_new && let Some(missing) = variant.required.without(&writer.checked_mask()).iter().next() {
            let expected = format!("a value: {}, NOT NULL without a default", variant.plan.columns[missing].type_name);
            return Err(Problem::differs(Refused::Unfit, Some(&variant.fields[missing]), "nothing", expected));
        }
        Ok(published)
    }

    fn record<'w>(&'w self, asked: &Asked<'w>, value: Option<&'w [u8]>) -> RecordRef<'w> {
        RecordRef {
            partition: 0,
            offset: Offset(0),
            timestamp_ms: asked.now_ms,
            key: Some(self.key.bytes()),
            value,
            headers: Headers(asked.headers),
        }
    }

    /// A null value under the key that the path makes; the consumer must find the same row by it.
    fn delete(&mut self, variant: &Variant, writer: &mut TableWriter, asked: &Asked<'_>) -> Result<(), Problem> {
        if !asked.body.is_empty() {
            return Err(Problem::differs(Refused::NotJson, None, "a body", "none with DELETE"));
        }
        self.document.close();
        let fault = |fault| words::fault(variant, &fault, b"");
        writer.locate(self.document.text()).map_err(fault)?;
        self.key.make(variant, writer, &self.document)?;
        let record = self.record(asked, None);
        writer.check_only(&record).map_err(fault)?;
        for (n, parameter) in variant.parameters.iter().enumerate() {
            let kind = &variant.plan.columns[parameter.column].kind;
            let is_same = |found: Option<&[u8]>| found.is_some_and(|found| self.document.says(n, kind, found));
            if parameter.column < variant.plan.pk && !is_same(writer.checked_cell(parameter.column)) {
                let found = "a value that cannot be read back from the key";
                return Err(Problem::differs(Refused::Unfit, Some(&parameter.name), found, "another one"));
            }
        }
        Ok(())
    }
}
