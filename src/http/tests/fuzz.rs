//! Whatever a peer sends, in whatever pieces. `PROPTEST_CASES=1000000 cargo test --release --lib http::tests::fuzz` looks longer.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::reference;
use super::script::{Message, Outcome, run};

/// As many as the environment says, or enough for every day.
fn cases() -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 2000 };
    ProptestConfig { cases, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_in_any_pieces_are_the_same(bytes in prop_oneof![any_bytes(), soup(), mutated()], cuts in cuts()) {
        let whole = run(&[&bytes]);
        prop_assert_eq!(&whole, &run(&pieces(&bytes, &cuts)));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&whole, &run(&single));
    }

    #[test]
    fn valid_requests_come_out_as_they_went_in(requests in pipeline(), cuts in cuts()) {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| request.bytes.clone()).collect();
        let outcome = run(&pieces(&bytes, &cuts));
        let messages: Vec<Message> = requests.into_iter().map(|request| request.message).collect();
        prop_assert_eq!(outcome, Outcome { messages, refused: None });
    }

    #[test]
    fn everything_is_understood_as_a_strict_reader_does(bytes in prop_oneof![1 => soup(), 3 => mutated()]) {
        let outcome = run(&[&bytes]);
        let (messages, clean) = reference::read(&bytes);
        prop_assert_eq!(&outcome.messages, &messages);
        prop_assert_eq!(outcome.refused.is_none(), clean, "{:?}", outcome.refused);
    }
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

/// What HTTP is made of, in any order.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: &[&str] = &[
        "GET",
        "POST",
        "HEAD",
        "CONNECT",
        "OPTIONS",
        " ",
        "/",
        "*",
        "/a%2Fb",
        "/%zz",
        "?q=%41",
        "#",
        "http://a",
        "HTTP/1.1",
        "HTTP/1.0",
        "HTTP/2.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "\t",
        "\0",
        ":",
        "Host",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length:",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:",
        "chunked",
        "identity",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Expect",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "5;a=b\r\n",
        "+5",
        "0x5",
        "ffffffffff",
        "hello",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\n",
        "\u{e9}",
        "5, 5",
        ",",
    ];
    prop::collection::vec(select(PARTS), 0..24).prop_map(|parts| parts.concat().into_bytes())
}

/// Requests that were valid before something happened to them.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    (pipeline(), prop::collection::vec(mutation(), 0..4)).prop_map(|(requests, mutations)| {
        let mut bytes: Vec<u8> = requests.into_iter().flat_map(|request| request.bytes).collect();
        for mutation in mutations {
            mutation.apply(&mut bytes);
        }
        bytes
    })
}

#[derive(Debug, Clone)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, &'static str),
    Delete(Index, usize),
    /// A line again, there or elsewhere.
    Repeat(Index, Index),
    Truncate(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    const INSERTS: &[&str] = &[
        " ",
        "\t",
        "\r",
        "\n",
        "\r\n",
        "\r\n ",
        "\0",
        ":",
        ";",
        ",",
        "0",
        "5",
        "+",
        "-",
        "x",
        "%",
        "\u{b}",
        "\u{7f}",
        "\u{85}",
        "chunked",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Host: b\r\n",
        "X: y\r\n",
        "Connection: close\r\n",
        "0\r\n\r\n",
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (any::<Index>(), select(INSERTS)).prop_map(|(at, text)| Mutation::Insert(at, text)),
        (any::<Index>(), 1_usize..4).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
        any::<Index>().prop_map(Mutation::Truncate),
    ]
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Mutation::Set(at, byte) => bytes[at.index(length)] = *byte,
            Mutation::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Mutation::Insert(at, text) => {
                let at = at.index(length);
                bytes.splice(at..at, text.bytes());
            }
            Mutation::Delete(at, count) => {
                let at = at.index(length);
                bytes.drain(at..(at + count).min(length));
            }
            Mutation::Repeat(from, to) => {
                let lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let mut changed = lines.clone();
                changed.insert(to.index(lines.len()), lines[from.index(lines.len())].clone());
                *bytes = changed.concat();
            }
            Mutation::Truncate(at) => bytes.truncate(at.index(length)),
        }
    }
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..8)
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).filter(|piece| !piece.is_empty()).collect()
}

/// A request as it is sent, and as it must be understood.
#[derive(Debug, Clone)]
struct Sent {
    bytes: Vec<u8>,
    message: Message,
}

fn pipeline() -> impl Strategy<Value = Vec<Sent>> {
    prop::collection::vec(request(), 1..7)
}

fn request() -> impl Strategy<Value = Sent> {
    let method = prop_oneof![3 => select(&["GET", "PUT", "POST", "HEAD", "DELETE"][..]).prop_map(str::to_owned), 1 => "[A-Z!#~]{1,8}"];
    let method = method.prop_filter("not served", |method| method != "CONNECT");
    let path = prop::collection::vec(
        select(&["a", "/", "~", "%41", "%2f", "%25", "%c3%a9", "..", "@", "(", "\"", "|"][..]),
        0..6,
    );
    let query = prop::option::of("[a-z=&+]{0,6}(%41|%C3%A9|%00)?");
    let headers = prop::collection::vec(("X-[A-Za-z0-9!_.]{1,6}", "[ \t]{0,2}", value(), "[ \t]{0,2}"), 0..4);
    let body = prop::collection::vec(any::<u8>(), 0..30);
    (method, path, query, headers, body, sending()).prop_map(|(method, path, query, headers, body, sending)| {
        let path = format!("/{}", path.concat());
        let target = query.map_or(path.clone(), |query| format!("{path}?{query}"));
        let mut lines = vec![("Host".to_owned(), b"a.example:80".to_vec())];
        let mut bytes = if sending.blank_line { b"\r\n".to_vec() } else { Vec::new() };
        bytes.extend(format!("{method} {target} HTTP/1.1\r\nHost: a.example:80\r\n").as_bytes());
        for (name, before, value, behind) in headers {
            bytes.extend([name.as_bytes(), b":", before.as_bytes(), &value, behind.as_bytes(), b"\r\n"].concat());
            lines.push((name, value));
        }
        let framing = sending.framing(&body);
        for (name, value) in &framing {
            bytes.extend(format!("{name}: {value}\r\n").as_bytes());
            lines.push((name.to_string(), value.clone().into_bytes()));
        }
        bytes.extend(b"\r\n");
        let body = if framing.is_empty() { Vec::new() } else { body };
        sending.write(&body, &mut bytes);
        let path = path.replace("%41", "A").replace("%2f", "%2F").replace("%c3%a9", "é");
        Sent { bytes, message: Message { method, target, path, http11: true, headers: lines, body } }
    })
}

/// What a header may hold, without blanks around it.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let inner = prop_oneof![8 => 0x21_u8..0x7f, 1 => 0x80_u8..=0xff, 1 => select(&b" \t"[..])];
    prop::collection::vec(inner, 0..12).prop_map(|value| {
        let text: Vec<u8> = value;
        text.trim_ascii().to_vec()
    })
}

/// How a body is sent.
#[derive(Debug, Clone)]
struct Sending {
    blank_line: bool,
    expect: bool,
    /// None: with a length.
    chunk_sizes: Option<Vec<usize>>,
    extension: &'static str,
    trailers: &'static str,
    zeros: usize,
    upper: bool,
}

fn sending() -> impl Strategy<Value = Sending> {
    let sizes = prop::option::of(prop::collection::vec(1_usize..12, 1..6));
    let extension = select(&["", ";a", ";a=b", ";a=\"b c\";d"][..]);
    let trailers = select(&["", "X-Sum: 1\r\n", "Content-Length: 7\r\nHost:b\r\n"][..]);
    (any::<bool>(), any::<bool>(), sizes, extension, trailers, 0_usize..4, any::<bool>()).prop_map(
        |(blank_line, expect, chunk_sizes, extension, trailers, zeros, upper)| Sending {
            blank_line,
            expect,
            chunk_sizes,
            extension,
            trailers,
            zeros,
            upper,
        },
    )
}

impl Sending {
    fn framing(&self, body: &[u8]) -> Vec<(&'static str, String)> {
        let framing = match &self.chunk_sizes {
            Some(_) => ("transfer-Encoding", if self.upper { "Chunked" } else { "chunked" }.to_owned()),
            None => ("Content-length", format!("{}{}", "0".repeat(self.zeros), body.len())),
        };
        match (self.expect, body.is_empty() && self.chunk_sizes.is_none() && self.zeros == 0) {
            (_, true) => Vec::new(),
            (true, _) => vec![("Expect", "100-continue".to_owned()), framing],
            (false, _) => vec![framing],
        }
    }

    fn write(&self, mut body: &[u8], out: &mut Vec<u8>) {
        let Some(sizes) = &self.chunk_sizes else {
            out.extend(body);
            return;
        };
        let zeros = "0".repeat(self.zeros);
        for size in sizes.iter().cycle() {
            let (chunk, rest) = body.split_at((*size).min(body.len()));
            let size = if self.upper { format!("{:X}", chunk.len()) } else { format!("{:x}", chunk.len()) };
            out.extend(format!("{zeros}{size}{}\r\n", self.extension).as_bytes());
            if chunk.is_empty() {
                out.extend(format!("{}\r\n", self.trailers).as_bytes());
                return;
            }
            out.extend(chunk);
            out.extend(b"\r\n");
            body = rest;
        }
    }
}
