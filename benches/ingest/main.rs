//! What the gateway takes: acknowledged requests a second with 1,024 connections, relative to the same HTTP server answering without Kafka, driven
//! by a generator of our own and by `wrk`, where there is one; latency with 64 connections at half that rate, from the time at which a request
//! should have been sent, and at full speed by `wrk`, which knows no rate; CPU time of its process for each request; and its memory with 10,000
//! idle connections. Kafka, the gateway and the clients share the machine.
//!
//! `bin/services up && eval "$(bin/services env)" && cargo bench --bench ingest`

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod gateway;
mod generator;
mod wrk;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use forebay::bench::median;
use gateway::{Gateway, Setup, without_kafka};
use generator::{load, paced};

const WARM_UP: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;
pub const CONNECTIONS: usize = 1024;
const FEW: usize = 64;
const IDLE: usize = 10_000;

fn main() {
    raise_descriptors();
    let setup = Setup::new();
    let rate = compare(&setup, "the generator", |address| {
        load(address, CONNECTIONS, WARM_UP);
        let start = Instant::now();
        let answered = load(address, CONNECTIONS, ROUND);
        (answered, answered as f64 / start.elapsed().as_secs_f64())
    });
    let gateway = Gateway::start(&setup);
    let latency = paced(gateway.address, FEW, rate / 2.0, ROUND);
    let ms = |q: f64| latency.value_at_quantile(q) as f64 / 1000.0;
    println!(
        "{FEW} connections at {:.0} requests/s: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, of {} requests",
        rate / 2.0,
        ms(0.5),
        ms(0.99),
        ms(0.999),
        latency.len()
    );
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| TcpStream::connect(gateway.address).expect("a connection")).collect();
    load(gateway.address, 1, WARM_UP);
    println!("{IDLE} idle connections: {} MB", gateway.resident() >> 20);
    drop((idle, gateway));
    match wrk::is_there() {
        true => with_wrk(&setup),
        false => println!("no wrk on the PATH: bin/install-deps bench brings it"),
    }
}

fn with_wrk(setup: &Setup) {
    compare(setup, "wrk", |address| {
        wrk::run(address, CONNECTIONS, WARM_UP);
        let counted = wrk::run(address, CONNECTIONS, ROUND);
        (counted.requests, counted.rate)
    });
    let gateway = Gateway::start(setup);
    wrk::run(gateway.address, FEW, WARM_UP);
    let counted = wrk::run(gateway.address, FEW, ROUND);
    println!(
        "wrk, {FEW} connections at full speed: {:.0} requests/s, p50 {:?}, p99 {:?}",
        counted.rate, counted.p50, counted.p99
    );
}

/// Requests a second that the gateway acknowledges with many connections, beside the server alone. `drive` warms up, and says how many requests
/// were answered then, and how many a second.
fn compare(setup: &Setup, who: &str, drive: impl Fn(SocketAddr) -> (u64, f64)) -> f64 {
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (_, alone) = without_kafka(&drive);
        let gateway = Gateway::start(setup);
        let (there, before) = (setup.records(), gateway.cpu());
        let (accepted, rate) = drive(gateway.address);
        let (all, cpu) = (setup.records() - there, gateway.cpu() - before);
        assert!(all >= accepted, "what was acknowledged is there: {all} of {accepted}");
        println!(
            "{who}, {CONNECTIONS} connections: {rate:.0} acknowledged requests/s, {:.1} µs of CPU each; the server alone {alone:.0} requests/s: {:.2} of it; {} MB",
            cpu.as_secs_f64() * 1e6 / all as f64,
            rate / alone,
            gateway.resident() >> 20
        );
        ratios.push(rate / alone);
        rates.push(rate);
    }
    let (ratio, rate) = (median(&mut ratios), median(&mut rates));
    println!("{who}, median: {ratio:.2} of the server alone, {rate:.0} requests/s");
    rate
}

/// As many as may be: the clients' side of the idle connections is here.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit");
}
