//! The real source on the real broker: positions, ends behind transaction markers, the three rebalance protocols with late
//! answers, restarts, retention, recreated topics, static membership, waking.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use forebay::config::secret::Secret;
use forebay::config::{FirstStart, Kafka};
use forebay::source::kafka::{KafkaSource, Options};
use forebay::source::{Commit, Intake, PartitionError, Source, SourceError, SourceEvent, Start};
use forebay::state::chunk::RawRecord;
use forebay::types::{NextOffset, TopicIx, TopicPartition};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::{Topic, kafka_bootstrap, produce, unique_name, wait_until};

/// Anything that a test waits for comes within this, or it failed.
const DEADLINE: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(20);

const EAGER: &[(&str, &str)] = &[("partition.assignment.strategy", "range")];
const COOPERATIVE: &[(&str, &str)] = &[("partition.assignment.strategy", "cooperative-sticky")];
const KIP_848: &[(&str, &str)] = &[("group.protocol", "consumer")];
const PROTOCOLS: [(&str, &[(&str, &str)]); 3] = [("eager", EAGER), ("cooperative", COOPERATIVE), ("consumer", KIP_848)];

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicIx(0), partition }
}

fn settings(group: &str, extra: &[(&str, &str)]) -> Kafka {
    let mut properties: BTreeMap<String, Secret> = BTreeMap::new();
    properties.insert("bootstrap.servers".to_owned(), Secret(kafka_bootstrap()));
    for (name, value) in extra {
        properties.insert((*name).to_owned(), Secret((*value).to_owned()));
    }
    Kafka { group_id: group.to_owned(), first_start: FirstStart::Earliest, properties }
}

/// A member of a group that keeps all it is given, and answers rebalances as told.
struct Member {
    source: KafkaSource,
    seen: Seen,
    /// Where partitions begin; others at 0.
    starts: BTreeMap<i32, Start>,
    /// How long a rebalance waits for its answer.
    answer_after: Duration,
    pending: Option<(Instant, SourceEvent)>,
    owned: Vec<i32>,
    /// Committed while a revocation waits for its answer.
    commit_on_revoke: Option<NextOffset>,
    fatal: Option<String>,
}

/// Key, value, timestamp.
type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, i64);

#[derive(Default)]
struct Seen {
    records: Vec<(i32, i64)>,
    ends: Vec<(i32, i64)>,
    failed: Vec<(i32, PartitionError)>,
    commits: Vec<Result<(), String>>,
    rebalances: Vec<SourceEvent>,
    headers: Vec<Vec<u8>>,
    values: Vec<Parts>,
    keep_values: bool,
}

impl Intake for Seen {
    fn record(&mut self, at: TopicPartition, record: &RawRecord<'_>) {
        self.records.push((at.partition, record.offset.0));
        if self.keep_values {
            let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            self.values.push((own(record.key), own(record.value), record.timestamp_ms));
            self.headers.push(record.headers.to_vec());
        }
    }

    fn event(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::EndOfPartition { at, end } => self.ends.push((at.partition, end.0)),
            SourceEvent::PartitionFailed { at, error } => self.failed.push((at.partition, error)),
            SourceEvent::Committed(result) => self.commits.push(result),
            SourceEvent::Unwell(text) => eprintln!("unwell: {text}"),
            rebalance => self.rebalances.push(rebalance),
        }
    }
}

impl Member {
    fn new(topic: &str, group: &str, extra: &[(&str, &str)]) -> Member {
        let source = KafkaSource::new(&settings(group, extra), &[topic.to_owned()], Options::default()).unwrap();
        Member {
            source,
            seen: Seen::default(),
            starts: BTreeMap::new(),
            answer_after: Duration::ZERO,
            pending: None,
            owned: Vec::new(),
            commit_on_revoke: None,
            fatal: None,
        }
    }

    fn begin(mut self, partition: i32, start: i64) -> Member {
        self.starts.insert(partition, Start::At(NextOffset(start)));
        self
    }

    fn step(&mut self) {
        match self.source.poll(STEP, 100, &mut self.seen) {
            Ok(()) => {}
            Err(SourceError::Fatal(why)) => self.fatal = Some(why),
            Err(SourceError::Retriable(why)) => panic!("poll: {why}"),
        }
        if self.pending.is_none() && !self.seen.rebalances.is_empty() {
            let event = self.seen.rebalances.remove(0);
            if let (SourceEvent::Revoked(of), Some(next)) = (&event, self.commit_on_revoke) {
                let commits: Vec<_> =
                    of.iter().map(|&at| Commit { at, next, metadata: "on revoke".to_owned() }).collect();
                self.source.commit(&commits).unwrap();
            }
            self.pending = Some((Instant::now() + self.answer_after, event));
        }
        if self.pending.as_ref().is_some_and(|(when, _)| Instant::now() >= *when) {
            let (_, event) = self.pending.take().unwrap();
            self.answer(event);
        }
    }

    fn answer(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Assigned(parts) => {
                let start = |p: &TopicPartition| *self.starts.get(&p.partition).unwrap_or(&Start::At(NextOffset(0)));
                let starts: Vec<_> = parts.iter().map(|p| (*p, start(p))).collect();
                self.source.assign(&starts).unwrap();
                for p in parts {
                    assert!(!self.owned.contains(&p.partition), "partition {} assigned twice", p.partition);
                    self.owned.push(p.partition);
                }
            }
            SourceEvent::Revoked(parts) | SourceEvent::Lost(parts) => {
                self.source.unassign(&parts).unwrap();
                self.owned.retain(|p| !parts.iter().any(|gone| gone.partition == *p));
            }
            other => panic!("no rebalance: {other:?}"),
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, condition: impl Fn(&Member) -> bool) {
        wait_until(DEADLINE, what, || {
            self.step();
            assert!(self.fatal.is_none(), "fatal: {:?}", self.fatal);
            condition(self)
        });
    }

    fn step_for(&mut self, how_long: Duration) {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            self.step();
        }
    }

    fn offsets(&self, partition: i32) -> Vec<i64> {
        self.seen.records.iter().filter(|(p, _)| *p == partition).map(|(_, o)| *o).collect()
    }

    #[track_caller]
    fn close(mut self) -> Seen {
        self.source.close().unwrap();
        wait_until(DEADLINE, "leaving the group", || {
            self.step();
            self.source.closed()
        });
        self.seen
    }
}

fn publish(topic: &Topic, partition: i32, count: usize) {
    let value = vec![b'x'; 200];
    produce(topic.name(), (0..count).map(|_| (partition, Some(&b"key"[..]), Some(value.as_slice()))));
}

#[test]
fn records_come_from_explicit_offsets_with_all_their_parts() {
    let topic = Topic::create("source", 2);
    produce(
        topic.name(),
        [(0, Some(&b"k"[..]), Some(&b"v"[..])), (0, None, None), (0, Some(&b""[..]), Some(&b""[..]))],
    );
    publish(&topic, 1, 10);
    for (name, protocol) in PROTOCOLS {
        let mut member = Member::new(topic.name(), &unique_name("g"), protocol).begin(1, 7);
        member.seen.keep_values = true;
        member.until("both ends", |m| m.seen.ends.contains(&(0, 3)) && m.seen.ends.contains(&(1, 10)));
        assert_eq!(member.offsets(0), [0, 1, 2], "{name}");
        assert_eq!(member.offsets(1), [7, 8, 9], "{name}");
        let values: Vec<_> =
            member.seen.values.iter().filter(|(_, v, _)| v.as_ref().is_none_or(|v| v.len() < 2)).cloned().collect();
        let own = |s: &str| Some(s.as_bytes().to_vec());
        assert_eq!((values[0].0.clone(), values[0].1.clone()), (own("k"), own("v")));
        assert_eq!((values[1].0.clone(), values[1].1.clone()), (None, None));
        assert_eq!((values[2].0.clone(), values[2].1.clone()), (own(""), own("")));
        assert!(values.iter().all(|(_, _, ms)| *ms > 1_500_000_000_000), "{values:?}");
        assert!(member.seen.headers.iter().all(Vec::is_empty));
        let began = Instant::now();
        member.close();
        assert!(began.elapsed() < Duration::from_secs(5), "{name}: closing took {:?}", began.elapsed());
    }
}

#[test]
fn headers_come_packed_in_order_null_and_twice_included() {
    use forebay::state::chunk::Headers;
    use rdkafka::message::{Header, OwnedHeaders};

    let topic = Topic::create("source", 1);
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", kafka_bootstrap()).create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "app", value: Some("one") })
        .insert(Header { key: "none", value: None::<&str> })
        .insert(Header { key: "app", value: Some("two") });
    producer.send(BaseRecord::<[u8], [u8]>::to(topic.name()).payload(b"v").headers(headers)).unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(topic.name()).payload(b"w")).unwrap();
    producer.flush(DEADLINE).unwrap();

    let mut member = Member::new(topic.name(), &unique_name("g"), EAGER);
    member.seen.keep_values = true;
    member.until("both records", |m| m.seen.records.len() == 2);
    let first = Headers(&member.seen.headers[0]);
    let all: Vec<_> = first.iter().collect();
    assert_eq!(all, [("app", Some(&b"one"[..])), ("none", None), ("app", Some(&b"two"[..]))]);
    assert_eq!(first.get("app"), Some(Some(&b"two"[..])));
    assert!(member.seen.headers[1].is_empty(), "headers of the record before");
}

fn transaction(topic: &Topic, records: usize, commit: bool) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka_bootstrap())
        .set("transactional.id", unique_name("t"))
        .create()
        .unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..records {
        producer.send(BaseRecord::<[u8], [u8]>::to(topic.name()).partition(0).payload(b"t")).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
    if commit {
        producer.commit_transaction(DEADLINE).unwrap();
    } else {
        producer.abort_transaction(DEADLINE).unwrap();
    }
}

#[test]
fn ends_lie_behind_transaction_markers_and_aborted_records_are_gaps() {
    let topic = Topic::create("source", 1);
    let mut member = Member::new(topic.name(), &unique_name("g"), COOPERATIVE);
    member.until("the empty partition's end", |m| m.seen.ends.contains(&(0, 0)));
    // Three records and their marker.
    transaction(&topic, 3, true);
    member.until("the end behind the commit marker", |m| m.seen.ends.contains(&(0, 4)));
    assert_eq!(member.offsets(0), [0, 1, 2]);
    // Nothing readable at all, and yet the end moves.
    transaction(&topic, 5, false);
    member.until("the end behind the abort marker", |m| m.seen.ends.contains(&(0, 10)));
    assert_eq!(member.offsets(0), [0, 1, 2]);
    publish(&topic, 0, 1);
    member.until("the end behind the gap", |m| m.seen.ends.contains(&(0, 11)));
    assert_eq!(member.offsets(0), [0, 1, 2, 10]);
    let marks = member.source.watermarks(at(0)).unwrap();
    assert_eq!((marks.low, marks.high), (NextOffset(0), NextOffset(11)));
}

#[test]
fn the_high_watermark_counts_records_of_an_open_transaction() {
    let topic = Topic::create("source", 1);
    publish(&topic, 0, 2);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka_bootstrap())
        .set("transactional.id", unique_name("t"))
        .create()
        .unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(topic.name()).partition(0).payload(b"t")).unwrap();
    producer.flush(DEADLINE).unwrap();

    let mut member = Member::new(topic.name(), &unique_name("g"), EAGER);
    member.until("the readable end", |m| m.seen.ends.contains(&(0, 2)));
    assert_eq!(member.source.watermarks(at(0)).unwrap().high, NextOffset(3));
    assert_eq!(member.offsets(0), [0, 1]);
    producer.abort_transaction(DEADLINE).unwrap();
}

/// Two members, every rebalance answered half a second late and, while a revocation waits, commits.
#[test]
fn late_answers_keep_every_protocol_going() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 4);
        (0..4).for_each(|p| publish(&topic, p, 5));
        let group = unique_name("g");
        let late = Duration::from_millis(500);
        let mut first = Member::new(topic.name(), &group, protocol);
        first.answer_after = late;
        first.commit_on_revoke = Some(NextOffset(5));
        first.until("all four partitions", |m| m.owned.len() == 4);
        let mut second = Member::new(topic.name(), &group, protocol);
        second.answer_after = late;
        second.commit_on_revoke = Some(NextOffset(5));
        both_until(&mut first, &mut second, "the partitions to be shared", |a, b| {
            a.owned.len() == 2 && b.owned.len() == 2
        });
        assert!(!first.seen.commits.is_empty(), "{name}: no answer to the commits of the revocation");
        assert!(first.seen.commits.iter().all(Result::is_ok), "{name}: {:?}", first.seen.commits);
        // What was committed inside the revocation is there for the next owner.
        let moved = second.owned[0];
        let committed = second.source.committed(&[at(moved)]).unwrap();
        assert_eq!(committed[0].next, Some(NextOffset(5)), "{name}");
        assert_eq!(committed[0].metadata, "on revoke", "{name}");

        // The second one leaves, still answering late; the first gets everything back.
        second.source.close().unwrap();
        both_until(&mut first, &mut second, "everything to come back", |a, b| b.source.closed() && a.owned.len() == 4);
        assert!(second.seen.commits.iter().all(Result::is_ok), "{name}: {:?}", second.seen.commits);
        assert!(second.owned.is_empty(), "{name}: {:?} never came back", second.owned);
        publish(&topic, moved, 1);
        first.until("fetching to go on", |m| m.offsets(moved).last() == Some(&5));
        first.close();
    }
}

#[track_caller]
fn both_until(a: &mut Member, b: &mut Member, what: &str, condition: impl Fn(&Member, &Member) -> bool) {
    wait_until(DEADLINE, what, || {
        a.step();
        b.step();
        assert!(a.fatal.is_none() && b.fatal.is_none(), "fatal: {:?} {:?}", a.fatal, b.fatal);
        condition(a, b)
    });
}

/// Closing while rebalances are under way, answered and unanswered, gives back whatever was assigned, once.
#[test]
fn closing_inside_a_rebalance_gives_everything_back() {
    for (name, protocol) in PROTOCOLS {
        for wait_for_event in [true, false] {
            let topic = Topic::create("source", 4);
            let group = unique_name("g");
            let mut first = Member::new(topic.name(), &group, protocol);
            first.until("all four partitions", |m| m.owned.len() == 4);
            let mut second = Member::new(topic.name(), &group, protocol);
            first.answer_after = Duration::from_millis(300);
            if wait_for_event {
                both_until(&mut first, &mut second, "a revocation", |a, _| a.pending.is_some());
            }
            first.source.close().unwrap();
            both_until(&mut first, &mut second, "the other to own everything", |a, b| {
                a.source.closed() && b.owned.len() == 4
            });
            assert!(first.owned.is_empty(), "{name}: {:?} never came back", first.owned);
            second.close();
        }
    }
}

#[test]
fn a_restart_hands_out_nothing_fetched_before() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 2);
        publish(&topic, 0, 3_000);
        publish(&topic, 1, 3_000);
        let mut member = Member::new(topic.name(), &unique_name("g"), protocol).begin(0, 500).begin(1, 0);
        // In the very step that assigned it, before anything was fetched.
        member.until("the assignment", |m| m.owned.len() == 2);
        member.source.restart(at(0), NextOffset(100)).unwrap();
        member.until("records", |m| m.offsets(0).len() >= 200);
        assert_eq!(member.offsets(0)[..200], (100..300).collect::<Vec<i64>>(), "{name}: right after assigning");

        // With records waiting in the queue, backwards and forwards, many times.
        for start in [50_i64, 2_000, 0, 1_000, 1_000, 700] {
            member.seen.records.clear();
            member.source.restart(at(0), NextOffset(start)).unwrap();
            member.until("records", |m| m.offsets(0).len() >= 150);
            assert_eq!(member.offsets(0)[..150], (start..start + 150).collect::<Vec<i64>>(), "{name}");
        }

        // While paused: it stays so, and begins at the new place once resumed.
        member.source.pause(&[at(0)]).unwrap();
        member.seen.records.clear();
        member.source.restart(at(0), NextOffset(1_234)).unwrap();
        publish(&topic, 1, 1);
        member.until("the other partition's new end", |m| m.seen.ends.contains(&(1, 3_001)));
        assert_eq!(member.offsets(0), [0; 0], "{name}: paused");
        member.source.resume(&[at(0)]).unwrap();
        member.until("the end", |m| m.offsets(0).last() == Some(&2_999));
        assert_eq!(member.offsets(0), (1_234..3_000).collect::<Vec<i64>>(), "{name}: resumed");
        member.close();
    }
}

#[test]
fn a_pause_stops_at_once_and_a_resume_goes_on_without_a_gap() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 1);
        publish(&topic, 0, 2_000);
        let mut member = Member::new(topic.name(), &unique_name("g"), protocol);
        let mut paused_at = 0;
        while paused_at < 2_000 {
            member.until("more records", |m| m.seen.records.len() > paused_at);
            member.source.pause(&[at(0)]).unwrap();
            paused_at = member.seen.records.len();
            member.step_for(STEP * 2);
            assert_eq!(member.seen.records.len(), paused_at, "{name}: records after the pause");
            member.source.resume(&[at(0)]).unwrap();
        }
        assert_eq!(member.offsets(0), (0..2_000).collect::<Vec<i64>>(), "{name}");
        member.close();
    }
}

#[test]
fn a_stopped_partition_is_assigned_and_never_fetched() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 2);
        publish(&topic, 0, 10);
        publish(&topic, 1, 10);
        let mut member = Member::new(topic.name(), &unique_name("g"), protocol);
        member.starts.insert(0, Start::Never);
        member.until("the other's end", |m| m.seen.ends.contains(&(1, 10)));
        // Resuming is no start.
        member.source.resume(&[at(0)]).unwrap();
        publish(&topic, 1, 1);
        member.until("the other's new end", |m| m.seen.ends.contains(&(1, 11)));
        assert_eq!(member.offsets(0), [0; 0], "{name}");
        assert!(member.seen.ends.iter().all(|(p, _)| *p == 1), "{name}: {:?}", member.seen.ends);
        // A restart is one.
        member.source.restart(at(0), NextOffset(4)).unwrap();
        member.until("its end", |m| m.seen.ends.contains(&(0, 10)));
        assert_eq!(member.offsets(0), [4, 5, 6, 7, 8, 9], "{name}");
        member.close();
    }
}

#[test]
fn retention_that_overtakes_a_paused_partition_is_reported_and_a_restart_recovers() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 2);
        publish(&topic, 0, 100);
        publish(&topic, 1, 100);
        let mut member = Member::new(topic.name(), &unique_name("g"), protocol);
        member.until("both ends", |m| m.seen.ends.contains(&(0, 100)) && m.seen.ends.contains(&(1, 100)));
        member.source.pause(&[at(0)]).unwrap();
        publish(&topic, 0, 100);
        topic.delete_records_before(0, 150);
        member.seen.records.clear();
        member.source.resume(&[at(0)]).unwrap();
        member.until("the failure", |m| !m.seen.failed.is_empty());
        assert_eq!(member.seen.failed, [(0, PartitionError::OutOfRange)], "{name}");
        publish(&topic, 1, 1);
        member.until("the other's end", |m| m.seen.ends.contains(&(1, 101)));
        assert_eq!(member.offsets(0), [0; 0], "{name}: records of a failed partition");

        let marks = member.source.watermarks(at(0)).unwrap();
        assert_eq!((marks.low, marks.high), (NextOffset(150), NextOffset(200)), "{name}");
        member.source.restart(at(0), marks.low).unwrap();
        member.until("the end", |m| m.seen.ends.contains(&(0, 200)));
        assert_eq!(member.offsets(0), (150..200).collect::<Vec<i64>>(), "{name}");
        // The other one went on where it was.
        publish(&topic, 1, 1);
        member.until("the other's end", |m| m.offsets(1).last() == Some(&101));
        assert_eq!(member.offsets(1), [100, 101], "{name}");
        // The group still works.
        member.close();
    }
}

#[test]
fn a_start_outside_the_log_is_reported() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 1);
        publish(&topic, 0, 10);
        let mut member = Member::new(topic.name(), &unique_name("g"), protocol).begin(0, 1_000);
        member.until("the failure", |m| !m.seen.failed.is_empty());
        assert_eq!(member.seen.failed, [(0, PartitionError::OutOfRange)], "{name}");
        assert_eq!(member.offsets(0), [0; 0], "{name}");
    }
}

#[test]
fn a_recreated_topic_has_another_id_in_the_same_cluster() {
    let topic = Topic::create("source", 1);
    let mut member = Member::new(topic.name(), &unique_name("g"), EAGER);
    let before = member.source.topic_id(TopicIx(0)).unwrap();
    assert!(before.as_ref().is_some_and(|id| id.len() >= 20), "{before:?}");
    assert_eq!(member.source.topic_id(TopicIx(0)).unwrap(), before);
    let cluster = member.source.cluster_id().unwrap();
    assert!(!cluster.is_empty());
    assert_eq!(member.source.partitions(TopicIx(0)), Ok(1));
    topic.delete();
    assert!(matches!(member.source.topic_id(TopicIx(0)), Err(SourceError::Retriable(_))));
    assert!(matches!(member.source.partitions(TopicIx(0)), Err(SourceError::Retriable(_))));
    topic.create_again(&[]);
    let after = member.source.topic_id(TopicIx(0)).unwrap();
    assert!(after.is_some() && after != before, "{before:?} {after:?}");
    assert_eq!(member.source.cluster_id().unwrap(), cluster);
}

#[test]
fn a_deleted_topic_is_reported() {
    let topic = Topic::create("source", 1);
    publish(&topic, 0, 3);
    let extra = [("topic.metadata.refresh.interval.ms", "500")];
    let mut member = Member::new(topic.name(), &unique_name("g"), &extra);
    member.until("the end", |m| m.seen.ends.contains(&(0, 3)));
    topic.delete();
    member.until("the failure or the revocation", |m| {
        m.seen.failed.iter().any(|(_, e)| *e == PartitionError::Unknown) || m.owned.is_empty()
    });
}

#[test]
fn a_duplicate_instance_id_is_fatal_for_one_of_the_two() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 1);
        let group = unique_name("g");
        let mut extra = protocol.to_vec();
        extra.push(("group.instance.id", "the-one"));
        let mut old = Member::new(topic.name(), &group, &extra);
        old.until("the assignment", |m| m.owned.len() == 1);
        let mut new = Member::new(topic.name(), &group, &extra);
        wait_until(DEADLINE, "one of them to be told", || {
            old.step();
            new.step();
            old.fatal.is_some() || new.fatal.is_some()
        });
        let (dead, word) = if name == "consumer" { (&mut new, "Unreleased") } else { (&mut old, "Fenced") };
        assert!(dead.fatal.as_ref().is_some_and(|why| why.contains(word)), "{name}: {:?}", dead.fatal);
        // Told again by every poll, and nothing hangs.
        assert!(matches!(dead.source.poll(STEP, 1, &mut dead.seen), Err(SourceError::Fatal(_))), "{name}");
        let began = Instant::now();
        dead.source.close().unwrap();
        assert!(dead.source.closed(), "{name}");
        drop(old);
        drop(new);
        assert!(began.elapsed() < Duration::from_secs(8), "{name}: {:?}", began.elapsed());
    }
}

#[test]
fn commits_carry_metadata_and_foreign_bytes_do_no_harm() {
    let topic = Topic::create("source", 2);
    let group = unique_name("g");
    let mut member = Member::new(topic.name(), &group, COOPERATIVE);
    member.until("the assignment", |m| m.owned.len() == 2);
    let none = member.source.committed(&[at(0), at(1)]).unwrap();
    assert!(none.iter().all(|c| c.next.is_none() && c.metadata.is_empty()), "{none:?}");
    let commit = |p, next, metadata: &str| Commit { at: at(p), next: NextOffset(next), metadata: metadata.to_owned() };
    member.source.commit(&[commit(0, 7, "eins·zwei"), commit(1, 0, "")]).unwrap();
    member.until("the answer", |m| !m.seen.commits.is_empty());
    assert_eq!(member.seen.commits, [Ok(())]);
    let found = member.source.committed(&[at(1), at(0)]).unwrap();
    let text: Vec<_> = found.iter().map(|c| (c.at.partition, c.next, c.metadata.as_str())).collect();
    assert_eq!(text, [(1, Some(NextOffset(0)), ""), (0, Some(NextOffset(7)), "eins·zwei")]);
    member.close();

    // Somebody else's tool wrote what is no text.
    let other: rdkafka::consumer::BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka_bootstrap()).set("group.id", &group).create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    let mut element = list.add_partition(topic.name(), 0);
    element.set_offset(rdkafka::Offset::Offset(9)).unwrap();
    element.set_metadata("..a");
    // SAFETY: the element has three bytes of metadata; the safe interface takes text only.
    unsafe { (*(*list.ptr()).elems).metadata.cast::<u8>().write(0xff) };
    rdkafka::consumer::Consumer::commit(&other, &list, rdkafka::consumer::CommitMode::Sync).unwrap();
    let mut member = Member::new(topic.name(), &group, COOPERATIVE);
    let found = member.source.committed(&[at(0)]).unwrap();
    assert_eq!((found[0].next, found[0].metadata.ends_with('a')), (Some(NextOffset(9)), true));
}

#[test]
fn an_assignment_lost_by_silence_is_reported_and_its_commit_is_a_benign_error() {
    for (name, protocol) in [PROTOCOLS[0], PROTOCOLS[1]] {
        let topic = Topic::create("source", 1);
        publish(&topic, 0, 5);
        let mut extra = protocol.to_vec();
        extra.extend([("max.poll.interval.ms", "6000"), ("session.timeout.ms", "6000")]);
        let mut member = Member::new(topic.name(), &unique_name("g"), &extra);
        member.until("the end", |m| m.seen.ends.contains(&(0, 5)));
        thread::sleep(Duration::from_millis(7_500));
        wait_until(DEADLINE, "the loss", || {
            member.source.poll(STEP, 100, &mut member.seen).unwrap();
            !member.seen.rebalances.is_empty()
        });
        assert_eq!(member.seen.rebalances, [SourceEvent::Lost(vec![at(0)])], "{name}");
        member.source.commit(&[Commit { at: at(0), next: NextOffset(5), metadata: String::new() }]).unwrap();
        member.until("the refusal", |m| m.seen.commits.iter().any(Result::is_err));
        member.until("another assignment", |m| m.owned.len() == 1 && m.offsets(0).len() == 10);
        member.close();
    }
}

#[test]
fn a_waker_ends_a_wait_from_another_thread() {
    let topic = Topic::create("source", 1);
    let mut member = Member::new(topic.name(), &unique_name("g"), EAGER);
    member.until("the end", |m| m.seen.ends.contains(&(0, 0)));
    member.step_for(STEP * 5);
    let waker = member.source.waker();
    // A call between two polls ends the next one's wait.
    waker();
    let began = Instant::now();
    member.source.poll(DEADLINE, 10, &mut member.seen).unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let mut late = Vec::new();
    for records_max in 0..5 {
        let waker = member.source.waker();
        let (sent, woken) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            sent.send(Instant::now()).unwrap();
            waker();
        });
        // Log lines and the like may end a wait, too.
        late.push(loop {
            member.source.poll(DEADLINE, records_max, &mut member.seen).unwrap();
            if let Ok(called) = woken.try_recv() {
                break called.elapsed();
            }
        });
        thread.join().unwrap();
    }
    assert!(late.iter().all(|l| *l < Duration::from_millis(20)), "{late:?}");
    member.close();
    // It outlives the source.
    waker();
}
