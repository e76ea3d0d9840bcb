//! What the integration tests share: where the services are, databases and topics of a test's own, and waiting for a
//! condition instead of sleeping. Nothing in here knows forebay itself.

// Each helper is there for the tests that need it; not every helper has a user at every moment.
#![allow(dead_code, unused_imports)]

mod admin;
mod chromium;
mod config;
mod database;
mod forebay;
mod pgbouncer;
mod prometheus;
mod proxy;
mod replica;
mod services;
mod topic;

use std::env;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use admin::Admin;
pub use chromium::Chromium;
pub use config::{handler_config, shard};
pub use database::{Database, Server};
pub use forebay::{Ended, Forebay, PATIENCE, Rig};
pub use pgbouncer::{Pgbouncer, bound_the_role, port_of};
pub use prometheus::{Exporter, Prometheus};
pub use proxy::Proxy;
pub use replica::Replica;
pub use services::{OwnServices, Service, Stop};
pub use topic::{Published, Topic, produce, produce_at, publish_records, topics_and_groups};

/// What a test says when a service is not there.
pub const HOW_TO_START: &str = "start them with bin/services up";

/// How often [`wait_until`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The broker's address, as `bootstrap.servers` wants it. Panics if nothing listens there.
pub fn kafka_bootstrap() -> String {
    let address = env::var("FOREBAY_TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".to_owned());
    let socket: SocketAddr =
        address.parse().unwrap_or_else(|e| panic!("FOREBAY_TEST_KAFKA={address} is not an address and a port: {e}"));
    if let Err(e) = TcpStream::connect_timeout(&socket, Duration::from_secs(5)) {
        panic!("Kafka at {address} does not answer ({e}): {HOW_TO_START}");
    }
    address
}

/// The connection string of PostgreSQL cluster A: role `forebay`, a superuser, in database `forebay`.
pub fn pg_dsn_a() -> String {
    env::var("FOREBAY_TEST_PG_A").unwrap_or_else(|_| "host=127.0.0.1 port=15431 user=forebay dbname=forebay".to_owned())
}

/// The same for cluster B.
pub fn pg_dsn_b() -> String {
    env::var("FOREBAY_TEST_PG_B").unwrap_or_else(|_| "host=127.0.0.1 port=15432 user=forebay dbname=forebay".to_owned())
}

/// A name that no other test, process or earlier run uses. Fit for a topic, a consumer group, and (lower case, no
/// dashes) a database or a table.
pub fn unique_name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
    format!("{prefix}_{}_{micros:x}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `condition` holds, at most `deadline` from now; panics with `what` after that.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "still waiting after {deadline:?} for: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Runs a future on this thread. librdkafka's administration calls come as futures that a thread of its own completes.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
