//! The proof, taken from the database and the broker after the engine has ended: each check compares what is there with what
//! was published, and says so in one line.

use std::collections::HashMap;
use std::time::Duration;

use postgres::Client;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::demo::workload::{Row, Subscription, Workload};
use crate::demo::{DemoError, GROUP, PARTITIONS, TOPIC};
use crate::metrics::Counters;

const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// Differences that are shown; the others are counted.
const SHOWN_MAX: usize = 5;

/// What was compared, and what was found; an error lists differences.
#[derive(Debug)]
pub struct Check {
    pub name: &'static str,
    pub result: Result<String, String>,
}

/// All of them.
pub fn checks(
    client: &mut Client,
    bootstrap: &str,
    workload: &Workload,
    counters: &Counters,
) -> Result<Vec<Check>, DemoError> {
    let asked = |e| DemoError::unavailable("reading the result", e);
    let kafka = |e| DemoError::unavailable("asking the mock cluster", e);
    Ok(vec![
        Check { name: "rows", result: rows(client, workload).map_err(asked)? },
        Check { name: "order", result: order(client).map_err(asked)? },
        Check { name: "once", result: fences(client, workload).map_err(asked)? },
        Check { name: "records", result: records(workload, counters) },
        Check { name: "offsets", result: offsets(bootstrap, workload).map_err(kafka)? },
    ])
}

/// Differences make an error, none makes `fine`.
fn judged(differences: &[String], fine: String) -> Result<String, String> {
    if differences.is_empty() {
        return Ok(fine);
    }
    let more = differences.len().saturating_sub(SHOWN_MAX);
    let mut text = differences[..differences.len() - more].join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    Err(text)
}

type Outcome<E> = Result<Result<String, String>, E>;

/// Every row, column by column; and no row that should not be there.
fn rows(client: &mut Client, workload: &Workload) -> Outcome<postgres::Error> {
    let sql = "SELECT app_id || ':' || subscription_id, country, device, sessions, \
               (extract(epoch FROM updated_at) * 1000)::bigint, tags ->> 'plan', (tags ->> 'score')::bigint, \
               (SELECT count(*) FROM jsonb_object_keys(coalesce(tags, '{}'))), version FROM subscriptions";
    let mut found: HashMap<String, Found> = HashMap::with_capacity(workload.rows.len());
    for row in client.query(sql, &[])? {
        let (key, row) = (row.get(0), Found::new(&row));
        found.insert(key, row);
    }
    let (mut differences, mut present) = (Vec::new(), 0);
    for Row { key, now, .. } in &workload.rows {
        let expected = now.as_ref().map(Found::expected);
        present += usize::from(expected.is_some());
        let row = found.remove(key);
        if row != expected {
            differences.push(format!("{key}: found {row:?}, expected {expected:?}"));
        }
    }
    differences.extend(found.keys().map(|key| format!("{key}: a row that was never published")));
    let deleted = workload.rows.len() - present;
    let text = format!(
        "all {} compared with what was published: {present} hold their last update in every column, {deleted} are deleted",
        workload.rows.len()
    );
    Ok(judged(&differences, text))
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    country: Option<String>,
    device: Option<String>,
    sessions: i32,
    updated_at_ms: i64,
    tags: (Option<String>, Option<i64>, i64),
    version: i64,
}

impl Found {
    fn new(row: &postgres::Row) -> Found {
        Found {
            country: row.get(1),
            device: row.get(2),
            sessions: row.get(3),
            updated_at_ms: row.get(4),
            tags: (row.get(5), row.get(6), row.get(7)),
            version: row.get(8),
        }
    }

    fn expected(row: &Subscription) -> Found {
        let tags = row.tags.map_or((None, None, 0), |(plan, score)| (Some(plan.to_owned()), Some(i64::from(score)), 2));
        Found {
            country: row.country.map(str::to_owned),
            device: row.device.map(str::to_owned),
            sessions: row.sessions,
            updated_at_ms: row.updated_at_ms,
            tags,
            version: row.version,
        }
    }
}

/// A step back would have stopped the topic; this shows that the trigger would have noticed one.
fn order(client: &mut Client) -> Outcome<postgres::Error> {
    let mut transaction = client.transaction()?;
    let tried = transaction.execute("UPDATE subscriptions SET version = version - 1", &[]);
    transaction.rollback()?;
    Ok(match tried {
        Err(error) if error.code() == Some(&postgres::error::SqlState::RAISE_EXCEPTION) => {
            Ok("no row ever went back to an earlier version: a trigger refuses that, and was never asked to".to_owned())
        }
        // Every row may be deleted in a tiny run: then there is none to try it on.
        Ok(0) => Ok("no row is left that could have gone back".to_owned()),
        other => Err(format!("the trigger that refuses steps back does not: {other:?}")),
    })
}

/// Every lane's fence stands right behind the lane's last record, and stored progress at the log's end.
fn fences(client: &mut Client, workload: &Workload) -> Outcome<postgres::Error> {
    let mut fences: HashMap<(usize, usize), i64> = HashMap::new();
    for row in client.query("SELECT partition, lane, next_offset FROM forebay.fence", &[])? {
        fences.insert((row.get::<_, i32>(0) as usize, row.get::<_, i16>(1) as usize), row.get(2));
    }
    let mut expected: HashMap<(usize, usize), i64> = HashMap::new();
    for row in &workload.rows {
        let lanes = fences.keys().filter(|(partition, _)| *partition == row.partition).count() as u64;
        if let (Some(offset), true) = (row.last_offset, lanes > 0) {
            let last = expected.entry((row.partition, (row.key_hash % lanes) as usize)).or_insert(0);
            *last = (*last).max(offset + 1);
        }
    }
    let mut differences: Vec<String> = expected
        .iter()
        .filter(|(lane, next)| fences.get(lane) != Some(next))
        .map(|((partition, lane), next)| {
            let found = fences.get(&(*partition, *lane));
            format!("partition {partition}, lane {lane}: the fence is {found:?}, expected {next}")
        })
        .collect();
    let rows = client.query("SELECT partition, done FROM forebay.partition", &[])?;
    let done: HashMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (partition, end) in workload.ends.iter().enumerate() {
        let found = done.get(&(partition as i32));
        if found != Some(end) {
            differences.push(format!("partition {partition}: progress is {found:?}, expected {end}"));
        }
    }
    let text = format!(
        "{} fences, moved in the transactions of the rows, each behind its lane's last record; progress at the logs' ends",
        expected.len()
    );
    Ok(judged(&differences, text))
}

/// The engine's own count: without a rewind nothing is read twice.
fn records(workload: &Workload, counters: &Counters) -> Result<String, String> {
    let published = workload.ends.iter().sum::<i64>() as u64;
    let (durable, skipped, rewinds) = (counters.durable.get(), counters.skipped.get(), counters.rewinds.get());
    let text = format!(
        "{durable} durable of {published} published, {skipped} met again and skipped, {} merged with a later one, {rewinds} rewinds",
        counters.folded.get()
    );
    if durable < published || (rewinds == 0 && durable + skipped != published) { Err(text) } else { Ok(text) }
}

/// What Kafka's tools would show: the group's offsets, and the logs' ends.
fn offsets(bootstrap: &str, workload: &Workload) -> Outcome<rdkafka::error::KafkaError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", GROUP);
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(TOPIC, 0, PARTITIONS as i32 - 1);
    let committed = consumer.committed_offsets(list, ASK_DEADLINE)?;
    let (mut differences, mut dropped) = (Vec::new(), 0);
    for (partition, end) in workload.ends.iter().enumerate() {
        let (low, high) = consumer.fetch_watermarks(TOPIC, partition as i32, ASK_DEADLINE)?;
        dropped += low;
        let offset = committed.find_partition(TOPIC, partition as i32).map(|found| found.offset());
        if high != *end {
            differences.push(format!("partition {partition}: the log ends at {high}, expected {end}"));
        }
        // An empty partition has nothing to commit.
        if offset != Some(Offset::Offset(*end)) && *end > 0 {
            differences.push(format!("partition {partition}: committed is {offset:?}, expected {end}"));
        }
    }
    let text =
        format!("the group's committed offsets are the logs' ends ({dropped} old records are gone from the mock)");
    Ok(judged(&differences, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::config::TABLE_SQL;
    use crate::demo::server::Server;

    /// Inserts what the model says, whoever else should have done it.
    fn insert(client: &mut Client, workload: &Workload) {
        for row in &workload.rows {
            let (app, subscription) = row.key.split_once(':').unwrap();
            let Some(now) = &row.now else { continue };
            let tags = now.tags.map_or("NULL".to_owned(), |(plan, score)| {
                format!("jsonb_build_object('plan', '{plan}', 'score', {score})")
            });
            let sql = format!(
                "INSERT INTO subscriptions VALUES ('{app}', '{subscription}', $1, $2, {}, to_timestamp({} / 1000.0), {tags}, {})",
                now.sessions, now.updated_at_ms, now.version
            );
            client.execute(&sql, &[&now.country, &now.device]).unwrap();
        }
    }

    /// What the checks say about the rows after somebody has changed them.
    #[track_caller]
    fn check(server: &Server, workload: &Workload, change: &str, expectation: Result<(), &str>) {
        let mut client = server.connect().unwrap();
        client.batch_execute("TRUNCATE subscriptions").unwrap();
        insert(&mut client, workload);
        client.batch_execute(change).unwrap();
        match (rows(&mut client, workload).unwrap(), expectation) {
            (Ok(_), Ok(())) => {}
            (Err(found), Err(part)) => assert!(found.contains(part), "{change}: no {part:?} in {found}"),
            (found, expectation) => panic!("{change}: {found:?} instead of {expectation:?}"),
        }
    }

    #[test]
    fn every_difference_is_found() {
        let server = Server::start(false).unwrap();
        let mut client = server.connect().unwrap();
        client.batch_execute(TABLE_SQL).unwrap();
        let (mut workload, mut value) = (Workload::new(200, 40), String::new());
        while workload.next(1_763_900_000_123, &mut value).is_some() {}
        let one = "version = (SELECT max(version) FROM subscriptions)";
        let step = "ALTER TABLE subscriptions DISABLE TRIGGER no_step_back; UPDATE subscriptions SET";
        check(&server, &workload, "", Ok(()));
        check(&server, &workload, &format!("DELETE FROM subscriptions WHERE {one}"), Err("found None"));
        check(&server, &workload, &format!("{step} sessions = sessions + 1 WHERE {one}"), Err("expected Some"));
        check(&server, &workload, &format!("{step} country = NULL WHERE {one}"), Err("country: None"));
        check(&server, &workload, &format!("{step} updated_at = updated_at + '1 ms'"), Err("and 3"));
        check(&server, &workload, &format!("{step} tags = tags || '{{\"x\": 1}}' WHERE {one}"), Err("3)"));
        let more = "INSERT INTO subscriptions SELECT gen_random_uuid(), subscription_id, country, device, sessions, \
                    updated_at, tags, version FROM subscriptions LIMIT 1";
        check(&server, &workload, more, Err("never published"));

        insert_again(&mut client, &workload);
        assert!(order(&mut client).unwrap().unwrap_err().contains("does not"), "the trigger is switched off");
        client.batch_execute("ALTER TABLE subscriptions ENABLE TRIGGER no_step_back").unwrap();
        assert!(order(&mut client).unwrap().unwrap().contains("a trigger refuses"));
    }

    fn insert_again(client: &mut Client, workload: &Workload) {
        client.batch_execute("TRUNCATE subscriptions").unwrap();
        insert(client, workload);
    }

    #[test]
    fn records_that_are_missing_or_were_applied_again_are_found() {
        let mut workload = Workload::new(10, 10);
        while workload.next(0, &mut String::new()).is_some() {}
        for (durable, skipped, rewinds, fine) in [
            (10, 0, 0, true),
            (9, 0, 0, false),
            (9, 1, 0, false),
            (11, 0, 0, false),
            (10, 1, 0, false),
            (10, 4, 1, true),
        ] {
            let counters = Counters::default();
            counters.durable.add(durable);
            counters.skipped.add(skipped);
            counters.rewinds.add(rewinds);
            assert_eq!(records(&workload, &counters).is_ok(), fine, "{durable} {skipped} {rewinds}");
        }
    }
}
