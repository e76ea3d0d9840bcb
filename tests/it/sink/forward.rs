//! `forebay.dead_letter` as an outbox: which letters are due, who may claim them, and what is marked.

use std::sync::Arc;

use forebay::forward::outbox::PostgresOutbox;
use forebay::forward::{Letter, Outbox, Trouble, Verdict};
use forebay::letters::list::{Forwarded, list};
use forebay::letters::{Filter, discard};
use forebay::sink::{dead_letter, schema};
use forebay::types::ShardIx;
use postgres::Client;

use crate::statements::World;

/// A database with letters at these offsets of topic `topic`, and one of another group and of another topic.
fn world(name: &str, offsets: std::ops::Range<i64>) -> World {
    let world = World::new(name);
    schema::init(&mut world.database.connect()).expect("our tables");
    for offset in offsets {
        insert(&mut world.database.connect(), "group", "topic", offset);
    }
    insert(&mut world.database.connect(), "other", "topic", 1000);
    insert(&mut world.database.connect(), "group", "elsewhere", 1001);
    world
}

fn insert(client: &mut Client, group: &str, topic: &str, offset: i64) {
    let sql = "INSERT INTO forebay.dead_letter (source, grp, topic, partition, \"offset\", error, payload) \
               VALUES (1, $1, $2, 0, $3, 'why', $4)";
    client.execute(sql, &[&group, &topic, &offset, &b"payload".as_slice()]).unwrap();
}

fn outbox(world: &World) -> PostgresOutbox {
    PostgresOutbox::new(&world.config, ShardIx(0))
}

fn is_due(outbox: &mut PostgresOutbox) -> Vec<bool> {
    outbox.due(&["nothing".to_owned(), "topic".to_owned()]).expect("an answer")
}

/// Claims once; `verdict` decides by the offset. The offsets that were published.
fn claim(outbox: &mut PostgresOutbox, verdict: impl Fn(i64) -> Verdict) -> Option<Vec<i64>> {
    let mut published = Vec::new();
    let mut publish = |letters: &[Letter]| {
        published.extend(letters.iter().map(|letter| letter.offset));
        letters.iter().map(|letter| verdict(letter.offset)).collect()
    };
    let mine = outbox.claim("topic", &mut publish).expect("a claim");
    mine.then_some(published)
}

fn acknowledged(_: i64) -> Verdict {
    Verdict::Acknowledged
}

#[test]
fn what_is_due_is_claimed_in_order_and_marked_by_its_verdict() {
    let world = world("outbox", 0..6);
    let mut outbox = outbox(&world);
    assert_eq!(is_due(&mut outbox), [false, true]);
    let trouble = || Trouble { text: "away".into(), needs_a_person: false };
    let by_offset = |offset| match offset {
        1 => Verdict::Refused("too large".into()),
        2 | 4 => Verdict::NotNow(trouble()),
        _ => Verdict::Acknowledged,
    };
    assert_eq!(claim(&mut outbox, by_offset), Some(vec![0, 1, 2, 3, 4, 5]));
    assert_eq!(claim(&mut outbox, acknowledged), Some(vec![2, 4]), "what was not acknowledged, and nothing else");
    assert_eq!(is_due(&mut outbox), [false, false]);
    assert_eq!(claim(&mut outbox, |_| panic!("nothing is due")), Some(Vec::new()));
    let answers =
        list(&world.config, &Filter { topic: Some("topic".into()), ..Filter::default() }, 100).expect("a list");
    let of: Vec<_> = answers[0].1.as_ref().expect("letters").iter().map(|l| (l.offset, l.forwarded.clone())).collect();
    assert_eq!(of.len(), 6);
    for (offset, forwarded) in of {
        match offset {
            1 => assert_eq!(forwarded, Forwarded::Refused("too large".into())),
            _ => assert!(matches!(forwarded, Forwarded::At(_)), "{offset}: {forwarded:?}"),
        }
    }
}

/// Somebody has decided about it: nobody else needs to hear of it.
#[test]
fn what_a_person_has_decided_about_stays() {
    let world = world("outbox_decided", 0..3);
    discard::discard(&world.config, &Filter { offset: Some(1), ..Filter::default() }).expect("discarded");
    assert_eq!(claim(&mut outbox(&world), acknowledged), Some(vec![0, 2]));
}

/// After `forebay fences reset` the record was read, and refused, again.
#[test]
fn a_letter_that_takes_a_formers_place_is_forwarded_again() {
    let world = world("outbox_again", 0..2);
    let mut outbox = outbox(&world);
    let refuse_first = |offset| if offset == 0 { Verdict::Refused("too large".into()) } else { Verdict::Acknowledged };
    assert_eq!(claim(&mut outbox, refuse_first), Some(vec![0, 1]));
    let mut client = world.database.connect();
    let statement = client.prepare_typed(&dead_letter::sql(1, None), &dead_letter::types()).unwrap();
    let (none, null): (Option<&str>, Option<&[u8]>) = (None, None);
    for offset in [1_i64, 0] {
        let (partitions, offsets, timestamps) = (vec![0], vec![offset], vec![Some(1_700_000_000_123_i64)]);
        client
            .execute(
                &statement,
                &[
                    &1,
                    &"group",
                    &"topic",
                    &partitions,
                    &offsets,
                    &timestamps,
                    &vec![none],
                    &vec!["why"],
                    &vec![null],
                    &vec![null],
                    &vec![null],
                ],
            )
            .unwrap();
    }
    assert_eq!(claim(&mut outbox, acknowledged), Some(vec![0, 1]));
}

/// A replay holds its letter until it is applied, or refused again.
#[test]
fn what_is_held_is_passed_over_and_comes_later() {
    let world = world("outbox_held", 0..3);
    let mut outbox = outbox(&world);
    let mut other = world.database.connect();
    let mut replay = other.transaction().unwrap();
    replay.execute("SELECT 1 FROM forebay.dead_letter WHERE \"offset\" = 1 AND grp = 'group' FOR UPDATE", &[]).unwrap();
    assert_eq!(claim(&mut outbox, acknowledged), Some(vec![0, 2]));
    assert_eq!(claim(&mut outbox, acknowledged), Some(Vec::new()));
    drop(replay);
    assert_eq!(claim(&mut outbox, acknowledged), Some(vec![1]));
}

#[test]
fn processes_of_a_group_take_turns_and_groups_do_not_wait_for_each_other() {
    let world = world("outbox_turns", 0..3);
    let (mut first, mut second) = (outbox(&world), outbox(&world));
    let mut config = (*world.config).clone();
    config.kafka.group_id = "other".to_owned();
    let mut other = PostgresOutbox::new(&Arc::new(config), ShardIx(0));
    let mut published = 0;
    let mine = first.claim("topic", &mut |letters| {
        published = letters.len();
        assert_eq!(claim(&mut second, |_| panic!("claimed twice")), None, "the first one is about it");
        assert_eq!(claim(&mut other, acknowledged), Some(vec![1000]));
        vec![Verdict::Acknowledged; letters.len()]
    });
    assert_eq!((mine, published), (Ok(true), 3));
    assert_eq!(claim(&mut second, acknowledged), Some(Vec::new()), "and is done");
}

/// The connection goes between the brokers' acknowledgement and the mark: everything comes again.
#[test]
fn what_could_not_be_marked_comes_again() {
    let world = world("outbox_lost", 0..3);
    let mut outbox = outbox(&world);
    let result = outbox.claim("topic", &mut |letters| {
        world.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forebay/group/forward' \
             AND datname = current_database()",
        );
        vec![Verdict::Acknowledged; letters.len()]
    });
    assert!(matches!(result, Err(forebay::sink::Failure::Outage(_))), "{result:?}");
    assert_eq!(claim(&mut outbox, acknowledged), Some(vec![0, 1, 2]));
}

/// More than one claim takes, in records and in bytes.
#[test]
fn a_claim_is_bounded() {
    let world = world("outbox_bounded", 0..0);
    world.database.execute(
        "INSERT INTO forebay.dead_letter (source, grp, topic, partition, \"offset\", error) \
         SELECT 1, 'group', 'topic', 0, o, 'why' FROM generate_series(1, 700) o",
    );
    let mut outbox = outbox(&world);
    let sizes = |outbox: &mut PostgresOutbox| claim(outbox, acknowledged).expect("ours").len();
    assert_eq!([sizes(&mut outbox), sizes(&mut outbox), sizes(&mut outbox)], [500, 200, 0]);
    world.database.execute(
        "UPDATE forebay.dead_letter SET forwarded_at = NULL, payload = convert_to(repeat('x', 3000000), 'UTF8') \
         WHERE grp = 'group' AND \"offset\" <= 5",
    );
    assert_eq!([sizes(&mut outbox), sizes(&mut outbox), sizes(&mut outbox), sizes(&mut outbox)], [2, 2, 1, 0]);
}

/// Written again by a process of the version before, which knows nothing of forwarding; and tables of before, which are looked at
/// as they are and upgraded by whoever forwards.
#[test]
fn versions_may_mix() {
    let world = world("outbox_versions", 0..2);
    let before = "INSERT INTO forebay.dead_letter AS d (source, grp, topic, partition, \"offset\", ts, sqlstate, error, key, \
                  payload, headers) VALUES (1, 'group', 'topic', 0, 2, now(), NULL, 'why', NULL, NULL, NULL) \
                  ON CONFLICT (source, partition, \"offset\") DO UPDATE SET at = now(), resolution = NULL";
    world.database.execute(before);
    assert_eq!(claim(&mut outbox(&world), acknowledged), Some(vec![0, 1, 2]));

    world.database.execute(
        "ALTER TABLE forebay.dead_letter DROP COLUMN forwarded_at, DROP COLUMN forward_error; \
         UPDATE forebay.meta SET value = '1.1' WHERE key = 'schema'",
    );
    let answers = list(&world.config, &Filter::default(), 100).expect("a list");
    let letters = answers[0].1.as_ref().expect("letters");
    assert!(letters.len() == 4 && letters.iter().all(|letter| letter.forwarded == Forwarded::No), "{letters:?}");
    assert_eq!(is_due(&mut outbox(&world)), [false, true]);
    world.database.execute(before);
    let indexed = world
        .database
        .connect()
        .query("SELECT 1 FROM pg_indexes WHERE schemaname = 'forebay' AND indexname = 'dead_letter_to_forward'", &[]);
    assert_eq!(indexed.unwrap().len(), 1);
}
