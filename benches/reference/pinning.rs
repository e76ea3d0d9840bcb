//! The engine with no thread pinned; with its workers pinned; with all of its threads pinned: catching up, and steady traffic.

use forebay::cpus::{self, CpuSet, Topology};

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::rounds::{Rounds, load};
use super::steady::{self, Figures};
use super::workload::publish;

pub fn pinning(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let job = Job { target: Target::Table, topic: &topic, records: a.records, affinity: &a.affinity };
    let mut of: Vec<Way> = ways(a)?;
    for way in &of {
        println!("pinning: {:<8} {}", way.name, way.set.join(" "));
    }
    println!(
        "pinning: then {} records/s for {} s, producer's linger {} ms; latencies in ms",
        a.rate, a.seconds, a.linger
    );
    for round in 1..=a.rounds {
        // Another one begins in each round.
        of.rotate_left(1);
        for way in &mut of {
            let a = &Arguments { set: way.set.clone(), ..a.clone() };
            let load_before = load();
            let caught_up = engine::run(a, &job)?;
            println!("round {round}  {:<8}  {caught_up}   {load_before}", way.name);
            way.rate.push(caught_up.rate);
            way.cpu_us.push(caught_up.cpu_us);
            way.peak_mb.push(caught_up.peak_mb);
            let load_before = load();
            let lived = steady::live(a, &a.affinity)?;
            println!("round {round}  {:<8}  {lived}   {load_before}", way.name);
            way.steady.push(&lived);
        }
    }
    of.sort_by_key(|way| way.place);
    for Way { name, rate, cpu_us, peak_mb, steady, .. } in &of {
        println!(
            "pinning: {name:<8} {rate:.0} rows/s, own CPU {cpu_us:.2} µs/row, peak {peak_mb:.0} MB; steady {steady}"
        );
    }
    Ok(())
}

/// Settings of `[engine]`.
const PINS: [&str; 4] = ["poller_core", "cores", "kafka_cores", "other_cores"];

/// A way to pin, and what came of it.
struct Way {
    place: usize,
    name: &'static str,
    set: Vec<String>,
    rate: Rounds,
    cpu_us: Rounds,
    peak_mb: Rounds,
    steady: Figures,
}

/// What `--set` says, beside nothing; or what this machine has: workers on all CPUs, one each; then the poller, librdkafka and
/// the others on the first core, and workers on all other CPUs.
fn ways(a: &Arguments) -> Outcome<Vec<Way>> {
    let all = cpus::allowed()?;
    let first = all.first().ok_or("no CPU")?;
    // A thread of the same core belongs to it.
    let topology = Topology::of_this_machine();
    let core = topology.siblings(&CpuSet::of(first)).and(&all).or(&CpuSet::of(first));
    let rest = Some(all.without(&core)).filter(|rest| !rest.is_empty()).unwrap_or_else(|| all.clone());
    let set = |name: &str, cpus: &CpuSet| format!("engine.{name}=\"{cpus}\"");
    let apart = [
        set("poller_core", &CpuSet::of(first)),
        set("kafka_cores", &core),
        set("other_cores", &core),
        set("cores", &rest),
    ];
    let is_pin = |setting: &&String| PINS.iter().any(|name| setting.starts_with(&format!("engine.{name}=")));
    let (pins, others): (Vec<&String>, Vec<&String>) = a.set.iter().partition(is_pin);
    let mut ways = vec![("none", Vec::new())];
    if pins.is_empty() {
        ways.extend([("workers", vec![set("cores", &all)]), ("all", apart.to_vec())]);
    } else {
        ways.push(("as said", pins.into_iter().cloned().collect()));
    }
    let way = |(place, (name, pins)): (usize, (&'static str, Vec<String>))| Way {
        place,
        name,
        set: others.iter().copied().cloned().chain(pins).collect(),
        rate: Rounds::default(),
        cpu_us: Rounds::default(),
        peak_mb: Rounds::default(),
        steady: Figures::default(),
    };
    Ok(ways.into_iter().enumerate().map(way).collect())
}
