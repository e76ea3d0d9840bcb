//! From an operator's configuration to that of a benchmark's engine: his brokers, shards and settings of the engine, with another group,
//! another topic and another table. Works on the document, so that what comes of it is read, and checked, as a configuration is.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::bench::BenchError;
use crate::bench::options::Sources;
use crate::config::Config;
use crate::config::load::{self, Loaded};

/// An operator's settings, without his topics.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For messages, and what relative paths start from.
    file: PathBuf,
    document: Table,
    /// Whether the shards' names are ours.
    pub names_are_ours: bool,
}

/// What a topic's records become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Upserts and deletes.
    Upsert,
    /// A row for each record.
    Insert,
    Handler,
}

/// What a run of the engine works on.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub schema: &'a str,
    pub target: Target,
}

/// The table of a run, in the benchmark's schema.
pub const TABLE: &str = "records";
const PK: [&str; 2] = ["app_id", "subscription_id"];
const GROUP: &str = "group.id";
/// A member that is to come back under its name is waited for.
const STATIC_MEMBER: &str = "group.instance.id";

impl Settings {
    /// Reads the file, if there is one, and overrules it by what else was said.
    ///
    /// # Errors
    /// [`BenchError::Configuration`]: no readable file, and not everything that it would say; or one that is not valid.
    pub fn read(sources: &Sources) -> Result<Settings, BenchError> {
        let is_whole = sources.brokers.is_some() && !sources.dsns.is_empty();
        let mut file = sources.file.clone();
        let mut document = match std::fs::read_to_string(&sources.file) {
            Ok(text) => match text.parse::<Table>() {
                Ok(table) => table,
                // The loader says what and where.
                Err(_) => {
                    return Err(load::load(&sources.file).err().map_or_else(|| unreadable(&sources.file), From::from));
                }
            },
            Err(_) if is_whole => {
                // Beside which it would be: relative paths start from there.
                file.set_file_name("options");
                Table::new()
            }
            Err(error) => {
                return Err(BenchError::Configuration(format!(
                    "{}: no readable file: {error}; expected a configuration (--config FILE), or both --brokers and --dsn",
                    sources.file.display()
                )));
            }
        };
        if let Some(brokers) = &sources.brokers {
            put(&mut document, &["kafka"], "bootstrap.servers", Value::from(brokers.clone()))?;
        }
        if !sources.dsns.is_empty() {
            let several = sources.dsns.len() > 1;
            let shard = |(i, dsn): (usize, &String)| {
                let name = if several { format!("bench-{}", i + 1) } else { "bench".to_owned() };
                Value::Table(Table::from_iter([
                    ("name".to_owned(), name.into()),
                    ("dsn".to_owned(), dsn.clone().into()),
                ]))
            };
            let shards = sources.dsns.iter().enumerate().map(shard).collect::<Vec<_>>();
            document.insert("shard".to_owned(), Value::Array(shards));
            document.remove("shards");
        }
        for (path, value) in &sources.settings {
            set(&mut document, path, value)?;
        }
        let mut settings = Settings { file, document, names_are_ours: !sources.dsns.is_empty() };
        settings.route()?;
        settings.document.remove("topic");
        settings.document.remove("ingest");
        let quiet = Table::from_iter([("listen".to_owned(), Value::from("off"))]);
        settings.document.insert("admin".to_owned(), Value::Table(quiet));
        // Whatever is wrong with it is said at once, where the file's own lines are known.
        settings.loaded(&Job { group: "bench", topic: "bench", schema: "bench", target: Target::Upsert }).map_err(
            |problems| match load::load(&sources.file) {
                Err(of_file) if sources.file.exists() => BenchError::from(of_file),
                _ => problems,
            },
        )?;
        Ok(settings)
    }

    /// What a run's engine is configured with, as a file would say it.
    pub fn text(&self, job: &Job<'_>) -> Result<String, BenchError> {
        let mut document = self.document.clone();
        put(&mut document, &["kafka"], GROUP, Value::from(job.group))?;
        if let Some(Value::Table(kafka)) = document.get_mut("kafka") {
            remove(kafka, STATIC_MEMBER);
        }
        let mut topic = Table::from_iter([("name".to_owned(), Value::from(job.topic))]);
        let table = format!("{}.{TABLE}", job.schema);
        match job.target {
            Target::Handler => drop(topic.insert("handler".to_owned(), true.into())),
            Target::Insert => {
                topic.insert("table".to_owned(), table.into());
                topic.insert("insert_mode".to_owned(), "insert".into());
            }
            Target::Upsert => {
                topic.insert("table".to_owned(), table.into());
                topic.insert("insert_mode".to_owned(), "upsert".into());
                topic.insert("pk_fields".to_owned(), PK.map(Value::from).to_vec().into());
                topic.insert("delete_enabled".to_owned(), true.into());
                topic.insert("key_format".to_owned(), "{app_id}:{subscription_id}".into());
            }
        }
        document.insert("topic".to_owned(), Value::Array(vec![Value::Table(topic)]));
        toml::to_string(&document).map_err(|e| BenchError::Failed(format!("the engine's configuration: {e}")))
    }

    pub fn loaded(&self, job: &Job<'_>) -> Result<Loaded, BenchError> {
        // Its lines are of our own text.
        let mut loaded = parse(&self.file, &self.text(job)?).map_err(|mut problems| {
            problems.0.iter_mut().for_each(|problem| problem.line = 0);
            problems
        })?;
        loaded.places.forget_lines();
        Ok(loaded)
    }

    pub fn config(&self, job: &Job<'_>) -> Result<Config, BenchError> {
        self.loaded(job).map(|loaded| loaded.config)
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Calls a shard by the name that its database has kept.
    pub fn rename_shard(&mut self, index: usize, name: &str) {
        if let Some(Value::Array(shards)) = self.document.get_mut("shard")
            && let Some(Value::Table(shard)) = shards.get_mut(index)
        {
            shard.insert("name".to_owned(), name.into());
        }
    }

    /// The workload's tenants are no tenants of a map: where anything but the partition chooses the shard, a hash of them does.
    fn route(&mut self) -> Result<(), BenchError> {
        let several = matches!(self.document.get("shard"), Some(Value::Array(shards)) if shards.len() > 1);
        let by = self.document.get("shards").and_then(|shards| shards.get("by")).and_then(Value::as_str);
        let declared = match self.document.get("shard") {
            Some(Value::Array(shards)) => shards.iter().any(|shard| shard.get("partitions").is_some()),
            _ => false,
        };
        if by.is_none_or(|by| by == "partition") && (declared || !several) {
            return Ok(());
        }
        for (name, value) in [("by", "hash"), ("tenant", "key:0"), ("delimiter", ":")] {
            put(&mut self.document, &["shards"], name, value.into())?;
        }
        if let Some(Value::Table(shards)) = self.document.get_mut("shards") {
            ["map_file", "default", "tenant_rows_per_second"].iter().for_each(|name| drop(shards.remove(*name)));
        }
        if let Some(Value::Array(shards)) = self.document.get_mut("shard") {
            shards.iter_mut().filter_map(Value::as_table_mut).for_each(|shard| drop(shard.remove("partitions")));
        }
        Ok(())
    }
}

/// Reads what [`Settings::text`] wrote.
pub fn parse(file: &Path, text: &str) -> Result<Loaded, crate::config::problem::Problems> {
    load::parse(file, text, &|name| std::env::var_os(name))
}

fn unreadable(file: &Path) -> BenchError {
    BenchError::Configuration(format!("{}: no configuration", file.display()))
}

/// `--set engine.workers_per_shard=8`: a value is TOML, and where it is none a text.
fn set(document: &mut Table, path: &str, value: &str) -> Result<(), BenchError> {
    let parts: Vec<&str> = path.split('.').collect();
    let value = match format!("v = {value}").parse::<Table>() {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("v").unwrap_or_else(|| value.into()),
        _ => value.into(),
    };
    match parts[..] {
        // Librdkafka's own names have dots in them.
        ["kafka", _, ..] => put(document, &["kafka"], &path["kafka.".len()..], value),
        ["shard", name] => {
            if let Some(Value::Array(shards)) = document.get_mut("shard") {
                let tables = shards.iter_mut().filter_map(Value::as_table_mut);
                tables.for_each(|shard| drop(shard.insert(name.to_owned(), value.clone())));
            }
            Ok(())
        }
        [table @ ("engine" | "shards"), name] => put(document, &[table], name, value),
        _ => Err(BenchError::Usage(format!(
            "--set: found {path:?}, expected engine.NAME, kafka.NAME, shards.NAME, or shard.NAME for all shards"
        ))),
    }
}

/// Writes one key of a table, whether it was there under dotted names or not.
fn put(document: &mut Table, path: &[&str], name: &str, value: Value) -> Result<(), BenchError> {
    let mut table = document;
    for part in path {
        let inner = table.entry(*part).or_insert_with(|| Value::Table(Table::new()));
        table = inner.as_table_mut().ok_or_else(|| BenchError::Configuration(format!("{part}: expected a table")))?;
    }
    remove(table, name);
    table.insert(name.to_owned(), value);
    Ok(())
}

/// `"a.b" = 1` and `a.b = 1` mean the same to whoever reads `[kafka]`.
fn remove(table: &mut Table, name: &str) {
    table.remove(name);
    for (at, _) in name.match_indices('.') {
        if let Some(Value::Table(inner)) = table.get_mut(&name[..at]) {
            remove(inner, &name[at + 1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RouteBy, Tenant};

    const FILE: &str = r#"
[kafka]
bootstrap.servers = "operator:9092"
group = { id = "theirs", instance.id = "theirs-1" }
"fetch.wait.max.ms" = 7
[engine]
workers_per_shard = 3
[admin]
listen = "127.0.0.1:9999"
[[shard]]
name = "main"
dsn = "host=a user=u"
[[topic]]
name = "orders"
handler = true
"#;

    fn read(text: &str, change: impl FnOnce(&mut Sources)) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("forebay.toml");
        if !text.is_empty() {
            std::fs::write(&file, text).unwrap();
        }
        let mut sources = Sources { file, ..Sources::default() };
        change(&mut sources);
        let job = Job { group: "g-1", topic: "t-1", schema: "s_1", target: Target::Upsert };
        Settings::read(&sources).and_then(|settings| settings.config(&job)).map_err(|e| e.to_string())
    }

    #[test]
    fn the_operator_s_settings_stay_and_his_topics_and_group_do_not() {
        let config = read(FILE, |_| {}).unwrap();
        assert_eq!(config.kafka.group_id, "g-1");
        assert!(!config.kafka.properties.contains_key(STATIC_MEMBER), "{:?}", config.kafka.properties.keys());
        assert_eq!(config.kafka.properties["bootstrap.servers"].0, "operator:9092");
        assert_eq!(config.kafka.properties["fetch.wait.max.ms"].0, "7");
        assert_eq!((config.engine.workers_per_shard, config.admin.listen), (3, None));
        let names: Vec<&str> = config.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!((names, config.shards[0].name.as_str()), (vec!["t-1"], "main"));
    }

    #[test]
    fn a_file_without_topics_will_do_and_none_at_all_if_everything_is_said() {
        let without = FILE.split("[[topic]]").next().unwrap();
        assert!(read(without, |_| {}).is_ok());
        let said = |sources: &mut Sources| {
            sources.brokers = Some("b:1".to_owned());
            sources.dsns = vec!["host=x user=u".to_owned()];
        };
        let config = read("", said).unwrap();
        assert_eq!((config.shards.len(), config.shards[0].name.as_str()), (1, "bench"));
        assert!(matches!(config.routing.by, RouteBy::Partition));
        let error = read("", |sources| sources.brokers = Some("b:1".to_owned())).unwrap_err();
        assert!(error.contains("no readable file") && error.contains("both --brokers and --dsn"), "{error}");
    }

    #[test]
    fn what_is_said_overrules_the_file() {
        let config = read(FILE, |sources| {
            sources.brokers = Some("b:1".to_owned());
            sources.dsns = vec!["host=x user=u".to_owned(), "host=y user=u".to_owned()];
            let set = |path: &str, value: &str| (path.to_owned(), value.to_owned());
            sources.settings = vec![
                set("engine.workers_per_shard", "9"),
                set("engine.affinity", "static"),
                set("kafka.fetch.wait.max.ms", "11"),
                set("shard.adaptive_limit", "true"),
            ];
        })
        .unwrap();
        assert_eq!((config.engine.workers_per_shard, config.engine.affinity), (9, crate::config::Affinity::Static));
        assert_eq!(config.kafka.properties["bootstrap.servers"].0, "b:1");
        assert_eq!(config.kafka.properties["fetch.wait.max.ms"].0, "11");
        assert!(config.shards.iter().all(|shard| shard.pace.adaptive_limit));
        assert!(matches!(config.routing.by, RouteBy::Hash) && config.routing.tenant == Tenant::KeyPart(0));
    }

    #[test]
    fn mistakes_are_said_with_the_file_s_own_lines() {
        let error = read(&FILE.replace("= 3", "= 0"), |_| {}).unwrap_err();
        assert!(error.contains("forebay.toml:7") && error.contains("workers_per_shard"), "{error}");
        let error = read("[kafka", |_| {}).unwrap_err();
        assert!(error.contains("syntax error"), "{error}");
        let set = |path: &str| (path.to_owned(), "0".to_owned());
        let error = read(FILE, |sources| sources.settings = vec![set("engine.workers_per_shard")]).unwrap_err();
        assert!(error.contains("forebay.toml: engine.workers_per_shard: found 0"), "not a line of the file: {error}");
        let error = read(FILE, |sources| sources.settings = vec![set("topic.table")]).unwrap_err();
        assert!(error.contains("--set: found \"topic.table\""), "{error}");
    }

    #[test]
    fn a_map_of_theirs_gives_way_to_a_hash_and_declared_partitions_stay() {
        let two = FILE
            .replace("[[topic]]", "[[shard]]\nname = \"b\"\ndsn = \"host=b user=u\"\npartitions = \"4-7\"\n[[topic]]");
        let two = two.replace("dsn = \"host=a user=u\"", "dsn = \"host=a user=u\"\npartitions = \"0-3\"");
        let config = read(&two, |_| {}).unwrap();
        assert!(matches!(config.routing.by, RouteBy::Partition) && config.shards[1].partitions.is_some());
        let mapped = two.replace("[admin]", "[shards]\nby = \"map\"\ntenant = \"field:x\"\nmap_file = \"no\"\n[admin]");
        let config = read(&mapped, |_| {}).unwrap();
        assert!(matches!(config.routing.by, RouteBy::Hash) && config.shards[1].partitions.is_none());
    }
}
