//! States of a process, made up: a calm one, and a bad night.

use forebay::admin::diagnosis::findings;
use forebay::admin::status::{
    Blocker, Connections, Contention, Frontier, Outcomes, Pace, Partition, Process, Ready, Reason, Shard, StageTimes,
    Status, TableHealth, TopKey, TopKeys, Topic, TopicState, Totals, VERSION, Verdict, Wait, Wal, Worker,
};
use serde_json::{Value, json};

/// A key as somebody would write it who wants the page to run it.
pub const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\">\u{202e}'`${1}";

/// With what the diagnosis says of it.
pub fn diagnosed(mut status: Status) -> Status {
    status.findings = Vec::new();
    status.findings = findings(&status);
    status
}

/// Everything is applied as it comes.
pub fn calm() -> Status {
    let partitions = (0..8).map(|number| partition("orders", number)).chain((0..4).map(|n| partition("customers", n)));
    diagnosed(Status {
        version: VERSION,
        process: process(),
        ready: Ready { ready: true, reasons: Vec::new() },
        findings: Vec::new(),
        totals: Totals {
            message_lag: Some(184),
            time_lag_ms: 640,
            unparked_lag_ms: 640,
            in_flight_records: 412,
            in_flight_bytes: 188_416,
            fetched_per_s: 12_480.0,
            durable_per_s: 12_391.4,
            fetched: 1_203_444_901,
            durable: 1_203_444_489,
            parked_keys: 0,
            parked_records: 0,
            dead_letters: 0,
            rewinds: 0,
            rebalances: 3,
        },
        topics: vec![topic("orders", Some("orders")), topic("customers", Some("customers"))],
        partitions: partitions.collect(),
        shards: vec![shard(0, "a", "idle"), shard(1, "b", "commit_bound")],
        top_keys: vec![
            TopKeys {
                shard: "a".into(),
                topic: "orders".into(),
                by_count: vec![
                    key(3, Some("tenant-17:order-93311"), 0.31),
                    key(1, Some(HOSTILE), 0.08),
                    key(6, None, 0.02),
                ],
                by_time: vec![key(1, Some(HOSTILE), 0.44), key(3, Some("tenant-17:order-93311"), 0.12)],
            },
            TopKeys {
                shard: "b".into(),
                topic: "customers".into(),
                by_count: vec![key(0, Some("tenant-4"), 0.055)],
                by_time: Vec::new(),
            },
        ],
    })
}

/// With so many partitions of one more topic.
pub fn wide(partitions: i32) -> Status {
    let mut status = calm();
    status.topics.push(topic("events", None));
    status.partitions.extend((0..partitions).map(|number| partition("events", number)));
    status
}

/// Shard b waits for a lock that somebody forgot, shard c is down, a topic has stopped, keys are parked.
pub fn bad_night() -> Status {
    let mut status = calm();
    status.process.poll_age_ms = 31;
    status.ready = Ready { ready: false, reasons: vec!["topic invoices has stopped".into(), "shard c is down".into()] };
    status.totals = Totals {
        message_lag: Some(1_240_310),
        time_lag_ms: 259_200_000,
        unparked_lag_ms: 94_000,
        in_flight_records: 24_000,
        in_flight_bytes: 9_830_400,
        fetched_per_s: 1120.0,
        durable_per_s: 2.4,
        parked_keys: 3,
        parked_records: 120,
        dead_letters: 7,
        rewinds: 2,
        ..status.totals
    };
    status.topics.push(stopped_topic());
    status.topics[1].state = TopicState::Paused;
    let stuck = &mut status.partitions[5];
    stuck.message_lag = Some(610_003);
    (stuck.time_lag_ms, stuck.unparked_lag_ms) = (94_000, 94_000);
    stuck.paused = true;
    stuck.in_flight_records = 8000;
    stuck.frontier = Some(stuck_frontier());
    (status.partitions[2].time_lag_ms, status.partitions[2].unparked_lag_ms) = (41_000, 41_000);
    status.partitions[2].frontier = Some(Frontier {
        place: "waiting".into(),
        shard: Some("c".into()),
        worker: None,
        attempt: None,
        blocked_by: Vec::new(),
        age_ms: 41_000,
        last: None,
        ..stuck_frontier()
    });
    // A dead letter has blocked its key for days, and keeps nobody else.
    let behind = &mut status.partitions[3];
    (behind.time_lag_ms, behind.parked_age_ms) = (259_200_000, Some(259_200_000));
    behind.unparked = behind.frontier.take();
    behind.frontier = Some(Frontier { place: "parked".into(), worker: None, age_ms: 259_200_000, ..stuck_frontier() });
    let mut invoices = partition("invoices", 0);
    invoices.state = "stopped".into();
    status.partitions.push(invoices);
    status.shards[1] = locked_shard();
    status.shards.push(down_shard());
    diagnosed(status)
}

pub fn nothing_listed() -> Value {
    json!({ "entries": [], "failed": [] })
}

/// As `forebay parked --json` prints them.
pub fn parked() -> Value {
    let key = |key: Value, reason: &str, held: bool, dead_letter: bool| {
        json!({
            "kind": "key", "shard": "b", "topic": "orders", "partition": 5, "key": key, "records": 61, "offset": 88_120,
            "age_s": 2531, "reason": reason, "held": held, "dead_letter": dead_letter, "attempts": 4,
            "sqlstate": "55P03", "error": "canceling statement due to lock timeout",
        })
    };
    json!({
        "entries": [
            { "kind": "hold", "shard": "b", "topic": "orders", "scope": "tenant", "value": "tenant-17", "since": "2025-11-26T02:40:11Z" },
            key(HOSTILE.into(), "blocked", false, false),
            key("tenant-17:order-4".into(), "held", true, false),
            key(json!({ "hex": "61ff00" }), "record", false, true),
            { "kind": "total", "shard": "b", "holds": 1, "keys": 3, "records": 120 },
        ],
        "failed": [{ "shard": "c", "reason": "connection refused" }],
    })
}

/// As `forebay dead-letters list --json` prints them.
pub fn letters() -> Value {
    let letter = |id: Value, offset: i64, key: &str| {
        json!({
            "shard": "a", "id": id, "blocks_key": id.is_null(), "topic": "orders", "partition": 3, "offset": offset,
            "at": "2025-11-26T02:41:07Z", "key": key, "sqlstate": "22P02",
            "error": "invalid input syntax for type integer: \"…\"", "resolution": null, "forwarded_at": null, "forward_error": null,
        })
    };
    json!({
        "entries": [letter(Value::Null, 120_042, "tenant-9:order-1"), letter(31.into(), 119_007, HOSTILE)],
        "failed": [],
    })
}

fn process() -> Process {
    Process {
        version: "0.1.0".into(),
        librdkafka: "2.10.1".into(),
        pid: 81_412,
        host: "writer-3.fra".into(),
        group: "orders-writer".into(),
        started_at_ms: 1_764_000_000_000,
        now_ms: 1_764_273_912_000,
        poll_age_ms: 12,
        leaving: false,
        log_level: "info,forebay::sink=debug".into(),
        memory_bytes: Some(188_743_680),
        cpu_ms: Some(8_812_400),
    }
}

fn topic(name: &str, table: Option<&str>) -> Topic {
    let stages =
        [("fetched", 0.4), ("routed", 0.02), ("dequeued", 1.2), ("written", 3.4), ("committed", 2.1), ("durable", 8.3)];
    let times = |(stage, p50_ms): (&str, f64)| StageTimes {
        stage: stage.into(),
        count: 1_203_444,
        p50_ms,
        p99_ms: p50_ms * 7.5,
        max_ms: p50_ms * 410.0,
    };
    Topic {
        name: name.into(),
        table: table.map(str::to_owned),
        state: TopicState::Running,
        reason: None,
        message_lag: Some(92),
        time_lag_ms: 640,
        records: Outcomes {
            upserted: 1_100_204,
            deleted: 8120,
            folded: 92_101,
            skipped: 3,
            parked: 120,
            dead_lettered: 7,
        },
        stages: stages.map(times).into(),
    }
}

fn stopped_topic() -> Topic {
    Topic {
        state: TopicState::Stopped,
        reason: Some(reason("42703", "column \"vat_id\" of relation \"invoices\" does not exist")),
        message_lag: None,
        stages: Vec::new(),
        records: Outcomes::default(),
        ..topic("invoices", Some("invoices"))
    }
}

fn partition(topic: &str, number: i32) -> Partition {
    let durable = 15_204_410 + 7013 * i64::from(number);
    Partition {
        topic: topic.into(),
        partition: number,
        state: "running".into(),
        paused: false,
        committed: Some(durable - 12),
        durable: Some(durable),
        fetched: Some(durable + 34),
        end: Some(durable + 34),
        message_lag: Some(46),
        time_lag_ms: 640 - 20 * u64::from(number.unsigned_abs() % 16),
        unparked_lag_ms: 640 - 20 * u64::from(number.unsigned_abs() % 16),
        parked_age_ms: None,
        in_flight_records: 34,
        in_flight_bytes: 15_700,
        frontier: (number % 3 != 0).then(|| Frontier {
            offset: durable,
            key: Some(format!("tenant-{number}:order-{}", 1000 + number)),
            age_ms: 310,
            place: "writing".into(),
            shard: Some("a".into()),
            lane: Some(3),
            worker: Some("fb-w0.1".into()),
            attempt: Some(1),
            last: None,
            blocked_by: Vec::new(),
        }),
        unparked: None,
    }
}

fn stuck_frontier() -> Frontier {
    Frontier {
        offset: 15_239_475,
        key: Some(HOSTILE.into()),
        age_ms: 94_000,
        place: "writing".into(),
        shard: Some("b".into()),
        lane: Some(11),
        worker: Some("fb-w1.0".into()),
        attempt: Some(4),
        last: Some(reason("55P03", "canceling statement due to lock timeout")),
        blocked_by: vec![4711],
    }
}

fn shard(number: u16, name: &str, verdict: &str) -> Shard {
    let worker = |index: u16| Worker {
        name: format!("fb-w{number}.{index}"),
        state: if index == 0 { "writing" } else { "idle" }.into(),
        busy: 0.62 / f64::from(index + 1),
        topic: (index == 0).then(|| "orders".into()),
        records: if index == 0 { 412 } else { 0 },
        since_ms: (index == 0).then_some(3),
        attempt: (index == 0).then_some(1),
        last: None,
        queued_records: 0,
    };
    let slow = Worker { name: format!("fb-s{number}.0"), busy: 0.0, ..worker(1) };
    Shard {
        name: name.into(),
        state: "up".into(),
        since_ms: 273_900_000,
        reason: None,
        verdict: Verdict {
            kind: verdict.into(),
            text: match verdict {
                "idle" => "Its writers have nothing to do for most of the time.",
                _ => "Half of the time goes to COMMIT: its disk's fsync is what writes wait for.",
            }
            .into(),
        },
        connections: Connections { needed: 6, open: Some(6), server_max: Some(97), server_used: Some(41) },
        pace: Pace { active: Vec::new(), replica_lag_ms: Some(210) },
        parked_keys: 0,
        parked_records: 0,
        contention: Some(contention()),
        workers: (0..3).map(worker).chain([slow]).collect(),
    }
}

fn contention() -> Contention {
    let table = |table: &str, dead_rows| TableHealth {
        table: table.into(),
        hot_ratio: Some(0.93),
        live_rows: 48_201_333,
        dead_rows,
        last_vacuum_at_ms: Some(1_764_273_000_000),
    };
    Contention {
        sampled_at_ms: 1_764_273_911_500,
        waits: vec![
            wait("IO", "WALSync", 0.46),
            wait("CPU", "", 0.27),
            wait("Client", "ClientRead", 0.17),
            wait("LWLock", "WALWrite", 0.08),
            wait("Lock", "transactionid", 0.02),
        ],
        blockers: Vec::new(),
        tables: vec![table("public.orders", 120_440), table("public.customers", 12)],
        wal: Some(Wal { bytes_per_s: Some(12_897_000.0), checkpoints_timed: Some(9), checkpoints_requested: Some(2) }),
        notes: Vec::new(),
    }
}

fn locked_shard() -> Shard {
    let mut shard = shard(1, "b", "lock_bound");
    shard.verdict.text = "91 % of the time goes to row locks: pid 4711 holds what fb-w1.0 and fb-w1.1 wait for.".into();
    (shard.parked_keys, shard.parked_records) = (3, 120);
    shard.pace.active = vec!["max_rows_per_second = 5000".into()];
    let worker = &mut shard.workers[0];
    worker.state = "retrying".into();
    worker.attempt = Some(4);
    worker.since_ms = Some(33_400);
    worker.queued_records = 8120;
    worker.last = Some(reason("55P03", "canceling statement due to lock timeout"));
    let contention = shard.contention.as_mut().expect("it was sampled");
    contention.waits = vec![wait("Lock", "transactionid", 0.91), wait("CPU", "", 0.06), wait("IO", "WALSync", 0.03)];
    contention.tables[0].hot_ratio = Some(0.21);
    contention.tables[0].dead_rows = 19_204_112;
    contention.notes =
        vec!["Queries of other roles cannot be seen: GRANT pg_monitor TO forebay would show them.".into()];
    contention.blockers = vec![
        Blocker {
            pid: 4711,
            application: Some("psql".into()),
            user: Some("ann".into()),
            state: Some("idle in transaction".into()),
            transaction_age_ms: Some(34_200),
            query_age_ms: Some(33_900),
            command: Some("UPDATE".into()),
            blocks: vec!["fb-w1.0".into(), "fb-w1.1".into()],
            blocked_for_ms: 33_400,
            lock: Some("transactionid".into()),
            relation: Some("public.orders".into()),
            ours: false,
        },
        Blocker {
            pid: 4802,
            application: None,
            user: None,
            state: None,
            transaction_age_ms: None,
            query_age_ms: None,
            command: None,
            blocks: vec!["fb-s1.0".into()],
            blocked_for_ms: 1200,
            lock: Some("tuple".into()),
            relation: None,
            ours: false,
        },
    ];
    shard
}

fn down_shard() -> Shard {
    let mut shard = shard(2, "c", "down");
    shard.state = "down".into();
    shard.since_ms = 41_000;
    shard.reason = Some(Reason { sqlstate: None, text: "connection to 10.2.0.9:5432: connection refused".into() });
    shard.verdict.text = "Nobody writes: its breaker is open, and the next probe comes in 4 s.".into();
    shard.contention = None;
    shard.connections = Connections { needed: 6, open: None, server_max: None, server_used: None };
    for worker in &mut shard.workers {
        worker.state = "barred".into();
        worker.busy = 0.0;
    }
    shard
}

fn wait(kind: &str, event: &str, share: f64) -> Wait {
    Wait { kind: kind.into(), event: event.into(), share }
}

fn reason(sqlstate: &str, text: &str) -> Reason {
    Reason { sqlstate: Some(sqlstate.into()), text: text.into() }
}

fn key(partition: i32, key: Option<&str>, share: f64) -> TopKey {
    let hash = format!("{:016x}", 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(key.map_or(1, |key| key.len() as u64)));
    TopKey { partition, key: key.map(str::to_owned), hash, share }
}
