//! The names under which metrics leave the process: one closed list, from which the exposition, the table in `tuning.md` and the
//! checks of dashboards and alerts are made.

/// What a metric may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        /// Every family, by its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Name { $($variant,)+ }

        impl Name {
            pub const ALL: &'static [Name] = &[$(Name::$variant,)+];

            pub fn family(self) -> Family {
                match self {
                    $(Name::$variant => Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)+
                }
            }
        }
    };
}

families! {
    BuildInfo: Gauge "forebay_build_info" ["version", "librdkafka", "group"] "1; what runs, and for which consumer group.";
    StartTime: Gauge "forebay_start_time_seconds" [] "When this process began, in seconds since the Unix epoch.";
    Ready: Gauge "forebay_ready" [] "1 while /readyz says so: polling, assigned, and no shard that refuses or is away.";
    PollAge: Gauge "forebay_poll_age_seconds" [] "Since the poller last turned; more than five seconds mean that it hangs.";
    AssignedPartitions: Gauge "forebay_assigned_partitions" ["topic"] "Partitions that this process has.";
    TopicStopped: Gauge "forebay_topic_stopped" ["topic"] "1 while the topic waits for a person.";
    TopicPaused: Gauge "forebay_topic_paused" ["topic"] "1 while somebody has paused it.";
    Lag: Gauge "forebay_lag_records" ["topic", "partition"] "Message lag: from the group's offset to the end of the log.";
    TimeLag: Gauge "forebay_time_lag_seconds" ["topic", "partition"] "Age of the oldest record that is not durable, committed and applied; parked ones count.";
    UnparkedLag: Gauge "forebay_unparked_lag_seconds" ["topic", "partition"] "As forebay_time_lag_seconds, without what is parked.";
    ParkedAge: Gauge "forebay_parked_age_seconds" ["topic", "partition"] "Age of the oldest record that is parked; 0 without any.";
    InFlightRecords: Gauge "forebay_in_flight_records" ["topic", "partition"] "Records fetched and not durable.";
    InFlightBytes: Gauge "forebay_in_flight_bytes" ["topic", "partition"] "Their bytes.";
    Offset: Gauge "forebay_offset" ["topic", "partition", "kind"] "Next offsets: fetched, durable (the unbroken prefix), committed, and the log's end.";
    RecordsFetched: Counter "forebay_records_fetched_total" ["topic"] "Records received from Kafka.";
    Records: Counter "forebay_records_total" ["topic", "shard", "outcome"] "What became of records.";
    RecordsUnparked: Counter "forebay_records_unparked_total" ["topic", "shard"] "Parked records that slow lanes took out again.";
    RecordsMisaligned: Counter "forebay_records_misaligned_total" ["topic"] "Records of another shard than the one that declares their partition.";
    LettersForwarded: Counter "forebay_dead_letters_forwarded_total" [] "Dead letters that went on to a topic of their own.";
    StageSeconds: Histogram "forebay_stage_seconds" ["topic", "stage"] "How long records took from the stage before to this one.";
    DurableSeconds: Histogram "forebay_durable_seconds" ["topic"] "From a record's timestamp to the COMMIT that made it durable: with its row, parked, or as a dead letter.";
    BatchRecords: Histogram "forebay_batch_records" ["topic", "shard"] "Records that a worker wrote together.";
    Retries: Counter "forebay_retries_total" ["topic", "shard", "cause"] "Tries of a batch that failed and were repeated.";
    Bisections: Counter "forebay_bisections_total" ["topic", "shard"] "Batches that were divided because something in them failed.";
    ParkedKeys: Gauge "forebay_parked_keys" ["topic", "shard"] "Keys with parked records, of the partitions that this process has.";
    ParkedRecords: Gauge "forebay_parked_records" ["topic", "shard"] "Parked records, likewise.";
    ShardUp: Gauge "forebay_shard_up" ["shard"] "1 while the shard's database is reached and lets us work; nothing until somebody has tried.";
    BreakerOpened: Counter "forebay_breaker_opened_total" ["shard"] "How often the shard was given up until a probe worked.";
    Rebalances: Counter "forebay_rebalances_total" [] "Assignments and revocations.";
    RebalanceSeconds: Counter "forebay_rebalance_seconds_total" [] "Time until the group got its answers.";
    Rewinds: Counter "forebay_rewinds_total" [] "Partitions started over from the database's word.";
    Pauses: Counter "forebay_pauses_total" [] "Partitions paused because their windows were full.";
    Commits: Counter "forebay_commits_total" [] "Commits sent to Kafka.";
    WorkerBusy: Counter "forebay_worker_busy_seconds_total" ["shard", "worker"] "Time at work on the database; its rate is the busy share.";
    WorkerQueued: Gauge "forebay_worker_queued_records" ["shard", "worker"] "Records that a worker has, in its batch and behind it.";
    Connections: Gauge "forebay_connections" ["shard", "kind"] "needed by this process, open of it, server_max (less what is reserved), server_used by all.";
    PaceHeldSeconds: Counter "forebay_pace_held_seconds_total" ["limit"] "Time that workers waited because of a limit of the pace.";
    PaceHeldRecords: Counter "forebay_pace_held_records_total" [] "Records parked because their tenants were over their ceilings.";
    HotKeys: Gauge "forebay_hot_keys" [] "Keys that take more than their share now.";
    ShardWait: Counter "forebay_shard_wait_seconds_total" ["shard", "kind", "event"] "Sampled: what our backends did, by PostgreSQL's wait event; CPU for none.";
    ShardBlocked: Gauge "forebay_shard_blocked_backends" ["shard"] "Our backends that somebody blocks, as of the last sample.";
    ShardVerdict: Gauge "forebay_shard_verdict" ["shard", "verdict"] "1 for what the shard's writes wait for.";
    TableUpdates: Counter "forebay_table_updates_total" ["shard", "table"] "Updates of our tables by anybody, since the sampler began.";
    TableHotUpdates: Counter "forebay_table_hot_updates_total" ["shard", "table"] "Of them those that needed no index entry (HOT).";
    TableLiveRows: Gauge "forebay_table_live_rows" ["shard", "table"] "As PostgreSQL estimates.";
    TableDeadRows: Gauge "forebay_table_dead_rows" ["shard", "table"] "Likewise: what VACUUM is to remove.";
    WalBytes: Counter "forebay_wal_bytes_total" ["shard"] "WAL that the shard's server wrote, for anybody, since the sampler began.";
    Checkpoints: Counter "forebay_checkpoints_total" ["shard", "kind"] "Its checkpoints since then: timed, or requested because the WAL was full.";
    IngestRequests: Counter "forebay_ingest_requests_total" ["route", "class"] "Requests of the gateway's routes, by class of the answer: 2xx, 4xx, 5xx.";
    IngestRefused: Counter "forebay_ingest_refused_total" ["reason"] "Requests that the gateway did not answer with success, by reason; of sync routes: conflict, no_connection (all were in use), row_busy (somebody holds the row's lock, or another request writes it), database.";
    IngestAcknowledged: Histogram "forebay_ingest_acknowledged_seconds" ["mode"] "From a record's handing over to the brokers' acknowledgement (async), or of a row's to its COMMIT (sync).";
    IngestLate: Counter "forebay_ingest_late_total" [] "Acknowledgements of records, and COMMITs of rows, whose requests had been answered with 503 already.";
    IngestProducersLost: Counter "forebay_ingest_producers_lost_total" [] "Producers that had to be given up after a fatal error; another one took the place of each.";
    IngestQueueRecords: Gauge "forebay_ingest_queue_records" [] "Records on their way to the brokers.";
    IngestQueueBytes: Gauge "forebay_ingest_queue_bytes" [] "Their bytes.";
    IngestConnections: Gauge "forebay_ingest_connections" [] "Connections of the gateway's clients.";
    IngestRefusals: Counter "forebay_ingest_malformed_total" [] "Requests that were no HTTP, too large, too slow or too many.";
    IngestCatalogAge: Gauge "forebay_ingest_catalog_age_seconds" ["shard"] "Since the gateway learned from the shard what its tables are like.";
    LogLines: Counter "forebay_log_lines_total" ["level"] "Lines logged, those that were left out included.";
    ProcessCpu: Counter "process_cpu_seconds_total" [] "CPU time of all threads.";
    ProcessMemory: Gauge "process_resident_memory_bytes" [] "Resident memory.";
    ProcessFds: Gauge "process_open_fds" [] "Open file descriptors.";
    ProcessFdsMax: Gauge "process_max_fds" [] "How many there may be.";
    ProcessThreads: Gauge "process_threads" [] "Threads.";
    ProcessStart: Gauge "process_start_time_seconds" [] "As forebay_start_time_seconds, under the name that client libraries use.";
    GroupLag: Gauge "kafka_consumergroup_group_lag" ["group", "topic", "partition"] "forebay_lag_records under the name that lag exporters use.";
    GroupLagSeconds: Gauge "kafka_consumergroup_group_lag_seconds" ["group", "topic", "partition"] "forebay_time_lag_seconds, likewise.";
    GroupOffset: Gauge "kafka_consumergroup_group_offset" ["group", "topic", "partition"] "The group's committed offset, likewise.";
    GroupMaxLag: Gauge "kafka_consumergroup_group_max_lag" ["group"] "The largest lag of a partition, likewise.";
    GroupMaxLagSeconds: Gauge "kafka_consumergroup_group_max_lag_seconds" ["group"] "The largest time lag, likewise.";
    LatestOffset: Gauge "kafka_partition_latest_offset" ["topic", "partition"] "The end of the log, likewise.";
}

impl Name {
    /// Whether it goes out only where `lag_exporter_names` is set.
    pub fn is_alias(self) -> bool {
        self.family().name.starts_with("kafka_")
    }

    /// Whether the gateway says it, and not the engine.
    pub fn is_of_gateway(self) -> bool {
        self.family().name.starts_with("forebay_ingest_")
    }
}

/// Every family in Markdown.
pub fn table() -> String {
    let mut text = String::from("| metric | type | labels | what it says |\n|---|---|---|---|\n");
    for Family { name, kind, labels, help } in Name::ALL.iter().map(|name| name.family()) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- metrics:begin -->\n";
    const END: &str = "<!-- metrics:end -->";

    /// `FOREBAY_UPDATE=1 cargo test metrics` writes the table anew.
    #[test]
    fn tuning_md_holds_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning.md");
        let written = std::fs::read_to_string(path).expect("tuning.md is readable");
        let (before, rest) = written.split_once(BEGIN).expect("tuning.md marks the table's begin");
        let (found, after) = rest.split_once(END).expect("tuning.md marks the table's end");
        if std::env::var_os("FOREBAY_UPDATE").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table())).expect("tuning.md is writable");
        } else {
            assert_eq!(found, table(), "run FOREBAY_UPDATE=1 cargo test metrics");
        }
    }

    #[test]
    fn names_follow_the_rules_of_prometheus_and_none_is_there_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for name in Name::ALL {
            let Family { name, kind, help, .. } = name.family();
            assert!(seen.insert(name), "{name} twice");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}: {help}");
        }
    }
}
