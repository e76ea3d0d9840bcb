//! Watches connections from outside. A peer whose kernel answers while its program does not (a backend that was stopped, a proxy
//! that swallows everything) is neither a time-out of PostgreSQL's nor one of TCP's: whoever waits for it waits for ever. One
//! thread looks at the sockets of those who wait, and shuts one down over which nothing has come for too long. Decides nothing
//! else: whoever waits sees a broken connection, whose outcome is unknown.
//!
//! rust-postgres keeps its socket to itself, but sets the TCP user time-out that it is told: a number that no other socket of this
//! process has finds the socket among the open files. The thread is there while there is something to watch.

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{RecvFlags, recv, sockopt};

use crate::cpus;

/// How often the thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Marks the sockets of one connection attempt, until they are found.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u32);

impl Mark {
    /// Different marks in use at the same time; beyond it two attempts could be taken for each other.
    const DIFFERENT: u32 = 10_000;

    /// A time-out that no other attempt has now, little longer than `about`: it does no harm where it stays.
    pub fn new(about: Duration) -> Mark {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = u32::try_from(about.as_millis()).unwrap_or(u32::MAX / 4).min(u32::MAX / 4);
        Mark(base + 1 + NEXT.fetch_add(1, Ordering::Relaxed) % Mark::DIFFERENT)
    }

    /// The TCP user time-out to connect with.
    pub fn user_timeout(self) -> Duration {
        Duration::from_millis(self.0.into())
    }

    /// The socket that is marked. None before it is connected, and for a Unix-domain socket, which has no such time-out.
    pub fn find(self) -> Option<TcpStream> {
        let files = fs::read_dir("/proc/self/fd").ok()?;
        files.flatten().find_map(|file| self.take(file.file_name().to_str()?.parse().ok()?))
    }

    fn take(self, number: RawFd) -> Option<TcpStream> {
        let is_marked = |file: BorrowedFd<'_>| sockopt::tcp_user_timeout(file) == Ok(self.0);
        // SAFETY: the number was an open file a moment ago. Whatever it is now, it is only asked for an option, and copied, which
        // the kernel refuses for one that is not open.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let copy = is_marked(file).then(|| fcntl_dupfd_cloexec(file, 0).ok()).flatten()?;
        // The number may have become another file's in between; the copy stays what it is.
        is_marked(copy.as_fd()).then(|| TcpStream::from(copy))
    }
}

/// A connection that is watched while somebody waits for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    socket: TcpStream,
    /// In milliseconds.
    silence_max: AtomicU64,
    /// Since when somebody waits, in milliseconds since [`START`]; [`NOBODY`] if nobody does.
    waits_since: AtomicU64,
    cut: AtomicBool,
}

const NOBODY: u64 = u64::MAX;
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static ALL: Mutex<Vec<Weak<Watched>>> = Mutex::new(Vec::new());

fn now() -> u64 {
    START.elapsed().as_millis() as u64
}

impl Watch {
    /// Watches `socket` from now on, as one that somebody waits for. Gives it its own user time-out instead of the mark.
    pub fn new(socket: TcpStream, user_timeout: Duration, silence_max: Duration) -> Watch {
        let timeout = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = sockopt::set_tcp_user_timeout(&socket, timeout) {
            tracing::debug!("a connection keeps the TCP user time-out that it was marked with: {error}");
        }
        let (silence_max, waits_since) = (AtomicU64::new(silence_max.as_millis() as u64), AtomicU64::new(now()));
        let watched = Arc::new(Watched { socket, silence_max, waits_since, cut: AtomicBool::new(false) });
        let mut all = ALL.lock();
        all.push(Arc::downgrade(&watched));
        if all.len() == 1 {
            start(&mut all);
        }
        Watch(watched)
    }

    /// How long nothing may come from now on.
    pub fn allow(&self, silence_max: Duration) {
        self.0.silence_max.store(silence_max.as_millis() as u64, Ordering::Relaxed);
    }

    /// How long nothing may come.
    pub fn silence_max(&self) -> Duration {
        Duration::from_millis(self.0.silence_max.load(Ordering::Relaxed))
    }

    /// Somebody begins to work with the connection.
    pub fn begin(&self) {
        self.0.waits_since.store(now(), Ordering::Relaxed);
    }

    /// Nobody waits for it now: it may be silent as long as it likes.
    pub fn end(&self) {
        self.0.waits_since.store(NOBODY, Ordering::Relaxed);
    }

    /// For how long nothing came before it was shut down from here, if it was.
    pub fn was_cut(&self) -> Option<Duration> {
        self.0.cut.load(Ordering::Acquire).then(|| self.silence_max())
    }

    /// Whether nothing has come that nobody has read yet, the connection's end included.
    pub fn is_quiet(&self) -> bool {
        let peeked = recv(&self.0.socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(Errno::AGAIN))
    }

    /// This end's address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.0.socket.local_addr().ok()
    }
}

impl Watched {
    /// Shuts it down if it has been silent for too long.
    fn look(&self) {
        let since = self.waits_since.load(Ordering::Relaxed);
        let silence_max = self.silence_max.load(Ordering::Relaxed);
        if since == NOBODY || now().saturating_sub(since) < silence_max || self.cut.load(Ordering::Relaxed) {
            return;
        }
        // Several statements, each in time, may make what somebody waits for: what counts is when anything came last.
        if since_received(&self.socket).is_some_and(|received| u64::from(received) < silence_max) {
            return;
        }
        self.cut.store(true, Ordering::Release);
        let silence = Duration::from_millis(silence_max);
        tracing::warn!("nothing came over a connection to a database for {silence:?}: it is cut");
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Watches until there is nothing left. Called with the lock that whoever adds the first one holds.
fn start(all: &mut Vec<Weak<Watched>>) {
    let watch = || {
        loop {
            thread::sleep(LOOK_EVERY);
            let mut all = ALL.lock();
            all.retain(|one| one.upgrade().inspect(|one| one.look()).is_some());
            if all.is_empty() {
                return;
            }
        }
    };
    if let Err(error) = cpus::spawn("forebay-watch", watch) {
        tracing::warn!("connections are not watched: no thread can be started: {error}");
        // The next one tries again.
        all.clear();
    }
}

/// Milliseconds since the last data came; acknowledgements of what was sent do not count.
fn since_received(socket: &impl AsRawFd) -> Option<u32> {
    // SAFETY: `tcp_info` is plain numbers, all of which may be zero.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has as many.
    let asked = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    (asked == 0).then_some(info.tcpi_last_data_recv)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_socket_is_found_by_its_mark() {
        let ((a, _a), (b, _b)) = (pair(), pair());
        let (mark, other) = (Mark::new(Duration::from_secs(30)), Mark::new(Duration::from_secs(30)));
        assert!(mark.find().is_none());
        sockopt::set_tcp_user_timeout(&b, mark.0).unwrap();
        sockopt::set_tcp_user_timeout(&a, other.0).unwrap();
        let found = mark.find().expect("found");
        assert_eq!(found.local_addr().unwrap(), b.local_addr().unwrap());
        let watch = Watch::new(found, Duration::from_millis(1234), Duration::from_secs(60));
        assert_eq!(sockopt::tcp_user_timeout(&b), Ok(1234));
        assert_eq!(watch.local_address(), b.local_addr().ok());
        assert!(mark.find().is_none(), "it is marked no more");
    }

    #[test]
    fn what_came_and_the_end_are_seen_without_being_read() {
        let (socket, mut peer) = pair();
        let watch = Watch::new(socket.try_clone().unwrap(), Duration::ZERO, Duration::from_secs(60));
        assert!(watch.is_quiet());
        peer.write_all(b"x").unwrap();
        let start = Instant::now();
        while watch.is_quiet() {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        let mut byte = [0];
        (&socket).read_exact(&mut byte).unwrap();
        assert!(byte == *b"x" && watch.is_quiet());
        drop(peer);
        while watch.is_quiet() {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    }

    /// Waits for the end of the connection, or for the time-out.
    fn is_cut(mut socket: TcpStream, within: Duration) -> bool {
        socket.set_read_timeout(Some(within)).unwrap();
        matches!(socket.read(&mut [0; 16]), Ok(0))
    }

    #[test]
    fn only_who_waits_in_vain_is_cut() {
        let silence = Duration::from_millis(600);
        let watched = |socket: &TcpStream| Watch::new(socket.try_clone().unwrap(), Duration::ZERO, silence);
        let (silent, _peer) = pair();
        let (idle, _peer_of_idle) = pair();
        let (talking, mut talks) = pair();
        let (waits, rests, listens) = (watched(&silent), watched(&idle), watched(&talking));
        rests.end();
        let talker = thread::spawn(move || {
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(100));
                talks.write_all(b"still here").unwrap();
            }
            talks
        });
        assert!(is_cut(silent, Duration::from_secs(10)));
        assert_eq!((waits.was_cut(), rests.was_cut()), (Some(silence), None));
        talker.join().unwrap();
        assert_eq!(listens.was_cut(), None, "something came all the time");
        assert!(!is_cut(idle, Duration::from_millis(50)));
        rests.begin();
        assert!(is_cut(_peer_of_idle, Duration::from_secs(10)), "the other end sees it, too");
    }
}
