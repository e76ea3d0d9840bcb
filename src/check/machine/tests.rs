use std::path::Path;

use crate::config::load::parse;
use crate::cpus::{machine, tree};

use super::*;

/// `allowed` of a machine; `engine` is what stands in `[engine]`, `ingest` what stands in `[ingest]`, where there is a gateway.
struct On<'a> {
    topology: Topology,
    allowed: &'a str,
    dsn: &'a str,
    brokers: &'a str,
    ingest: Option<&'a str>,
}

impl<'a> On<'a> {
    fn new(topology: Topology, allowed: &'a str) -> On<'a> {
        On { topology, allowed, dsn: "host=db.example", brokers: "kafka.example:9092", ingest: None }
    }

    fn report(self, engine: &str) -> Report {
        let On { topology, allowed, dsn, brokers, ingest } = self;
        let route = "[[ingest.route]]\npath = \"/t\"\nmethods = [\"PUT\"]\ntopic = \"t\"\n";
        let gateway =
            ingest.map_or_else(String::new, |lines| format!("pk_fields = [\"x\"]\n[ingest]\n{lines}\n{route}"));
        let text = format!(
            "[engine]\n{engine}\n[kafka]\nbootstrap.servers = {brokers:?}\ngroup.id = \"g\"\n[[shard]]\nname = \"s\"\n\
             dsn = {dsn:?}\n[[topic]]\nname = \"t\"\ntable = \"t\"\n{gateway}"
        );
        let loaded = parse(Path::new("f"), &text, &|_| None).expect("valid");
        let machine = Machine { allowed: CpuSet::parse(allowed).expect("CPUs"), topology };
        against(&loaded.config, &loaded.places, &machine)
    }

    /// Whatever is said, without what was expected instead.
    #[track_caller]
    fn check(self, engine: &str, expectation: &[&str]) {
        let report = self.report(engine);
        let said = report.problems.iter().map(|p| format!("problem: {p}"));
        let said = said.chain(report.warnings.iter().map(ToString::to_string));
        let said: Vec<String> =
            said.map(|line| line.split(", expected ").next().unwrap_or_default().to_owned()).collect();
        assert_eq!(said, expectation, "{engine}");
    }

    #[track_caller]
    fn map(self, engine: &str, expectation: &[&str]) {
        assert_eq!(self.report(engine).cpus, expectation, "{engine}");
    }
}

const TWO_WORKERS: &str = "workers_per_shard = 2";

#[test]
fn what_is_expected_is_said() {
    let report = On::new(tree(""), "0-2,4").report("cores = \"1-5\"\nworkers_per_shard = 5");
    let said: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["f:2: engine.cores: found core 3,5, expected one of those that this process may use: 0-2,4"]);
    let report = On::new(tree(""), "0-3").report("cores = \"1-3\"");
    let said: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
    let expected = "f:2: engine.cores: found 4 workers and 3 CPUs: fb-w0.0, fb-w0.3 share 1, expected a CPU for each, or \
                    cores = [\"1-3\"], so that each of them may use any of these";
    assert_eq!(said, [expected]);
}

#[test]
fn cpus_must_be_there_and_allowed() {
    let unknown = || On::new(tree(""), "0-2");
    unknown().check(&format!("cores = \"0-1\"\npoller_core = 2\n{TWO_WORKERS}"), &[]);
    unknown().check("poller_core = 9", &["problem: f:2: engine.poller_core: found core 9"]);
    unknown().check("kafka_cores = \"2-3\"", &["problem: f:2: engine.kafka_cores: found core 3"]);
    unknown().check("other_cores = \"0,7\"", &["problem: f:2: engine.other_cores: found core 7"]);
    // A container of CPUs 0 and 1, on a machine of eight, of which 6 and 7 are off-line.
    let known = tree("cpu/present: 0-7\ncpu/online: 0-5");
    On::new(known, "0-1").check(
        "other_cores = \"1,4,7,9\"",
        &["problem: f:2: engine.other_cores: found core 4,7,9 (9: which the machine lacks; 7: off-line; 4: not for this process)"],
    );
}

#[test]
fn busy_threads_want_a_cpu_each() {
    let on = || On::new(machine(1, 8, 1), "0-7");
    on().check("cores = \"1-4\"\npoller_core = 0\nkafka_cores = \"5-6\"\nother_cores = 7", &[]);
    on().check("cores = [\"1-3\"]\npoller_core = 0", &[]);
    on().check("poller_core = \"0-1\"\ncores = \"1-4\"", &[]);
    on().check("poller_core = 1\ncores = \"1-4\"", &["f:2: engine.poller_core: found core 1, which workers have, too"]);
    on().check(
        "cores = \"3\"",
        &["f:2: engine.cores: found 4 workers and 1 CPU: fb-w0.0, fb-w0.1, fb-w0.2, fb-w0.3 share 3"],
    );
    let taken = "which the poller or workers are pinned to; 5-7 is nobody's";
    on().check(
        "poller_core = 0\ncores = \"1-4\"\nkafka_cores = \"0-1\"",
        &[&format!("f:4: engine.kafka_cores: found 0-1, {taken}")],
    );
    on().check("poller_core = 0\ncores = \"1-4\"\nkafka_cores = \"0,5\"", &[]);
    // Where there is no other, they have to share.
    On::new(machine(1, 2, 1), "0-1").check("poller_core = 0\ncores = 1\nkafka_cores = 0\nworkers_per_shard = 1", &[]);
}

#[test]
fn threads_of_one_core_are_half_a_core_each() {
    // 0 and 4 are one core, as are 1 and 5, and so on.
    let on = || On::new(machine(1, 4, 2), "0-7");
    let poller = "f:2: engine.poller_core: found core 0, the same core as 4, which workers have (SMT)";
    on().check("poller_core = 0\ncores = \"1-2\"\nworkers_per_shard = 2", &[]);
    on().check("poller_core = 0\ncores = \"1,4\"\nworkers_per_shard = 2", &[poller]);
    let workers = "f:2: engine.cores: found 1,5, which are one core (SMT), while 3 whole cores are nobody's";
    on().check("cores = \"1,5\"\nworkers_per_shard = 2", &[workers]);
    on().check("cores = \"0-7\"\nworkers_per_shard = 8", &[]);
    on().check("cores = [\"1,5\"]\nworkers_per_shard = 2", &[]);
    // Nothing is known about cores: nothing is said.
    On::new(tree(""), "0-7").check("poller_core = 0\ncores = \"1,4\"\nworkers_per_shard = 2", &[]);
}

#[test]
fn nodes_and_isolated_cpus() {
    let on = || On::new(machine(2, 4, 1), "0-7");
    on().check("poller_core = 0\ncores = \"1-3\"\nworkers_per_shard = 3", &[]);
    let spread = "engine.cores: found poller and workers spread over the NUMA nodes 0-1";
    on().check("poller_core = 0\ncores = \"4-7\"", &[&format!("f:3: {spread}")]);
    on().check("cores = [\"0-3\", \"4-7\"]", &[&format!("f:2: {spread}")]);
    let isolated = || On::new(tree("cpu/online: 0-3\ncpu/isolated: 2-3"), "0-3");
    let found = "found 2-3 among 1-3, isolated from the scheduler (isolcpus), which moves nothing there";
    isolated().check("cores = [\"1-3\"]", &[&format!("f:2: engine.cores: {found}")]);
    isolated().check("kafka_cores = \"1-3\"", &[&format!("f:2: engine.kafka_cores: {found}")]);
    isolated().check("cores = \"2-3\"\nworkers_per_shard = 2", &[]);
}

#[test]
fn whoever_is_on_the_same_machine_needs_a_cpu_too() {
    let engine = "poller_core = 0\ncores = \"1-3\"\nworkers_per_shard = 3";
    let all = "f:3: engine.cores: found a pinned thread on every CPU of the machine, with";
    let on = |dsn, brokers| On { dsn, brokers, ..On::new(machine(1, 4, 1), "0-3") };
    on("host=db.example", "kafka.example:9092").check(engine, &[]);
    for dsn in ["host=127.0.0.1", "host=/run/postgresql", "host=localhost", "host=db.example hostaddr=127.0.0.1"] {
        on(dsn, "kafka.example:9092").check(engine, &[&format!("{all} PostgreSQL of shard \"s\" on it as well")]);
    }
    on("host=localhost hostaddr=10.0.0.1", "a:9092").check(engine, &[]);
    for brokers in ["a:9092, localhost:9092", "SASL_SSL://127.0.0.1:9092", "[::1]:9092", "localhost"] {
        on("host=db.example", brokers).check(engine, &[&format!("{all} Kafka on it as well")]);
    }
    on("host=localhost", "localhost").check("poller_core = 0\ncores = [\"1-2\"]", &[]);
    // Others may use what this process may not.
    On { dsn: "host=localhost", ..On::new(machine(1, 8, 1), "0-3") }.check(engine, &[]);
}

/// Beside the engine's, which may be on another machine: nothing is said of the one for the other's sake.
#[test]
fn a_gateway_has_settings_of_its_own() {
    let on = |ingest| On { ingest: Some(ingest), ..On::new(machine(1, 8, 1), "0-7") };
    let engine = "poller_core = 0\ncores = \"1-4\"\nkafka_cores = \"5-6\"\nother_cores = 7";
    on("cores = \"0-1\"\nkafka_cores = 2\nother_cores = \"3\"").check(engine, &[]);
    on("cores = 9\nthreads = 1").check("", &["problem: f:14: ingest.cores: found core 9 (9: which the machine lacks)"]);
    let crowded = "f:14: ingest.cores: found 3 listeners and 2 CPUs: fb-i0, fb-i2 share 1";
    on("cores = \"1-2\"\nthreads = 3").check("", &[crowded]);
    on("cores = [\"1-2\"]\nthreads = 3").check("", &[]);
    let taken = "f:15: ingest.kafka_cores: found 1, which the listeners are pinned to; 0,3-7 is nobody's";
    on("cores = \"1-2\"\nkafka_cores = 1").check("", &[taken]);
    let nodes = On { ingest: Some("cores = \"0,4\""), ..On::new(machine(2, 4, 1), "0-7") };
    nodes.check("", &["f:14: ingest.cores: found listeners spread over the NUMA nodes 0-1"]);
    let map = ["this process may use CPUs 0-7 (8 cores, node 0)", "no thread is pinned"];
    on("").map("", &[map.as_slice(), &["gateway: no thread is pinned"]].concat());
    let gateway = [
        "gateway: fb-i0, fb-i2: CPU 1 (core 1, node 0)",
        "gateway: fb-i1: CPU 2 (core 2, node 0)",
        "gateway: rdk: (librdkafka): CPU 3 (core 3, node 0)",
        "gateway: all others: any of them",
    ];
    on("cores = \"1-2\"\nkafka_cores = 3\nthreads = 3").map("", &[map.as_slice(), &gateway].concat());
    let none = "gateway: fb-i (listeners): any of them";
    assert_eq!(on("other_cores = 3").report("").cpus[2], none);
}

#[test]
fn the_map_says_who_is_where() {
    On::new(tree(""), "0-1")
        .map("", &["this process may use CPUs 0-1 (nothing is known of cores and nodes)", "no thread is pinned"]);
    On::new(machine(1, 2, 1), "1").map("", &["this process may use CPU 1 (core 1, node 0)", "no thread is pinned"]);
    On::new(machine(2, 4, 2), "0-15").map(
        "poller_core = 0\ncores = \"1-3\"\nkafka_cores = \"8\"\nother_cores = \"4-7,12-15\"",
        &[
            "this process may use CPUs 0-15 (8 cores, nodes 0-1)",
            "forebay-poller: CPU 0 (core 0, package 0, node 0, SMT beside 8)",
            "fb-w0.0, fb-w0.3: CPU 1 (core 1, package 0, node 0, SMT beside 9)",
            "fb-w0.1: CPU 2 (core 2, package 0, node 0, SMT beside 10)",
            "fb-w0.2: CPU 3 (core 3, package 0, node 0, SMT beside 11)",
            "rdk: (librdkafka): CPU 8 (core 0, package 0, node 0, SMT beside 0)",
            "all others: CPUs 4-7,12-15 (4 cores, node 1)",
        ],
    );
    On::new(machine(1, 4, 1), "0-3").map(
        "poller_core = 0",
        &[
            "this process may use CPUs 0-3 (4 cores, node 0)",
            "forebay-poller: CPU 0 (core 0, node 0)",
            "fb-w (workers): any of them",
            "rdk: (librdkafka): any of them",
            "all others: any of them",
        ],
    );
}
