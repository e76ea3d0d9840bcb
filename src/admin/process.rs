//! What the operating system says of this process. Linux; elsewhere nothing is known.

use std::fs;

/// As `/proc` has it now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all threads, in seconds.
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
}

impl Usage {
    pub fn now() -> Usage {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let field = |number: usize| field(&stat, number);
        Usage {
            cpu_seconds: cpu_seconds_of(&stat),
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as u64),
            threads: field(20),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// As [`Usage`] has it, alone: one file to read.
pub fn cpu_seconds() -> Option<f64> {
    cpu_seconds_of(&fs::read_to_string("/proc/self/stat").unwrap_or_default())
}

fn cpu_seconds_of(stat: &str) -> Option<f64> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    field(stat, 14).zip(field(stat, 15)).map(|(user, system)| (user + system) as f64 / ticks)
}

/// Of proc(5)'s `stat`, as it numbers them. The name, which may hold anything, ends at the last parenthesis; the third field comes
/// behind it.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_threads_memory_and_descriptors() {
        let Usage { cpu_seconds, resident_bytes, threads, open_fds, max_fds } = Usage::now();
        assert!(cpu_seconds.is_some_and(|seconds| (0.0..100_000.0).contains(&seconds)), "{cpu_seconds:?}");
        assert!(resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{resident_bytes:?}");
        assert!(threads.is_some_and(|threads| (1..10_000).contains(&threads)), "{threads:?}");
        assert!(open_fds.is_some_and(|fds| fds >= 3) && open_fds <= max_fds, "{open_fds:?} {max_fds:?}");
    }
}
