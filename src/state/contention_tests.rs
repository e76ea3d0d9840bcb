use super::*;
use crate::state::blocking::{Edge, Holder, Session, Waiting};

const S: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(250);

/// `thread state [kind:event]`, as `fb-w0.0 active Lock:tuple`.
fn backend(text: &str) -> Backend {
    let mut words = text.split(' ');
    let thread = words.next().unwrap();
    let state = match words.next().unwrap() {
        "active" => State::Active,
        "transaction" => State::InTransaction,
        "idle" => State::Idle,
        _ => State::Unknown,
    };
    let wait = words.next().and_then(|wait| wait.split_once(':'));
    let pid = thread.bytes().map(i32::from).sum();
    let wait = wait.map(|(kind, event)| (kind.to_owned(), event.to_owned()));
    let quiet = if state == State::Idle { 10 * S } else { Duration::ZERO };
    Backend { thread: thread.into(), pid, state, wait, quiet }
}

fn sample(backends: &[&str]) -> Sample {
    Sample { backends: backends.iter().map(|text| backend(text)).collect(), ..Sample::default() }
}

/// Each wait as `kind:event percent`.
#[track_caller]
fn check(contention: &Contention, now: Duration, expectation: &[&str]) {
    let snapshot = contention.snapshot(now).expect("a sample");
    let text = |w: &Wait| format!("{}:{} {:.0}", w.kind, w.event, w.share * 100.0);
    assert_eq!(snapshot.waits.iter().map(text).collect::<Vec<_>>(), expectation);
}

#[test]
fn a_sample_stands_for_the_time_since_the_one_before() {
    let mut contention = Contention::new(S);
    assert_eq!(contention.snapshot(S), None);
    contention.add(S, 1, sample(&["fb-w0.0 idle", "fb-w0.1 idle"]));
    for n in 1..=4 {
        contention.add(S + n * TICK, 1, sample(&["fb-w0.0 active IO:WALSync", "fb-w0.1 idle Client:ClientRead"]));
    }
    check(&contention, 2 * S, &["IO:WALSync 50", "Idle:ClientRead 50"]);
    // Nobody looked for a minute, and it stands for no more than two seconds.
    contention.add(62 * S, 1, sample(&["fb-w0.0 active", "fb-w0.1 active Lock:tuple"]));
    check(&contention, 62 * S, &["CPU: 50", "Lock:tuple 50"]);
    let snapshot = contention.snapshot(62 * S).unwrap();
    assert_eq!(snapshot.at, [(Class::Cpu, 1.0), (Class::Lock, 1.0)], "backends at a time");
    assert_eq!(snapshot.blocked, 1);
    let mut totals: Vec<String> =
        snapshot.totals.iter().map(|(kind, event, time)| format!("{kind}:{event} {}", time.as_secs())).collect();
    totals.sort();
    assert_eq!(totals, ["CPU: 2", "IO:WALSync 1", "Idle:ClientRead 1", "Lock:tuple 2"], "they only grow");
    // What is known grows old.
    let late = contention.snapshot(80 * S).unwrap();
    assert_eq!((late.waits.len(), late.blocked), (0, 0));
}

#[test]
fn memory_is_bounded() {
    let mut contention = Contention::new(S);
    for n in 0..5000u32 {
        let event = format!("fb-w0.0 active Extension:event{n}");
        contention.add(n * Duration::from_millis(1), 1, sample(&[&event]));
    }
    assert_eq!(contention.slots.len(), SLOTS_MAX);
    assert!(contention.events.len() <= EVENTS_MAX + 1, "{}", contention.events.len());
    let all: Duration = contention.events.iter().map(|event| event.total).sum();
    assert_eq!(all, Duration::from_millis(4999), "nothing is left out");
    contention.add(60 * S, 1, sample(&[]));
    assert_eq!(contention.slots.len(), 1);
}

#[test]
fn less_is_looked_at_while_nothing_is_written() {
    let mut contention = Contention::new(S);
    contention.add(S, 1, sample(&["fb-w0.0 idle", "fb-s0.0 idle"]));
    assert_eq!(contention.pause(TICK), 4 * TICK);
    contention.add(S, 1, sample(&["fb-w0.0 idle", "fb-w0.1 active"]));
    assert_eq!(contention.pause(TICK), TICK);
    let mut between = sample(&["fb-w0.0 idle"]);
    between.backends[0].quiet = S;
    contention.add(S, 1, between);
    assert_eq!(contention.pause(TICK), TICK, "between two batches");
}

#[test]
fn locks_are_looked_at_while_there_is_something_to_see() {
    let mut contention = Contention::new(60 * S);
    let ask = |contention: &Contention, now| {
        let Ask { locks, seen_waiting, remembered, .. } = contention.ask(now);
        (locks, seen_waiting, remembered)
    };
    contention.add(S, 1, sample(&["fb-w0.0 active"]));
    assert_eq!(ask(&contention, 9 * S), (false, vec![], vec![]));
    let session = Session { pid: 99, transaction: Some("1/1".into()), ..Session::default() };
    let waiting = Waiting { thread: "fb-w0.0".into(), pid: 7, since: TICK, lock: None, relation: None };
    let look = Look {
        waiting: vec![waiting],
        edges: vec![Edge { waiter: 7, blocker: 99 }],
        sessions: vec![session.clone()],
        holders: vec![],
    };
    contention.add(10 * S, 1, Sample { look: Some(look), ..sample(&["fb-w0.0 active Lock:transactionid"]) });
    assert_eq!(ask(&contention, 10 * S + TICK), (false, vec![7], vec![99]));
    assert_eq!(ask(&contention, 11 * S), (true, vec![7], vec![99]));
    // The key is parked; its blocker is asked after.
    let look = Look { sessions: vec![session], ..Look::default() };
    contention.add(11 * S, 1, Sample { look: Some(look), ..sample(&["fb-w0.0 idle"]) });
    assert_eq!(ask(&contention, 12 * S), (true, vec![], vec![99]));
    assert_eq!(contention.snapshot(12 * S).unwrap().blockers.len(), 1);
    assert_eq!(contention.snapshot(17 * S).unwrap().blockers.len(), 0, "nobody has looked");
    contention.add(12 * S, 1, Sample { look: Some(Look::default()), ..sample(&["fb-w0.0 idle"]) });
    assert_eq!(ask(&contention, 20 * S), (false, vec![], vec![]));
}

#[test]
fn a_slow_lane_whose_keys_are_locked_waits_for_a_lock() {
    let mut contention = Contention::new(60 * S);
    let session = Session { pid: 99, transaction: Some("1/1".into()), ..Session::default() };
    let holder = Holder { thread: "fb-s0.0".into(), relation: "t".into(), pid: 99 };
    let look = Look { holders: vec![holder], sessions: vec![session], ..Look::default() };
    contention.add(S, 1, Sample { look: Some(look), ..sample(&[]) });
    contention.add(2 * S, 1, sample(&["fb-w0.0 idle", "fb-s0.0 idle", "fb-s0.1 idle"]));
    check(&contention, 2 * S, &["Idle:ClientRead 67", "Lock:parked 33"]);
    assert_eq!(contention.snapshot(2 * S).unwrap().blocked, 0);
}

#[test]
fn names_of_all_versions() {
    let expected = [
        (Class::Commit, "IO:WALSync IO:WalSync IO:WALWrite IO:WalInitSync LWLock:WALWrite LWLock:WALWriteLock"),
        (Class::Commit, "LWLock:wal_insert LWLock:WALInsert IPC:SyncRep IPC:XactGroupUpdate IPC:ProcarrayGroupUpdate"),
        (Class::Io, "IO:DataFileRead IO:SLRURead LWLock:BufferIO IPC:BufferIO IPC:BufferIo Lock:extend"),
        (Class::Lock, "Lock:transactionid Lock:tuple Lock:relation Lock:advisory"),
        (Class::Client, "Client:ClientRead Client:ClientWrite"),
        (Class::Other, "LWLock:BufferContent LWLock:lock_manager Timeout:PgSleep Activity:X BufferPin:BufferPin IPC:X"),
    ];
    for (expected, names) in expected {
        for name in names.split(' ') {
            let (kind, event) = name.split_once(':').unwrap();
            assert_eq!(class(kind, event), expected, "{name}");
        }
    }
    // Not at a character's border.
    assert_eq!(class("IO", "aé"), Class::Io);
}

fn server(wal: i64, timed: i64, requested: i64) -> Option<Server> {
    Some(Server {
        wal: Some(wal),
        checkpoints_timed: Some(timed),
        checkpoints_requested: Some(requested),
        connections: Connections { open: Some(3), server_max: 97, server_used: 12 },
    })
}

#[test]
fn what_the_server_counts() {
    let mut contention = Contention::new(S);
    let mut add = |at: Duration, fresh: bool, server: Option<Server>| {
        contention.add(at, 1, Sample { server, fresh, ..Sample::default() });
        let wal = contention.snapshot(at).unwrap().wal;
        (wal.map(|w| (w.bytes, w.bytes_per_s, w.checkpoints_timed, w.checkpoints_requested)), contention.ask(at).server)
    };
    assert_eq!(add(S, true, None), (None, true));
    assert_eq!(add(S, false, server(1000, 5, 1)), (Some((0, None, Some(0), Some(0))), false));
    assert_eq!(add(6 * S, false, server(6000, 6, 3)), (Some((5000, Some(1000.0), Some(1), Some(2))), false));
    assert_eq!(add(7 * S, false, None).0, Some((5000, Some(1000.0), Some(1), Some(2))));
    // Statistics were reset.
    assert_eq!(add(11 * S, false, server(6000, 1, 0)), (Some((5000, Some(0.0), Some(2), Some(2))), false));
    // Another server, perhaps.
    assert_eq!(add(12 * S, true, server(9_000_000, 70, 70)).0, Some((5000, None, Some(2), Some(2))));
    assert_eq!(add(17 * S, false, server(9_000_010, 71, 70)).0, Some((5010, Some(2.0), Some(3), Some(2))));
    let connections = contention.snapshot(17 * S).unwrap().connections.unwrap();
    assert_eq!((connections.server_max, connections.server_used), (97, 12));
}

#[test]
fn tables_count_from_the_beginning() {
    let mut contention = Contention::new(S);
    let mut add = |at: Duration, fresh: bool, updates: i64, hot_updates: i64| {
        let numbers = TableNumbers {
            table: "t".into(),
            updates,
            hot_updates,
            live_rows: 10,
            dead_rows: 4,
            last_vacuum_at_ms: None,
        };
        contention.add(at, 1, Sample { tables: Some(vec![numbers]), fresh, ..Sample::default() });
        let tables = contention.snapshot(at).unwrap().tables;
        (tables[0].updates, tables[0].hot_updates, tables[0].hot_ratio(), tables[0].dead_rows)
    };
    assert_eq!(add(S, true, 1000, 0), (0, 0, None, 4));
    assert_eq!(add(11 * S, false, 1100, 75), (100, 75, Some(0.75), 4));
    assert_eq!(add(21 * S, true, 9000, 9000), (100, 75, Some(0.75), 4));
    assert_eq!(add(31 * S, false, 9100, 9100), (200, 175, Some(0.875), 4));
}
