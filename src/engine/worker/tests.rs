//! A table that stays locked, and a key that takes too much.

use crossbeam_channel::bounded;

use super::*;
use crate::clock::TestClock;
use crate::state::chunk::RawRecord;
use crate::state::parked::Tail;
use crate::types::{NextOffset, Offset, Token};

/// A table that somebody else has locked, until the clock says this.
struct Locked(TestClock, Duration);

impl Locked {
    fn outcome(&self) -> Result<Written, Failure> {
        match self.0.now() < self.1 {
            true => Err(Failure::LockedOut(Reason::new("canceling statement due to lock timeout"))),
            false => Ok(RowCounts::default().into()),
        }
    }
}

impl Writer for Locked {
    fn write(&mut self, _: &Job<'_>) -> Result<Written, Failure> {
        self.outcome().map_err(|failure| Failure::LockWait(failure.reason().clone()))
    }

    fn write_with_care(&mut self, _: &Job<'_>, _: Care<'_, '_>) -> Result<Written, Failure> {
        self.outcome()
    }

    fn parked(&mut self, _: TopicIx, _: &[(i32, KeyHash)]) -> Result<Vec<(i32, Tail)>, Failure> {
        unreachable!("no answer is lost")
    }

    fn reread(&mut self, _: TopicIx, _: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure> {
        unreachable!("a lock that could not be had leaves nothing unknown")
    }
}

/// Of a handler's topic, over windows of a second.
fn hot_keys(percent: u32) -> HotKeys {
    let name = "t".to_owned();
    let (target, delivery) = (config::Target::Handler, Delivery::ExactlyOnce);
    let topic = config::Topic {
        name,
        target,
        delivery,
        on_bad_record: OnBadRecord::Stop,
        parent_tries: 1,
        rows_per_second_max: None,
        forward_to: None,
    };
    let (window, hold) = (Duration::from_secs(1), Duration::from_secs(3));
    HotKeys::new("s", &[topic], config::HotKeyRule { percent, window, hold }, 1, Default::default())
}

/// A handler that needs 10 ms for each record, and for one key 30; it notes which records were parked, and why.
struct Slow(TestClock, Arc<parking_lot::Mutex<Vec<(i64, Why)>>>);

impl Writer for Slow {
    fn write(&mut self, job: &Job<'_>) -> Result<Written, Failure> {
        let parked = |index: usize| job.park.iter().find(|p| p.index == index);
        let took = |index: usize| match (parked(index), job.batch.record(index).key) {
            (Some(_), _) => 0,
            (None, Some(b"hot")) => 30,
            (None, _) => 10,
        };
        let took_ns: Vec<u64> = job.range.clone().map(|index| took(index) * 1_000_000).collect();
        self.0.advance(Duration::from_nanos(took_ns.iter().sum()));
        self.1.lock().extend(job.park.iter().map(|p| (job.batch.record(p.index).offset.0, p.why)));
        Ok(Written::Applied(Applied { took_ns, ..Applied::default() }))
    }

    fn write_with_care(&mut self, _: &Job<'_>, _: Care<'_, '_>) -> Result<Written, Failure> {
        unreachable!("nothing fails")
    }

    fn parked(&mut self, _: TopicIx, _: &[(i32, KeyHash)]) -> Result<Vec<(i32, Tail)>, Failure> {
        unreachable!("no answer is lost")
    }

    fn reread(&mut self, _: TopicIx, _: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure> {
        unreachable!("no answer is lost")
    }
}

/// A record in four is of a hot key, which takes half of the time. It is parked from the end of the first window on, and no
/// other is; calm for its hold, it stays parked only because nobody has emptied the table.
#[test]
fn a_hot_key_is_parked_and_no_other_is() {
    let clock = TestClock::default();
    let (context, _events) = LoopContext::of_test(&clock, Duration::from_secs(5));
    let (chunks, inbox) = bounded(100);
    let limits = BatchLimits { records_max: 10, bytes_max: 1000 };
    let (delivery, letters, unsaid) = (Delivery::ExactlyOnce, Unsaid::default(), Unsaid::default());
    let topics = vec![TopicWriting { delivery, tolerance: None, then: Then::Skip, letters, parked: unsaid }];
    let (parked, hot, noted) = (Arc::new(Parked::of_test()), Arc::new(hot_keys(30)), Arc::default());
    let at = TopicPartition { topic: TopicIx(0), partition: 0 };
    parked.install(at, Generation(1), Token(1), 1, Vec::new());
    let parking =
        Parking { parked: Arc::clone(&parked), router: Arc::new(Router::of_one_shard()), hot: Arc::clone(&hot) };
    let slow = Slow(clock.clone(), Arc::clone(&noted));
    let mut worker = Worker::new(slow, 0, inbox, limits, topics, parking, context);
    let mut offsets = 0..;
    let mut batch = |worker: &mut Worker<Slow>, hot_too: bool| {
        let mut chunk = Box::new(Chunk::new(at.topic));
        let mut run = None;
        for (n, offset) in offsets.by_ref().take(8).enumerate() {
            let run = *run.get_or_insert_with(|| chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(offset)));
            let key = if hot_too && n % 4 == 0 { "hot".to_owned() } else { format!("key {offset}") };
            let raw = RawRecord {
                offset: Offset(offset),
                timestamp_ms: 0,
                key: Some(key.as_bytes()),
                value: None,
                headers: &[],
            };
            chunk.push(run, 0, 0, &raw);
        }
        chunks.send(chunk).unwrap();
        while worker.step() != Next::Inbox {}
    };
    // 120 ms each: the tenth ends behind the first window, which began with the end of the first.
    (0..10).for_each(|_| batch(&mut worker, true));
    assert_eq!(*noted.lock(), []);
    let top = hot.top(at.topic);
    let shares: Vec<i32> = [top.by_records, top.by_time].iter().map(|top| (top[0].share * 100.0) as i32).collect();
    assert_eq!(shares, [25, 50]);
    batch(&mut worker, true);
    assert_eq!(*noted.lock(), [(80, Why::Hot), (84, Why::Hot)]);
    assert_eq!(parked.size(), (1, 2));
    (0..60).for_each(|_| batch(&mut worker, false));
    assert_eq!(*hot.of(at.topic), Default::default(), "calm");
    noted.lock().clear();
    batch(&mut worker, true);
    assert_eq!(noted.lock().iter().map(|(_, why)| *why).collect::<Vec<_>>(), [Why::Hot; 2], "behind its others");
}

#[test]
fn a_table_that_stays_locked_does_not_look_like_a_quiet_day() {
    let clock = TestClock::default();
    let (context, events) = LoopContext::of_test(&clock, Duration::from_secs(5));
    let (chunks, inbox) = bounded(1);
    let limits = BatchLimits { records_max: 10, bytes_max: 1000 };
    let (delivery, letters, parked) = (Delivery::ExactlyOnce, Unsaid::default(), Unsaid::default());
    let topics = vec![TopicWriting { delivery, tolerance: None, then: Then::Skip, letters, parked }];
    let hot = Arc::new(hot_keys(0));
    let parking = Parking { parked: Arc::new(Parked::of_test()), router: Arc::new(Router::of_one_shard()), hot };
    let locked = Locked(clock, Duration::from_secs(100));
    let mut chunk = Box::new(Chunk::new(TopicIx(0)));
    let at = TopicPartition { topic: TopicIx(0), partition: 0 };
    let run = chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(0));
    chunk.push(run, 0, 0, &RawRecord { offset: Offset(0), timestamp_ms: 0, key: None, value: None, headers: &[] });
    chunks.send(chunk).unwrap();
    drop(chunks);
    Worker::new(locked, 0, inbox, limits, topics, parking, context).run();
    let said: Vec<(u64, bool)> = events
        .try_iter()
        .filter_map(|event| match event {
            Event::InVain { doing: Doing::Writing, lasted, reason, .. } => Some((lasted.as_secs(), reason.is_some())),
            _ => None,
        })
        .collect();
    let [(first, true), (second, true), (end, false)] = said[..] else { panic!("{said:?}") };
    assert!((10..16).contains(&first) && (70..82).contains(&second) && (100..106).contains(&end), "{said:?}");
}
