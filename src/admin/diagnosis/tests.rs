use super::*;
use crate::admin::samples::{bad_night, calm, frontier, reason};
use crate::admin::status::Verdict;

/// All that is said, as `severity culprit: text`.
fn said(status: &Status) -> Vec<String> {
    let line = |f: Finding| {
        let name = f.name.map(|name| format!(" {name}")).unwrap_or_default();
        format!("{} {}{name}: {}", f.severity, f.culprit, f.text)
    };
    findings(status).into_iter().map(line).collect()
}

#[track_caller]
fn check(change: impl FnOnce(&mut Status), expected: &[&str]) {
    let mut status = calm();
    change(&mut status);
    assert_eq!(said(&status), expected);
}

/// The first partition is as late as that, and its oldest record there.
fn late(status: &mut Status, ms: u64, place: &str) {
    late_at(status, 0, ms, place);
}

fn late_at(status: &mut Status, index: usize, ms: u64, place: &str) {
    let partition = &mut status.partitions[index];
    (partition.time_lag_ms, partition.unparked_lag_ms) = (ms, ms);
    partition.frontier = Some(frontier(7, "a", place, ms));
}

/// A key of the first partition has been parked for so long, and nothing else of it waits.
fn parked(status: &mut Status, ms: u64) {
    let partition = &mut status.partitions[0];
    (partition.time_lag_ms, partition.unparked_lag_ms, partition.parked_age_ms) = (ms, 0, Some(ms));
    partition.frontier = Some(frontier(7, "a", "parked", ms));
    (status.totals.parked_keys, status.totals.parked_records) = (1, 1);
}

fn bound(shard: &mut Shard, kind: &str, text: &str) {
    shard.verdict = Verdict { kind: kind.to_owned(), text: text.to_owned() };
}

fn unfetched(status: &mut Status) {
    late(status, 40_000, "unfetched");
    status.partitions[0].frontier.as_mut().expect("set").shard = None;
}

#[test]
fn calm_is_said_to_be_calm() {
    check(|_| {}, &["calm nobody: Caught up."]);
    check(
        |status| (status.totals.message_lag, status.totals.fetched_per_s) = (Some(0), 0.0),
        &["calm nobody: Caught up, and nothing comes in."],
    );
    check(|status| late(status, 4_000, "writing"), &["calm nobody: Keeping up: the oldest write waits for 4.0 s."]);
    check(
        |status| {
            late(status, 8_800, "writing");
            status.totals.durable_per_s = 0.0;
        },
        &["calm nobody: The oldest write waits for 8.8 s."],
    );
    check(
        |status| status.totals.message_lag = None,
        &["calm nobody: Nothing waits, as far as is known: no partition's log has been looked at yet."],
    );
}

#[test]
fn a_bad_night_from_the_worst_on() {
    assert_eq!(
        said(&bad_night()),
        [
            "bad topic events: Topic events has stopped and needs a person: column \"email\" of relation \"events\" does not \
             exist (SQLSTATE 42703).",
            "bad database b: Shard b is lock-bound: pid 4711 (psql, user ann, idle in transaction for 5 min 40 s) holds up \
             fb-w1.0 on public.subscriptions, and with it key a1:s0 of updates [0], for 4 min 12 s.",
            "warn purpose: Topic audit is paused: nothing of it is fetched; 24,331 records wait.",
            "note nobody: 3 keys are parked, with 120 records, the oldest 2 min 42 s old.",
            "note nobody: 4 dead letters since the start.",
        ]
    );
    assert_eq!(bad_night().findings, findings(&bad_night()), "what was said before changes nothing");
}

#[test]
fn a_hanging_poller_comes_before_everything() {
    let mut status = bad_night();
    status.process.poll_age_ms = 12_000;
    assert_eq!(said(&status)[0], "bad forebay: forebay itself hangs: its poller has not turned for 12 s.");
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
        "bad database a: Shard a has been down for 2 min 5 s: the database system is starting up (SQLSTATE 57P03)."
    );
    assert!(said[1].contains("Topic events has stopped"), "{said:?}");
}

#[test]
fn a_shard_that_nobody_has_reached_is_trouble_after_a_while() {
    let unknown = |status: &mut Status, since_ms| {
        (status.shards[0].state, status.shards[0].since_ms) = ("unknown".to_owned(), since_ms);
    };
    check(|status| unknown(status, 9_000), &["calm nobody: Caught up."]);
    check(|status| unknown(status, 11_000), &["warn database a: Shard a has not been reached for 11 s."]);
    // It is no fault of Kafka's that nothing is fetched of what nobody could take over.
    check(
        |status| {
            unknown(status, 40_000);
            unfetched(status);
            (status.totals.fetched_per_s, status.partitions[0].durable, status.partitions[0].fetched) =
                (0.0, None, None);
            status.partitions[0].state = "locating".to_owned();
        },
        &[
            "warn database a: Shard a has not been reached for 40 s.",
            "note nobody: 1 of 9 partitions are being taken over.",
        ],
    );
    check(
        |status| {
            (status.shards[0].state, status.shards[0].since_ms) = ("refused".to_owned(), 61_000);
        },
        &["bad database a: Shard a has refused us for 1 min 1 s and needs a person."],
    );
}

#[test]
fn who_is_late_and_why() {
    check(
        |status| {
            late(status, 40_000, "writing");
            bound(&mut status.shards[0], "io_bound", "64 % of the time reads data files");
        },
        &["warn database a: Shard a is io-bound, and its writes are 40 s late: 64 % of the time reads data files."],
    );
    check(
        |status| {
            late(status, 40_000, "queued");
            bound(&mut status.shards[0], "paced", "its ceiling holds it back");
            status.shards[0].pace.active = vec!["rows: 2,000/s".to_owned()];
        },
        &["warn purpose: Shard a is held back on purpose, and its writes are 40 s late: rows: 2,000/s."],
    );
    check(
        |status| {
            late(status, 40_000, "writing");
            let frontier = status.partitions[0].frontier.as_mut().expect("set");
            (frontier.attempt, frontier.last) = (Some(4), Some(reason("40001", "could not serialize access.")));
        },
        &[
            "warn database a: Shard a fails to take key a1:s7 of updates [0], for 40 s, try 4: could not serialize access \
           (SQLSTATE 40001).",
        ],
    );
    check(
        |status| {
            unfetched(status);
            status.totals.fetched_per_s = 0.0;
        },
        &["warn kafka: Kafka hands out nothing of updates [0], where 112 records wait, the oldest for 40 s."],
    );
    check(
        |status| {
            unfetched(status);
            status.partitions[0].paused = true;
        },
        &["warn forebay: Catching up: 40 s behind, 120 records to go, 11,988/s become durable."],
    );
    check(
        |status| {
            unfetched(status);
            status.partitions[0].paused = true;
            (status.totals.durable_per_s, status.totals.fetched_per_s) = (0.0, 0.0);
        },
        &["warn nobody: updates [0] is 40 s behind, 120 records to go, and nothing becomes durable."],
    );
    check(
        |status| {
            unfetched(status);
            status.partitions[0].state = "verifying".to_owned();
        },
        &[
            "warn nobody: updates [0] is being taken over, and 40 s behind meanwhile.",
            "note nobody: 1 of 9 partitions are being taken over.",
        ],
    );
}

/// Once all was "Catching up", at the pace of the other partitions.
#[test]
fn partitions_behind_an_open_transaction_catch_up_with_nothing() {
    check(
        |status| {
            unfetched(status);
            late_at(status, 1, 30_000, "unfetched");
            status.partitions[1].frontier.as_mut().expect("set").shard = None;
            // Behind for a reason of its own.
            late_at(status, 2, 20_000, "queued");
        },
        &[
            "warn kafka: Kafka hands out nothing of updates [0] and updates [1], where 224 records wait, the oldest for 40 s, \
             while it does of others: a producer's open transaction may hold this back.",
        ],
    );
}

/// Once it was "Keeping up" for the ten seconds before a write is late, at no records a second.
#[test]
fn who_holds_a_lock_is_said_before_anything_is_late() {
    let locked = |status: &mut Status, waits_ms, blocked_ms| {
        status.shards[1] = bad_night().shards.remove(1);
        status.shards[1].pace.active.clear();
        let blocker = &mut status.shards[1].contention.as_mut().expect("sampled").blockers[0];
        (blocker.blocked_for_ms, blocker.transaction_age_ms) = (blocked_ms, Some(9_000));
        late(status, waits_ms, "writing");
        let frontier = status.partitions[0].frontier.as_mut().expect("set");
        (frontier.shard, frontier.blocked_by) = (Some("b".to_owned()), vec![4711]);
        status.totals.durable_per_s = 0.0;
    };
    check(
        |status| locked(status, 8_800, 8_000),
        &[
            "warn database b: Shard b is lock-bound: pid 4711 (psql, user ann, idle in transaction for 9.0 s) holds up fb-w1.0 on \
             public.subscriptions, and with it key a1:s7 of updates [0], for 8.8 s.",
        ],
    );
    check(|status| locked(status, 8_800, 2_000), &["calm nobody: The oldest write waits for 8.8 s."]);
    check(|status| locked(status, 2_900, 2_900), &["calm nobody: Caught up."]);
}

/// Once Kafka was to blame for whatever was not committed.
#[test]
fn what_is_not_committed_is_the_shards_business_where_one_has_not_acknowledged_it() {
    let uncommitted = |status: &mut Status, shard: Option<&str>| {
        late(status, 40_000, "uncommitted");
        status.partitions[0].frontier.as_mut().expect("set").shard = shard.map(str::to_owned);
        status.partitions[0].durable = status.partitions[0].fetched;
    };
    check(
        |status| uncommitted(status, None),
        &["warn kafka: Kafka has not taken the commit of what is durable of updates [0]; the oldest is 40 s old."],
    );
    check(
        |status| {
            uncommitted(status, Some("b"));
            status.shards[1].pace.replica_lag_ms = Some(39_000);
        },
        &[
            "warn database b: Shard b has not acknowledged what is durable of updates [0], for 40 s; its replica lags by 39 s: \
             Kafka's commit waits for it.",
        ],
    );
    check(
        |status| {
            uncommitted(status, Some("b"));
            (status.shards[1].state, status.shards[1].since_ms) = ("down".to_owned(), 41_000);
        },
        &["bad database b: Shard b has been down for 41 s."],
    );
}

/// What is parked, paused or stopped keeps nobody else: once the age of a parked record was taken for that of the writes.
#[test]
fn a_parked_record_makes_nobody_late() {
    check(
        |status| parked(status, 259_200_000),
        &["calm nobody: Caught up.", "note nobody: 1 key is parked, with 1 record, the oldest 3 d 0 h old."],
    );
    check(
        |status| {
            late(status, 7_200_000, "unfetched");
            status.topics[0].state = TopicState::Paused;
            status.topics[0].message_lag = Some(1);
        },
        &["warn purpose: Topic updates is paused: nothing of it is fetched; 1 record waits."],
    );
}

/// Once one parked key hid all that waited behind it in its partition.
#[test]
fn a_parked_record_hides_no_other() {
    check(
        |status| {
            parked(status, 259_200_000);
            status.partitions[0].unparked_lag_ms = 40_000;
            status.partitions[0].unparked = Some(frontier(9, "b", "writing", 40_000));
            bound(&mut status.shards[1], "commit_bound", "half of the time goes to COMMIT");
        },
        &[
            "warn database b: Shard b is commit-bound, and its writes are 40 s late: half of the time goes to COMMIT.",
            "note nobody: 1 key is parked, with 1 record, the oldest 3 d 0 h old.",
        ],
    );
}

/// Nor does a topic that somebody paused, or a shard with a reason of its own.
#[test]
fn one_cause_hides_no_other() {
    check(
        |status| {
            status.topics[2].state = TopicState::Paused;
            status.topics[2].message_lag = Some(0);
            late(status, 40_000, "writing");
            bound(&mut status.shards[0], "cpu_bound", "it computes");
            late_at(status, 1, 50_000, "unfetched");
            status.partitions[1].frontier.as_mut().expect("set").shard = None;
            status.totals.fetched_per_s = 0.0;
        },
        &[
            "warn purpose: Topic audit is paused: nothing of it is fetched.",
            "warn database a: Shard a is cpu-bound, and its writes are 40 s late: it computes.",
            "warn kafka: Kafka hands out nothing of updates [1], where 112 records wait, the oldest for 50 s.",
        ],
    );
}

#[test]
fn partitions_that_stopped_alone_are_named() {
    let stopped = |status: &mut Status, number: usize| {
        status.partitions[..number].iter_mut().for_each(|partition| partition.state = "stopped".to_owned());
    };
    check(|status| stopped(status, 1), &["bad topic updates: updates [0] has stopped and needs a person."]);
    check(
        |status| stopped(status, 3),
        &["bad topic updates: updates [0], updates [1] and updates [2] have stopped and need a person."],
    );
    check(
        |status| stopped(status, 8),
        &["bad topic updates: updates [0], updates [1], updates [2] and 5 more have stopped and need a person."],
    );
}

#[test]
fn reasons_that_follow_from_nothing_else_are_said() {
    check(
        |status| {
            status.ready.ready = false;
            status.ready.reasons = vec!["no broker answers.".to_owned()];
        },
        &["bad nobody: Not ready: no broker answers."],
    );
    check(
        |status| status.ready.reasons = vec!["the replica of shard b is not connected".to_owned()],
        &["warn nobody: the replica of shard b is not connected."],
    );
    check(
        |status| status.partitions.clear(),
        &["calm nobody: Caught up.", "note kafka: No partition is assigned to this process."],
    );
    check(
        |status| status.shards[1].connections.server_used = Some(95),
        &["calm nobody: Caught up.", "note database b: Shard b has 2 connections of 97 left."],
    );
    check(
        |status| status.shards[1].pace.active = vec!["rows: 2,000/s".to_owned()],
        &["calm nobody: Caught up.", "note purpose: Shard b is held back on purpose: rows: 2,000/s."],
    );
}

#[test]
fn severities_that_are_not_known_are_notes() {
    let mut finding = calm().findings.remove(0);
    assert_eq!(Severity::of(&finding), Severity::Calm);
    finding.severity = "dreadful".to_owned();
    assert_eq!(Severity::of(&finding), Severity::Note);
}
