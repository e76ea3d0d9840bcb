//! The peers that run on a JVM: built once, started for each run, warmed up in the same process. What they and this program say to each
//! other is in `java/Job.java`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use postgres::Config;
use postgres::config::Host;

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{Run, Target, fresh_table};
use super::options::Options;
use super::producer::payload_sent;
use super::text::with_text_tags;
use super::workload::{PARTITIONS, payload, publish_as};

/// A JVM's start, and a connector's; the records come on top.
const START_WAIT: Duration = Duration::from_secs(120);
/// No peer that is worth comparing is slower.
const RECORDS_PER_SECOND_MIN: u64 = 1_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ParallelConsumer,
    Debezium,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::ParallelConsumer, Kind::Debezium];

    /// The directory of its sources.
    fn word(self) -> &'static str {
        match self {
            Kind::ParallelConsumer => "parallel-consumer",
            Kind::Debezium => "debezium",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Kind::ParallelConsumer => "ParallelConsumerPeer",
            Kind::Debezium => "DebeziumPeer",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::ParallelConsumer => "Parallel Consumer",
            Kind::Debezium => "Debezium JDBC sink",
        }
    }

    /// Its payload of a record.
    pub fn form(self, payload: String) -> String {
        match self {
            Kind::ParallelConsumer => payload,
            Kind::Debezium => with_text_tags(&payload),
        }
    }

    /// A topic with its payloads of the reference job.
    pub fn publish(self, a: &Arguments, records: u64) -> Outcome<String> {
        publish_as(a, records, self.suffix(), |n| self.form(payload(n, a)))
    }

    fn suffix(self) -> &'static str {
        match self {
            Kind::ParallelConsumer => "",
            Kind::Debezium => "-text",
        }
    }
}

/// One that can be started.
pub struct Peer {
    pub kind: Kind,
    pub java: String,
    class_path: String,
    /// The JVM's.
    pub options: Vec<String>,
    warm_up: u64,
    directory: PathBuf,
}

/// Those that take part.
pub fn build(options: &Options) -> Outcome<Vec<Peer>> {
    if let Some(unknown) = options.without.iter().find(|name| Kind::ALL.iter().all(|kind| kind.word() != **name)) {
        return Err(format!("--without {unknown}: there are parallel-consumer and debezium").into());
    }
    let taking_part = Kind::ALL.into_iter().filter(|kind| !options.without.iter().any(|w| w == kind.word()));
    taking_part.map(|kind| Peer::build(kind, options)).collect()
}

impl Peer {
    fn build(kind: Kind, options: &Options) -> Outcome<Peer> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/java/build");
        let output =
            Command::new("bash").arg(script).arg(kind.word()).arg(&directory).stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8(output.stdout)?;
        let (true, [java, class_path]) = (output.status.success(), &text.lines().collect::<Vec<_>>()[..]) else {
            return Err(format!("{} was not built (--without {} leaves it out)", kind.name(), kind.word()).into());
        };
        // The collector is that of Kafka's own start scripts, and so is the heap where nothing else is asked for.
        let mut java_options =
            ["-Xms256m", &format!("-Xmx{}", options.heap), "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
                .map(str::to_owned)
                .to_vec();
        let logging = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.jboss.logging.provider=slf4j"];
        java_options.extend(logging.map(str::to_owned));
        let (java, class_path, warm_up) = (java.to_string(), class_path.to_string(), options.warm_up);
        Ok(Peer { kind, java, class_path, options: java_options, warm_up, directory })
    }

    /// The topic for [`Peer::start`].
    pub fn publish_warm_up(&self, a: &Arguments, target: Target) -> Outcome<String> {
        match target {
            // Each record of it has a time.
            Target::Log => {
                let name = format!("{}-log", self.kind.suffix());
                publish_as(a, self.warm_up, &name, |n| self.kind.form(payload_sent(n, a, 0)))
            }
            _ => self.kind.publish(a, self.warm_up),
        }
    }

    /// Starts it and warms it up; then the table is fresh again.
    pub fn start(&self, a: &Arguments, target: Target, warm_up: &str) -> Outcome<Jvm> {
        fresh_table(a, target)?;
        let mut jvm = Jvm::start(self, a)?;
        if self.warm_up > 0 {
            jvm.order(target, warm_up, self.warm_up)?;
            jvm.figures()?;
            fresh_table(a, target)?;
        }
        Ok(jvm)
    }

    fn arguments(&self, a: &Arguments) -> Outcome<Vec<String>> {
        let config: Config = a.dsn.parse()?;
        let ([Host::Tcp(host)], [port]) = (config.get_hosts(), config.get_ports()) else {
            return Err(format!("no host and port in {}", a.dsn).into());
        };
        let (Some(user), Some(database)) = (config.get_user(), config.get_dbname()) else {
            return Err(format!("no user and database in {}", a.dsn).into());
        };
        Ok(vec![
            format!("kafka={}", a.kafka),
            format!("jdbc=jdbc:postgresql://{host}:{port}/{database}?reWriteBatchedInserts=true"),
            format!("user={user}"),
            format!("workers={}", a.workers),
            format!("partitions={PARTITIONS}"),
            format!("batch={}", a.batch),
            format!("directory={}", self.directory.display()),
        ])
    }
}

/// A peer's process; dropping it kills it.
pub struct Jvm {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
    log: PathBuf,
    wait: Duration,
}

impl Jvm {
    fn start(peer: &Peer, a: &Arguments) -> Outcome<Jvm> {
        let log = peer.directory.join(format!("{}.log", peer.kind.word()));
        let mut child = Command::new(&peer.java)
            .args(&peer.options)
            .args(["-cp", &peer.class_path, peer.kind.class()])
            .args(peer.arguments(a)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        let (orders, output) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        let (lines, answers) = channel();
        // It ends with the process, and by itself.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Jvm { child, orders, answers, log, wait: Duration::ZERO })
    }

    /// A job; its figures come once it is done.
    pub fn order(&mut self, target: Target, topic: &str, records: u64) -> Outcome<()> {
        self.wait = START_WAIT + Duration::from_secs(records / RECORDS_PER_SECOND_MIN);
        writeln!(self.orders, "{} {topic} {records}", target.word())?;
        Ok(self.orders.flush()?)
    }

    pub fn figures(&mut self) -> Outcome<Run> {
        let text = match self.answers.recv_timeout(self.wait) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err(self.failed(&format!("no answer within {:?}", self.wait))),
            Err(RecvTimeoutError::Disconnected) => return Err(self.failed("it ended")),
        };
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let [rate, cpu_us, peak_mb, records, batches] = numbers[..] else {
            return Err(self.failed(&format!("it said {text:?}")));
        };
        Ok(Run { rate, cpu_us, peak_mb, records, batches })
    }

    fn failed(&self, what: &str) -> Box<dyn std::error::Error> {
        const LINES: usize = 40;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
        format!("{what}; the end of {}:\n{end}", self.log.display()).into()
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
