//! A connection whose peer is a list of what it sends, and a service that notes what it is asked.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::http::buffer::Pool;
use crate::http::connection::{Connection, Context, Turn};
use crate::http::reply::Key;
use crate::http::stream::Carrier;
use crate::http::{Counts, Limits, Peer, Request, Response, Served, Service, Status, Ticket};

/// What was understood of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub method: String,
    pub target: String,
    pub path: String,
    pub http11: bool,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// What came of what a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub messages: Vec<Message>,
    /// The refusal, if it ended with one: a status and a reason.
    pub refused: Option<(u16, String)>,
}

/// Bounds that are small enough to be met.
pub fn limits() -> Limits {
    Limits { head_bytes_max: 400, headers_max: 8, body_bytes_max: 100, in_flight_max: 4, ..Limits::default() }
}

/// Sends `pieces`, each in one read, and then the end. Every second answer is deferred, and deferred ones are given last one first.
pub fn run(pieces: &[&[u8]]) -> Outcome {
    let limits = limits();
    let mut peer = Session::new(&limits);
    for piece in pieces {
        peer.send(piece);
    }
    peer.end();
    assert!(
        peer.closed,
        "the connection is closed at the end: {:?}",
        String::from_utf8_lossy(&peer.connection.carrier().sent)
    );
    assert_eq!((peer.pool.held_bytes(), peer.pool.unsent_bytes()), (0, 0), "and holds nothing");
    let sent = std::mem::take(&mut peer.connection.carrier().sent);
    let refused = answers(&sent, peer.service.messages.len());
    Outcome { messages: peer.service.messages, refused }
}

pub struct Session<'a> {
    limits: &'a Limits,
    connection: Connection<Script>,
    service: Recorder,
    pool: Pool,
    counts: Counts,
    /// When a turn is to end, and by which clock.
    pub until: Instant,
    pub clock: fn() -> Instant,
    pub closed: bool,
}

impl Session<'_> {
    pub fn new(limits: &Limits) -> Session<'_> {
        let connection = Connection::new(Script::default(), Key::new(0), Peer::Unix, false, Instant::now());
        let (service, pool, counts) = (Recorder::default(), Pool::new(limits.buffered_bytes_max), Counts::default());
        // No turn ends for lack of time.
        let now = Instant::now();
        let (until, clock) = (now + Duration::from_secs(3600), Instant::now as fn() -> Instant);
        Session { limits, connection, service, pool, counts, until, clock, closed: false }
    }

    fn send(&mut self, piece: &[u8]) {
        self.connection.carrier().incoming.push_back(piece.to_vec());
        self.connection.notice(true, true, false);
        self.turns();
    }

    fn end(&mut self) {
        self.connection.carrier().ended = true;
        self.connection.notice(true, true, true);
        self.turns();
    }

    /// Sends it so fast that there is word of all of it and of the end at once.
    pub fn send_all_and_end(&mut self, bytes: &[u8]) {
        self.connection.carrier().incoming.push_back(bytes.to_vec());
        self.end();
    }

    /// One turn, with much to read: what it says, and how many requests it served.
    pub fn turn_with(&mut self, bytes: &[u8], times: usize) -> (Turn, usize) {
        if !bytes.is_empty() {
            self.connection.carrier().incoming.push_back(bytes.repeat(times));
        }
        self.connection.notice(true, true, false);
        (self.turn(), self.service.messages.len())
    }

    /// One turn, with this to read, of a service that defers nothing and a peer that takes all at once.
    pub fn turn_answered(&mut self, bytes: &[u8]) -> (Turn, usize) {
        self.service.defers_nothing = true;
        self.connection.carrier().writes = 1 << 20;
        self.turn_with(bytes, 1)
    }

    fn turn(&mut self) -> Turn {
        self.connection.turn(&mut Context {
            service: &mut self.service,
            limits: self.limits,
            pool: &mut self.pool,
            counts: &mut self.counts,
            now: Instant::now(),
            until: self.until,
            clock: self.clock,
            date: "D",
        })
    }

    /// Turns until there is nothing to do, and answers to what was deferred meanwhile.
    fn turns(&mut self) {
        let waiting = self.connection.carrier().incoming.iter().map(Vec::len).sum::<usize>();
        let enough = 100 + waiting;
        for _ in 0..enough {
            if self.closed {
                return;
            }
            match self.turn() {
                Turn::Again => {}
                Turn::Close => self.closed = true,
                Turn::Wait if self.service.deferred.is_empty() => return,
                Turn::Wait => {
                    for (ticket, number) in self.service.deferred.drain(..).rev() {
                        assert!(self.connection.answer(ticket.number, numbered(number)), "it was waited for");
                    }
                }
            }
        }
        panic!("no end of turns");
    }
}

/// Notes what it is asked, and answers with the number of the request.
#[derive(Default)]
struct Recorder {
    messages: Vec<Message>,
    deferred: Vec<(Ticket, usize)>,
    defers_nothing: bool,
}

impl Service for Recorder {
    fn serve(&mut self, request: &Request<'_>, ticket: Ticket) -> Served {
        let number = self.messages.len();
        self.messages.push(Message {
            method: request.method().into(),
            target: request.target().into(),
            path: request.path().into(),
            http11: request.version() == crate::http::Version::Http11,
            headers: request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: request.body().into(),
        });
        // These must not fail on what was let through.
        let _ = request.segments().count() + request.query_pairs().count();
        if self.defers_nothing || number.is_multiple_of(2) {
            return Served::Now(numbered(number));
        }
        self.deferred.push((ticket, number));
        Served::Later
    }
}

fn numbered(number: usize) -> Response {
    Response::text(Status::OK, format!("answer {number}"))
}

/// Reads answers strictly: `count` numbered ones in order, each in front of its body's end, and perhaps a refusal.
fn answers(mut sent: &[u8], count: usize) -> Option<(u16, String)> {
    let (mut number, mut last) = (0, false);
    while !sent.is_empty() {
        assert!(!last, "something follows the answer that is the last one");
        if let Some(rest) = sent.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n") {
            sent = rest;
            continue;
        }
        let end = sent.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head") + 4;
        let head = std::str::from_utf8(&sent[..end]).expect("a head is text");
        let length: usize =
            head.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let status: u16 = head[9..12].parse().unwrap();
        last = head.contains("Connection: close\r\n");
        let body = &sent[end..];
        if status != 200 {
            assert_eq!(number, count, "a refusal comes behind all answers");
            // The request may have been one for a head only.
            let shown = body.len().min(length);
            assert_eq!(body.len(), shown);
            assert!(last, "a refusal is the last answer");
            return Some((status, String::from_utf8_lossy(body).trim_end().to_owned()));
        }
        let expected = format!("answer {number}");
        assert_eq!(length, expected.len());
        number += 1;
        sent = match body.strip_prefix(expected.as_bytes()) {
            Some(rest) => rest,
            None => body,
        };
    }
    assert_eq!(number, count, "each request is answered");
    None
}

#[derive(Default)]
struct Script {
    incoming: VecDeque<Vec<u8>>,
    ended: bool,
    sent: Vec<u8>,
    /// Writes are cut now and then.
    writes: usize,
    shut: bool,
}

impl Read for Script {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.incoming.front_mut() else {
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        };
        let length = piece.len().min(room.len());
        room[..length].copy_from_slice(&piece[..length]);
        piece.drain(..length);
        if piece.is_empty() {
            self.incoming.pop_front();
        }
        Ok(length)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.shut, "nothing is written behind the end");
        self.writes += 1;
        let length = bytes.len().min(7 * self.writes);
        self.sent.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Carrier for Script {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shut = true;
        Ok(())
    }
}
