//! What the admin interface answers to which request, and who may ask. What takes a database goes to another thread.

use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;

use crate::admin::action::{Action, Letter, body};
use crate::admin::collect::{Collector, KEEP_EVERY};
use crate::admin::exposition::{self, LogLines};
use crate::admin::kept::Kept;
use crate::admin::lines::Lines;
use crate::admin::page;
use crate::admin::status;
use crate::admin::token;
use crate::config::secret::Secret;
use crate::http::{Counts, Peer, Request, Response, Served, Service, Status, Ticket};
use crate::types::TopicIx;

/// Prometheus' text format.
pub const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Or why these are no directives.
type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the process logs: whoever embeds the engine decides.
pub struct Logs {
    /// The directives in force.
    pub level: Box<dyn Fn() -> String + Send + Sync>,
    /// Sets others; or why they are none.
    pub set_level: SetLevel,
    pub lines: Box<dyn Fn() -> LogLines + Send + Sync>,
}

impl Default for Logs {
    fn default() -> Logs {
        Logs {
            level: Box::new(String::new),
            set_level: Box::new(|_| Err("the program that embeds forebay decides what is logged".to_owned())),
            lines: Box::new(|| exposition::LEVELS.map(|level| (level, 0))),
        }
    }
}

/// See the module's text.
pub struct Routes {
    collector: Arc<Collector>,
    logs: Arc<Logs>,
    /// Where what takes a database goes.
    lines: Lines,
    /// What requests over TCP bring along.
    token: Option<Secret>,
    /// When the collector last kept what was counted.
    counted_at: Instant,
    kept: Kept<Moment>,
}

/// What is said of a moment, by whatever path: nobody is told of something that has not happened yet by another one.
struct Moment {
    status: status::Status,
    /// Once somebody has asked for them.
    json: Option<Response>,
    metrics: Option<Response>,
}

/// A topic, by its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Topic {
    topic: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

type Answer = Result<Response, Response>;

impl Service for Routes {
    fn admit(&mut self, head: &Request<'_>) -> Result<(), Response> {
        self.may_ask(head)
    }

    fn serve(&mut self, request: &Request<'_>, ticket: Ticket) -> Served {
        match self.may_ask(request).and_then(|()| self.route(request)) {
            Ok(Wanted::Answer(response)) => Served::Now(guarded(response)),
            Ok(Wanted::Action(action)) => match self.lines.put(ticket, action) {
                Ok(()) => Served::Later,
                Err(refusal) => Served::Now(guarded(refusal)),
            },
            Err(refusal) => Served::Now(guarded(refusal)),
        }
    }

    fn tick(&mut self, now: Instant, _: &Counts) {
        if now.duration_since(self.counted_at) >= KEEP_EVERY {
            self.counted_at = now;
            self.collector.keep();
        }
    }
}

/// What a request leads to.
enum Wanted {
    Answer(Response),
    Action(Action),
}

impl Routes {
    pub fn new(collector: Arc<Collector>, logs: Arc<Logs>, lines: Lines, token: Option<Secret>) -> Routes {
        Routes { collector, logs, lines, token, counted_at: Instant::now(), kept: Kept::default() }
    }

    fn route(&mut self, request: &Request<'_>) -> Result<Wanted, Response> {
        let method = request.method();
        let (get, post) = (matches!(method, "GET" | "HEAD"), method == "POST");
        if post {
            // Whoever gave an order sees what came of it.
            self.kept.forget();
        }
        match request.path() {
            path if !get && !post => Err(not_allowed(path)),
            "/" if get => Ok(Wanted::Answer(page())),
            "/healthz" if get => Ok(Wanted::Answer(self.healthz())),
            "/readyz" if get => {
                let is_known = self.is_known(request);
                Ok(Wanted::Answer(self.readyz(is_known)))
            }
            "/metrics" if get => Ok(Wanted::Answer(self.metrics())),
            "/status" if get => Ok(Wanted::Answer(self.status())),
            "/parked" if get => Ok(Wanted::Action(Action::Parked { limit: limit(request)? })),
            "/dead-letters" if get => Ok(Wanted::Action(Action::Letters { limit: limit(request)? })),
            "/park" if post => Action::park(posted(request)?).map(Wanted::Action),
            "/unpark" if post => Action::unpark(posted(request)?).map(Wanted::Action),
            "/dead-letters/replay" if post => Letter::of(posted(request)?).map(Action::Replay).map(Wanted::Action),
            "/dead-letters/discard" if post => Letter::of(posted(request)?).map(Action::Discard).map(Wanted::Action),
            "/pause" if post => self.pause(posted(request)?, true).map(Wanted::Answer),
            "/resume" if post => self.pause(posted(request)?, false).map(Wanted::Answer),
            "/log-level" if post => self.set_level(posted(request)?).map(Wanted::Answer),
            path => Err(not_allowed(path)),
        }
    }

    /// Whether somebody who asks this, like this, is let in at all.
    fn may_ask(&self, request: &Request<'_>) -> Result<(), Response> {
        // The page itself shows nothing, and asks for the token; the two others say what a load balancer needs.
        if request.peer() == Peer::Unix || matches!(request.path(), "/" | "/healthz" | "/readyz") {
            return Ok(());
        }
        if self.token.is_none() {
            return self.is_local(request);
        }
        if self.is_known(request) {
            return Ok(());
        }
        let detail = "expected the token of [admin] token_file: Authorization: Bearer …";
        Err(Response::problem(Status::UNAUTHORIZED, detail).header("WWW-Authenticate", "Bearer"))
    }

    /// Whether somebody brings the token along, where there is one.
    fn is_known(&self, request: &Request<'_>) -> bool {
        let token = self.token.as_ref().filter(|_| request.peer() != Peer::Unix);
        token.is_none_or(|token| token::brings(request, token))
    }

    /// Without a token only those on this machine are let in, and a browser on it may have been sent here by anybody: a name that
    /// somebody else made point here would be in `Host`.
    fn is_local(&self, request: &Request<'_>) -> Result<(), Response> {
        let host = request.host().map(String::from_utf8_lossy);
        if host.as_deref().is_some_and(is_address) {
            return Ok(());
        }
        let found = host.map_or("none".to_owned(), |host| format!("{host:?}"));
        let detail =
            format!("Host: found {found}, expected an IP address or localhost: a name is let in with a token only");
        Err(Response::problem(Status::FORBIDDEN, &detail))
    }

    fn healthz(&self) -> Response {
        match self.collector.ailing() {
            None => Response::text(Status::OK, "ok\n"),
            Some(why) => Response::text(Status::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }
    }

    /// What databases say of themselves is for those who are known.
    fn readyz(&mut self, is_known: bool) -> Response {
        let ready = &moment(&mut self.kept, &self.collector).status.ready;
        let mut text = if is_known { ready.reasons.join("\n") } else { String::new() };
        if text.is_empty() {
            text.push_str(if ready.ready { "ready" } else { "not ready" });
        }
        text.push('\n');
        Response::text(if ready.ready { Status::OK } else { Status::SERVICE_UNAVAILABLE }, text)
    }

    fn status(&mut self) -> Response {
        let Moment { status, json, .. } = moment(&mut self.kept, &self.collector);
        let made = || Response::json(Status::OK, serde_json::to_vec(status).unwrap_or_default()).into_shared();
        json.get_or_insert_with(made).clone()
    }

    fn metrics(&mut self) -> Response {
        let Moment { status, metrics, .. } = moment(&mut self.kept, &self.collector);
        let made = || {
            let text = exposition::text(&self.collector, status, &(self.logs.lines)());
            Response::with_body(Status::OK, EXPOSITION, text).into_shared()
        };
        metrics.get_or_insert_with(made).clone()
    }

    fn pause(&self, of: &[u8], paused: bool) -> Answer {
        let Topic { topic } = body(of)?;
        let observer = self.collector.observer();
        let Some(index) = observer.config().topics.iter().position(|known| known.name == topic) else {
            let detail = format!("no topic of the configuration is named {topic:?}");
            return Err(Response::problem(Status::NOT_FOUND, &detail));
        };
        let text = match (observer.pause_topic(TopicIx(index as u16), paused), paused) {
            (None, _) => return Err(Response::problem(Status::SERVICE_UNAVAILABLE, "the engine does not run")),
            (Some(true), true) => format!("topic {topic} is paused until it is resumed, or the process ends"),
            (Some(false), true) => format!("topic {topic} was paused already"),
            (Some(true), false) => format!("topic {topic} goes on"),
            (Some(false), false) => format!("topic {topic} was not paused"),
        };
        tracing::info!("admin: {text}");
        Ok(done(&text))
    }

    fn set_level(&self, of: &[u8]) -> Answer {
        let Level { level } = body(of)?;
        (self.logs.set_level)(&level)
            .map_err(|why| Response::problem(Status::BAD_REQUEST, &format!("level: {why}")))?;
        tracing::info!("admin: what is logged is {level:?} now");
        Ok(done(&format!("what is logged is {level:?} now")))
    }
}

fn moment<'k>(kept: &'k mut Kept<Moment>, collector: &Collector) -> &'k mut Moment {
    kept.get(Instant::now(), || Moment { status: collector.status(), json: None, metrics: None })
}

/// An IP address or localhost, with a port or without.
pub fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::Ipv4Addr>().is_ok()
        || host.parse::<std::net::SocketAddr>().is_ok()
        || v6.is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok())
}

fn done(text: &str) -> Response {
    Response::json(Status::OK, json!({ "done": text }).to_string())
}

/// The body of a request that changes something. A page of somebody else's can make a browser send one, but not of this type without
/// asking first, which nobody here answers; and where it says whose page it is, that must be ours.
fn posted<'r>(request: &Request<'r>) -> Result<&'r [u8], Response> {
    let kind = request.header("content-type").unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !kind.eq_ignore_ascii_case(b"application/json") {
        let found = String::from_utf8_lossy(kind);
        let detail = format!("Content-Type: found {found:?}, expected application/json");
        return Err(Response::problem(Status::UNSUPPORTED_MEDIA_TYPE, &detail));
    }
    let is_ours = |origin: &[u8]| {
        let origin = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"));
        origin.is_some() && origin == request.host()
    };
    if !request.header_values("origin").all(is_ours) {
        return Err(Response::problem(Status::FORBIDDEN, "Origin: this came from the page of another host"));
    }
    of_no_other_site(request)?;
    Ok(request.body())
}

/// A page of somebody else's cannot read what is answered to it, but it must not make databases work either. Browsers say where a request
/// came from (W3C Fetch Metadata); programs do not.
fn of_no_other_site(request: &Request<'_>) -> Result<(), Response> {
    let is_ours = |site: &[u8]| matches!(site, b"same-origin" | b"none");
    match request.header_values("sec-fetch-site").all(is_ours) {
        true => Ok(()),
        false => Err(Response::problem(Status::FORBIDDEN, "Sec-Fetch-Site: this came from the page of another site")),
    }
}

fn limit(request: &Request<'_>) -> Result<i64, Response> {
    of_no_other_site(request)?;
    let mut written = None;
    for (name, value) in request.query_pairs() {
        if name != "limit" || written.replace(value).is_some() {
            let detail = format!("{name:?} in the query: expected limit, once");
            return Err(Response::problem(Status::BAD_REQUEST, &detail));
        }
    }
    Action::limit(written.as_deref())
}

fn page() -> Response {
    let (document, csp) = page::document();
    Response::with_body(Status::OK, "text/html; charset=utf-8", document).header("Content-Security-Policy", csp)
}

/// Every path and its methods.
const PATHS: [(&str, &str); 14] = [
    ("/", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/status", "GET, HEAD"),
    ("/parked", "GET, HEAD"),
    ("/dead-letters", "GET, HEAD"),
    ("/park", "POST"),
    ("/unpark", "POST"),
    ("/pause", "POST"),
    ("/resume", "POST"),
    ("/log-level", "POST"),
    ("/dead-letters/replay", "POST"),
    ("/dead-letters/discard", "POST"),
];

fn not_allowed(path: &str) -> Response {
    match PATHS.iter().find(|(known, _)| *known == path) {
        Some((_, methods)) => {
            let detail = format!("{path} takes {methods}");
            Response::problem(Status::METHOD_NOT_ALLOWED, &detail).header("Allow", *methods)
        }
        None => {
            let paths: Vec<&str> = PATHS.iter().map(|(path, _)| *path).collect();
            Response::problem(Status::NOT_FOUND, &format!("expected one of {}", paths.join(", ")))
        }
    }
}

/// What is said now is not to be kept, nor taken for anything else than what it is called.
pub fn guarded(response: Response) -> Response {
    response
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff")
        .header("Referrer-Policy", "no-referrer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_nobodys_names() {
        for host in ["localhost", "LOCALHOST:9464", "127.0.0.1", "127.0.0.1:9464", "[::1]", "[::1]:9464", "10.1.2.3:80"]
        {
            assert!(is_address(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "[::1]evil.example",
            "localhost:evil",
            "localhost.evil.example",
            "127.0.0.1.evil:1",
            "::1:x",
            "[::1",
        ] {
            assert!(!is_address(host), "{host}");
        }
    }
}
