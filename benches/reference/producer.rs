//! The producer of steady traffic, in a process of its own: an open loop. Each record has a time at which it should be sent,
//! and carries it; whether anybody is slow does not move these times.

use std::fmt::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::producer::Producer;

use super::Outcome;
use super::arguments::Arguments;
use super::workload::{self, producer, record_key, send};

/// It looks so often what is due.
const TICK: Duration = Duration::from_micros(500);

/// Publishes in another process and waits for it; returns by how many ms a record was handed to librdkafka too late, at most.
pub fn produce(a: &Arguments, topic: &str) -> Outcome<f64> {
    produce_as("producer-child", a, topic)
}

/// As [`produce`], by a process of another mode, which ends in [`child_as`].
pub fn produce_as(mode: &str, a: &Arguments, topic: &str) -> Outcome<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args([
            mode,
            "--skew",
            &a.skew.to_string(),
            "--topic",
            topic,
            "--keys",
            &a.keys.to_string(),
            "--linger",
            &a.linger,
        ])
        .args(["--rate", &a.rate.to_string(), "--seconds", &a.seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() { Ok(text.trim().parse()?) } else { Err("the producer failed".into()) }
}

/// The payload of the reference job with the time at which it is to be sent, in µs since the Unix epoch.
pub fn payload_sent(n: u64, a: &Arguments, sent_us: u128) -> String {
    let mut value = workload::payload(n, a);
    value.pop();
    // Writing to a String cannot fail.
    let _ = write!(value, ",\"sent_us\":{sent_us}}}");
    value
}

/// The process's own part.
pub fn child(a: &Arguments) -> Outcome<()> {
    child_as(a, |n, sent_us| payload_sent(n, a, sent_us))
}

/// The same with payloads of another form.
pub fn child_as(a: &Arguments, payload: impl Fn(u64, u128) -> String) -> Outcome<()> {
    let producer = producer(a, &[("linger.ms", &a.linger), ("queue.buffering.max.messages", "1000000")])?;
    // The connection first: it is not what is measured.
    producer.client().fetch_metadata(Some(&a.topic), Duration::from_secs(20))?;
    let begin = Instant::now() + Duration::from_millis(200);
    let begin_us = (SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_millis(200)).as_micros();
    let (all, mut n, mut late_max) = (a.rate * a.seconds, 0, Duration::ZERO);
    while n < all {
        let due = Instant::now().saturating_duration_since(begin).as_nanos() * u128::from(a.rate) / 1_000_000_000;
        while n < all && u128::from(n) < due {
            let after_us = u128::from(n) * 1_000_000 / u128::from(a.rate);
            send(&producer, &a.topic, &record_key(n, a), &payload(n, begin_us + after_us))?;
            let late = begin.elapsed().saturating_sub(Duration::from_micros(after_us as u64));
            late_max = late_max.max(late);
            n += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(TICK);
    }
    producer.flush(Duration::from_secs(60))?;
    println!("{}", late_max.as_secs_f64() * 1e3);
    Ok(())
}
