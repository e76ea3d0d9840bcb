//! Cores: those that threads are to be pinned to must exist, and this process must be allowed to use them.

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::config::Config;
use crate::config::raw::Places;

use super::{Notes, Report};

pub fn check(config: &Config, places: &Places) -> Report {
    match sched_getaffinity(None) {
        Ok(mask) => {
            let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect();
            against(config, places, &allowed)
        }
        Err(error) => {
            let mut notes = Notes::new(places);
            notes.warning("engine.cores", format!("no answer about the cores of this machine: {error}"), "one");
            notes.report
        }
    }
}

fn against(config: &Config, places: &Places, allowed: &[usize]) -> Report {
    let mut notes = Notes::new(places);
    let engine = &config.engine;
    let allows = format!("one of those that this process may use: {}", ranges(allowed));
    let refused: Vec<usize> = engine.cores.iter().copied().filter(|core| !allowed.contains(core)).collect();
    if !refused.is_empty() {
        notes.problem("engine.cores", format!("core {}", ranges(&refused)), &allows);
    }
    if let Some(core) = engine.poller_core {
        if !allowed.contains(&core) {
            notes.problem("engine.poller_core", format!("core {core}"), &allows);
        }
        if engine.cores.contains(&core) {
            notes.warning("engine.poller_core", format!("core {core}, which workers have, too"), "a core of its own");
        }
    }
    if notes.report.problems.is_empty() && (!engine.cores.is_empty() || engine.poller_core.is_some()) {
        notes.checked("every core that threads are pinned to exists and may be used");
    }
    notes.report
}

/// `[0, 1, 2, 5]` → `0-2,5`.
fn ranges(cores: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => ranges.push((core, core)),
        }
    }
    let words = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::load::parse;

    use super::*;

    #[track_caller]
    fn check(engine: &str, allowed: &[usize], expectation: &[&str]) {
        let text = format!(
            "[engine]\n{engine}\n[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[[shard]]\nname = \"s\"\n\
             dsn = \"host=a\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n"
        );
        let loaded = parse(Path::new("f"), &text, &|_| None).expect("valid");
        let report = against(&loaded.config, &loaded.places, allowed);
        let said: Vec<String> = report.problems.iter().chain(&report.warnings).map(ToString::to_string).collect();
        assert_eq!(said, expectation);
    }

    #[test]
    fn cores_must_exist_and_be_allowed() {
        check("cores = \"0-1\"\npoller_core = 2", &[0, 1, 2], &[]);
        check(
            "cores = \"1-5\"",
            &[0, 1, 2, 4],
            &["f:2: engine.cores: found core 3,5, expected one of those that this process may use: 0-2,4"],
        );
        check(
            "cores = \"0-1\"\npoller_core = 1",
            &[0, 1],
            &["f:3: engine.poller_core: found core 1, which workers have, too, expected a core of its own"],
        );
        check(
            "poller_core = 9",
            &[0, 1],
            &["f:2: engine.poller_core: found core 9, expected one of those that this process may use: 0-1"],
        );
    }
}
