//! Which CPUs each thread of the engine, or of the gateway, may run on. Where nothing is configured nobody asks the kernel anything, and threads run
//! where whoever starts them does.

use crate::config;
use crate::config::ingest::Ingest;
use crate::cpus::{CpuSet, Place};

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinning {
    poller: Option<CpuSet>,
    /// In turn.
    workers: Vec<CpuSet>,
    kafka: Option<CpuSet>,
    others: Option<CpuSet>,
    /// Of threads that no setting names, where another setting moves those that start them.
    free: Option<CpuSet>,
}

impl Pinning {
    /// `free` is where the process may run by itself.
    pub fn new(engine: &config::Engine, free: Option<CpuSet>) -> Pinning {
        let config::Engine { cores, poller_core, kafka_cores, other_cores, .. } = engine;
        Pinning::of([poller_core, kafka_cores, other_cores], cores, free)
    }

    /// The same of a gateway: its listeners are the workers.
    pub fn of_gateway(ingest: &Ingest, free: Option<CpuSet>) -> Pinning {
        let Ingest { cores, kafka_cores, other_cores, .. } = ingest;
        Pinning::of([&None, kafka_cores, other_cores], cores, free)
    }

    fn of(named: [&Option<CpuSet>; 3], workers: &[CpuSet], free: Option<CpuSet>) -> Pinning {
        if workers.is_empty() && named.iter().all(|cpus| cpus.is_none()) {
            return Pinning::default();
        }
        let [poller, kafka, others] = named.map(Clone::clone);
        Pinning { poller, workers: workers.to_vec(), kafka, others, free }
    }

    pub fn poller(&self) -> Place {
        self.place(self.poller.as_ref())
    }

    /// `number` counts the workers of all shards.
    pub fn worker(&self, number: usize) -> Place {
        let cores = self.workers.len().max(1);
        self.place(self.workers.get(number % cores))
    }

    /// Of librdkafka's threads, which inherit it.
    pub fn kafka(&self) -> Option<&CpuSet> {
        self.kafka.as_ref().or(self.free.as_ref())
    }

    /// Of everybody else.
    pub fn others(&self) -> Place {
        self.place(self.others.as_ref())
    }

    fn place(&self, own: Option<&CpuSet>) -> Place {
        let or_free = |cpus: Option<&CpuSet>| cpus.or(self.free.as_ref()).cloned();
        Place { own: or_free(own), helpers: or_free(self.others.as_ref()) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::load::parse;

    use super::*;

    /// `poller | workers, of whom there are four | librdkafka | others | what they start`.
    #[track_caller]
    fn check(engine: &str, expectation: &str) {
        let text = format!(
            "[engine]\n{engine}\n[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[[shard]]\nname = \"s\"\n\
             dsn = \"host=a\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n"
        );
        let config = parse(Path::new("f"), &text, &|_| None).expect("valid").config;
        let pinning = Pinning::new(&config.engine, CpuSet::parse("0-7"));
        let text = |cpus: Option<&CpuSet>| cpus.map_or("as they are".to_owned(), CpuSet::to_string);
        let workers: Vec<String> = (0..4).map(|number| text(pinning.worker(number).own.as_ref())).collect();
        let (poller, others) = (pinning.poller(), pinning.others());
        assert_eq!((&poller.helpers, &pinning.worker(0).helpers), (&others.helpers, &others.helpers));
        let found = format!(
            "{} | {} | {} | {} | {}",
            text(poller.own.as_ref()),
            workers.join(" "),
            text(pinning.kafka()),
            text(others.own.as_ref()),
            text(others.helpers.as_ref())
        );
        assert_eq!(found, expectation, "{engine}");
    }

    #[test]
    fn nothing_configured_is_nothing_done() {
        let same =
            "as they are | as they are as they are as they are as they are | as they are | as they are | as they are";
        check("", same);
    }

    #[test]
    fn whoever_is_not_named_keeps_all_there_are() {
        check("poller_core = 0", "0 | 0-7 0-7 0-7 0-7 | 0-7 | 0-7 | 0-7");
        check("other_cores = \"6-7\"", "0-7 | 0-7 0-7 0-7 0-7 | 0-7 | 6-7 | 6-7");
        check("kafka_cores = \"0x30\"", "0-7 | 0-7 0-7 0-7 0-7 | 4-5 | 0-7 | 0-7");
    }

    #[test]
    fn a_gateway_s_listeners_take_turns_as_workers_do() {
        let text = "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[[shard]]\nname = \"s\"\ndsn = \"host=a\"\n[[topic]]\nname = \"t\"\n\
                    table = \"t\"\npk_fields = [\"x\"]\n[ingest]\ncores = \"1-2\"\nkafka_cores = 5\n[[ingest.route]]\npath = \"/t\"\n\
                    methods = [\"PUT\"]\ntopic = \"t\"\n";
        let config = parse(Path::new("f"), text, &|_| None).expect("valid").config;
        let pinning = Pinning::of_gateway(config.ingest.as_ref().expect("a gateway"), CpuSet::parse("0-7"));
        let own: Vec<_> = (0..3).map(|n| pinning.worker(n).own.expect("pinned").to_string()).collect();
        assert_eq!(own, ["1", "2", "1"]);
        assert_eq!(pinning.kafka().map(CpuSet::to_string).as_deref(), Some("5"));
        assert_eq!(pinning.others().own.map(|cpus| cpus.to_string()).as_deref(), Some("0-7"));
    }

    #[test]
    fn workers_take_turns() {
        check("cores = \"1-3\"", "0-7 | 1 2 3 1 | 0-7 | 0-7 | 0-7");
        check("cores = [\"1-3\"]", "0-7 | 1-3 1-3 1-3 1-3 | 0-7 | 0-7 | 0-7");
        check("cores = [\"0-1\", 5]\nother_cores = 7", "0-7 | 0-1 5 0-1 5 | 0-7 | 7 | 7");
    }
}
