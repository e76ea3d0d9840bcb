//! The gateway as a whole: what is made and started in which order, and how it ends. A thread that ends by itself ends the gateway: half
//! of one is worse than none.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender as Channel, bounded};

use crate::admin::routes::Logs;
use crate::config::Config;
use crate::config::ingest::Ingest;
use crate::config::live::Live;
use crate::cpus::Place;
use crate::engine::Reloader;
use crate::engine::thread::Thread;
use crate::engine::{EngineError, Pinning, Stopper};
use crate::http::{Limits, Listener, Server, Stop};
use crate::ingest::admin::Admin;
use crate::ingest::alive::Alive;
use crate::ingest::producer::{Sender, producer_config};
use crate::ingest::queue::{Counts, Queue, Repliers};
use crate::ingest::rules::Rules;
use crate::ingest::service::{Gateway, Shared};
use crate::ingest::sync;
use crate::ingest::watch::Watch;

/// Requests that a connection may have under way: what it sends beyond is read when some are answered.
const PIPELINED_MAX: usize = 64;
/// How long the first look at brokers and databases may take before requests are let in all the same.
const FIRST_LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// How long a deadline's answer may take to reach its server, before that answers by itself.
const DEADLINE_EXTRA: Duration = Duration::from_secs(2);
/// How long clients that keep their connections may take to hear with an answer that it ends.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// How long threads are waited for, all together: one that waits for a database that hangs is left behind.
const JOIN_DEADLINE: Duration = Duration::from_secs(2);
/// How often is looked whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Requests of all connections of a listener that are not complete: half of them large is more than enough.
const BUFFERED_BYTES_MAX: usize = 256 << 20;

/// A running gateway.
pub struct Running {
    pub address: SocketAddr,
    watch: Arc<Watch>,
    live: Arc<Live>,
    shared: Arc<Shared>,
    stops: Vec<Stop>,
    listeners: Vec<Thread>,
    /// All others.
    threads: Vec<Thread>,
    end_watchers: Option<Channel<()>>,
    ended: Receiver<&'static str>,
    _admin: Option<Admin>,
}

impl Running {
    /// Starts it, with its threads where `pinning` says. Requests are let in as soon as all is known that is needed, or a short time has
    /// passed.
    ///
    /// # Errors
    /// [`EngineError::Configuration`] without `[ingest]`, or with properties of librdkafka that do not fit together;
    /// [`EngineError::Unavailable`] where an address cannot be had or a thread not be started.
    pub fn start(config: Config, logs: Logs, pinning: &Pinning) -> Result<Running, EngineError> {
        let Some(ingest) = config.ingest.clone() else {
            return Err(EngineError::Configuration(format!("{}: no [ingest]", config.file.display())));
        };
        let live = Arc::new(Live::new(Arc::new(config)));
        let config = live.get();
        let (counts, repliers) = (Arc::new(Counts::new(ingest.routes.len())), Repliers::default());
        let queue = Arc::new(Queue::new(ingest.queue_records_max, ingest.queue_bytes_max));
        let properties = producer_config(&config.kafka, &ingest);
        let sender = Sender::new(
            properties,
            pinning.kafka().cloned(),
            Arc::clone(&counts),
            Arc::clone(&queue),
            repliers.clone(),
        )
        .map_err(|error| EngineError::Configuration(format!("[kafka]: {error}")))?;
        let (alive, ended) = bounded(1);
        let context = sync::Context { counts: Arc::clone(&counts), repliers: repliers.clone(), alive: alive.clone() };
        let (lines, mut threads) =
            sync::start(&live, ingest.pooled_per_shard(), &pinning.others(), &context).map_err(no_thread)?;
        let nothing = Rules::new(&config, &Default::default(), &vec![None; config.topics.len()]);
        let shared = Arc::new(Shared::new(&ingest, counts, queue, sender, lines, nothing));
        let watch = Arc::new(Watch::new(Arc::clone(&live), Arc::clone(&shared)));
        let (end_watchers, watchers_end) = bounded(0);

        {
            let (shared, alive) = (Arc::clone(&shared), Alive(alive.clone(), "fb-acks"));
            threads.push(spawn("fb-acks", pinning.others(), move || {
                let _alive = alive;
                shared.sender.run();
            })?);
        }
        for (name, follow) in
            [("fb-tables", Watch::follow_tables as fn(&Watch, &Receiver<()>)), ("fb-topics", Watch::follow_topics)]
        {
            let (watch, end, alive) = (Arc::clone(&watch), watchers_end.clone(), Alive(alive.clone(), name));
            threads.push(spawn(name, pinning.others(), move || {
                let _alive = alive;
                follow(&watch, &end);
            })?);
        }
        let until = Instant::now() + FIRST_LOOK_DEADLINE;
        while !watch.is_complete() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let admin = Admin::start(&config, &ingest, Arc::clone(&shared), Arc::clone(&watch), logs, pinning.others())
            .map_err(|error| EngineError::Unavailable(error.to_string()))?;

        let mut running = Running {
            address: ingest.listen,
            watch,
            live,
            shared,
            stops: Vec::new(),
            listeners: Vec::new(),
            threads,
            end_watchers: Some(end_watchers),
            ended,
            _admin: admin,
        };
        running.listen(&ingest, &repliers, &alive, pinning)?;
        Ok(running)
    }

    fn listen(
        &mut self,
        ingest: &Ingest,
        repliers: &Repliers,
        alive: &Channel<&'static str>,
        pinning: &Pinning,
    ) -> Result<(), EngineError> {
        let at = |error: io::Error| EngineError::Unavailable(format!("[ingest] listen {}: {error}", ingest.listen));
        let (mut servers, mut given) = (Vec::new(), Vec::new());
        for number in 0..ingest.threads {
            let listener = Listener::tcp(self.address, true).map_err(at)?;
            // With port 0 all of them have the one that the first one got.
            self.address = listener.local_addr().unwrap_or(self.address);
            let shared = Arc::clone(&self.shared);
            let service = |replier| {
                given.push(replier);
                Gateway::new(shared, number)
            };
            let server = Server::new(vec![listener], limits(ingest), service).map_err(at)?;
            self.stops.push(server.stopper());
            servers.push(server);
        }
        repliers.set(given);
        for (number, mut server) in servers.into_iter().enumerate() {
            let alive = Alive(alive.clone(), "a listener");
            let body = move || {
                let _alive = alive;
                match server.run() {
                    Ok(drained) if drained.cut > 0 => {
                        tracing::warn!(
                            "{} connections were cut: their requests were not answered in time",
                            drained.cut
                        );
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!("a listener is gone: {error}"),
                }
            };
            self.listeners.push(spawn(&format!("fb-i{number}"), pinning.worker(number), body)?);
        }
        Ok(())
    }

    /// Makes it read its configuration again: tenants may be added to the map.
    pub fn reloader(&self) -> (Reloader, Arc<Watch>) {
        let concerns = |key: &str| !key.starts_with("engine.") && !key.starts_with("admin.");
        (Reloader::new(Arc::clone(&self.live), concerns), Arc::clone(&self.watch))
    }

    /// Serves until it is told to stop; then accepts nothing more, answers what is under way, and ends.
    ///
    /// # Errors
    /// [`EngineError::Internal`] if a thread ended by itself.
    pub fn run(mut self, stopper: &Stopper) -> Result<(), EngineError> {
        let mut died = None;
        while !stopper.is_stopped() && died.is_none() {
            match self.ended.recv_timeout(LOOK_EVERY) {
                Ok(name) => died = Some(name),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => died = Some("every thread"),
            }
        }
        self.drain();
        match died {
            Some(name) => Err(EngineError::Internal(format!("{name} has ended by itself"))),
            None => Ok(()),
        }
    }

    fn drain(&mut self) {
        let drain = self.shared.ingest.drain_deadline;
        let until = Instant::now() + drain;
        self.stops.iter().for_each(Stop::stop);
        // A server drains by itself within the deadline.
        self.listeners.drain(..).for_each(|thread| thread.join(until + DEADLINE_EXTRA));
        if !self.shared.sender.flush(until) {
            let left = self.shared.queue.records();
            tracing::warn!("{left} records were still on their way: nobody was told that they arrived");
        }
        self.shared.lines.end();
        self.shared.sender.end();
        self.end_watchers.take();
        let until = Instant::now() + JOIN_DEADLINE;
        self.threads.drain(..).for_each(|thread| thread.join(until));
    }
}

fn spawn(name: &str, place: Place, body: impl FnOnce() + Send + 'static) -> Result<Thread, EngineError> {
    Thread::spawn(name, place, None, body).map_err(no_thread)
}

fn no_thread(error: io::Error) -> EngineError {
    EngineError::Unavailable(format!("a thread could not be started: {error}"))
}

/// Many clients, small requests, tiny answers that come from another thread.
fn limits(ingest: &Ingest) -> Limits {
    let needed = Limits::buffered_at_least(Limits::default().head_bytes_max, ingest.body_bytes_max);
    Limits {
        body_bytes_max: ingest.body_bytes_max,
        buffered_bytes_max: (BUFFERED_BYTES_MAX / ingest.threads).max(needed),
        connections_max: ingest.connections_max.div_ceil(ingest.threads),
        in_flight_max: PIPELINED_MAX,
        all_unsent_bytes_max: 64 << 20,
        idle_deadline: ingest.idle_timeout,
        answer_deadline: ingest.deadline + DEADLINE_EXTRA,
        drain_grace: DRAIN_GRACE,
        drain_deadline: ingest.drain_deadline,
        ..Limits::default()
    }
}
