//! `forebay demo` through the binary: what it prints, what it refuses, and that nothing of it stays behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::wait_until;

/// A directory of the test's own for what the demonstration leaves, below one that PostgreSQL's user can enter.
fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn demo(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("demo").args(arguments).env("TMPDIR", directory).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn left_in(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[track_caller]
fn proved(output: &Output) -> String {
    let (found, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{found}\n{errors}", output.status);
    assert_eq!(found.matches("\n  ok ").count(), 5, "{found}\n{errors}");
    assert!(!found.contains("FAILED"), "{found}");
    found
}

#[test]
fn it_compares_every_row_and_leaves_nothing() {
    let directory = directory();
    let output = demo(directory.path(), &["--records", "5000", "--rows", "500"]).output().unwrap();
    let found = proved(&output);
    for part in ["5,000 updates of 500 rows", "all 500 compared", "5000 durable of 5000 published", "rows/s", "p99"] {
        assert!(found.contains(part), "no {part:?} in\n{found}");
    }
    assert_eq!(left_in(directory.path()), [] as [PathBuf; 0]);
}

#[test]
fn ctrl_c_and_its_like_leave_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = directory();
        // A rate at which it would take minutes.
        let arguments = ["--records", "100000", "--rate", "500"];
        let mut child = demo(directory.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let socket = || left_in(directory.path()).iter().any(|home| home.join(".s.PGSQL.5432").exists());
        wait_until(Duration::from_secs(60), "PostgreSQL's socket", socket);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = ended(&mut child);
        assert_eq!(status.code(), Some(69), "{status}");
        assert_eq!(left_in(directory.path()), [] as [PathBuf; 0]);
    }
}

#[test]
fn what_a_killed_one_left_goes_with_the_next() {
    let directory = directory();
    let arguments = ["--records", "100000", "--rate", "500"];
    let mut child = demo(directory.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let homes = || left_in(directory.path());
    wait_until(Duration::from_secs(60), "PostgreSQL's socket", || {
        homes().iter().any(|home| home.join(".s.PGSQL.5432").exists())
    });
    // One that runs keeps its own.
    let small = ["--records", "100"];
    proved(&demo(directory.path(), &small).output().unwrap());
    assert!(child.try_wait().unwrap().is_none());
    let [home] = &homes()[..] else { panic!("{:?}", homes()) };
    child.kill().unwrap();
    child.wait().unwrap();
    let server = home.join("data/postmaster.pid");
    wait_until(Duration::from_secs(60), "PostgreSQL to end with it", || !server.exists());
    let output = demo(directory.path(), &small).output().unwrap();
    proved(&output);
    let errors = text(&output.stderr);
    assert!(errors.contains(&format!("removed {}, which a killed demonstration left", home.display())), "{errors}");
    assert_eq!(homes(), [] as [PathBuf; 0]);
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    wait_until(Duration::from_secs(60), "the demonstration to end", || child.try_wait().unwrap().is_some());
    child.wait().unwrap()
}

#[test]
fn kept_it_can_be_looked_at_and_removed_as_it_says() {
    let directory = directory();
    let output = demo(directory.path(), &["--records", "400", "--rate", "4000", "--keep"]).output().unwrap();
    let found = proved(&output);
    let line = |begin: &str| {
        let line = found.lines().find_map(|line| line.trim_start().strip_prefix(begin));
        line.unwrap_or_else(|| panic!("no {begin:?} in\n{found}")).trim().to_owned()
    };
    let dsn = line("look at it").replace("psql ", "").replace('\'', "");
    let mut client = postgres::Client::connect(&dsn, postgres::NoTls).unwrap();
    let rows: i64 = client.query_one("SELECT count(*) FROM subscriptions", &[]).unwrap().get(0);
    assert!(rows > 50, "{rows} rows");
    let config = line("configuration");
    assert!(std::fs::read_to_string(&config).unwrap().contains(&format!("dsn = \"{dsn}\"")));
    let removed = Command::new("sh").arg("-c").arg(line("remove it")).output().unwrap();
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    assert_eq!(left_in(directory.path()), [] as [PathBuf; 0]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let directory = directory();
    let check = |arguments: &[&str], path: Option<&str>, code: i32, part: &str| {
        let mut command = demo(directory.path(), arguments);
        path.map(|path| command.env("FOREBAY_PG_BIN", path));
        let output = command.output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: no {part:?} in {errors}");
    };
    check(&["--records", "0"], None, 2, "--records: found 0, expected 1 to");
    check(&["--records", "10", "--rows", "11"], None, 2, "--rows: found 11");
    check(&["--rate", "0"], None, 2, "--rate: found 0");
    check(&["--records", "many"], None, 2, "--records");
    check(&["--records", "10"], Some("/nonexistent"), 69, "FOREBAY_PG_BIN=/nonexistent: no initdb");
    let output = demo("/nonexistent".as_ref(), &["--records", "10"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let errors = text(&output.stderr);
    assert!(errors.contains("no directory can be made in /nonexistent, which TMPDIR names: No such file"), "{errors}");
    assert_eq!(left_in(directory.path()), [] as [PathBuf; 0]);
}
