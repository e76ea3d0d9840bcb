//! Whether the table of upserts holds in the end what the records say: each key once, as its last record left it.

use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::workload::{COUNTRIES, DEVICES, ids, key_of};

/// The first timestamp of the workload.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// What is wrong with it; nothing, if nothing is.
pub fn faults(a: &Arguments, records: u64) -> Outcome<Option<String>> {
    let mut last: Vec<Option<u64>> = vec![None; a.keys as usize];
    (0..records).for_each(|n| last[key_of(n, a) as usize] = Some(n));
    let mut client = Client::connect(&a.dsn, NoTls)?;
    let none: [i32; 0] = [];
    let mut rows = client.query_raw(
        "SELECT app_id::text, subscription_id::text, country, device, sessions, \
         round(extract(epoch FROM updated_at) * 1000)::bigint, tags::text FROM reference",
        none,
    )?;
    let (mut wrong, mut example) = (0_u64, None);
    while let Some(row) = rows.next()? {
        let (app, subscription): (String, String) = (row.get(0), row.get(1));
        let key = u64::from_str_radix(subscription.rsplit('-').next().unwrap_or_default(), 16).unwrap_or(u64::MAX);
        let expected = last.get_mut(key as usize).and_then(Option::take);
        let found = (row.get(2), row.get(3), row.get(4), row.get(5), row.get(6));
        if expected.map(columns) != Some(found) || ids(key, a) != (app, subscription) {
            wrong += 1;
            example.get_or_insert(key);
        }
    }
    let missing = last.iter().flatten().count();
    Ok(match (wrong, missing) {
        (0, 0) => None,
        _ => Some(format!("{missing} rows are missing and {wrong} are wrong, such as that of key {example:?}")),
    })
}

type Columns = (Option<String>, Option<String>, Option<i32>, Option<i64>, Option<String>);

/// As PostgreSQL writes them; its jsonb has the shorter names first.
fn columns(n: u64) -> Columns {
    let tags = format!("{{\"n\": {}, \"beta\": true, \"plan\": \"p{}\"}}", n % 10, n % 7);
    (
        Some(COUNTRIES[n as usize % 6].to_owned()),
        Some(DEVICES[n as usize % 3].to_owned()),
        Some((n % 1000) as i32),
        Some(EPOCH_MS + n as i64),
        Some(tags),
    )
}
