//! forebay inside a program of yours: one topic goes to a table, as the binary would do it, another to a [`Handler`], and the
//! program looks at the counters meanwhile and stops the engine when it has seen enough.
//!
//! `profiles` is upserted into a table. `visits` are *added* to a count for each profile, which must happen exactly once.
//! [`Visits`] shows how a handler is fast: it adds up what it was given in memory and writes it with one statement, instead
//! of one for each record.
//!
//! What is guaranteed: each topic's records are applied in order per key and exactly once in effect, by one engine and under
//! one consumer group. What is not: an order *between* the topics. A visit may be counted before its profile is there, so
//! the counts have a table of their own, without a foreign key.
//!
//! ```text
//! bin/services up && cargo run --release --example embedded
//! ```

pub mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::str;
use std::thread;
use std::time::{Duration, Instant};

use forebay::config::load;
use forebay::engine::{Engine, Options, Stopper};
use forebay::metrics::Counters;
use forebay::sink::handler::{Handler, HandlerError};
use forebay::state::chunk::RecordRef;
use postgres::{Client, NoTls, Transaction};

use support::{Place, Result, Topic};

const PROFILES: u64 = 1000;
const VISITS: u64 = 20_000;
const LOOK_EVERY: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(60);

const TABLES: &str = "
CREATE TABLE profile (id bigint PRIMARY KEY, name text, country text);
CREATE TABLE visits (profile bigint PRIMARY KEY, count bigint NOT NULL);
";

/// Sorted by profile, as every statement that locks several rows should be: then two workers never wait for each other in
/// a circle.
const COUNT: &str = "
INSERT INTO visits AS v SELECT * FROM unnest($1::bigint[], $2::bigint[])
ON CONFLICT (profile) DO UPDATE SET count = v.count + EXCLUDED.count";

/// Counts visits; the key of a record is the profile.
struct Visits;

impl Handler for Visits {
    fn handle(
        &mut self,
        transaction: &mut Transaction<'_>,
        records: &[RecordRef<'_>],
    ) -> std::result::Result<(), HandlerError> {
        let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let profile = record.key.and_then(|key| str::from_utf8(key).ok()?.parse().ok());
            let profile = profile.ok_or_else(|| HandlerError::record(index, "the key is not a profile's number"))?;
            *counts.entry(profile).or_default() += 1;
        }
        let (profiles, counts): (Vec<i64>, Vec<i64>) = counts.into_iter().unzip();
        transaction.execute(COUNT, &[&profiles, &counts])?;
        Ok(())
    }
}

fn engine(place: &Place, profiles: &Topic, visits: &Topic) -> Result<Engine> {
    let text = format!(
        r#"[kafka]
"bootstrap.servers" = "{}"
"group.id" = "embedded-{}"
[[shard]]
name = "main"
dsn = "{}"
[[topic]]
name = "{}"
table = "profile"
insert_mode = "upsert"
pk_fields = ["id"]
[[topic]]
name = "{}"
handler = true
"#,
        place.bootstrap, place.suffix, place.dsn, profiles.name, visits.name
    );
    let loaded = load::parse(Path::new("embedded.toml"), &text, &|_| None)?;
    Ok(Engine::new(loaded.config).handle(&visits.name, || Visits)?)
}

/// Runs the engine on a thread, as a service would, until the counters say that everything is durable.
fn run(engine: &Engine, records: u64, out: &mut impl Write) -> Result<()> {
    let stopper = Stopper::default();
    thread::scope(|scope| {
        let running = scope.spawn(|| engine.run(Options::default(), &stopper));
        let watched = watch(&engine.counters(), records, out, || running.is_finished());
        // Drains what was fetched, stores progress, commits, leaves the group.
        stopper.stop();
        let outcome = running.join().map_err(|_| "the engine panicked")??;
        watched?;
        match outcome.stopped.first() {
            Some((topic, reason)) => Err(format!("topic {topic} stopped: {reason}").into()),
            None => Ok(()),
        }
    })
}

fn watch(counters: &Counters, records: u64, out: &mut impl Write, ended: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while counters.durable.get() < records && !ended() {
        if start.elapsed() > DEADLINE {
            return Err(format!("only {} of {records} records are durable", counters.durable.get()).into());
        }
        thread::sleep(LOOK_EVERY);
        writeln!(
            out,
            "fetched {}, durable {}, in flight {}, batches {}",
            counters.fetched.get(),
            counters.durable.get(),
            counters.in_flight.get(),
            counters.batches.get()
        )?;
    }
    Ok(())
}

/// The whole story, told to `out`.
pub fn show(place: &Place, out: &mut impl Write) -> Result<()> {
    let mut client = Client::connect(&place.dsn, NoTls)?;
    client.batch_execute(TABLES)?;
    let (profiles, visits) = (Topic::create(place, "profiles", 2)?, Topic::create(place, "visits", 4)?);
    profiles.publish((0..PROFILES).map(|id| {
        let value = serde_json::json!({ "id": id, "name": format!("user {id}"), "country": "DE" });
        (id.to_string(), value.to_string())
    }))?;
    visits.publish((0..VISITS).map(|visit| ((visit * visit % PROFILES).to_string(), "{}".to_owned())))?;
    run(&engine(place, &profiles, &visits)?, PROFILES + VISITS, out)?;
    let row =
        client.query_one("SELECT (SELECT count(*) FROM profile), (SELECT sum(count)::bigint FROM visits)", &[])?;
    let (profiles, visits): (i64, Option<i64>) = (row.get(0), row.get(1));
    writeln!(out, "{profiles} profiles, {} visits counted of {VISITS} published", visits.unwrap_or(0))?;
    Ok(())
}

fn main() -> Result<()> {
    show(&Place::of_its_own("example_embedded")?, &mut std::io::stdout())
}
