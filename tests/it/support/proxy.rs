//! A way to a service that can be cut: a TCP forwarder that, when told to, drops connections at the moment an answer comes
//! back, so that the service has done what was asked and nobody hears of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

/// How many answers pass, on average, before one is lost. Zero: all of them pass.
#[derive(Default)]
struct Losses {
    one_in: AtomicU32,
    lost: AtomicU32,
    over: AtomicBool,
}

/// Forwards connections until it is dropped.
pub struct Proxy {
    port: u16,
    losses: Arc<Losses>,
}

impl Proxy {
    /// To a port of this machine.
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("its address").port();
        let losses = Arc::new(Losses::default());
        let shared = Arc::clone(&losses);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    forward(client, server, &shared);
                }
            }
        });
        Proxy { port: own, losses }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on one answer in so many is lost, and its connection with it; 0 loses none.
    pub fn lose_one_in(&self, answers: u32) {
        self.losses.one_in.store(answers, Ordering::SeqCst);
    }

    /// How many were lost so far.
    pub fn lost(&self) -> u32 {
        self.losses.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.losses.over.store(true, Ordering::SeqCst);
        // Ends the wait for the next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn forward(client: TcpStream, server: TcpStream, losses: &Arc<Losses>) {
    let (Ok(client_in), Ok(server_in)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || pump(client_in, server, || true));
    let losses = Arc::clone(losses);
    thread::spawn(move || {
        pump(server_in, client, || {
            let one_in = losses.one_in.load(Ordering::SeqCst);
            let passes = one_in == 0 || fastrand::u32(..one_in) != 0;
            if !passes {
                losses.lost.fetch_add(1, Ordering::SeqCst);
            }
            passes
        });
    });
}

/// Copies until one side ends or `passes` says no; then both are closed.
fn pump(mut from: TcpStream, mut to: TcpStream, passes: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !passes() || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
