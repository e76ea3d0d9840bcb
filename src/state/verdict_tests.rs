use super::*;

fn snapshot(at: &[(Class, f64)], waits: &[(&str, &str, Class, f64)], blockers: Vec<Blocker>) -> Snapshot {
    let wait = |&(kind, event, class, share): &(&str, &str, Class, f64)| Wait {
        kind: kind.into(),
        event: event.into(),
        class,
        share,
    };
    Snapshot {
        sampled_at_ms: 1,
        waits: waits.iter().map(wait).collect(),
        totals: Vec::new(),
        blocked: 0,
        blockers,
        tables: Vec::new(),
        wal: None,
        connections: None,
        notes: Vec::new(),
        at: at.to_vec(),
    }
}

fn psql() -> Blocker {
    Blocker {
        session: Session {
            pid: 4711,
            application: Some("psql".into()),
            state: Some("idle in transaction".into()),
            transaction_age: Some(Duration::from_secs(34)),
            ..Session::default()
        },
        blocks: vec!["fb-w0.1".into()],
        through: Vec::new(),
        blocked_for: Duration::from_secs(33),
        lock: Some("transactionid".into()),
        relation: Some("users".into()),
        waited_for: true,
    }
}

#[track_caller]
fn check(seen: Option<&Snapshot>, ours: Ours<'_>, kind: &str, text: &str) {
    let verdict = verdict(seen, &ours);
    assert_eq!((verdict.kind.name(), verdict.text.as_str()), (kind, text));
}

const PSQL: &str = "pid 4711 (psql, idle in transaction, its transaction 34 s old) holds up fb-w0.1 at users, for 33 s";

#[test]
fn what_the_engine_knows_comes_first() {
    let cpu = snapshot(&[(Class::Cpu, 2.0)], &[("CPU", "", Class::Cpu, 1.0)], vec![psql()]);
    let busy = &[1.0, 1.0][..];
    let down = Ours { busy, queued: true, paced: Some("a limit"), down: Some("connection refused") };
    check(Some(&cpu), down, "down", "the shard is away: connection refused");
    let paced = Ours { down: None, ..down };
    check(Some(&cpu), paced, "paced", "workers are held back on purpose: a limit");
    let worked = Ours { paced: None, ..down };
    let worked = Ours { down: None, ..worked };
    check(
        None,
        worked,
        "unknown",
        "no sample shows what for: the busiest worker is at work 100 % of the time, and records are queued",
    );
    check(None, Ours::default(), "idle", "nothing to do");
}

#[test]
fn where_there_is_room() {
    let quiet = snapshot(&[(Class::Idle, 4.0)], &[("Idle", "ClientRead", Class::Idle, 1.0)], vec![]);
    check(Some(&quiet), Ours { busy: &[0.004, 0.0], ..Ours::default() }, "idle", "nothing to do");
    let light = snapshot(&[(Class::Idle, 3.7), (Class::Commit, 0.3)], &[("IO", "WALSync", Class::Commit, 0.1)], vec![]);
    check(
        Some(&light),
        Ours { busy: &[0.3, 0.0], ..Ours::default() },
        "idle",
        "there is room: the busiest worker is at work 30 % of the time",
    );
    // A parked key waits, and nothing else does.
    let parked = snapshot(&[(Class::Idle, 4.0), (Class::Parked, 1.0)], &[], vec![psql()]);
    let expected = format!("nothing to do but to wait for a lock: {PSQL}");
    check(Some(&parked), Ours { busy: &[0.2], ..Ours::default() }, "lock_bound", &expected);
}

#[test]
fn what_most_of_the_time_goes_into() {
    let ours = Ours { busy: &[0.95, 0.9, 0.9, 0.85], queued: true, ..Ours::default() };
    let busy = "the busiest worker is at work 95 % of the time, and records are queued";
    let cases: [(Class, &str, &str, &str, &str); 3] = [
        (Class::Commit, "IO", "WALSync", "commit_bound", "went into making commits durable (most of it IO:WALSync)"),
        (Class::Cpu, "CPU", "", "cpu_bound", "was computing, without a wait"),
        (
            Class::Io,
            "IO",
            "DataFileRead",
            "io_bound",
            "went into reading and writing tables and indexes (most of it IO:DataFileRead)",
        ),
    ];
    for (class, kind, event, expected, what) in cases {
        let waits = [("LWLock", "BufferContent", Class::Other, 0.3), (kind, event, class, 0.6)];
        let seen = snapshot(&[(class, 2.1), (Class::Other, 0.9), (Class::Idle, 1.0)], &waits, vec![]);
        let text = format!("70 % of PostgreSQL's time for us in the last 10 s {what}; {busy}");
        check(Some(&seen), ours, expected, &text);
        let blocked = Snapshot { blockers: vec![psql()], ..seen };
        check(Some(&blocked), ours, expected, &format!("{text}; besides, {PSQL}"));
    }
    let waits = [("CPU", "", Class::Cpu, 0.35), ("IO", "WALSync", Class::Commit, 0.33)];
    let mixed =
        snapshot(&[(Class::Commit, 1.0), (Class::Cpu, 1.05), (Class::Io, 0.9), (Class::Idle, 0.5)], &waits, vec![]);
    check(Some(&mixed), ours, "unknown", "nothing stands out in the last 10 s: CPU 35 %, IO:WALSync 33 %");
}

#[test]
fn locks_need_not_be_most_of_it() {
    let ours = Ours { busy: &[1.0, 1.0, 1.0, 1.0], ..Ours::default() };
    let at = [(Class::Lock, 1.0), (Class::Commit, 2.5), (Class::Idle, 0.5)];
    let share = "25 % of the workers' time at work in the last 10 s was spent waiting for locks";
    check(Some(&snapshot(&at, &[], vec![psql()])), ours, "lock_bound", &format!("{share}; {PSQL}"));
    check(Some(&snapshot(&at, &[], vec![])), ours, "lock_bound", share);
    let prepared = Blocker {
        session: Session { pid: PREPARED, ..Session::default() },
        blocks: ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec(),
        relation: None,
        blocked_for: Duration::from_millis(70),
        ..psql()
    };
    let text =
        format!("{share}; a prepared transaction (see pg_prepared_xacts) holds up a, b, c and 2 more, for 70 ms");
    check(Some(&snapshot(&at, &[], vec![prepared])), ours, "lock_bound", &text);
    // Of somebody whom this role may not see.
    let hidden = Blocker { session: Session { pid: 5, ..Session::default() }, ..psql() };
    let text = format!("{share}; pid 5 holds up fb-w0.1 at users, for 33 s");
    check(Some(&snapshot(&at, &[], vec![hidden])), ours, "lock_bound", &text);
}

#[test]
fn postgresql_waits_for_us() {
    let ours = Ours { busy: &[1.0, 1.0], queued: true, ..Ours::default() };
    let busy = "the busiest worker is at work 100 % of the time, and records are queued";
    let between = snapshot(&[(Class::Idle, 1.5), (Class::Cpu, 0.5)], &[("CPU", "", Class::Cpu, 0.25)], vec![]);
    let text = format!(
        "75 % of the workers' time at work in the last 10 s their backends had nothing to do: the time goes into decoding, \
         the network, or this machine; {busy}"
    );
    check(Some(&between), ours, "waiting_for_us", &text);
    let within = snapshot(&[(Class::Client, 1.6), (Class::Commit, 0.4)], &[], vec![]);
    let text = format!(
        "80 % of the workers' time at work in the last 10 s PostgreSQL waited for our next statement, within transactions \
         (Client:ClientRead); {busy}"
    );
    check(Some(&within), ours, "waiting_for_us", &text);
    // Work is there, and nobody is at it.
    let stuck = snapshot(&[(Class::Idle, 2.0)], &[], vec![]);
    let ours = Ours { busy: &[0.0, 0.0], queued: true, ..Ours::default() };
    check(
        Some(&stuck),
        ours,
        "waiting_for_us",
        "records are queued, and no worker is at work: our backends have nothing to do",
    );
}

#[test]
fn ages_for_people() {
    for (ms, expected) in [(999, "999 ms"), (1000, "1 s"), (119_000, "119 s"), (120_000, "2 min"), (7_200_000, "2 h")] {
        assert_eq!(duration(Duration::from_millis(ms)), expected);
    }
    let names: std::collections::BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}
