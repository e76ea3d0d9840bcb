//! Rebalances in the three protocols, answered late; leaving; losing; static members.

use std::thread;
use std::time::{Duration, Instant};

use forebay::source::{Commit, Source, SourceError, SourceEvent};
use forebay::types::NextOffset;

use super::member::{DEADLINE, Member, PROTOCOLS, STEP, at, both_until, publish};
use crate::support::{Topic, unique_name, wait_until};

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
