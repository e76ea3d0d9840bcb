//! The metrics of the story, in its order: what is drawn of each, which totals stand in its table, what an operator watched before, and
//! what is watched after.

use super::claims;
use super::figures::{NOTHING, UNKNOWN, after, bytes, ms, number, percent, short};
use super::pairs::Pair;
use crate::compare::findings::{Cpu, Errors, Mode, Run, Sample, Times};

pub struct Metric {
    /// In the document.
    pub id: &'static str,
    pub name: &'static str,
    pub claim: fn(&Pair<'_>) -> Option<String>,
    pub panels: &'static [Panel],
    pub totals: &'static [Column],
    /// What an endpoint's operator looks at in sync, and in async.
    pub before: &'static str,
    pub after: &'static str,
    /// The alert on an endpoint that those below replace, as people call it.
    pub instead_of: &'static str,
    /// Of `deploy/prometheus`, each with what it says.
    pub alerts: &'static [(&'static str, &'static str)],
}

/// A chart for each mode, on the same scales.
pub struct Panel {
    pub name: &'static str,
    pub series: &'static [Series],
    pub unit: fn(f64) -> String,
    pub unit_short: fn(f64) -> String,
    /// Where values are of different orders of magnitude.
    pub may_be_log: bool,
}

pub struct Series {
    pub name: &'static str,
    /// Of the style sheet.
    pub class: &'static str,
    pub when: When,
    /// Of seconds that share a place, where there are more of them than places.
    pub thinned: Thinned,
    pub value: fn(&Sample) -> Option<f64>,
}

/// What a second's figure is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All of it: it stands in its middle.
    Throughout,
    AtItsEnd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Thinned {
    Mean,
    Most,
}

pub struct Column {
    pub name: &'static str,
    pub value: fn(&Run) -> Option<String>,
    /// What sync has nothing of.
    pub is_of_async: bool,
}

impl Column {
    /// What stands where there is no value.
    pub fn nothing(&self, mode: Mode, ran: bool) -> &'static str {
        if self.is_of_async && mode == Mode::Sync && ran { NOTHING } else { UNKNOWN }
    }
}

/// In their order on the page.
pub static METRICS: [Metric; 7] = [REQUESTS, LATENCY, DURABLE, LAG, CONNECTIONS, TRANSACTIONS, CPU];

const fn most(name: &'static str, class: &'static str, when: When, value: fn(&Sample) -> Option<f64>) -> Series {
    Series { name, class, when, thinned: Thinned::Most, value }
}

const fn mean(name: &'static str, class: &'static str, value: fn(&Sample) -> Option<f64>) -> Series {
    Series { name, class, when: When::Throughout, thinned: Thinned::Mean, value }
}

const fn column(name: &'static str, value: fn(&Run) -> Option<String>) -> Column {
    Column { name, value, is_of_async: false }
}

const fn of_async(name: &'static str, value: fn(&Run) -> Option<String>) -> Column {
    Column { name, value, is_of_async: true }
}

const REQUESTS: Metric = Metric {
    id: "requests",
    name: "Requests and errors",
    claim: claims::requests,
    panels: &[Panel {
        name: "requests a second",
        series: &[
            mean("offered", "offered", |s| sent(s).map(|offered| offered as f64)),
            mean("accepted", "main", |s| sent(s).map(|_| s.accepted as f64)),
            mean("failed", "bad", |s| sent(s).map(|_| (s.refused + s.timeouts) as f64)),
        ],
        unit: per_second,
        unit_short: short,
        may_be_log: false,
    }],
    totals: &[
        column("offered", |run| Some(number(run.totals.offered as f64))),
        column("accepted", |run| Some(number(run.totals.accepted as f64))),
        column("offered a second", |run| Some(number(run.totals.offered_per_s))),
        column("accepted a second", |run| Some(number(run.totals.accepted_per_s))),
        column("failed", |run| Some(percent(run.totals.error_percent))),
        column("how", |run| Some(how(&run.totals.errors))),
    ],
    before: "The endpoint’s error rate. Whatever happens to a database comes out here, as 503 or as a request that hangs, and whoever \
             asked has to ask again.",
    after: "The gateway’s error rate (forebay_ingest_requests_total) is about Kafka and about bad requests only. That a database is \
            away, or refuses a row, is said by alerts of their own.",
    instead_of: "“too many 5xx”",
    alerts: &[
        (
            "ForebayGatewayErrors",
            "writes are refused for reasons that are not the clients’: the error rate that is left",
        ),
        ("ForebayShardDown", "a database is away: what was an error rate is a name and a reason"),
        ("ForebayDeadLetters", "rows that only the database could refuse"),
        ("ForebayTopicStopped", "nothing more of a topic is applied, and a person is needed"),
    ],
};

const LATENCY: Metric = Metric {
    id: "latency",
    name: "Request latency",
    claim: claims::latency,
    panels: &[Panel {
        name: "from due to answered",
        series: &[
            most("p50", "calm", When::Throughout, |s| s.request_p50_ms),
            most("p99", "main", When::Throughout, |s| s.request_p99_ms),
            most("slowest", "far", When::Throughout, |s| s.request_max_ms),
        ],
        unit: ms,
        unit_short: ms_short,
        may_be_log: true,
    }],
    totals: &[
        column("p50", |run| times(run.totals.request_ms, |t| t.p50)),
        column("p99", |run| times(run.totals.request_ms, |t| t.p99)),
        column("p99.9", |run| times(run.totals.request_ms, |t| t.p999)),
        column("slowest", |run| times(run.totals.request_ms, |t| t.max)),
        column("sent late, p99", |run| times(run.totals.late_ms, |t| t.p99)),
    ],
    before: "The endpoint’s p99: it is the database’s COMMIT, its locks and the wait for a connection.",
    after: "The gateway’s p99 (forebay_ingest_acknowledged_seconds) is the brokers’ acknowledgement. It says nothing of the database any \
            more: how late rows are is time lag.",
    instead_of: "“p99 too high”",
    alerts: &[
        ("ForebayGatewaySlow", "the brokers acknowledge late: the latency that is left"),
        (
            "ForebayTimeLagHigh",
            "the objective that replaces the one on latency: how old the oldest unwritten record may be",
        ),
    ],
};

const DURABLE: Metric = Metric {
    id: "durable",
    name: "Time until durable (time lag)",
    claim: claims::durable,
    panels: &[Panel {
        name: "from due to written",
        series: &[
            most("p50", "calm", When::Throughout, |s| s.durable_p50_ms),
            most("p99", "main", When::Throughout, |s| s.durable_p99_ms),
            most("time lag", "lag", When::AtItsEnd, |s| s.time_lag_ms.map(|lag| lag as f64)),
        ],
        unit: ms,
        unit_short: ms_short,
        may_be_log: true,
    }],
    totals: &[
        column("p50", |run| times(run.totals.durable_ms, |t| t.p50)),
        column("p99", |run| times(run.totals.durable_ms, |t| t.p99)),
        column("p99.9", |run| times(run.totals.durable_ms, |t| t.p999)),
        column("slowest", |run| times(run.totals.durable_ms, |t| t.max)),
        of_async("time lag at most", |run| run.totals.time_lag_max_ms.map(|lag| ms(lag as f64))),
        column("all written, of the last request", |run| run.drain_seconds.map(after)),
    ],
    before: "Nothing: an answer came after COMMIT, so its latency was the time until durable. What was refused \
             is in no table until somebody asks again.",
    after: "Time lag (forebay_unparked_lag_seconds): how old the oldest record is that no table has yet. Readers of the tables see rows \
            as old as that.",
    instead_of: "nothing: rows were never late",
    alerts: &[
        ("ForebayTimeLagHigh", "rows come later than the objective; a person looks now"),
        ("ForebayTimeLagGrows", "it will not catch up by itself"),
    ],
};

const LAG: Metric = Metric {
    id: "lag",
    name: "Message lag",
    claim: claims::message_lag,
    panels: &[Panel {
        name: "who waits",
        series: &[
            most("requests without an answer", "main", When::AtItsEnd, |s| Some(s.under_way as f64)),
            most("records not durable", "lag", When::AtItsEnd, |s| s.message_lag.map(|lag| lag as f64)),
        ],
        unit: number,
        unit_short: short,
        may_be_log: true,
    }],
    totals: &[
        of_async("message lag at most", |run| run.totals.message_lag_max.map(|lag| number(lag as f64))),
        column("requests without an answer at most", |run| {
            run.samples.iter().map(|sample| sample.under_way).max().map(|most| number(most as f64))
        }),
        of_async("tried again by the engine", |run| run.totals.retries.map(|retries| number(retries as f64))),
    ],
    before: "Requests in flight. Each waits in the line in front of its shard’s pool, those of one row for each other, and a client waits \
             with it: there is room for few, and who is not taken in time is a 503.",
    after: "Message lag (forebay_lag_records): records that wait in Kafka. No client waits with them, and there is room for as long as \
            Kafka keeps them.",
    instead_of: "“too many requests in flight”",
    alerts: &[
        ("ForebayMessageLagGrows", "more comes in than is written, whatever the time lag says"),
        ("ForebayStandsStill", "records wait, and none becomes durable"),
    ],
};

const CONNECTIONS: Metric = Metric {
    id: "connections",
    name: "Connections used",
    claim: claims::connections,
    panels: &[Panel {
        name: "connections to all shards",
        series: &[
            most("open", "main", When::AtItsEnd, |s| s.connections.map(f64::from)),
            most("waiting for locks", "bad", When::AtItsEnd, |s| s.lock_waits.map(f64::from)),
        ],
        unit: number,
        unit_short: short,
        may_be_log: false,
    }],
    totals: &[
        column("connections at most", |run| run.totals.connections_max.map(|n| number(f64::from(n)))),
        column("waiting for locks at most", |run| run.totals.lock_waits_max.map(|n| number(f64::from(n)))),
        column("clients’ own, to the gateway", |run| Some(number(run.totals.client_connections_max as f64))),
    ],
    before: "The pool of each process: for each of its slots and shards a thread and a connection, and one more that looks at the tables. \
             Who finds none free in time is a 503 (no_connection). A row that somebody holds keeps one of them busy, and is a 503 of its own. \
             Each further process of the endpoint brings its own.",
    after: "A fixed number for each process of the engine (forebay_connections), however many requests come.",
    instead_of: "“pool exhausted”, which is ForebayGatewayNoConnection",
    alerts: &[
        ("ForebayConnectionsNearMax", "the server is about to refuse connections, whoever has them"),
        ("ForebayBackendsBlocked", "somebody’s locks hold ours up"),
    ],
};

const TRANSACTIONS: Metric = Metric {
    id: "transactions",
    name: "Transactions and WAL",
    claim: claims::transactions,
    panels: &[
        Panel {
            name: "transactions a second, all shards",
            series: &[mean("transactions", "main", |s| s.transactions.map(|n| n as f64))],
            unit: per_second,
            unit_short: short,
            may_be_log: false,
        },
        Panel {
            name: "WAL a second, all shards",
            series: &[mean("WAL", "main", |s| s.wal_bytes.map(|n| n as f64))],
            unit: bytes_per_second,
            unit_short: bytes,
            may_be_log: false,
        },
    ],
    totals: &[
        column("transactions for 1,000 writes", |run| run.totals.transactions_per_1000.map(number)),
        column("WAL for 1,000 writes", |run| run.totals.wal_bytes_per_1000.map(bytes)),
    ],
    before: "Commits a second: one for each request, so the disk’s latency bounds the endpoint.",
    after: "Batches commit together: WAL (forebay_wal_bytes_total) follows the rows, and transactions follow the batches. What is left \
            to watch is what the updates do to the tables.",
    instead_of: "“too many commits”",
    alerts: &[
        ("ForebayFewHotUpdates", "updates write every index anew: more WAL than there has to be"),
        ("ForebayDeadRows", "autovacuum does not keep up"),
    ],
};

const CPU: Metric = Metric {
    id: "cpu",
    name: "CPU",
    claim: claims::cpu,
    panels: &[Panel {
        name: "cores in use",
        series: &[
            mean("generator", "offered", |s| s.cpu.generator),
            mean("gateway", "calm", |s| s.cpu.gateway),
            mean("engine", "lag", |s| s.cpu.engine),
            mean("PostgreSQL", "main", |s| s.cpu.postgresql),
            mean("Kafka", "far", |s| s.cpu.kafka),
        ],
        unit: cores,
        unit_short: short,
        may_be_log: false,
    }],
    totals: &[
        column("gateway, for 1,000 writes", |run| run.totals.cpu_ms_per_1000.gateway.map(ms)),
        of_async("engine", |run| run.totals.cpu_ms_per_1000.engine.map(ms)),
        column("PostgreSQL", |run| run.totals.cpu_ms_per_1000.postgresql.map(ms)),
        of_async("Kafka", |run| run.totals.cpu_ms_per_1000.kafka.map(ms)),
        column("all of these", |run| all(&run.totals.cpu_ms_per_1000).map(ms)),
        column("generator", |run| run.totals.cpu_ms_per_1000.generator.map(ms)),
    ],
    before: "The CPU of the endpoint’s processes and of the database, which rise and fall with the requests.",
    after: "The engine’s (process_cpu_seconds_total) follows what is written, and lag is where a lack of it shows. That a process is \
            there at all has to be watched: requests go well without it.",
    instead_of: "“endpoint down”",
    alerts: &[
        ("ForebayGroupGone", "nobody applies the topics any more"),
        ("ForebayNotReady", "a process runs and cannot do its work"),
        ("ForebayPollStalled", "it hangs, or gets no CPU"),
    ],
};

/// What was offered in a second in which anything was still to be sent: none after the last request is not a rate of 0.
fn sent(sample: &Sample) -> Option<u64> {
    (sample.offered > 0).then_some(sample.offered)
}

fn times(times: Option<Times>, which: fn(&Times) -> f64) -> Option<String> {
    times.as_ref().map(which).map(ms)
}

fn all(cpu: &Cpu) -> Option<f64> {
    claims::parts(cpu).into_iter().filter_map(|(_, ms)| ms).reduce(|a, b| a + b)
}

fn how(errors: &Errors) -> String {
    let statuses = errors.by_status.iter().map(|(status, n)| (format!("{status}"), *n));
    let others = [
        ("no answer in time", errors.timeouts),
        ("not sent in time", errors.unsent),
        ("connection broken", errors.connection),
    ];
    let all = statuses.chain(others.map(|(what, n)| (what.to_owned(), n))).filter(|(_, n)| *n > 0);
    let said: Vec<String> = all.map(|(what, n)| format!("{what}: {}", number(n as f64))).collect();
    if said.is_empty() { NOTHING.to_owned() } else { said.join(", ") }
}

fn per_second(n: f64) -> String {
    format!("{}/s", number(n))
}

fn bytes_per_second(n: f64) -> String {
    format!("{}/s", bytes(n))
}

/// Whole powers of ten, mostly.
fn ms_short(value: f64) -> String {
    match value {
        _ if value <= 0.0 => "0".to_owned(),
        _ if value < 1000.0 => format!("{}\u{a0}ms", short(value)),
        _ => format!("{}\u{a0}s", short(value / 1000.0)),
    }
}

fn cores(n: f64) -> String {
    format!("{n:.2}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metrics::labelled::Refused;
    use crate::metrics::name::Name;

    const ALERTS: &str = include_str!("../../../deploy/prometheus/forebay-alerts.yml");

    #[test]
    fn every_alert_that_is_named_is_delivered() {
        let delivered: BTreeSet<&str> =
            ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        assert!(delivered.len() > 10, "not the expected form: {delivered:?}");
        let troubles = super::super::troubles::ALERTS.iter().flat_map(|(_, alerts)| alerts.iter().copied());
        let replaced = METRICS.iter().flat_map(|metric| metric.instead_of.split_whitespace());
        let replaced = replaced.filter(|word| word.starts_with("Forebay"));
        let now = METRICS.iter().flat_map(|metric| metric.alerts).map(|(alert, _)| *alert);
        let named = now.chain(replaced).chain(troubles);
        let strange: Vec<&str> = named.filter(|alert| !delivered.contains(alert)).collect();
        assert!(strange.is_empty(), "{strange:?}");
    }

    #[test]
    fn every_metric_that_is_named_is_exported() {
        let reasons = Refused::ALL.iter().map(|refused| refused.label());
        let exported: BTreeSet<&str> = Name::ALL.iter().map(|name| name.family().name).chain(reasons).collect();
        for Metric { name, before, after, alerts, .. } in &METRICS {
            assert!(!alerts.is_empty(), "{name}");
            let words = [before, after]
                .into_iter()
                .flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
            for word in words.filter(|word| word.contains('_')) {
                assert!(exported.contains(word), "{name}: {word}");
            }
        }
    }

    #[test]
    fn errors_are_told_by_what_they_are() {
        let mut errors = Errors::default();
        assert_eq!(how(&errors), NOTHING);
        errors.by_status.insert(503, 1800);
        errors.timeouts = 20;
        assert_eq!(how(&errors), "503: 1,800, no answer in time: 20");
    }
}
