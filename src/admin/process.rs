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

/// Of any process of this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// The process that it is a child of.
    pub parent: u32,
    /// User and system time of all threads, and of children that have ended and were waited for.
    pub cpu_seconds: f64,
    pub waited_for_seconds: f64,
}

/// None: there is no such process.
pub fn stat_of(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    Some(Stat {
        parent: u32::try_from(field(&stat, 4)?).ok()?,
        cpu_seconds: cpu_seconds_of(&stat)?,
        waited_for_seconds: (field(&stat, 16)? + field(&stat, 17)?) as f64 / ticks,
    })
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

    #[test]
    fn a_child_s_time_is_its_parent_s_once_it_was_waited_for() {
        let me = std::process::id();
        let before = stat_of(me).unwrap();
        let work = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh").args(["-c", work]).spawn().unwrap();
        assert_eq!(stat_of(child.id()).unwrap().parent, me);
        child.wait().unwrap();
        let after = stat_of(me).unwrap();
        assert!(after.waited_for_seconds > before.waited_for_seconds, "{before:?} {after:?}");
        assert!(stat_of(child.id()).is_none());
    }
}
