//! A database of a test's own on one of the two clusters, gone when its guard is dropped.

use std::time::Duration;

use postgres::{Client, Config, NoTls};

use super::{HOW_TO_START, pg_dsn_a, pg_dsn_b, unique_name};

const CONNECT_SECONDS_MAX: u64 = 10;

/// Which of the two PostgreSQL clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    A,
    B,
}

impl Server {
    pub fn dsn(self) -> String {
        match self {
            Server::A => pg_dsn_a(),
            Server::B => pg_dsn_b(),
        }
    }

    fn connect(self) -> Client {
        open(&self.dsn()).unwrap_or_else(|e| panic!("PostgreSQL {self:?} does not answer ({e}): {HOW_TO_START}"))
    }
}

fn open(dsn: &str) -> Result<Client, String> {
    let mut config: Config = dsn.parse().map_err(|e| format!("{dsn}: {e}"))?;
    config.connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX)).application_name("forebay-test");
    // The driver's `Display` hides the cause.
    config.connect(NoTls).map_err(|e| match std::error::Error::source(&e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    })
}

/// An empty database with a unique name. Dropping it disconnects whoever is still in it and removes it.
pub struct Database {
    server: Server,
    name: String,
    dsn: String,
}

impl Database {
    /// Creates one; `prefix` begins its name (lower-case letters, digits and underscores).
    pub fn create(server: Server, prefix: &str) -> Database {
        let name = unique_name(prefix);
        server.connect().batch_execute(&format!("CREATE DATABASE \"{name}\"")).expect("creating a test's database");
        // The later of two `dbname` words counts.
        let dsn = format!("{} dbname={name}", server.dsn());
        Database { server, name, dsn }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection string for this database: `host=… port=… user=… dbname=…`.
    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    /// A new connection to it.
    pub fn connect(&self) -> Client {
        open(&self.dsn).unwrap_or_else(|e| panic!("connecting to {}: {e}", self.dsn))
    }

    /// Runs statements that return nothing, on a connection of their own.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        self.connect().batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Not through `connect`: a panic in here would hide the test's own, and abort.
        let dropped = open(&self.server.dsn()).and_then(|mut client| {
            client
                .batch_execute(&format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.name))
                .map_err(|e| format!("{e:?}"))
        });
        if let Err(e) = dropped {
            eprintln!("the test's database {} stays behind: {e}", self.name);
        }
    }
}

#[test]
fn a_database_is_there_until_its_guard_goes() {
    for server in [Server::A, Server::B] {
        let database = Database::create(server, "support");
        let name = database.name().to_owned();
        let mut inside = database.connect();
        let current: String = inside.query_one("SELECT current_database()::text", &[]).unwrap().get(0);
        assert_eq!(current, name);
        // An open connection must not keep it.
        drop(database);
        let left = server.connect().query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).unwrap();
        assert!(left.is_empty(), "{name} is still on {server:?}");
    }
}
