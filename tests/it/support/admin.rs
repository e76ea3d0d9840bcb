//! The admin interface as programs use it: plain requests, over TCP or a Unix-domain socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use forebay::admin::status::Status;

use super::{Forebay, PATIENCE};

const TIMEOUT: Duration = Duration::from_secs(70);

/// Whom to ask.
#[derive(Debug, Clone)]
pub enum Admin {
    Tcp(String),
    Unix(PathBuf),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Forebay {
    /// Where it listens, once it says so; `[admin] listen` must be on.
    #[track_caller]
    pub fn admin(&self) -> Admin {
        const SAYS: &str = "admin interface: http://";
        let address = || {
            let log = self.log();
            let at = log.find(SAYS)? + SAYS.len();
            Some(log[at..].split('/').next()?.to_owned())
        };
        super::wait_until(PATIENCE, "the admin interface", || address().is_some());
        Admin::Tcp(address().expect("just seen"))
    }
}

impl Admin {
    /// `host:port`.
    pub fn address(&self) -> &str {
        match self {
            Admin::Tcp(address) => address,
            Admin::Unix(_) => panic!("a socket has no address"),
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).expect("somebody listens")
    }

    /// None where nobody listens, or answers.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        self.try_request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    #[track_caller]
    pub fn post(&self, path: &str, json: &str) -> Answer {
        self.post_with(path, "Content-Type: application/json\r\n", json)
    }

    /// `headers` end with a line break each.
    #[track_caller]
    pub fn post_with(&self, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.request(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
    }

    /// Sends this, and reads to the end.
    #[track_caller]
    pub fn request(&self, text: &str) -> Answer {
        self.try_request(text).expect("somebody listens")
    }

    fn try_request(&self, text: &str) -> Option<Answer> {
        let answer = match self {
            Admin::Tcp(address) => {
                let stream = TcpStream::connect(address).ok()?;
                stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
                exchange(stream, text)
            }
            Admin::Unix(path) => {
                let stream = UnixStream::connect(path).ok()?;
                stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
                exchange(stream, text)
            }
        }?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok())?;
        Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        serde_json::from_str(&self.get("/status").expect(200)).expect("what is documented")
    }

    /// Waits for a status of which this is true.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        let mut last = self.status();
        let start = std::time::Instant::now();
        while !is(&last) {
            assert!(start.elapsed() < PATIENCE, "no status with {what}; the last one: {last:#?}");
            std::thread::sleep(Duration::from_millis(50));
            last = self.status();
        }
        last
    }
}

impl Answer {
    /// Insists on a status, and returns the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        self.body
    }
}

fn exchange(mut stream: impl Read + Write, text: &str) -> Option<String> {
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    String::from_utf8(answer).ok()
}
