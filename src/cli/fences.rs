//! `forebay fences show|reset`.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::config::Config;
use crate::console;
use crate::fences::reset::{self, Request, ResetError};
use crate::fences::{ToOffset, show};

use super::ExitCode;
use super::answers::{Form, say_objects};

#[derive(Debug, Subcommand)]
pub enum Fences {
    /// What every shard says: where it began, how far it is, who owns it. Changes nothing.
    Show {
        /// Only this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only this partition.
        #[arg(long)]
        partition: Option<i32>,
        #[command(flatten)]
        form: Form,
    },
    /// Make every shard forget where it stands with a topic, so that the next start begins at the group's committed offset.
    /// The group must be stopped. Records may be applied again, or never, depending on where that is.
    Reset {
        /// The topic; needed where the configuration has several.
        #[arg(long)]
        topic: Option<String>,
        /// Only this partition.
        #[arg(long)]
        partition: Option<i32>,
        /// Where the next start begins: an offset (of one partition), `earliest`, `latest`, or `committed`: where the group's
        /// committed offset is now.
        #[arg(long, value_name = "OFFSET", default_value = "committed")]
        to_offset: ToOffset,
    },
}

pub fn run(config: &Path, command: &Fences) -> ExitCode {
    let loaded = match super::load_to_work(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match command {
        Fences::Show { topic, partition, form } => {
            let report = show::show(&loaded.config, topic.as_deref(), *partition);
            let code = say(&report, *form);
            // As for a reset of what nobody knows.
            let is_unknown = report.is_empty() && (topic.is_some() || partition.is_some());
            if code == ExitCode::Ok && is_unknown { ExitCode::Usage } else { code }
        }
        Fences::Reset { topic, partition, to_offset } => {
            let topic = match (topic, loaded.config.topics.as_slice()) {
                (Some(topic), _) => topic.clone(),
                (None, [only]) => only.name.clone(),
                (None, _) => {
                    console::err("--topic is needed: the configuration has several");
                    return ExitCode::Usage;
                }
            };
            if matches!(to_offset, ToOffset::At(_)) && partition.is_none() {
                console::err(format_args!(
                    "--to-offset with a number needs --partition: offsets of different partitions have nothing in common"
                ));
                return ExitCode::Usage;
            }
            reset(&loaded.config, &Request { topic, partition: *partition, to: *to_offset })
        }
    }
}

fn say(report: &show::Report, form: Form) -> ExitCode {
    if form.json {
        let answers: Vec<_> = report.shards.iter().map(|s| (s.shard.clone(), s.answer.clone())).collect();
        return say_objects(&answers, |shard, lines| lines.iter().map(|line| object(shard, line)).collect());
    }
    console::out(report);
    report.shards.iter().find_map(|s| s.answer.as_ref().err()).map_or(ExitCode::Ok, ExitCode::from)
}

fn object(shard: &str, line: &show::Line) -> Value {
    json!({
        "shard": shard,
        "topic": line.topic,
        "partition": line.partition,
        "lanes": line.lanes,
        "origin": line.origin,
        "done": line.done,
        "fences": line.fences,
        "fence_min": line.fence_min,
        "fence_max": line.fence_max,
        "taken_at": line.taken_at,
        "taken_by": line.taken_by,
    })
}

fn reset(config: &Config, request: &Request) -> ExitCode {
    match reset::reset(config, request) {
        Ok(done) => {
            for (shard, forgotten) in done.shards {
                console::out(format_args!("shard {shard}: forgot {forgotten} partitions of {}", request.topic));
            }
            for (partition, offset) in done.offsets {
                console::out(format_args!("{} [{partition}]: the next start begins at {offset}", request.topic));
            }
            ExitCode::Ok
        }
        Err(error) => {
            console::err(&error);
            match error {
                ResetError::Unknown(_) => ExitCode::Usage,
                ResetError::Refused(_) => ExitCode::Config,
                ResetError::Unavailable(_) | ResetError::Unfinished(_) => ExitCode::Unavailable,
            }
        }
    }
}
