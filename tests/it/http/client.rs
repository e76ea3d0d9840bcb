//! A client that sends what it is told to, and reads answers strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether it says that the connection ends.
    pub fn ends(&self) -> bool {
        self.head.contains("\r\nConnection: close\r\n")
    }
}

impl Client {
    pub fn tcp(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Client::Tcp(stream)
    }

    pub fn unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("somebody listens");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client::Unix(stream)
    }

    pub fn read_timeout(&self, timeout: Duration) {
        match self {
            Client::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Client::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
        .unwrap();
    }

    pub fn write_timeout(&self, timeout: Duration) {
        match self {
            Client::Tcp(stream) => stream.set_write_timeout(Some(timeout)),
            Client::Unix(stream) => stream.set_write_timeout(Some(timeout)),
        }
        .unwrap();
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the server takes it");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Client::Tcp(stream) => stream.write_all(bytes),
            Client::Unix(stream) => stream.write_all(bytes),
        }
    }

    pub fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }

    /// Whether something came, or the end did, that was not read yet.
    pub fn has_something(&self) -> bool {
        let Client::Tcp(stream) = self else { unreachable!("asked of TCP only") };
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// No more requests; answers still come.
    pub fn end(&mut self) {
        match self {
            Client::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Client::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .unwrap();
    }

    pub fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Client::Tcp(stream) => stream.read(bytes),
            Client::Unix(stream) => stream.read(bytes),
        }
    }

    /// The next answer, with its body.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                other => panic!("{other:?} behind {:?}", String::from_utf8_lossy(&head)),
            }
        }
        let head = String::from_utf8(head).expect("a head is text");
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok()).expect("a status line");
        let length = head
            .split_once("Content-Length: ")
            .map_or(0, |(_, rest)| rest.split('\r').next().unwrap().parse().unwrap());
        let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
        let mut at = 0;
        while at < body.len() {
            match self.read(&mut body[at..]) {
                Ok(length) if length > 0 => at += length,
                other => panic!("{other:?} within a body, behind {at} of {length} bytes"),
            }
        }
        Answer { status, head, body }
    }

    /// Nothing more comes, and the connection ends as it should.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let mut byte = [0];
        match self.read(&mut byte) {
            Ok(0) => {}
            other => panic!("{other:?} instead of the end: {byte:?}"),
        }
    }

    /// The connection is gone, in whatever way.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        let mut bytes = [0; 64 << 10];
        loop {
            match self.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error} instead of the end"),
            }
        }
    }
}
