//! `forebay dead-letters list|show|replay|discard`.

use std::fmt::Write;
use std::path::Path;

use clap::{Args, Subcommand};

use super::ExitCode;
use super::answers::{Form, say_each};
use crate::config::{Config, load};
use crate::console;
use crate::letters::list::{Forwarded, Letter, Whole};
use crate::letters::replay::Replayed;
use crate::letters::told::{self, shown};
use crate::letters::{Filter, discard, list, replay};
use crate::sink::Failure;
use crate::state::chunk::Headers;

#[derive(Debug, Subcommand)]
pub enum Letters {
    /// The newest ones, a line each; those that block their keys first. Changes nothing.
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many of each shard.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
        /// Those, too, that somebody has decided about.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        form: Form,
    },
    /// All of them that match: key, headers, payload, and why they could not be applied. Changes nothing.
    Show {
        #[command(flatten)]
        which: Which,
        /// At most so many of each shard.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Apply them after all, each exactly once; one that is refused again stays. One that blocks its key is applied in its turn, by
    /// a running process or the next one.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Every letter of the topic, where nothing else says which.
        #[arg(long)]
        all: bool,
        /// Their keys have gone on without them: apply these older records now, over newer ones. Not needed where the table has
        /// a guard column.
        #[arg(long)]
        out_of_order: bool,
    },
    /// Mark them as needing nothing more. They stay in the table; a key that one of them blocks goes on without it.
    Discard {
        #[command(flatten)]
        which: Which,
        /// Every letter, where nothing else says which.
        #[arg(long)]
        all: bool,
    },
}

/// Which letters.
#[derive(Debug, Args)]
pub struct Which {
    #[command(flatten)]
    records: Records,
    /// Only this one; numbers differ between shards.
    #[arg(long)]
    id: Option<i64>,
}

/// Which records.
#[derive(Debug, Args)]
pub struct Records {
    /// Only of this shard.
    #[arg(long)]
    shard: Option<String>,
    /// Only of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only of this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// Only the record at this offset.
    #[arg(long)]
    offset: Option<i64>,
    /// Only those that PostgreSQL refused with this SQLSTATE.
    #[arg(long)]
    sqlstate: Option<String>,
    /// Only records of this key, given as text.
    #[arg(long)]
    key: Option<String>,
}

impl Records {
    pub fn filter(&self) -> Filter {
        let Records { shard, topic, partition, offset, sqlstate, key } = self;
        Filter {
            shard: shard.clone(),
            topic: topic.clone(),
            partition: *partition,
            offset: *offset,
            id: None,
            sqlstate: sqlstate.clone(),
            key: key.clone(),
            decided: false,
        }
    }
}

impl Which {
    fn filter(&self, decided: bool) -> Filter {
        Filter { id: self.id, decided, ..self.records.filter() }
    }

    /// For what changes letters: everything only where that is said.
    fn some(&self, all: bool) -> Result<Filter, ExitCode> {
        let filter = self.filter(false);
        match filter.is_empty() && !all {
            true => {
                console::err("which letters? Say so with --topic, --offset, --id or another filter, or --all");
                Err(ExitCode::Usage)
            }
            false => Ok(filter),
        }
    }
}

pub fn run(config: &Path, command: &Letters) -> ExitCode {
    // Letters of a handler's topic are looked at like any others.
    let config = match load::load(config) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            console::err(problems);
            return ExitCode::Config;
        }
    };
    let done = match command {
        Letters::List { which, limit, all, form } => list::list(&config, &which.filter(*all), *limit)
            .map(|answers| form.say_each(&answers, "no dead letters", line, told::object)),
        Letters::Show { which, limit } => list::show(&config, &which.filter(true), *limit)
            .map(|answers| say_each(&answers, "no such dead letter", whole)),
        Letters::Replay { which, all, out_of_order } => match which.some(*all) {
            Ok(filter) => replay(&config, &filter, *out_of_order),
            Err(code) => return code,
        },
        Letters::Discard { which, all } => match which.some(*all) {
            Ok(filter) => discard::discard(&config, &filter)
                .map(|answers| say_each(&answers, "no such dead letter", told::discarded)),
            Err(code) => return code,
        },
    };
    done.unwrap_or_else(|failure| {
        console::err(failure.reason());
        ExitCode::Usage
    })
}

fn replay(config: &Config, filter: &Filter, out_of_order: bool) -> Result<ExitCode, Failure> {
    let topic = match (&filter.topic, config.topics.as_slice()) {
        (Some(name), topics) => topics.iter().find(|topic| topic.name == *name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some(topic) = topic else {
        console::err("--topic is needed, one of the configuration's");
        return Ok(ExitCode::Usage);
    };
    let answers = replay::replay(config, topic, filter, out_of_order)?;
    let code = say_each(&answers, "no such dead letter", |shard, letter: &Replayed| {
        told::replayed(shard, &topic.name, letter)
    });
    let letters = || answers.iter().flat_map(|(_, answer)| answer.iter().flatten());
    let left = letters().any(|letter| matches!(letter, Replayed::Left(_)));
    if let Some(reason) = replay::refusal(config, topic, out_of_order).filter(|_| left) {
        console::err(reason);
        return Ok(ExitCode::Usage);
    }
    let refused = letters().any(|letter| matches!(letter, Replayed::Refused(..)));
    Ok(if code == ExitCode::Ok && refused { ExitCode::Data } else { code })
}

fn line(shard: &str, letter: &Letter) -> String {
    let id = letter.id.map_or("letter that blocks its key".to_owned(), |id| format!("letter {id}"));
    let key = letter.key.as_deref().map(|key| format!(" key {}", shown(key))).unwrap_or_default();
    let code = letter.sqlstate.as_ref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
    let decided = letter.resolution.as_ref().map(|what| format!(" [{what}]")).unwrap_or_default();
    let forwarded = match &letter.forwarded {
        Forwarded::No => String::new(),
        Forwarded::At(at) => format!(" [forwarded {at}]"),
        Forwarded::Refused(reason) => format!(" [not forwarded: {reason}]"),
    };
    format!(
        "{} shard {shard} {id}: {} [{}] offset {}{key}: {}{code}{decided}{forwarded}",
        letter.at, letter.topic, letter.partition, letter.offset, letter.error
    )
}

fn whole(shard: &str, whole: &Whole) -> String {
    let mut text = line(shard, &whole.letter);
    if let Some(timestamp) = &whole.timestamp {
        let _ = write!(text, "\n  timestamp: {timestamp}");
    }
    for (name, value) in Headers(&whole.headers).iter() {
        let _ = write!(text, "\n  header {}: {}", shown(name.as_bytes()), value.map_or("null".to_owned(), shown));
    }
    let _ = write!(text, "\n  payload: {}", whole.payload.as_deref().map_or("null".to_owned(), shown));
    text
}
