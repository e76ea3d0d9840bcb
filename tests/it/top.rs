//! `forebay top` as a person at a terminal has it: the real program in a pseudo-terminal, whose screen is read back. Who answers it
//! is apart ([`stand_in`]), and so is the terminal ([`terminal`]).

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use forebay::admin::{diagnosis, status};
use rustix::process::Signal;

use crate::support::wait_until;
use stand_in::StandIn;
use terminal::{PATIENCE, Terminal};

#[path = "../../src/admin/samples.rs"]
mod samples;
mod stand_in;
pub mod terminal;

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.env_remove("FOREBAY_LOG").env_remove("NO_COLOR").arg("top").args(arguments);
    command
}

fn watch(server: &StandIn) -> Terminal {
    Terminal::run(top(&["--admin", &server.address(), "--interval", "0.1"]), 24, 80)
}

#[track_caller]
fn ended(output: Output, code: i32) -> (String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out, err)
}

#[test]
fn it_shows_the_numbers_and_follows_them() {
    let server = StandIn::start(samples::calm());
    let terminal = watch(&server);
    terminal.wait_for("✓ Caught up.");
    terminal.wait_for("subscriptions on ingest-3");
    terminal.wait_for("✓ ready");
    terminal.wait_for("11,988");
    server.says(samples::bad_night());
    terminal.wait_for("✗ NOT READY");
    terminal.wait_for("1,204,331");
    terminal.wait_for("4 min 12 s");
    terminal.wait_for("✗ TOPIC EVENTS │ Topic events has stopped");
    terminal.wait_for("pid 4711 (psql");
    assert!(!terminal.raw().contains("owned"), "a window's title was set");
    terminal.quits();
}

#[test]
fn keys_open_tabs_and_a_filter() {
    let server = StandIn::start(samples::bad_night());
    let mut terminal = watch(&server);
    terminal.wait_for("FURTHEST BEHIND");
    for (key, sign) in [
        ("2", "71 % Lock: transactionid"),
        ("3", "IN FLIGHT"),
        ("4", "UPSERTED"),
        ("5", "a1:s7"),
        ("\t", "FURTHEST BEHIND"),
        ("\x1b[Z", "RECORDS"),
        ("?", "back to the shell"),
        ("x", "RECORDS"),
    ] {
        terminal.press(key);
        terminal.wait_for(sign);
    }
    // What is parked is asked for only where it is looked at.
    terminal.wait_for("! blocked, 2 h 0 min");
    terminal.press("3/updates [4]\r");
    terminal.wait_for("only \"updates [4]\"");
    terminal.wait_until("one partition", |screen| screen.contains("updates [4]") && !screen.contains("updates [5]"));
    terminal.press("\x1b");
    terminal.wait_for("updates [5]");
    terminal.quits();
}

/// Once nothing was refreshed, and no order sent, while a database that is away kept the list of what is parked.
#[test]
fn a_listing_that_takes_long_keeps_nothing_else_waiting() {
    let server = StandIn::start(samples::calm());
    server.holds("GET /parked");
    let mut terminal = watch(&server);
    terminal.press("5");
    wait_until(PATIENCE, "the question", || server.actions() == ["GET /parked?limit=100 is held"]);
    terminal.wait_for("what is parked is being asked for");
    server.says(samples::bad_night());
    terminal.wait_for("1,204,331");
    terminal.press("p");
    terminal.wait_for("Pause topic updates");
    terminal.press("y");
    terminal.wait_for("✓ it was done");
    terminal.wait_for("what is parked is being asked for");
    terminal.quits();
}

#[test]
fn it_follows_the_size_of_the_terminal() {
    let server = StandIn::start(samples::bad_night());
    let mut terminal = watch(&server);
    terminal.press("3");
    terminal.wait_for("IN FLIGHT");
    terminal.resize(40, 160);
    terminal.wait_for("COMMITTED");
    terminal.resize(8, 36);
    terminal.wait_until("a sentence only", |screen| screen.contains("TOPIC EVENTS") && !screen.contains("IN FLIGHT"));
    terminal.resize(24, 80);
    terminal.wait_for("IN FLIGHT");
    terminal.quits();
}

#[test]
fn an_action_is_sent_once_it_is_confirmed() {
    let server = StandIn::start(samples::bad_night());
    let mut terminal = watch(&server);
    terminal.wait_for("FURTHEST BEHIND");
    terminal.press("p");
    terminal.wait_for("Pause topic updates");
    terminal.press("n");
    terminal.wait_for("Nothing was done.");
    assert!(server.actions().is_empty());
    terminal.press("p");
    terminal.wait_for("Pause topic updates");
    terminal.press("y");
    terminal.wait_for("✓ it was done");
    assert_eq!(server.actions(), [r#"/pause {"topic":"updates"}"#]);
    terminal.press("k");
    terminal.wait_for("Park key a1:s0 of updates");
    terminal.press("y");
    wait_until(PATIENCE, "two actions", || server.actions().len() == 2);
    assert_eq!(server.actions()[1], r#"/park {"key":"a1:s0","topic":"updates"}"#);
    server.refuses(true);
    terminal.press("L");
    terminal.wait_for("Log level: info");
    terminal.press("\x7f\x7f\x7f\x7fwarn\r");
    terminal.wait_for("✗ 422: It cannot be: for a reason");
    assert_eq!(server.actions()[2], r#"/log-level {"level":"warn"}"#);
    terminal.quits();
}

#[test]
fn a_server_that_goes_away_is_seen_and_one_that_comes_back_too() {
    let mut server = StandIn::start(samples::bad_night());
    let terminal = watch(&server);
    terminal.wait_for("1,204,331");
    server.stop();
    terminal.wait_for("✗ NO ANSWER for");
    terminal.wait_for("does not answer: Connection refused");
    terminal.wait_for("1,204,331");
    server.again();
    terminal.wait_for("✗ NOT READY");
    terminal.quits();
}

#[test]
fn signals_and_control_c_give_the_terminal_back() {
    let server = StandIn::start(samples::calm());
    for signal in [Some(Signal::TERM), Some(Signal::INT), None] {
        let mut terminal = watch(&server);
        terminal.wait_for("✓ Caught up.");
        match signal {
            Some(signal) => terminal.signal(signal),
            None => terminal.press("\x03"),
        }
        terminal.is_given_back();
    }
}

/// Once the terminal stayed raw, without a cursor, and on the wrong screen.
#[test]
fn signals_that_kill_do_so_once_the_terminal_is_given_back() {
    let server = StandIn::start(samples::calm());
    for signal in [Signal::HUP, Signal::QUIT, Signal::USR1] {
        let mut terminal = watch(&server);
        terminal.wait_for("✓ Caught up.");
        terminal.signal(signal);
        let status = terminal.gives_back();
        // A shell makes 128 + n of it.
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
    }
}

/// Nobody answers here when a program asks where the cursor is. Once that ended it after two seconds.
#[test]
fn it_draws_anew_without_asking_the_terminal() {
    let server = StandIn::start(samples::calm());
    let mut terminal = watch(&server);
    terminal.wait_for("✓ Caught up.");
    terminal.press("\x0c");
    server.says(samples::bad_night());
    terminal.wait_for("✗ NOT READY");
    terminal.press("\x1a");
    wait_until(PATIENCE, "that it stands", || terminal.is_stopped());
    server.says(samples::calm());
    terminal.signal(Signal::CONT);
    terminal.wait_for("✓ Caught up.");
    assert!(!terminal.raw().contains("\x1b[6n"), "it asks for the cursor");
    terminal.quits();
}

#[test]
fn without_colours_there_are_none() {
    let server = StandIn::start(samples::bad_night());
    let mut command = top(&["--admin", &server.address()]);
    command.env("NO_COLOR", "1");
    let terminal = Terminal::run(command, 24, 80);
    terminal.wait_for("✗ TOPIC EVENTS");
    assert!(!terminal.has_colours());
    terminal.quits();
    let terminal = watch(&server);
    terminal.wait_for("✗ TOPIC EVENTS");
    assert!(terminal.has_colours());
    terminal.quits();
}

#[test]
fn once_is_plain_text() {
    let server = StandIn::start(samples::calm());
    let (out, _) = ended(top(&["--once", "--admin", &server.address()]).output().expect("it runs"), 0);
    assert!(out.contains("\n✓ Caught up.\n"), "{out}");
    server.says(samples::bad_night());
    for arguments in [&["--once"][..], &[]] {
        let output = top(&[&["--admin", &server.address()], arguments].concat()).output().expect("it runs");
        let (out, _) = ended(output, 0);
        assert!(out.contains("✗ TOPIC EVENTS │ Topic events has stopped and needs a person: column"), "{out}");
        assert!(out.contains("71 % Lock: transactionid"), "{out}");
        assert!(!out.contains(|c: char| c.is_control() && c != '\n'), "{out:?}");
    }
}

#[test]
fn a_token_goes_with_every_request() {
    let server = StandIn::start_with_token(samples::calm(), "s3cret");
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("writable");
        path.display().to_string()
    };
    let (right, wrong, none) = (file("right", "s3cret\n"), file("wrong", "other"), file("none", " \n"));
    let once = |arguments: &[&str], code: i32| {
        let output = top(&[&["--once", "--admin", &server.address()], arguments].concat()).output();
        ended(output.expect("it runs"), code)
    };
    assert!(once(&["--token-file", &right], 0).0.contains("✓ Caught up."));
    assert!(once(&[], 78).1.contains("wants a token (401): --token-file FILE"));
    assert!(once(&["--token-file", &wrong], 78).1.contains("does not take this token"));
    assert!(once(&["--token-file", &none], 78).1.contains("this is no token"));
    assert!(once(&["--token-file", "/nowhere"], 78).1.contains("/nowhere: "));
    // Nobody writes into the one, and the other one never ends.
    let pipe = directory.path().join("pipe").display().to_string();
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo, of coreutils").success());
    for endless in [&pipe, "/dev/zero"] {
        assert!(once(&["--token-file", endless], 78).1.contains("it is no regular file"), "{endless}");
    }
}

#[test]
fn a_unix_socket_is_asked_like_any_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = StandIn::start_unix(samples::calm(), &directory.path().join("admin.sock"));
    let terminal = watch(&server);
    terminal.wait_for("✓ Caught up.");
    server.says(samples::bad_night());
    terminal.wait_for("✗ NOT READY");
    terminal.quits();
}

#[test]
fn exit_codes_of_what_cannot_begin() {
    let nobody = StandIn::start(samples::calm());
    let address = nobody.address();
    drop(nobody);
    let (_, err) = ended(top(&["--admin", &address]).output().expect("it runs"), 69);
    assert!(err.contains("does not answer: Connection refused"), "{err}");
    let (_, err) = ended(top(&["--admin", "unix:/nowhere/admin.sock"]).output().expect("it runs"), 69);
    assert!(err.contains("unix:/nowhere/admin.sock does not answer: No such file"), "{err}");
    for wrong in [&["--admin", "https://a:1"][..], &["--admin", "a"], &["--interval", "0"], &["--admin", ""]] {
        ended(top(wrong).output().expect("it runs"), 2);
    }
    let stranger = StandIn::start(samples::calm());
    stranger.speaks("{\"version\": 2}");
    let (_, err) = ended(top(&["--admin", &stranger.address()]).output().expect("it runs"), 69);
    assert!(err.contains("it speaks version 2 of /status, this program version 1"), "{err}");
    stranger.speaks("<html>");
    let (_, err) = ended(top(&["--admin", &stranger.address()]).output().expect("it runs"), 69);
    assert!(err.contains("no forebay of this version"), "{err}");
}
