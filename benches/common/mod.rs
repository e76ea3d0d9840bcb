//! What several benchmarks need: the bare poll loop that the source and the pipeline are compared with, and CPU times.

// Each benchmark uses a part of it.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;

/// Nothing came for so long: nothing will.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What reading a topic from its begin brought, and what it took from the first record to the last: time, and the process's CPU time.
#[derive(Debug)]
pub struct Drained {
    pub took: Duration,
    pub cpu: Duration,
    pub bytes: usize,
}

/// See `forebay bench`, which compares with the same one.
pub fn bare_consumer(bootstrap: &str, topic: &str, partitions: i32) -> BaseConsumer {
    forebay::bench::discard::bare_consumer([("bootstrap.servers", bootstrap)], topic, partitions).expect("a consumer")
}

/// The binding's own one-message poll, doing nothing with what it gets. An error, where nothing came for `patience` and not all records did.
pub fn bare_poll(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    records: usize,
    patience: Duration,
) -> Result<Drained, String> {
    let consumer = bare_consumer(bootstrap, topic, partitions);
    let (mut seen, mut bytes, mut began) = (0, 0, None);
    let mut of_partitions = vec![0_usize; partitions as usize];
    // Since the last record, and what was said since.
    let mut silent: Option<(Instant, String)> = None;
    while seen < records {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                began.get_or_insert_with(|| (Instant::now(), process_cpu()));
                seen += 1;
                of_partitions[message.partition() as usize] += 1;
                bytes += message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len);
                silent = None;
            }
            nothing => {
                let (since, said) = silent.get_or_insert_with(|| (Instant::now(), String::new()));
                if let Some(Err(error)) = nothing {
                    *said = format!(" ({error})");
                }
                if since.elapsed() > patience {
                    return Err(format!(
                        "bare poll loop: topic {topic} at {bootstrap}: found {seen} records, of its partitions {of_partitions:?}, expected \
                         {records}: nothing more came for {patience:?}{said}"
                    ));
                }
            }
        }
    }
    let (took, cpu) = began.map_or_else(Default::default, |(at, cpu)| (at.elapsed(), process_cpu() - cpu));
    Ok(Drained { took, cpu, bytes })
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
