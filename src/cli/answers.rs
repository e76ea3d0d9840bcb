//! What the shards say to a command, on stdout and stderr, and the exit code that follows.

use clap::Args;
use serde_json::Value;

use super::ExitCode;
use crate::console;
use crate::sink::shards::Answer;

/// How a listing is written.
#[derive(Debug, Clone, Copy, Args)]
pub struct Form {
    /// For programs: one JSON object per line, and no line where there is nothing. Bytes that are no text are {"hex": "…"}.
    #[arg(long)]
    pub json: bool,
}

impl Form {
    /// As [`say`], or each answer's objects.
    pub fn say<T>(
        self,
        answers: &[Answer<T>],
        nothing: &str,
        lines_of: impl Fn(&str, &T) -> Vec<String>,
        objects_of: impl Fn(&str, &T) -> Vec<Value>,
    ) -> ExitCode {
        match self.json {
            true => say_objects(answers, objects_of),
            false => say(answers, nothing, lines_of),
        }
    }

    /// As [`say_each`], or an object for each item.
    pub fn say_each<T>(
        self,
        answers: &[Answer<Vec<T>>],
        nothing: &str,
        line: impl Fn(&str, &T) -> String,
        object: impl Fn(&str, &T) -> Value,
    ) -> ExitCode {
        self.say(answers, nothing, of_each(line), of_each(object))
    }
}

/// A line or more for each answer; `nothing` where there is none. The exit code is that of the first shard that could not answer.
pub fn say<T>(answers: &[Answer<T>], nothing: &str, lines_of: impl Fn(&str, &T) -> Vec<String>) -> ExitCode {
    let (is_empty, code) = each_line(answers, lines_of);
    if is_empty && code == ExitCode::Ok {
        console::out(nothing);
    }
    code
}

/// [`say`], with a line for each item.
pub fn say_each<T>(answers: &[Answer<Vec<T>>], nothing: &str, line: impl Fn(&str, &T) -> String) -> ExitCode {
    say(answers, nothing, of_each(line))
}

/// One JSON object per line; nothing where there is none.
pub fn say_objects<T>(answers: &[Answer<T>], objects_of: impl Fn(&str, &T) -> Vec<Value>) -> ExitCode {
    each_line(answers, |shard, answer| objects_of(shard, answer).iter().map(Value::to_string).collect()).1
}

/// Says what the shards answered, on stdout, and which could not, on stderr. Whether nothing was said, and the exit code.
fn each_line<T>(answers: &[Answer<T>], lines_of: impl Fn(&str, &T) -> Vec<String>) -> (bool, ExitCode) {
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
    }
    (lines.is_empty(), code)
}

/// What is made of each item.
fn of_each<T, R>(make: impl Fn(&str, &T) -> R) -> impl Fn(&str, &Vec<T>) -> Vec<R> {
    move |shard, items| items.iter().map(|item| make(shard, item)).collect()
}
