//! One benchmark from beginning to end: what is made, what is measured, in which order, and that all that was made is gone again.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::bench::database::{self, Databases};
use crate::bench::engine::Running;
use crate::bench::figures::{self, Case, Report, Round, VERSION};
use crate::bench::latency::{self, Skew};
use crate::bench::machine::Machine;
use crate::bench::options::{Mode, Options, PARTITIONS};
use crate::bench::progress::Progress;
use crate::bench::protocol::{Spec, Work};
use crate::bench::publisher::{self, Publisher};
use crate::bench::report;
use crate::bench::settings::{Job, Settings, Target};
use crate::bench::topics::{self, Topics};
use crate::bench::workload::Workload;
use crate::bench::{BenchError, modes};
use crate::check::budget::{self, Whose};
use crate::check::{self, machine};
use crate::clock::unix_us;
use crate::config::Config;
use crate::console;
use crate::engine::Stopper;
use crate::words::grouped;

/// Of how many records the mean size is taken.
const SAMPLE: u64 = 10_000;

/// Measures, and prints what it found. `stopper` ends it early; what was measured by then is reported, and nothing stays behind.
///
/// # Errors
/// See [`BenchError`]. What was measured before is reported all the same.
pub fn run(options: &Options, mut settings: Settings, stopper: &Stopper) -> Result<(), BenchError> {
    let started_at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let job = Job { group: "forebay-bench", topic: "forebay-bench", schema: "forebay_bench", target: Target::Upsert };
    // Nobody else is asked before the brokers answer.
    let config = settings.config(&job)?;
    report::make_room(options)?;
    let topics = Topics::new(&config.kafka, 0)?;
    topics.left_behind()?;
    database::name_shards(&mut settings, &config)?;
    let mut bench = Bench::new(options, settings, topics, stopper)?;
    console::out(bench.headline());
    let outcome = modes::run(&mut bench);
    let report = bench.report(started_at, outcome.is_err() || stopper.is_stopped());
    // Said first: cleaning up takes its time, and a second SIGINT ends at once.
    let written = report::write(&report, options);
    bench.clean();
    outcome?;
    written?;
    match (report.wrong.is_empty(), report.cases.iter().any(|case| !case.rounds.is_empty())) {
        (false, _) => Err(BenchError::Failed(report.wrong.join("; "))),
        (true, false) => Err(BenchError::Interrupted),
        (true, true) => Ok(()),
    }
}

/// What the modes work with.
pub struct Bench<'a> {
    pub options: &'a Options,
    pub stopper: &'a Stopper,
    pub partitions: i32,
    /// Of each shard.
    pub skews: Vec<Skew>,
    pub cases: Vec<Case>,
    pub wrong: Vec<String>,
    config: Config,
    settings: Settings,
    /// Of this run, in all names.
    id: String,
    topics: Topics,
    databases: Option<Databases>,
    /// What topics of the whole workload there are.
    published: Vec<(Workload, String)>,
    made: usize,
    cleaned: bool,
}

/// For names that no other run has: of schemas, topics and groups.
pub fn run_id() -> String {
    format!("{:x}{:x}", unix_us() / 1_000_000, std::process::id())
}

fn schema_of(id: &str) -> String {
    format!("forebay_bench_{id}")
}

impl<'a> Bench<'a> {
    fn new(
        options: &'a Options,
        settings: Settings,
        mut topics: Topics,
        stopper: &'a Stopper,
    ) -> Result<Bench<'a>, BenchError> {
        let id = run_id();
        let schema = schema_of(&id);
        let group = format!("{}{id}", topics::PREFIX);
        let job = Job { group: &group, topic: &group, schema: &schema, target: Target::Upsert };
        let loaded = settings.loaded(&job)?;
        let config = loaded.config;
        // Figures of threads that run elsewhere than was said are of something else.
        heed(machine::check(&config, &loaded.places))?;
        let needs_databases = options.modes.iter().any(|mode| *mode != Mode::NoDatabase);
        let partitions = options.partitions.unwrap_or_else(|| declared(&config).unwrap_or(PARTITIONS));
        topics.partitions = partitions;
        let mut bench = Bench {
            options,
            stopper,
            partitions,
            skews: Vec::new(),
            cases: Vec::new(),
            wrong: Vec::new(),
            settings,
            id,
            topics,
            databases: None,
            published: Vec::new(),
            made: 0,
            cleaned: false,
            config,
        };
        if needs_databases {
            heed(budget::at_start(&bench.config, &loaded.places, Whose::Run))?;
            let mut databases = Databases::create(&bench.config, &schema)?;
            databases.note_group(&group);
            bench.skews = match latency::skews(&databases) {
                Ok(skews) => skews,
                Err(error) => {
                    databases.remove();
                    return Err(error);
                }
            };
            bench.databases = Some(databases);
        }
        Ok(bench)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// # Errors
    /// A mode that needs a database has one.
    pub fn databases(&self) -> Result<&Databases, BenchError> {
        self.databases.as_ref().ok_or_else(|| BenchError::Failed("a mode without a database asks for one".to_owned()))
    }

    /// A topic that holds the first records of a workload, published once for all rounds and modes.
    pub fn topic_of(&mut self, workload: &Workload) -> Result<String, BenchError> {
        if let Some((_, topic)) = self.published.iter().find(|(held, _)| held == workload) {
            return Ok(topic.clone());
        }
        let topic = self.new_topic()?;
        let records = self.options.records;
        let mut publisher = Publisher::new(&self.config.kafka, &topic, None)?;
        let mut progress = Progress::new("publishing", records, "records");
        publisher::publish(&mut publisher, workload, records, self.stopper, |n| progress.show(n, ""))?;
        self.published.push((workload.clone(), topic.clone()));
        Ok(topic)
    }

    /// An empty one.
    pub fn new_topic(&mut self) -> Result<String, BenchError> {
        if self.stopper.is_stopped() {
            return Err(BenchError::Interrupted);
        }
        let topic = self.next_name();
        self.topics.create(&topic)?;
        Ok(topic)
    }

    /// A topic that nobody needs any more; with `--keep` it stays.
    pub fn drop_topic(&mut self, topic: &str) {
        if !self.options.keep {
            self.topics.remove_topic(topic).iter().for_each(console::err);
        }
    }

    /// An engine that reads a topic from its begin, in a group of its own.
    pub fn start(
        &mut self,
        topic: &str,
        target: Target,
        work: Work,
        until: Option<u64>,
    ) -> Result<Running, BenchError> {
        if self.stopper.is_stopped() {
            return Err(BenchError::Interrupted);
        }
        let (group, schema) = (self.next_name(), schema_of(&self.id));
        self.topics.note_group(&group);
        self.databases.iter_mut().for_each(|databases| databases.note_group(&group));
        let config = self.settings.text(&Job { group: &group, topic, schema: &schema, target })?;
        let spec = Spec { file: self.settings.file().to_owned(), config, job: work, until };
        Running::start(&spec, &self.options.log_level)
    }

    /// Of a topic, or a group.
    fn next_name(&mut self) -> String {
        self.made += 1;
        format!("{}{}-{}", topics::PREFIX, self.id, self.made)
    }

    /// Adds a round to its case, and says it.
    pub fn push(&mut self, mode: Mode, case: &str, round: Round) {
        let at = self.cases.iter().position(|known| known.mode == mode.word() && known.case == case);
        let at = at.unwrap_or_else(|| {
            self.cases.push(Case::new(mode, case));
            self.cases.len() - 1
        });
        let case = &mut self.cases[at];
        case.push(round);
        console::out(report::table::round(case));
    }

    /// Whatever became of it: figures that do not count are said to.
    pub fn verify(&mut self, what: &str, found: Result<(), BenchError>) -> Result<bool, BenchError> {
        match found {
            Ok(()) => Ok(true),
            Err(BenchError::Failed(text)) => {
                console::err(format_args!("{what}: {text}"));
                self.wrong.push(format!("{what}: {text}"));
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    fn headline(&self) -> String {
        let Options { records, workload, .. } = self.options;
        let shards = self.config.shards.len();
        let engine = &self.config.engine;
        format!(
            "{} records of {:.0} bytes, {} keys of {} tenants, {} partitions; {} shard{} of {} workers, batches of up to {} records",
            grouped(*records),
            value_bytes(workload),
            grouped(workload.keys),
            grouped(workload.tenants),
            self.partitions,
            shards,
            if shards == 1 { "" } else { "s" },
            engine.workers_per_shard,
            engine.batch_records_max
        )
    }

    fn report(&mut self, started_at: String, cut_short: bool) -> Report {
        Report {
            version: VERSION,
            forebay: env!("CARGO_PKG_VERSION").to_owned(),
            id: self.id.clone(),
            started_at,
            cut_short,
            machine: Machine::this(),
            kafka: figures::Kafka {
                librdkafka: rdkafka::util::get_rdkafka_version().1,
                brokers: self.topics.brokers().unwrap_or_default(),
                partitions: self.partitions,
            },
            postgresql: self.databases.iter().flat_map(|databases| databases.servers(&self.skews)).collect(),
            settings: figures::Settings::of(&self.config),
            workload: figures::Workload::of(self.options, value_bytes(&self.options.workload)),
            cases: std::mem::take(&mut self.cases),
            wrong: std::mem::take(&mut self.wrong),
        }
    }

    /// Removes everything, or says what there is.
    fn clean(&mut self) {
        if std::mem::replace(&mut self.cleaned, true) {
            return;
        }
        if self.options.keep {
            let databases =
                self.databases.iter().map(|databases| format!("; {}", databases.told())).collect::<String>();
            console::err(format_args!("kept: {}{databases}", self.topics.told()));
            return;
        }
        let began = Instant::now();
        let mut trouble = self.topics.remove();
        trouble.extend(self.databases.iter_mut().flat_map(Databases::remove));
        trouble.iter().for_each(console::err);
        if trouble.is_empty() && began.elapsed() > Duration::from_secs(5) {
            console::err("topics, groups and the schema are gone");
        }
    }
}

/// Also where something panics.
impl Drop for Bench<'_> {
    fn drop(&mut self) {
        self.clean();
    }
}

/// Warnings are said; with a problem nothing is measured.
fn heed(report: check::Report) -> Result<(), BenchError> {
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if report.problems.is_empty() {
        return Ok(());
    }
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    Err(BenchError::Configuration(problems.join("\n")))
}

/// The partitions that the shards declare.
fn declared(config: &Config) -> Option<i32> {
    let ranges = config.shards.iter().flat_map(|shard| shard.partitions.iter().flatten());
    ranges.map(|range| range.end() + 1).max()
}

fn value_bytes(workload: &Workload) -> f64 {
    let mut text = String::new();
    let of = |n: u64| {
        workload.write_value(n, &mut text);
        text.len()
    };
    (0..SAMPLE).map(of).sum::<usize>() as f64 / SAMPLE as f64
}
