//! What a record costs in each part of its way, without a Kafka, a database, or another thread. The records are those of the
//! reference job: JSON of 235 bytes, seven columns, batches of 500.
//!
//! ```text
//! cargo bench --bench micro -- [CRITERION'S ARGUMENTS] [FILTER]     how long each part takes, by criterion
//! bin/instructions                                                  how many instructions, by valgrind
//! ```
//!
//! Times differ from machine to machine and from run to run; instructions hardly do. So it is they that are compared with
//! `benches/instructions.toml`, by `bin/test`: see `counts.rs`.

mod baseline;
mod cases;
mod counts;
mod input;

use std::process::ExitCode;

use cases::CASES;
use criterion::{Criterion, Throughput};

fn main() -> ExitCode {
    // cargo puts `--bench` before or behind what the user says.
    let mode = std::env::args().skip(1).find(|argument| argument != "--bench");
    match mode.as_deref() {
        Some("instructions") => counts::check(),
        Some(counts::CHILD) => {
            counts::child();
            ExitCode::SUCCESS
        }
        _ => {
            times();
            ExitCode::SUCCESS
        }
    }
}

fn times() {
    let mut criterion = Criterion::default().configure_from_args();
    for case in CASES {
        let mut group = criterion.benchmark_group(case.name);
        group.throughput(Throughput::Elements(case.records));
        group.bench_function("record", |bencher| {
            let mut job = (case.make)();
            bencher.iter(&mut job);
        });
        group.finish();
    }
    criterion.final_summary();
}
