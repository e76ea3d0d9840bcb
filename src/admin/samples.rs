//! Statuses for tests: a calm day and a bad night. The integration tests use this file, too.

use super::diagnosis::findings;
use super::status::{
    Blocker, Connections, Contention, Frontier, Outcomes, Pace, Partition, Process, Ready, Reason, Shard, StageTimes,
    Status, TableHealth, TopKey, TopKeys, Topic, TopicState, Totals, VERSION, Verdict, Wait, Wal, Worker,
};

const NOW_MS: i64 = 1_795_660_800_000;

/// With what the diagnosis says of it.
pub fn diagnosed(mut status: Status) -> Status {
    status.findings = Vec::new();
    status.findings = findings(&status);
    status
}

/// Three topics, two shards, and nothing waits.
pub fn calm() -> Status {
    diagnosed(Status {
        version: VERSION,
        process: Process {
            version: "0.1.0".to_owned(),
            librdkafka: "2.12.1".to_owned(),
            pid: 4242,
            host: "ingest-3".to_owned(),
            group: "subscriptions".to_owned(),
            started_at_ms: NOW_MS - 273_600_000,
            now_ms: NOW_MS,
            poll_age_ms: 12,
            leaving: false,
            log_level: "info".to_owned(),
            memory_bytes: Some(48 << 20),
            cpu_ms: Some(1_234_000),
        },
        ready: Ready { ready: true, reasons: Vec::new() },
        findings: Vec::new(),
        totals: Totals {
            message_lag: Some(120),
            time_lag_ms: 640,
            unparked_lag_ms: 640,
            in_flight_records: 80,
            in_flight_bytes: 20_000,
            fetched_per_s: 12_010.0,
            durable_per_s: 11_987.5,
            fetched: 3_200_000_000,
            durable: 3_199_999_920,
            parked_keys: 0,
            parked_records: 0,
            dead_letters: 0,
            rewinds: 0,
            rebalances: 2,
        },
        topics: ["updates", "events", "audit"].map(topic).into(),
        partitions: (0..8).map(|number| partition("updates", number)).chain([partition("events", 0)]).collect(),
        shards: vec![shard("a"), shard("b")],
        top_keys: Vec::new(),
    })
}

/// A session that somebody forgot holds a lock on shard b; topic `events` stopped, `audit` is paused, keys are parked, one of them under
/// a name that is made to do harm.
pub fn bad_night() -> Status {
    let mut status = calm();
    status.ready = Ready { ready: false, reasons: vec!["topic events stopped".to_owned()] };
    status.totals = Totals {
        message_lag: Some(1_204_331),
        time_lag_ms: 252_000,
        unparked_lag_ms: 252_000,
        in_flight_records: 61_000,
        fetched_per_s: 310.0,
        durable_per_s: 42.0,
        parked_keys: 3,
        parked_records: 120,
        dead_letters: 4,
        ..status.totals
    };
    status.topics[0].message_lag = Some(1_180_000);
    status.topics[0].time_lag_ms = 252_000;
    status.topics[1].state = TopicState::Stopped;
    status.topics[1].reason = Some(reason("42703", "column \"email\" of relation \"events\" does not exist"));
    status.topics[2].state = TopicState::Paused;
    status.topics[2].message_lag = Some(24_331);
    for (index, partition) in status.partitions.iter_mut().enumerate().take(8) {
        partition.time_lag_ms = 252_000 - 30_000 * index as u64;
        partition.unparked_lag_ms = partition.time_lag_ms;
        partition.message_lag = Some(400_000 - 40_000 * index as u64);
        partition.in_flight_records = 7_000;
        partition.paused = index < 3;
        partition.frontier = Some(frontier(index as i64, "b", "queued", partition.time_lag_ms));
    }
    let fourth = &mut status.partitions[3];
    let parked = fourth.frontier.as_mut().expect("set above");
    parked.place = "parked".to_owned();
    parked.key = Some(HOSTILE.to_owned());
    fourth.parked_age_ms = Some(parked.age_ms);
    fourth.unparked_lag_ms = 0;
    let worst = status.partitions[0].frontier.as_mut().expect("set above");
    worst.place = "writing".to_owned();
    worst.attempt = Some(5);
    worst.last = Some(reason("55P03", "canceling statement due to lock timeout"));
    worst.blocked_by = vec![4711];
    status.partitions[8].state = "stopped".to_owned();
    status.shards[1] = locked(shard("b"));
    status.top_keys = vec![TopKeys {
        shard: "b".to_owned(),
        topic: "updates".to_owned(),
        by_count: vec![top_key(0, Some("a1:s7"), 0.31), top_key(3, Some(HOSTILE), 0.12), top_key(5, None, 0.04)],
        by_time: vec![top_key(0, Some("a1:s7"), 0.88), top_key(2, Some("漢字:größe"), 0.05)],
    }];
    diagnosed(status)
}

/// A key that clears a screen, retitles a window, rings, turns text around and is wide.
pub const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\r\n漢字\u{202e}evil\u{200b}";

fn locked(mut shard: Shard) -> Shard {
    shard.verdict = Verdict { kind: "lock_bound".to_owned(), text: "71 % of the time waits for locks".to_owned() };
    shard.parked_keys = 3;
    shard.parked_records = 120;
    shard.pace.active = vec!["replica db-b2 lags by 9 s".to_owned()];
    shard.pace.replica_lag_ms = Some(9_000);
    let worker = &mut shard.workers[0];
    worker.state = "retrying".to_owned();
    worker.busy = 0.98;
    worker.topic = Some("updates".to_owned());
    worker.records = 500;
    worker.since_ms = Some(34_000);
    worker.attempt = Some(5);
    worker.last = Some(reason("55P03", "canceling statement due to lock timeout"));
    worker.queued_records = 7_000;
    shard.contention = Some(Contention {
        sampled_at_ms: NOW_MS - 400,
        waits: vec![wait("Lock", "transactionid", 0.71), wait("CPU", "", 0.2), wait("LWLock", "WALWrite", 0.09)],
        blockers: vec![Blocker {
            pid: 4711,
            application: Some("psql".to_owned()),
            user: Some("ann".to_owned()),
            state: Some("idle in transaction".to_owned()),
            transaction_age_ms: Some(340_000),
            query_age_ms: Some(339_000),
            command: Some("UPDATE".to_owned()),
            blocks: vec!["fb-w1.0".to_owned()],
            blocked_for_ms: 34_000,
            lock: Some("transactionid".to_owned()),
            relation: Some("public.subscriptions".to_owned()),
            ours: false,
        }],
        tables: vec![TableHealth {
            table: "public.subscriptions".to_owned(),
            hot_ratio: Some(0.42),
            live_rows: 12_000_000,
            dead_rows: 3_400_000,
            last_vacuum_at_ms: Some(NOW_MS - 7_260_000),
        }],
        wal: Some(Wal { bytes_per_s: Some(31e6), checkpoints_timed: Some(2), checkpoints_requested: Some(17) }),
        notes: vec!["GRANT pg_read_all_stats TO app shows the sessions of other users".to_owned()],
    });
    shard
}

fn topic(name: &str) -> Topic {
    let stage = |stage: &str, ms: f64| StageTimes {
        stage: stage.to_owned(),
        count: 3_000_000,
        p50_ms: ms,
        p99_ms: ms * 8.0,
        max_ms: ms * 90.0,
    };
    Topic {
        name: name.to_owned(),
        table: (name != "audit").then(|| format!("public.{name}")),
        state: TopicState::Running,
        reason: None,
        message_lag: Some(40),
        time_lag_ms: 640,
        records: Outcomes { upserted: 2_900_000, deleted: 40_000, folded: 12_345, ..Outcomes::default() },
        stages: vec![stage("fetched", 1.5), stage("written", 6.25), stage("durable", 210.0)],
    }
}

pub fn partition(topic: &str, number: i32) -> Partition {
    Partition {
        topic: topic.to_owned(),
        partition: number,
        state: "running".to_owned(),
        paused: false,
        committed: Some(399_900),
        durable: Some(399_990),
        fetched: Some(400_000),
        end: Some(400_012),
        message_lag: Some(112),
        time_lag_ms: 640,
        unparked_lag_ms: 640,
        parked_age_ms: None,
        in_flight_records: 10,
        in_flight_bytes: 2_500,
        frontier: Some(frontier(399_990, "a", "writing", 640)),
        unparked: None,
    }
}

pub fn frontier(offset: i64, shard: &str, place: &str, age_ms: u64) -> Frontier {
    Frontier {
        offset,
        key: Some(format!("a1:s{}", offset % 10)),
        age_ms,
        place: place.to_owned(),
        shard: Some(shard.to_owned()),
        lane: Some(3),
        worker: Some(format!("fb-w{}.0", u8::from(shard == "b"))),
        attempt: None,
        last: None,
        blocked_by: Vec::new(),
    }
}

fn shard(name: &str) -> Shard {
    let number = u8::from(name == "b");
    let worker = |name: String| Worker {
        name,
        state: "writing".to_owned(),
        busy: 0.35,
        topic: Some("updates".to_owned()),
        records: 120,
        since_ms: Some(4),
        attempt: Some(1),
        last: None,
        queued_records: 40,
    };
    let mut lane = worker(format!("fb-s{number}.0"));
    (lane.state, lane.busy, lane.topic, lane.records) = ("idle".to_owned(), 0.0, None, 0);
    Shard {
        name: name.to_owned(),
        state: "up".to_owned(),
        since_ms: 273_000_000,
        reason: None,
        verdict: Verdict { kind: "waiting_for_us".to_owned(), text: "its workers wait for records".to_owned() },
        connections: Connections { needed: 7, open: Some(7), server_max: Some(97), server_used: Some(31) },
        pace: Pace { active: Vec::new(), replica_lag_ms: None },
        parked_keys: 0,
        parked_records: 0,
        contention: None,
        workers: vec![worker(format!("fb-w{number}.0")), worker(format!("fb-w{number}.1")), lane],
    }
}

pub fn reason(code: &str, text: &str) -> Reason {
    Reason { sqlstate: Some(code.to_owned()), text: text.to_owned() }
}

fn wait(kind: &str, event: &str, share: f64) -> Wait {
    Wait { kind: kind.to_owned(), event: event.to_owned(), share }
}

fn top_key(partition: i32, key: Option<&str>, share: f64) -> TopKey {
    let hash = key.map_or(7, |key| key.len() as u64);
    TopKey { partition, key: key.map(str::to_owned), hash: format!("{hash:016x}"), share }
}
