//! `forebay fences show|reset`: where each database stands with each partition, and how an operator overrules it.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::Config;
use crate::sink::Failure;
use crate::sink::pool::Pool;
use crate::sink::reset::{self, Stand};
use crate::source::client::client_config;

use super::ExitCode;

/// Longest wait for one answer of the brokers.
const ASK_DEADLINE: Duration = Duration::from_secs(15);
/// The end of our connections' application name.
const PURPOSE: &str = "fences";

#[derive(Debug, Subcommand)]
pub enum Fences {
    /// Show where each database stands with each partition of the group.
    Show,
    /// Delete what the databases know of a topic, so that Kafka's committed offset says where to go on. Refused while a
    /// process of the group runs. Records between there and the former progress are applied again.
    Reset(Reset),
}

#[derive(Debug, Args)]
pub struct Reset {
    /// The topic; needed where the configuration has several.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// Commit this offset for the group, too: `earliest`, `latest`, or a number (with --partition).
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<ToOffset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToOffset {
    Earliest,
    Latest,
    At(i64),
}

impl FromStr for ToOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<ToOffset, String> {
        match text {
            "earliest" => Ok(ToOffset::Earliest),
            "latest" => Ok(ToOffset::Latest),
            _ => match text.parse() {
                Ok(offset) if offset >= 0 => Ok(ToOffset::At(offset)),
                _ => Err("expected earliest, latest or an offset".to_owned()),
            },
        }
    }
}

/// Why a command ends, in words, and the code it ends with.
struct Refused(ExitCode, String);

impl From<KafkaError> for Refused {
    fn from(error: KafkaError) -> Refused {
        let text = error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
        Refused(ExitCode::Unavailable, format!("Kafka: {text}"))
    }
}

pub fn run(config: &Path, command: &Fences) -> ExitCode {
    let loaded = match super::load_to_work(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let result = match command {
        Fences::Show => show(&loaded.config),
        Fences::Reset(arguments) => reset_topic(&loaded.config, arguments),
    };
    match result {
        Ok(()) => ExitCode::Ok,
        Err(Refused(code, text)) => {
            eprintln!("{text}");
            code
        }
    }
}

fn in_shard(name: &str) -> impl Fn(Failure) -> Refused {
    move |failure| Refused(ExitCode::from(&failure), format!("shard {name}: {}", failure.reason()))
}

fn show(config: &Config) -> Result<(), Refused> {
    let head = ["shard", "topic", "partition", "lanes", "origin", "done", "fences", "owner", "since"];
    let mut table = vec![head.map(str::to_owned)];
    for shard in &config.shards {
        let failed = in_shard(&shard.name);
        let mut client = Pool::new(shard, &config.kafka.group_id, PURPOSE, 1).and_then(|p| p.get()).map_err(&failed)?;
        for stand in reset::show(&mut client, &config.kafka.group_id).map_err(&failed)? {
            table.push(line(&shard.name, stand));
        }
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    for row in &table {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
    Ok(())
}

fn line(shard: &str, stand: Stand) -> [String; 9] {
    let fences = match stand.fences {
        Some((low, high)) if low == high => low.to_string(),
        Some((low, high)) => format!("{low}–{high}"),
        None => "none".to_owned(),
    };
    let numbers = [i64::from(stand.partition), i64::from(stand.lanes), stand.origin, stand.done];
    let [partition, lanes, origin, done] = numbers.map(|number| number.to_string());
    [shard.to_owned(), stand.topic, partition, lanes, origin, done, fences, stand.taken_by, stand.taken_at]
}

/// Every shard or none: the transactions are committed only when all of them deleted and Kafka has the offsets. A crash in
/// between leaves anchors in some shards, whose word still stands; the command may be repeated.
fn reset_topic(config: &Config, arguments: &Reset) -> Result<(), Refused> {
    let topic = topic(config, arguments)?;
    let group = &config.kafka.group_id;
    let consumer: BaseConsumer = client_config(&config.kafka).create()?;
    nobody_consumes(&consumer, group)?;
    let offsets = offsets(&consumer, topic, arguments)?;
    let mut clients = Vec::new();
    for shard in &config.shards {
        let pool = Pool::new(shard, group, PURPOSE, 1).map_err(in_shard(&shard.name))?;
        clients.push(pool.get().map_err(in_shard(&shard.name))?);
    }
    let mut transactions = Vec::new();
    for (client, shard) in clients.iter_mut().zip(&config.shards) {
        let failed = in_shard(&shard.name);
        let database = |error: postgres::Error| failed(crate::sink::sqlstate::failure(&error));
        let mut transaction = client.transaction().map_err(database)?;
        let anchors = reset::reset(&mut transaction, group, PURPOSE, (topic, arguments.partition)).map_err(&failed)?;
        transactions.push((shard, anchors, transaction));
    }
    // A commit without metadata also erases the noted origins, which would lead back to the very first record. The broker
    // refuses it while the group has members.
    if offsets.count() > 0 {
        consumer.commit(&offsets, CommitMode::Sync)?;
    }
    for (shard, anchors, transaction) in transactions {
        let failed = in_shard(&shard.name);
        transaction.commit().map_err(|error| failed(crate::sink::sqlstate::failure(&error)))?;
        println!("shard {}: forgot {anchors} partitions of {topic}", shard.name);
    }
    for element in offsets.elements() {
        println!("{topic} [{}]: the group goes on at {:?}", element.partition(), element.offset());
    }
    Ok(())
}

fn topic<'c>(config: &'c Config, arguments: &Reset) -> Result<&'c str, Refused> {
    if matches!(arguments.to_offset, Some(ToOffset::At(_))) && arguments.partition.is_none() {
        return Err(Refused(ExitCode::Usage, "--to-offset with a number needs --partition".to_owned()));
    }
    let names: Vec<&str> = config.topics.iter().map(|topic| topic.name.as_str()).collect();
    match (&arguments.topic, names.as_slice()) {
        (None, [only]) => Ok(only),
        (None, names) => Err(Refused(ExitCode::Usage, format!("--topic is needed: one of {}", names.join(", ")))),
        (Some(name), names) => names.iter().find(|known| *known == name).copied().ok_or_else(|| {
            Refused(ExitCode::Usage, format!("--topic {name:?} is not in the configuration: {}", names.join(", ")))
        }),
    }
}

fn nobody_consumes(consumer: &BaseConsumer, group: &str) -> Result<(), Refused> {
    let list = consumer.fetch_group_list(Some(group), ASK_DEADLINE)?;
    let members: usize = list.groups().iter().filter(|found| found.name() == group).map(|g| g.members().len()).sum();
    if members > 0 {
        let text = format!("group {group:?} has {members} members: stop every process of it first");
        return Err(Refused(ExitCode::Config, text));
    }
    Ok(())
}

/// What to commit: the offsets asked for, otherwise those that the group has.
fn offsets(consumer: &BaseConsumer, topic: &str, arguments: &Reset) -> Result<TopicPartitionList, Refused> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_DEADLINE)?;
    let count =
        metadata.topics().iter().filter(|t| t.name() == topic).map(|t| t.partitions().len()).sum::<usize>() as i32;
    let partitions = match arguments.partition {
        Some(partition) if (0..count).contains(&partition) => partition..partition + 1,
        Some(partition) => {
            let text = format!("{topic} has {count} partitions, not a partition {partition}");
            return Err(Refused(ExitCode::Usage, text));
        }
        None => 0..count,
    };
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(topic, partition);
    }
    let mut offsets = TopicPartitionList::new();
    for element in consumer.committed_offsets(asked, ASK_DEADLINE)?.elements() {
        let partition = element.partition();
        let offset = match arguments.to_offset {
            None => element.offset(),
            Some(ToOffset::At(offset)) => Offset::Offset(offset),
            Some(end) => {
                let (low, high) = consumer.fetch_watermarks(topic, partition, ASK_DEADLINE)?;
                Offset::Offset(if end == ToOffset::Earliest { low } else { high })
            }
        };
        if matches!(offset, Offset::Offset(_)) {
            offsets.add_partition_offset(topic, partition, offset)?;
        }
    }
    Ok(offsets)
}
