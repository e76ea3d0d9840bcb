//! On what the figures were taken.

use serde::Serialize;

use crate::admin::process;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub host: String,
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
}

impl Machine {
    /// What this process runs on; Linux, elsewhere less is known.
    pub fn this() -> Machine {
        let uname = rustix::system::uname();
        let cpu =
            first("/proc/cpuinfo", "model name").unwrap_or_else(|| uname.machine().to_string_lossy().into_owned());
        let kb = first("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Machine {
            host: process::host(),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kb.unwrap_or_default() * 1024,
        }
    }
}

/// `name: value` of a file in /proc.
fn first(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// How many threads wanted to run, on average of the last minute.
pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let machine = Machine::this();
        assert!(!machine.cpu.is_empty() && machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(load().is_some_and(|load| load >= 0.0));
    }
}
