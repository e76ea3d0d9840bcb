//! `forebay init`: our tables in every shard.

use std::path::Path;

use crate::config::{Config, Shard};
use crate::sink::pool::Pool;
use crate::sink::{Failure, schema};

use super::ExitCode;

pub fn run(config: &Path, print: bool) -> ExitCode {
    if print {
        print!("{}", schema::print());
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
            Ok(Some(found)) if found >= schema::CURRENT => println!("shard {}: version {found}, as it was", shard.name),
            Ok(Some(found)) => println!("shard {}: upgraded from {found} to {}", shard.name, schema::CURRENT),
            Ok(None) => println!("shard {}: created, version {}", shard.name, schema::CURRENT),
            Err(failure) => {
                eprintln!("shard {}: {}", shard.name, failure.reason());
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
