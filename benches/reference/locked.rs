//! One row locked from outside, with two per cent of the records on its key: what that costs the other keys of its partition.
//!
//! Whoever locks a row has a transaction open, and as long as it is, PostgreSQL removes no row version that ended since: fences, which
//! move with each batch, are found behind ever more of them. So the same is measured with a transaction that locks nothing, too.

use std::thread;
use std::time::{Duration, Instant};

use forebay::bench::workload::HOT;
use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Running, Target};
use super::producer::produce;
use super::rounds::{Rounds, load};
use super::steady::warm_up;
use super::support::Topic;
use super::workload::ids;

const SKEW: u64 = 2;
const WARM_UP: u64 = 1_000;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Before the row is locked, and after.
const MARGIN: Duration = Duration::from_secs(2);

pub fn locked(a: &Arguments) -> Outcome<()> {
    let seconds = a.lock_seconds + 2 * MARGIN.as_secs();
    let a = &Arguments { skew: SKEW, seconds, ..a.clone() };
    println!("locked: {} records/s on one partition, a row locked for {} s", a.rate, a.lock_seconds);
    let [mut rates, mut p99s, mut of_lock] = [(); 3].map(|()| Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let [free, open, locked] = [Other::Nothing, Other::Transaction, Other::Lock].map(|other| live(a, other));
        let (free, open, locked) = (free?, open?, locked?);
        let (rate, p99, lock) = (locked.rows / free.rows, locked.ms[1] / free.ms[1], locked.ms[1] / open.ms[1]);
        println!(
            "round {round}  p50, p99, p99.9 without {:.1?} ms, with an open transaction {:.1?}, with a locked row {:.1?}   p99's ratio \
             {p99:.2}, to that with the transaction {lock:.2}   throughput's ratio {rate:.3}   stored progress stood still for {:.1} s \
             at most, without {:.1} s   {load}",
            free.ms, open.ms, locked.ms, locked.still, free.still
        );
        rates.push(rate);
        p99s.push(p99);
        of_lock.push(lock);
    }
    println!(
        "locked: other keys' throughput with / without {rates:.3}, p99 with / without {p99s:.2}, with / with an open transaction {of_lock:.2}"
    );
    Ok(())
}

/// Of all keys but the locked one, while its row is locked or would be.
struct Lived {
    rows: f64,
    /// p50, p99 and p99.9.
    ms: Vec<f64>,
    still: f64,
}

/// What somebody else does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    Nothing,
    Transaction,
    Lock,
}

fn live(a: &Arguments, other: Other) -> Outcome<Lived> {
    let topic = Topic::create("reference_locked", 1);
    engine::fresh_table(a, Target::Timed)?;
    let mut client = Client::connect(&a.dsn, NoTls)?;
    client.batch_execute(
        "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN NEW.written := clock_timestamp(); RETURN NEW; END $$; \
         CREATE TRIGGER touch BEFORE UPDATE ON reference FOR EACH ROW EXECUTE FUNCTION touch()",
    )?;
    let (app, subscription) = ids(HOT, a);
    client.execute(
        "INSERT INTO reference (app_id, subscription_id) VALUES ($1::text::uuid, $2::text::uuid)",
        &[&app, &subscription],
    )?;
    let records = WARM_UP + a.rate * a.seconds;
    let job = Job { target: Target::Timed, topic: topic.name(), records, affinity: &a.affinity };
    let running = Running::start(a, &job)?;
    warm_up(a, topic.name(), WARM_UP * 9 / 10, &mut client)?;
    let (still, span) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(a, other, &subscription).map_err(|error| error.to_string()));
        let produced = produce(a, topic.name());
        let watched = watcher.join().map_err(|_| "the watcher panicked")?;
        produced?;
        Outcome::Ok(watched?)
    })?;
    running.finish()?;
    let row = client.query_one(
        "SELECT count(*)::float8, percentile_disc(ARRAY[0.5, 0.99, 0.999]) WITHIN GROUP (ORDER BY \
         (extract(epoch FROM written) * 1000 - sent_us / 1000.0)::float8) FROM reference \
         WHERE sent_us > 0 AND subscription_id <> $1::text::uuid \
         AND extract(epoch FROM written)::float8 BETWEEN $2 AND $3",
        &[&subscription, &span.0, &span.1],
    )?;
    Ok(Lived { rows: row.get(0), ms: row.get(1), still })
}

/// Does what the other does for its time; for how long stored progress stood still meanwhile, at most, and from when to when that was.
fn watch(a: &Arguments, other: Other, subscription: &str) -> Outcome<(f64, (f64, f64))> {
    thread::sleep(MARGIN);
    let (mut holder, mut client) = (Client::connect(&a.dsn, NoTls)?, Client::connect(&a.dsn, NoTls)?);
    let mut transaction = holder.transaction()?;
    match other {
        Other::Nothing => {}
        Other::Transaction => drop(transaction.query_one("SELECT txid_current()", &[])?),
        Other::Lock => {
            let sql = "SELECT 1 FROM reference WHERE subscription_id = $1::text::uuid FOR UPDATE";
            transaction.query_one(sql, &[&subscription])?;
        }
    }
    let now = "SELECT extract(epoch FROM clock_timestamp())::float8";
    let begin = client.query_one(now, &[])?.get(0);
    let (began, mut moved, mut done, mut still) = (Instant::now(), Instant::now(), 0, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(a.lock_seconds) {
        let now: i64 = client.query_one("SELECT coalesce(sum(done), 0)::bigint FROM forebay.partition", &[])?.get(0);
        still = still.max(moved.elapsed());
        if now != done {
            (done, moved) = (now, Instant::now());
        }
        thread::sleep(LOOK_EVERY);
    }
    let end = client.query_one(now, &[])?.get(0);
    transaction.rollback()?;
    Ok((still.as_secs_f64(), (begin, end)))
}
