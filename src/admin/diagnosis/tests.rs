use super::*;
use crate::admin::samples::{bad_night, calm, frontier, reason};
use crate::admin::status::Verdict;

/// All that is said, as `severity culprit: text`.
fn said(status: &Status) -> Vec<String> {
    let line = |f: Finding| format!("{:?} {}: {}", f.severity, f.culprit, f.text);
    diagnosis(status).into_iter().map(line).collect()
}

#[track_caller]
fn check(change: impl FnOnce(&mut Status), expected: &[&str]) {
    let mut status = calm();
    change(&mut status);
    assert_eq!(said(&status), expected);
}

/// The first partition is as late as that, and its oldest record there.
fn late(status: &mut Status, ms: u64, place: &str) {
    status.totals.time_lag_ms = ms;
    status.partitions[0].time_lag_ms = ms;
    status.partitions[0].frontier = Some(frontier(7, "a", place, ms));
}

fn unfetched(status: &mut Status) {
    late(status, 40_000, "unfetched");
    status.partitions[0].frontier.as_mut().expect("set").shard = None;
}

#[test]
fn calm_is_said_to_be_calm() {
    check(|_| {}, &["Calm : Caught up."]);
    check(
        |status| (status.totals.message_lag, status.totals.fetched_per_s) = (Some(0), 0.0),
        &["Calm : Caught up, and nothing comes in."],
    );
    check(|status| late(status, 4_000, "writing"), &["Calm : Keeping up: the oldest write waits for 4.0 s."]);
    check(
        |status| status.totals.message_lag = None,
        &["Calm : Nothing waits, as far as is known: no partition's log has been looked at yet."],
    );
}

#[test]
fn a_bad_night_from_the_worst_on() {
    assert_eq!(
        said(&bad_night()),
        [
            "Bad topic events: Topic events stopped: column \"email\" of relation \"events\" does not exist (SQLSTATE 42703).",
            "Bad database b: Shard b is lock-bound: pid 4711 (psql, user ann, idle in transaction for 5 min 40 s) holds up \
             fb-w1.0 on public.subscriptions, and with it key a1:s0 of updates [0], for 4 min 12 s.",
            "Warn on purpose: Topic audit is paused; 24,331 records wait.",
            "Note : 3 keys are parked, with 120 records, the oldest for 2 min 42 s.",
            "Note : 4 dead letters since the start.",
        ]
    );
}

#[test]
fn a_hanging_poller_comes_before_everything() {
    let mut status = bad_night();
    status.process.poll_age_ms = 12_000;
    assert_eq!(said(&status)[0], "Bad forebay: The poller has not turned for 12 s: forebay hangs.");
}

#[test]
fn a_shard_comes_before_a_topic() {
    let mut status = bad_night();
    status.shards[0].state = "down".to_owned();
    status.shards[0].since_ms = 125_000;
    status.shards[0].reason = Some(reason("57P03", "the database system is starting up"));
    let said = said(&status);
    assert_eq!(
        said[0],
        "Bad database a: Shard a is down, for 2 min 5 s: the database system is starting up (SQLSTATE 57P03)."
    );
    assert!(said[1].contains("Topic events stopped"), "{said:?}");
}

#[test]
fn who_is_late_and_why() {
    let bound = |kind: &str, text: &str| Verdict { kind: kind.to_owned(), text: text.to_owned() };
    check(
        |status| {
            late(status, 40_000, "writing");
            status.shards[0].verdict = bound("io_bound", "64 % of the time reads data files");
        },
        &["Warn database a: Shard a is io-bound: 64 % of the time reads data files."],
    );
    check(
        |status| {
            late(status, 40_000, "queued");
            status.shards[0].verdict = bound("paced", "its ceiling holds it back");
            status.shards[0].pace.active = vec!["rows: 2,000/s".to_owned()];
        },
        &["Warn on purpose: Shard a is held back on purpose: rows: 2,000/s."],
    );
    check(
        |status| {
            late(status, 40_000, "writing");
            let frontier = status.partitions[0].frontier.as_mut().expect("set");
            (frontier.attempt, frontier.last) = (Some(4), Some(reason("40001", "could not serialize access.")));
        },
        &[
            "Warn database a: Shard a fails to take key a1:s7 of updates [0], for 40 s, try 4: could not serialize access \
           (SQLSTATE 40001).",
        ],
    );
    check(
        |status| {
            unfetched(status);
            status.totals.fetched_per_s = 0.0;
        },
        &["Warn Kafka: Kafka hands out nothing of updates [0], where 112 records wait, the oldest for 40 s."],
    );
    check(
        |status| {
            late(status, 40_000, "uncommitted");
            status.totals.durable_per_s = 0.0;
            status.partitions[0].durable = status.partitions[0].fetched;
        },
        &[
            "Warn Kafka: Everything of updates [0] is durable, but Kafka has not taken the commit; the oldest write is 40 s old.",
        ],
    );
    check(unfetched, &["Warn forebay: Catching up: 40 s behind, 120 records to go, 11,988/s become durable."]);
    check(
        |status| {
            unfetched(status);
            status.partitions[0].paused = true;
            (status.totals.durable_per_s, status.totals.fetched_per_s) = (0.0, 0.0);
        },
        &["Warn : updates [0] is 40 s behind, 120 records to go, and nothing becomes durable."],
    );
}

/// What is parked, paused or stopped keeps nobody else: once the age of a parked record was taken for that of the writes.
#[test]
fn a_parked_record_makes_nobody_late() {
    check(
        |status| {
            late(status, 7_200_000, "parked");
            (status.totals.parked_keys, status.totals.parked_records) = (1, 1);
        },
        &["Calm : Caught up.", "Note : 1 key is parked, with 1 record, the oldest for 2 h 0 min."],
    );
    check(
        |status| {
            late(status, 7_200_000, "unfetched");
            status.topics[0].state = TopicState::Paused;
            status.topics[0].message_lag = Some(1);
        },
        &["Warn on purpose: Topic updates is paused; 1 record waits."],
    );
}

#[test]
fn reasons_that_follow_from_nothing_else_are_said() {
    check(
        |status| {
            status.ready.ready = false;
            status.ready.reasons = vec!["no broker answers.".to_owned()];
        },
        &["Bad : Not ready: no broker answers."],
    );
    check(
        |status| status.ready.reasons = vec!["the replica of shard b is not connected".to_owned()],
        &["Warn : the replica of shard b is not connected."],
    );
    check(
        |status| status.partitions.clear(),
        &["Calm : Caught up.", "Note Kafka: No partition is assigned to this process."],
    );
    check(
        |status| status.shards[1].connections.server_used = Some(95),
        &["Calm : Caught up.", "Note database b: Shard b has 2 connections of 97 left."],
    );
}
