//! What several benchmarks need: the bare poll loop that the source and the pipeline are compared with, and CPU times.

// Each benchmark uses a part of it.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;

/// What reading a topic from its begin brought, and how long it took from the first record to the last.
pub struct Drained {
    pub took: Duration,
    pub bytes: usize,
}

/// See `forebay bench`, which compares with the same one.
pub fn bare_consumer(bootstrap: &str, topic: &str, partitions: i32) -> BaseConsumer {
    forebay::bench::discard::bare_consumer([("bootstrap.servers", bootstrap)], topic, partitions).expect("a consumer")
}

/// The binding's own one-message poll, doing nothing with what it gets.
pub fn bare_poll(bootstrap: &str, topic: &str, partitions: i32, records: usize) -> Drained {
    let consumer = bare_consumer(bootstrap, topic, partitions);
    let (mut seen, mut bytes, mut began) = (0, 0, None);
    while seen < records {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.expect("a record");
            began.get_or_insert_with(Instant::now);
            seen += 1;
            bytes += message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len);
        }
    }
    Drained { took: began.map_or(Duration::ZERO, |began| began.elapsed()), bytes }
}

/// The first number of `schedstat` is the thread's CPU time in ns.
pub fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("/proc with scheduler statistics");
    Duration::from_nanos(text.split(' ').next().and_then(|f| f.parse().ok()).expect("a number"))
}

/// User and system time of this process, in steps of a clock tick (10 ms as a rule).
pub fn process_cpu() -> Duration {
    Duration::from_secs_f64(forebay::admin::process::cpu_seconds().expect("/proc"))
}
