//! A client's keep-alive connection that never waits: one request at a time, sent as far as the socket takes it, and its answer read as
//! far as it is there. It knows nothing of schedules.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// An answer of the gateway is a small JSON object.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 32;
const READ_BYTES: usize = 4096;

/// What came of looking after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Nothing,
    /// It is connected, and may be given a request.
    Ready,
    /// It could not be made.
    Refused,
    /// The request was answered with this status; it may be given another one, unless the server closes.
    Answered {
        status: u16,
        closes: bool,
    },
    /// It is gone; `busy`: and with it the answer that was waited for.
    Gone {
        busy: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Idle,
    Busy,
    Gone,
}

/// See the module's text.
pub struct Connection {
    stream: TcpStream,
    state: State,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
}

impl Connection {
    /// Begins to connect; events come under `token`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(address: SocketAddr, registry: &Registry, token: Token) -> std::io::Result<Connection> {
        let mut stream = TcpStream::connect(address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (out, input) = (Vec::new(), Vec::with_capacity(READ_BYTES));
        Ok(Connection { stream, state: State::Connecting, out, sent: 0, input })
    }

    pub fn is_busy(&self) -> bool {
        self.state == State::Busy
    }

    /// Sends a request. Its answer, or the end, comes with [`progress`](Connection::progress).
    pub fn send(&mut self, request: &[u8]) -> Progress {
        debug_assert_eq!(self.state, State::Idle, "one request at a time");
        self.out.clear();
        self.out.extend_from_slice(request);
        self.sent = 0;
        self.input.clear();
        self.state = State::Busy;
        self.write()
    }

    /// To be called when there was an event of it.
    pub fn progress(&mut self) -> Progress {
        match self.state {
            State::Gone => Progress::Nothing,
            State::Connecting => self.connected(),
            State::Idle => self.listen(),
            State::Busy => match self.write() {
                Progress::Nothing => self.read(),
                gone => gone,
            },
        }
    }

    /// As connect(2) has it: writable, no error, and a peer.
    fn connected(&mut self) -> Progress {
        match (self.stream.take_error(), self.stream.peer_addr()) {
            (Ok(None), Ok(_)) => {
                let _ = self.stream.set_nodelay(true);
                self.state = State::Idle;
                Progress::Ready
            }
            (Ok(None), Err(error)) if error.kind() == ErrorKind::NotConnected => Progress::Nothing,
            _ => {
                self.state = State::Gone;
                Progress::Refused
            }
        }
    }

    fn gone(&mut self) -> Progress {
        let busy = self.state == State::Busy;
        self.state = State::Gone;
        Progress::Gone { busy }
    }

    /// Nothing but its end is to come.
    fn listen(&mut self) -> Progress {
        match self.stream.read(&mut [0; 1]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Progress::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => Progress::Nothing,
            _ => self.gone(),
        }
    }

    fn write(&mut self) -> Progress {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => return self.gone(),
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.gone(),
            }
        }
        Progress::Nothing
    }

    fn read(&mut self) -> Progress {
        loop {
            let mut bytes = [0; READ_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => return self.gone(),
                Ok(length) => self.input.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.gone(),
            }
            match answer(&self.input) {
                Answer::More if self.input.len() <= ANSWER_BYTES_MAX => {}
                Answer::Whole { status, closes } => {
                    self.state = if closes { State::Gone } else { State::Idle };
                    return Progress::Answered { status, closes };
                }
                Answer::More | Answer::Strange => return self.gone(),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    More,
    Whole {
        status: u16,
        closes: bool,
    },
    /// No HTTP that the gateway would speak: every answer of it says how long it is.
    Strange,
}

fn answer(bytes: &[u8]) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Answer::More,
        Err(_) => return Answer::Strange,
    };
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = value("content-length").and_then(|length| length.trim().parse::<usize>().ok());
    let closes = value("connection").is_some_and(|value| value.trim().eq_ignore_ascii_case("close"));
    match (length, response.code) {
        (Some(length), Some(status)) if bytes.len() == head + length => Answer::Whole { status, closes },
        (Some(length), Some(_)) if bytes.len() < head + length => Answer::More,
        _ => Answer::Strange,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as StdStream};
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn answers_are_read_whole() {
        let check = |text: &str, expectation| assert_eq!(answer(text.as_bytes()), expectation, "{text:?}");
        let whole = "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
        check(whole, Answer::Whole { status: 202, closes: false });
        for end in 0..whole.len() {
            check(&whole[..end], Answer::More);
        }
        check(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n",
            Answer::Whole { status: 503, closes: true },
        );
        check(&format!("{whole}x"), Answer::Strange);
        check("HTTP/1.1 200 OK\r\n\r\n", Answer::Strange);
        check("SMTP ready", Answer::Strange);
    }

    fn until(poll: &mut Poll, connection: &mut Connection, wanted: impl Fn(Progress) -> bool) -> Progress {
        let mut events = Events::with_capacity(8);
        for _ in 0..200 {
            let found = connection.progress();
            if wanted(found) {
                return found;
            }
            poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
        }
        panic!("it did not come");
    }

    #[test]
    fn a_request_goes_out_whole_and_its_answer_may_come_in_pieces() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut poll = Poll::new().unwrap();
        let address = listener.local_addr().unwrap();
        let mut connection = Connection::open(address, poll.registry(), Token(0)).unwrap();
        let (mut server, _): (StdStream, _) = listener.accept().unwrap();
        assert_eq!(until(&mut poll, &mut connection, |found| found != Progress::Nothing), Progress::Ready);
        // More than the sockets hold.
        let request = vec![b'x'; 8 << 20];
        assert_eq!(connection.send(&request), Progress::Nothing);
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 8 << 20];
            server.read_exact(&mut bytes).unwrap();
            for part in ["HTTP/1.1 200 OK\r\nContent-", "Length: 2\r\n\r\n{", "}"] {
                server.write_all(part.as_bytes()).unwrap();
            }
            server
        });
        let answered = Progress::Answered { status: 200, closes: false };
        assert_eq!(until(&mut poll, &mut connection, |found| found != Progress::Nothing), answered);
        drop(reader.join().unwrap());
        let gone = Progress::Gone { busy: false };
        assert_eq!(until(&mut poll, &mut connection, |found| found != Progress::Nothing), gone);
    }
}
