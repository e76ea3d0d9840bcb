//! A look at everybody at the end of each second: how far behind the engine says it is, what PostgreSQL says of connections,
//! transactions and WAL, and what each part took of the CPU. One thread for the processes and one for each shard, so that one who does
//! not answer hides nobody else. It changes nothing.
//!
//! What counts up is kept as it is; [`assemble`], which is pure, makes seconds of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use postgres::types::Type;

use crate::compare::cpu::{self, Rising};
use crate::compare::findings::{Cpu, Sample};
use crate::compare::generator::Live;
use crate::compare::ledger::Sum;
use crate::compare::moment::Zero;
use crate::compare::process::{get, values};
use crate::config::Shard;
use crate::sink::connect::{Connector, Opened, application_prefix};

const PURPOSE: &str = "look";

/// $1 is what the application names of those who are counted begin with.
const ASK: &str = "\
SELECT (SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1)),
       (SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1) AND wait_event_type = 'Lock'),
       (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()),
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
       current_database()::text";

/// Who is looked at.
pub struct Watched {
    pub zero: Zero,
    pub live: Arc<Live>,
    /// Process, and for the engine its admin side.
    pub gateway: u32,
    pub engine: Option<(u32, SocketAddr)>,
    pub kafka: Option<u32>,
    pub shards: Vec<Shard>,
    /// That of gateway and engine, and that of those who look.
    pub group: String,
    pub own_group: String,
}

/// What a look found. All that counts up does so since some begin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Raw {
    pub at_s: f64,
    pub under_way: u64,
    pub message_lag: Option<u64>,
    pub time_lag_ms: Option<u64>,
    pub retries: Option<f64>,
    pub own: Option<f64>,
    pub gateway: Option<f64>,
    pub engine: Option<f64>,
    pub kafka: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RawShard {
    pub connections: u32,
    pub lock_waits: u32,
    pub transactions: f64,
    pub wal_bytes: f64,
    pub cpu: Option<f64>,
}

/// By the second at whose begin it was: what is there at 1 is of second 0.
pub type Looks<T> = BTreeMap<u32, T>;

/// All that was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub processes: Looks<Raw>,
    pub shards: Vec<Looks<RawShard>>,
}

/// Looks until it is told to end.
pub struct Sampler {
    over: Arc<AtomicBool>,
    processes: JoinHandle<Looks<Raw>>,
    shards: Vec<JoinHandle<Looks<RawShard>>>,
    /// For a bar: as of the last look.
    pub latest: Arc<Mutex<Raw>>,
}

impl Sampler {
    pub fn start(watched: Watched) -> Sampler {
        let over = Arc::new(AtomicBool::new(false));
        let latest = Arc::new(Mutex::new(Raw::default()));
        let of_shard = |shard: &Shard| {
            let mut look = ShardLook {
                connector: Connector::new(shard, &watched.own_group, PURPOSE).ok(),
                opened: None,
                server: None,
                cpu: Rising::default(),
                prefix: application_prefix(&watched.group),
            };
            let (over, zero) = (Arc::clone(&over), watched.zero);
            std::thread::spawn(move || {
                let looks = each_second(zero, &over, || look.look());
                look.opened.into_iter().for_each(Opened::discard);
                looks
            })
        };
        let shards = watched.shards.iter().map(of_shard).collect();
        let (own_over, own_latest) = (Arc::clone(&over), Arc::clone(&latest));
        let processes = std::thread::spawn(move || {
            each_second(watched.zero, &own_over, || {
                let raw = processes_of(&watched);
                *own_latest.lock() = raw.clone();
                Some(raw)
            })
        });
        Sampler { over, processes, shards, latest }
    }

    /// After a last look.
    pub fn end(self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        let processes = self.processes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let joined = |thread: JoinHandle<_>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Seen { processes, shards: self.shards.into_iter().map(joined).collect() }
    }
}

/// From second 0 on; whoever takes longer misses seconds, and not the clock. The last look is when it is over.
fn each_second<T>(zero: Zero, over: &AtomicBool, mut look: impl FnMut() -> Option<T>) -> Looks<T> {
    let mut looks = Looks::new();
    let mut second = 0;
    loop {
        let came = zero.wait_until(f64::from(second), over);
        if let Some(found) = look() {
            looks.insert(second, found);
        }
        if !came || over.load(Ordering::Relaxed) {
            return looks;
        }
        second = (second + 1).max(zero.now_s().floor().max(0.0) as u32);
    }
}

fn processes_of(watched: &Watched) -> Raw {
    let Watched { zero, live, gateway, engine, kafka, .. } = watched;
    let exposition = engine.and_then(|(_, admin)| get(admin, "/metrics")).unwrap_or_default();
    let all = |series| values(&exposition, series).collect::<Vec<f64>>();
    let (lag, time_lag) = (all("forebay_lag_records"), all("forebay_time_lag_seconds"));
    let due = live.due.load(Ordering::Relaxed);
    Raw {
        at_s: zero.now_s(),
        under_way: due.saturating_sub(live.done.load(Ordering::Relaxed)),
        message_lag: (!lag.is_empty()).then(|| lag.iter().sum::<f64>() as u64),
        time_lag_ms: (!time_lag.is_empty()).then(|| (time_lag.iter().copied().fold(0.0, f64::max) * 1000.0) as u64),
        retries: (!exposition.is_empty()).then(|| values(&exposition, "forebay_retries_total").sum()),
        own: cpu::of_process(std::process::id()),
        gateway: cpu::of_process(*gateway),
        engine: engine.and_then(|(pid, _)| cpu::of_process(pid)),
        kafka: kafka.and_then(cpu::of_process),
    }
}

struct ShardLook {
    connector: Option<Connector>,
    opened: Option<Opened>,
    /// Its first process, where that is on this machine.
    server: Option<u32>,
    cpu: Rising,
    prefix: String,
}

impl ShardLook {
    fn look(&mut self) -> Option<RawShard> {
        if self.opened.is_none() {
            self.opened = self.connector.as_mut()?.open().ok();
        }
        let opened = self.opened.as_mut()?;
        let Ok(row) = opened.client.query_typed_one(ASK, &[(&self.prefix, Type::TEXT)]) else {
            self.opened.take().into_iter().for_each(Opened::discard);
            return None;
        };
        let database: String = row.get(4);
        self.server = opened.pid.and_then(|pid| cpu::server_of(pid, &database));
        Some(RawShard {
            connections: row.get::<_, i64>(0) as u32,
            lock_waits: row.get::<_, i64>(1) as u32,
            transactions: row.get::<_, i64>(2) as f64,
            wal_bytes: row.get::<_, i64>(3) as f64,
            cpu: self.cpu.look(self.server, cpu::of_family),
        })
    }
}

/// What all seconds together came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    pub transactions: Option<f64>,
    pub wal_bytes: Option<f64>,
    pub retries: Option<f64>,
    /// CPU seconds.
    pub cpu: Cpu,
}

/// Something that counts up, and by how much since it was last known. Whoever begins again begins at 0.
#[derive(Default)]
struct Counter {
    last: Option<f64>,
    sum: Option<f64>,
}

impl Counter {
    fn step(&mut self, now: Option<f64>) -> Option<f64> {
        let now = now?;
        let step = self.last.map(|last| if now < last { now } else { now - last });
        self.last = Some(now);
        if let Some(step) = step {
            *self.sum.get_or_insert(0.0) += step;
        }
        step
    }
}

/// None of nothing.
fn add(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    if a.is_none() && b.is_none() { None } else { Some(a.unwrap_or_default() + b.unwrap_or_default()) }
}

/// One sample for each second from 0 to `seconds`, with what clients saw (`sums`) and how many rows were written in each.
pub fn assemble(seen: &Seen, sums: &[Sum], written: &[u64], seconds: u32) -> (Vec<Sample>, Sums) {
    #[derive(Default)]
    struct OfShard {
        transactions: Counter,
        wal_bytes: Counter,
        cpu: Counter,
    }
    let mut shards: Vec<OfShard> = seen.shards.iter().map(|_| OfShard::default()).collect();
    let [mut own, mut gateway, mut engine, mut kafka, mut retries] = [(); 5].map(|()| Counter::default());
    let last =
        seen.processes.keys().chain(seen.shards.iter().flat_map(|shard| shard.keys())).max().copied().unwrap_or(0);
    let (mut samples, mut all_transactions) = (Vec::new(), None);
    let mut at_s = 0.0;
    for mark in 0..=last.max(seconds) {
        let raw = seen.processes.get(&mark).cloned();
        // Since it was last seen; a last look may come early, and those of the shards behind it.
        let lasted = raw.as_ref().map_or(1.0, |raw| (raw.at_s - at_s).max(0.9));
        at_s = raw.as_ref().map_or(at_s, |raw| raw.at_s);
        let mut sample = mark.checked_sub(1).map(|second| of_clients(second, sums, written)).unwrap_or_default();
        let cores = |step: Option<f64>| step.map(|step| step / lasted);
        let of = |value: fn(&Raw) -> Option<f64>| raw.as_ref().and_then(value);
        sample.cpu = Cpu {
            generator: cores(own.step(of(|raw| raw.own))),
            gateway: cores(gateway.step(of(|raw| raw.gateway))),
            engine: cores(engine.step(of(|raw| raw.engine))),
            kafka: cores(kafka.step(of(|raw| raw.kafka))),
            postgresql: None,
        };
        sample.retries = retries.step(of(|raw| raw.retries)).map(|step| step as u64);
        if let Some(raw) = raw {
            (sample.under_way, sample.message_lag, sample.time_lag_ms) =
                (raw.under_way, raw.message_lag, raw.time_lag_ms);
        }
        let (mut transactions, mut wal_bytes, mut cpu) = (None, None, None);
        for (counters, looks) in shards.iter_mut().zip(&seen.shards) {
            let Some(look) = looks.get(&mark) else { continue };
            *sample.connections.get_or_insert(0) += look.connections;
            *sample.lock_waits.get_or_insert(0) += look.lock_waits;
            // Of which this look is one.
            transactions =
                add(transactions, counters.transactions.step(Some(look.transactions)).map(|step| step - 1.0));
            wal_bytes = add(wal_bytes, counters.wal_bytes.step(Some(look.wal_bytes)));
            cpu = add(cpu, counters.cpu.step(look.cpu));
        }
        all_transactions = add(all_transactions, transactions);
        (sample.transactions, sample.wal_bytes) = (transactions.map(|n| n as u64), wal_bytes.map(|n| n as u64));
        sample.cpu.postgresql = cores(cpu);
        if mark > 0 && mark <= seconds {
            samples.push(sample);
        }
    }
    let sum_of = |counter: fn(&OfShard) -> Option<f64>| shards.iter().map(counter).fold(None, add);
    let sums = Sums {
        transactions: all_transactions,
        wal_bytes: sum_of(|shard| shard.wal_bytes.sum),
        retries: retries.sum,
        cpu: Cpu {
            generator: own.sum,
            gateway: gateway.sum,
            engine: engine.sum,
            postgresql: sum_of(|shard| shard.cpu.sum),
            kafka: kafka.sum,
        },
    };
    (samples, sums)
}

fn of_clients(second: u32, sums: &[Sum], written: &[u64]) -> Sample {
    let written = written.get(second as usize).copied().unwrap_or_default();
    let Some(sum) = sums.get(second as usize) else { return Sample { second, written, ..Sample::default() } };
    let (request, durable) = (sum.request_ms(), sum.durable_ms());
    let timeouts = sum.errors.timeouts + sum.errors.unsent;
    Sample {
        second,
        offered: sum.offered,
        accepted: sum.accepted,
        refused: sum.errors.all() - timeouts,
        timeouts,
        request_p50_ms: request.map(|of| of.p50),
        request_p99_ms: request.map(|of| of.p99),
        request_max_ms: request.map(|of| of.max),
        durable_p50_ms: durable.map(|of| of.p50),
        durable_p99_ms: durable.map(|of| of.p99),
        durable_max_ms: durable.map(|of| of.max),
        written,
        ..Sample::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::ledger::Outcome;
    use crate::compare::ledger::tests::entry;

    #[test]
    fn what_counts_up_becomes_what_each_second_had() {
        let raw =
            |at_s, lag, engine| Raw { at_s, message_lag: lag, engine, gateway: Some(2.0 * at_s), ..Raw::default() };
        let shard = |transactions, cpu| RawShard { connections: 4, transactions, cpu, ..RawShard::default() };
        let processes =
            [(0, raw(0.0, Some(1), Some(5.0))), (1, raw(1.0, Some(70), Some(5.5))), (3, raw(3.0, None, None))];
        // One shard is away at 1, and has begun to count again at 3; the other one is there all the time.
        let one = [(0, shard(100.0, Some(1.0))), (2, shard(160.0, Some(1.5))), (3, shard(20.0, Some(1.5)))];
        let other = [0, 1, 2, 3].map(|n| (n, shard(f64::from(n) * 10.0, None)));
        let seen = Seen { processes: processes.into(), shards: vec![one.into(), other.into()] };
        let mut sum = Sum::default();
        sum.add(&entry(1, 0, 2_000, Outcome::Answered(202)), Some(5_000));
        let (samples, sums) = assemble(&seen, &[sum], &[1, 0, 7], 3);
        assert_eq!(
            samples.iter().map(|s| (s.second, s.offered, s.written)).collect::<Vec<_>>(),
            [(0, 1, 1), (1, 0, 0), (2, 0, 7)]
        );
        assert_eq!(samples.iter().map(|s| s.transactions).collect::<Vec<_>>(), [Some(9), Some(68), Some(28)]);
        assert_eq!(samples.iter().map(|s| s.connections).collect::<Vec<_>>(), [Some(4), Some(8), Some(8)]);
        assert_eq!(samples.iter().map(|s| s.message_lag).collect::<Vec<_>>(), [Some(70), None, None]);
        assert_eq!(samples.iter().map(|s| s.cpu.engine).collect::<Vec<_>>(), [Some(0.5), None, None]);
        assert!((samples[2].cpu.gateway.unwrap() - 2.0).abs() < 1e-9, "over the time since it was last seen");
        assert_eq!((sums.transactions, sums.cpu.engine, sums.cpu.gateway), (Some(105.0), Some(0.5), Some(6.0)));
        assert_eq!((sums.cpu.postgresql, sums.cpu.kafka), (Some(0.5), None));
        assert!((samples[0].request_p50_ms.unwrap() - 2.0).abs() < 0.01 && samples[1].request_p50_ms.is_none());
    }
}
