//! Threads that wait for databases, so that the server's does not: one for listings, one for the orders to each shard, and one for the
//! orders to all shards. Each is started when something comes for it, so a shard that hangs holds up its own orders only.
//!
//! What nobody waits for any more is not begun.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::admin::action::{Action, refused};
use crate::admin::routes::guarded;
use crate::cpus::Place;
use crate::engine::thread::Thread;
use crate::http::{Asker, Replier, Response, Status, Ticket};
use crate::sink::shards;

/// Requests that wait in one line.
const WAITING_MAX: usize = 32;
/// Whoever has ended its side of a connection by the time its order is in turn has gone, if it had to wait for so long: one that sends an
/// order and an end at once, and reads on, is answered sooner.
const LEAVES_AFTER: Duration = Duration::from_secs(1);
/// How long whoever ends waits for what a thread has begun.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(1);

/// Does what is asked for, and waits for the databases.
pub type Run = Box<dyn Fn(&Action) -> Response + Send + Sync>;

/// See the module's text. The threads end when it is dropped.
pub struct Lines {
    /// The shards' names.
    shards: Vec<String>,
    common: Arc<Common>,
    lines: BTreeMap<Name, Line>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Listings,
    /// Orders to one of them.
    Shard(usize),
    /// Orders to all of them.
    All,
}

struct Line {
    asked: Sender<Asked>,
    thread: Thread,
}

struct Asked {
    ticket: Ticket,
    action: Action,
    at: Instant,
}

/// What all threads have.
struct Common {
    run: Run,
    replier: Replier,
    over: Arc<AtomicBool>,
}

impl Lines {
    /// Once `over` is true nothing more is begun.
    pub fn new(shards: Vec<String>, run: Run, replier: Replier, over: Arc<AtomicBool>) -> Lines {
        Lines { shards, common: Arc::new(Common { run, replier, over }), lines: BTreeMap::new() }
    }

    /// Has it done, and answered; or answers why not.
    pub fn put(&mut self, ticket: Ticket, action: Action) -> Result<(), Response> {
        let busy = |text: &str| Response::problem(Status::SERVICE_UNAVAILABLE, text).header("Retry-After", "5");
        let name = self.name(&action)?;
        let line = match self.lines.remove(&name) {
            Some(line) => line,
            None => Line::start(name, &self.common).map_err(|error| {
                tracing::error!("admin: no thread can be started for what takes a database: {error}");
                busy("no thread can be started for it")
            })?,
        };
        let put = line.asked.try_send(Asked { ticket, action, at: Instant::now() });
        self.lines.insert(name, line);
        put.map_err(|_| busy("too many are waiting for a database already"))
    }

    fn name(&self, action: &Action) -> Result<Name, Response> {
        match action.shard() {
            _ if action.is_listing() => Ok(Name::Listings),
            None => Ok(Name::All),
            Some(shard) => shards::position(self.shards.iter().map(String::as_str), shard)
                .map(Name::Shard)
                .map_err(|failure| refused(&failure)),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.common.over.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + JOIN_DEADLINE;
        let lines = std::mem::take(&mut self.lines).into_values();
        // All of them see that nothing more comes before the first one is waited for.
        let threads: Vec<Thread> = lines.map(|line| line.thread).collect();
        threads.into_iter().for_each(|thread| thread.join(deadline));
    }
}

impl Line {
    fn start(name: Name, common: &Arc<Common>) -> std::io::Result<Line> {
        let (asked, line) = bounded(WAITING_MAX);
        let common = Arc::clone(common);
        let thread = if name == Name::Listings { "forebay-list" } else { "forebay-act" };
        let thread = Thread::spawn(thread, Place::default(), None, move || common.work(&line))?;
        Ok(Line { asked, thread })
    }
}

impl Common {
    /// Until the line's other end is gone. Who asks for the same listing meanwhile gets the same answer.
    fn work(&self, line: &Receiver<Asked>) {
        let mut waiting: VecDeque<Asked> = VecDeque::new();
        while let Some(asked) = waiting.pop_front().or_else(|| line.recv().ok()) {
            let Asked { ticket, action, .. } = match self.needless(&asked) {
                None => asked,
                Some(why) => {
                    tracing::info!("admin: {}: not begun: {why}", asked.action.told());
                    let detail = format!("nothing was begun: {why}");
                    let response = guarded(Response::problem(Status::SERVICE_UNAVAILABLE, &detail));
                    self.replier.answer(asked.ticket, response);
                    continue;
                }
            };
            let response = self.run(&action);
            if action.is_listing() {
                waiting.extend(line.try_iter());
                let (same, others) = waiting.into_iter().partition::<VecDeque<_>, _>(|other| other.action == action);
                waiting = others;
                same.into_iter().for_each(|other| self.replier.answer(other.ticket, response.clone()));
            } else {
                tracing::info!("admin: {}: {}", action.told(), response.status().0);
            }
            self.replier.answer(ticket, response);
        }
    }

    /// What panics is answered, and said where it happened.
    fn run(&self, action: &Action) -> Response {
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| (self.run)(action)));
        let response = done.unwrap_or_else(|_| {
            tracing::error!("admin: {} panicked", action.told());
            Response::problem(Status::INTERNAL_SERVER_ERROR, "a defect of forebay; whether it was done is not known")
        });
        guarded(response).into_shared()
    }

    /// Why this is not to be begun, if it is not.
    fn needless(&self, asked: &Asked) -> Option<&'static str> {
        if self.over.load(Ordering::SeqCst) {
            return Some("forebay ends");
        }
        let left = match self.replier.asker(&asked.ticket) {
            Asker::Waits => false,
            Asker::Ended => asked.at.elapsed() >= LEAVES_AFTER,
            Asker::Gone => true,
        };
        left.then_some("whoever asked for it has gone")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::mpsc;

    use super::*;
    use crate::http::{Limits, Listener, Request, Served, Server, Service, Stop};
    use crate::parking::{Hold, Scope};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// `/<shard>/<key>` parks a key, `//<key>` in all shards; and the answer is the key.
    struct Desk(Lines);

    impl Service for Desk {
        fn serve(&mut self, request: &Request<'_>, ticket: Ticket) -> Served {
            let [shard, key] = [0, 1].map(|n| request.segments().nth(n).expect("two parts").into_owned());
            let hold = Hold { topic: "t".to_owned(), scope: Scope::Key, value: key.into_bytes() };
            let shard = (!shard.is_empty()).then_some(shard);
            match self.0.put(ticket, Action::Park(hold, shard)) {
                Ok(()) => Served::Later,
                Err(response) => Served::Now(response),
            }
        }
    }

    /// Shards `a` and `b`. What is begun is said; a key that begins with "slow" takes until it is told to end.
    struct Setup {
        address: SocketAddr,
        begun: mpsc::Receiver<String>,
        end: crossbeam_channel::Sender<()>,
        over: Arc<AtomicBool>,
        stop: Stop,
        thread: std::thread::JoinHandle<()>,
    }

    impl Setup {
        fn new() -> Setup {
            let (begins, begun) = mpsc::channel();
            let (end, ends) = crossbeam_channel::unbounded();
            let run = move |action: &Action| {
                let Action::Park(hold, _) = action else { panic!("{action:?}") };
                let key = String::from_utf8(hold.value.clone()).expect("text");
                let is_slow = key.starts_with("slow");
                begins.send(key.clone()).expect("the test listens");
                if is_slow {
                    ends.recv_timeout(PATIENCE).expect("it is told to end");
                }
                Response::text(Status::OK, key)
            };
            let over = Arc::new(AtomicBool::new(false));
            let listener = Listener::tcp(([127, 0, 0, 1], 0).into(), false).expect("a port");
            let address = listener.local_addr().expect("an address");
            let is_over = Arc::clone(&over);
            let desk = |replier| Desk(Lines::new(vec!["a".into(), "b".into()], Box::new(run), replier, is_over));
            let mut server = Server::new(vec![listener], Limits::default(), desk).expect("a server");
            let stop = server.stopper();
            let thread = std::thread::spawn(move || drop(server.run()));
            Setup { address, begun, end, over, stop, thread }
        }

        fn ask(&self, path: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("it reads");
            stream
        }

        fn begins(&self, key: &str) {
            assert_eq!(self.begun.recv_timeout(PATIENCE).as_deref(), Ok(key));
        }

        fn stop(self) {
            self.stop.stop();
            self.thread.join().expect("it does not panic");
            assert!(self.begun.recv().is_err(), "and no thread of it is left");
        }
    }

    #[track_caller]
    fn check(mut stream: TcpStream, status: u16, says: &str) {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says), "{answer}");
    }

    #[test]
    fn a_shard_that_hangs_holds_up_its_own_orders_only() {
        let setup = Setup::new();
        let slow = setup.ask("/a/slow");
        setup.begins("slow");
        let behind = setup.ask("/a/behind");
        check(setup.ask("/b/other"), 200, "other");
        check(setup.ask("//all"), 200, "all");
        check(setup.ask("/c/unknown"), 422, "no shard \\\"c\\\"; expected one of a, b");
        setup.begins("other");
        setup.begins("all");
        setup.end.send(()).expect("it waits");
        check(slow, 200, "slow");
        check(behind, 200, "behind");
        setup.begins("behind");
        setup.stop();
    }

    #[test]
    fn what_nobody_waits_for_is_not_begun() {
        let setup = Setup::new();
        let (slow, left) = (setup.ask("/a/slow"), setup.ask("/a/left"));
        setup.begins("slow");
        let last = setup.ask("/a/last");
        let asked_at = Instant::now();
        drop(left);
        // This one has been read after the end of that one.
        check(setup.ask("/b/other"), 200, "other");
        setup.begins("other");
        while asked_at.elapsed() < LEAVES_AFTER {
            std::thread::sleep(Duration::from_millis(10));
        }
        setup.end.send(()).expect("it waits");
        check(slow, 200, "slow");
        check(last, 200, "last");
        setup.begins("last");
        setup.stop();
    }

    #[test]
    fn nothing_is_begun_at_the_end() {
        let setup = Setup::new();
        let slow = setup.ask("/a/slow");
        setup.begins("slow");
        let behind = setup.ask("/a/behind");
        // Both are read: this one came later.
        check(setup.ask("/b/other"), 200, "other");
        setup.begins("other");
        setup.over.store(true, Ordering::SeqCst);
        setup.end.send(()).expect("it waits");
        check(slow, 200, "slow");
        check(behind, 503, "nothing was begun: forebay ends");
        setup.stop();
    }
}
