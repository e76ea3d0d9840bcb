//! A connection that is opened when it is needed and forgotten, with everything prepared on it, after an outage. Decides
//! nothing but that.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use postgres::types::Type;
use postgres::{Client, Error, Statement};

use crate::config::{Config, live};
use crate::sink::connect::{self, Connector};
use crate::sink::schema::{self, Expected};
use crate::sink::{Failure, Reason, sqlstate};
use crate::types::ShardIx;

/// Prepared statements kept per connection; then all are let go. Shapes beyond this are rare, and each costs the server memory.
const STATEMENTS_MAX: usize = 256;

/// See the module's text. `K` names the statements.
pub struct Session<K> {
    shard: String,
    /// Not there when the DSN cannot be used; then every call says why.
    connector: Result<Connector, Failure>,
    expected: Expected,
    follows: Option<Follows>,
    live: Option<Live<K>>,
}

/// A configuration that may be read again: what connections make sure of grows with it.
struct Follows {
    current: Arc<live::Live>,
    shard: ShardIx,
    version: u64,
}

/// An open connection and what is prepared on it.
pub struct Live<K> {
    pub statements: Statements<K>,
    pub client: Client,
    /// A transaction could not be ended: nothing more may be sent over it.
    pub unusable: bool,
}

impl<K: Hash + Eq> Session<K> {
    pub fn new(config: &Config, shard: ShardIx, thread: &str) -> Session<K> {
        let settings = &config.shards[usize::from(shard.0)];
        let connector = Connector::new(settings, &config.kafka.group_id, thread);
        Session {
            shard: settings.name.clone(),
            connector,
            expected: Expected::new(config, shard),
            follows: None,
            live: None,
        }
    }

    /// What is read again holds for its connections, too, the open one included.
    pub fn follow(&mut self, current: Arc<live::Live>, shard: ShardIx) {
        let version = current.version();
        self.expected = Expected::new(&current.get(), shard);
        self.follows = Some(Follows { current, shard, version });
    }

    /// Before a record of a tenant that is new is written, its map is one that the database lets in.
    fn catch_up(&mut self) -> Result<(), Failure> {
        let Some(follows) = &mut self.follows else { return Ok(()) };
        let version = follows.current.version();
        if std::mem::replace(&mut follows.version, version) == version {
            return Ok(());
        }
        self.expected = Expected::new(&follows.current.get(), follows.shard);
        let Some(live) = &mut self.live else { return Ok(()) };
        schema::claim_map(&mut live.client, &self.expected).map_err(|failure| {
            self.close();
            self.named(failure)
        })
    }

    /// The connection, opened where there is none. Says whether it is new.
    pub fn open(&mut self) -> Result<(&mut Live<K>, bool), Failure> {
        // A connection that the server closed while nobody looked fails before a statement does.
        if self.live.as_ref().is_some_and(|live| live.unusable || live.client.is_closed()) {
            self.close();
        }
        self.catch_up()?;
        let fresh = self.live.is_none();
        if fresh {
            let connector = self.connector.as_mut().map_err(|failure| failure.clone())?;
            let client = schema::connect(connector, &self.expected).map_err(|failure| self.named(failure))?;
            self.live = Some(Live { client, statements: Statements::new(), unusable: false });
        }
        match &mut self.live {
            Some(live) => Ok((live, fresh)),
            None => unreachable!("opened above"),
        }
    }

    /// Whether the database takes new connections, and writes on them. One that is open says nothing about that.
    pub fn probe(&mut self) -> Result<(), Failure> {
        let probed = match &self.live {
            None => self.open().map(drop),
            Some(_) => match &mut self.connector {
                Ok(connector) => schema::connect(connector, &self.expected).map(connect::discard),
                Err(failure) => Err(failure.clone()),
            },
        };
        probed.map_err(|failure| self.named(failure))
    }

    /// Looks at a failure on its way up: after an outage, or one of the shard, nothing of this connection is used again.
    pub fn settle<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| {
            if matches!(failure, Failure::Outage(_) | Failure::Shard(_)) {
                self.close();
            }
            self.named(failure)
        })
    }

    /// Lets the connection go without waiting for the server.
    pub fn close(&mut self) {
        if let Some(Live { client, statements, .. }) = self.live.take() {
            drop(statements);
            connect::discard(client);
        }
    }

    /// Puts the shard's name in front of what is about the shard.
    fn named(&self, failure: Failure) -> Failure {
        let prefix = format!("shard {:?}: ", self.shard);
        let name = |mut reason: Reason| {
            if !reason.text.starts_with(&prefix) {
                reason.text.insert_str(0, &prefix);
            }
            reason
        };
        match failure {
            Failure::Outage(reason) => Failure::Outage(name(reason)),
            Failure::Shard(reason) => Failure::Shard(name(reason)),
            other => other,
        }
    }
}

impl<K> Drop for Session<K> {
    fn drop(&mut self) {
        if let Some(Live { client, statements, .. }) = self.live.take() {
            drop(statements);
            connect::discard(client);
        }
    }
}

/// The statements prepared on one connection.
pub struct Statements<K>(HashMap<K, Statement>);

impl<K: Hash + Eq> Statements<K> {
    fn new() -> Statements<K> {
        Statements(HashMap::new())
    }

    /// The statement of that name, prepared now if it was not; `make` gives its text and the types of its parameters (the
    /// server infers those that are left out).
    pub fn get(
        &mut self,
        client: &mut Client,
        name: K,
        make: impl FnOnce() -> (String, Vec<Type>),
    ) -> Result<Statement, Error> {
        if let Some(statement) = self.0.get(&name) {
            return Ok(statement.clone());
        }
        if self.0.len() >= STATEMENTS_MAX {
            self.0.clear();
        }
        let (sql, types) = make();
        let statement = client.prepare_typed(&sql, &types)?;
        self.0.insert(name, statement.clone());
        Ok(statement)
    }

    /// Forgets what matches.
    pub fn forget(&mut self, which: impl Fn(&K) -> bool) {
        self.0.retain(|name, _| !which(name));
    }
}

/// What a failed statement means that uses none but forebay's own tables. If they are not there or look otherwise, the
/// database fell back or somebody changed them: a new connection finds out which. Anything else that would stop a topic is
/// about the shard.
pub fn own_failure(error: &Error) -> Failure {
    let missing = error.code().is_some_and(|c| ["42P01", "42703", "3F000"].contains(&c.code()));
    match sqlstate::failure(error) {
        failure if missing || sqlstate::is_stale_statement(error) => Failure::Outage(failure.reason().clone()),
        Failure::Topic(reason) | Failure::Record(_, reason) => Failure::Shard(reason),
        other => other,
    }
}
