//! A server in a process that has no descriptor left: it waits, and does not spin; then it goes on. In a process of its own, since
//! nobody else there could open anything either.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use forebay::http::{Limits, Listener, Replier, Request, Response, Served, Server, Service, Status, Ticket};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::client::{Client, DEADLINE};

const CHILD: &str = "http::descriptors::in_a_process_of_its_own";

#[test]
fn without_descriptors_it_waits() {
    let binary = std::env::current_exe().unwrap();
    let output = Command::new(binary).args(["--exact", CHILD, "--ignored"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

struct Yes;

impl Service for Yes {
    fn serve(&mut self, _: &Request<'_>, _: Ticket) -> Served {
        Served::Now(Response::text(Status::OK, "yes"))
    }
}

#[test]
#[ignore = "run by without_descriptors_it_waits"]
fn in_a_process_of_its_own() {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::new(vec![listener], Limits::default(), |_: Replier| Yes).unwrap();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::tcp(address)).collect();
    for client in &mut clients {
        client.get("/");
    }
    let Client::Tcp(stream) = &clients[0] else { unreachable!() };
    let spare = use_all_up(stream);
    let (start, mut steps) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        server.step(Duration::from_millis(100)).unwrap();
        steps += 1;
    }
    assert_eq!(server.counts().accepted, 0);
    let errors = server.counts().accept_errors;
    assert!((1..10).contains(&errors) && steps < 30, "{errors} errors in {steps} steps");
    drop(spare);
    let start = Instant::now();
    while server.counts().requests < 3 {
        server.step(Duration::from_millis(100)).unwrap();
        assert!(start.elapsed() < DEADLINE, "it goes on");
    }
    for client in &mut clients {
        assert_eq!(client.answer().text(), "yes");
    }
}

/// Copies of a descriptor, until there can be no more.
fn use_all_up(some: &impl std::os::fd::AsFd) -> Vec<OwnedFd> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(64);
    setrlimit(Resource::Nofile, limit).unwrap();
    let copy = || some.as_fd().try_clone_to_owned().ok();
    std::iter::from_fn(copy).collect()
}
