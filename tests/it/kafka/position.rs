//! Where reading begins and goes on: restarts, pauses, stopped partitions, retention.

use forebay::source::{PartitionError, Source, Start};
use forebay::types::NextOffset;

use super::member::{Member, PROTOCOLS, STEP, at, both_until, publish};
use crate::support::{Topic, unique_name};

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

/// A record was lost in silence: librdkafka goes on one beyond an end after a pause, where the end was taken in a batch.
#[test]
fn nothing_is_missing_after_a_pause_at_the_end() {
    for (name, protocol) in PROTOCOLS {
        let topic = Topic::create("source", 2);
        let mut member = Member::new(topic.name(), &unique_name("g"), protocol);
        let mut expected = 0;
        for published in [0, 1, 2, 5, 1] {
            publish(&topic, 0, published);
            expected += published as i64;
            member.until("the end", |m| m.seen.ends.contains(&(0, expected)));
            member.source.pause(&[at(0)]).unwrap();
            member.step_for(STEP);
            publish(&topic, 0, published);
            expected += published as i64;
            member.source.resume(&[at(0)]).unwrap();
            // Long enough for a fetch beyond the end.
            member.step_for(STEP * 15);
            publish(&topic, 0, 1);
            expected += 1;
            member.until("the new end", |m| m.seen.ends.contains(&(0, expected)));
            assert_eq!(member.offsets(0), (0..expected).collect::<Vec<i64>>(), "{name}");
        }
        // Not even where nothing follows: the end is where it was, and stays readable.
        member.source.pause(&[at(0)]).unwrap();
        member.step_for(STEP);
        member.source.resume(&[at(0)]).unwrap();
        member.step_for(STEP * 15);
        publish(&topic, 0, 1);
        member.until("the last record", |m| m.offsets(0).len() as i64 == expected + 1);
        assert_eq!(member.seen.failed, [], "{name}");
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
        let group = unique_name("g");
        let mut member = Member::new(topic.name(), &group, protocol);
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

        let marks = member.source.watermarks(&[at(0)]).remove(0).unwrap();
        assert_eq!((marks.low, marks.high), (NextOffset(150), NextOffset(200)), "{name}");
        member.source.restart(at(0), marks.low).unwrap();
        member.until("the end", |m| m.seen.ends.contains(&(0, 200)));
        assert_eq!(member.offsets(0), (150..200).collect::<Vec<i64>>(), "{name}");
        // The other one went on where it was.
        publish(&topic, 1, 1);
        member.until("the other's end", |m| m.offsets(1).last() == Some(&101));
        assert_eq!(member.offsets(1), [100, 101], "{name}");
        // Restarting at the end reports the end again, or nobody would know that nothing is missing.
        member.seen.ends.clear();
        member.source.restart(at(0), NextOffset(200)).unwrap();
        member.until("the end again", |m| m.seen.ends.contains(&(0, 200)));
        // The group still works.
        let mut other = Member::new(topic.name(), &group, protocol);
        both_until(&mut member, &mut other, "the partitions to be shared", |a, b| {
            a.owned.len() == 1 && b.owned.len() == 1
        });
        other.close();
        member.until("both to come back", |m| m.owned.len() == 2);
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
