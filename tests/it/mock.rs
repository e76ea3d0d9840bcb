//! The real source on librdkafka's mock cluster: brokers that vanish or answer late.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use forebay::config::secret::Secret;
use forebay::config::{FirstStart, Kafka};
use forebay::source::kafka::{KafkaSource, Options};
use forebay::source::{ASK_DEADLINE, Commit, Intake, Source, SourceError, SourceEvent, Start};
use forebay::state::chunk::RawRecord;
use forebay::types::{NextOffset, TopicIx, TopicPartition};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use crate::support::wait_until;

const DEADLINE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);
const TOPIC: &str = "mocked";
const BROKER: i32 = 1;
const AT: TopicPartition = TopicPartition { topic: TopicIx(0), partition: 0 };

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster(records: usize) -> Mock {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create().unwrap();
    for _ in 0..records {
        producer.send(BaseRecord::<[u8], [u8]>::to(TOPIC).partition(0).payload(b"value")).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
    mock
}

fn source(mock: &Mock) -> KafkaSource {
    let properties = BTreeMap::from([("bootstrap.servers".to_owned(), Secret(mock.bootstrap_servers()))]);
    let kafka = Kafka { group_id: "mocked".to_owned(), first_start: FirstStart::Earliest, properties };
    KafkaSource::new(&kafka, &[TOPIC.to_owned()], Options { admin_broker: Some(BROKER) }).unwrap()
}

#[derive(Default)]
struct Seen {
    offsets: Vec<i64>,
    ends: Vec<i64>,
    commits: Vec<Result<(), String>>,
    rebalances: Vec<SourceEvent>,
}

impl Intake for Seen {
    fn record(&mut self, _: TopicPartition, record: &RawRecord<'_>) {
        self.offsets.push(record.offset.0);
    }

    fn event(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::EndOfPartition { end, .. } => self.ends.push(end.0),
            SourceEvent::Committed(result) => self.commits.push(result),
            SourceEvent::Assigned(_) | SourceEvent::Revoked(_) | SourceEvent::Lost(_) => self.rebalances.push(event),
            SourceEvent::PartitionFailed { .. } | SourceEvent::Unwell(_) => {}
        }
    }
}

fn step(source: &mut KafkaSource, seen: &mut Seen) {
    source.poll(STEP, 100, seen).unwrap();
    for event in std::mem::take(&mut seen.rebalances) {
        match event {
            SourceEvent::Assigned(parts) => {
                let starts: Vec<_> = parts.into_iter().map(|at| (at, Start::At(NextOffset(0)))).collect();
                source.assign(&starts).unwrap();
            }
            SourceEvent::Revoked(parts) | SourceEvent::Lost(parts) => source.unassign(&parts).unwrap(),
            other => panic!("no rebalance: {other:?}"),
        }
    }
}

#[track_caller]
fn until(source: &mut KafkaSource, seen: &mut Seen, what: &str, condition: impl Fn(&Seen) -> bool) {
    wait_until(DEADLINE, what, || {
        step(source, seen);
        condition(seen)
    });
}

#[test]
fn the_mock_cluster_serves_everything_the_source_asks() {
    let mock = cluster(5);
    let mut source = source(&mock);
    let mut seen = Seen::default();
    until(&mut source, &mut seen, "the end", |s| s.ends.contains(&5));
    assert_eq!(seen.offsets, [0, 1, 2, 3, 4]);
    assert_eq!(source.partitions(TopicIx(0)), Ok(1));
    assert!(source.topic_id(TopicIx(0)).unwrap().is_some());
    assert!(!source.cluster_id().unwrap().is_empty());
    let marks = source.watermarks(&[AT]).remove(0).unwrap();
    assert_eq!((marks.low, marks.high), (NextOffset(0), NextOffset(5)));
    source.commit(&[Commit { at: AT, next: NextOffset(3), metadata: "m".to_owned() }]).unwrap();
    until(&mut source, &mut seen, "the commit's answer", |s| s.commits == [Ok(())]);
    let committed = source.committed(&[AT]).unwrap();
    assert_eq!((committed[0].next, committed[0].metadata.as_str()), (Some(NextOffset(3)), "m"));
}

#[test]
fn questions_to_a_broker_that_is_silent_end_in_time() {
    let mock = cluster(1);
    let mut source = source(&mock);
    let mut seen = Seen::default();
    until(&mut source, &mut seen, "the end", |s| s.ends.contains(&1));
    mock.broker_round_trip_time(BROKER, DEADLINE * 2).unwrap();
    let limit = ASK_DEADLINE + Duration::from_secs(1);
    let mut ask = |what: &str, question: &mut dyn FnMut(&mut KafkaSource) -> Option<SourceError>| {
        let began = Instant::now();
        let error = question(&mut source);
        assert!(matches!(error, Some(SourceError::Retriable(_))), "{what}: {error:?}");
        assert!(began.elapsed() < limit, "{what} took {:?}", began.elapsed());
    };
    ask("committed", &mut |s| s.committed(&[AT]).err());
    ask("topic_id", &mut |s| s.topic_id(TopicIx(0)).err());
    ask("watermarks", &mut |s| s.watermarks(&[AT]).remove(0).err());
    ask("partitions", &mut |s| s.partitions(TopicIx(0)).err());
}

#[test]
fn leaving_ends_in_time_with_the_broker_gone_and_a_commit_in_flight() {
    for gone in [true, false] {
        let mock = cluster(3);
        let mut source = source(&mock);
        let mut seen = Seen::default();
        until(&mut source, &mut seen, "the end", |s| s.ends.contains(&3));
        if gone {
            mock.broker_down(BROKER).unwrap();
        } else {
            mock.broker_round_trip_time(BROKER, DEADLINE * 4).unwrap();
        }
        source.commit(&[Commit { at: AT, next: NextOffset(3), metadata: String::new() }]).unwrap();
        let began = Instant::now();
        source.close().unwrap();
        let patience = Duration::from_secs(5);
        while !source.closed() && began.elapsed() < patience {
            step(&mut source, &mut seen);
        }
        drop(source);
        // The caller's patience, leaving, ending.
        assert!(began.elapsed() < patience + Duration::from_secs(9), "broker gone: {gone}: {:?}", began.elapsed());
        eprintln!("broker gone: {gone}: {:?}", began.elapsed());
    }
}

#[test]
fn abandoning_takes_no_time() {
    let mock = cluster(3);
    let mut source = source(&mock);
    let mut seen = Seen::default();
    until(&mut source, &mut seen, "the end", |s| s.ends.contains(&3));
    mock.broker_round_trip_time(BROKER, DEADLINE * 4).unwrap();
    let waker = source.waker();
    let began = Instant::now();
    source.abandon();
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    waker();
}

#[test]
fn a_configuration_that_librdkafka_refuses_is_fatal_and_names_the_key() {
    let properties = BTreeMap::from([("fetch.min.bytes".to_owned(), Secret("many".to_owned()))]);
    let kafka = Kafka { group_id: "mocked".to_owned(), first_start: FirstStart::Earliest, properties };
    match KafkaSource::new(&kafka, &[TOPIC.to_owned()], Options::default()).err() {
        Some(SourceError::Fatal(text)) => assert!(text.contains("fetch.min.bytes"), "{text}"),
        other => panic!("{other:?}"),
    }
}
