//! A small HTTP/1.1 server, fit to stand at an edge: every bound is named ([`Limits`]), and whatever could be read in two ways is
//! refused. It serves in the thread that calls it; a service may answer at once, or later from another thread. It knows nothing
//! of what it carries.
//!
//! In reading order: `scan` (where a head ends), `target`, `head`, `chunked` and `parser` (bytes in, a message or a
//! refusal out: no IO), `answers`, `buffer`, `output` and `patience`, `connection` (a state machine that is given turns), `places` (who
//! may have one), `server` (the loop).
//!
//! It never speaks TLS, never compresses, never sends chunks, and never sends a request on. What it refuses of what the
//! standards allow: HTTP/1.0 with chunks, transfer codings other than `chunked`, `CONNECT` and `OPTIONS *`, a target whose
//! authority is not the `Host`.

mod answers;
mod buffer;
mod chunked;
mod connection;
mod date;
mod head;
mod limits;
mod listener;
mod output;
mod parser;
mod patience;
mod places;
mod refusal;
mod reply;
mod request;
mod response;
mod scan;
mod server;
mod slab;
mod stream;
mod target;
#[cfg(test)]
mod tests;

use std::time::Instant;

pub use head::Version;
pub use limits::{HEADERS_CEILING, Limits};
pub use listener::Listener;
pub use reply::{Asker, Replier, Stop, Ticket};
pub use request::{Peer, Request};
pub use response::{Body, Response, Status};
pub use server::{Drained, Server};

/// What is to be done with requests. It is called in the server's thread, which does nothing else meanwhile.
pub trait Service {
    /// Whether the body that follows this head may come. It is asked only if the body was not there together with the head, so
    /// [`Service::serve`] decides for itself, too. After an answer the connection is closed: the body is not read.
    fn admit(&mut self, _head: &Request<'_>) -> Result<(), Response> {
        Ok(())
    }

    /// Answers, or keeps the ticket and what it needs of the request, and answers later by a [`Replier`].
    fn serve(&mut self, request: &Request<'_>, ticket: Ticket) -> Served;

    /// The answer to what the server itself refuses, because it was not understood, or is too large, too late or too much. The connection
    /// ends with it.
    fn refuse(&mut self, status: Status, reason: &str) -> Response {
        Response::text(status, format!("{reason}\n"))
    }

    /// Once in each step of the server's loop, at least four times a second.
    fn tick(&mut self, _now: Instant, _counts: &Counts) {}
}

/// What a service did with a request.
#[derive(Debug)]
pub enum Served {
    Now(Response),
    /// By [`Replier::answer`]; at the latest within [`Limits::answer_deadline`].
    Later,
}

/// What a server saw since it began. All but `connections` only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open now.
    pub connections: u64,
    pub accepted: u64,
    /// Of those, how many were too many.
    pub surplus: u64,
    /// Times that accepting failed.
    pub accept_errors: u64,
    /// Requests that the service saw.
    pub requests: u64,
    /// Of those, how many it deferred.
    pub deferred: u64,
    /// Answers of the server's own, to what was not understood, too large, too late or too much.
    pub refusals: u64,
    /// Heads and bodies that did not end in time; they count as refusals, too.
    pub expired_reads: u64,
    /// Connections closed because nothing was asked for.
    pub expired_idle: u64,
    /// Connections closed because nothing was asked for, and somebody else came.
    pub displaced: u64,
    /// Connections cut because the peer did not take its answers.
    pub expired_writes: u64,
    /// Connections cut because of all peers that did not take their answers this was the slowest, and they held too much.
    pub relieved: u64,
    /// Deferred answers that did not come in time.
    pub expired_answers: u64,
    /// Deferred answers that nobody waited for any more.
    pub late_answers: u64,
}
