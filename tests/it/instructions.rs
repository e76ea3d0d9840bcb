//! What the benchmarks' counts of instructions are judged by.

#[path = "../../benches/micro/baseline.rs"]
mod baseline;

use baseline::{Baseline, Baselines, Tools, Verdict, compare, parse, write};

fn tools(rustc: &str) -> Tools {
    Tools { rustc: rustc.to_owned(), valgrind: "valgrind-3".to_owned() }
}

fn baseline() -> Baseline {
    let counts = [("decode", 1000.0), ("fold, a hot key", 20.0)];
    Baseline { counted_by: tools("rustc 1"), counts: counts.map(|(name, count)| (name.to_owned(), count)).into() }
}

#[track_caller]
fn check(found: &[(&str, f64)], rustc: &str, problems: &[&str], remarks: &[&str]) {
    let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let expectation = Verdict { problems: own(problems), remarks: own(remarks) };
    assert_eq!(compare(&baseline(), found, &tools(rustc)), expectation);
}

#[test]
fn a_count_that_grows_is_a_problem_and_one_that_falls_is_worth_a_word() {
    check(&[("decode", 1000.0), ("fold, a hot key", 20.0)], "rustc 1", &[], &[]);
    check(&[("decode", 1099.0), ("fold, a hot key", 18.1)], "rustc 2", &[], &[]);
    check(
        &[("decode", 1101.0), ("fold, a hot key", 17.9)],
        "rustc 1",
        &["decode: baseline 1000.0, found 1101.0 instructions a record (+10.1 %)"],
        &[
            "fold, a hot key: baseline 20.0, found 17.9 instructions a record (-10.5 %): to be written down, so that it stays",
        ],
    );
}

#[test]
fn another_compiler_is_named_where_counts_differ() {
    check(
        &[("decode", 1200.0), ("fold, a hot key", 20.0)],
        "rustc 2",
        &["decode: baseline 1000.0, found 1200.0 instructions a record (+20.0 %)"],
        &["counted by rustc 2 and valgrind-3, the baseline by rustc 1 and valgrind-3"],
    );
}

#[test]
fn benchmarks_and_baselines_are_the_same_ones() {
    check(
        &[("decode", 1000.0), ("encode", 5.0)],
        "rustc 1",
        &["encode: no baseline, found 5.0", "fold, a hot key: a baseline, and no benchmark"],
        &[],
    );
}

#[test]
fn what_is_written_is_read() {
    let all = Baselines::from([("aarch64".to_owned(), baseline()), ("x86_64".to_owned(), baseline())]);
    assert_eq!(parse(&write(&all)), Ok(all));
}

#[test]
fn the_committed_baseline_is_as_it_would_be_written() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");
    let text = std::fs::read_to_string(file).expect("the file");
    assert_eq!(write(&parse(&text).expect("a baseline")), text);
}
