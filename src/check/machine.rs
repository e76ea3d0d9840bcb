//! Which thread runs on which CPU, core and node, and whether that is wise: CPUs that threads are pinned to must be there and
//! allowed to this process, and busy threads should not have to share one.

use crate::config::raw::Places;
use crate::config::{Config, dsn};
use crate::cpus::{self, CpuSet, Topology};
use crate::words::counted;

use super::{Notes, Report};

#[cfg(test)]
mod tests;

pub fn check(config: &Config, places: &Places) -> Report {
    match cpus::allowed() {
        Ok(allowed) => against(config, places, &Machine { allowed, topology: Topology::of_this_machine() }),
        Err(error) => {
            let mut notes = Notes::new(places);
            notes.warning("engine.cores", format!("no answer about the cores of this machine: {error}"), "one");
            notes.report
        }
    }
}

/// What this process has to run on.
struct Machine {
    allowed: CpuSet,
    topology: Topology,
}

/// The busy threads of a process: a poller, and the workers of all shards.
struct Busy<'a> {
    poller: Option<&'a CpuSet>,
    /// Name and CPUs; nothing where workers are not pinned.
    workers: Vec<(String, &'a CpuSet)>,
}

impl<'a> Busy<'a> {
    fn of(config: &'a Config) -> Busy<'a> {
        let engine = &config.engine;
        let names = (0..config.shards.len())
            .flat_map(|shard| (0..engine.workers_per_shard).map(move |worker| format!("fb-w{shard}.{worker}")));
        // Without any, `zip` ends at once.
        let workers = names.zip(engine.cores.iter().cycle()).collect();
        Busy { poller: engine.poller_core.as_ref(), workers }
    }

    /// All CPUs of all workers.
    fn of_workers(&self) -> CpuSet {
        self.workers.iter().fold(CpuSet::default(), |all, (_, cpus)| all.or(cpus))
    }

    fn all(&self) -> CpuSet {
        self.poller.map_or_else(|| self.of_workers(), |poller| self.of_workers().or(poller))
    }

    /// The workers of each set of CPUs.
    fn groups(&self) -> Vec<(&'a CpuSet, Vec<&str>)> {
        let mut groups: Vec<(&CpuSet, Vec<&str>)> = Vec::new();
        for (name, cpus) in &self.workers {
            match groups.iter_mut().find(|(of, _)| of == cpus) {
                Some((_, names)) => names.push(name),
                None => groups.push((*cpus, vec![name.as_str()])),
            }
        }
        groups
    }
}

fn against(config: &Config, places: &Places, machine: &Machine) -> Report {
    let mut notes = Notes::new(places);
    let busy = Busy::of(config);
    notes.report.cpus = map(config, machine, &busy);
    let engine = &config.engine;
    let settings = [
        ("engine.cores", engine.cores.iter().collect()),
        ("engine.poller_core", Vec::from_iter(&engine.poller_core)),
        ("engine.kafka_cores", Vec::from_iter(&engine.kafka_cores)),
        ("engine.other_cores", Vec::from_iter(&engine.other_cores)),
    ];
    let is_pinned = settings.iter().any(|(_, sets)| !sets.is_empty());
    for (key, sets) in settings {
        usable(key, &sets, machine, &mut notes);
    }
    if notes.report.problems.is_empty() && is_pinned {
        notes.checked("every CPU that threads are pinned to exists and may be used");
    }
    overlaps(config, machine, &busy, &mut notes);
    siblings(machine, &busy, &mut notes);
    nodes(machine, &busy, &mut notes);
    neighbours(config, machine, &busy, &mut notes);
    notes.report
}

/// There, on-line and allowed. Where some of several are not, the kernel would take the rest without a word.
fn usable(key: &str, sets: &[&CpuSet], machine: &Machine, notes: &mut Notes<'_>) {
    let Machine { allowed, topology } = machine;
    let refused = sets.iter().fold(CpuSet::default(), |all, cpus| all.or(cpus)).without(allowed);
    if !refused.is_empty() {
        let (lacking, present) = match &topology.present {
            Some(present) => (refused.without(present), refused.and(present)),
            None => (CpuSet::default(), CpuSet::default()),
        };
        let offline = topology.online.as_ref().map_or_else(CpuSet::default, |online| present.without(online));
        let kept = present.without(&offline);
        let why = [(lacking, "which the machine lacks"), (offline, "off-line"), (kept, "not for this process")];
        let why: Vec<String> =
            why.iter().filter(|(of, _)| !of.is_empty()).map(|(of, why)| format!("{of}: {why}")).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
        let expected = format!("one of those that this process may use: {allowed}");
        notes.problem(key, format!("core {refused}{why}"), expected);
    }
    if let Some(cpus) = sets.iter().find(|cpus| cpus.len() > 1 && cpus.meets(&topology.isolated)) {
        let isolated = cpus.and(&topology.isolated);
        let found =
            format!("{isolated} among {cpus}, isolated from the scheduler (isolcpus), which moves nothing there");
        notes.warning(key, found, "a single one of them, or none");
    }
}

fn overlaps(config: &Config, machine: &Machine, busy: &Busy<'_>, notes: &mut Notes<'_>) {
    let workers = busy.of_workers();
    if let Some(poller) = busy.poller.filter(|poller| poller.is_within(&workers)) {
        notes.warning("engine.poller_core", format!("core {poller}, which workers have, too"), "a core of its own");
    }
    // Those that may use several find one that is idle.
    let crowded = busy.groups().into_iter().find(|(cpus, names)| cpus.len() == 1 && names.len() > 1);
    if let Some((cpus, names)) = crowded {
        let of =
            format!("{} and {}", counted(busy.workers.len() as u64, "worker"), counted(workers.len() as u64, "CPU"));
        let found = format!("{of}: {} share {cpus}", names.join(", "));
        let several = format!(", or cores = [\"{workers}\"], so that each of them may use any of these");
        let several = if workers.len() > 1 { several } else { String::new() };
        notes.warning("engine.cores", found, format!("a CPU for each{several}"));
    }
    let taken = busy.all();
    let left = machine.allowed.without(&taken);
    if let Some(kafka) = config.engine.kafka_cores.as_ref().filter(|kafka| kafka.is_within(&taken) && !left.is_empty())
    {
        let found = format!("{kafka}, which the poller or workers are pinned to; {left} is nobody's");
        notes.warning(
            "engine.kafka_cores",
            found,
            "CPUs of their own: they fetch and unpack what the poller hands out",
        );
    }
}

/// Two threads of one core have half of it each.
fn siblings(machine: &Machine, busy: &Busy<'_>, notes: &mut Notes<'_>) {
    let Machine { allowed, topology } = machine;
    let workers = busy.of_workers();
    if let Some(poller) = busy.poller.filter(|poller| !poller.is_within(&workers)) {
        let shared = topology.siblings(poller).and(&workers);
        if !shared.is_empty() {
            let found = format!("core {poller}, the same core as {shared}, which workers have (SMT)");
            notes.warning("engine.poller_core", found, "a whole core of its own");
        }
    }
    let idle = topology.cores(allowed).into_iter().filter(|core| !core.meets(&busy.all())).count();
    let single = busy.workers.iter().all(|(_, cpus)| cpus.len() == 1);
    let twice = topology.cores(&workers).into_iter().map(|core| core.and(&workers)).find(|of_core| of_core.len() > 1);
    if let Some(of_core) = twice.filter(|_| single && idle > 0) {
        let found = format!("{of_core}, which are one core (SMT), while {idle} whole cores are nobody's");
        notes.warning("engine.cores", found, "one CPU of each core first");
    }
}

fn nodes(machine: &Machine, busy: &Busy<'_>, notes: &mut Notes<'_>) {
    let nodes = machine.topology.nodes(&busy.all());
    if nodes.len() > 1 {
        let nodes: CpuSet = nodes.into_iter().collect();
        let key = if busy.workers.is_empty() { "engine.poller_core" } else { "engine.cores" };
        let found = format!("poller and workers spread over the NUMA nodes {nodes}");
        let expected = "one node: what is handed over between them crosses from one node's memory to the other's. \
                        A process for each node, in the same group, uses them all";
        notes.warning(key, found, expected);
    }
}

/// What runs beside forebay needs a CPU, too.
fn neighbours(config: &Config, machine: &Machine, busy: &Busy<'_>, notes: &mut Notes<'_>) {
    let all = machine.topology.online.as_ref().unwrap_or(&machine.allowed);
    let taken = busy.all();
    if taken.is_empty() || !all.is_within(&taken) {
        return;
    }
    let mut here: Vec<String> = Vec::new();
    let brokers = config.kafka.properties.get("bootstrap.servers");
    if brokers.is_some_and(|brokers| brokers.0.split(',').any(|broker| is_here(host_of(broker.trim())))) {
        here.push("Kafka".to_owned());
    }
    let shards = config.shards.iter().filter(|shard| is_local(&shard.dsn.0));
    here.extend(shards.map(|shard| format!("PostgreSQL of shard {:?}", shard.name)));
    if !here.is_empty() {
        let key = if busy.workers.is_empty() { "engine.poller_core" } else { "engine.cores" };
        let found = format!("a pinned thread on every CPU of the machine, with {} on it as well", here.join(" and "));
        notes.warning(key, found, "CPUs that are left to them, or nothing pinned");
    }
}

fn is_local(written: &str) -> bool {
    let Ok(dsn) = dsn::parse(written) else { return false };
    let addresses = dsn.config.get_hostaddrs();
    addresses.iter().any(std::net::IpAddr::is_loopback)
        || addresses.is_empty()
            && dsn.config.get_hosts().iter().any(|host| match host {
                postgres::config::Host::Tcp(name) => is_here(name),
                postgres::config::Host::Unix(_) => true,
            })
}

/// `host` of `host:port`, `[address]:port` and both with a protocol before them.
fn host_of(broker: &str) -> &str {
    let broker = broker.split_once("://").map_or(broker, |(_, rest)| rest);
    match broker.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => broker.rsplit_once(':').map_or(broker, |(host, _)| host),
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// A line for each kind of thread.
fn map(config: &Config, machine: &Machine, busy: &Busy<'_>) -> Vec<String> {
    let Machine { allowed, topology } = machine;
    let mut lines = vec![format!("this process may use {}", described(allowed, topology))];
    let engine = &config.engine;
    if busy.workers.is_empty()
        && [&engine.poller_core, &engine.kafka_cores, &engine.other_cores].iter().all(|c| c.is_none())
    {
        lines.push("no thread is pinned".to_owned());
        return lines;
    }
    let place = |cpus: Option<&CpuSet>| cpus.map_or("any of them".to_owned(), |cpus| described(cpus, topology));
    lines.push(format!("forebay-poller: {}", place(busy.poller)));
    for (cpus, names) in busy.groups() {
        lines.push(format!("{}: {}", names.join(", "), place(Some(cpus))));
    }
    if busy.workers.is_empty() {
        lines.push(format!("fb-w (workers): {}", place(None)));
    }
    lines.push(format!("rdk: (librdkafka): {}", place(engine.kafka_cores.as_ref())));
    lines.push(format!("all others: {}", place(engine.other_cores.as_ref())));
    lines
}

/// `CPU 0 (core 0, node 0, beside 4)`, `CPUs 0-7 (4 cores, nodes 0-1)`.
fn described(cpus: &CpuSet, topology: &Topology) -> String {
    let nodes: CpuSet = topology.nodes(cpus).into_iter().collect();
    let mut what = Vec::new();
    let single = cpus.first().filter(|_| cpus.len() == 1);
    match single.map(|number| topology.cpu(number)) {
        Some(Some(cpu)) => {
            what.extend(cpu.core.map(|core| format!("core {core}")));
            let packages = topology.online.as_ref().map_or(0, |online| topology.packages(online));
            what.extend(cpu.package.filter(|_| packages > 1).map(|package| format!("package {package}")));
        }
        None if topology.is_known() => {
            what.push(counted(topology.cores(cpus).len() as u64, "core"));
        }
        _ => {}
    }
    match nodes.len() {
        0 => {}
        1 => what.push(format!("node {nodes}")),
        _ => what.push(format!("nodes {nodes}")),
    }
    let beside = topology.siblings(cpus);
    if !beside.is_empty() {
        what.push(format!("SMT beside {beside}"));
    }
    let name = if single.is_some() { "CPU" } else { "CPUs" };
    match what.is_empty() {
        true => format!("{name} {cpus} (nothing is known of cores and nodes)"),
        false => format!("{name} {cpus} ({})", what.join(", ")),
    }
}
