//! The command line: the reference job's arguments, and some more.

use std::path::PathBuf;

use super::Outcome;
use super::arguments::Arguments;

pub struct Options {
    /// Records that a peer's JVM writes before its clock starts.
    pub warm_up: u64,
    /// As `-Xmx` wants it.
    pub heap: String,
    /// Peers that do not take part.
    pub without: Vec<String>,
    pub json: Option<PathBuf>,
}

pub fn read(words: impl IntoIterator<Item = String>) -> Outcome<(Arguments, Options)> {
    let mut options = Options { warm_up: 400_000, heap: "2g".to_owned(), without: Vec::new(), json: None };
    let (mut rest, mut words) = (Vec::new(), words.into_iter());
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--warm-up" => options.warm_up = value()?.parse()?,
            "--heap" => options.heap = value()?,
            "--without" => options.without = value()?.split(',').map(str::to_owned).collect(),
            "--json" => options.json = Some(value()?.into()),
            _ => rest.push(word),
        }
    }
    Ok((Arguments::of(rest)?, options))
}
