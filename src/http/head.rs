//! A head, taken apart: method, target, headers, and above all where its message ends. Whatever could be read in two ways by two
//! readers is refused, since what stands in front of this server may have read it the other way.
//!
//! It is given a whole head, with line ends that [`super::scan`] has checked.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::limits::{HEADERS_CEILING, Limits};
use super::refusal::{Refusal, quoted};
use super::response::Status;
use super::target;

/// The versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Bytes, 0 where the head says nothing.
    Length(usize),
    Chunked,
}

/// A part of a message: positions from its begin. The message's bytes may move as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub fn of<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        &message[self.start as usize..self.end as usize]
    }

    /// `part` lies within `message`. Both are within [`Limits`]' bounds, so positions fit.
    fn find(message: &[u8], part: &[u8]) -> Span {
        let start = part.as_ptr() as usize - message.as_ptr() as usize;
        Span { start: start as u32, end: (start + part.len()) as u32 }
    }
}

/// A head, without its bytes. It is used for one message after the other and keeps its memory.
#[derive(Debug)]
pub struct Head {
    pub method: Span,
    pub target: Span,
    /// Without the query. Empty where the target has none.
    pub raw_path: Span,
    pub query: Option<Span>,
    /// The decoded path, where that is not the raw one.
    pub path: Option<String>,
    /// Whom the request is for: the `Host`, or the target's authority where there is none.
    pub host: Option<Span>,
    pub version: Version,
    pub headers: Vec<(Span, Span)>,
    pub framing: Framing,
    /// Whether the peer would send another request after this one.
    pub persistent: bool,
    /// Whether the peer waits for a word before it sends the body.
    pub expects_continue: bool,
    scratch: String,
}

impl Default for Head {
    fn default() -> Head {
        Head {
            method: Span::default(),
            target: Span::default(),
            raw_path: Span::default(),
            query: None,
            path: None,
            host: None,
            version: Version::default(),
            headers: Vec::new(),
            framing: Framing::Length(0),
            persistent: false,
            expects_continue: false,
            scratch: String::new(),
        }
    }
}

impl Head {
    /// Reads the head in the range `at` of `message`.
    pub fn parse(&mut self, message: &[u8], at: Range<usize>, limits: &Limits) -> Result<(), Refusal> {
        let bytes = &message[at];
        let mut room = [const { MaybeUninit::uninit() }; HEADERS_CEILING];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, &mut room[..limits.headers_max]) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Refusal::bad("found no head within its lines; expected a request line and headers")),
            Err(error) => return Err(explain(error, bytes, limits)),
        }
        let method = parsed.method.unwrap_or_default();
        let target = parsed.path.unwrap_or_default();
        self.version = if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 };
        self.headers.clear();
        self.headers.extend(
            parsed
                .headers
                .iter()
                .map(|header| (Span::find(message, header.name.as_bytes()), Span::find(message, header.value))),
        );
        let said = Said::gather(parsed.headers, self.version)?;
        self.method = Span::find(message, method.as_bytes());
        self.read_target(message, method, target, said.host)?;
        self.framing = said.framing(method, self.version, limits)?;
        self.persistent = !said.close && (self.version == Version::Http11 || said.keep_alive);
        // RFC 9110, 10.1.1: from HTTP/1.0 it means nothing.
        self.expects_continue = said.expects_continue && self.version == Version::Http11;
        Ok(())
    }

    fn read_target(&mut self, message: &[u8], method: &str, target: &str, host: Option<&[u8]>) -> Result<(), Refusal> {
        self.target = Span::find(message, target.as_bytes());
        if method == "CONNECT" || (method == "OPTIONS" && target == "*") {
            return Err(Refusal::new(
                Status::NOT_IMPLEMENTED,
                format!("found {method} {}; expected a method for a path", quoted(target.as_bytes())),
            ));
        }
        if let Some(byte) = target.bytes().find(|byte| !byte.is_ascii_graphic()) {
            return Err(Refusal::bad(format!(
                "found the byte 0x{byte:02x} in the target; expected it escaped, as %{byte:02X}"
            )));
        }
        let parts = target::split(target)?;
        if let Some(authority) = parts.authority {
            // RFC 9112, 3.2.2 prefers the target's. Where they differ, somebody in front may have preferred the other.
            let host = host.unwrap_or(authority.as_bytes());
            if authority.is_empty() || !authority.as_bytes().eq_ignore_ascii_case(host) {
                let (authority, host) = (quoted(authority.as_bytes()), quoted(host));
                return Err(Refusal::bad(format!(
                    "found a target at {authority} and the Host {host}; expected the same"
                )));
            }
            if !target::is_authority(authority.as_bytes()) {
                let found = quoted(authority.as_bytes());
                return Err(Refusal::bad(format!("found a target at {found}; expected a host and perhaps a port")));
            }
        }
        self.host = host.or(parts.authority.map(str::as_bytes)).map(|host| Span::find(message, host));
        self.raw_path = Span::find(message, parts.path.as_bytes());
        self.query = parts.query.map(|query| Span::find(message, query.as_bytes()));
        if let Some(query) = parts.query.filter(|query| query.contains('%')) {
            target::check_query(query, &mut self.scratch)?;
        }
        if let Some(path) = self.path.take() {
            self.scratch = path;
        }
        if parts.path.contains('%') {
            let mut path = std::mem::take(&mut self.scratch);
            target::decode_path(parts.path, &mut path)?;
            self.path = Some(path);
        }
        Ok(())
    }
}

/// What the headers say about the message itself.
#[derive(Default)]
struct Said<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl<'a> Said<'a> {
    fn gather(headers: &[httparse::Header<'a>], version: Version) -> Result<Said<'a>, Refusal> {
        let mut said = Said::default();
        for header in headers {
            let is = |name| header.name.eq_ignore_ascii_case(name);
            // Most headers are none of these, and most of them have other lengths.
            match header.name.len() {
                4 if is("host") => set_once(&mut said.host, header)?,
                6 if is("expect") => said.expect(header.value, version)?,
                10 if is("connection") => said.connection(header.value),
                14 if is("content-length") => set_once(&mut said.length, header)?,
                17 if is("transfer-encoding") => set_once(&mut said.coding, header)?,
                _ => {}
            }
        }
        match said.host {
            None if version == Version::Http11 => Err(Refusal::bad("found no Host; expected one with HTTP/1.1")),
            Some(host) if !target::is_authority(host) => {
                Err(Refusal::bad(format!("found the Host {}; expected a host and perhaps a port", quoted(host))))
            }
            _ => Ok(said),
        }
    }

    fn expect(&mut self, value: &[u8], version: Version) -> Result<(), Refusal> {
        if value.eq_ignore_ascii_case(b"100-continue") || version == Version::Http10 {
            self.expects_continue = true;
            return Ok(());
        }
        let reason = format!("found the expectation {}; expected 100-continue or none", quoted(value));
        Err(Refusal::new(Status::EXPECTATION_FAILED, reason))
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn framing(&self, method: &str, version: Version, limits: &Limits) -> Result<Framing, Refusal> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => {
                Err(Refusal::bad("found both Transfer-Encoding and Content-Length; expected at most one of them"))
            }
            (Some(_), None) if version == Version::Http10 => {
                Err(Refusal::bad("found Transfer-Encoding with HTTP/1.0; expected Content-Length"))
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (Some(coding), None) => Err(Refusal::new(
                Status::NOT_IMPLEMENTED,
                format!("found the transfer coding {}; expected chunked and no other", quoted(coding)),
            )),
            (None, Some(length)) => content_length(length, limits).map(Framing::Length),
            // Such a body may end with the connection, which is as good as cut.
            (None, None) if version == Version::Http10 && matches!(method, "POST" | "PUT" | "PATCH") => {
                Err(Refusal::new(
                    Status::LENGTH_REQUIRED,
                    format!("found no Content-Length; expected one with {method} and HTTP/1.0"),
                ))
            }
            (None, None) => Ok(Framing::Length(0)),
        }
    }
}

/// Headers that may come once only, even if their values are the same.
fn set_once<'a>(slot: &mut Option<&'a [u8]>, header: &httparse::Header<'a>) -> Result<(), Refusal> {
    if slot.replace(header.value).is_some() {
        return Err(Refusal::bad(format!("found {} twice; expected it once", quoted(header.name.as_bytes()))));
    }
    Ok(())
}

fn content_length(value: &[u8], limits: &Limits) -> Result<usize, Refusal> {
    let odd = || Refusal::bad(format!("found the Content-Length {}; expected 1 to 19 digits", quoted(value)));
    // Nineteen digits never overflow.
    if !(1..=19).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return Err(odd());
    }
    let length = value.iter().fold(0_u64, |length, digit| length * 10 + u64::from(digit - b'0'));
    usize::try_from(length).ok().filter(|length| *length <= limits.body_bytes_max).ok_or_else(|| {
        let reason = format!("found a body of {length} bytes; expected at most {}", limits.body_bytes_max);
        Refusal::new(Status::CONTENT_TOO_LARGE, reason)
    })
}

/// Puts what the parser found wrong into words, by a look at the line.
fn explain(error: httparse::Error, bytes: &[u8], limits: &Limits) -> Refusal {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.find(|line| !line.is_empty()).unwrap_or_default();
    match error {
        httparse::Error::TooManyHeaders => {
            let reason = format!("found more than {} headers; expected no more", limits.headers_max);
            Refusal::new(Status::HEADERS_TOO_LARGE, reason)
        }
        httparse::Error::HeaderName => {
            let wrong = lines.find(|line| !has_name(line)).unwrap_or_default();
            Refusal::bad(format!("found the line {}; expected a header's name right before a colon", quoted(wrong)))
        }
        httparse::Error::Version if is_other_version(first) => {
            let found = first.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            let reason = format!("found {}; expected HTTP/1.1 or HTTP/1.0", quoted(found));
            Refusal::new(Status::VERSION_NOT_SUPPORTED, reason)
        }
        _ => {
            let found = quoted(first);
            Refusal::bad(format!(
                "found the request line {found}; expected a method, a target and a version, with one blank each"
            ))
        }
    }
}

fn has_name(line: &[u8]) -> bool {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
    colon > 0 && line[..colon].iter().copied().all(super::scan::is_token_byte)
}

/// Whether a request line ends with the name of another version of the protocol.
fn is_other_version(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return false;
    };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}
