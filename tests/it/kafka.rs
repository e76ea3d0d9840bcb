//! The real source on the real broker: what it hands out and what it answers. Its group and its positions have files of
//! their own.

mod group;
mod member;
mod position;

use std::thread;
use std::time::{Duration, Instant};

use forebay::source::{Commit, PartitionError, Source, SourceError};
use forebay::types::{NextOffset, TopicIx};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::{Topic, kafka_bootstrap, produce, unique_name};
use member::{COOPERATIVE, DEADLINE, EAGER, Member, PROTOCOLS, STEP, at, publish};

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

/// Records of a transaction that nobody has ended yet.
fn open_transaction(topic: &Topic, records: usize) -> BaseProducer {
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
    producer
}

fn transaction(topic: &Topic, records: usize, commit: bool) {
    let producer = open_transaction(topic, records);
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
    let marks = member.source.watermarks(&[at(0)]).remove(0).unwrap();
    assert_eq!((marks.low, marks.high), (NextOffset(0), NextOffset(11)));
}

#[test]
fn the_high_watermark_counts_records_of_an_open_transaction() {
    let topic = Topic::create("source", 1);
    publish(&topic, 0, 2);
    let producer = open_transaction(&topic, 1);

    let mut member = Member::new(topic.name(), &unique_name("g"), EAGER);
    member.until("the readable end", |m| m.seen.ends.contains(&(0, 2)));
    assert_eq!(member.source.watermarks(&[at(0)]).remove(0).unwrap().high, NextOffset(3));
    assert_eq!(member.offsets(0), [0, 1]);
    producer.abort_transaction(DEADLINE).unwrap();
}

/// Two members, every rebalance answered half a second late and, while a revocation waits, commits.
/// Closing while rebalances are under way, answered and unanswered, gives back whatever was assigned, once.
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
    assert!(matches!(member.source.topic_id(TopicIx(0)), Err(SourceError::Refused(_))));
    assert!(matches!(member.source.partitions(TopicIx(0)), Err(SourceError::Refused(_))));
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
