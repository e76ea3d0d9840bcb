//! What `bin/profile` makes of what perf and /proc say. Whether perf may watch is the machine's business; what is done without it
//! is looked at on this process.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

/// What bash prints after the script was sourced.
#[track_caller]
fn bash(line: &str, input: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bin/profile");
    let mut child = Command::new("bash")
        .args(["-c", &format!("source {}; {line}", script.display())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bash runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{line}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// Folded stacks and what they count.
fn folded(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (stack, count) = line.rsplit_once(' ').expect("a count");
        (stack.to_owned(), count.parse().expect("a number"))
    };
    text.lines().map(line).collect()
}

/// As `perf script` prints them, with two threads between each other's lines; one was pushed aside, one never comes back.
const SWITCHES: &str = "\
fb-w0.0  1234 100.000000: sched:sched_switch: prev_comm=fb-w0.0 prev_pid=1234 prev_prio=120 prev_state=S ==> next_comm=x
	ffffffff821f8b58 __schedule
	          11e1a3 <forebay::sink::Writer as core::fmt::Write>::write::h0123456789abcdef
	           cf503 main

fb-w0.0  1234 100.000001: PERF_RECORD_SWITCH OUT
rdk:broker 1 (x)  77 100.100000: sched:sched_switch: prev_comm=rdk prev_pid=77 prev_prio=120 prev_state=R+ ==> next_comm=x
	ffffffff821f8b58 __schedule

fb-w0.0  1234 100.250000: PERF_RECORD_SWITCH IN
rdk:broker 1 (x)  77 100.350000: PERF_RECORD_SWITCH IN
fb-w0.0  1234 100.400000: sched:sched_switch: prev_comm=fb-w0.0 prev_pid=1234 prev_prio=120 prev_state=S ==> next_comm=x
	           cf503 main

fb-c0    1235 101.000000: PERF_RECORD_SWITCH IN
";

#[test]
fn time_off_the_cpu_belongs_to_the_stack_that_left_it() {
    let expected = [
        ("fb-w0.0;main;<forebay::sink::Writer as core::fmt::Write>::write;__schedule", 250_000),
        ("rdk:broker 1 (x);__schedule;[wants a CPU]", 250_000),
        ("fb-w0.0;main", 600_000),
    ];
    assert_eq!(folded(&bash("fold_off_cpu", SWITCHES)), expected.map(|(s, us)| (s.to_owned(), us)).into());
}

#[test]
fn samples_on_the_cpu_are_counted_by_thread_and_stack() {
    let sample = |name: &str, inner: &str| {
        format!("{name}  12 7.000001: cpu-clock:ppp:\n\t    1a2b {inner}::hfedcba9876543210\n\t      2c start\n\n")
    };
    let input = [sample("fb-w0.0", "encode"), sample("fb-w0.1", "encode"), sample("fb-w0.0", "encode")].concat();
    let expected = [("fb-w0.0;start;encode", 2), ("fb-w0.1;start;encode", 1)];
    assert_eq!(folded(&bash("fold_on_cpu", &input)), expected.map(|(s, n)| (s.to_owned(), n)).into());
}

/// One thread that sleeps until the test is over.
#[test]
fn threads_and_their_waits_are_found_in_proc() {
    let (end, ended) = mpsc::channel::<()>();
    let sleeper = thread::Builder::new().name("fb-sleeper".into()).spawn(move || ended.recv()).expect("a thread");
    let look = format!("PID={} SECONDS_EACH=2; look_at_threads; echo; look_at_waits", std::process::id());
    let seen = bash(&look, "");
    drop(end);
    let _ = sleeper.join();
    let (threads, waits) = seen.split_once("\n\n").expect("two parts");
    assert!(threads.lines().any(|line| line.ends_with(" fb-sleeper")), "{threads}");
    let waits = folded(waits);
    assert!(waits.iter().any(|(wait, looks)| wait.starts_with("fb-sleeper;state S;") && *looks > 1), "{waits:?}");
}

#[test]
fn shares_of_a_threads_time() {
    let table = bash(
        "threads <(echo '7 1000 500 fb w0.0') <(echo '7 251000 500500 fb w0.0'; echo '8 0 0 rdk:main') 1000000",
        "",
    );
    let rows: Vec<String> = table.lines().skip(1).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows, ["7 25.0 % 50.0 % 25.0 % fb w0.0", "8 0.0 % 0.0 % 100.0 % rdk:main"]);
}

#[test]
fn who_is_not_there_is_not_watched() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bin/profile");
    for (arguments, code, expected) in [
        (&["no-such-process", "1"][..], 1, "no process is called no-such-process"),
        (&["999999999", "1"], 1, "there is no process 999999999"),
        (&["1", "soon"], 2, "usage: bin/profile"),
        (&[], 2, "usage: bin/profile"),
    ] {
        let output = Command::new(&script).args(arguments).output().expect("bash runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
