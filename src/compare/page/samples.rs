//! Findings that nobody measured, for tests: of the page here, and of the page in a browser (`tests/it/compare_page.rs`).

use std::collections::BTreeMap;

use super::findings::{
    Cpu, Disturbance, Effect, Environment, Errors, Findings, Kind, Machine, Mode, Parameters, Run, Sample, Search,
    Shard, Step, Times, Totals, Verification,
};

/// Of a run's sending.
const SECONDS: u32 = 90;

/// From when, until when.
const TROUBLES: [(Kind, f64, f64); 4] = [
    (Kind::RowLocked, 12.0, 17.1),
    (Kind::Checkpoint, 27.0, 28.4),
    (Kind::ShardStopped, 38.0, 48.3),
    (Kind::Burst, 64.0, 69.0),
];

/// Sync fails while a shard is away, and at twice the rate; async does not.
pub fn normal() -> Findings {
    let runs = [(Mode::Sync, 1), (Mode::Async, 1), (Mode::Sync, 2), (Mode::Async, 2)];
    let mut settings = BTreeMap::new();
    settings.insert("synchronous_commit".to_owned(), "on".to_owned());
    settings.insert("shared_buffers".to_owned(), "128MB".to_owned());
    let shard = |name: &str| Shard {
        name: name.to_owned(),
        version: "17.6".into(),
        settings: settings.clone(),
        connections_max: 100,
        clock_ahead_us: -42,
    };
    Findings {
        version: super::findings::VERSION,
        forebay: "0.1.0".into(),
        id: "c4f1a2".into(),
        started_at: "2026-01-02T03:04:05Z".into(),
        machine: Machine {
            host: "bench-1".into(),
            kernel: "6.12".into(),
            cpu: "a processor".into(),
            cores: 8,
            memory_bytes: 16 << 30,
            load_before: Some(0.1),
        },
        environment: Environment {
            brokers: "127.0.0.1:9092".into(),
            librdkafka: "2.10.0".into(),
            kafka_is_seen: true,
            servers_are_ours: true,
            shards: vec![shard("a"), shard("b")],
        },
        parameters: Parameters {
            seconds: u64::from(SECONDS),
            keys: 10_000,
            skew: 0.8,
            seed: 7,
            value_bytes: 300,
            connections: 10_000,
            ramp: false,
            timeout_ms: 5000,
            pool_size: 8,
            pool_wait_ms: 1000,
            workers_per_shard: 4,
            partitions: 8,
            burst_factor: 3,
            borne_p99_ms: 100.0,
        },
        search: Some(Search {
            steps: vec![step(600, 4.1), step(1200, 31.0), step(1500, 870.0)],
            borne: Some(1200),
            not_borne: Some(1500),
            machine_was_the_limit: false,
        }),
        runs: runs.map(|(mode, factor)| run(mode, factor)).to_vec(),
        ..Findings::default()
    }
}

/// Nothing was found.
pub fn empty() -> Findings {
    Findings::default()
}

/// Both modes ran, and nothing came of it.
pub fn empty_runs() -> Findings {
    let run = |mode| Run { mode, rate: 100, factor: 1, ..Run::default() };
    Findings { runs: vec![run(Mode::Sync), run(Mode::Async)], ..Findings::default() }
}

/// Sync alone, at one rate.
pub fn one_mode() -> Findings {
    let mut findings = normal();
    findings.runs.truncate(1);
    findings
}

/// Not a request was accepted.
pub fn all_errors() -> Findings {
    let mut findings = normal();
    for run in &mut findings.runs {
        run.totals.accepted = 0;
        run.totals.accepted_per_s = 0.0;
        run.totals.error_percent = 100.0;
        run.totals.errors = Errors { connection: run.totals.offered, ..Errors::default() };
        (run.totals.request_ms, run.totals.durable_ms) = (None, None);
        (run.totals.transactions_per_1000, run.totals.wal_bytes_per_1000) = (None, None);
        run.totals.cpu_ms_per_1000 = Cpu::default();
        run.totals.message_lag_max = (run.mode == Mode::Async).then_some(0);
        let effects = run.disturbances.iter_mut().filter_map(|one| one.effect.as_mut());
        for effect in effects.chain([&mut run.quiet]) {
            let (seconds, offered) = (effect.seconds, effect.offered);
            *effect = Effect { seconds, offered, error_percent: 100.0, ..Effect::default() };
        }
        for sample in &mut run.samples {
            let (second, offered) = (sample.second, sample.offered);
            *sample = Sample { second, offered, refused: offered, ..Sample::default() };
        }
        run.verification = Verification { equal: true, ..Verification::default() };
    }
    findings
}

/// SIGINT in the second run; its last disturbances did not come, and one was left out before.
pub fn interrupted() -> Findings {
    let mut findings = normal();
    findings.cut_short = true;
    findings.runs.truncate(2);
    for run in &mut findings.runs {
        run.disturbances[2].effect = None;
        run.disturbances[2].skipped = Some("the servers are not ours to stop".into());
    }
    let run = &mut findings.runs[1];
    run.cut_short = true;
    run.seconds = 31.0;
    run.drain_seconds = None;
    run.disturbances.truncate(3);
    run.samples.truncate(31);
    findings
}

fn step(rate: u64, p99_ms: f64) -> Step {
    let borne = p99_ms <= 100.0;
    Step {
        rate,
        seconds: 5.0,
        offered: rate * 5,
        accepted: rate * 5,
        p99_ms,
        late_p99_ms: 0.4,
        busy_percent: Some(62.0),
        borne,
    }
}

fn times(p50: f64, p99: f64, p999: f64, max: f64) -> Option<Times> {
    Some(Times { p50, p99, p999, max })
}

fn run(mode: Mode, factor: u64) -> Run {
    let is_async = mode == Mode::Async;
    let drain = if is_async && factor == 2 { 6 } else { 1 };
    let samples: Vec<Sample> = (0..SECONDS + drain).map(|second| sample(mode, factor, second)).collect();
    let sum = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
    let (offered, accepted) = (sum(|s| s.offered), sum(|s| s.accepted));
    let failed = offered - accepted;
    let by_status = if failed > 0 { BTreeMap::from([(503, failed - failed / 10)]) } else { BTreeMap::new() };
    Run {
        mode,
        rate: 1200 * factor,
        factor,
        seconds: f64::from(SECONDS),
        drain_seconds: Some(f64::from(drain - 1)),
        cut_short: false,
        totals: Totals {
            offered,
            accepted,
            offered_per_s: offered as f64 / f64::from(SECONDS),
            accepted_per_s: accepted as f64 / f64::from(SECONDS),
            error_percent: failed as f64 / offered as f64 * 100.0,
            errors: Errors { by_status, timeouts: failed / 10, ..Errors::default() },
            request_ms: if is_async { times(3.1, 8.0, 21.0, 34.0) } else { times(2.2, 1005.0, 4800.0, 5000.0) },
            durable_ms: if is_async {
                times(24.0, 9100.0, 10_900.0, 11_200.0)
            } else {
                times(2.2, 41.0, 4900.0, 5012.0)
            },
            late_ms: times(0.1, 0.4, 0.9, 1.2),
            client_connections_max: if is_async { 64 } else { 3_600 * factor },
            message_lag_max: is_async.then_some(12_400 * factor),
            time_lag_max_ms: is_async.then_some(11_200),
            retries: is_async.then_some(14),
            connections_max: Some(if is_async { 14 } else { 16 }),
            lock_waits_max: Some(if is_async { 1 } else { 8 }),
            transactions_per_1000: Some(if is_async { 38.0 } else { 1004.0 }),
            wal_bytes_per_1000: Some(if is_async { 221_000.0 } else { 412_000.0 }),
            cpu: Cpu::default(),
            cpu_ms_per_1000: Cpu {
                generator: Some(81.0),
                gateway: Some(if is_async { 61.0 } else { 92.0 }),
                engine: is_async.then_some(44.0),
                postgresql: Some(if is_async { 96.0 } else { 305.0 }),
                kafka: is_async.then_some(120.0),
            },
        },
        quiet: quiet(mode, factor),
        disturbances: TROUBLES.into_iter().map(|one| disturbance(mode, factor, one)).collect(),
        samples,
        verification: Verification {
            acknowledged: accepted,
            in_table: accepted,
            rows_expected: 9_800,
            rows: 9_800,
            equal: true,
            ..Verification::default()
        },
    }
}

fn quiet(mode: Mode, factor: u64) -> Effect {
    let overload = if mode == Mode::Sync && factor == 2 { 22.0 } else { 0.0 };
    let (request_ms, durable_ms) = match mode {
        Mode::Sync if factor == 2 => (times(310.0, 1010.0, 1100.0, 1400.0), times(310.0, 1010.0, 1100.0, 1400.0)),
        Mode::Sync => (times(2.1, 9.8, 18.0, 31.0), times(2.1, 9.8, 18.0, 31.0)),
        Mode::Async => (times(3.0, 6.1, 14.0, 22.0), times(19.0, 38.0, 61.0, 90.0)),
    };
    let offered = 1200 * factor * 60;
    Effect {
        seconds: 60.0,
        offered,
        accepted: (offered as f64 * (1.0 - overload / 100.0)) as u64,
        error_percent: overload,
        request_ms,
        durable_ms,
        message_lag_max: (mode == Mode::Async).then_some(210),
        time_lag_max_ms: (mode == Mode::Async).then_some(120),
        caught_up_after_s: None,
    }
}

fn disturbance(mode: Mode, factor: u64, (kind, from_s, to_s): (Kind, f64, f64)) -> Disturbance {
    let (failed, request_ms, durable_ms, lag, caught_up) = match (mode, kind) {
        (Mode::Sync, Kind::RowLocked) => {
            (4.0, times(2.4, 4990.0, 5000.0, 5000.0), times(2.3, 4990.0, 5000.0, 5012.0), 0, 0.0)
        }
        (Mode::Sync, Kind::Checkpoint) => (0.0, times(2.9, 71.0, 90.0, 104.0), times(2.9, 71.0, 90.0, 104.0), 0, 0.0),
        (Mode::Sync, Kind::ShardStopped) => {
            (31.2, times(2.4, 1010.0, 1020.0, 1100.0), times(2.1, 9.8, 18.0, 31.0), 0, 0.0)
        }
        (Mode::Sync, Kind::Burst) => {
            (18.0, times(610.0, 1004.0, 1010.0, 1100.0), times(600.0, 1000.0, 1010.0, 1100.0), 0, 0.0)
        }
        (_, Kind::RowLocked) => (0.0, times(3.1, 6.3, 14.0, 20.0), times(20.0, 5100.0, 5200.0, 5300.0), 96, 0.3),
        (_, Kind::Checkpoint) => (0.0, times(3.1, 7.2, 18.0, 34.0), times(31.0, 140.0, 170.0, 190.0), 480, 0.2),
        (_, Kind::ShardStopped) => {
            (0.0, times(3.0, 6.4, 14.0, 21.0), times(4100.0, 10_400.0, 11_000.0, 11_200.0), 12_400, 8.0)
        }
        (_, Kind::Burst) => (0.0, times(3.9, 12.0, 30.0, 34.0), times(340.0, 1800.0, 2000.0, 2100.0), 5_100, 1.6),
    };
    let offered = ((to_s - from_s) * 1200.0) as u64 * factor;
    let (shard, told) = match kind {
        Kind::RowLocked => (Some("a"), "A session held the row that is written most, in shard a, for 5 s."),
        Kind::Checkpoint => (None, "CHECKPOINT ran in all shards."),
        Kind::ShardStopped => (Some("b"), "PostgreSQL of shard b was stopped for 10 s."),
        Kind::Burst => (None, "Three times the rate, for 5 s."),
    };
    let effect = Effect {
        seconds: to_s - from_s,
        offered,
        accepted: (offered as f64 * (1.0 - failed / 100.0)) as u64,
        error_percent: failed,
        request_ms,
        durable_ms,
        message_lag_max: (mode == Mode::Async).then_some(lag * factor),
        time_lag_max_ms: (mode == Mode::Async).then_some(lag),
        caught_up_after_s: Some(caught_up),
    };
    Disturbance {
        kind,
        shard: shard.map(str::to_owned),
        from_s,
        to_s,
        told: told.into(),
        skipped: None,
        effect: Some(effect),
    }
}

/// The same each time, and not too smooth.
fn wobble(second: u32) -> f64 {
    1.0 + 0.12 * (f64::from(second) * 1.7).sin() + 0.06 * (f64::from(second) * 4.1).cos()
}

fn sample(mode: Mode, factor: u64, second: u32) -> Sample {
    let at = f64::from(second) + 0.5;
    let trouble = TROUBLES.into_iter().find(|(_, from, to)| (*from..*to).contains(&at)).map(|(kind, ..)| kind);
    let sends = second < SECONDS;
    let rate = if !sends {
        0
    } else if trouble == Some(Kind::Burst) {
        3600 * factor
    } else {
        1200 * factor
    };
    let w = wobble(second);
    let base = Sample { second, offered: rate, accepted: rate, written: rate, ..Sample::default() };
    let cpu = |gateway: f64, engine: Option<f64>, postgresql: f64, kafka: Option<f64>| Cpu {
        generator: Some(0.11 * w),
        gateway: Some(gateway * w),
        engine: engine.map(|cores| cores * w),
        postgresql: Some(postgresql * w),
        kafka: kafka.map(|cores| cores * w),
    };
    let some = |value: f64| sends.then_some(value * w);
    if mode == Mode::Sync {
        let failed = match trouble {
            Some(Kind::ShardStopped) => 0.31,
            Some(Kind::Burst) => 0.18,
            Some(Kind::RowLocked) => 0.04,
            _ if factor == 2 => 0.22,
            _ => 0.0,
        };
        let failed = (rate as f64 * failed * w) as u64;
        let p99 = match trouble {
            Some(Kind::RowLocked) => 4600.0,
            Some(Kind::ShardStopped | Kind::Burst) => 1000.0,
            Some(Kind::Checkpoint) => 70.0,
            None if factor == 2 => 1000.0,
            None => 9.8,
        };
        let is_stopped = trouble == Some(Kind::ShardStopped);
        return Sample {
            accepted: rate - failed,
            refused: failed - failed / 10,
            timeouts: failed / 10,
            request_p50_ms: some(if factor == 2 { 300.0 } else { 2.1 }),
            request_p99_ms: some(p99),
            request_max_ms: some(p99 * 1.2),
            durable_p50_ms: some(2.1),
            durable_p99_ms: some(if is_stopped { 9.8 } else { p99 }),
            durable_max_ms: some(p99 * 1.1),
            under_way: if trouble.is_some() || factor == 2 { (700.0 * w) as u64 } else { (4.0 * w) as u64 },
            connections: Some(if is_stopped { 8 } else { 16 }),
            lock_waits: Some(if trouble == Some(Kind::RowLocked) { 8 } else { 0 }),
            transactions: Some(rate - failed),
            wal_bytes: Some((rate - failed) * 412),
            cpu: cpu(0.12, None, 0.4, None),
            ..base
        };
    }
    // What waits while a shard is away, and is worked off for 8 s; the same for the burst.
    let lag = match at {
        at if (38.0..48.3).contains(&at) => (at - 38.0) * 1200.0,
        at if (48.3..56.3).contains(&at) => 12_400.0 * (56.3 - at) / 8.0,
        at if (64.0..69.0).contains(&at) => (at - 64.0) * 1000.0,
        at if (69.0..70.6).contains(&at) => 5_100.0 * (70.6 - at) / 1.6,
        at if factor == 2 && at > 84.0 => (96.0 - at) * 1000.0,
        _ => 130.0 * w,
    };
    let behind = if lag > 1000.0 { lag } else { 38.0 };
    Sample {
        request_p50_ms: some(3.0),
        request_p99_ms: some(if trouble == Some(Kind::Burst) { 12.0 } else { 6.1 }),
        request_max_ms: some(21.0),
        durable_p50_ms: some(if lag > 1000.0 { lag / 3.0 } else { 19.0 }),
        durable_p99_ms: some(behind),
        durable_max_ms: some(behind * 1.2),
        under_way: (5.0 * w) as u64,
        message_lag: Some(lag as u64 * factor),
        time_lag_ms: Some((behind * 1.1) as u64),
        retries: Some(0),
        connections: Some(if trouble == Some(Kind::ShardStopped) { 8 } else { 14 }),
        lock_waits: Some(u32::from(trouble == Some(Kind::RowLocked))),
        transactions: Some((45.0 * w) as u64 * factor),
        wal_bytes: Some((rate as f64 * 221.0 * w) as u64),
        cpu: cpu(0.08, Some(0.06), 0.13, Some(0.17)),
        ..base
    }
}
