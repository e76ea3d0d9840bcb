//! The built-in generator: at full speed over many connections, or by the clock.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Threads of clients: few, so that they take little of the CPU that they share.
const CLIENTS: usize = 2;

/// A request with a body of about 300 bytes.
fn request(app: usize, id: u64) -> Vec<u8> {
    let body = format!("{{\"state\":\"s{id}\",\"note\":\"{}\"}}", "x".repeat(270));
    let length = body.len();
    format!(
        "PUT /apps/app{app}/rows/{} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        id % 1000
    )
    .into_bytes()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("an option");
    stream
}

/// Reads one answer, which has to be an acceptance.
fn answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut length = 0;
    loop {
        let read = stream.read(&mut buffer[length..]).expect("an answer");
        assert!(read > 0, "the server closed");
        length += read;
        let text = std::str::from_utf8(&buffer[..length]).expect("text");
        assert!(text.starts_with("HTTP/1.1 202"), "{text}");
        // Its body ends with it.
        if text.ends_with('}') {
            return;
        }
    }
}

/// Each connection sends when it was answered; how many answers there were.
pub fn load(address: SocketAddr, connections: usize, time: Duration) -> u64 {
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = CLIENTS.min(connections);
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            thread::spawn(move || {
                let mut streams: Vec<TcpStream> = (0..connections / clients).map(|_| connect(address)).collect();
                let mut buffer = vec![0; 64 << 10];
                let mut n = 0;
                while !over.load(Ordering::Relaxed) {
                    for (app, stream) in streams.iter_mut().enumerate() {
                        stream.write_all(&request(client * 100_000 + app, n)).expect("the server takes it");
                    }
                    for stream in &mut streams {
                        answer(stream, &mut buffer);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    n += 1;
                }
            })
        })
        .collect();
    thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    answered.load(Ordering::Relaxed)
}

/// An open loop: whoever is late does not move the times at which the next ones should be sent, and nobody waits for an answer before
/// sending. In µs from those times.
pub fn paced(address: SocketAddr, connections: usize, rate: f64, time: Duration) -> Histogram<u64> {
    let interval = Duration::from_secs_f64(connections as f64 / rate);
    let start = Instant::now() + Duration::from_millis(200);
    let threads: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || {
                let mine = (client..connections).step_by(CLIENTS);
                let mut clients: Vec<Paced> = mine
                    .map(|number| {
                        Paced::new(address, number, start + interval.mul_f64(number as f64 / connections as f64))
                    })
                    .collect();
                let mut found = histogram();
                while !clients.iter().all(|client| client.is_done(start + time)) {
                    let moved = clients
                        .iter_mut()
                        .fold(false, |moved, client| client.turn(start + time, interval, &mut found) | moved);
                    if !moved {
                        thread::sleep(PACE);
                    }
                }
                found
            })
        })
        .collect();
    let mut all = histogram();
    threads.into_iter().for_each(|thread| all.add(thread.join().expect("a client")).expect("the same range"));
    all
}

/// It looks so often what is due.
const PACE: Duration = Duration::from_micros(200);

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("a minute to three digits")
}

/// A connection that sends by the clock.
struct Paced {
    stream: TcpStream,
    number: usize,
    next: Instant,
    sent: u64,
    /// When those that are not answered should have been sent.
    due: VecDeque<Instant>,
    buffer: Vec<u8>,
}

impl Paced {
    fn new(address: SocketAddr, number: usize, next: Instant) -> Paced {
        let stream = connect(address);
        stream.set_nonblocking(true).expect("an option");
        Paced { stream, number, next, sent: 0, due: VecDeque::new(), buffer: vec![0; 64 << 10] }
    }

    fn is_done(&self, end: Instant) -> bool {
        self.next >= end && self.due.is_empty()
    }

    fn turn(&mut self, end: Instant, interval: Duration, found: &mut Histogram<u64>) -> bool {
        let mut moved = false;
        while self.next < end && self.next <= Instant::now() {
            // The server reads on as long as few are under way, and requests are small: it fits the socket's buffer.
            self.stream.write_all(&request(self.number, self.sent)).expect("the server takes it");
            self.due.push_back(self.next);
            self.next += interval;
            self.sent += 1;
            moved = true;
        }
        match self.stream.read(&mut self.buffer) {
            Ok(0) => panic!("the server closed"),
            Ok(length) => {
                assert!(!self.buffer[..length].windows(5).any(|five| five == b" 503 "), "it was refused");
                // Each answer ends with its body, which is a flat object.
                for _ in self.buffer[..length].iter().filter(|byte| **byte == b'}') {
                    let due = self.due.pop_front().expect("a request for each answer");
                    found.saturating_record(due.elapsed().as_micros() as u64);
                }
                moved = true;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        moved
    }
}
