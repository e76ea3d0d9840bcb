//! A request's way, on its listener's thread: who asks, which route, is it a record, is there room, and off to the producer. The answer comes
//! from the brokers by another thread, or here, when its deadline comes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rdkafka::producer::BaseProducer;
use xxhash_rust::xxh3::xxh3_64;

use crate::admin::token;
use crate::clock::unix_ms;
use crate::config::ingest::{Ingest, Method, Mode};
use crate::http::{self, Request, Response, Served, Service, Status, Ticket};
use crate::ingest::door::{Asked, Door};
use crate::ingest::paths::{Found, Paths};
use crate::ingest::problem::Problem;
use crate::ingest::producer::{Answers, Outgoing, Sender, send, undelivered};
use crate::ingest::queue::{Counts, Pending, Queue, Row, Waiting};
use crate::ingest::rules::Rules;
use crate::ingest::sync::{Job, Lines};
use crate::metrics::labelled::Refused;
use crate::state::chunk::Headers;

/// What all listeners share.
pub struct Shared {
    pub ingest: Ingest,
    pub paths: Paths,
    pub counts: Arc<Counts>,
    pub queue: Arc<Queue>,
    pub sender: Sender,
    pub lines: Lines,
    rules: Mutex<Arc<Rules>>,
    /// Rises with each change of the rules: a look at it is one load.
    version: AtomicU64,
    /// By listener: what its server counts.
    servers: Vec<Mutex<http::Counts>>,
}

impl Shared {
    pub fn new(
        ingest: &Ingest,
        counts: Arc<Counts>,
        queue: Arc<Queue>,
        sender: Sender,
        lines: Lines,
        rules: Rules,
    ) -> Shared {
        Shared {
            paths: Paths::new(&ingest.routes),
            counts,
            queue,
            sender,
            lines,
            rules: Mutex::new(Arc::new(rules)),
            version: AtomicU64::new(0),
            servers: (0..ingest.threads).map(|_| Mutex::default()).collect(),
            ingest: ingest.clone(),
        }
    }

    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.lock())
    }

    /// From the next request on.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.lock() = Arc::new(rules);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Of all servers together.
    pub fn servers(&self) -> http::Counts {
        let mut all = http::Counts::default();
        for server in &self.servers {
            let of = *server.lock();
            all.connections += of.connections;
            all.accepted += of.accepted;
            all.surplus += of.surplus;
            all.requests += of.requests;
            all.refusals += of.refusals;
        }
        all
    }
}

/// One listener's service.
pub struct Gateway {
    shared: Arc<Shared>,
    door: Door,
    version: u64,
    producer: Arc<BaseProducer<Answers>>,
    producer_version: u64,
    waiting: Waiting,
    /// Rows that wait for a connection, and rows that have one.
    for_connection: Waiting,
    writing: Waiting,
    /// Its number.
    listener: usize,
    headers: Vec<u8>,
}

impl Gateway {
    pub fn new(shared: Arc<Shared>, listener: usize) -> Gateway {
        Gateway {
            door: Door::new(shared.rules()),
            // Before it is looked at: at worst it is looked at twice.
            version: 0,
            producer: shared.sender.current(),
            producer_version: 0,
            waiting: Waiting::new(shared.ingest.deadline),
            for_connection: Waiting::new(shared.ingest.pool_wait.min(shared.ingest.deadline)),
            writing: Waiting::new(shared.ingest.deadline),
            listener,
            headers: Vec::new(),
            shared,
        }
    }

    /// What holds now.
    fn refresh(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.door = Door::new(self.shared.rules());
        }
        let version = self.shared.sender.version();
        if version != self.producer_version {
            self.producer_version = version;
            self.producer = self.shared.sender.current();
        }
    }

    fn answer(&mut self, request: &Request<'_>, ticket: Ticket) -> Result<(), Response> {
        let shared = Arc::clone(&self.shared);
        let (route, method, values) = let_in(&shared, request)?;
        self.refresh();
        let refuse = |problem: &Problem| shared.counts.refuse(Some(route), problem);
        self.pack(request);
        let now_ms = unix_ms();
        let asked = Asked { route, method, values: &values, body: request.body(), headers: &self.headers, now_ms };
        let rules = Arc::clone(self.door.rules());
        let passed = self.door.check(&asked).map_err(|problem| refuse(&problem))?;
        let bytes = passed.key.len() + passed.value.map_or(0, <[u8]>::len) + self.headers.len();
        let pending = |row, alone| Pending::new(ticket, route, bytes, self.listener, row, alone);
        if shared.ingest.routes[route].mode == Mode::Sync {
            // It has a line of its own, whatever becomes of the brokers.
            let row = Row(passed.shard, xxh3_64(passed.key));
            let pending = pending(Some(row), None);
            let job = Job {
                pending: Arc::clone(&pending),
                plan: passed.plan,
                key: passed.key.to_vec(),
                value: passed.value.map(<[u8]>::to_vec),
                headers: self.headers.clone(),
                now_ms,
            };
            shared.lines.put(row, job).map_err(|problem| refuse(&problem))?;
            self.for_connection.push(pending);
            return Ok(());
        }
        if !shared.queue.enter(bytes) {
            return Err(refuse(&full()));
        }
        let pending = pending(None, shared.queue.alone());
        let outgoing = Outgoing {
            topic: &rules.topics[passed.topic],
            partition: passed.partition,
            key: passed.key,
            value: passed.value,
            headers: &self.headers,
        };
        if let Err(code) = send(&self.producer, &outgoing, Arc::clone(&pending)) {
            shared.queue.leave(bytes);
            let full_of_its_own = code == rdkafka::types::RDKafkaErrorCode::QueueFull;
            return Err(refuse(&if full_of_its_own { full() } else { undelivered(code) }));
        }
        self.waiting.push(pending);
        Ok(())
    }

    fn expire(&self, pending: &Pending, ticket: Ticket, problem: &Problem) {
        let response = self.shared.counts.refuse(Some(pending.route), problem);
        // Through the same line as all late answers.
        self.shared.sender.answer(self.listener, ticket, response);
    }

    /// The headers that travel; of several of a name the first.
    fn pack(&mut self, request: &Request<'_>) {
        self.headers.clear();
        for name in &self.door.rules().headers {
            if let Some(value) = request.header(name) {
                Headers::pack(&mut self.headers, name, Some(value));
            }
        }
    }
}

impl Service for Gateway {
    fn admit(&mut self, head: &Request<'_>) -> Result<(), Response> {
        let (route, ..) = let_in(&self.shared, head)?;
        let shared = &self.shared;
        let is_async = shared.ingest.routes[route].mode == Mode::Async;
        if is_async && shared.queue.is_full() { Err(shared.counts.refuse(Some(route), &full())) } else { Ok(()) }
    }

    fn serve(&mut self, request: &Request<'_>, ticket: Ticket) -> Served {
        match self.answer(request, ticket) {
            Ok(()) => Served::Later,
            Err(response) => Served::Now(response),
        }
    }

    fn refuse(&mut self, status: Status, reason: &str) -> Response {
        // Nobody looked which route it is for.
        match status {
            Status::CONTENT_TOO_LARGE => self.shared.counts.refuse(None, &too_large(&self.shared.ingest)),
            status => Response::problem(status, reason),
        }
    }

    fn tick(&mut self, now: Instant, counts: &http::Counts) {
        // A producer that was given up is let go, whether or not requests come.
        self.refresh();
        *self.shared.servers[self.listener].lock() = *counts;
        for pending in self.for_connection.expired(now) {
            match (pending.row, pending.take_unbegun()) {
                (Some(row), Some(ticket)) => self.expire(&pending, ticket, &self.shared.lines.not_begun(row, &pending)),
                _ => self.writing.push(pending),
            }
        }
        let mut late = self.waiting.expired(now);
        late.append(&mut self.writing.expired(now));
        for pending in late {
            if let Some(ticket) = pending.take() {
                let detail = "found no answer of brokers or database in time; whether it was done is not known";
                self.expire(&pending, ticket, &Problem::new(Refused::Deadline, detail));
            }
        }
    }
}

type LetIn<'r> = (usize, Method, Vec<std::borrow::Cow<'r, str>>);

/// Who asks, for which route, and whether what follows may be JSON.
fn let_in<'r>(shared: &Shared, head: &Request<'r>) -> Result<LetIn<'r>, Response> {
    let refuse = |route, problem: Problem| shared.counts.refuse(route, &problem);
    if let Some(token) = &shared.ingest.token
        && !token::brings(head, token)
    {
        let problem =
            Problem::new(Refused::Token, "expected the token of [ingest] token_file: Authorization: Bearer …");
        return Err(refuse(None, problem));
    }
    match shared.paths.find(head.method(), head.segments()) {
        Found::Route { route, method, values } => {
            if method != Method::Delete {
                is_json(head).map_err(|problem| refuse(Some(route), problem))?;
            }
            Ok((route, method, values))
        }
        Found::OtherMethods(allowed) => {
            let problem = Problem::new(Refused::Method, format!("expected one of the methods {allowed}"));
            Err(refuse(None, problem).header("Allow", allowed))
        }
        Found::Nothing => Err(refuse(None, Problem::new(Refused::NoRoute, "no route has this path"))),
    }
}

/// JSON of some kind, as it is.
fn is_json(head: &Request<'_>) -> Result<(), Problem> {
    let refuse = |found: String| Err(Problem::differs(Refused::MediaType, None, found, "application/json"));
    if let Some(coding) = head.header("content-encoding").filter(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return refuse(format!("Content-Encoding: {}", coding.escape_ascii()));
    }
    let Some(written) = head.header("content-type") else { return refuse("no Content-Type".to_owned()) };
    let media = written.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_json = media.eq_ignore_ascii_case(b"application/json")
        || (head.method() == "PATCH" && media.eq_ignore_ascii_case(b"application/merge-patch+json"));
    if is_json { Ok(()) } else { refuse(format!("Content-Type: {}", written.escape_ascii())) }
}

fn full() -> Problem {
    Problem::new(Refused::QueueFull, "as many records are on their way to the brokers as may be")
}

fn too_large(ingest: &Ingest) -> Problem {
    let expected = format!("at most {} bytes", ingest.body_bytes_max);
    Problem::differs(Refused::TooLarge, None, "a larger body", expected)
}
