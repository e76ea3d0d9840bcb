//! What the admin interface can be asked for that takes a database: holds, parked keys and dead letters. The same as the commands
//! `park`, `unpark`, `parked` and `dead-letters`, and as those it may wait for a shard that is away; never in the server's thread.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::Config;
use crate::http::{Response, Status};
use crate::letters::replay::{self, Replayed};
use crate::letters::{self, Filter};
use crate::parking::{self, Hold, Scope};
use crate::sink::Failure;
use crate::sink::shards::Answer;

/// What a listing returns of each shard unless it is asked for more.
const LIMIT: i64 = 100;
const LIMIT_MAX: i64 = 1000;
/// Bytes of a text that a listing shows: keys may be as large as records are.
const TEXT_BYTES_MAX: usize = 1024;
/// Bytes of the entries of a listing: what is beyond is left out, and counted.
const LISTING_BYTES_MAX: usize = 2 << 20;

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Park(Hold, Option<String>),
    Unpark(Hold, Option<String>),
    Parked { limit: i64 },
    Letters { limit: i64 },
    Replay(Letter),
    Discard(Letter),
}

/// A key or a tenant of a topic; in one shard or in all that know the topic.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct What {
    topic: String,
    key: Option<String>,
    tenant: Option<String>,
    shard: Option<String>,
}

/// A dead letter.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Letter {
    shard: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(default)]
    out_of_order: bool,
}

/// The JSON of a request's body.
///
/// # Errors
/// The answer to one that is no such object.
pub fn body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    let refused = |what: &str| Response::problem(Status::BAD_REQUEST, &format!("the body: {what}"));
    // Of arrays serde would take the fields in their order.
    match body.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(body).map_err(|error| refused(&error.to_string())),
        _ => Err(refused("expected a JSON object")),
    }
}

impl Action {
    pub fn park(of: &[u8]) -> Result<Action, Response> {
        hold(of).map(|(hold, shard)| Action::Park(hold, shard))
    }

    pub fn unpark(of: &[u8]) -> Result<Action, Response> {
        hold(of).map(|(hold, shard)| Action::Unpark(hold, shard))
    }

    /// `limit` as the query says it.
    pub fn limit(query: Option<&str>) -> Result<i64, Response> {
        match query.map(|text| text.parse::<i64>()) {
            None => Ok(LIMIT),
            Some(Ok(limit)) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
            Some(_) => {
                let detail = format!("limit: expected a whole number from 1 to {LIMIT_MAX}");
                Err(Response::problem(Status::BAD_REQUEST, &detail))
            }
        }
    }

    /// The shard that it is for; none: all of them.
    pub fn shard(&self) -> Option<&str> {
        match self {
            Action::Park(_, shard) | Action::Unpark(_, shard) => shard.as_deref(),
            Action::Replay(letter) | Action::Discard(letter) => Some(&letter.shard),
            Action::Parked { .. } | Action::Letters { .. } => None,
        }
    }

    /// It changes nothing.
    pub fn is_listing(&self) -> bool {
        matches!(self, Action::Parked { .. } | Action::Letters { .. })
    }

    /// For the log: no key, no tenant.
    pub fn told(&self) -> String {
        let of = |letter: &Letter| {
            let Letter { shard, topic, partition, offset, .. } = letter;
            format!("{topic} [{partition}] offset {offset} in shard {shard}")
        };
        match self {
            Action::Park(hold, _) | Action::Unpark(hold, _) => format!("{} of topic {}", self.name(), hold.topic),
            Action::Replay(letter) | Action::Discard(letter) => format!("{}: {}", self.name(), of(letter)),
            Action::Parked { .. } | Action::Letters { .. } => self.name().to_owned(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Action::Park(..) => "park",
            Action::Unpark(..) => "unpark",
            Action::Parked { .. } => "parked",
            Action::Letters { .. } => "dead-letters",
            Action::Replay(_) => "replay of a dead letter",
            Action::Discard(_) => "discard of a dead letter",
        }
    }

    /// Does it, and waits for the databases.
    pub fn run(&self, config: &Config) -> Response {
        let done = match self {
            Action::Park(hold, shard) => parking::park(config, hold, shard.as_deref()).map(|answers| {
                held(config, hold, &answers, |held| parking::told::held(held, config.engine.commit_interval))
            }),
            Action::Unpark(hold, shard) => parking::unpark(config, hold, shard.as_deref())
                .map(|answers| held(config, hold, &answers, parking::told::unheld)),
            Action::Parked { limit } => parking::list::list(config, &Filter::default(), *limit)
                .map(|answers| entries(&answers, parking::told::objects)),
            Action::Letters { limit } => letters::list::list(config, &Filter::default(), *limit).map(|answers| {
                entries(&answers, |shard, letters| {
                    letters.iter().map(|letter| letters::told::object(shard, letter)).collect()
                })
            }),
            Action::Replay(letter) => replay(config, letter),
            Action::Discard(letter) => letters::discard::discard(config, &letter.filter())
                .map(|answers| each(&answers, letters::told::discarded)),
        };
        done.unwrap_or_else(|failure| refused(&failure))
    }
}

/// What the configuration does not know, or does not allow.
pub fn refused(failure: &Failure) -> Response {
    Response::problem(Status::UNPROCESSABLE_CONTENT, &failure.reason().text)
}

fn hold(of: &[u8]) -> Result<(Hold, Option<String>), Response> {
    let What { topic, key, tenant, shard } = body(of)?;
    let (scope, value) = match (key, tenant) {
        (Some(key), None) => (Scope::Key, key),
        (None, Some(tenant)) => (Scope::Tenant, tenant),
        _ => return Err(Response::problem(Status::BAD_REQUEST, "expected one of \"key\" and \"tenant\"")),
    };
    no_nul("topic", &topic)?;
    Ok((Hold { topic, scope, value: value.into_bytes() }, shard))
}

/// PostgreSQL's texts hold none.
fn no_nul(field: &str, text: &str) -> Result<(), Response> {
    let detail = format!("{field}: found a NUL, which no name has");
    if text.contains('\0') { Err(Response::problem(Status::BAD_REQUEST, &detail)) } else { Ok(()) }
}

impl Letter {
    /// Of a request's body.
    pub fn of(bytes: &[u8]) -> Result<Letter, Response> {
        let letter: Letter = body(bytes)?;
        no_nul("topic", &letter.topic)?;
        Ok(letter)
    }

    fn filter(&self) -> Filter {
        Filter {
            shard: Some(self.shard.clone()),
            topic: Some(self.topic.clone()),
            partition: Some(self.partition),
            offset: Some(self.offset),
            ..Filter::default()
        }
    }
}

fn replay(config: &Config, letter: &Letter) -> Result<Response, Failure> {
    let Some(topic) = config.topics.iter().find(|topic| topic.name == letter.topic) else {
        let detail = format!("no topic of the configuration is named {:?}", letter.topic);
        return Ok(Response::problem(Status::NOT_FOUND, &detail));
    };
    let answers = replay::replay(config, topic, &letter.filter(), letter.out_of_order)?;
    let letters = || answers.iter().flat_map(|(_, answer)| answer.iter().flatten());
    if letters().any(|letter| matches!(letter, Replayed::Left(_)))
        && let Some(reason) = replay::refusal(config, topic, letter.out_of_order)
    {
        return Ok(Response::problem(Status::CONFLICT, &reason.text));
    }
    if let Some(Replayed::Refused(_, reason)) = letters().find(|letter| matches!(letter, Replayed::Refused(..))) {
        return Ok(Response::problem(Status::CONFLICT, &format!("refused again: {reason}")));
    }
    Ok(each(&answers, |shard, replayed| letters::told::replayed(shard, &topic.name, replayed)))
}

fn held<T>(config: &Config, hold: &Hold, answers: &[Answer<Option<T>>], what: impl Fn(&T) -> String) -> Response {
    if !answers.is_empty() && answers.iter().all(|(_, answer)| matches!(answer, Ok(None))) {
        return Response::problem(Status::NOT_FOUND, &parking::told::unknown(&config.kafka.group_id, hold));
    }
    let of_shard = |(shard, answer): &Answer<Option<T>>| match answer {
        Ok(answer) => Ok(parking::told::answer(shard, hold, answer.as_ref(), &what)),
        Err(failure) => Err(format!("shard {shard}: {}", failure.reason())),
    };
    done(answers.iter().map(of_shard).collect())
}

/// For letters that were named.
fn each<T>(answers: &[Answer<Vec<T>>], line: impl Fn(&str, &T) -> String) -> Response {
    let mut lines = Vec::new();
    for (shard, answer) in answers {
        match answer {
            Ok(items) => lines.extend(items.iter().map(|item| Ok(line(shard, item)))),
            Err(failure) => lines.push(Err(format!("shard {shard}: {}", failure.reason()))),
        }
    }
    match lines.is_empty() {
        true => Response::problem(Status::NOT_FOUND, "no such dead letter, or somebody has decided about it already"),
        false => done(lines),
    }
}

/// What was done; as soon as something could not be, that it could not.
fn done(lines: Vec<Result<String, String>>) -> Response {
    let failed = lines.iter().any(Result::is_err);
    let text: Vec<String> = lines.into_iter().map(|line| line.unwrap_or_else(|line| line)).collect();
    let text = text.join("; ");
    match failed {
        true => Response::problem(Status::SERVICE_UNAVAILABLE, &text),
        false => Response::json(Status::OK, json!({ "done": text }).to_string()),
    }
}

fn entries<T>(answers: &[Answer<T>], objects: impl Fn(&str, &T) -> Vec<Value>) -> Response {
    let (mut entries, mut left_out, mut failed) = (String::new(), 0, Vec::new());
    for (shard, answer) in answers {
        match answer {
            Ok(answer) => objects(shard, answer).into_iter().for_each(|object| {
                let object = cut(object).to_string();
                if left_out > 0 || entries.len() + object.len() > LISTING_BYTES_MAX {
                    left_out += 1;
                    return;
                }
                entries.push_str(if entries.is_empty() { "" } else { "," });
                entries.push_str(&object);
            }),
            Err(failure) => failed.push(json!({ "shard": shard, "reason": failure.reason().to_string() })),
        }
    }
    let failed = Value::Array(failed);
    Response::json(Status::OK, format!("{{\"entries\":[{entries}],\"left_out\":{left_out},\"failed\":{failed}}}"))
}

/// Without the ends of long texts, which an ellipsis stands for.
fn cut(mut object: Value) -> Value {
    let shorten = |text: &mut String| {
        if text.len() > TEXT_BYTES_MAX {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.truncate(end);
            text.push('…');
        }
    };
    for value in object.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
        match value {
            Value::String(text) => shorten(text),
            // Bytes that are no text.
            Value::Object(fields) => fields.values_mut().for_each(|value| {
                if let Value::String(text) = value {
                    shorten(text);
                }
            }),
            _ => {}
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_no_longer_than_it_may_be() {
        let listing = |count: usize, bytes: usize| -> Value {
            let objects = |_: &str, (): &()| (0..count).map(|n| json!({ "n": n, "a": "x".repeat(bytes) })).collect();
            let away = Failure::Outage(crate::sink::Reason::new("away"));
            let answers = [("a".to_owned(), Ok(())), ("b".to_owned(), Ok(())), ("c".to_owned(), Err(away))];
            let response = entries(&answers, objects);
            assert!(response.body().len() < LISTING_BYTES_MAX + 1000);
            serde_json::from_slice(response.body()).expect("JSON")
        };
        let short = listing(2, 10);
        let numbers: Vec<_> = short["entries"].as_array().expect("entries").iter().map(|entry| &entry["n"]).collect();
        assert_eq!((numbers, &short["left_out"]), (vec![&json!(0), &json!(1), &json!(0), &json!(1)], &json!(0)));
        assert_eq!(short["failed"], json!([{ "shard": "c", "reason": "away" }]));
        assert_eq!(listing(0, 0)["entries"], json!([]));
        let long = listing(LISTING_BYTES_MAX / 1500, 1000);
        let (shown, left_out) = (long["entries"].as_array().expect("entries").len(), long["left_out"].as_u64());
        assert_eq!(left_out, Some((LISTING_BYTES_MAX / 1500 * 2 - shown) as u64));
        assert!(shown > LISTING_BYTES_MAX / 1500, "{shown}");
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let long = "ü".repeat(TEXT_BYTES_MAX);
        let object =
            cut(json!({ "key": long, "other": { "hex": "ab".repeat(TEXT_BYTES_MAX) }, "offset": 5, "short": "x" }));
        let key = object["key"].as_str().expect("text");
        assert!(key.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && key.ends_with("ü…"), "{}", key.len());
        assert!(object["other"]["hex"].as_str().is_some_and(|hex| hex.ends_with('…')));
        assert_eq!((&object["offset"], &object["short"]), (&json!(5), &json!("x")));
    }
}
