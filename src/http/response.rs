//! Answers: what a service says, and how it is written down. It always says its length, so that the peer knows where the next
//! answer begins; nothing here is sent in chunks.

use std::sync::Arc;

/// A status code, with the reason phrase of RFC 9110.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);

macro_rules! statuses {
    ($($name:ident $code:literal $reason:literal)*) => {
        impl Status {
            $(pub const $name: Status = Status($code);)*

            /// Empty for a code that is not listed here, which the protocol allows.
            pub fn reason(self) -> &'static str {
                match self.0 {
                    $($code => $reason,)*
                    _ => "",
                }
            }
        }
    };
}

statuses! {
    OK 200 "OK"
    CREATED 201 "Created"
    ACCEPTED 202 "Accepted"
    NO_CONTENT 204 "No Content"
    SEE_OTHER 303 "See Other"
    NOT_MODIFIED 304 "Not Modified"
    BAD_REQUEST 400 "Bad Request"
    UNAUTHORIZED 401 "Unauthorized"
    FORBIDDEN 403 "Forbidden"
    NOT_FOUND 404 "Not Found"
    METHOD_NOT_ALLOWED 405 "Method Not Allowed"
    REQUEST_TIMEOUT 408 "Request Timeout"
    CONFLICT 409 "Conflict"
    LENGTH_REQUIRED 411 "Length Required"
    CONTENT_TOO_LARGE 413 "Content Too Large"
    URI_TOO_LONG 414 "URI Too Long"
    UNSUPPORTED_MEDIA_TYPE 415 "Unsupported Media Type"
    EXPECTATION_FAILED 417 "Expectation Failed"
    UNPROCESSABLE_CONTENT 422 "Unprocessable Content"
    TOO_MANY_REQUESTS 429 "Too Many Requests"
    HEADERS_TOO_LARGE 431 "Request Header Fields Too Large"
    INTERNAL_SERVER_ERROR 500 "Internal Server Error"
    NOT_IMPLEMENTED 501 "Not Implemented"
    BAD_GATEWAY 502 "Bad Gateway"
    SERVICE_UNAVAILABLE 503 "Service Unavailable"
    GATEWAY_TIMEOUT 504 "Gateway Timeout"
    VERSION_NOT_SUPPORTED 505 "HTTP Version Not Supported"
}

/// The bytes of an answer: written into it, made for it, or shared by many.
#[derive(Debug, Clone)]
pub enum Body {
    Static(&'static [u8]),
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Body {
    /// What of its memory is nobody else's, or may not be: all of it, unless it is static.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Body::Static(_) => 0,
            Body::Owned(bytes) => bytes.capacity(),
            Body::Shared(bytes) => bytes.len(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Static(bytes) => bytes,
            Body::Owned(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::Static(text.as_bytes())
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Body {
        Body::Static(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::Owned(text.into_bytes())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::Owned(bytes)
    }
}

impl From<Arc<[u8]>> for Body {
    fn from(bytes: Arc<[u8]>) -> Body {
        Body::Shared(bytes)
    }
}

/// An answer. One with a static body and no header of its own allocates nothing.
#[derive(Debug, Clone)]
pub struct Response {
    status: Status,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

impl Response {
    /// Without a body.
    pub fn new(status: Status) -> Response {
        Response { status, content_type: "", headers: Vec::new(), body: Body::Static(b"") }
    }

    pub fn with_body(status: Status, content_type: &'static str, body: impl Into<Body>) -> Response {
        Response { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub fn text(status: Status, text: impl Into<Body>) -> Response {
        Response::with_body(status, "text/plain; charset=utf-8", text)
    }

    /// Takes JSON that is written already.
    pub fn json(status: Status, json: impl Into<Body>) -> Response {
        Response::with_body(status, "application/json", json)
    }

    /// An error in the form of RFC 9457.
    pub fn problem(status: Status, detail: &str) -> Response {
        let problem = serde_json::json!({ "title": status.reason(), "status": status.0, "detail": detail });
        Response::with_body(status, "application/problem+json", problem.to_string())
    }

    /// Adds a header. Those that frame the answer (`Content-Length`, `Connection`, `Transfer-Encoding`, `Date`) are the server's
    /// own. Control characters in the value become blanks: a value from outside must not begin a header, or an answer, of its own.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        let own = ["content-length", "connection", "transfer-encoding", "date"];
        debug_assert!(!own.iter().any(|own| own.eq_ignore_ascii_case(name)), "{name} is the server's to say");
        let mut value = value.into();
        if value.contains(|c: char| c.is_ascii_control()) {
            value = value.replace(|c: char| c.is_ascii_control(), " ");
        }
        self.headers.push((name, value));
        self
    }

    /// The same, of which copies are cheap: they have the body in common.
    pub fn into_shared(mut self) -> Response {
        if let Body::Owned(bytes) = self.body {
            self.body = Body::Shared(bytes.into());
        }
        self
    }

    pub fn status(&self) -> Status {
        self.status
    }

    pub fn body(&self) -> &[u8] {
        self.body.bytes()
    }

    /// About how many bytes it takes while it waits for its turn.
    pub(super) fn size(&self) -> usize {
        self.body.bytes().len()
            + self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
            + 128
    }

    /// Writes its head down as `manner` wants it, behind what `out` has, and leaves the body that is to follow.
    pub(super) fn encode(self, out: &mut Vec<u8>, manner: &Manner<'_>) -> Body {
        // RFC 9110, 8.6 and 15.3.5: no length with 204. It never has a body, nor has 304.
        let bodiless = matches!(self.status.0, 204 | 304);
        out.extend_from_slice(b"HTTP/1.1 ");
        push_number(out, self.status.0.into());
        out.push(b' ');
        out.extend_from_slice(self.status.reason().as_bytes());
        out.extend_from_slice(b"\r\n");
        push_header(out, "Date", manner.date);
        if !self.content_type.is_empty() {
            push_header(out, "Content-Type", self.content_type);
        }
        for (name, value) in &self.headers {
            push_header(out, name, value);
        }
        if self.status != Status::NO_CONTENT {
            out.extend_from_slice(b"Content-Length: ");
            push_number(out, self.body.bytes().len() as u64);
            out.extend_from_slice(b"\r\n");
        }
        match manner.persistence {
            Persistence::Implied => {}
            Persistence::Said => push_header(out, "Connection", "keep-alive"),
            Persistence::Ends => push_header(out, "Connection", "close"),
        }
        out.extend_from_slice(b"\r\n");
        if manner.head_only || bodiless { Body::Static(b"") } else { self.body }
    }
}

/// What depends on the request and on the connection when an answer is written down.
pub(super) struct Manner<'a> {
    /// To `HEAD`: all but the body.
    pub head_only: bool,
    pub persistence: Persistence,
    /// As RFC 9110, 5.6.7 wants it.
    pub date: &'a str,
}

/// Whether another answer may follow on the connection, and whether that must be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// What HTTP/1.1 takes for granted.
    Implied,
    /// What HTTP/1.0 asked for.
    Said,
    Ends,
}

fn push_header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(response: Response, head_only: bool, persistence: Persistence, expected: &str) {
        let mut out = Vec::new();
        let body = response.encode(&mut out, &Manner { head_only, persistence, date: "D" });
        out.extend_from_slice(body.bytes());
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn answers_say_their_length() {
        use Persistence::{Ends, Implied, Said};
        let text = Response::text(Status::OK, "yes\n");
        let plain = "HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n";
        check(text.clone(), false, Implied, &format!("{plain}\r\nyes\n"));
        check(text.clone(), true, Said, &format!("{plain}Connection: keep-alive\r\n\r\n"));
        check(text, false, Ends, &format!("{plain}Connection: close\r\n\r\nyes\n"));
        check(
            Response::new(Status::ACCEPTED),
            false,
            Implied,
            "HTTP/1.1 202 Accepted\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
        );
        let odd = Response::text(Status::NO_CONTENT, "never sent");
        check(
            odd,
            false,
            Implied,
            "HTTP/1.1 204 No Content\r\nDate: D\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        );
        let shared = Response::json(Status(299), Arc::<[u8]>::from(&b"{}"[..])).header("Retry-After", "1");
        check(
            shared,
            false,
            Implied,
            "HTTP/1.1 299 \r\nDate: D\r\nContent-Type: application/json\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}",
        );
    }

    #[test]
    fn a_value_cannot_begin_another_header() {
        let response = Response::new(Status::SEE_OTHER).header("Location", "/x\r\nSet-Cookie: a=b\0\x7f");
        let mut out = Vec::new();
        response.encode(&mut out, &Manner { head_only: false, persistence: Persistence::Implied, date: "D" });
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Location: /x  Set-Cookie: a=b  \r\n"), "{text}");
    }

    #[test]
    fn a_problem_is_json() {
        let response = Response::problem(Status::CONFLICT, "the key \"a\" is parked");
        let json: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(json["status"], 409);
        assert_eq!(json["title"], "Conflict");
        assert_eq!(json["detail"], "the key \"a\" is parked");
    }

    #[test]
    fn numbers() {
        for number in [0, 7, 10, 202, 1 << 20, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
