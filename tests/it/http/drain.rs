//! How a server ends: no further request, no request without its answer.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay::http::Limits;

use super::Running;
use super::client::DEADLINE;

#[test]
fn requests_under_way_are_answered() {
    let server = Running::start(Limits::default());
    let (mut idle, mut deferred, mut half) = (server.tcp(), server.tcp(), server.unix());
    idle.get("/echo");
    idle.answer();
    deferred.get("/later/a");
    deferred.get("/later/b");
    let (a, b) = (server.ticket("a"), server.ticket("b"));
    half.send("PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    assert_eq!(half.answer().status, 100, "it was read");
    half.send("half ");
    server.stop.stop();
    idle.expect_end();
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens");
    half.send("a body");
    let answer = half.answer();
    assert_eq!(answer.text(), "half a bod");
    assert!(answer.ends());
    half.expect_end();
    server.answer(b, "b");
    server.answer(a, "a");
    let (first, last) = (deferred.answer(), deferred.answer());
    assert_eq!((first.text(), first.ends()), ("a".into(), false));
    assert_eq!((last.text(), last.ends()), ("b".into(), true));
    deferred.expect_end();
    drop((idle, deferred, half));
    let (drained, counts) = server.stop();
    assert_eq!((drained.cut, counts.requests, counts.refusals), (0, 4, 0));
}

/// Whoever keeps a connection, has just made one, or waits to be accepted, is answered once more, and hears that it is the last time.
#[test]
fn with_grace_one_more_request_is_answered() {
    let grace = Duration::from_secs(3);
    let server = Running::start(Limits { drain_grace: grace, ..Limits::default() });
    let (mut kept, mut idle) = (server.tcp(), server.tcp());
    kept.get("/echo");
    kept.answer();
    let start = Instant::now();
    let mut fresh: Vec<_> = (0..20).map(|_| server.tcp()).collect();
    server.stop.stop();
    while TcpStream::connect(server.address).is_ok() {
        assert!(start.elapsed() < DEADLINE, "somebody listens");
    }
    for client in fresh.iter_mut().chain([&mut kept]) {
        client.get("/echo");
        assert!(client.answer().ends());
        client.expect_end();
    }
    assert!(start.elapsed() < grace, "too slow to see anything");
    idle.expect_end();
    assert!((grace..DEADLINE).contains(&start.elapsed()), "{:?}", start.elapsed());
    drop((fresh, kept, idle));
    server.stop();
}

#[test]
fn not_longer_than_the_deadline() {
    let deadline = Duration::from_millis(300);
    let server = Running::start(Limits { drain_deadline: deadline, ..Limits::default() });
    let mut client = server.tcp();
    client.get("/later/never");
    let _ticket = server.ticket("never");
    let start = Instant::now();
    let (drained, _) = server.stop();
    assert!((deadline..DEADLINE).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(drained.cut, 1);
    client.expect_gone();
}

#[test]
fn an_answer_to_a_server_that_is_gone_is_dropped() {
    let server = Running::start(Limits { drain_deadline: Duration::ZERO, ..Limits::default() });
    let mut client = server.tcp();
    client.get("/later/a");
    let (ticket, replier) = (server.ticket("a"), server.replier.clone());
    server.stop();
    replier.answer(ticket, forebay::http::Response::new(forebay::http::Status::OK));
}
