//! What a request costs the HTTP server: one server thread, clients over loopback TCP in threads of their own. Prints requests per
//! second, and the CPU time of the server's thread for each (the kernel's part of it included). Needs no service.
//!
//! `cargo bench --bench http`

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::thread_cpu;
use forebay::http::{Limits, Listener, Replier, Request, Response, Served, Server, Service, Status, Ticket};

const ROUND: Duration = Duration::from_secs(2);

fn main() {
    let small = b"PUT /apps/17/subscriptions/4711 HTTP/1.1\r\nHost: ingest.example:8080\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\
        Content-Type: application/json\r\nContent-Length: 100\r\n\r\n";
    let small = [&small[..], &[b'x'; 100]].concat();
    let large = format!("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}", 1 << 20, "x".repeat(1 << 20))
        .into_bytes();
    for later in [false, true] {
        let how = if later { "answered by another thread" } else { "answered at once" };
        println!("{how}, a head of 170 bytes and a body of 100:");
        measure("1 connection, 1 request at a time", later, 1, 1, 0, &small);
        measure("64 connections, 1 request at a time", later, 64, 1, 0, &small);
        measure("64 connections beside 2000 idle ones", later, 64, 1, 2000, &small);
        measure("1 connection, 16 requests at a time", later, 1, 16, 0, &small);
        measure("16 connections, 16 requests at a time", later, 16, 16, 0, &small);
    }
    println!("answered at once, a body of 1 MiB:");
    measure("4 connections, 1 request at a time", false, 4, 1, 0, &large);
}

/// Says 202 to everything.
struct Accept {
    later: Option<crossbeam_channel::Sender<Ticket>>,
    bytes: usize,
}

impl Service for Accept {
    fn serve(&mut self, request: &Request<'_>, ticket: Ticket) -> Served {
        self.bytes += request.path().len() + request.body().len();
        match &self.later {
            Some(later) => {
                later.send(ticket).expect("somebody answers");
                Served::Later
            }
            None => Served::Now(Response::new(Status::ACCEPTED)),
        }
    }
}

fn measure(name: &str, later: bool, connections: usize, at_a_time: usize, idle: usize, request: &[u8]) {
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address"), false).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, tickets) = crossbeam_channel::unbounded::<Ticket>();
    let mut replier = None;
    let limits = Limits { connections_max: 10_000, ..Limits::default() };
    let mut server = Server::new(vec![listener], limits, |given: Replier| {
        replier = Some(given);
        Accept { later: later.then_some(sender), bytes: 0 }
    })
    .expect("a server");
    let replier = replier.expect("it was given");
    let stop = server.stopper();
    let server = std::thread::spawn(move || {
        server.run().expect("a poll");
        (thread_cpu(), server.counts().requests)
    });
    // Ends when the service, which has the other end, is gone.
    let answerer = std::thread::spawn(move || {
        tickets.iter().for_each(|ticket| replier.answer(ticket, Response::new(Status::ACCEPTED)));
    });
    let idle: Vec<TcpStream> = (0..idle).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    // Few threads, so that the clients take little of the CPU that they share with the server.
    let clients: Vec<_> = (0..connections.min(2))
        .map(|index| {
            let mine = connections / connections.min(2) + usize::from(index < connections % connections.min(2));
            let (over, answered, requests) = (Arc::clone(&over), Arc::clone(&answered), request.repeat(at_a_time));
            std::thread::spawn(move || load(address, mine, at_a_time, &requests, &over, &answered))
        })
        .collect();
    std::thread::sleep(ROUND);
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    let took = start.elapsed();
    stop.stop();
    drop(idle);
    let (cpu, requests) = server.join().expect("the server");
    answerer.join().expect("the answerer");
    assert_eq!(requests, answered.load(Ordering::Relaxed), "all are answered");
    let (rate, each) = (requests as f64 / took.as_secs_f64(), cpu.as_nanos() as f64 / requests as f64 / 1000.0);
    let share = cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
    println!("  {name:40} {rate:9.0} requests/s, {each:7.2} µs of CPU each, {share:3.0} % of a core");
}

/// Sends on all connections, then reads all answers, and again.
fn load(
    address: SocketAddr,
    connections: usize,
    at_a_time: usize,
    requests: &[u8],
    over: &AtomicBool,
    answered: &AtomicU64,
) {
    let connect = |_| {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..connections).map(connect).collect();
    let mut buffer = vec![0; 64 << 10];
    while !over.load(Ordering::Relaxed) {
        for stream in &mut streams {
            stream.write_all(requests).expect("the server takes it");
        }
        for stream in &mut streams {
            let mut seen = 0;
            while seen < at_a_time {
                let length = stream.read(&mut buffer).expect("an answer");
                assert!(length > 0, "the server closed");
                // Each answer is a head that ends with an empty line; heads that are cut end in the next read, if not between
                // its bytes, which short answers on loopback are not.
                seen += buffer[..length].windows(4).filter(|four| four == b"\r\n\r\n").count();
            }
            answered.fetch_add(at_a_time as u64, Ordering::Relaxed);
        }
    }
}
