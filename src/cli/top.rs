//! `forebay top`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::ExitCode;
use crate::config::secret::{self, Secret};
use crate::config::{ADMIN_LISTEN, Admin, load};
use crate::console;
use crate::top::address::Address;
use crate::top::{self, Failure, Options, TopError};

#[derive(Debug, Args)]
pub struct Top {
    /// Whom to ask: host:port, http://host:port, or unix:/path [default: what `[admin]` of the configuration says; without
    /// one: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Address>,
    /// The file that holds the token, where the admin interface wants one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How often to ask, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print one screen as plain text, and end. So it is where stdout is no terminal.
    #[arg(long)]
    once: bool,
}

/// Ten times a second is what an eye can follow; an hour is for those who want the curve only.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("not between 0.1 and 3600 seconds".to_owned()),
    }
}

pub fn run(config: &Path, arguments: Top) -> ExitCode {
    let (address, token) = match whom(config, &arguments) {
        Ok(whom) => whom,
        Err(code) => return code,
    };
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let options = Options { address, token, interval: arguments.interval, colour };
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if arguments.once || is_dumb || !std::io::stdout().is_terminal() {
        return match top::once(options) {
            Ok(text) => {
                console::out(text);
                ExitCode::Ok
            }
            Err(failure) => no_answer(&failure),
        };
    }
    match top::watch(options) {
        Ok(()) => ExitCode::Ok,
        Err(TopError::Answer(failure)) => no_answer(&failure),
        Err(error @ TopError::Terminal(_)) => {
            console::err(format_args!("{error}; --once needs none"));
            ExitCode::Unavailable
        }
        Err(error @ TopError::Gone) => {
            console::err(error);
            ExitCode::Internal
        }
    }
}

fn no_answer(failure: &Failure) -> ExitCode {
    console::err(failure);
    match failure {
        Failure::Unreachable(_) | Failure::Refused(_) | Failure::Strange(_) => ExitCode::Unavailable,
        Failure::Forbidden(_) => ExitCode::Config,
    }
}

/// Whom to ask, and with what token: the command line's word, then the configuration's, where there is one.
fn whom(config: &Path, arguments: &Top) -> Result<(Address, Option<Secret>), ExitCode> {
    let token = arguments.token_file.as_deref().map(token).transpose()?;
    match &arguments.admin {
        Some(address) => Ok((address.clone(), token)),
        None => configured(config).map(|(address, of_config)| (address, token.or(of_config))),
    }
}

/// What `[admin]` says of where it listens; the socket needs no token.
fn configured(config: &Path) -> Result<(Address, Option<Secret>), ExitCode> {
    let admin = match config.exists() {
        true => load::load(config).map(|loaded| loaded.config.admin).map_err(|problems| {
            console::err(problems);
            console::err("--admin ADDRESS needs no configuration");
            ExitCode::Config
        })?,
        false => Admin { listen: Some(ADMIN_LISTEN), ..Admin::default() },
    };
    match (admin.socket, admin.listen) {
        (Some(socket), _) => Ok((Address::Unix(socket), None)),
        (None, Some(listen)) => Ok((Address::of_listener(listen), admin.token)),
        (None, None) => {
            console::err("[admin] listen is \"off\" and there is no socket: nobody can be asked");
            Err(ExitCode::Config)
        }
    }
}

/// A token is one line of visible characters: HTTP takes no others.
fn token(file: &Path) -> Result<Secret, ExitCode> {
    let refuse = |what: &str| {
        console::err(format_args!("{}: {what}", file.display()));
        ExitCode::Config
    };
    let text = secret::read_file(file).map_err(|error| refuse(&error.to_string()))?;
    let token = text.trim();
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Secret(token.to_owned())),
        false => Err(refuse("this is no token: one line of visible ASCII characters without blanks")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_seconds() {
        for (text, ms) in [("1", Some(1000)), ("0.5", Some(500)), ("0", None), ("-1", None), ("NaN", None), ("x", None)]
        {
            assert_eq!(interval(text).ok().map(|interval| interval.as_millis()), ms, "{text}");
        }
    }
}
