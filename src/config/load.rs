//! From what the user wrote to the validated [`Config`]: every problem at once.

use std::fs;
use std::path::Path;

use super::problem::{Problem, Problems};
use super::raw::{Environment, Places, Report, Section, describe, is_world_readable};
use super::secret::{Secret, is_secret_property, shown};
use super::settings::{self as s, By, Described, Kind, LANES_MAX};
use super::{
    ADMIN_LISTEN, Admin, CommitGate, Config, Delivery, Engine, HotKeyRule, Pace, ParkingLimits, Pooler, Replica,
    RouteBy, Routing, Shard, Target, Tenant, TenantCeilings, Topic, connections_besides_writers, dsn, ingest, kafka,
    topic,
};

/// A configuration that may be run, and what else there is to say about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Things that work but are hardly meant.
    pub warnings: Vec<Problem>,
    pub places: Places,
}

impl Loaded {
    /// Refuses topics that are left to a handler.
    pub fn with_tables_only(self) -> Result<Loaded, Problems> {
        let without =
            self.config.topics.iter().enumerate().filter(|(_, topic)| matches!(topic.target, Target::Handler));
        let problem =
            |i| self.places.problem(&format!("topic[{i}].handler"), "true", "a table: this program has no handlers");
        let problems: Vec<Problem> = without.map(|(i, _)| problem(i)).collect();
        if problems.is_empty() { Ok(self) } else { Err(Problems(problems)) }
    }
}

/// Reads a file.
pub fn load(file: &Path) -> Result<Loaded, Problems> {
    let text = fs::read_to_string(file).map_err(|error| {
        Problems(vec![Problem {
            file: file.to_owned(),
            line: 0,
            key: String::new(),
            found: format!("no readable file: {error}"),
            expected: "a configuration (--config FILE)".to_owned(),
        }])
    })?;
    let mut loaded = parse(file, &text, &|name| std::env::var_os(name))?;
    if is_world_readable(file) && holds_a_secret(&text, &loaded.config) {
        let warning = loaded.places.problem("", "a password in a file that every user may read", "mode 0600 or 0640");
        loaded.warnings.insert(0, warning);
    }
    Ok(loaded)
}

fn holds_a_secret(text: &str, config: &Config) -> bool {
    let passwords = config.shards.iter().filter_map(|shard| {
        let dsn = dsn::parse(&shard.dsn.0).ok()?;
        Some(String::from_utf8_lossy(dsn.config.get_password()?).into_owned())
    });
    let properties = config.kafka.properties.iter().filter(|(name, _)| is_secret_property(name));
    passwords.chain(properties.map(|(_, value)| value.0.clone())).any(|secret| text.contains(&secret))
}

/// Reads a text; `file` serves messages and is what relative paths start from.
pub fn parse(file: &Path, text: &str, environment: Environment<'_>) -> Result<Loaded, Problems> {
    let report = Report::new(file, text, environment);
    let config = report.parse(text).and_then(|document| read(&report, file, document.get_ref()));
    let (warnings, places) = report.finish()?;
    match config {
        Some(config) => Ok(Loaded { config, warnings, places }),
        // Every `None` on the way was reported.
        None => unreachable!("a configuration that cannot be read has a problem"),
    }
}

fn read(report: &Report<'_>, file: &Path, document: &toml::de::DeTable<'_>) -> Option<Config> {
    let root = Section::root(report, document, &["kafka", "engine", "admin", "shards", "shard", "topic", "ingest"]);
    let kafka = kafka::read(&root.open_table("kafka", "kafka"));
    let engine_section = root.table("engine", "engine", &[]);
    let mut engine = engine(&engine_section);
    let admin = admin(&root.table("admin", "admin", &[]));
    let topics = topic::read_all(&root, engine.delivery);
    let besides = connections_besides_writers(topics.as_deref().unwrap_or_default());
    let shards = shards(&root, engine.writers_per_shard(), besides);
    topics.iter().for_each(|topics| for_nobody(&engine_section, topics, &shards));
    let section = root.table("shards", "shards", &[TENANT_CEILINGS]);
    let tenant_ceilings = tenant_ceilings(&section, topics.as_deref().unwrap_or_default());
    let routing = routing(&section, &shards);
    spread_lanes(&engine_section, &mut engine, routing.as_ref(), shards.len());
    report.reading(&engine_section.key(s::LANES.name), s::LANES.reloads(), &engine.lanes);
    let of_topics = topics.as_deref().unwrap_or_default();
    let ingest = ingest::read(&root, of_topics, routing.as_ref(), &shards, admin.token.is_some());
    Some(Config {
        file: file.to_owned(),
        kafka: kafka?,
        engine,
        admin,
        ingest,
        shards: shards.into_iter().collect::<Option<Vec<_>>>()?,
        routing: routing?,
        tenant_ceilings,
        topics: topics?,
        readings: report.readings(),
    })
}

fn admin(section: &Section<'_>) -> Admin {
    let written = section.get(&s::ADMIN_LISTEN);
    let listen = written.unwrap_or(Some(ADMIN_LISTEN));
    let token = section.get(&s::ADMIN_TOKEN_FILE).and_then(|file| token(section, s::ADMIN_TOKEN_FILE.name, &file));
    if let Some(address) = listen.filter(|address| !address.ip().is_loopback())
        && !section.is_written(s::ADMIN_TOKEN_FILE.name)
    {
        let expected = "token_file beside it, or a loopback address: others can reach this one";
        section.problem(s::ADMIN_LISTEN.name, address.to_string(), expected);
    }
    if listen.is_none() && section.is_written(s::ADMIN_TOKEN_FILE.name) {
        section.warning(s::ADMIN_TOKEN_FILE.name, "a value", "an address to listen on: the socket needs no token");
    }
    Admin {
        listen,
        listen_written: written.is_some(),
        socket: section.get(&s::ADMIN_SOCKET).map(|path| section.report.path(&path)),
        token,
        lag_exporter_names: section.get(&s::ADMIN_LAG_EXPORTER_NAMES),
    }
}

/// The token in a file that the setting `name` names.
pub fn token(section: &Section<'_>, name: &str, file: &Path) -> Option<Secret> {
    let token = section.report.secret_file(&section.key(name), file)?;
    if !TOKEN_BYTES.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let (least, most) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
        let expected = format!("at least {least} and at most {most} printable characters without blanks in it");
        section.problem(name, "a text that is not shown", expected);
    }
    Some(Secret(token))
}

/// What can be guessed is no token, and what fits no request's head is none either.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;

/// A window that holds hardly more than is being written has nothing for whoever is done, and a partition that is paused loses what
/// was fetched of it: four batches took three quarters of the rate of eight, which more did not raise.
const WINDOW_BATCHES: usize = 8;

fn engine(section: &Section<'_>) -> Engine {
    let workers_per_shard = section.get(&s::WORKERS_PER_SHARD);
    let lanes = section.get(&s::LANES).unwrap_or_else(|| workers_per_shard.next_power_of_two().max(16));
    if !lanes.is_power_of_two() {
        section.problem("lanes", lanes.to_string(), "a power of two");
    }
    if lanes < workers_per_shard {
        let found = format!("{lanes} lanes for {workers_per_shard} workers");
        section.warning(
            "lanes",
            found,
            "at least as many lanes as workers: the others idle when one partition is busy",
        );
    }
    let (batch_records_max, batch_bytes_max) = (section.get(&s::BATCH_RECORDS_MAX), section.get(&s::BATCH_BYTES_MAX));
    let records = section.get(&s::PARTITION_RECORDS_MAX).unwrap_or((WINDOW_BATCHES * batch_records_max).max(20_000));
    let bytes =
        section.get(&s::PARTITION_BYTES_MAX).unwrap_or((WINDOW_BATCHES * batch_bytes_max).clamp(8 << 20, 1 << 30));
    section.report.reading(&section.key("partition_records_max"), s::PARTITION_RECORDS_MAX.reloads(), &records);
    section.report.reading(&section.key("partition_bytes_max"), s::PARTITION_BYTES_MAX.reloads(), &bytes);
    let engine = Engine {
        workers_per_shard,
        lanes: lanes as u16,
        batch_records_max,
        batch_bytes_max,
        delivery: section.get(&s::DELIVERY),
        affinity: section.get(&s::AFFINITY),
        cores: section.get(&s::CORES),
        poller_core: section.get(&s::POLLER_CORE),
        kafka_cores: section.get(&s::KAFKA_CORES),
        other_cores: section.get(&s::OTHER_CORES),
        commit_interval: section.get(&s::COMMIT_INTERVAL),
        manage_schema: section.get(&s::MANAGE_SCHEMA),
        partition_records_max: records,
        partition_bytes_max: bytes,
        drain_deadline: section.get(&s::DRAIN_DEADLINE),
        revoke_deadline: section.get(&s::REVOKE_DEADLINE),
        locate_deadline: section.get(&s::LOCATE_DEADLINE),
        retry_backoff_min: section.get(&s::RETRY_BACKOFF_MIN),
        retry_backoff_max: section.get(&s::RETRY_BACKOFF_MAX),
        slow_lanes_per_shard: section.get(&s::SLOW_LANES_PER_SHARD),
        park_after: section.get(&s::PARK_AFTER),
        parking: ParkingLimits {
            records_max: section.get(&s::PARKED_RECORDS_MAX) as u64,
            key_records_max: section.get(&s::PARKED_KEY_RECORDS_MAX) as u64,
        },
        hot_keys: HotKeyRule {
            percent: section.get(&s::HOT_KEY_PERCENT) as u32,
            window: section.get(&s::HOT_KEY_WINDOW),
            hold: section.get(&s::HOT_KEY_HOLD),
        },
        contention_interval: Some(section.get(&s::CONTENTION_INTERVAL)).filter(|interval| !interval.is_zero()),
    };
    if engine.retry_backoff_max < engine.retry_backoff_min {
        let found = engine.retry_backoff_max.as_millis().to_string();
        section.problem("retry_backoff_max_ms", found, "at least retry_backoff_min_ms");
    }
    if engine.partition_records_max < engine.batch_records_max {
        let found = engine.partition_records_max.to_string();
        section.warning("partition_records_max", found, "at least batch_records_max: batches never become full");
    }
    engine
}

/// Settings of the engine that serve none of its topics. Only warnings: several processes may share them.
fn for_nobody(engine: &Section<'_>, topics: &[Topic], shards: &[Option<Shard>]) {
    let warn = |settings: &[&str], expected: &str| {
        let written = settings.iter().filter(|setting| engine.is_written(setting));
        written.for_each(|setting| engine.warning(setting, "a value", expected));
    };
    let shards: Vec<&Shard> = shards.iter().flatten().collect();
    let park_after = engine.get(&s::PARK_AFTER);
    if !shards.is_empty() && shards.iter().all(|shard| shard.pooler == Pooler::Transaction) {
        warn(&["park_after_ms"], "a shard without a pooler: behind one the role's lock_timeout holds");
    } else if !shards.is_empty() && shards.iter().all(|shard| shard.lock_timeout <= park_after) {
        warn(&["park_after_ms"], "less than a shard's lock_timeout_ms, which holds otherwise");
    }
    let mut fenced = topics.iter().filter(|topic| topic.delivery == Delivery::ExactlyOnce).peekable();
    if fenced.peek().is_none() {
        let expected = "a topic with delivery = \"exactly_once\": nothing of any other is parked";
        warn(&["park_after_ms", "parked_records_max", "parked_key_records_max"], expected);
    }
    if !fenced.any(|topic| matches!(topic.target, Target::Handler)) {
        let expected = "a topic with handler = true and delivery = \"exactly_once\": no key of any other is ever hot";
        warn(&["hot_key_percent", "hot_key_hold_ms"], expected);
    }
}

/// Where the whole key is the tenant, shard and lane are chosen by the same hash: of two to the n shards each fills every two to the nth of its lanes.
/// By default there are so many that every worker finds one. (Another rule for lanes would have other fences: a key must not change its lane
/// while one lies beyond the stored progress.)
fn spread_lanes(section: &Section<'_>, engine: &mut Engine, routing: Option<&Routing>, shards: usize) {
    let by_key = routing.is_some_and(|routing| matches!(routing.by, RouteBy::Hash) && routing.tenant == Tenant::Key);
    if !by_key || shards < 2 {
        return;
    }
    let (lanes, workers) = (usize::from(engine.lanes), engine.workers_per_shard);
    let every = 1 << shards.trailing_zeros();
    let needed = (workers.next_power_of_two() * every).min(LANES_MAX);
    if !section.is_written(s::LANES.name) {
        engine.lanes = lanes.max(needed) as u16;
    } else if lanes >= workers && lanes < needed && lanes / every < workers {
        let found = format!(
            "{lanes} lanes, of which each of {shards} shards fills {}, for {workers} workers",
            (lanes / every).max(1)
        );
        let expected = format!("{needed}: with the whole key as tenant shard and lane are chosen by the same hash");
        section.warning(s::LANES.name, found, expected);
    }
}

/// One entry for each `[[shard]]`; none where something about it is wrong.
fn shards(root: &Section<'_>, writers: usize, besides: usize) -> Vec<Option<Shard>> {
    let sections = root.tables("shard", &[]);
    if sections.is_empty() && !root.is_written("shard") {
        root.problem("shard", "nothing", "[[shard]], one table for each database");
    }
    let shards: Vec<Option<Shard>> = sections.iter().map(shard).collect();
    for (i, section) in sections.iter().enumerate() {
        let Some(this) = &shards[i] else { continue };
        if let Some(max) = this.connections_max.filter(|max| *max < writers + besides) {
            let expected = format!(
                "at least {}: one for each of {writers} workers and slow lanes, and {besides} more",
                writers + besides
            );
            section.problem("connections_max", max.to_string(), expected);
        }
        for other in shards[..i].iter().flatten() {
            if other.name == this.name {
                section.problem("name", format!("{} again", shown(&this.name)), "a name of its own for each shard");
            }
            if other.dsn == this.dsn {
                let found = format!("the connection string of {:?} again", other.name);
                section.problem("dsn", found, "a database of its own for each shard");
            }
        }
    }
    shards
}

fn shard(section: &Section<'_>) -> Option<Shard> {
    let name = section.get(&s::SHARD_NAME);
    let dsn = shard_dsn(section);
    let statement_timeout = section.get(&s::SHARD_STATEMENT_TIMEOUT);
    let lock_timeout = section.get(&s::SHARD_LOCK_TIMEOUT);
    if lock_timeout >= statement_timeout {
        let found = lock_timeout.as_millis().to_string();
        section.problem(
            "lock_timeout_ms",
            found,
            "less than statement_timeout_ms, or waits for locks look like slow statements",
        );
    }
    let pooler = section.get(&s::SHARD_POOLER);
    let has_options =
        dsn.as_ref().and_then(|dsn| dsn::parse(&dsn.0).ok()).is_some_and(|d| d.config.get_options().is_some());
    if pooler == Pooler::Transaction && has_options {
        section.problem(
            "pooler",
            "\"transaction\", and options in the dsn",
            "the role's settings instead: a pooler drops options",
        );
    }
    if pooler == Pooler::Transaction && section.is_written(s::SHARD_CONNECTIONS_SHARE.name) {
        section.problem(
            s::SHARD_CONNECTIONS_SHARE.name,
            "a value beside pooler = \"transaction\"",
            "nothing: the pooler's limits decide how many of the server's connections there are",
        );
    }
    let commit_gate = commit_gate(section);
    let shard = Shard {
        name: name.unwrap_or_default(),
        dsn: dsn.unwrap_or(Secret(String::new())),
        partitions: section.get(&s::SHARD_PARTITIONS),
        connect_timeout: section.get(&s::SHARD_CONNECT_TIMEOUT),
        statement_timeout,
        lock_timeout,
        connections_max: section.get(&s::SHARD_CONNECTIONS_MAX),
        pace: pace(section),
        pooler,
        commit_gate,
        connections_share_percent: section.get(&s::SHARD_CONNECTIONS_SHARE),
    };
    (!shard.name.is_empty() && !shard.dsn.0.is_empty()).then_some(shard)
}

fn pace(section: &Section<'_>) -> Pace {
    let lag_max = section.get(&s::SHARD_REPLICA_LAG_MAX);
    let replica = section.get(&s::SHARD_REPLICA).map(|name| Replica { name, lag_max });
    if replica.is_none() && section.is_written("replica_lag_max_ms") {
        section.problem(
            "replica_lag_max_ms",
            "a value",
            "replica beside it: the application_name of the one that is meant",
        );
    }
    Pace {
        rows_per_second_max: section.get(&s::SHARD_ROWS_PER_SECOND_MAX),
        adaptive_limit: section.get(&s::SHARD_ADAPTIVE_LIMIT),
        replica,
    }
}

fn commit_gate(section: &Section<'_>) -> Option<CommitGate> {
    let replicas = section.get(&s::SHARD_COMMIT_REPLICAS);
    let enough = section.get(&s::SHARD_COMMIT_REPLICAS_MIN);
    for (i, name) in replicas.iter().enumerate() {
        if replicas[..i].contains(name) {
            let expected = "each replica once: connections of one name count as one";
            section.problem("commit_replicas", format!("{} twice", shown(name)), expected);
        }
    }
    if let Some(enough) = enough.filter(|enough| *enough > replicas.len()) {
        let expected = format!("at most the {} of commit_replicas", replicas.len());
        section.problem("commit_replicas_min", enough.to_string(), expected);
    }
    let replicas_min = enough.unwrap_or(replicas.len());
    (!replicas.is_empty()).then_some(CommitGate { replicas, replicas_min })
}

fn shard_dsn(section: &Section<'_>) -> Option<Secret> {
    let ways = [&s::SHARD_DSN.name, &s::SHARD_DSN_FILE.name, &s::SHARD_DSN_ENV.name];
    let written: Vec<&str> = ways.into_iter().filter(|way| section.is_written(way)).copied().collect();
    let [way] = written[..] else {
        let found = if written.is_empty() { "nothing".to_owned() } else { written.join(" and ") };
        section.problem("dsn", found, "one of dsn, dsn_file and dsn_env");
        return None;
    };
    let key = section.key(way);
    let text = match way {
        "dsn_file" => section.report.secret_file(&key, &section.get(&s::SHARD_DSN_FILE)?),
        "dsn_env" => section.report.secret_env(&key, &section.get(&s::SHARD_DSN_ENV)?),
        _ => section.get(&s::SHARD_DSN),
    }?;
    match dsn::parse(&text) {
        Ok(_) => Some(Secret(text)),
        Err(expected) => {
            section.problem(way, "a text that is not shown", expected);
            None
        }
    }
}

const TENANT_CEILINGS: &str = "tenant_rows_per_second";

/// Topics whose records cannot be parked cannot have them.
fn tenant_ceilings(section: &Section<'_>, topics: &[Topic]) -> TenantCeilings {
    let setting = &s::SHARDS_TENANT_ROWS_PER_SECOND_MAX;
    let named = section.open_table(TENANT_CEILINGS, "shards.tenant_rows_per_second");
    let mut ceilings = TenantCeilings { each: section.get(setting), of: Default::default() };
    for (tenant, value) in named.entries() {
        match setting.kind.read(value).flatten() {
            Some(records) => {
                section.report.reading(&named.key(&tenant), setting.kind.reloads(), &records);
                if ceilings.of.insert(tenant.clone(), records).is_some() {
                    named.problem(&tenant, "the tenant again", "one line for each tenant");
                }
            }
            None => named.problem(&tenant, describe(&tenant, value), setting.kind.expected()),
        }
    }
    let written = [(ceilings.each.is_some(), setting.name), (!ceilings.of.is_empty(), TENANT_CEILINGS)];
    let unparked = topics.iter().find(|topic| topic.delivery == Delivery::AtLeastOnce);
    if let (Some((_, name)), Some(topic)) = (written.iter().find(|(written, _)| *written), unparked) {
        let found = format!("a value, and topic {:?} with at_least_once", topic.name);
        section.problem(name, found, "exactly_once for every topic: what is above a tenant's ceiling is parked");
    }
    ceilings
}

fn routing(section: &Section<'_>, shards: &[Option<Shard>]) -> Option<Routing> {
    let by = section.get(&s::SHARDS_BY);
    let tenant = section.get(&s::SHARDS_TENANT);
    let delimiter = section.get(&s::SHARDS_DELIMITER);
    let map_file = section.get(&s::SHARDS_MAP_FILE);
    let default = section.get(&s::SHARDS_DEFAULT);
    for name in ["map_file", "default"] {
        if section.is_written(name) && by != By::Map {
            section.problem(name, "a value", "nothing: it does not serve this choice of shards.by");
        }
    }
    partitions_are_disjoint(section.report, by, shards);
    let by = match by {
        By::Partition => RouteBy::Partition,
        By::Hash => RouteBy::Hash,
        By::Modulo => RouteBy::Modulo,
        By::Map => {
            let Some(file) = map_file else {
                section.problem("map_file", "nothing", "the path of a TOML file of lines \"tenant\" = \"shard\"");
                return None;
            };
            let default = default.map(|name| {
                let found = position(shards, &name);
                if found.is_none() {
                    section.problem("default", shown(&name), "the name of a shard");
                }
                found
            });
            tenant_map(section, &file, shards, default.flatten())?
        }
    };
    let tenant = tenant.unwrap_or(Tenant::Key);
    Some(Routing { by, tenant, delimiter: delimiter.unwrap_or_else(|| ":".to_owned()) })
}

fn position(shards: &[Option<Shard>], name: &str) -> Option<usize> {
    shards.iter().position(|shard| shard.as_ref().is_some_and(|shard| shard.name == name))
}

/// No partition in two shards; and where the partition decides, every one of several shards has some.
fn partitions_are_disjoint(report: &Report<'_>, by: By, shards: &[Option<Shard>]) {
    for (i, shard) in shards.iter().enumerate() {
        let Some(shard) = shard else { continue };
        let key = format!("shard[{i}].partitions");
        let Some(ranges) = &shard.partitions else {
            if by == By::Partition && shards.len() > 1 {
                report.problem(
                    &key,
                    "nothing",
                    "the partitions of each shard, or [shards] by = \"hash\", \"modulo\" or \"map\"",
                );
            }
            continue;
        };
        let earlier = shards[..i].iter().flatten().filter(|other| other.name != shard.name);
        for other in earlier {
            let theirs = other.partitions.iter().flatten();
            let twice =
                theirs.flat_map(|a| ranges.iter().map(move |b| (*a.start().max(b.start()), *a.end().min(b.end()))));
            if let Some((partition, _)) = twice.into_iter().find(|(first, last)| first <= last) {
                report.problem(
                    &key,
                    format!("partition {partition}, which {:?} has, too", other.name),
                    "each partition in one shard",
                );
            }
        }
    }
}

/// Reads the file of tenant → shard.
fn tenant_map(
    section: &Section<'_>,
    named: &Path,
    shards: &[Option<Shard>],
    default: Option<usize>,
) -> Option<RouteBy> {
    let file = section.report.path(named);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            section.problem("map_file", section.report.unreadable(named, &error), "a tenant map");
            return None;
        }
    };
    let lines: std::collections::BTreeMap<String, String> = match toml::from_str(&text) {
        Ok(lines) => lines,
        Err(error) => {
            let line = text[..error.span().map_or(0, |span| span.start)].matches('\n').count() + 1;
            let found = format!("{} with an error in line {line}: {}", file.display(), error.message());
            section.problem("map_file", found, "a TOML file of lines \"tenant\" = \"shard\"");
            return None;
        }
    };
    section.report.reading(&section.key("map_file"), s::SHARDS_MAP_FILE.reloads(), &lines);
    let mut tenants = std::collections::BTreeMap::new();
    let mut unknown = std::collections::BTreeSet::new();
    for (tenant, shard) in lines {
        match position(shards, &shard) {
            Some(at) => drop(tenants.insert(tenant, at)),
            None => drop(unknown.insert(shard)),
        }
    }
    for shard in unknown {
        section.problem(
            "map_file",
            format!("tenants of {} in {}", shown(&shard), file.display()),
            "only names of [[shard]] tables",
        );
    }
    Some(RouteBy::Map { file, tenants, default })
}
