//! The gateway on a real Kafka and a real PostgreSQL, as clients see it: what it answers, what it refuses, what it survives, and that
//! what it accepted ends in the table.

mod answers;
mod chaos;
mod clients;
mod ends;
mod fatal;
mod metrics;
mod pinning;
mod sync;
mod sync_chaos;
mod sync_trouble;
mod trouble;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::http::client::{Answer, Client};
use crate::support::{Admin, Forebay, PATIENCE, Rig, Topic, wait_until};

/// The table of most tests.
const SUBSCRIPTIONS: &str = "CREATE TABLE subscriptions (app_id text, subscription_id int, state varchar(20) NOT NULL, price numeric(6,2), \
                             trace text, PRIMARY KEY (app_id, subscription_id))";

/// The part of a configuration that serves a topic, with `more` in `[ingest]`.
fn gateway(topic: &str, more: &str) -> String {
    format!(
        "[[topic]]\nname = {topic:?}\ntable = \"subscriptions\"\ninsert_mode = \"upsert\"\npk_fields = [\"app_id\", \"subscription_id\"]\n\
         delete_enabled = true\nkey_format = \"{{app_id}}:{{subscription_id}}\"\n[topic.columns]\ntrace = \"@header:traceparent\"\n\
         [ingest]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{more}\n[[ingest.route]]\n\
         path = \"/apps/{{app_id}}/subscriptions/{{subscription_id}}\"\nmethods = [\"PUT\", \"PATCH\", \"DELETE\"]\ntopic = {topic:?}\n\
         key = \"{{app_id}}:{{subscription_id}}\"\nmode = \"async\"\n"
    )
}

fn shard(name: &str, dsn: &str, partitions: &str) -> String {
    let partitions = if partitions.is_empty() { String::new() } else { format!("partitions = {partitions:?}\n") };
    format!("[[shard]]\nname = {name:?}\ndsn = {dsn:?}\n{partitions}")
}

/// A running gateway.
struct Gate {
    process: Forebay,
    address: SocketAddr,
}

impl Gate {
    #[track_caller]
    fn start(rig: &Rig) -> Gate {
        Gate::of(rig.start_command("ingest", "forebay.toml", &[]))
    }

    #[track_caller]
    fn of(process: Forebay) -> Gate {
        let address = said(&process, "gateway: http://").parse().expect("an address");
        Gate { process, address }
    }

    fn client(&self) -> Client {
        Client::tcp(self.address)
    }

    #[track_caller]
    fn admin(&self) -> Admin {
        Admin::Tcp(said(&self.process, "admin side: http://"))
    }

    #[track_caller]
    fn metric(&self, series: &str) -> f64 {
        let text = self.admin().get("/metrics").body;
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("{series} is missing:\n{text}"));
        line.rsplit(' ').next().expect("a value").parse().expect("a number")
    }
}

/// What a process logged behind these words, up to a slash.
#[track_caller]
fn said(process: &Forebay, words: &str) -> String {
    let found = || {
        let log = process.log();
        let at = log.find(words)? + words.len();
        Some(log[at..].split('/').next()?.to_owned())
    };
    wait_until(PATIENCE, words, || found().is_some());
    found().expect("just seen")
}

/// A request as it goes over the wire.
fn request(method: &str, app: &str, subscription: &str, body: &str) -> String {
    let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    format!(
        "{method} /apps/{app}/subscriptions/{subscription} HTTP/1.1\r\nHost: gateway\r\n{json}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends it and reads the answer: its status, and whether the connection ends; none where it broke.
fn ask(stream: &mut TcpStream, text: &str) -> Option<(u16, bool)> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(text.as_bytes()).ok()?;
    let (mut found, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut bytes).ok().filter(|n| *n > 0)?;
        found.extend_from_slice(&bytes[..read]);
        let text = String::from_utf8_lossy(&found);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length: usize = head.split_once("Content-Length: ")?.1.split("\r\n").next()?.parse().ok()?;
        if body.len() >= length {
            return Some((head[9..12].parse().ok()?, head.contains("Connection: close")));
        }
    }
}

#[track_caller]
fn put(client: &mut Client, app: &str, subscription: i32, state: &str) -> Answer {
    client.send(request("PUT", app, &subscription.to_string(), &format!("{{\"state\":{state:?}}}")));
    client.answer()
}

#[track_caller]
fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

/// The keys of a topic's records, and their states; a null for those that delete.
fn published(topic: &Topic) -> Vec<(String, Option<String>)> {
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| String::from_utf8(bytes.clone()).expect("text"));
    let state = |value: String| {
        let value: Value = serde_json::from_str(&value).expect("JSON");
        value["state"].as_str().expect("a state").to_owned()
    };
    topic.records().iter().map(|record| (text(&record.key).expect("a key"), text(&record.value).map(state))).collect()
}
