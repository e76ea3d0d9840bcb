//! Account balances with an audit row for every transfer, by a [`Handler`]: what no upsert can do, because a balance depends
//! on the one before, and a transfer that were applied twice, or not at all, would be wrong for ever.
//!
//! What is guaranteed, and by what:
//! - **Exactly once**: forebay's COMMIT makes the balance, the audit row, and the *fence* that says "applied up to here"
//!   durable together. After a crash, a lost answer or a rebalance the fence decides what is still to be done; neither the
//!   handler nor the audit table needs a key against duplicates.
//! - **In order**: transfers are published with their account as the key, so those of one account come in offset order.
//! - **Nothing skipped**: a transfer that would overdraw its account is the record's fault ([`HandlerError::record`]). It
//!   would become a dead letter; with `policy = "stop"`, as here, its topic stops with a message that names it, and neither it
//!   nor what is behind it is lost. Once the cause is gone, the next run goes on there.
//!
//! What is not: what a handler does outside its transaction (a mail, a call to another service) may happen again.
//!
//! ```text
//! bin/services up && cargo run --release --example accounts
//! ```

pub mod support;

use std::io::Write;
use std::path::Path;
use std::str;

use forebay::config::load;
use forebay::engine::{Engine, Options, Outcome, Stopper};
use forebay::sink::handler::{Handler, HandlerError};
use forebay::state::chunk::RecordRef;
use postgres::{Client, NoTls, Transaction};
use serde::Deserialize;

use support::{Place, Result, Topic};

const TABLES: &str = "
CREATE TABLE account (name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0));
CREATE TABLE audit (
  id bigint GENERATED ALWAYS AS IDENTITY,
  account text NOT NULL,
  change bigint NOT NULL,
  cents bigint NOT NULL,         -- the balance behind this change
  reason text NOT NULL
);
INSERT INTO account VALUES ('ada', 0), ('grace', 0), ('linus', 0);
";

/// No row comes back if there is no such account, or not enough in it.
const APPLY: &str = "
WITH moved AS (
  UPDATE account SET cents = cents + $2 WHERE name = $1 AND cents + $2 >= 0 RETURNING cents
)
INSERT INTO audit (account, change, cents, reason) SELECT $1, $2, cents, $3 FROM moved";

/// A record's value; its key is the account.
#[derive(Deserialize)]
struct Transfer {
    cents: i64,
    reason: String,
}

/// Applies transfers. It keeps nothing between calls; one belongs to each worker.
struct Ledger;

impl Handler for Ledger {
    fn handle(
        &mut self,
        transaction: &mut Transaction<'_>,
        records: &[RecordRef<'_>],
    ) -> std::result::Result<(), HandlerError> {
        let apply = transaction.prepare(APPLY)?;
        for (index, record) in records.iter().enumerate() {
            let bad = |reason: String| HandlerError::record(index, reason);
            let account = record.key.and_then(|key| str::from_utf8(key).ok());
            let account = account.ok_or_else(|| bad("the key is not the name of an account".to_owned()))?;
            let transfer: Transfer = serde_json::from_slice(record.value.unwrap_or_default())
                .map_err(|e| bad(format!("no transfer: {e}")))?;
            let rows = transaction.execute(&apply, &[&account, &transfer.cents, &transfer.reason])?;
            if rows == 0 {
                return Err(bad(format!("{account} has not got {} cents for {:?}", -transfer.cents, transfer.reason)));
            }
        }
        Ok(())
    }
}

/// Runs the ledger until everything published is applied, or the topic has stopped.
fn apply(place: &Place, topic: &Topic) -> Result<Outcome> {
    let text = format!(
        r#"[kafka]
"bootstrap.servers" = "{}"
"group.id" = "accounts-{}"
[[shard]]
name = "bank"
dsn = "{}"
[[topic]]
name = "{}"
handler = true
[topic.on_bad_record]
policy = "stop"
"#,
        place.bootstrap, place.suffix, place.dsn, topic.name
    );
    let loaded = load::parse(Path::new("accounts.toml"), &text, &|_| None)?;
    let engine = Engine::new(loaded.config).handle(&topic.name, || Ledger)?;
    Ok(engine.run(Options { until_end: true, ..Options::default() }, &Stopper::default())?)
}

fn transfer(account: &str, cents: i64, reason: &str) -> (String, String) {
    (account.to_owned(), serde_json::json!({ "cents": cents, "reason": reason }).to_string())
}

/// The whole story, told to `out`.
pub fn show(place: &Place, out: &mut impl Write) -> Result<()> {
    let mut client = Client::connect(&place.dsn, NoTls)?;
    client.batch_execute(TABLES)?;
    let topic = Topic::create(place, "transfers", 4)?;

    let salaries = ["ada", "grace", "linus"].map(|name| transfer(name, 250_000, "salary"));
    let rents =
        (1..=3).flat_map(|month| ["ada", "grace"].map(|name| transfer(name, -70_000, &format!("rent {month}"))));
    topic.publish(salaries.into_iter().chain(rents))?;
    let outcome = apply(place, &topic)?;
    writeln!(out, "applied; topics that stopped: {}", outcome.stopped.len())?;
    audit(&mut client, out)?;

    topic.publish([transfer("ada", -50_000, "a bicycle"), transfer("ada", -10_000, "its lock")])?;
    for (_, reason) in apply(place, &topic)?.stopped {
        writeln!(out, "stopped: {reason}")?;
    }
    writeln!(out, "an overdraft changes nothing, and nothing behind it overtakes it:")?;
    audit(&mut client, out)?;

    // By hand, outside of Kafka; the topic's records still wait where they are.
    client.execute("UPDATE account SET cents = cents + 100000 WHERE name = 'ada'", &[])?;
    let outcome = apply(place, &topic)?;
    writeln!(out, "after a deposit it goes on; topics that stopped: {}", outcome.stopped.len())?;
    audit(&mut client, out)
}

fn audit(client: &mut Client, out: &mut impl Write) -> Result<()> {
    let rows = client.query("SELECT account, change, cents, reason FROM audit ORDER BY account, id", &[])?;
    for row in rows {
        let (account, change, cents, reason): (&str, i64, i64, &str) = (row.get(0), row.get(1), row.get(2), row.get(3));
        writeln!(out, "  {account:<6} {change:>8} → {cents:>7}  {reason}")?;
    }
    Ok(())
}

fn main() -> Result<()> {
    show(&Place::of_its_own("example_accounts")?, &mut std::io::stdout())
}
