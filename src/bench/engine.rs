//! The engine's process as its parent sees it: started, told when to end, listened to, and killed where it does not end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use crate::bench::BenchError;
use crate::bench::protocol::{Class, End, Line, Order, Sample, Spec};
use crate::engine::EngineError;

/// Nothing became durable for so long: something is broken, or much too slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// It drains and commits first, with a deadline of its own (`drain_deadline_ms`).
const END_DEADLINE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running engine. Dropping it kills it.
pub struct Running {
    child: Child,
    /// None: it was told to end.
    orders: Option<ChildStdin>,
    lines: Receiver<Line>,
    /// The last is the newest.
    pub samples: Vec<Sample>,
    end: Option<Box<End>>,
    /// When the number of durable records last rose.
    moved: Instant,
}

impl Running {
    pub fn start(spec: &Spec, log_level: &str) -> Result<Running, BenchError> {
        let failed = |e: std::io::Error| BenchError::Failed(format!("the engine's process: {e}"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // Out of reach of the terminal's Ctrl-C: this process says when it ends.
        command
            .args(["bench-engine", "--log-level", log_level])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (lines_in, lines) = unbounded();
        let out = child.stdout.take();
        let reader = std::thread::Builder::new().name("bench-lines".into()).spawn(move || {
            let lines = out.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok);
            for line in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if lines_in.send(line).is_err() {
                    break;
                }
            }
        });
        let orders = child.stdin.take();
        let mut running = Running { child, orders, lines, samples: Vec::new(), end: None, moved: Instant::now() };
        reader.map_err(failed)?;
        running.write(spec)?;
        Ok(running)
    }

    /// What is measured is measured from here on.
    pub fn mark(&mut self) -> Result<(), BenchError> {
        self.write(&Order::Mark)
    }

    pub fn until(&mut self, records: u64) -> Result<(), BenchError> {
        self.write(&Order::Until(records))
    }

    /// It ends in order, with what it has.
    pub fn stop(&mut self) {
        self.orders = None;
    }

    fn write(&mut self, order: &impl serde::Serialize) -> Result<(), BenchError> {
        let text = serde_json::to_string(order).map_err(|e| BenchError::Failed(format!("an order: {e}")))?;
        match &mut self.orders {
            // One that has failed says why by itself.
            Some(orders) => drop(writeln!(orders, "{text}")),
            None => return Err(BenchError::Failed("an order to an engine that was told to end".to_owned())),
        }
        Ok(())
    }

    pub fn latest(&self) -> Sample {
        self.samples.last().copied().unwrap_or_default()
    }

    /// Nothing becomes durable any more.
    pub fn is_stuck(&self) -> bool {
        self.moved.elapsed() > PATIENCE
    }

    /// What is waited for next begins now.
    pub fn be_patient(&mut self) {
        self.moved = Instant::now();
    }

    /// Takes what it said, and waits a little where it said nothing. Returns whether it has ended.
    pub fn look(&mut self) -> Result<bool, BenchError> {
        let until = Instant::now() + LOOK_EVERY;
        loop {
            match self.lines.recv_deadline(until) {
                Ok(Line::Sample(sample)) => {
                    if sample.durable > self.latest().durable {
                        self.moved = Instant::now();
                    }
                    self.samples.push(sample);
                }
                Ok(Line::End(end)) => self.end = Some(end),
                Ok(Line::Failed { class, text }) => return Err(failed(class, text)),
                Err(RecvTimeoutError::Timeout) => return Ok(self.end.is_some()),
                Err(RecvTimeoutError::Disconnected) if self.end.is_some() => return Ok(true),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
                    return Err(BenchError::Failed(format!("the engine's process ended without a word: {status}")));
                }
            }
        }
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Result<(End, Vec<Sample>), BenchError> {
        let start = Instant::now();
        while !self.look()? {
            if start.elapsed() > END_DEADLINE {
                return Err(BenchError::Failed(format!("the engine did not end within {END_DEADLINE:?}")));
            }
        }
        self.stop();
        let _ = self.child.wait();
        let end = self.end.take().unwrap_or_default();
        match end.stopped {
            Some(reason) => Err(BenchError::Failed(format!("the topic stopped: {reason}"))),
            None => Ok((*end, std::mem::take(&mut self.samples))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn failed(class: Class, text: String) -> BenchError {
    let plain = |prefix: &str| text.strip_prefix(prefix).unwrap_or(&text).to_owned();
    BenchError::Engine(match class {
        Class::Configuration => EngineError::Configuration(plain("configuration: ")),
        Class::Unavailable => EngineError::Unavailable(text),
        Class::Internal => EngineError::Internal(plain("internal: ")),
    })
}
