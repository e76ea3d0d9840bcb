//! What both modes run on: brokers that are there, PostgreSQL servers of our own or databases that were named, a schema and topics of our
//! own in them, and a directory for configurations. All that was made here is gone afterwards.
//!
//! Servers of our own may be stopped; those of others are never touched but by statements.

use std::fs::{self, DirBuilder};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use postgres::types::Type;
use toml::{Table, Value};

use crate::bench::database::{self, Databases};
use crate::bench::latency::{self, Skew};
use crate::bench::settings::{self, Job, Target};
use crate::bench::topics::Topics;
use crate::bench::{Settings, Sources, run_id};
use crate::compare::check::{Row, Written};
use crate::compare::findings::{self, Mode, Shard};
use crate::compare::moment::Zero;
use crate::compare::options::Options;
use crate::compare::requests::{COLUMNS, GUARD, Requests};
use crate::compare::{CompareError, cpu};
use crate::config::Config;
use crate::console;
use crate::demo::server::Server;

/// Where a Kafka is looked for if none is named: its own port, and that of `bin/services`.
const USUAL_BROKERS: [&str; 2] = ["127.0.0.1:9092", "127.0.0.1:19092"];
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
const OWN_SERVERS: usize = 2;
/// Requests whose rows' times are asked for at once.
const ASKED_AT_ONCE: u64 = 200_000;

/// See the module's text.
pub struct Environment {
    pub id: String,
    pub brokers: String,
    pub config: Config,
    pub skews: Vec<Skew>,
    /// None but our own may be stopped: then there are as many as shards.
    pub servers: Vec<Server>,
    pub kafka: Option<u32>,
    settings: Settings,
    topics: Topics,
    databases: Databases,
    directory: PathBuf,
    made: usize,
    cleaned: bool,
}

/// A configuration on disk, for gateway and engine, and what it names.
pub struct Made {
    pub file: PathBuf,
    pub group: String,
    pub topic: String,
}

impl Environment {
    /// Nobody is asked for a database before a broker answers.
    pub fn create(options: &Options) -> Result<Environment, CompareError> {
        let id = run_id();
        let mut sources = options.sources.clone();
        let brokers = match &sources.brokers {
            Some(brokers) => brokers.clone(),
            None => usual_brokers()?,
        };
        sources.brokers = Some(brokers.clone());
        let directory = std::env::temp_dir().join(format!("forebay-compare-{id}"));
        // Nothing is read from there: all that counts was said.
        sources.file = directory.join("forebay.toml");
        let is_ours = sources.dsns.is_empty();
        let names = format!("forebay-compare-{id}");
        let schema = format!("forebay_compare_{id}");
        let job = Job { group: &names, topic: &names, schema: &schema, target: Target::Upsert };
        // No server is started for settings that are wrong, or without a broker.
        let named = if is_ours { vec!["host=/nowhere user=forebay".to_owned()] } else { sources.dsns.clone() };
        let settings = Settings::read(&Sources { dsns: named, ..sources.clone() })?;
        let topics = Topics::new(&settings.config(&job)?.kafka, options.partitions)?;
        let servers = if is_ours {
            console::err(format_args!("starting {OWN_SERVERS} PostgreSQL servers of its own"));
            (0..OWN_SERVERS).map(|_| Server::start(false)).collect::<Result<Vec<_>, _>>()?
        } else {
            Vec::new()
        };
        sources.dsns.extend(servers.iter().map(Server::dsn));
        let mut settings = Settings::read(&sources)?;
        if is_ours {
            (0..OWN_SERVERS).for_each(|index| settings.rename_shard(index, &format!("shard-{}", index + 1)));
        } else {
            let config = settings.config(&job)?;
            database::name_shards(&mut settings, &config)?;
        }
        let config = settings.config(&job)?;
        let mut databases = Databases::create(&config, &schema)?;
        databases.note_group(&names);
        let made = DirBuilder::new().mode(0o700).create(&directory);
        let kafka = cpu::listener(&brokers).filter(|pid| cpu::is_broker(*pid));
        let mut environment = Environment {
            id,
            brokers,
            config,
            skews: Vec::new(),
            servers,
            kafka,
            settings,
            topics,
            databases,
            directory,
            made: 0,
            cleaned: false,
        };
        // From here on its drop cleans up.
        made.map_err(|e| CompareError::Unavailable(format!("{}: {e}", environment.directory.display())))?;
        environment.skews = latency::skews(&environment.databases)?;
        Ok(environment)
    }

    /// An empty table in each shard, a topic, and a configuration of this mode that names them.
    pub fn make(&mut self, mode: Mode, options: &Options) -> Result<Made, CompareError> {
        self.made += 1;
        let group = format!("forebay-compare-{}-{}", self.id, self.made);
        let topic = group.clone();
        self.topics.note_group(&group);
        self.databases.note_group(&group);
        self.topics.create(&topic)?;
        let sql = self.tables();
        self.databases.each(|client| client.batch_execute(&sql))?;
        let directory = self.directory.join(self.made.to_string());
        let file = directory.join("forebay.toml");
        let text = self.text(mode, &group, &topic, options)?;
        let written = DirBuilder::new().mode(0o700).create(&directory).and_then(|()| fs::write(&file, text));
        written.map_err(|e| CompareError::Unavailable(format!("{}: {e}", file.display())))?;
        Ok(Made { file, group, topic })
    }

    /// Whoever writes a row leaves a line of it in `seen`, in both modes alike: a row's earlier versions are gone when all is over. It is
    /// not logged, so that WAL is the rows' own.
    fn tables(&self) -> String {
        let (schema, table) = (self.databases.schema(), self.table());
        format!(
            "DROP TABLE IF EXISTS {table}, {schema}.seen; DROP FUNCTION IF EXISTS {schema}.note(); \
             CREATE TABLE {table} ({COLUMNS}); \
             CREATE UNLOGGED TABLE {schema}.seen (n bigint NOT NULL, at timestamptz NOT NULL); \
             CREATE FUNCTION {schema}.note() RETURNS trigger LANGUAGE plpgsql AS $$ \
             BEGIN INSERT INTO {schema}.seen VALUES (NEW.n, clock_timestamp()); RETURN NULL; END $$; \
             CREATE TRIGGER note AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {schema}.note()"
        )
    }

    pub fn table(&self) -> String {
        self.databases.table()
    }

    fn text(&self, mode: Mode, group: &str, topic: &str, options: &Options) -> Result<String, CompareError> {
        let job = Job { group, topic, schema: self.databases.schema(), target: Target::Upsert };
        let text = self.settings.text(&job)?;
        let wrong = |what: &dyn std::fmt::Display| CompareError::Failed(format!("the configuration: {what}"));
        let mut document: Table = text.parse().map_err(|e: toml::de::Error| wrong(&e))?;
        let any_port = || Value::from("127.0.0.1:0");
        document.insert("admin".to_owned(), Table::from_iter([("listen".to_owned(), any_port())]).into());
        if let Some(Value::Array(topics)) = document.get_mut("topic") {
            topics.iter_mut().filter_map(Value::as_table_mut).for_each(|topic| {
                topic.insert("guard".to_owned(), GUARD.into());
            });
        }
        let route = [
            ("path", Value::from("/apps/{app_id}/subscriptions/{subscription_id}")),
            ("methods", vec![Value::from("PUT")].into()),
            ("topic", topic.into()),
            ("key", "{app_id}:{subscription_id}".into()),
            ("mode", mode.word().into()),
        ];
        let route = Table::from_iter(route.map(|(name, value)| (name.to_owned(), value)));
        let ingest = [
            ("listen", any_port()),
            ("admin_listen", any_port()),
            ("pool_size", (options.pool_size as i64).into()),
            ("pool_wait_ms", (options.pool_wait.as_millis() as i64).into()),
            ("route", vec![Value::Table(route)].into()),
        ];
        let ingest = Table::from_iter(ingest.map(|(name, value)| (name.to_owned(), value)));
        document.insert("ingest".to_owned(), ingest.into());
        let text = toml::to_string(&document).map_err(|e| wrong(&e))?;
        // What would be wrong is said here, and not in a process's log.
        settings::parse(self.settings.file(), &text).map_err(|problems| CompareError::Bench(problems.into()))?;
        Ok(text)
    }

    /// What the tables hold.
    pub fn rows(&self) -> Result<Vec<Row>, CompareError> {
        let sql = format!("SELECT subscription_id::text, n FROM {}", self.table());
        let of_shards = self.databases.each(|client| client.query_typed(&sql, &[]))?;
        let mut rows = Vec::new();
        for (shard, of_shard) in of_shards.iter().enumerate() {
            for row in of_shard {
                let (id, n): (&str, i64) = (row.get(0), row.get(1));
                let key = Requests::key_of(id).unwrap_or(u32::MAX);
                rows.push(Row { key, n: n as u64, shard });
            }
        }
        Ok(rows)
    }

    /// When rows were written, by our clock, by requests up to `last`.
    pub fn written(&self, zero: Zero, last: u64) -> Result<Vec<Written>, CompareError> {
        let schema = self.databases.schema();
        self.databases.each(|client| client.batch_execute(&format!("CREATE INDEX ON {schema}.seen (n)")))?;
        let sql = format!(
            "SELECT n, round(extract(epoch FROM at) * 1000000)::bigint FROM {schema}.seen WHERE n >= $1 AND n < $2"
        );
        let mut written = Vec::new();
        for from in (0..=last).step_by(ASKED_AT_ONCE as usize) {
            let (from, to) = (from as i64, (from + ASKED_AT_ONCE) as i64);
            let of_shards =
                self.databases.each(|client| client.query_typed(&sql, &[(&from, Type::INT8), (&to, Type::INT8)]))?;
            for (rows, skew) in of_shards.iter().zip(&self.skews) {
                written.extend(rows.iter().map(|row| {
                    let at_us = row.get::<_, i64>(1) - skew.ahead_us - zero.unix_us;
                    Written { n: row.get::<_, i64>(0) as u64, at_us }
                }));
            }
        }
        Ok(written)
    }

    /// A topic that nobody needs any more.
    pub fn drop_topic(&mut self, topic: &str) {
        self.topics.remove_topic(topic).iter().for_each(console::err);
    }

    pub fn found(&self) -> Result<findings::Environment, CompareError> {
        let asked = "SELECT current_setting('max_connections')::int";
        let most = self.databases.each(|client| client.query_typed_one(asked, &[]).map(|row| row.get::<_, i32>(0)))?;
        let shards = self.databases.servers(&self.skews).into_iter().zip(most).map(|(server, most)| Shard {
            name: server.shard,
            version: server.version,
            settings: server.settings,
            connections_max: most as u32,
            clock_ahead_us: server.clock_ahead_us,
        });
        Ok(findings::Environment {
            brokers: self.brokers.clone(),
            librdkafka: rdkafka::util::get_rdkafka_version().1,
            kafka_is_seen: self.kafka.is_some(),
            servers_are_ours: !self.servers.is_empty(),
            shards: shards.collect(),
        })
    }

    fn clean(&mut self) {
        if std::mem::replace(&mut self.cleaned, true) {
            return;
        }
        let mut trouble = self.topics.remove();
        if self.servers.is_empty() {
            trouble.extend(self.databases.remove());
        }
        self.servers.clear();
        if self.directory.exists()
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            trouble.push(format!("{} stays behind: {error}", self.directory.display()));
        }
        trouble.iter().for_each(console::err);
    }
}

/// Also where something fails, or panics.
impl Drop for Environment {
    fn drop(&mut self) {
        self.clean();
    }
}

fn usual_brokers() -> Result<String, CompareError> {
    let answers = |broker: &&str| {
        let addresses = broker.to_socket_addrs().into_iter().flatten();
        addresses.into_iter().any(|address: SocketAddr| TcpStream::connect_timeout(&address, CONNECT_DEADLINE).is_ok())
    };
    USUAL_BROKERS.into_iter().find(answers).map(str::to_owned).ok_or_else(|| {
        CompareError::Unavailable(format!(
            "no Kafka at {}: name one with --brokers (bin/services up kafka starts one)",
            USUAL_BROKERS.join(" or ")
        ))
    })
}
