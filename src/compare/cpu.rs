//! Whose CPU time it was: of a process, of a PostgreSQL server with all its processes, of the broker behind a port of this machine.
//! Linux; elsewhere, and of other machines, nothing is known. It looks, and touches nobody.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::admin::process::stat_of;

/// CPU seconds of a process so far.
pub fn of_process(pid: u32) -> Option<f64> {
    stat_of(pid).map(|stat| stat.cpu_seconds)
}

/// The server that a session of ours is at: its first process, if it is on this machine. `database` is in the title of the session's
/// process; another one may have the same number on another machine.
pub fn server_of(session: i32, database: &str) -> Option<u32> {
    let session = u32::try_from(session).ok()?;
    let title = fs::read_to_string(format!("/proc/{session}/cmdline")).ok()?;
    if !title.starts_with("postgres") || !title.contains(&format!(" {database} ")) {
        return None;
    }
    stat_of(session).map(|stat| stat.parent)
}

/// CPU seconds so far of a process and its children, those included that ended and were waited for.
pub fn of_family(pid: u32) -> Option<f64> {
    let first = stat_of(pid)?;
    let children: f64 = processes().filter_map(stat_of).filter(|stat| stat.parent == pid).map(|s| s.cpu_seconds).sum();
    Some(first.cpu_seconds + first.waited_for_seconds + children)
}

/// How much of the machine's CPU time was in use between the first and the last look.
#[derive(Debug, Default)]
pub struct Busy {
    first: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
}

impl Busy {
    pub fn look(&mut self) {
        self.last = fs::read_to_string("/proc/stat").ok().and_then(|text| in_use(&text));
        self.first = self.first.or(self.last);
    }

    pub fn percent(&self) -> Option<f64> {
        let ((from_used, from_all), (used, all)) = (self.first?, self.last?);
        let all = all.checked_sub(from_all).filter(|all| *all > 0)?;
        Some(used.saturating_sub(from_used) as f64 * 100.0 / all as f64)
    }
}

/// Of proc(5)'s `stat`: time in use, and all of it. What the hypervisor gave to others is in use, too; a guest's is in its host's.
fn in_use(stat: &str) -> Option<(u64, u64)> {
    let times: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8)
        .map_while(|time| time.parse().ok())
        .collect();
    let all: u64 = times.iter().sum();
    // Idle, and idle while the disk works.
    Some((all - times.get(3)? - times.get(4)?, all))
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The process that listens on the first of these addresses that is one of this machine, where we may see it.
pub fn listener(brokers: &str) -> Option<u32> {
    let is_local = |address: &SocketAddr| address.ip().is_loopback() || address.ip() == IpAddr::from([0, 0, 0, 0]);
    let addresses = brokers.split(',').filter_map(|broker| broker.trim().to_socket_addrs().ok()).flatten();
    let port = addresses.filter(is_local).map(|address| address.port()).next()?;
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().find_map(|line| inode_of(line, port))
    })?;
    let socket = format!("socket:[{inode}]");
    processes().find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| link.to_str() == Some(&socket))
    })
}

/// Whether a process says of itself that it is a broker: on a port of a container listens whoever passes things on.
pub fn is_broker(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).to_ascii_lowercase();
    ["kafka", "redpanda"].iter().any(|name| line.contains(name))
}

/// Of a line of proc(5)'s `net/tcp` that is a listener (state 0A) on this port: the tenth field.
fn inode_of(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (_, own) = fields.nth(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(own, 16) == Ok(port) && fields.nth(1)? == "0A";
    let inode = fields.nth(5)?.parse().ok()?;
    is_it.then_some(inode)
}

/// CPU seconds that only rise, of something that may be started again under another number: what it used between the last look and its
/// end is not known.
#[derive(Debug, Default)]
pub struct Rising {
    last: Option<(u32, f64)>,
    sum: f64,
}

impl Rising {
    /// What `pid` has used so far; none while there is no such process.
    pub fn look(&mut self, pid: Option<u32>, measure: impl Fn(u32) -> Option<f64>) -> Option<f64> {
        let pid = pid?;
        let now = measure(pid)?;
        match self.last {
            Some((same, before)) if same == pid => self.sum += (now - before).max(0.0),
            // What it used before the first look is not meant; what one that came later used is.
            None => {}
            Some(_) => self.sum += now,
        }
        self.last = Some((pid, now));
        Some(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn whoever_listens_on_a_port_of_this_machine_is_found() {
        let listener_here = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener_here.local_addr().unwrap().port();
        assert_eq!(listener(&format!("127.0.0.1:{port}")), Some(std::process::id()));
        drop(listener_here);
        assert_eq!(listener(&format!("127.0.0.1:{port}")), None);
        assert_eq!(listener("192.0.2.1:9092,no such thing"), None);
    }

    #[test]
    fn a_broker_says_so() {
        use std::io::Read;
        use std::process::{Command, Stdio};
        assert!(!is_broker(std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read x", "kafka.Kafka"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Its words are there once it has begun.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert!(is_broker(child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_line_of_the_kernel_s_table() {
        let line = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 54321 1 0000 100 0 0 10 0";
        assert_eq!((inode_of(line, 0x1f90), inode_of(line, 80)), (Some(54321), None));
        assert_eq!(inode_of(&line.replace(" 0A ", " 01 "), 0x1f90), None);
        assert_eq!(inode_of("  sl  local_address rem_address   st", 80), None);
    }

    #[test]
    fn a_machine_is_busy_with_what_is_not_idle() {
        assert_eq!(in_use("cpu  10 1 20 100 5 2 3 4 7 0\ncpu0 1 1 1 1\n"), Some((40, 145)));
        assert_eq!(in_use("intr 5"), None);
        let busy = Busy { first: Some((40, 145)), last: Some((70, 185)) };
        assert_eq!((busy.percent(), Busy::default().percent()), (Some(75.0), None));
        let mut now = Busy::default();
        now.look();
        assert!(now.last.is_some() && now.percent().is_none());
    }

    #[test]
    fn it_only_rises_whoever_comes_again() {
        let mut rising = Rising::default();
        let mut look = |pid, value| rising.look(pid, |_| value);
        assert_eq!(look(Some(1), Some(100.0)), Some(0.0));
        assert_eq!(look(Some(1), Some(101.5)), Some(1.5));
        assert_eq!(look(None, None), None);
        assert_eq!(look(Some(2), Some(0.5)), Some(2.0), "a new one from its begin");
        assert_eq!(look(Some(2), Some(0.25)), Some(2.0));
        assert_eq!(look(Some(2), None), None);
    }
}
