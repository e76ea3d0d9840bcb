//! The fakes against what they stand for: the database against the verified statements (the same calls, the same answers as
//! on PostgreSQL), the group against Kafka's rules, the observers against the failures they must see.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use forebay::sink::{Anchor, Control, Failure, Identity, Job, Progress, Taken, Takeover, Writer, Written};
use forebay::source::{Commit, Intake, PartitionError, Source, SourceEvent, Start};
use forebay::state::batch::{Batch, LaneMove};
use forebay::state::chunk::{Chunk, RawRecord};
use forebay::types::{Generation, Lane, NextOffset, Offset, Token, TopicIx, TopicPartition};

use super::broker::{Broker, ShardOf};
use super::group::Group;
use super::observe;
use super::sink::{FakeControl, FakeWriter};
use super::source::FakeSource;
use super::world::{Shared, World};

const AT: TopicPartition = TopicPartition { topic: TopicIx(0), partition: 0 };
const SESSION: Duration = Duration::from_secs(10);

/// One topic with one partition that holds `records` records of two keys.
fn world(records: u32, eager: bool) -> Shared {
    let mut broker = Broker::new(1, 1, ShardOf::Only);
    for n in 0..records {
        broker.publish(AT, 0, Some(format!("k{}", n % 2).into_bytes()), 0);
    }
    let mut world = World::new(7, Group::new(eager, SESSION), broker, 1);
    world.dbs[0].history_max = 100;
    world.observers = observe::all(100);
    Rc::new(RefCell::new(world))
}

fn take(control: &mut FakeControl, lanes: Lane, token: i64, begin: i64) -> Result<Taken, Failure> {
    control.takeover(&Takeover { at: AT, token: Token(token), lanes, begin: NextOffset(begin) })
}

fn taken(origin: i64, done: i64, created: bool, fences: &[i64]) -> Result<Taken, Failure> {
    let fences = fences.iter().copied().map(NextOffset).collect();
    Ok(Taken { origin: NextOffset(origin), done: NextOffset(done), created, fences, parked: Vec::new() })
}

/// Writes the records at these (lane, offset), moving each lane's fence from `expected` behind its last record.
fn write(
    writer: &mut FakeWriter,
    token: i64,
    expected: &[(Lane, i64)],
    records: &[(Lane, i64)],
) -> Result<bool, Failure> {
    let mut chunk = Chunk::new(AT.topic);
    let runs: BTreeMap<Lane, u32> = expected
        .iter()
        .map(|&(lane, at)| (lane, chunk.open_run(AT, lane, Generation(1), Token(token), NextOffset(at))))
        .collect();
    for (seq, &(lane, offset)) in records.iter().enumerate() {
        let value = offset.to_string();
        let value = Some(value.as_bytes());
        let record = RawRecord { offset: Offset(offset), timestamp_ms: 0, key: None, value, headers: &[] };
        chunk.push(runs[&lane], seq as u64, 0, &record);
    }
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    let mut moves: Vec<LaneMove> = Vec::new();
    batch.moves(batch.len(), &mut moves);
    let written = writer.write(&Job::plain(&batch, 0..batch.len(), &moves))?;
    Ok(matches!(written, Written::Applied(_)))
}

fn progress(control: &mut FakeControl, token: i64, done: i64, fences: &[i64]) -> Result<Vec<i64>, Failure> {
    let fences = fences.iter().copied().map(NextOffset).collect();
    let asked = Progress { partition: 0, token: Token(token), done: NextOffset(done), fences };
    Ok(control.progress(AT.topic, &[asked])?.into_iter().map(|(_, done)| done.0).collect())
}

fn applied(world: &Shared) -> Vec<u64> {
    world.borrow().dbs[0].rows.iter().map(|r| r.id).collect()
}

#[test]
fn the_database_answers_as_the_verified_statements_do() {
    let w = world(20, false);
    let (mut control, mut writer) = (FakeControl::new(w.clone(), 0, 1), FakeWriter::new(w.clone(), 0, 1));
    assert_eq!(take(&mut control, 2, 111, 5), taken(5, 5, true, &[5, 5]));
    assert_eq!(take(&mut control, 2, 222, 99), taken(5, 5, false, &[5, 5]));

    let even_and_odd = [(0, 6), (1, 7), (0, 8)];
    assert_eq!(write(&mut writer, 222, &[(0, 5), (1, 5)], &even_and_odd), Ok(true));
    assert_eq!(write(&mut writer, 222, &[(0, 9), (1, 5)], &[(0, 10), (1, 11)]), Ok(false), "one of two matches");
    assert_eq!(write(&mut writer, 111, &[(0, 9)], &[(0, 10)]), Ok(false), "the token moved");
    let rows = writer.reread(AT.topic, &[(0, 0), (0, 1), (0, 2)]).unwrap();
    let rows: Vec<_> = rows.iter().map(|r| (r.lane, r.next.0, r.token.0)).collect();
    assert_eq!(rows, [(0, 9, 222), (1, 8, 222)], "nothing moved; what does not exist is left out");
    assert_eq!(applied(&w), [6, 7, 8]);

    assert_eq!(progress(&mut control, 222, 8, &[9, 8]), Ok(vec![8]));
    assert_eq!(progress(&mut control, 222, 12, &[9, 12]), Ok(vec![]), "lane 1 is behind what is believed");
    assert_eq!(progress(&mut control, 111, 12, &[9, 8]), Ok(vec![]), "another token");

    // Another number of lanes: not while a fence lies beyond `done`.
    assert_eq!(take(&mut control, 4, 333, 0), taken(5, 8, false, &[9, 8]));
    assert_eq!(progress(&mut control, 333, 9, &[9, 8]), Ok(vec![9]));
    assert_eq!(take(&mut control, 4, 444, 0), taken(5, 9, false, &[9, 9, 9, 9]));
    assert_eq!(write(&mut writer, 333, &[(0, 9)], &[(0, 10)]), Ok(false), "same lane and offset, other token");
}

#[test]
fn a_takeover_waits_for_a_transaction_in_flight() {
    for seed in 0..50 {
        let w = world(20, false);
        w.borrow_mut().rng.seed(seed);
        let (mut control, mut writer) = (FakeControl::new(w.clone(), 0, 1), FakeWriter::new(w.clone(), 0, 1));
        take(&mut control, 1, 111, 0).unwrap();
        w.borrow_mut().faults.write_orphaned = 1000;
        assert!(matches!(write(&mut writer, 111, &[(0, 0)], &[(0, 0), (0, 1)]), Err(Failure::Outage(_))));
        assert!(applied(&w).is_empty());
        let found = take(&mut control, 1, 222, 0);
        match w.borrow().dbs[0].orphans.len() {
            // It gave up waiting, and nothing moved.
            1 => assert!(matches!(found, Err(Failure::LockWait(_)))),
            _ => {
                let ends = if applied(&w).is_empty() { 0 } else { 2 };
                assert_eq!(found, taken(0, 0, false, &[ends]), "fences as they are after the wait");
            }
        }
    }
}

#[test]
fn an_answer_may_be_lost_either_way() {
    let w = world(20, false);
    let (mut control, mut writer) = (FakeControl::new(w.clone(), 0, 1), FakeWriter::new(w.clone(), 0, 1));
    take(&mut control, 1, 111, 0).unwrap();
    w.borrow_mut().faults.write_lost_unapplied = 1000;
    assert!(matches!(write(&mut writer, 111, &[(0, 0)], &[(0, 0)]), Err(Failure::Outage(_))));
    assert!(applied(&w).is_empty());
    w.borrow_mut().faults.write_lost_unapplied = 0;
    w.borrow_mut().faults.write_lost_applied = 1000;
    assert!(matches!(write(&mut writer, 111, &[(0, 0)], &[(0, 0)]), Err(Failure::Outage(_))));
    assert_eq!(applied(&w), [0]);
    assert_eq!(writer.reread(AT.topic, &[(0, 0)]).unwrap()[0].next, NextOffset(1));
}

#[test]
fn a_database_falls_back_with_rows_and_fences_together() {
    for hidden in [false, true] {
        let w = world(20, false);
        let (mut control, mut writer) = (FakeControl::new(w.clone(), 0, 1), FakeWriter::new(w.clone(), 0, 1));
        take(&mut control, 1, 111, 0).unwrap();
        let before = w.borrow().dbs[0].past() - 1;
        assert_eq!(write(&mut writer, 111, &[(0, 0)], &[(0, 0), (0, 1)]), Ok(true));
        w.borrow_mut().dbs[0].fall_back(before, hidden);
        assert!(applied(&w).is_empty());
        let again = writer.reread(AT.topic, &[(0, 0)]);
        if !hidden {
            assert!(matches!(again, Err(Failure::Outage(_))), "the connection broke");
        }
        assert_eq!(writer.reread(AT.topic, &[(0, 0)]).unwrap()[0].next, NextOffset(0));
        // To before anyone had been here.
        w.borrow_mut().dbs[0].fall_back(0, true);
        let identity = Identity { cluster_id: "c".into(), topic_id: None };
        let _ = control.locate(AT.topic, &identity, &[0]);
        assert_eq!(control.locate(AT.topic, &identity, &[0]), Ok(vec![None]));
    }
}

#[test]
fn a_source_is_registered_once_and_compared_ever_after() {
    let w = world(0, false);
    let mut control = FakeControl::new(w.clone(), 0, 1);
    let identity = |topic: &str| Identity { cluster_id: "c".into(), topic_id: Some(topic.into()) };
    assert_eq!(control.locate(AT.topic, &identity("a"), &[0]), Ok(vec![None]));
    take(&mut control, 1, 111, 3).unwrap();
    let anchor = Anchor { origin: NextOffset(3), done: NextOffset(3) };
    assert_eq!(control.locate(AT.topic, &identity("a"), &[0]), Ok(vec![Some(anchor)]));
    assert!(matches!(control.locate(AT.topic, &identity("b"), &[0]), Err(Failure::Topic(_))));
}

/// Remembers what a poll brings.
#[derive(Default)]
struct Heard {
    offsets: Vec<i64>,
    events: Vec<SourceEvent>,
}

impl Intake for Heard {
    fn record(&mut self, _at: TopicPartition, record: &RawRecord<'_>) {
        self.offsets.push(record.offset.0);
    }

    fn event(&mut self, event: SourceEvent) {
        self.events.push(event);
    }
}

fn poll(source: &mut FakeSource) -> Heard {
    let mut heard = Heard::default();
    for _ in 0..20 {
        source.poll(Duration::ZERO, 100, &mut heard).unwrap();
    }
    heard
}

fn assigned(source: &mut FakeSource, from: i64) {
    assert_eq!(poll(source).events, [SourceEvent::Assigned(vec![AT])]);
    source.assign(&[(AT, Start::At(NextOffset(from)))]).unwrap();
}

#[test]
fn a_source_skips_gaps_and_ends_behind_markers() {
    let w = world(2, false);
    w.borrow_mut().broker.publish(AT, 3, None, 0);
    w.borrow_mut().broker.mark(AT);
    let mut source = FakeSource::new(w.clone(), 1);
    assigned(&mut source, 0);
    let heard = poll(&mut source);
    assert_eq!(heard.offsets, [0, 1, 5]);
    assert_eq!(heard.events, [SourceEvent::EndOfPartition { at: AT, end: NextOffset(7) }]);
    w.borrow_mut().broker.retain_from(AT, NextOffset(5));
    source.restart(AT, NextOffset(4)).unwrap();
    let error = PartitionError::OutOfRange;
    assert_eq!(poll(&mut source).events, [SourceEvent::PartitionFailed { at: AT, error }]);
    source.restart(AT, NextOffset(5)).unwrap();
    assert_eq!(poll(&mut source).offsets, [5]);
}

#[test]
fn a_zombie_is_told_late_and_may_not_commit() {
    for eager in [false, true] {
        let w = world(4, eager);
        let mut zombie = FakeSource::new(w.clone(), 1);
        assigned(&mut zombie, 0);
        let clock = w.borrow().clock.clone();
        clock.advance(SESSION * 2);
        let mut heir = FakeSource::new(w.clone(), 2);
        assigned(&mut heir, 0);
        zombie.commit(&[Commit { at: AT, next: NextOffset(1), metadata: String::new() }]).unwrap();
        let told = poll(&mut zombie);
        assert!(told.events.iter().any(|e| matches!(e, SourceEvent::Committed(Err(_)))), "{:?}", told.events);
        assert!(!told.events.contains(&SourceEvent::Committed(Ok(()))), "{:?}", told.events);
        assert!(told.events.contains(&SourceEvent::Lost(vec![AT])), "{:?}", told.events);
        zombie.unassign(&[AT]).unwrap();
        assert_eq!(w.borrow().group.committed.get(&AT), None);
        heir.commit(&[Commit { at: AT, next: NextOffset(0), metadata: "m".into() }]).unwrap();
        assert!(poll(&mut heir).events.contains(&SourceEvent::Committed(Ok(()))));
        assert_eq!(heir.committed(&[AT]).unwrap()[0].metadata, "m");
    }
}

#[test]
fn a_revocation_waits_for_its_answer() {
    for eager in [false, true] {
        let w = world(4, eager);
        let mut first = FakeSource::new(w.clone(), 1);
        assigned(&mut first, 0);
        let mut second = FakeSource::new(w.clone(), 2);
        w.borrow_mut().group.reshuffle();
        assert!(!poll(&mut second).events.contains(&SourceEvent::Assigned(vec![AT])));
        assert!(poll(&mut first).events.contains(&SourceEvent::Revoked(vec![AT])));
        assert!(!poll(&mut second).events.contains(&SourceEvent::Assigned(vec![AT])), "not answered yet");
        first.unassign(&[AT]).unwrap();
        assert!(poll(&mut second).events.contains(&SourceEvent::Assigned(vec![AT])));
        // Whoever does not answer is thrown out in the end, and hears of it once it has answered.
        second.assign(&[(AT, Start::At(NextOffset(0)))]).unwrap();
        w.borrow_mut().group.reshuffle();
        let clock = w.borrow().clock.clone();
        for _ in 0..4 {
            poll(&mut second);
            poll(&mut first);
            clock.advance(SESSION / 2);
        }
        assert!(w.borrow().group.is_expelled(2));
        second.unassign(&[AT]).unwrap();
        poll(&mut second);
        assert!(!w.borrow().group.is_expelled(2), "it has joined again");
    }
}

/// What the observers say of a database in which these (token, records) were written one after the other.
fn accused(writes: &[(i64, &[(Lane, i64)])], and: impl Fn(&mut World)) -> Option<String> {
    let w = world(4, false);
    let mut control = FakeControl::new(w.clone(), 0, 1);
    let mut writer = FakeWriter::new(w.clone(), 0, 1);
    take(&mut control, 8, 111, 0).unwrap();
    for (token, records) in writes {
        let expected: Vec<(Lane, i64)> = records.iter().map(|(lane, _)| (*lane, 0)).collect();
        write(&mut writer, *token, &expected, records).unwrap();
    }
    let mut w = w.borrow_mut();
    and(&mut w);
    w.at_rest();
    w.broken.clone()
}

/// Lanes of their own let the fences pass what the observers must see.
#[test]
fn the_observers_see_what_they_are_there_for() {
    let check = |found: Option<String>, expected: Option<&str>| match expected {
        None => assert_eq!(found, None),
        Some(words) => assert!(found.as_ref().is_some_and(|f| f.contains(words)), "{found:?} instead of {words}"),
    };
    let all = [(0, 0), (1, 1), (2, 2), (3, 3)];
    let nothing = |_: &mut World| {};
    check(accused(&[(111, &all)], nothing), None);
    check(accused(&[(111, &[(0, 0), (1, 1)]), (111, &[(2, 0)])], nothing), Some("applied twice"));
    check(accused(&[(111, &[(0, 2)])], nothing), Some("applied before #0"));
    check(accused(&[(111, &all[..3])], nothing), Some("nothing lost: #3"));
    check(accused(&[(111, &all[..3])], |w| w.broker.retain_from(AT, NextOffset(4))), Some("nobody said so"));
    let commit = |w: &mut World| w.happened(&observe::Happening::Committed { member: 1, at: AT, next: 4 });
    check(accused(&[(111, &all)], commit), None);
    check(accused(&[(111, &all[..3])], commit), Some("never durable"));
    let stop = |w: &mut World| {
        w.happened(&observe::Happening::Stopped { process: 1, topic: 0, message: "gone".into() });
    };
    check(accused(&[(111, &all)], stop), Some("without a reason"));
    check(
        accused(&[(111, &all)], |w| {
            w.broker.recreate(AT.topic);
            stop(w)
        }),
        None,
    );
}
