//! What PostgreSQL can do by itself: `UNNEST` upserts of the reference job's rows from memory; and the engine beside it.
//!
//! Twice: of columns that are ready to be sent, which is what PostgreSQL bears and no program that is given rows can reach; and
//! of rows, of which the client keeps each key's last one, sorts them and lays out the columns, as any program has to.

use std::borrow::Borrow;
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
    let (records, ready) = (records(a), columns(a));
    let job = Job { target: Target::Table, topic: &topic, records: a.records, affinity: &a.affinity };
    let [mut rates, mut of_columns, mut of_rows] = [(); 3].map(|()| Rounds::default());
    let [mut to_columns, mut to_rows] = [(); 2].map(|()| Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let each = |began: Parts| Parts::now(&a.dsn).map(|now| (now - began).each(a.records as f64));
        let (began, columns) = (Parts::now(&a.dsn)?, bare(a, &ready)?);
        let parts_of_columns = each(began)?;
        let (began, engine) = (Parts::now(&a.dsn)?, engine::run(a, &job)?);
        let parts = each(began)?;
        let (began, rows) = (Parts::now(&a.dsn)?, bare_of_rows(a, &records)?);
        let parts_of_rows = each(began)?;
        println!(
            "round {round}  engine {engine}   of ready columns {:.3}, of rows {:.3}   {load}",
            engine.rate / columns,
            engine.rate / rows
        );
        println!("         bare UNNEST of ready columns {columns:.0} rows/s: {parts_of_columns}");
        println!("         bare UNNEST of rows          {rows:.0} rows/s: {parts_of_rows}");
        println!("         engine: {parts}");
        for (rounds, figure) in [
            (&mut rates, engine.rate),
            (&mut of_columns, columns),
            (&mut of_rows, rows),
            (&mut to_columns, engine.rate / columns),
            (&mut to_rows, engine.rate / rows),
        ] {
            rounds.push(figure);
        }
    }
    println!(
        "catchup: engine {rates:.0} rows/s; bare UNNEST of ready columns {of_columns:.0}, ratio {to_columns:.3}; of rows {of_rows:.0}, ratio {to_rows:.3}"
    );
    Ok(())
}

/// A row of the reference job.
pub struct Row {
    app_id: Raw,
    subscription_id: Raw,
    country: &'static str,
    device: &'static str,
    sessions: i32,
    updated_at: SystemTime,
    tags: Raw,
}

/// One connection's batches: columns of at most `batch` rows, each key once, sorted.
pub type Columns = (Vec<Raw>, Vec<Raw>, Vec<&'static str>, Vec<&'static str>, Vec<i32>, Vec<SystemTime>, Vec<Raw>);

/// A value in PostgreSQL's binary form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The records' rows, in memory: by connection and batch, split by key.
pub fn records(a: &Arguments) -> Vec<Vec<Vec<Row>>> {
    let mut of_connection: Vec<Vec<Row>> = (0..a.workers).map(|_| Vec::new()).collect();
    for n in 0..a.records {
        let key = key_of(n, a);
        let (app, subscription) = ids(key, a);
        of_connection[key as usize % a.workers].push(Row {
            app_id: uuid(&app),
            subscription_id: uuid(&subscription),
            country: COUNTRIES[n as usize % 6],
            device: DEVICES[n as usize % 3],
            sessions: (n % 1000) as i32,
            updated_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_000 + n),
            tags: Raw(format!("\u{1}{{\"plan\":\"p{}\",\"n\":{},\"beta\":true}}", n % 7, n % 10).into_bytes()),
        });
    }
    let batches = |rows: Vec<Row>| {
        let mut rows = rows.into_iter();
        // Each as large as it is: one split off from the whole would keep the whole's memory.
        let batch = || Some(rows.by_ref().take(a.batch).collect()).filter(|batch: &Vec<Row>| !batch.is_empty());
        std::iter::from_fn(batch).collect()
    };
    of_connection.into_iter().map(batches).collect()
}

/// The same, ready to be sent.
pub fn columns(a: &Arguments) -> Vec<Vec<Columns>> {
    records(a).iter().map(|batches| batches.iter().map(|rows| laid_out(rows)).collect()).collect()
}

/// Each key's last row, sorted, as columns.
fn laid_out(rows: &[Row]) -> Columns {
    let mut last: HashMap<(&Raw, &Raw), usize> = HashMap::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        last.insert((&row.app_id, &row.subscription_id), index);
    }
    let mut kept: Vec<&Row> = last.into_values().map(|index| &rows[index]).collect();
    kept.sort_unstable_by_key(|row| (&row.app_id, &row.subscription_id));
    (
        kept.iter().map(|row| row.app_id.clone()).collect(),
        kept.iter().map(|row| row.subscription_id.clone()).collect(),
        kept.iter().map(|row| row.country).collect(),
        kept.iter().map(|row| row.device).collect(),
        kept.iter().map(|row| row.sessions).collect(),
        kept.iter().map(|row| row.updated_at).collect(),
        kept.iter().map(|row| row.tags.clone()).collect(),
    )
}

fn uuid(text: &str) -> Raw {
    Raw(uuid::Uuid::parse_str(text).unwrap_or_default().into_bytes().to_vec())
}

/// Bare upserts of columns that are ready; returns records per second.
pub fn bare(a: &Arguments, columns: &[Vec<Columns>]) -> Outcome<f64> {
    rate(a, columns, |batches, start| connection(a, batches, |columns| columns, start))
}

/// Bare upserts of rows; returns records per second.
pub fn bare_of_rows(a: &Arguments, records: &[Vec<Vec<Row>>]) -> Outcome<f64> {
    rate(a, records, |batches, start| connection(a, batches, |rows| laid_out(rows), start))
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

fn connection<'b, B, C: Borrow<Columns>>(
    a: &Arguments,
    batches: &'b [B],
    columns: impl Fn(&'b B) -> C,
    start: &Barrier,
) -> Result<(), String> {
    let prepare = || -> Result<_, postgres::Error> {
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
        Ok((client, statement))
    };
    // Whatever happens, the others must not wait for ever.
    let prepared = prepare();
    start.wait();
    let run = || -> Result<(), postgres::Error> {
        let (mut client, statement) = prepared?;
        for batch in batches {
            let columns = columns(batch);
            let c = columns.borrow();
            client.execute(&statement, &[&c.0, &c.1, &c.2, &c.3, &c.4, &c.5, &c.6])?;
        }
        Ok(())
    };
    run().map_err(|e| format!("bare upsert: {e}: {:?}", e.as_db_error()))
}
