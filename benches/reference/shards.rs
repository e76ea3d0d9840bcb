//! One of four shards down for a while: what the other three do meanwhile, and how long the fourth takes to catch up.

use std::path::Path;
use std::time::{Duration, Instant};

use forebay::config::load;
use forebay::engine::{Engine, Options, Stopper};
use postgres::{Client, NoTls};
use rdkafka::producer::Producer;

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{Target, fresh_table_at};
use super::rounds::load as machine;
use super::support::{Database, Server};
use super::workload::{self, PARTITIONS};

const SHARDS: usize = 4;
/// How often rows are counted.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The fourth is far behind: it gets this many times as long as it was down.
const CATCH_UP_MAX: u32 = 5;

pub fn shard_down(a: &Arguments) -> Outcome<()> {
    let databases: Vec<Database> =
        (0..SHARDS).map(|n| Database::create([Server::A, Server::B][n % 2], "shard_down")).collect();
    for database in &databases {
        fresh_table_at(database.dsn(), Target::Log, 100)?;
    }
    let topic = format!("forebay-shard-down-{}", std::process::id());
    workload::create(a, &topic)?;
    let a = Arguments { topic, ..a.clone() };
    let (engine, stopper) = (Engine::new(config(&a, &databases)?), Stopper::default());
    let producing = Stopper::default();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| engine.run(Options::default(), &stopper));
        let producer = scope.spawn(|| produce(&a, &producing).map_err(|e| e.to_string()));
        let measured = measure(&a, &databases, &producing, || producer.join());
        stopper.stop();
        let stopped = running.join().map_err(|_| "the engine panicked")??.stopped;
        measured?;
        if stopped.is_empty() { Ok(()) } else { Err(format!("{stopped:?}").into()) }
    })
}

/// Every shard has the partitions whose number modulo four is its own.
fn config(a: &Arguments, databases: &[Database]) -> Outcome<forebay::config::Config> {
    let shard = |(n, database): (usize, &Database)| {
        let partitions: Vec<String> = (n..PARTITIONS as usize).step_by(SHARDS).map(|p| p.to_string()).collect();
        format!("[[shard]]\nname = \"s{n}\"\ndsn = \"{}\"\npartitions = \"{}\"\n", database.dsn(), partitions.join(","))
    };
    let shards: String = databases.iter().enumerate().map(shard).collect();
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = \"{}\"\n\"group.id\" = \"{1}\"\n[engine]\nworkers_per_shard = {2}\n\
         batch_records_max = {3}\n{shards}[[topic]]\nname = \"{1}\"\ntable = \"reference\"\ninsert_mode = \"insert\"\n",
        a.kafka,
        a.topic,
        a.workers.div_ceil(SHARDS),
        a.batch,
    );
    Ok(load::parse(Path::new("reference.toml"), &text, &|_| None)?.config)
}

/// Publishes at a steady rate until it is told to stop; returns how many records.
fn produce(a: &Arguments, stopper: &Stopper) -> Outcome<u64> {
    let producer = workload::producer(a, &[("linger.ms", a.linger.as_str())])?;
    let (start, mut n) = (Instant::now(), 0);
    while !stopper.is_stopped() {
        let due = (start.elapsed().as_secs_f64() * a.rate as f64) as u64;
        while n < due {
            workload::send(&producer, &a.topic, &workload::record_key(n, a), &workload::payload(n, a))?;
            n += 1;
        }
        producer.poll(Duration::from_millis(1));
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(n)
}

/// Rows in the shards' tables, counted on connections of the benchmark's own.
struct Rows(Vec<Client>);

impl Rows {
    fn of(databases: &[Database]) -> Outcome<Rows> {
        Ok(Rows(databases.iter().map(|d| Client::connect(d.dsn(), NoTls)).collect::<Result<_, _>>()?))
    }

    fn count(&mut self) -> Outcome<u64> {
        let mut rows = 0;
        for client in &mut self.0 {
            rows += client.query_one("SELECT count(*) FROM reference", &[])?.get::<_, i64>(0) as u64;
        }
        Ok(rows)
    }

    /// Rows a second over a while.
    fn rate(&mut self, over: Duration) -> Outcome<f64> {
        let (before, start) = (self.count()?, Instant::now());
        std::thread::sleep(over);
        let rows = self.count()? - before;
        Ok(rows as f64 / start.elapsed().as_secs_f64())
    }
}

fn measure(
    a: &Arguments,
    databases: &[Database],
    producing: &Stopper,
    produced: impl FnOnce() -> std::thread::Result<Result<u64, String>>,
) -> Outcome<()> {
    let over = Duration::from_secs(a.seconds);
    let result = figures(databases, over);
    producing.stop();
    let published = produced().map_err(|_| "the producer panicked")??;
    let (before, during, came_up) = result?;
    let mut all = Rows::of(databases)?;
    while all.count()? < published {
        if came_up.elapsed() > over * CATCH_UP_MAX + Duration::from_secs(30) {
            return Err(format!("{} of {published} rows: the fourth shard does not catch up", all.count()?).into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    println!(
        "shard-down: one of {SHARDS} down for {} s at {} records/s: the others {before:.0} rows/s before, {during:.0} \
         meanwhile   ratio {:.3}   the fourth caught up in {:.1} s   {published} rows, none twice   {}",
        a.seconds,
        a.rate,
        during / before,
        came_up.elapsed().as_secs_f64(),
        machine()
    );
    match all.count()? {
        rows if rows == published => Ok(()),
        rows => Err(format!("{rows} rows of {published} records").into()),
    }
}

/// What the three do before and meanwhile, and when the fourth came back.
fn figures(databases: &[Database], over: Duration) -> Outcome<(f64, f64, Instant)> {
    let (ill, well) = databases.split_last().ok_or("no databases")?;
    let mut rows = Rows::of(well)?;
    // Everybody is at work.
    let begun = Instant::now();
    while rows.count()? == 0 {
        if begun.elapsed() > Duration::from_secs(60) {
            return Err("no rows within a minute".into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = rows.rate(over)?;
    let mut server = Client::connect(&Server::B.dsn(), NoTls)?;
    let name = ill.name();
    server.batch_execute(&format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS false"))?;
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", &[&name])?;
    let during = rows.rate(over);
    server.batch_execute(&format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS true"))?;
    Ok((before, during?, Instant::now()))
}
