//! One of two shards in trouble: the other one's partition keeps its pace and its commits, and afterwards everything is where
//! it belongs, once and in order.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process};

use super::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, publish, publish_all, shard};
use crate::support::{Database, Forebay, OwnServices, PATIENCE, Rig, Server, Service, Stop, Topic, wait_until};

const PG_A: Service = Service::Pg(Server::A);
const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\n";
/// Published at once; half of them for each shard.
const RECORDS: i64 = 10_000;
const KEYS: i64 = 20;
const OURS: &str = "application_name LIKE 'forebay/%'";

/// A cluster of the test's own, which gets into trouble, and a database that does not; a partition for each.
struct Pair {
    own: OwnServices,
    well: Database,
    topic: Topic,
    rig: Rig,
}

impl Pair {
    fn new(prepare: impl FnOnce(&OwnServices)) -> Pair {
        let own = OwnServices::start(&[PG_A]);
        prepare(&own);
        let well = Database::create(Server::B, "shards");
        well.execute(LEDGER);
        let topic = Topic::create("shards", 2);
        let rig = Rig::new(&format!(
            "{ENGINE}{}partitions = \"0\"\n{}partitions = \"1\"\n{}",
            shard("ill", &own.pg_dsn(Server::A)),
            shard("well", well.dsn()),
            ledger_topic(topic.name())
        ));
        Pair { own, well, topic, rig }
    }

    fn ill(&self) -> Client {
        Client::connect(&self.own.pg_dsn(Server::A), NoTls).expect("a connection to the shard that gets ill")
    }

    fn publish(&self, round: i64) {
        publish(&self.topic, round * RECORDS..(round + 1) * RECORDS, KEYS);
    }

    /// Waits until the shard that is well has applied so many rounds, and returns how long that took.
    #[track_caller]
    fn well_has(&self, rounds: i64) -> Duration {
        let (start, mut client) = (Instant::now(), self.well.connect());
        let rows = rounds * RECORDS / 2;
        wait_until(PATIENCE, "the rows of the shard that is well", || count(&mut client, "ledger") == rows);
        start.elapsed()
    }

    #[track_caller]
    fn committed(&self, partition: i32, end: i64) {
        wait_until(PATIENCE, &format!("partition {partition} to be committed"), || {
            self.rig.committed(self.topic.name(), partition) == Some(end)
        });
    }
}

/// `ails` makes the shard ill, and returns what to keep for that long; `mend` ends it; the log then holds `says`.
#[track_caller]
fn check<T>(
    prepare: impl FnOnce(&OwnServices),
    ails: impl FnOnce(&Pair, &Forebay) -> T,
    says: &[&str],
    mend: impl FnOnce(&Pair, T),
) {
    let pair = Pair::new(prepare);
    pair.publish(0);
    let process = pair.rig.start();
    pair.well_has(1);
    wait_until(PATIENCE, "the first rows of the other", || count(&mut pair.ill(), "ledger") == RECORDS / 2);
    pair.publish(1);
    let before = pair.well_has(2);
    wait_until(PATIENCE, "more rows of the other", || count(&mut pair.ill(), "ledger") == RECORDS);
    (0..2).for_each(|partition| pair.committed(partition, RECORDS));

    let illness = ails(&pair, &process);
    let half = RECORDS / 2;
    for round in 2..4 {
        pair.publish(round);
        let took = pair.well_has(round + 1);
        // The benchmark says by how much; here it is a machine that does other things, too.
        assert!(took < before * 4 + Duration::from_secs(5), "it took {took:?}, and {before:?} before");
        pair.committed(1, (round + 1) * half);
    }
    if !says.is_empty() {
        process.wait_for_log(says);
    }
    let stands = pair.rig.committed(pair.topic.name(), 0).expect("committed before");
    assert!(stands < 4 * half, "everything was written to a shard that should be ill");

    mend(&pair, illness);
    (0..2).for_each(|partition| pair.committed(partition, 4 * half));
    process.terminate().expect(0);
    let mut entries = [ledger(&mut pair.ill()), ledger(&mut pair.well.connect())].concat();
    entries.sort();
    assert_complete(&entries, &ends(&pair.topic));
}

fn with_ledger(own: &OwnServices) {
    Client::connect(&own.pg_dsn(Server::A), NoTls).unwrap().batch_execute(LEDGER).unwrap();
}

#[test]
fn one_that_is_stopped() {
    let ails = |pair: &Pair, _: &Forebay| pair.own.stop(PG_A, Stop::Immediate);
    check(with_ledger, ails, &["shard ill", "trying again"], |pair, ()| pair.own.up(PG_A));
}

fn set(pair: &Pair, setting: &str) {
    let mut client = pair.ill();
    client.batch_execute(&format!("ALTER SYSTEM {setting}")).unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
}

#[test]
fn one_that_is_read_only() {
    let ails = |pair: &Pair, _: &Forebay| set(pair, "SET default_transaction_read_only = on");
    let mend = |pair: &Pair, ()| set(pair, "RESET default_transaction_read_only");
    check(with_ledger, ails, &["shard ill", "read-only"], mend);
}

/// Takes every connection that the server has, those of its superusers included, until none of forebay's is left.
fn take_all_connections(pair: &Pair) -> Vec<Client> {
    let mut held = vec![pair.ill()];
    let ours = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OURS}");
    wait_until(PATIENCE, "all connections to be taken", || {
        while let Ok(client) = Client::connect(&pair.own.pg_dsn(Server::A), NoTls) {
            held.push(client);
        }
        held[0].query_one(&ours, &[]).unwrap().get::<_, i64>(0) == 0
    });
    let refused = Client::connect(&pair.own.pg_dsn(Server::A), NoTls).err().expect("one more than there are");
    assert_eq!(refused.code().map(|code| code.code()), Some("53300"));
    held
}

#[test]
fn one_without_connections() {
    let few = |own: &OwnServices| {
        with_ledger(own);
        let mut client = Client::connect(&own.pg_dsn(Server::A), NoTls).unwrap();
        client.batch_execute("ALTER SYSTEM SET max_connections = 20").unwrap();
        drop(client);
        own.restart(PG_A, Stop::Fast);
    };
    let ails = |pair: &Pair, _: &Forebay| take_all_connections(pair);
    check(few, ails, &["shard ill", "trying again"], |_, held| drop(held));
}

/// A file system of a few megabytes, gone with its guard.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn below(own: &OwnServices) -> SmallDisk {
        let place = own.directory().with_extension("disk");
        fs::create_dir(&place).expect("a directory");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]).arg(&place).output();
        let mounted = mounted.expect("mount(8)");
        assert!(
            mounted.status.success(),
            "this test mounts a small tmpfs, which needs root (or CAP_SYS_ADMIN in a container): {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        let disk = SmallDisk(place);
        // PostgreSQL runs as whoever owns its data directory.
        let data = fs::metadata(own.directory().join("pg_a/data")).expect("a data directory");
        use std::os::unix::fs::MetadataExt;
        chown(&disk.0, Some(data.uid()), Some(data.gid())).expect("giving it to PostgreSQL");
        disk
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The server may still have files open; what is left goes with it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn one_that_is_out_of_disk() {
    let mut disk = None;
    let prepare = |own: &OwnServices| {
        let small = SmallDisk::below(own);
        let mut client = Client::connect(&own.pg_dsn(Server::A), NoTls).unwrap();
        client.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", small.0.display())).unwrap();
        client.batch_execute(&format!("SET default_tablespace = small; {LEDGER}")).unwrap();
        disk = Some(small);
    };
    let ails = |pair: &Pair, _: &Forebay| {
        let mut client = pair.ill();
        client.batch_execute("CREATE TABLE filler (t text) TABLESPACE small").unwrap();
        // Large pieces, then small ones, until nothing more goes in.
        for bytes in [1_000_000, 20_000, 2000] {
            let piece = format!("INSERT INTO filler SELECT repeat('x', 2000) FROM generate_series(1, {bytes} / 2000)");
            while client.batch_execute(&piece).is_ok() {}
        }
        let full = client.batch_execute("INSERT INTO filler SELECT repeat('x', 2000) FROM generate_series(1, 100)");
        let code = full.expect_err("a full disk").code().map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("53100"));
    };
    let mend = |pair: &Pair, ()| pair.ill().batch_execute("DROP TABLE filler; CHECKPOINT").unwrap();
    check(prepare, ails, &["shard ill", "No space left on device", "trying again"], mend);
    drop(disk);
}

fn signal_all(backends: &[i32], signal: Signal) {
    for pid in backends {
        // Of one that ended meanwhile nothing is to be stopped.
        let _ = kill_process(Pid::from_raw(*pid).expect("a process id"), signal);
    }
}

#[test]
fn one_whose_backends_hang() {
    let ails = |pair: &Pair, _: &Forebay| {
        let rows = pair.ill().query(&format!("SELECT pid FROM pg_stat_activity WHERE {OURS}"), &[]).unwrap();
        let backends: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        assert!(backends.len() >= 2, "a worker's and the control thread's: {backends:?}");
        signal_all(&backends, Signal::STOP);
        backends
    };
    check(with_ledger, ails, &[], |_, backends| signal_all(&backends, Signal::CONT));
}

#[test]
fn a_misaligned_partition_goes_on_until_its_window_is_full() {
    const WINDOW: i64 = 2000;
    let own = OwnServices::start(&[PG_A]);
    with_ledger(&own);
    let well = Database::create(Server::B, "shards");
    well.execute(LEDGER);
    let topic = Topic::create("shards", 1);
    let engine = ENGINE.replace("[engine]\n", &format!("[engine]\npartition_records_max = {WINDOW}\n"));
    let rig = Rig::new(&format!(
        "{engine}[shards]\nby = \"modulo\"\n{}partitions = \"0\"\n{}partitions = \"1\"\n{}",
        shard("ill", &own.pg_dsn(Server::A)),
        shard("well", well.dsn()),
        ledger_topic(topic.name())
    ));
    let publish = |numbers: std::ops::Range<i64>| {
        let record = |seq: i64| (0, Some((seq % KEYS).to_string()), Some(format!("{{\"seq\":{seq}}}")));
        publish_all(&topic, &numbers.map(record).collect::<Vec<_>>());
    };
    let rows = || {
        (
            count(&mut Client::connect(&own.pg_dsn(Server::A), NoTls).unwrap(), "ledger"),
            count(&mut well.connect(), "ledger"),
        )
    };
    publish(0..1000);
    let process = rig.start();
    process.wait_for_log(&[topic.name(), "aligned as declared"]);
    wait_until(PATIENCE, "the first rows", || rows() == (500, 500));
    process.wait_for_log(&[topic.name(), "records", "belong to another shard", "holds up the commits"]);
    own.stop(PG_A, Stop::Immediate);
    publish(1000..11_000);
    // As much as the window holds, and no more: half of it is the other one's.
    let at_well = || count(&mut well.connect(), "ledger");
    wait_until(PATIENCE, "the window to fill", || at_well() >= 500 + WINDOW / 2);
    process.wait_for_log(&["shard ill", "trying again"]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(at_well() <= 500 + WINDOW, "{} rows beyond a window of {WINDOW}", at_well());
    assert!(rig.committed(topic.name(), 0).is_some_and(|next| next <= 1000 + WINDOW));
    own.up(PG_A);
    wait_until(PATIENCE, "all rows", || rows() == (5500, 5500));
    process.terminate().expect(0);
    let mut entries =
        [ledger(&mut Client::connect(&own.pg_dsn(Server::A), NoTls).unwrap()), ledger(&mut well.connect())].concat();
    entries.sort();
    assert_complete(&entries, &ends(&topic));
}
