//! Catching up while somebody looks, against catching up while nobody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Running, Target};
use super::rounds::{Rounds, load};
use super::support::Admin;
use super::workload::publish;

const LOOK_EVERY: Duration = Duration::from_millis(250);

pub fn seen(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let job = Job { target: Target::Table, topic: &topic, records: a.records, affinity: &a.affinity };
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("admin.sock");
    let unseen = Arguments { seen_at: "off".to_owned(), ..a.clone() };
    let seen = Arguments { seen_at: socket.display().to_string(), ..a.clone() };
    let (mut without, mut with, mut ratios) = (Rounds::default(), Rounds::default(), Rounds::default());
    let mut answers = Histogram::<u64>::new(2)?;
    for round in 1..=a.rounds {
        let load = load();
        let bare = engine::run(&unseen, &job)?;
        engine::fresh_table(&seen, job.target)?;
        let running = Running::start(&seen, &job)?;
        let over = Arc::new(AtomicBool::new(false));
        let watching = {
            let (over, admin) = (Arc::clone(&over), Admin::Unix(socket.clone()));
            std::thread::spawn(move || watch(&admin, &over))
        };
        let watched = running.finish()?;
        over.store(true, Ordering::SeqCst);
        answers.add(watching.join().map_err(|_| "nobody answered")?)?;
        let ratio = watched.rate / bare.rate;
        println!("round {round}  unseen {bare}   seen {watched}   seen/unseen {ratio:.3}   {load}");
        without.push(bare.rate);
        with.push(watched.rate);
        ratios.push(ratio);
    }
    let ms = |q| answers.value_at_quantile(q) as f64 / 1000.0;
    println!(
        "seen: {without:.0} rows/s unseen, {with:.0} seen, seen/unseen {ratios:.3}; {} answers, p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        answers.len(),
        ms(0.5),
        ms(0.99),
        answers.max() as f64 / 1000.0
    );
    Ok(())
}

/// How long each answer took, in microseconds.
fn watch(admin: &Admin, over: &AtomicBool) -> Histogram<u64> {
    let mut answers = Histogram::new(2).expect("two digits are allowed");
    let mut looks = 0;
    while !over.load(Ordering::SeqCst) {
        std::thread::sleep(LOOK_EVERY);
        let path = if looks % 4 == 0 { "/status" } else { "/metrics" };
        // Before it listens, and when it is gone, nobody answers.
        let began = Instant::now();
        if admin.try_get(path).is_some_and(|answer| answer.status == 200) {
            answers.record(began.elapsed().as_micros() as u64).expect("it grows");
        }
        looks += 1;
    }
    answers
}
