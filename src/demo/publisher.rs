//! Publishes the workload, phase by phase: at a rate, or as fast as the records become durable. Never further ahead of a
//! partition's stored progress than the mock cluster keeps.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::clock::unix_ms;
use crate::demo::DemoError;
use crate::demo::broker::Broker;
use crate::demo::options::Phase;
use crate::demo::watch::{Published, Seen};
use crate::demo::workload::{RECORDS_AHEAD_MAX, Workload};
use crate::engine::Stopper;

/// Acknowledgements are served, and the clock is read for the records' time, once in so many records.
const SERVE_EVERY: u32 = 64;
const WAIT: Duration = Duration::from_micros(500);
const FLUSH_DEADLINE: Duration = Duration::from_secs(30);

/// See the module's text.
pub struct Publisher<'a> {
    pub broker: &'a Broker,
    pub seen: &'a Seen,
    pub stopper: &'a Stopper,
    pub published: Sender<Published>,
}

impl Publisher<'_> {
    /// Publishes everything, unless it is told to stop: once the engine owns every partition, so that its start is not
    /// counted as lag. Each phase begins when everything before is durable.
    pub fn publish(&self, workload: &mut Workload, phases: &[Phase]) -> Result<(), DemoError> {
        self.wait_until(|| self.seen.ready.load(Ordering::Relaxed))?;
        for (index, phase) in phases.iter().enumerate() {
            self.phase(index, phase, workload)?;
            self.broker.flush(FLUSH_DEADLINE)?;
            let all = workload.ends.iter().sum::<i64>() as u64;
            self.wait_until(|| self.seen.durable.load(Ordering::Relaxed) >= all)?;
        }
        Ok(())
    }

    fn phase(&self, index: usize, phase: &Phase, workload: &mut Workload) -> Result<(), DemoError> {
        let (start, mut now_ms, mut value) = (Instant::now(), unix_ms(), String::new());
        for count in 0..phase.records {
            let mut at = Instant::now();
            if let Some(rate) = phase.rate {
                at = start + Duration::from_secs(1) * count / rate;
                self.wait_until(|| Instant::now() >= at)?;
            }
            if count % SERVE_EVERY == 0 {
                now_ms = unix_ms();
                self.broker.serve(Duration::ZERO)?;
            }
            let Some(update) = workload.next(now_ms, &mut value) else { return Ok(()) };
            let (row, partition, offset) = (update.row, update.row.partition, update.offset);
            self.wait_until(|| offset - self.seen.done[partition].load(Ordering::Relaxed) < RECORDS_AHEAD_MAX)?;
            // Told before it is sent: it must not be durable before anyone waits for it.
            let _ = self.published.send(Published { phase: index, partition, key_hash: row.key_hash, offset, at });
            self.broker.send(partition, &row.key, (!update.is_tombstone).then_some(&value), offset)?;
        }
        Ok(())
    }

    fn wait_until(&self, condition: impl Fn() -> bool) -> Result<(), DemoError> {
        while !condition() {
            if self.stopper.is_stopped() {
                return Err(DemoError::Interrupted);
            }
            self.broker.serve(Duration::ZERO)?;
            thread::sleep(WAIT);
        }
        Ok(())
    }
}
