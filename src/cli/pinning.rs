//! Where threads run, said on the command line: to try it out, and where several machines share one file.

use clap::Args;

use crate::config::load::Loaded;
use crate::config::settings as s;
use crate::cpus::CpuSet;

/// What is left out is as the configuration says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Pinning, instead of the configuration's")]
pub struct Pinning {
    /// CPUs of the workers, one each, in turn; said several times, each worker may use all of one.
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    cores: Vec<CpuSet>,
    /// CPU of the poller, or several that it may use.
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    poller_core: Option<CpuSet>,
    /// CPUs of librdkafka's threads.
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    kafka_cores: Option<CpuSet>,
    /// CPUs of all other threads: samplers, control threads, slow lanes, the admin interface, the log.
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    other_cores: Option<CpuSet>,
}

impl Pinning {
    pub fn overrule(self, loaded: &mut Loaded) {
        let Pinning { cores, poller_core, kafka_cores, other_cores } = self;
        let engine = &mut loaded.config.engine;
        let mut said = |name: &str| loaded.places.overruled(&format!("engine.{name}"), "the command line");
        if !cores.is_empty() {
            engine.cores = s::cpus_in_turn(cores);
            said(s::CORES.name);
        }
        let single = [
            (poller_core, &mut engine.poller_core, s::POLLER_CORE.name),
            (kafka_cores, &mut engine.kafka_cores, s::KAFKA_CORES.name),
            (other_cores, &mut engine.other_cores, s::OTHER_CORES.name),
        ];
        for (cpus, of_engine, name) in single {
            if cpus.is_some() {
                *of_engine = cpus;
                said(name);
            }
        }
    }
}

fn cpus(written: &str) -> Result<CpuSet, String> {
    CpuSet::parse(written).ok_or_else(|| format!("expected {}", s::CPUS_EXPECTED))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::config::load;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        pinning: Pinning,
    }

    const FILE: &str = "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[engine]\ncores = \"1-3\"\npoller_core = 0\n\
                        [[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n";

    /// Workers, poller, librdkafka, others.
    #[track_caller]
    fn check(flags: &[&str], expected: &str) {
        let mut loaded = load::parse(Path::new("f.toml"), FILE, &|_| None).expect("valid");
        let line = Line::try_parse_from([&["forebay"], flags].concat()).expect("valid");
        line.pinning.overrule(&mut loaded);
        let engine = &loaded.config.engine;
        let cores = engine.cores.iter().map(CpuSet::to_string).collect::<Vec<_>>().join(" ");
        let single = [&engine.poller_core, &engine.kafka_cores, &engine.other_cores];
        let single = single.map(|cpus| cpus.as_ref().map_or_else(|| "-".to_owned(), CpuSet::to_string));
        assert_eq!(format!("{cores} | {}", single.join(" | ")), expected, "{flags:?}");
    }

    #[test]
    fn what_is_said_overrules_the_file_and_the_rest_stays() {
        check(&[], "1 2 3 | 0 | - | -");
        check(&["--cores", "0,4-5"], "0 4 5 | 0 | - | -");
        check(&["--cores", "0-3", "--cores", "0xf0"], "0-3 4-7 | 0 | - | -");
        check(&["--poller-core", "6", "--kafka-cores", "0x30", "--other-cores", "7,1"], "1 2 3 | 6 | 4-5 | 1,7");
    }

    #[test]
    fn what_is_wrong_with_it_is_said_of_the_command_line() {
        let mut loaded = load::parse(Path::new("f.toml"), FILE, &|_| None).expect("valid");
        Line::try_parse_from(["forebay", "--poller-core", "9"]).expect("valid").pinning.overrule(&mut loaded);
        let problem = |key| loaded.places.problem(key, "x", "y").to_string();
        assert_eq!(problem("engine.poller_core"), "the command line: engine.poller_core: found x, expected y");
        assert_eq!(problem("engine.cores"), "f.toml:5: engine.cores: found x, expected y");
        let error = Line::try_parse_from(["forebay", "--cores", "3-1"]).expect_err("backwards").to_string();
        assert!(error.contains("'3-1'") && error.contains("expected CPU numbers such as 0"), "{error}");
    }
}
