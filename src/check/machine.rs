//! Which thread runs on which CPU, core and node, and whether that is wise: CPUs that threads are pinned to must be there and
//! allowed to this process, and busy threads should not have to share one.

use crate::config::ingest::Ingest;
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

/// A process and where its threads are to run. Busy are a poller, and workers; of a gateway its listeners.
struct Process<'a> {
    /// Of the file.
    section: &'static str,
    /// What its workers are called, by people and by the kernel.
    workers_are: &'static str,
    prefix: &'static str,
    poller: Option<&'a CpuSet>,
    /// Name and CPUs; nothing where workers are not pinned.
    workers: Vec<(String, &'a CpuSet)>,
    cores: &'a [CpuSet],
    kafka: Option<&'a CpuSet>,
    others: Option<&'a CpuSet>,
}

impl<'a> Process<'a> {
    fn of_engine(config: &'a Config) -> Process<'a> {
        let engine = &config.engine;
        let names = (0..config.shards.len())
            .flat_map(|shard| (0..engine.workers_per_shard).map(move |worker| format!("fb-w{shard}.{worker}")));
        Process {
            section: "engine",
            workers_are: "worker",
            prefix: "fb-w",
            poller: engine.poller_core.as_ref(),
            // Without any, `zip` ends at once.
            workers: names.zip(engine.cores.iter().cycle()).collect(),
            cores: &engine.cores,
            kafka: engine.kafka_cores.as_ref(),
            others: engine.other_cores.as_ref(),
        }
    }

    fn of_gateway(ingest: &'a Ingest) -> Process<'a> {
        let names = (0..ingest.threads).map(|number| format!("fb-i{number}"));
        Process {
            section: "ingest",
            workers_are: "listener",
            prefix: "fb-i",
            poller: None,
            workers: names.zip(ingest.cores.iter().cycle()).collect(),
            cores: &ingest.cores,
            kafka: ingest.kafka_cores.as_ref(),
            others: ingest.other_cores.as_ref(),
        }
    }

    fn key(&self, setting: &str) -> String {
        format!("{}.{setting}", self.section)
    }

    /// Of the setting that says most about busy threads.
    fn busy_key(&self) -> String {
        self.key(if self.workers.is_empty() { "poller_core" } else { "cores" })
    }

    fn has_poller(&self) -> bool {
        self.section == "engine"
    }

    fn busy_are(&self) -> String {
        let poller = if self.has_poller() { "poller and " } else { "" };
        format!("{poller}{}s", self.workers_are)
    }

    fn settings(&self) -> [(&'static str, Vec<&'a CpuSet>); 4] {
        [
            ("cores", self.cores.iter().collect()),
            ("poller_core", self.poller.into_iter().collect()),
            ("kafka_cores", self.kafka.into_iter().collect()),
            ("other_cores", self.others.into_iter().collect()),
        ]
    }

    fn is_pinned(&self) -> bool {
        self.settings().iter().any(|(_, sets)| !sets.is_empty())
    }

    /// All CPUs of all workers.
    fn of_workers(&self) -> CpuSet {
        self.workers.iter().fold(CpuSet::default(), |all, (_, cpus)| all.or(cpus))
    }

    fn busy(&self) -> CpuSet {
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

/// The engine's and the gateway's: two processes, on one machine or on several. Nothing is said of the one beside the other.
fn against(config: &Config, places: &Places, machine: &Machine) -> Report {
    let mut notes = Notes::new(places);
    let Machine { allowed, topology } = machine;
    notes.report.cpus = vec![format!("this process may use {}", described(allowed, topology))];
    let gateway = config.ingest.as_ref().map(Process::of_gateway);
    let processes: Vec<Process<'_>> = [Process::of_engine(config)].into_iter().chain(gateway).collect();
    for process in &processes {
        let whose = if process.has_poller() { "" } else { "gateway: " };
        notes.report.cpus.extend(map(process, topology).into_iter().map(|line| format!("{whose}{line}")));
        for (setting, sets) in process.settings() {
            usable(&process.key(setting), &sets, machine, &mut notes);
        }
    }
    if notes.report.problems.is_empty() && processes.iter().any(Process::is_pinned) {
        notes.checked("every CPU that threads are pinned to exists and may be used");
    }
    for process in &processes {
        overlaps(process, machine, &mut notes);
        siblings(process, machine, &mut notes);
        nodes(process, machine, &mut notes);
        neighbours(process, config, machine, &mut notes);
    }
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

fn overlaps(process: &Process<'_>, machine: &Machine, notes: &mut Notes<'_>) {
    let workers = process.of_workers();
    if let Some(poller) = process.poller.filter(|poller| poller.is_within(&workers)) {
        let found = format!("core {poller}, which {}s have, too", process.workers_are);
        notes.warning(&process.key("poller_core"), found, "a core of its own");
    }
    // Those that may use several find one that is idle.
    let crowded = process.groups().into_iter().find(|(cpus, names)| cpus.len() == 1 && names.len() > 1);
    if let Some((cpus, names)) = crowded {
        let of = format!(
            "{} and {}",
            counted(process.workers.len() as u64, process.workers_are),
            counted(workers.len() as u64, "CPU")
        );
        let found = format!("{of}: {} share {cpus}", names.join(", "));
        let several = format!(", or cores = [\"{workers}\"], so that each of them may use any of these");
        let several = if workers.len() > 1 { several } else { String::new() };
        notes.warning(&process.key("cores"), found, format!("a CPU for each{several}"));
    }
    let taken = process.busy();
    let left = machine.allowed.without(&taken);
    if let Some(kafka) = process.kafka.filter(|kafka| kafka.is_within(&taken) && !left.is_empty()) {
        let busy = process.busy_are().replace(" and ", " or ");
        let found = format!("{kafka}, which the {busy} are pinned to; {left} is nobody's");
        let expected = match process.has_poller() {
            true => "CPUs of their own: they fetch and unpack what the poller hands out",
            false => "CPUs of their own: they pack and send what listeners take in",
        };
        notes.warning(&process.key("kafka_cores"), found, expected);
    }
}

/// Two threads of one core have half of it each.
fn siblings(process: &Process<'_>, machine: &Machine, notes: &mut Notes<'_>) {
    let Machine { allowed, topology } = machine;
    let workers = process.of_workers();
    if let Some(poller) = process.poller.filter(|poller| !poller.is_within(&workers)) {
        let shared = topology.siblings(poller).and(&workers);
        if !shared.is_empty() {
            let found = format!("core {poller}, the same core as {shared}, which {}s have (SMT)", process.workers_are);
            notes.warning(&process.key("poller_core"), found, "a whole core of its own");
        }
    }
    let idle = topology.cores(allowed).into_iter().filter(|core| !core.meets(&process.busy())).count();
    let single = process.workers.iter().all(|(_, cpus)| cpus.len() == 1);
    let twice = topology.cores(&workers).into_iter().map(|core| core.and(&workers)).find(|of_core| of_core.len() > 1);
    if let Some(of_core) = twice.filter(|_| single && idle > 0) {
        let found = format!("{of_core}, which are one core (SMT), while {idle} whole cores are nobody's");
        notes.warning(&process.key("cores"), found, "one CPU of each core first");
    }
}

fn nodes(process: &Process<'_>, machine: &Machine, notes: &mut Notes<'_>) {
    let nodes = machine.topology.nodes(&process.busy());
    if nodes.len() > 1 {
        let nodes: CpuSet = nodes.into_iter().collect();
        let found = format!("{} spread over the NUMA nodes {nodes}", process.busy_are());
        let expected = match process.has_poller() {
            true => {
                "one node: what is handed over between them crosses from one node's memory to the other's. \
                 A process for each node, in the same group, uses them all"
            }
            false => {
                "one node: what they hand to librdkafka crosses from one node's memory to the other's. \
                 A gateway for each node, on the same port, uses them all"
            }
        };
        notes.warning(&process.busy_key(), found, expected);
    }
}

/// What runs beside forebay needs a CPU, too.
fn neighbours(process: &Process<'_>, config: &Config, machine: &Machine, notes: &mut Notes<'_>) {
    let all = machine.topology.online.as_ref().unwrap_or(&machine.allowed);
    let taken = process.busy();
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
        let found = format!("a pinned thread on every CPU of the machine, with {} on it as well", here.join(" and "));
        notes.warning(&process.busy_key(), found, "CPUs that are left to them, or nothing pinned");
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
fn map(process: &Process<'_>, topology: &Topology) -> Vec<String> {
    if !process.is_pinned() {
        return vec!["no thread is pinned".to_owned()];
    }
    let place = |cpus: Option<&CpuSet>| cpus.map_or("any of them".to_owned(), |cpus| described(cpus, topology));
    let mut lines = Vec::new();
    if process.has_poller() {
        lines.push(format!("forebay-poller: {}", place(process.poller)));
    }
    for (cpus, names) in process.groups() {
        lines.push(format!("{}: {}", names.join(", "), place(Some(cpus))));
    }
    if process.workers.is_empty() {
        lines.push(format!("{} ({}s): {}", process.prefix, process.workers_are, place(None)));
    }
    lines.push(format!("rdk: (librdkafka): {}", place(process.kafka)));
    lines.push(format!("all others: {}", place(process.others)));
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
