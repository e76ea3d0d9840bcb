//! What the gateway says of itself: `/healthz`, `/readyz`, `/metrics` and `/status`, on an address of its own, so that no client of the routes
//! ever sees it. It takes no orders.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender as Channel, TryRecvError, bounded};
use parking_lot::Mutex;
use rdkafka::util::get_rdkafka_version;
use serde_json::json;

use crate::admin::exposition::{Families, seconds_bounds, usage};
use crate::admin::routes::{EXPOSITION, Logs, guarded, is_address};
use crate::admin::token;
use crate::clock::unix_ms;
use crate::config::Config;
use crate::config::ingest::Ingest;
use crate::config::secret::Secret;
use crate::cpus::Place;
use crate::engine::thread::Thread;
use crate::http::{Limits, Listener, Request, Response, Served, Server, Service, Status, Stop, Ticket};
use crate::ingest::queue::CLASSES;
use crate::ingest::service::Shared;
use crate::ingest::watch::Watch;
use crate::metrics::labelled::Refused;
use crate::metrics::name::Name;

const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// How soon an address that somebody else has is tried again: another gateway's, perhaps, whose place this one takes.
const AGAIN: Duration = Duration::from_secs(1);

/// A running admin side; it ends when it is dropped.
pub struct Admin {
    /// Of the server, once there is one.
    stop: Arc<Mutex<Option<Stop>>>,
    end: Option<Channel<()>>,
    thread: Option<Thread>,
}

impl Admin {
    /// None where the configuration says nowhere. Where somebody else listens there it waits until nobody does.
    ///
    /// # Errors
    /// If the address cannot be had for another reason, or a thread not be started.
    pub fn start(
        config: &Config,
        ingest: &Ingest,
        shared: Arc<Shared>,
        watch: Arc<Watch>,
        logs: Logs,
        place: Place,
    ) -> io::Result<Option<Admin>> {
        let Some(wanted) = ingest.admin_listen else { return Ok(None) };
        let listener = match Listener::tcp(wanted, false) {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(
                    "no /readyz and no /metrics of the gateway as long as somebody else listens on {wanted}; [ingest] admin_listen says where \
                     else, or \"off\""
                );
                None
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("[ingest] admin_listen {wanted}: {error}"))),
        };
        let pages = Pages {
            shared,
            watch,
            logs,
            token: config.admin.token.clone(),
            group: config.kafka.group_id.clone(),
            started_at_ms: unix_ms() as u64,
        };
        let stop = Arc::new(Mutex::new(None));
        let (end, ended) = bounded(0);
        let stopped = Arc::clone(&stop);
        let body = move || {
            let served = match listener.or_else(|| free(wanted, &ended)) {
                Some(listener) => serve(listener, pages, &stopped, &ended),
                None => Ok(()),
            };
            if let Err(error) = served {
                tracing::error!("the gateway's admin side is gone: {error}");
            }
        };
        let thread = Some(Thread::spawn("fb-admin", place, None, body)?);
        Ok(Some(Admin { stop, end: Some(end), thread }))
    }
}

/// The address, once nobody else has it. None if it is over before.
fn free(wanted: SocketAddr, ended: &Receiver<()>) -> Option<Listener> {
    while ended.recv_timeout(AGAIN) == Err(RecvTimeoutError::Timeout) {
        if let Ok(listener) = Listener::tcp(wanted, false) {
            return Some(listener);
        }
    }
    None
}

fn serve(listener: Listener, pages: Pages, stop: &Mutex<Option<Stop>>, ended: &Receiver<()>) -> io::Result<()> {
    let address = listener.local_addr();
    let limits = Limits {
        body_bytes_max: 1024,
        buffered_bytes_max: 4 << 20,
        connections_max: 64,
        in_flight_max: 1,
        drain_deadline: DRAIN_DEADLINE,
        ..Limits::default()
    };
    let mut server = Server::new(vec![listener], limits, |_| pages)?;
    *stop.lock() = Some(server.stopper());
    // Whoever ended it before that has not found what stops it.
    if ended.try_recv() == Err(TryRecvError::Disconnected) {
        return Ok(());
    }
    if let Some(address) = address {
        tracing::info!("gateway's admin side: http://{address}/readyz");
    }
    server.run().map(drop)
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.end.take();
        self.stop.lock().iter().for_each(Stop::stop);
        let deadline = Instant::now() + 2 * DRAIN_DEADLINE;
        self.thread.take().into_iter().for_each(|thread| thread.join(deadline));
    }
}

struct Pages {
    shared: Arc<Shared>,
    watch: Arc<Watch>,
    logs: Logs,
    token: Option<Secret>,
    group: String,
    started_at_ms: u64,
}

impl Service for Pages {
    fn serve(&mut self, request: &Request<'_>, _: Ticket) -> Served {
        Served::Now(guarded(self.answer(request).unwrap_or_else(|refusal| refusal)))
    }
}

const PATHS: &str = "/healthz, /readyz, /metrics, /status";

impl Pages {
    fn answer(&self, request: &Request<'_>) -> Result<Response, Response> {
        let path = request.path();
        if !["/healthz", "/readyz", "/metrics", "/status"].contains(&path) {
            return Err(Response::problem(Status::NOT_FOUND, &format!("expected one of {PATHS}")));
        }
        if !matches!(request.method(), "GET" | "HEAD") {
            let problem = Response::problem(Status::METHOD_NOT_ALLOWED, &format!("{path} takes GET"));
            return Err(problem.header("Allow", "GET, HEAD"));
        }
        let is_known = self.is_known(request);
        match path {
            // It answers, and a listener that has ended ends the process.
            "/healthz" => Ok(Response::text(Status::OK, "ok\n")),
            "/readyz" => Ok(self.readyz(is_known.is_ok())),
            path => is_known.map(|()| if path == "/metrics" { self.metrics() } else { self.status() }),
        }
    }

    /// As the engine's admin interface has it: the token, or nobody but those on this machine who were not sent here by a foreign page.
    fn is_known(&self, request: &Request<'_>) -> Result<(), Response> {
        match &self.token {
            Some(token) if token::brings(request, token) => Ok(()),
            Some(_) => {
                let detail = "expected the token of [admin] token_file: Authorization: Bearer …";
                Err(Response::problem(Status::UNAUTHORIZED, detail).header("WWW-Authenticate", "Bearer"))
            }
            None if request.host().is_some_and(|host| is_address(&String::from_utf8_lossy(host))) => Ok(()),
            None => Err(Response::problem(Status::FORBIDDEN, "Host: expected an IP address or localhost")),
        }
    }

    /// Why requests are refused that are not at fault.
    fn ailing(&self) -> Vec<String> {
        let report = self.watch.report();
        report
            .missing
            .into_iter()
            .chain(report.brokers)
            .chain(self.shared.sender.trouble())
            .chain(self.shared.lines.refusing())
            .collect()
    }

    fn readyz(&self, is_known: bool) -> Response {
        let reasons = self.ailing();
        match (reasons.is_empty(), is_known) {
            (true, _) => Response::text(Status::OK, "ready\n"),
            (false, true) => Response::text(Status::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))),
            (false, false) => Response::text(Status::SERVICE_UNAVAILABLE, "not ready\n"),
        }
    }

    fn status(&self) -> Response {
        let (report, shared) = (self.watch.report(), &self.shared);
        let reasons = self.ailing();
        let routes = shared.ingest.routes.iter().enumerate().map(|(index, route)| {
            let [ok, client, server] = shared.counts.requests(index);
            json!({ "path": route.template(), "requests": { "2xx": ok, "4xx": client, "5xx": server } })
        });
        let routes: Vec<_> = routes.collect();
        let shards = report
            .shards
            .iter()
            .map(|(name, seen, why)| json!({ "name": name, "catalog_seen_at_ms": seen, "away": why }));
        let topics = report.topics.iter().map(|(name, partitions)| json!({ "name": name, "partitions": partitions }));
        let acknowledged = shared.counts.acknowledged_us.lock().summary();
        let committed = shared.counts.committed_us.lock().summary();
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at_ms": self.started_at_ms,
            "ready": { "ready": reasons.is_empty(), "reasons": reasons },
            "connections": shared.servers().connections,
            "queue": { "records": shared.queue.records(), "bytes": shared.queue.bytes() },
            "acknowledged_us": { "count": acknowledged.count, "p50": acknowledged.p50, "p99": acknowledged.p99, "max": acknowledged.max },
            "committed_us": { "count": committed.count, "p50": committed.p50, "p99": committed.p99, "max": committed.max },
            "late": shared.counts.late.get(),
            "routes": routes,
            "shards": shards.collect::<Vec<_>>(),
            "topics": topics.collect::<Vec<_>>(),
        });
        Response::json(Status::OK, status.to_string())
    }

    fn metrics(&self) -> Response {
        let (report, shared) = (self.watch.report(), &self.shared);
        let mut families = Families::default();
        let (_, librdkafka) = get_rdkafka_version();
        families.add(Name::BuildInfo, &[env!("CARGO_PKG_VERSION"), &librdkafka, &self.group], 1);
        let started = self.started_at_ms as f64 / 1000.0;
        families.add(Name::StartTime, &[], started);
        families.add(Name::ProcessStart, &[], started);
        families.add(Name::Ready, &[], f64::from(self.ailing().is_empty()));
        usage(&mut families, &(self.logs.lines)());
        for (index, route) in shared.ingest.routes.iter().enumerate() {
            let label = format!(
                "{} {}",
                route.methods.iter().map(|m| m.name()).collect::<Vec<_>>().join(","),
                route.template()
            );
            for (class, count) in CLASSES.iter().zip(shared.counts.requests(index)) {
                families.add(Name::IngestRequests, &[&label, class], count as f64);
            }
        }
        for refused in Refused::ALL {
            families.add(Name::IngestRefused, &[refused.label()], shared.counts.refused(*refused) as f64);
        }
        for (mode, times) in [("async", &shared.counts.acknowledged_us), ("sync", &shared.counts.committed_us)] {
            let times = times.lock().clone();
            families.histogram(Name::IngestAcknowledged, &[mode], &times, &seconds_bounds(), 1e6);
        }
        families.add(Name::IngestLate, &[], shared.counts.late.get() as f64);
        families.add(Name::IngestProducersLost, &[], shared.counts.producers_lost.get() as f64);
        families.add(Name::IngestQueueRecords, &[], shared.queue.records() as f64);
        families.add(Name::IngestQueueBytes, &[], shared.queue.bytes() as f64);
        let servers = shared.servers();
        families.add(Name::IngestConnections, &[], servers.connections as f64);
        families.add(Name::IngestRefusals, &[], servers.refusals as f64);
        let now = unix_ms() as u64;
        for (shard, seen, _) in &report.shards {
            let age = seen.map(|at| now.saturating_sub(at) as f64 / 1000.0);
            families.maybe(Name::IngestCatalogAge, &[shard], age);
        }
        Response::with_body(Status::OK, EXPOSITION, families.text())
    }
}
