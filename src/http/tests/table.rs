//! What is understood, and what is refused with which words: one line of input and one of expectations each.

use super::script::{Message, Outcome, run};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// `expected`: "METHOD path body" for each request that is understood, and then, if it ends with a refusal, its status and words
/// that are in its reason. In one piece, and byte by byte.
#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: &[&str]) {
    let input = input.as_ref();
    let single: Vec<&[u8]> = input.chunks(1).collect();
    for pieces in [&[input][..], &single] {
        let Outcome { messages, refused } = run(pieces);
        let shown = |message: &Message| {
            let body = String::from_utf8_lossy(&message.body);
            format!("{} {} {body}", message.method, message.path).trim_end().to_owned()
        };
        let found: Vec<String> = messages.iter().map(shown).collect();
        let (understood, refusal) = match (&refused, expected.split_last()) {
            (Some(_), Some((refusal, understood))) => (understood, Some(*refusal)),
            _ => (expected, None),
        };
        assert_eq!(found, understood, "refused: {refused:?}");
        if let (Some((status, reason)), Some(expected)) = (&refused, refusal) {
            let (expected_status, words) = expected.split_once(' ').expect("a status and words");
            assert_eq!(status.to_string(), expected_status, "{reason}");
            assert!(reason.contains(words), "{reason:?} says nothing of {words:?}");
            assert!(reason.starts_with("found "), "{reason:?} says what was found");
            assert!(reason.contains("expected"), "{reason:?} says what was expected");
        }
    }
}

/// A request with these header lines behind the Host, and a body of five bytes.
#[track_caller]
fn check_headers(lines: &str, expected: &[&str]) {
    check(format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\nhello"), expected);
}

#[test]
fn understood() {
    check("", &[]);
    check("\r\n", &[]);
    check(GET, &["GET /"]);
    check(format!("{GET}{GET}"), &["GET /", "GET /"]);
    check(format!("\r\n{GET}\r\n{GET}\r\n"), &["GET /", "GET /"]);
    check("GET /a%20b?c HTTP/1.1\r\nHost:\r\n\r\n", &["GET /a b"]);
    check("M-SEARCH /x HTTP/1.1\r\nhOST: [::1]:80\r\n\r\n", &["M-SEARCH /x"]);
    check("GET http://A.example?q HTTP/1.1\r\nHost: a.EXAMPLE\r\n\r\n", &["GET /"]);
    check("GET / HTTP/1.0\r\n\r\n", &["GET /"]);
    check(format!("GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n{GET}"), &["GET /1", "GET /"]);
    check("GET / HTTP/1.1\r\nHost: a\r\nX:\r\nX: \t caf\u{e9}\t x \t\r\n\r\n", &["GET /"]);
    check("OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n", &["OPTIONS /x"]);
}

#[test]
fn what_is_behind_the_last_message_is_nobodys() {
    check(format!("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n{GET}\n\n\n"), &["GET /1"]);
    check(format!("GET /1 HTTP/1.0\r\n\r\n{GET}"), &["GET /1"]);
    check(format!("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n{GET}"), &["GET /1"]);
}

#[test]
fn bodies_with_a_length() {
    let rest = format!("Content-Length: 5\r\n\r\nhello{GET}");
    check(format!("PUT /x HTTP/1.1\r\nHost: a\r\n{rest}"), &["PUT /x hello", "GET /"]);
    check(format!("GET /x HTTP/1.1\r\nHost: a\r\n{rest}"), &["GET /x hello", "GET /"]);
    check(format!("POST /x HTTP/1.0\r\nConnection: keep-alive\r\n{rest}"), &["POST /x hello", "GET /"]);
    check_headers("Content-Length: 005\r\nExpect: 100-Continue\r\n", &["POST /x hello"]);
    check(format!("POST /x HTTP/1.1\r\nHost: a\r\n\r\n{GET}"), &["POST /x", "GET /"]);
    check(format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{GET}"), &["POST /x", "GET /"]);
}

/// Everything that two readers may have understood in two ways.
#[test]
fn where_a_body_ends_is_beyond_doubt() {
    for value in
        ["5, 5", "5,5", "+5", "-5", "5 5", "0x5", "5.0", "5;", "", "five", "\"5\"", "\u{665}", "00000000000000000005"]
    {
        check_headers(&format!("Content-Length: {value}\r\n"), &["400 Content-Length"]);
    }
    check_headers("Content-Length: 18446744073709551621\r\n", &["400 1 to 19 digits"]);
    check_headers("Content-Length: 9999999999999999999\r\n", &["413 at most 100"]);
    check_headers("Content-Length: 101\r\n", &["413 at most 100"]);
    check_headers("Content-Length: 5\r\nContent-Length: 5\r\n", &["400 twice"]);
    check_headers("Content-Length: 5\r\ncontent-length: 6\r\n", &["400 twice"]);
    check_headers("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &["400 both"]);
    check_headers("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &["400 both"]);
    check_headers("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n", &["400 both"]);
    check_headers("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &["400 twice"]);
    check_headers("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", &["400 twice"]);
    for value in
        ["gzip, chunked", "chunked, chunked", "identity", "xchunked", "\"chunked\"", "chunked;q=1", "", "chunked,"]
    {
        check_headers(&format!("Transfer-Encoding: {value}\r\n"), &["501 chunked and no other"]);
    }
    check_headers("Transfer-Encoding : chunked\r\n", &["400 right before a colon"]);
    check_headers("Transfer-Encoding: \u{b}chunked\r\n", &["400 0x0b"]);
    check_headers("Transfer\u{e9}Encoding: chunked\r\n", &["400 right before a colon"]);
    check_headers("X: y\r\n Transfer-Encoding: chunked\r\n", &["400 begins with a blank"]);
    check_headers("X: y\rTransfer-Encoding: chunked\r\n", &["400 carriage return"]);
    check_headers("X: y\nTransfer-Encoding: chunked\r\n", &["400 line feed"]);
    check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &["400 HTTP/1.0"]);
    for method in ["POST", "PUT", "PATCH"] {
        check(format!("{method} / HTTP/1.0\r\n\r\nhello"), &["411 Content-Length"]);
    }
    check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell", &["400 within a request"]);
}

#[test]
fn lines() {
    check("GET / HTTP/1.1\nHost: a\n\n", &["400 line feed"]);
    check("GET / HTTP/1.1\r\nHost: a\n\r\n", &["400 line feed"]);
    check("GET / HTTP/1.1\r\nHost: a\r\n\n", &["400 line feed"]);
    check("GET / HTTP/1.1\r\nHost: a\r\n\rX", &["400 carriage return"]);
    check("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", &["400 carriage return"]);
    check("GET / HTTP/1.1\r\n Host: a\r\n\r\n", &["400 begins with a blank"]);
    check("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", &["400 begins with a blank"]);
    check(format!("\r\n\r\n{GET}"), &["400 0x0d"]);
    check(format!("\n{GET}"), &["400 line feed"]);
    check(format!(" {GET}"), &["400 0x20"]);
    for byte in ["\0", "\u{1}", "\u{b}", "\u{1b}", "\u{7f}"] {
        check_headers(&format!("X: a{byte}b\r\n"), &["400 in a header"]);
        check_headers(&format!("X{byte}: b\r\n"), &["400 in a header"]);
        check(format!("GET /{byte} HTTP/1.1\r\nHost: a\r\n\r\n"), &["400 in the request line"]);
    }
    for line in [":", ": x", "X", "X y", "X :y", "X\t: y", "X y: z", "X(: y", "\"X\": y", "X\u{e9}: y", "[: y"] {
        check_headers(&format!("{line}\r\n"), &["400 right before a colon"]);
    }
    check([0x16, 3, 1, 2, 0, 1, 0], &["400 TLS"]);
    check("GET / HTTP/1.1\r\nHost: a\r\n", &["400 within a request"]);
    check("G", &["400 within a request"]);
}

#[test]
fn request_lines() {
    for line in
        ["GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET / HTTP/1.1 ", "GET /", "GET", "GET / x HTTP/1.1", "GET /HTTP/1.1"]
    {
        check(format!("{line}\r\nHost: a\r\n\r\n"), &["400 the request line"]);
    }
    for line in
        ["G@T / HTTP/1.1", "GET / http/1.1", "GET / HTTP/1", "GET / HTTP/1.10", "GET / HTTP/11.1", "GET / ICY/1.1"]
    {
        check(format!("{line}\r\nHost: a\r\n\r\n"), &["400 the request line"]);
    }
    check("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", &["400 0x09"]);
    check("@ET / HTTP/1.1\r\nHost: a\r\n\r\n", &["400 0x40"]);
    for version in ["2.0", "1.2", "0.9", "9.9"] {
        check(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"), &["505 HTTP/1.1 or HTTP/1.0"]);
    }
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["505 HTTP/2.0"]);
}

#[test]
fn targets() {
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    for odd in ["*", "a", "x/y", "a:80", "https://a/", "ftp://a/", "http:/a", "//"] {
        let expected: &[&str] = if odd == "//" { &["GET //"] } else { &["400 the target"] };
        check(target(odd), expected);
    }
    for odd in ["/%", "/%4", "/%4g", "/%ff", "/?%zz", "/?%ff"] {
        check(target(odd), &["400 found"]);
    }
    check(target("/%00"), &["400 control character"]);
    check(target("/x%0d%0aSet-Cookie:%20a"), &["400 control character"]);
    check(target("/#a"), &["400 fragment"]);
    check(target("/caf\u{e9}"), &["400 0xc3"]);
    check(target("http://b/"), &["400 expected the same"]);
    check(target("http:///"), &["400 expected the same"]);
    check(target("http://x@a/"), &["400 expected the same"]);
    check("GET http://x@a/ HTTP/1.0\r\n\r\n", &["400 a host and perhaps a port"]);
    check("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", &["501 CONNECT"]);
    check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &["501 OPTIONS"]);
}

#[test]
fn hosts() {
    check("GET / HTTP/1.1\r\n\r\n", &["400 no Host"]);
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &["400 twice"]);
    check("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", &["400 twice"]);
    for host in ["a b", "a/b", "a, b", "x@a", "a?", "a#", "a\\b", "\u{e9}"] {
        check(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), &["400 a host and perhaps a port"]);
    }
}

#[test]
fn expectations() {
    check_headers("Content-Length: 5\r\nExpect: 200-ok\r\n", &["417 100-continue"]);
    check_headers("Content-Length: 5\r\nExpect:\r\n", &["417 100-continue"]);
    check_headers("Content-Length: 5\r\nExpect: 100-continue\r\nExpect: x\r\n", &["417 100-continue"]);
    check("GET / HTTP/1.0\r\nExpect: x\r\n\r\n", &["GET /"]);
}

#[test]
fn sizes() {
    let head = |length: usize| {
        let begin = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{begin}{}\r\n\r\n", "x".repeat(length - begin.len() - 4))
    };
    check(head(400), &["GET /"]);
    check(head(401), &["431 within 400 bytes"]);
    check(format!("GET /{} HTTP/1.1\r\n", "x".repeat(400)), &["414 within 400 bytes"]);
    let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    check(many(8), &["GET /"]);
    check(many(9), &["431 more than 8 headers"]);
}

#[track_caller]
fn check_chunks(chunks: impl AsRef<[u8]>, expected: &[&str]) {
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
    check([head.as_bytes(), chunks.as_ref()].concat(), expected);
}

#[test]
fn chunks() {
    check_chunks("0\r\n\r\n", &["POST /x"]);
    check_chunks(format!("5\r\nhello\r\n0\r\n\r\n{GET}"), &["POST /x hello", "GET /"]);
    check_chunks(
        format!("00000002;a=\"b c\";d\r\nhe\r\n3\r\nllo\r\n000\r\nX: y\r\nZ:\r\n\r\n{GET}"),
        &["POST /x hello", "GET /"],
    );
    check_chunks(
        format!("a\r\n{}\r\nB\r\n{}\r\n0\r\n\r\n", "x".repeat(10), "y".repeat(11)),
        &["POST /x xxxxxxxxxxyyyyyyyyyyy"],
    );
    for odd in ["", " 5", "5 ", "+5", "-5", "0x5", "5_0", "5,", "\t5", "5\t", "x", "\u{665}", "5 ;a", "\"5\""] {
        check_chunks(format!("{odd}\r\nhello\r\n0\r\n\r\n"), &["400 in a chunk's size"]);
    }
    check_chunks("5;\r\nhello\r\n0\r\n\r\n", &["400 extension"]);
    check_chunks("5; a\r\nhello\r\n0\r\n\r\n", &["400 extension"]);
    check_chunks("5;a\0\r\nhello\r\n0\r\n\r\n", &["400 extension"]);
    check_chunks("5;a\nhello\r\n0\r\n\r\n", &["400 extension"]);
    check_chunks("5\nhello\r\n0\r\n\r\n", &["400 in a chunk's size"]);
    check_chunks("5\rhello\r\n0\r\n\r\n", &["400 line feed"]);
    check_chunks("5\r\nhello0\r\n\r\n", &["400 behind a chunk"]);
    check_chunks("5\r\nhello\n0\r\n\r\n", &["400 behind a chunk"]);
    check_chunks("5\r\nhello!\r\n0\r\n\r\n", &["400 behind a chunk"]);
    check_chunks("4\r\nhello\r\n0\r\n\r\n", &["400 behind a chunk"]);
    check_chunks("6\r\nhello\r\n0\r\n\r\n", &["400 behind a chunk"]);
    check_chunks("5\r\nhello\r\n0\r\n", &["400 within a request"]);
}

#[test]
fn trailers() {
    let trailers = |trailers: &str| format!("0\r\n{trailers}\r\n\r\n");
    for odd in [":", "X", "X : y", " X: y", "X y: z", "X: y\n", "X: y\0"] {
        check_chunks(trailers(odd), &["400 trailer"]);
    }
    check_chunks("0\r\n\n", &["400 trailer"]);
    check_chunks("0\r\nX: y\r\r\n\r\n", &["400 line feed"]);
    check_chunks("0\r\n\rX", &["400 line feed"]);
    check_chunks(trailers(&format!("X:{}", "y".repeat(4094))), &["POST /x"]);
    check_chunks(trailers(&format!("X:{}", "y".repeat(4095))), &["431 trailers"]);
}

#[test]
fn sizes_of_chunks() {
    check_chunks("000000005\r\nhello\r\n0\r\n\r\n", &["400 8 digits"]);
    check_chunks("ffffffff\r\n", &["413 at most 100"]);
    check_chunks(format!("64\r\n{}\r\n0\r\n\r\n", "x".repeat(100)), &[&format!("POST /x {}", "x".repeat(100))]);
    check_chunks("65\r\n", &["413 at most 100"]);
    check_chunks(format!("64\r\n{}\r\n1\r\n", "x".repeat(100)), &["413 at most 100"]);
    let extended = |length: usize| format!("1;{}\r\nx\r\n1;{}\r\ny\r\n0\r\n\r\n", "a".repeat(1000), "a".repeat(length));
    check_chunks(extended(24), &["POST /x xy"]);
    check_chunks(extended(25), &["400 1024 bytes of chunk extensions"]);
}
