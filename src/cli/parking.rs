//! `forebay park|unpark|parked`.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::ExitCode;
use super::answers::{Form, say};
use super::letters::Records;
use crate::config::{Config, load};
use crate::console;
use crate::letters::told::shown;
use crate::parking::list::{self, Key, Parked};
use crate::parking::told;
use crate::parking::{self, Hold, Scope};
use crate::sink::Failure;
use crate::sink::shards::Answer;
use crate::words::{age, counted};

#[derive(Debug, Args)]
pub struct What {
    /// The topic.
    #[arg(long)]
    topic: String,
    #[command(flatten)]
    whose: Whose,
    /// Only in this shard.
    #[arg(long)]
    shard: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// A record's key, given as text.
    #[arg(long)]
    key: Option<String>,
    /// A tenant, as `[shards] tenant` reads it from a record, given as text.
    #[arg(long)]
    tenant: Option<String>,
}

#[derive(Debug, Args)]
pub struct Listing {
    /// What to do: `list`, which is also done where nothing is said.
    #[arg(value_enum, default_value_t = Action::List, hide_default_value = true)]
    action: Action,
    #[command(flatten)]
    records: Records,
    /// At most so many holds, and so many keys, of each shard.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    List,
}

impl What {
    fn hold(&self) -> Hold {
        let (scope, value) = match (&self.whose.key, &self.whose.tenant) {
            (Some(key), _) => (Scope::Key, key),
            (None, tenant) => (Scope::Tenant, tenant.as_ref().expect("clap wants one of the two")),
        };
        Hold { topic: self.topic.clone(), scope, value: value.clone().into_bytes() }
    }
}

pub fn park(config: &Path, what: &What) -> ExitCode {
    let hold = what.hold();
    with(config, |config| {
        let answers = parking::park(config, &hold, what.shard.as_deref())?;
        let within = config.engine.commit_interval;
        Ok(say_known(config, &hold, &answers, |held| told::held(held, within)))
    })
}

pub fn unpark(config: &Path, what: &What) -> ExitCode {
    let hold = what.hold();
    with(config, |config| {
        let answers = parking::unpark(config, &hold, what.shard.as_deref())?;
        Ok(say_known(config, &hold, &answers, told::unheld))
    })
}

pub fn parked(config: &Path, listing: &Listing) -> ExitCode {
    let Action::List = listing.action;
    with(config, |config| {
        let answers = list::list(config, &listing.records.filter(), listing.limit)?;
        Ok(listing.form.say(&answers, "nothing is held or parked", lines, told::objects))
    })
}

/// Handlers' topics are parked like any others.
fn with(config: &Path, command: impl FnOnce(&Config) -> Result<ExitCode, Failure>) -> ExitCode {
    let config = match load::load(config) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            console::err(problems);
            return ExitCode::Config;
        }
    };
    command(&config).unwrap_or_else(|failure| {
        console::err(failure.reason());
        ExitCode::Usage
    })
}

/// A topic that no shard knows is an error: nothing would hold it once it begins.
fn say_known<T>(config: &Config, hold: &Hold, answers: &[Answer<Option<T>>], what: impl Fn(&T) -> String) -> ExitCode {
    if answers.iter().all(|(_, answer)| matches!(answer, Ok(None))) {
        console::err(told::unknown(&config.kafka.group_id, hold));
        return ExitCode::Usage;
    }
    say(answers, "", |shard, answer| vec![told::answer(shard, hold, answer.as_ref(), &what)])
}

fn lines(shard: &str, parked: &Parked) -> Vec<String> {
    let holds = parked.holds.iter().map(|(hold, since)| format!("{since} shard {shard} holds {}", told::name(hold)));
    let mut lines: Vec<String> = holds.chain(parked.keys.iter().map(|key| line(shard, key))).collect();
    if !lines.is_empty() {
        let (rows, keys) =
            (counted(parked.rows_all.unsigned_abs(), "record"), counted(parked.keys_all.unsigned_abs(), "key"));
        lines.push(format!(
            "shard {shard}: {}, {rows} of {keys} parked",
            counted(parked.holds_all.unsigned_abs(), "hold")
        ));
    }
    lines
}

fn line(shard: &str, key: &Key) -> String {
    let name = key.key.as_deref().map(|key| format!(" key {}", shown(key))).unwrap_or_default();
    let state = match (key.dead, key.held) {
        (true, _) => "dead letter",
        (false, true) => "held",
        (false, false) => "waiting",
    };
    let error = key.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let code = key.sqlstate.as_ref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
    let tries = if key.attempts > 0 {
        format!(", tried {}", counted(key.attempts.unsigned_abs().into(), "time"))
    } else {
        String::new()
    };
    format!(
        "shard {shard} {} [{}]{name}: {} from offset {} on, for {}, because {}; {state}{tries}{error}{code}",
        key.topic,
        key.partition,
        counted(key.rows.unsigned_abs(), "record"),
        key.offset,
        age(key.age.as_millis() as u64),
        key.why
    )
}
