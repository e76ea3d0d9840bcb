//! A request, as a service sees it: borrowed from the buffer it was read into, so whoever defers the answer copies what is
//! needed later.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use super::head::{Head, Span, Version};
use super::target;

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// Somebody on this machine whom the socket file's mode lets in.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("a Unix-domain socket"),
        }
    }
}

/// A request whose framing is beyond doubt.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    head: &'a Head,
    message: &'a [u8],
    body: &'a [u8],
    peer: Peer,
}

impl<'a> Request<'a> {
    pub(super) fn new(head: &'a Head, message: &'a [u8], body: Range<usize>, peer: Peer) -> Request<'a> {
        Request { head, message, body: &message[body], peer }
    }

    /// As it was sent: methods are case-sensitive, and any token is one.
    pub fn method(&self) -> &'a str {
        self.text(self.head.method)
    }

    /// As it was sent, with the query.
    pub fn target(&self) -> &'a str {
        self.text(self.head.target)
    }

    /// Without the query, as it was sent. It begins with a slash.
    pub fn raw_path(&self) -> &'a str {
        match self.text(self.head.raw_path) {
            "" => "/",
            path => path,
        }
    }

    /// Without the query, decoded; but an escaped slash stays `%2F`, and an escaped percent sign stays `%25`, so that no two paths
    /// that differ look the same. Compare it with paths that are known; take others apart by [`Request::segments`].
    pub fn path(&self) -> &'a str {
        self.head.path.as_deref().unwrap_or(self.raw_path())
    }

    /// What stands between the slashes, each part decoded wholly: `/a/b%2Fc` has `a` and `b/c`, and `/` has one that is empty.
    pub fn segments(&self) -> impl Iterator<Item = Cow<'a, str>> {
        target::segments(self.raw_path())
    }

    /// As it was sent.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query.map(|query| self.text(query))
    }

    /// Names and values of the query, decoded as forms are: "+" is a blank.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        target::pairs(self.query().unwrap_or_default())
    }

    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Whom it is for, a host and perhaps a port: what `Host` says, or the target. HTTP/1.0 may say neither.
    pub fn host(&self) -> Option<&'a [u8]> {
        self.head.host.map(|host| host.of(self.message))
    }

    /// The value of a header, without blanks around it; of several headers of that name the first.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.header_values(name).next()
    }

    /// The values of all headers of a name, in their order.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers, in their order, with their names as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let (head, message) = (self.head, self.message);
        head.headers.iter().map(move |(name, value)| (text(message, *name), value.of(message)))
    }

    /// Decoded, if it came in chunks. Empty as long as only the head is there ([`super::Service::admit`]).
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn text(&self, span: Span) -> &'a str {
        text(self.message, span)
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} from {}, {} bytes", self.method(), self.target(), self.peer, self.body.len())
    }
}

/// Methods, targets and names are ASCII, or they would have been refused.
fn text(message: &[u8], span: Span) -> &str {
    std::str::from_utf8(span.of(message)).expect("the parser takes nothing but ASCII here")
}
