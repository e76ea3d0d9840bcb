//! A way to a service that misbehaves when told to: a TCP forwarder that drops connections at the moment an answer comes back
//! (the service has done what was asked, and nobody hears of it), loses the answer to what holds certain bytes, cuts a request in
//! its middle, delays, or swallows everything while its kernel goes on acknowledging.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// What it does to what passes. Zeroes and nothing at all: everything passes as it is.
#[derive(Default)]
struct Faults {
    /// How many answers pass, on average, before one is lost.
    lose_one_in: AtomicU32,
    /// How many requests pass, on average, before one is cut.
    cut_one_in: AtomicU32,
    /// The answer to a request that holds these bytes is lost, as often as is left.
    lose_answer_to: Mutex<Option<(Vec<u8>, u32)>>,
    delay_ms: AtomicU64,
    /// Nothing passes, in neither direction, on the connections that are there then.
    swallow: AtomicBool,
    lost: AtomicU32,
    cut: AtomicU32,
    swallowed: AtomicU32,
    over: AtomicBool,
}

/// What becomes of some bytes.
enum Fate {
    Pass,
    /// They are gone, and so is the connection.
    Lose,
    /// Half of them pass, and the connection is gone.
    Cut,
    /// They are gone, and nobody is told.
    Swallow,
}

/// Forwards connections until it is dropped.
pub struct Proxy {
    port: u16,
    faults: Arc<Faults>,
}

impl Proxy {
    /// To a port of this machine.
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("its address").port();
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    forward(client, server, &shared);
                }
            }
        });
        Proxy { port: own, faults }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The way through it to where `dsn` leads.
    pub fn dsn(&self, dsn: &str) -> String {
        // Not a second `port` behind the first: they would be two servers to choose from.
        let others: Vec<&str> = dsn.split_whitespace().filter(|word| !word.starts_with("port=")).collect();
        format!("{} port={}", others.join(" "), self.port)
    }

    /// From now on one answer in so many is lost, and its connection with it; 0 loses none.
    pub fn lose_one_in(&self, answers: u32) {
        self.faults.lose_one_in.store(answers, Ordering::SeqCst);
    }

    /// From now on one request in so many is cut in its middle, and its connection with it; 0 cuts none.
    pub fn cut_one_in(&self, requests: u32) {
        self.faults.cut_one_in.store(requests, Ordering::SeqCst);
    }

    /// Loses the next `times` answers to requests that hold `bytes`, and their connections with them.
    pub fn lose_answers_to(&self, bytes: &[u8], times: u32) {
        *self.faults.lose_answer_to.lock() = Some((bytes.to_vec(), times));
    }

    /// Everything takes so much longer, in either direction.
    pub fn delay(&self, by: Duration) {
        self.faults.delay_ms.store(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// Whether it swallows what passes. Connections that lost something never pass anything again.
    pub fn swallow(&self, everything: bool) {
        self.faults.swallow.store(everything, Ordering::SeqCst);
    }

    /// How many answers were lost so far.
    pub fn lost(&self) -> u32 {
        self.faults.lost.load(Ordering::SeqCst)
    }

    /// How many requests were cut so far.
    pub fn cut(&self) -> u32 {
        self.faults.cut.load(Ordering::SeqCst)
    }

    /// How often it swallowed something so far.
    pub fn swallowed(&self) -> u32 {
        self.faults.swallowed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.faults.over.store(true, Ordering::SeqCst);
        // Ends the wait for the next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Whether one in so many is meant.
fn hits(one_in: &AtomicU32) -> bool {
    let one_in = one_in.load(Ordering::SeqCst);
    one_in != 0 && fastrand::u32(..one_in) == 0
}

impl Faults {
    fn of_request(&self, bytes: &[u8], lose_answer: &AtomicBool) -> Fate {
        if self.swallow.load(Ordering::SeqCst) {
            return Fate::Swallow;
        }
        if let Some((wanted, left)) = &mut *self.lose_answer_to.lock()
            && *left > 0
            && bytes.windows(wanted.len()).any(|window| window == wanted)
        {
            *left -= 1;
            lose_answer.store(true, Ordering::SeqCst);
        }
        if hits(&self.cut_one_in) { Fate::Cut } else { Fate::Pass }
    }

    fn of_answer(&self, lose_answer: &AtomicBool) -> Fate {
        match self.swallow.load(Ordering::SeqCst) {
            true => Fate::Swallow,
            false if lose_answer.load(Ordering::SeqCst) || hits(&self.lose_one_in) => Fate::Lose,
            false => Fate::Pass,
        }
    }
}

fn forward(client: TcpStream, server: TcpStream, faults: &Arc<Faults>) {
    let (Ok(client_in), Ok(server_in)) = (client.try_clone(), server.try_clone()) else { return };
    let lose_answer = Arc::new(AtomicBool::new(false));
    let (shared, lose) = (Arc::clone(faults), Arc::clone(&lose_answer));
    thread::spawn(move || pump(client_in, server, &shared, |bytes| shared.of_request(bytes, &lose)));
    let shared = Arc::clone(faults);
    thread::spawn(move || pump(server_in, client, &shared, |_| shared.of_answer(&lose_answer)));
}

/// Copies until one side ends or fate says so; then both are closed.
fn pump(mut from: TcpStream, mut to: TcpStream, faults: &Faults, fate: impl Fn(&[u8]) -> Fate) {
    let mut buffer = vec![0; 64 * 1024];
    let mut swallows = false;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        thread::sleep(Duration::from_millis(faults.delay_ms.load(Ordering::SeqCst)));
        let bytes = &buffer[..read];
        let passed = match if swallows { Fate::Swallow } else { fate(bytes) } {
            Fate::Pass => to.write_all(bytes).is_ok(),
            Fate::Swallow => {
                swallows = true;
                faults.swallowed.fetch_add(1, Ordering::SeqCst);
                true
            }
            Fate::Lose => {
                faults.lost.fetch_add(1, Ordering::SeqCst);
                false
            }
            Fate::Cut => {
                faults.cut.fetch_add(1, Ordering::SeqCst);
                let _ = to.write_all(&bytes[..read / 2]);
                false
            }
        };
        if !passed {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
