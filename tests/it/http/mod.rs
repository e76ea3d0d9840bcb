//! The HTTP server, over real sockets: what it does with peers that are slow, many, rude or gone.

pub mod client;
mod descriptors;
mod drain;
mod limits;
mod serve;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use forebay::http::{
    Counts, Drained, Limits, Listener, Replier, Request, Response, Served, Server, Service, Status, Stop, Ticket,
};

use client::{Client, DEADLINE};

/// A server in a thread, on a TCP port and a Unix-domain socket.
struct Running {
    address: SocketAddr,
    path: PathBuf,
    stop: Stop,
    replier: Replier,
    /// What was deferred: the last part of the path, and the right to answer.
    deferred: mpsc::Receiver<(String, Ticket)>,
    thread: JoinHandle<(Drained, Counts)>,
    _directory: tempfile::TempDir,
}

impl Running {
    fn start(limits: Limits) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = tcp.local_addr().unwrap();
        let unix = Listener::unix(&path, 0o600).unwrap();
        let (sender, deferred) = mpsc::channel();
        let mut repliers = Vec::new();
        let service = |replier: Replier| {
            repliers.push(replier);
            Desk { deferred: sender }
        };
        let mut server = Server::new(vec![tcp, unix], limits, service).unwrap();
        let stop = server.stopper();
        let run = move || {
            let drained = server.run().unwrap();
            (drained, *server.counts())
        };
        let thread = std::thread::Builder::new().name("http".into()).spawn(run).unwrap();
        Running { address, path, stop, replier: repliers.remove(0), deferred, thread, _directory: directory }
    }

    fn tcp(&self) -> Client {
        Client::tcp(self.address)
    }

    fn unix(&self) -> Client {
        Client::unix(&self.path)
    }

    /// The ticket of a request for `/later/<name>`.
    #[track_caller]
    fn ticket(&self, name: &str) -> Ticket {
        let (found, ticket) = self.deferred.recv_timeout(DEADLINE).expect("it was deferred");
        assert_eq!(found, name);
        ticket
    }

    fn answer(&self, ticket: Ticket, text: &str) {
        self.replier.answer(ticket, Response::text(Status::OK, text.to_owned()));
    }

    fn stop(self) -> (Drained, Counts) {
        self.stop.stop();
        let ended = self.thread.join().expect("the server does not panic");
        assert!(!Path::new(&self.path).exists(), "the socket file is gone");
        ended
    }
}

/// Answers at once, later, or not at all.
struct Desk {
    deferred: mpsc::Sender<(String, Ticket)>,
}

impl Service for Desk {
    fn admit(&mut self, head: &Request<'_>) -> Result<(), Response> {
        match head.path() {
            "/closed" => Err(Response::text(Status::FORBIDDEN, "not here\n")),
            _ => Ok(()),
        }
    }

    fn serve(&mut self, request: &Request<'_>, ticket: Ticket) -> Served {
        let parts: Vec<_> = request.segments().collect();
        Served::Now(match (parts[0].as_ref(), parts.get(1)) {
            ("echo", None) => Response::with_body(Status::OK, "application/octet-stream", request.body().to_vec()),
            ("peer", None) => Response::text(Status::OK, request.peer().to_string()),
            ("big", Some(bytes)) => Response::text(Status::OK, vec![b'x'; bytes.parse().unwrap()]),
            ("later", Some(name)) => {
                self.deferred.send((name.to_string(), ticket)).unwrap();
                return Served::Later;
            }
            _ => Response::problem(Status::NOT_FOUND, request.path()),
        })
    }
}
