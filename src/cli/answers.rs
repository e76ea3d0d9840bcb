//! What the shards say to a command, on stdout and stderr, and the exit code that follows.

use super::ExitCode;
use crate::console;
use crate::sink::shards::Answer;

/// A line or more for each answer; `nothing` where there is none. The exit code is that of the first shard that could not answer.
pub fn say<T>(answers: &[Answer<T>], nothing: &str, lines_of: impl Fn(&str, &T) -> Vec<String>) -> ExitCode {
    let mut code = ExitCode::Ok;
    let mut lines = Vec::new();
    for (shard, answer) in answers {
        match answer {
            Ok(answer) => lines.extend(lines_of(shard, answer)),
            Err(failure) => {
                console::err(format_args!("shard {shard}: {}", failure.reason()));
                if code == ExitCode::Ok {
                    code = ExitCode::from(failure);
                }
            }
        }
    }
    if !lines.is_empty() {
        console::out(lines.join("\n"));
    } else if code == ExitCode::Ok {
        console::out(nothing);
    }
    code
}

/// [`say`], with a line for each item.
pub fn say_each<T>(answers: &[Answer<Vec<T>>], nothing: &str, line: impl Fn(&str, &T) -> String) -> ExitCode {
    say(answers, nothing, |shard, items| items.iter().map(|item| line(shard, item)).collect())
}

/// Bytes for a terminal: text in quotes, with what is not to be printed escaped.
pub fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}
