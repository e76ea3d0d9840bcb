//! Topics without fences (`at_least_once`): what a tenure left at the workers is written, however late. The test plays the
//! workers, and a source that hands out the same two records whenever it begins.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use forebay::config::live::Live;
use forebay::config::{Affinity, Delivery};
use forebay::engine::Rules;
use forebay::engine::dispatch::Dispatcher;
use forebay::engine::event::{EVENTS_MAX, Event};
use forebay::engine::observed::Observed;
use forebay::engine::pace::Pace;
use forebay::engine::poller::{Poller, Ports, Settings};
use forebay::engine::report::Waker;
use forebay::engine::worker::{BatchLimits, Signals};
use forebay::sink::RowCounts;
use forebay::source::{Commit, Committed, Intake, PartitionError, Source, SourceError, SourceEvent, Start, Watermarks};
use forebay::state::chunk::{Chunk, RawRecord};
use forebay::state::router::Router;
use forebay::types::{NextOffset, Offset, ShardIx, TopicIx, TopicPartition};

use super::broker::ShardOf;
use super::clock::SimClock;
use super::process::{config, settings};
use super::scenario::{Plan, ROUND, partition};

const AT: TopicPartition = partition(0, 0);
const RECORDS: i64 = 2;

/// What the next polls bring.
struct Script {
    events: Receiver<SourceEvent>,
    answers: Sender<SourceEvent>,
    next: Option<i64>,
}

impl Source for Script {
    fn poll(&mut self, _: Duration, _: usize, intake: &mut impl Intake) -> Result<(), SourceError> {
        self.events.try_iter().for_each(|event| intake.event(event));
        for offset in self.next.take().unwrap_or(RECORDS)..RECORDS {
            let (key, offset) = (Some(&b"key"[..]), Offset(offset));
            intake.record(AT, &RawRecord { offset, timestamp_ms: 0, key, value: None, headers: &[] });
        }
        Ok(())
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Committed>, SourceError> {
        Ok(of.iter().map(|at| Committed { at: *at, next: Some(NextOffset(0)), metadata: String::new() }).collect())
    }

    fn watermarks(&mut self, of: &[TopicPartition]) -> Vec<Result<Watermarks, SourceError>> {
        of.iter().map(|_| Ok(Watermarks { low: NextOffset(0), high: NextOffset(RECORDS) })).collect()
    }

    fn cluster_id(&mut self) -> Result<String, SourceError> {
        Ok("cluster".into())
    }

    fn topic_id(&mut self, _: TopicIx) -> Result<Option<String>, SourceError> {
        Ok(None)
    }

    fn partitions(&mut self, _: TopicIx) -> Result<i32, SourceError> {
        Ok(1)
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<(), SourceError> {
        for (_, start) in partitions {
            self.next = if let Start::At(next) = start { Some(next.0) } else { None };
        }
        Ok(())
    }

    fn unassign(&mut self, _: &[TopicPartition]) -> Result<(), SourceError> {
        self.next = None;
        Ok(())
    }

    fn restart(&mut self, _: TopicPartition, next: NextOffset) -> Result<(), SourceError> {
        self.next = Some(next.0);
        Ok(())
    }

    fn pause(&mut self, _: &[TopicPartition]) -> Result<(), SourceError> {
        Ok(())
    }

    fn resume(&mut self, _: &[TopicPartition]) -> Result<(), SourceError> {
        Ok(())
    }

    fn commit(&mut self, _: &[Commit]) -> Result<(), SourceError> {
        self.answers.send(SourceEvent::Committed(Ok(()))).expect("the test listens");
        Ok(())
    }

    fn close(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    fn closed(&self) -> bool {
        false
    }

    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(|| {})
    }
}

struct Bench {
    poller: Poller<Script>,
    source: Sender<SourceEvent>,
    clock: SimClock,
    events: Sender<Event>,
    workers: Vec<Receiver<Box<Chunk>>>,
}

impl Bench {
    fn new() -> Bench {
        let setup = Plan::small(1).setup();
        let mut settings: Settings = settings(&setup, 1, 1);
        settings.topics[0].delivery = Delivery::AtLeastOnce;
        let (events, events_out) = bounded(EVENTS_MAX);
        let (control, _) = bounded(1);
        let (inboxes, workers) = (0..2).map(|_| bounded(16)).unzip();
        let limits = BatchLimits { records_max: 20, bytes_max: 1 << 20 };
        let ports = Ports {
            events: events_out,
            controls: vec![control],
            dispatcher: Dispatcher::new(
                vec![inboxes],
                &[Arc::new(Pace::unlimited(2, 1))],
                limits,
                Affinity::Late,
                &[false],
            ),
            parked: Vec::new(),
            signals: Arc::new(Signals::new(1)),
            observed: Arc::new(Observed::new(1, 1, 2)),
            waker: Waker::new(Arc::new(|| {})),
            live: Arc::new(Live::new(Arc::new(config(ShardOf::Only, 1)))),
        };
        let (source, incoming) = bounded(16);
        let script = Script { events: incoming, answers: source.clone(), next: None };
        let (clock, router) = (SimClock::default(), Arc::new(Router::new(&config(ShardOf::Only, 1))));
        let rng = fastrand::Rng::with_seed(1);
        let poller = Poller::new(script, settings, router, ports, Arc::new(clock.clone()), rng, Rules::ALL);
        Bench { poller, source, clock, events, workers }
    }

    /// What happens, then what the workers are handed in the second after.
    fn after(&mut self, happens: &[SourceEvent]) -> Vec<Box<Chunk>> {
        happens.iter().for_each(|event| self.source.send(event.clone()).expect("the poller listens"));
        for _ in 0..40 {
            self.poller.step(Duration::ZERO).expect("it goes on");
            self.clock.advance(ROUND);
        }
        self.workers.iter().flat_map(Receiver::try_iter).collect()
    }

    /// A worker has written a chunk.
    fn written(&self, mut chunk: Box<Chunk>) {
        chunk.runs.iter_mut().for_each(|run| run.expected = run.next);
        let (chunks, counts) = (vec![chunk], RowCounts::default());
        let returned = Event::Returned { shard: ShardIx(0), worker: 0, chunks, counts, took_us: 1, at_us: 1 };
        self.events.send(returned).expect("the poller listens");
    }
}

/// A second tenure of the same partition, in which the same records are read again, must not overtake what the first one left
/// at a worker: the worker would write the older value last.
fn second_tenure_waits(begins_again: &[SourceEvent]) {
    let mut bench = Bench::new();
    let first = bench.after(&[SourceEvent::Assigned(vec![AT])]).pop().expect("both records at a worker");
    assert_eq!(first.len(), RECORDS as usize);
    for happens in begins_again {
        let early = bench.after(std::slice::from_ref(happens));
        assert!(early.is_empty(), "handed out while the worker still has the first ones: {early:?}");
    }
    bench.written(first);
    let second = bench.after(&[]).pop().expect("then they are");
    assert_eq!(second.len(), RECORDS as usize);
    bench.written(second);
    assert!(bench.after(&[]).is_empty());
}

#[test]
fn one_that_starts_over_waits_for_what_is_at_the_workers() {
    second_tenure_waits(&[SourceEvent::PartitionFailed { at: AT, error: PartitionError::OutOfRange }]);
}

#[test]
fn one_that_comes_back_waits_for_what_is_at_the_workers() {
    // The deadline for giving back passes before the worker is done.
    second_tenure_waits(&[SourceEvent::Revoked(vec![AT]), SourceEvent::Assigned(vec![AT])]);
}
