//! The demonstration's configuration: a file as a user would write it, read as a user's is, and the table behind it.

use std::path::Path;

use crate::config::Config;
use crate::config::load;
use crate::demo::{DemoError, GROUP, TABLE, TOPIC};

/// The table. Its trigger refuses every step back: should a record be applied again behind a later one of its row, or two
/// in the wrong order, PostgreSQL raises an error and the topic stops.
pub const TABLE_SQL: &str = "
CREATE TABLE subscriptions (
  app_id uuid NOT NULL,
  subscription_id uuid NOT NULL,
  country text,
  device text,
  sessions int NOT NULL,
  updated_at timestamptz NOT NULL,
  tags jsonb,
  version bigint NOT NULL,       -- counts the updates of the row, from 1
  PRIMARY KEY (app_id, subscription_id)
);
CREATE FUNCTION refuse_step_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'version % of a row after version %', NEW.version, OLD.version;
END $$;
CREATE TRIGGER no_step_back BEFORE UPDATE ON subscriptions FOR EACH ROW
  WHEN (NEW.version <= OLD.version) EXECUTE FUNCTION refuse_step_back();
";

/// The file's text, with `more` behind `[kafka]`.
fn text(bootstrap: &str, dsn: &str, more: &str) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    format!(
        r#"[kafka]
"bootstrap.servers" = {}
"group.id" = "{GROUP}"
{more}
[[shard]]
name = "demo"
dsn = {}

[[topic]]
name = "{TOPIC}"
table = "{TABLE}"
insert_mode = "upsert"
pk_fields = ["app_id", "subscription_id"]
delete_enabled = true
key_format = "{{app_id}}:{{subscription_id}}"
"#,
        quoted(bootstrap),
        quoted(dsn)
    )
}

/// What the engine runs with. Progress is stored often, because the publisher waits for it. A fetch that finds nothing waits
/// briefly: a broker answers as soon as there is something, the mock cluster only when the time is over
/// (rd_kafka_mock_handle_Fetch in librdkafka's rdkafka_mock_handlers.c).
pub fn running(bootstrap: &str, dsn: &str) -> Result<Config, DemoError> {
    let text = text(bootstrap, dsn, "\"fetch.wait.max.ms\" = 2\n\n[engine]\ncommit_interval_ms = 100\n");
    let loaded = load::parse(Path::new("demo.toml"), &text, &|_| None);
    loaded.map(|loaded| loaded.config).map_err(|problems| DemoError::Failed(problems.to_string()))
}

/// A file for `--keep`: the mock cluster ends with the process, so another broker belongs in it.
pub fn kept(dsn: &str) -> String {
    let note = "# The demonstration's broker is gone; name one of yours, with this topic.\n";
    format!("{note}{}", text("127.0.0.1:9092", dsn, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_valid() {
        running("127.0.0.1:1", "host=/tmp/x user=forebay dbname=demo").unwrap();
        let kept = kept("host=/tmp/x user=forebay dbname=demo");
        load::parse(Path::new("forebay.toml"), &kept, &|_| None).unwrap();
    }
}
