//! What PostgreSQL can do by itself: `UNNEST` upserts of the reference job's rows from memory; and the engine beside it.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::parts::Parts;
use super::rounds::{Rounds, load};
use super::workload::{COUNTRIES, DEVICES, ids, key_of, publish};

/// The engine and the bare statements in turn.
pub fn catchup(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let rows = rows(a);
    let job = Job { target: Target::Table, topic: &topic, records: a.records, affinity: &a.affinity };
    let (mut limit, mut rates, mut ratios) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let records = a.records as f64;
        let (began, bare) = (Parts::now(&a.dsn)?, bare(a, &rows)?);
        let bare_parts = (Parts::now(&a.dsn)? - began).each(records);
        let (began, engine) = (Parts::now(&a.dsn)?, engine::run(a, &job)?);
        let parts = (Parts::now(&a.dsn)? - began).each(records);
        let ratio = engine.rate / bare;
        println!("round {round}  bare UNNEST {bare:>8.0} rows/s   engine {engine}   ratio {ratio:.3}   {load}");
        println!("         bare: {bare_parts}   engine: {parts}");
        limit.push(bare);
        rates.push(engine.rate);
        ratios.push(ratio);
    }
    println!("catchup: bare {limit:.0} rows/s, engine {rates:.0} rows/s, ratio {ratios:.3}");
    Ok(())
}

/// One connection's batches: columns of at most `batch` rows, each key once, sorted.
pub type Columns = (Vec<Raw>, Vec<Raw>, Vec<&'static str>, Vec<&'static str>, Vec<i32>, Vec<SystemTime>, Vec<Raw>);

/// A value in PostgreSQL's binary form.
#[derive(Debug)]
pub struct Raw(pub Vec<u8>);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The rows as the bare statements want them, ready in memory: as many records as the engine writes, split by key.
pub fn rows(a: &Arguments) -> Vec<Vec<Columns>> {
    let mut of_connection: Vec<Vec<u64>> = vec![Vec::new(); a.workers];
    for n in 0..a.records {
        of_connection[key_of(n, a) as usize % a.workers].push(n);
    }
    let batch = |records: &[u64]| {
        let last: HashMap<u64, u64> = records.iter().map(|n| (key_of(*n, a), *n)).collect();
        let mut rows: Vec<(u64, u64)> = last.into_iter().collect();
        rows.sort_unstable();
        let mut c = Columns::default();
        for (key, n) in rows {
            let (app, subscription) = ids(key, a);
            c.0.push(uuid(&app));
            c.1.push(uuid(&subscription));
            c.2.push(COUNTRIES[n as usize % 6]);
            c.3.push(DEVICES[n as usize % 3]);
            c.4.push((n % 1000) as i32);
            c.5.push(SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_000 + n));
            c.6.push(Raw(format!("\u{1}{{\"plan\":\"p{}\",\"n\":{},\"beta\":true}}", n % 7, n % 10).into_bytes()));
        }
        c
    };
    of_connection.iter().map(|records| records.chunks(a.batch).map(batch).collect()).collect()
}

fn uuid(text: &str) -> Raw {
    Raw(uuid::Uuid::parse_str(text).unwrap_or_default().into_bytes().to_vec())
}

/// Bare upserts from memory; returns records per second.
pub fn bare(a: &Arguments, rows: &[Vec<Columns>]) -> Outcome<f64> {
    rate(a, rows, |batches, start| connection(a, batches, start))
}

/// Records per second into a fresh table, each connection with batches of its own, all beginning together.
pub fn rate<B: Sync>(
    a: &Arguments,
    of_connections: &[Vec<B>],
    connection: impl Fn(&[B], &Barrier) -> Result<(), String> + Sync,
) -> Outcome<f64> {
    engine::fresh_table(a, Target::Table)?;
    let start = Barrier::new(of_connections.len() + 1);
    let (elapsed, results) = std::thread::scope(|scope| {
        let threads: Vec<_> =
            of_connections.iter().map(|batches| scope.spawn(|| connection(batches, &start))).collect();
        start.wait();
        let began = Instant::now();
        let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        (began.elapsed(), results)
    });
    for result in results {
        result.map_err(|_| "a connection's thread panicked")??;
    }
    Ok(a.records as f64 / elapsed.as_secs_f64())
}

fn connection(a: &Arguments, batches: &[Columns], start: &Barrier) -> Result<(), String> {
    let run = || -> Result<(), postgres::Error> {
        let mut client = Client::connect(&a.dsn, NoTls)?;
        let statement = client.prepare_typed(
            "INSERT INTO reference SELECT * FROM UNNEST($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (app_id, subscription_id) DO UPDATE SET country = EXCLUDED.country, device = EXCLUDED.device, \
             sessions = EXCLUDED.sessions, updated_at = EXCLUDED.updated_at, tags = EXCLUDED.tags",
            &[
                Type::UUID_ARRAY,
                Type::UUID_ARRAY,
                Type::TEXT_ARRAY,
                Type::TEXT_ARRAY,
                Type::INT4_ARRAY,
                Type::TIMESTAMPTZ_ARRAY,
                Type::JSONB_ARRAY,
            ],
        )?;
        start.wait();
        for c in batches {
            client.execute(&statement, &[&c.0, &c.1, &c.2, &c.3, &c.4, &c.5, &c.6])?;
        }
        Ok(())
    };
    run().map_err(|e| format!("bare upsert: {e}: {:?}", e.as_db_error()))
}
