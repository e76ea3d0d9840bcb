//! What peers that behave get.

use std::time::{Duration, Instant};

use forebay::http::{Asker, Limits, Listener, Replier, Request, Response, Served, Server, Service, Status, Ticket};

use super::Running;
use super::client::{Client, DEADLINE};

#[test]
fn one_connection_carries_many_requests() {
    let server = Running::start(Limits::default());
    for mut client in [server.tcp(), server.unix()] {
        for round in 0..3 {
            client.send(format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nround {round}"));
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, format!("round {round}")));
            assert!(!answer.ends());
        }
        client.send("HEAD /big/1000 HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer_to("HEAD");
        assert!(answer.head.contains("Content-Length: 1000\r\n"), "{}", answer.head);
        client.get("/nothing%20here");
        let answer = client.answer();
        assert_eq!(answer.status, 404);
        assert!(answer.text().contains("/nothing here"), "{}", answer.text());
        client.send("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert!(client.answer().head.contains("\r\nConnection: keep-alive\r\n"));
        client.send("GET /echo HTTP/1.0\r\n\r\n");
        assert!(client.answer().ends());
        client.expect_end();
    }
    let (drained, counts) = server.stop();
    assert_eq!((drained.cut, counts.requests, counts.refusals, counts.accepted), (0, 14, 0, 2));
}

#[test]
fn who_asks_is_known() {
    let server = Running::start(Limits::default());
    let (mut tcp, mut unix) = (server.tcp(), server.unix());
    tcp.get("/peer");
    unix.get("/peer");
    let Client::Tcp(stream) = &tcp else { unreachable!() };
    let address = stream.local_addr().unwrap().to_string();
    assert_eq!(tcp.answer().text(), address);
    assert_eq!(unix.answer().text(), "a Unix-domain socket");
    drop((tcp, unix));
    server.stop();
}

#[test]
fn deferred_answers_go_out_in_the_order_of_the_requests() {
    let server = Running::start(Limits::default());
    let mut client = server.tcp();
    let paths = ["/later/a", "/echo", "/later/b", "/later/c", "/big/5"];
    let requests = paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).concat();
    client.send(requests);
    let (a, b, c) = (server.ticket("a"), server.ticket("b"), server.ticket("c"));
    server.answer(c, "c");
    server.answer(a, "a");
    assert_eq!(client.answer().text(), "a");
    assert_eq!(client.answer().text(), "");
    server.answer(b, "b");
    assert_eq!(client.answer().text(), "b");
    assert_eq!(client.answer().text(), "c");
    assert_eq!(client.answer().text(), "xxxxx");
    drop(client);
    let (_, counts) = server.stop();
    assert_eq!((counts.deferred, counts.late_answers), (3, 0));
}

/// The server looks around four times a second by itself; an answer from another thread does not wait for that.
#[test]
fn a_deferred_answer_wakes_the_server() {
    let server = Running::start(Limits::default());
    let mut client = server.tcp();
    let start = Instant::now();
    for _ in 0..100 {
        client.get("/later/a");
        let ticket = server.ticket("a");
        server.answer(ticket, "a");
        assert_eq!(client.answer().text(), "a");
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(client);
    server.stop();
}

#[test]
fn more_requests_than_may_be_in_flight_wait_unread() {
    let server = Running::start(Limits { in_flight_max: 2, ..Limits::default() });
    let mut client = server.tcp();
    client.send((0..5).map(|n| format!("GET /later/{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect::<String>());
    let mut tickets = vec![server.ticket("0"), server.ticket("1")];
    // Another connection's answer comes after the server has looked at all that was read of this one.
    let mut other = server.tcp();
    other.get("/echo");
    other.answer();
    assert!(server.deferred.try_recv().is_err(), "the third waits");
    for n in 0..5 {
        let ticket = tickets.remove(0);
        server.answer(ticket, &n.to_string());
        assert_eq!(client.answer().text(), n.to_string());
        if n + 2 < 5 {
            tickets.push(server.ticket(&(n + 2).to_string()));
        }
    }
    drop((client, other));
    server.stop();
}

#[test]
fn who_ends_its_side_gets_the_answers() {
    let server = Running::start(Limits::default());
    for mut client in [server.tcp(), server.unix()] {
        client.get("/later/a");
        client.get("/echo");
        client.end();
        let ticket = server.ticket("a");
        server.answer(ticket, "a");
        assert_eq!(client.answer().text(), "a");
        // Whether the last one says so depends on whether the end was read by then.
        assert_eq!(client.answer().status, 200);
        client.expect_end();
    }
    let mut client = server.tcp();
    client.send("GET /echo HTTP/1.1\r\nHo");
    client.end();
    let answer = client.answer();
    assert_eq!(answer.status, 400, "{}", answer.text());
    client.expect_end();
    server.stop();
}

#[test]
fn who_is_gone_is_not_answered_and_nobody_else_in_its_stead() {
    let server = Running::start(Limits::default());
    let mut client = server.tcp();
    client.get("/big/10");
    let Client::Tcp(stream) = &client else { unreachable!() };
    assert_eq!(stream.peek(&mut [0; 9]).unwrap(), 9, "the answer is there");
    client.get("/later/a");
    let ticket = server.ticket("a");
    let mut half = server.tcp();
    half.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf of it");
    // With an answer that was not read the close is a reset, which needs no time to arrive here.
    drop(client);
    drop(half);
    let mut next = server.tcp();
    next.get("/echo");
    assert_eq!(next.answer().text(), "");
    server.answer(ticket, "a");
    next.get("/big/3");
    assert_eq!(next.answer().text(), "xxx");
    drop(next);
    let (_, counts) = server.stop();
    assert_eq!(counts.late_answers, 1);
}

/// What takes long need not be begun for somebody who has gone.
#[test]
fn who_asked_is_known_to_wait_or_not() {
    let server = Running::start(Limits { answer_deadline: Duration::from_secs(1), ..Limits::default() });
    let (mut stays, mut leaves, mut cut) = (server.tcp(), server.tcp(), server.tcp());
    stays.get("/later/a");
    let waits = server.ticket("a");
    assert_eq!(server.replier.asker(&waits), Asker::Waits);
    leaves.get("/later/b");
    let ended = server.ticket("b");
    leaves.end();
    let start = Instant::now();
    while server.replier.asker(&ended) == Asker::Waits {
        assert!(start.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
    assert_eq!(server.replier.asker(&ended), Asker::Ended);
    server.answer(ended, "b");
    assert_eq!(leaves.answer().text(), "b", "it still reads");
    // After the answer the connection ends, and a ticket of it is nobody's.
    cut.send("GET /later/c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let late = server.ticket("c");
    assert_eq!(cut.answer().status, 504);
    assert_eq!(server.replier.asker(&late), Asker::Gone);
    assert_eq!(server.replier.asker(&waits), Asker::Gone, "it was answered, too");
    drop((stays, leaves, cut));
    server.stop();
}

#[test]
fn a_body_may_be_asked_for_first() {
    let server = Running::start(Limits::default());
    let mut client = server.tcp();
    let head = |path: &str, expectation: &str| {
        format!("PUT {path} HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\nContent-Length: 5\r\n\r\n")
    };
    client.send(head("/echo", "100-continue"));
    assert_eq!(client.answer().status, 100);
    client.send("hello");
    assert_eq!(client.answer().text(), "hello");
    // Not before the answers to what was asked before.
    client.get("/later/a");
    client.send(head("/echo", "100-continue"));
    let ticket = server.ticket("a");
    server.answer(ticket, "a");
    assert_eq!(client.answer().text(), "a");
    assert_eq!(client.answer().status, 100);
    client.send("again");
    assert_eq!(client.answer().text(), "again");
    // What the service does not want is not read.
    client.send(head("/closed", "100-continue"));
    let answer = client.answer();
    assert_eq!(answer.status, 403);
    assert!(answer.ends());
    client.expect_end();
    let mut client = server.tcp();
    client.send(head("/echo", "200-ok"));
    assert_eq!(client.answer().status, 417);
    client.expect_end();
    drop(client);
    server.stop();
}

#[test]
fn a_megabyte_comes_and_goes() {
    let server = Running::start(Limits::default());
    let body: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let mut client = server.tcp();
    for round in 0..2 {
        client.send(format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
        client.send(&body);
        assert!(client.answer().body == body, "round {round}");
        client.send("PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(10_007) {
            client.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
        assert!(client.answer().body == body, "round {round}");
    }
    drop(client);
    server.stop();
}

/// One port, two servers: the kernel gives some connections to each.
#[test]
fn servers_share_a_port() {
    struct Name(&'static str);
    impl Service for Name {
        fn serve(&mut self, _: &Request<'_>, _: Ticket) -> Served {
            Served::Now(Response::text(Status::OK, self.0))
        }
    }
    let mut address = "127.0.0.1:0".parse().unwrap();
    let mut running = Vec::new();
    for name in ["one", "other"] {
        let listener = Listener::tcp(address, true).unwrap();
        address = listener.local_addr().unwrap();
        let mut server = Server::new(vec![listener], Limits::default(), |_: Replier| Name(name)).unwrap();
        running.push((server.stopper(), std::thread::spawn(move || server.run().unwrap())));
    }
    let (mut one, mut other) = (0, 0);
    // All to one of them, by chance: once in 2^99.
    for _ in 0..100 {
        let mut client = Client::tcp(address);
        client.get("/");
        match client.answer().text().as_str() {
            "one" => one += 1,
            _ => other += 1,
        }
    }
    assert!(one > 0 && other > 0, "{one} and {other}");
    for (stop, thread) in running {
        stop.stop();
        thread.join().unwrap();
    }
}
