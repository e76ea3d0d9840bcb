//! `forebay init`: our tables in every shard.

use std::path::Path;

use crate::config::{Config, Shard};
use crate::console;
use crate::sink::pool::Pool;
use crate::sink::{Failure, schema};

use super::ExitCode;

pub fn run(config: &Path, print: bool) -> ExitCode {
    if print {
        console::out(schema::print());
        return ExitCode::Ok;
    }
    let loaded = match super::load_to_work(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let mut worst = ExitCode::Ok;
    // Every shard, whatever becomes of the others: the command may be repeated.
    for shard in &loaded.config.shards {
        match init(&loaded.config, shard) {
            Ok(Some(found)) if found >= schema::CURRENT => {
                console::out(format_args!("shard {}: version {found}, as it was", shard.name))
            }
            Ok(Some(found)) => {
                console::out(format_args!("shard {}: upgraded from {found} to {}", shard.name, schema::CURRENT))
            }
            Ok(None) => console::out(format_args!("shard {}: created, version {}", shard.name, schema::CURRENT)),
            Err(failure) => {
                console::err(format_args!("shard {}: {}", shard.name, failure.reason()));
                worst = if worst == ExitCode::Config { worst } else { ExitCode::from(&failure) };
            }
        }
    }
    worst
}

fn init(config: &Config, shard: &Shard) -> Result<Option<schema::Version>, Failure> {
    let mut client = Pool::new(shard, &config.kafka.group_id, "init", 1)?.get()?;
    schema::init(&mut client)
}
