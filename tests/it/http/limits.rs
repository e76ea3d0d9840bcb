//! What peers that do not behave get: deadlines and bounds.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use forebay::http::Limits;

use super::Running;
use super::client::{Client, DEADLINE};

const SHORT: Duration = Duration::from_millis(200);

/// Sends a byte every ten milliseconds, as long as nothing is answered; then says how long that took.
fn trickle(client: &mut Client, byte: &str) -> Duration {
    let start = Instant::now();
    client.read_timeout(Duration::from_millis(10));
    while start.elapsed() < DEADLINE {
        // Once the server has closed, sending may fail; the answer is there all the same.
        let _ = client.try_send(byte.as_bytes());
        let Client::Tcp(stream) = &*client else { unreachable!() };
        match stream.peek(&mut [0]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    client.read_timeout(DEADLINE);
    start.elapsed()
}

#[test]
fn a_slow_head_and_a_slow_body_end() {
    let server = Running::start(Limits { head_deadline: SHORT, body_deadline: SHORT, ..Limits::default() });
    let begins = [
        ("GET /echo HTTP/1.1\r\nHost: a\r\nX: ", "head"),
        ("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", "body"),
        ("PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", "body"),
    ];
    for (begin, what) in begins {
        let mut client = server.tcp();
        // It holds for later requests as well.
        client.get("/echo");
        client.answer();
        client.send(begin);
        let took = trickle(&mut client, "x");
        assert!((SHORT - Duration::from_millis(50)..DEADLINE).contains(&took), "{took:?}");
        let answer = client.answer();
        assert_eq!(answer.status, 408);
        assert!(answer.text().contains(what) && answer.ends(), "{}", answer.text());
        client.expect_gone();
    }
    let (_, counts) = server.stop();
    assert_eq!((counts.expired_reads, counts.refusals), (3, 3));
}

#[test]
fn who_asks_for_nothing_is_closed() {
    let server = Running::start(Limits { idle_deadline: SHORT, ..Limits::default() });
    let (mut silent, mut idle) = (server.tcp(), server.unix());
    idle.get("/echo");
    idle.answer();
    silent.expect_end();
    idle.expect_end();
    let (_, counts) = server.stop();
    assert_eq!((counts.expired_idle, counts.expired_reads, counts.refusals), (2, 0, 0));
}

#[test]
fn who_waits_for_a_deferred_answer_is_not_idle() {
    let server = Running::start(Limits { idle_deadline: SHORT, head_deadline: SHORT, ..Limits::default() });
    let (mut client, mut witness) = (server.tcp(), server.tcp());
    client.get("/later/a");
    let ticket = server.ticket("a");
    // This one is closed when the other one would have been, too.
    witness.expect_end();
    let mut second = server.tcp();
    second.expect_end();
    server.answer(ticket, "a");
    assert_eq!(client.answer().text(), "a");
    drop(client);
    server.stop();
}

#[test]
fn an_answer_that_never_comes_is_given_up() {
    let server = Running::start(Limits { answer_deadline: SHORT, ..Limits::default() });
    let mut client = server.tcp();
    client.get("/later/a");
    client.get("/echo");
    let ticket = server.ticket("a");
    let answer = client.answer();
    assert_eq!(answer.status, 504);
    assert!(!answer.ends());
    assert_eq!(client.answer().status, 200, "the connection goes on");
    server.answer(ticket, "too late");
    client.get("/big/3");
    assert_eq!(client.answer().text(), "xxx");
    drop(client);
    let (_, counts) = server.stop();
    assert_eq!((counts.expired_answers, counts.late_answers), (1, 1));
}

#[test]
fn who_does_not_read_is_not_read_from_and_then_cut() {
    let server = Running::start(Limits { write_deadline: Duration::from_secs(1), ..Limits::default() });
    let mut rude = server.tcp();
    rude.write_timeout(Duration::from_millis(100));
    let requests = "GET /big/100000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let mut asked = 0;
    // What the kernel's buffers hold is some megabytes; without a bound the server would take requests without end.
    while rude.try_send(requests.as_bytes()).is_ok() {
        asked += 100;
        assert!(asked < 5_000_000, "the server stops reading");
    }
    let mut other = server.tcp();
    other.get("/echo");
    assert_eq!(other.answer().status, 200);
    // Reading would be something else; but once it is cut, sending fails otherwise than for lack of room.
    let start = Instant::now();
    loop {
        let full = |error: std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        if !rude.try_send(b"x").map_or_else(full, |()| true) {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "it is cut");
    }
    let (_, counts) = server.stop();
    assert_eq!(counts.expired_writes, 1);
    assert!(counts.requests < 1000, "{} of {asked} requests were served", counts.requests);
}

#[test]
fn who_reads_late_gets_all() {
    let server = Running::start(Limits::default());
    let mut client = server.tcp();
    let requests = "GET /big/100000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
    client.send(requests);
    for _ in 0..200 {
        assert_eq!(client.answer().body.len(), 100_000);
    }
    drop(client);
    server.stop();
}

#[test]
fn a_busy_connection_leaves_the_others_their_turns() {
    let server = Running::start(Limits::default());
    let mut busy = [server.tcp(), server.unix()];
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in &mut busy {
            scope.spawn(|| {
                let requests = "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n".repeat(30);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    client.send(&requests);
                    (0..30).for_each(|_| assert_eq!(client.answer().status, 200));
                }
            });
        }
        for _ in 0..50 {
            let mut other = server.tcp();
            other.get("/echo");
            assert_eq!(other.answer().status, 200);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(busy);
    server.stop();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Running::start(Limits {
        connections_max: 2,
        drain_deadline: SHORT,
        linger_deadline: SHORT,
        ..Limits::default()
    });
    let (mut first, mut second) = (server.tcp(), server.unix());
    // These wait for something, and so are in nobody's way.
    let mut busy = Vec::new();
    for client in [&mut first, &mut second] {
        client.get("/later/a");
        busy.push(server.ticket("a"));
    }
    let mut third = server.tcp();
    third.get("/echo");
    let answer = third.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.ends() && answer.head.contains("\r\nRetry-After: 1\r\n"), "{}", answer.head);
    third.expect_end();
    // One that says nothing is not waited for.
    server.tcp().expect_end();
    drop(third);
    server.answer(busy.remove(0), "a");
    assert_eq!(first.answer().text(), "a");
    drop(first);
    // Until the server has seen that they are gone.
    let start = Instant::now();
    loop {
        let mut next = server.tcp();
        next.get("/echo");
        if next.answer().status == 200 {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "a place is free again");
    }
    drop(second);
    let (_, counts) = server.stop();
    assert!(counts.surplus >= 2);
}

#[test]
fn who_asks_for_nothing_makes_room() {
    let server = Running::start(Limits { connections_max: 8, ..Limits::default() });
    let mut idle: Vec<Client> = Vec::new();
    for _ in 0..8 {
        let mut client = server.tcp();
        client.get("/echo");
        assert_eq!(client.answer().status, 200);
        idle.push(client);
    }
    let mut others = [server.unix(), server.tcp(), server.tcp()];
    for client in &mut others {
        client.get("/echo");
        assert_eq!(client.answer().status, 200);
    }
    // One of eight places is the other door's own, so that the eighth of these took the first one's.
    for client in &mut idle[..3] {
        client.expect_end();
    }
    idle[7].get("/echo");
    assert_eq!(idle[7].answer().status, 200, "it has not been idle for so long");
    drop((idle, others));
    let (_, counts) = server.stop();
    assert_eq!((counts.displaced, counts.surplus), (3, 0));
}

#[test]
fn a_crowd_at_one_door_leaves_the_others_open() {
    let server = Running::start(Limits {
        connections_max: 8,
        drain_deadline: SHORT,
        linger_deadline: SHORT,
        ..Limits::default()
    });
    let mut crowd: Vec<Client> = (0..7).map(|_| server.tcp()).collect();
    let tickets: Vec<_> = crowd
        .iter_mut()
        .map(|client| {
            client.get("/later/a");
            server.ticket("a")
        })
        .collect();
    let (mut one_more, mut other) = (server.tcp(), server.unix());
    one_more.get("/echo");
    assert_eq!(one_more.answer().status, 503);
    other.get("/echo");
    assert_eq!(other.answer().status, 200);
    drop((crowd, one_more, other, tickets));
    server.stop();
}

/// Ten megabytes for each of those who do not read, who may hold fifty together.
#[test]
fn answers_that_nobody_takes_hold_no_more_than_they_may() {
    let server = Running::start(Limits { all_unsent_bytes_max: 50 << 20, ..Limits::default() });
    let mut rude: Vec<Client> = Vec::new();
    let mut other = server.tcp();
    for _ in 0..10 {
        let mut client = server.tcp();
        client.get(&format!("/big/{}", 10 << 20));
        // It has its answer before the next one asks.
        let Client::Tcp(stream) = &client else { unreachable!() };
        assert_eq!(stream.peek(&mut [0; 9]).unwrap(), 9);
        rude.push(client);
        other.get("/big/100000");
        assert_eq!(other.answer().body.len(), 100_000);
    }
    // Who came last still gets all.
    assert_eq!(rude[9].answer().body.len(), 10 << 20);
    let whole = |client: &mut Client| {
        let mut bytes = vec![0; 1 << 20];
        let mut read = 0;
        loop {
            match client.read(&mut bytes) {
                Ok(0) | Err(_) => return false,
                Ok(length) => read += length,
            }
            if read > 10 << 20 {
                return true;
            }
        }
    };
    assert!(!whole(&mut rude[0]), "who came first was cut");
    drop((rude, other));
    let (_, counts) = server.stop();
    assert!((5..10).contains(&counts.relieved), "{counts:?}");
}

#[test]
fn unfinished_requests_hold_no_more_than_they_may() {
    let limits = Limits { head_bytes_max: 1 << 10, body_bytes_max: 100 << 10, ..Limits::default() };
    let server = Running::start(Limits { buffered_bytes_max: 400 << 10, ..limits });
    let request =
        format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}", 90 << 10, "x".repeat(90 << 10));
    let (begin, end) = request.split_at(request.len() - 1);
    // Each takes 128 KiB: there is room for two, and a quarter for small ones.
    let mut clients: Vec<Client> = (0..3).map(|_| server.tcp()).collect();
    let mut refused = 0;
    for client in &mut clients {
        // Whoever is refused may see that while it sends.
        let _ = client.try_send(begin.as_bytes());
        // An answer comes to who is refused only; another one's answer comes when the server has read all of this.
        let mut other = server.unix();
        other.get("/echo");
        assert_ne!(other.answer().status, 503, "it is small");
    }
    for client in &mut clients {
        let _ = client.try_send(end.as_bytes());
        match client.answer() {
            answer if answer.status == 503 => refused += 1,
            answer => assert_eq!(answer.body.len(), 90 << 10),
        }
    }
    assert!(refused > 0, "three are too many");
    drop(clients);
    let mut next = server.tcp();
    next.send(request);
    assert_eq!(next.answer().body.len(), 90 << 10, "what was held is free again");
    drop(next);
    server.stop();
}

/// Whoever sends more than the server takes still gets to read why: a close with unread bytes would take the answer away.
#[test]
fn who_sends_too_much_can_read_why() {
    let server = Running::start(Limits::default());
    let too_much = [
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(1 << 20)), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100)), 431),
        (format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}", 2 << 20, "x".repeat(2 << 20)), 413),
        (format!("PUT /closed HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)), 403),
    ];
    for (request, status) in too_much {
        let mut client = server.tcp();
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.ends());
        client.expect_end();
    }
    server.stop();
}
