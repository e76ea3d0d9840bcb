//! Fences are looked for where they were moved last, and that is only a guess: whatever has moved them since, each batch is applied
//! once, with its fence, or not at all.

use std::thread;

use forebay::config::{InsertMode, Target};
use forebay::sink::fence::{self, Found};
use forebay::sink::{Control, Written};
use forebay::types::Token;
use postgres::SimpleQueryMessage;

use crate::statements::{World, takeover, write};
use crate::support::{PATIENCE, wait_until};
use crate::table::table;

/// Each record becomes a row.
fn world(name: &str) -> World {
    let world = World::with(name, |config| {
        config.topics[0].target = Target::Table(table("applied", InsertMode::Insert, &[]));
    });
    world.located().takeover(&takeover(7, 2, 0)).expect("a takeover");
    world
}

#[track_caller]
fn check(world: &World, applied: &[i64], fences: &[i64]) {
    assert_eq!((world.applied(), world.next_offsets()), (applied.to_vec(), fences.to_vec()));
}

#[test]
fn whoever_moved_a_fence_since() {
    let world = world("places");
    let (mut w0, mut w1) = (world.writer("w0"), world.writer("w1"));
    let mut other = world.database.connect();
    let mut next = 0;
    let mut applied = Vec::new();
    let mut one_more = |writer: &mut _, after: &str| {
        let written = write(writer, 7, &[(0, next, &[next])]);
        assert!(matches!(written, Ok(Written::Applied(_))), "{after}: {written:?}");
        applied.push(next);
        next += 1;
        check(&world, &applied, &[next, 0]);
    };
    // Until fences have left their page, and are looked for where they were.
    let mut old = world.database.connect();
    old.batch_execute("BEGIN; SELECT txid_current()").unwrap();
    for _ in 0..100 {
        one_more(&mut w0, "itself");
        one_more(&mut w1, "another worker, whose lane it was");
    }
    drop(old);
    let same = "UPDATE forebay.fence SET token = token";
    for by in [same, "VACUUM FULL forebay.fence", "BEGIN; UPDATE forebay.fence SET next_offset = 99; ROLLBACK"] {
        other.batch_execute(by).unwrap();
        one_more(&mut w0, by);
        one_more(&mut w0, by);
    }
    // Their places exchanged: what lies where a fence was looked for is another one.
    other.batch_execute("UPDATE forebay.fence SET token = token WHERE lane = 1").unwrap();
    other.batch_execute("VACUUM forebay.fence").unwrap();
    one_more(&mut w1, "a vacuum");
    world.located().takeover(&takeover(8, 2, 0)).expect("a takeover");
    assert_eq!(write(&mut w0, 7, &[(0, next, &[next])]), Ok(Written::Mismatch), "another owner");
    check(&world, &applied, &[next, 0]);
    assert!(matches!(write(&mut w0, 8, &[(0, next, &[next]), (1, 0, &[50])]), Ok(Written::Applied(_))));
    assert_eq!(write(&mut w1, 8, &[(0, next, &[next]), (1, 51, &[51])]), Ok(Written::Mismatch), "the same again");
    assert_eq!(world.fences().iter().map(|(.., token)| Token(*token)).collect::<Vec<_>>(), [Token(8); 2]);
}

const MOVES: i64 = 100;

/// Somebody moves the fence while the batch waits for it.
#[test]
fn whoever_moves_a_fence_meanwhile() {
    let cases = [
        ("SET next_offset = 5", "COMMIT", None),
        ("SET token = 9", "COMMIT", None),
        ("SET next_offset = 5", "ROLLBACK", Some(true)),
        // The same fence in another version: whether that is seen by its place depends on PostgreSQL's version, by its key it is.
        ("SET token = token", "COMMIT", Some(true)),
    ];
    for (change, end, applied) in cases {
        let world = world("places");
        let mut writer = world.writer("w0");
        let mut old = world.database.connect();
        old.batch_execute("BEGIN; SELECT txid_current()").unwrap();
        // As above; both lanes.
        for n in 0..MOVES {
            let written = write(&mut writer, 7, &[(0, (2 * n - 1).max(0), &[2 * n]), (1, 2 * n, &[2 * n + 1])]);
            assert!(matches!(written, Ok(Written::Applied(_))), "{n}: {written:?}");
        }
        drop(old);
        let all = 2 * MOVES;
        let mut other = world.database.connect();
        other.batch_execute(&format!("BEGIN; UPDATE forebay.fence {change} WHERE lane = 0")).unwrap();
        let waiting = thread::spawn(move || write(&mut writer, 7, &[(0, all - 1, &[all]), (1, all, &[all + 1])]));
        world.wait_for_waiters(1, false);
        other.batch_execute(end).unwrap();
        let written = waiting.join().unwrap();
        let fences = world.next_offsets();
        match applied {
            Some(_) => {
                assert!(matches!(written, Ok(Written::Applied(_))), "{change} {end}: {written:?}");
                check(&world, &(0..all + 2).collect::<Vec<_>>(), &[all + 1, all + 2]);
            }
            None => {
                assert_eq!(written, Ok(Written::Mismatch), "{change} {end}");
                check(&world, &(0..all).collect::<Vec<_>>(), &[fences[0], all]);
            }
        }
    }
}

/// As long as a transaction is open, no version of a fence goes away; the batch does not look at them.
#[test]
fn a_transaction_that_stays_open_does_not_make_them_harder_to_find() {
    let world = world("places");
    let mut old = world.database.connect();
    old.batch_execute("BEGIN; SELECT txid_current()").unwrap();
    let mut client = world.database.connect();
    client.batch_execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan").unwrap();
    let mut writer = world.writer("w0");
    (0..500).for_each(|n| assert!(matches!(write(&mut writer, 7, &[(0, n, &[n])]), Ok(Written::Applied(_)))));
    for (name, found) in [("by_key", Found::ByKey), ("by_place", Found::ByPlace)] {
        let types = "int, int[], smallint[], bigint[], bigint[], bigint[], tid[]";
        let prepare = format!("PREPARE {name} ({types}) AS {}", fence::batch(found, &[]));
        client.batch_execute(&prepare).unwrap();
    }
    let mut blocks = |name: &str| {
        let place: String =
            client.query_one("SELECT ctid::text FROM forebay.fence WHERE lane = 0", &[]).unwrap().get(0);
        let explain = format!(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name} ({}, '{{0}}', '{{0}}', '{{7}}', '{{500}}', '{{500}}', '{{\"{place}\"}}')",
            world.ids.get(crate::statements::TOPIC),
        );
        let messages = client.simple_query(&explain).unwrap();
        let text = messages.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0) } else { None });
        let explained: serde_json::Value = serde_json::from_str(text.expect("a plan")).unwrap();
        assert_eq!(explained[0]["Plan"].to_string().contains("Tid Scan"), name == "by_place", "{explained:#}");
        explained[0]["Plan"]["Shared Hit Blocks"].as_i64().expect("blocks")
    };
    let (by_key, by_place) = (blocks("by_key"), blocks("by_place"));
    assert!(by_place <= 20 && by_key > by_place, "{by_place} blocks by place, {by_key} by key");
}

/// Where nobody keeps old versions, they go away with the looks by the key, and fences stay where they are. A transaction of another
/// test that is open meanwhile keeps them, too, and ends.
#[test]
fn without_such_a_transaction_fences_stay_in_their_page() {
    let world = world("places");
    let (mut writer, mut client) = (world.writer("w0"), world.database.connect());
    let mut next = 0;
    wait_until(PATIENCE, "a thousand moves within their page", || {
        let mut size = || -> i64 { client.query_one("SELECT pg_relation_size('forebay.fence')", &[]).unwrap().get(0) };
        let before = size();
        for n in next..next + 1000 {
            let written = write(&mut writer, 7, &[(0, n, &[n])]);
            assert!(matches!(written, Ok(Written::Applied(_))), "{n}: {written:?}");
        }
        next += 1000;
        size() - before <= 2 * 8192
    });
}
