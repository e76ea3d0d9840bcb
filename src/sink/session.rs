//! A connection that is opened when it is needed and forgotten, with everything prepared on it, after an outage; and how its
//! statements reach the server: under a name, or, where a pooler deals the server's connections out transaction by transaction,
//! without one. Decides nothing but that.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{ToSql, Type};
use postgres::{Client, Error, GenericClient, Row, Statement};

use crate::config::{Config, Pooler, live};
use crate::sink::backends::{Backends, Known};
use crate::sink::cancel::Cancel;
use crate::sink::connect::{Connector, Opened};
use crate::sink::schema::{self, Expected};
use crate::sink::watch::Watch;
use crate::sink::{Failure, Reason, sqlstate};
use crate::types::ShardIx;

/// Statements kept per connection; then all are let go. Shapes beyond this are rare, and each costs the server memory.
const STATEMENTS_MAX: usize = 256;
/// A connection that was used since then is not looked at: a look costs more than the little that it could save.
const RESTED: Duration = Duration::from_millis(100);
/// How long is waited for what may have come meanwhile.
const LOOK: Duration = Duration::from_millis(1);
/// PostgreSQL ends what takes too long; beyond it, its answer may be so late.
const LATE_ANSWER: Duration = Duration::from_secs(2);

/// See the module's text. `K` names the statements.
pub struct Session<K> {
    shard: String,
    thread: String,
    /// Who is told which of the server's processes serves this.
    backends: Option<Arc<Backends>>,
    /// Only to look with: how long an answer may take.
    looks: Option<Duration>,
    /// Not there when the DSN cannot be used; then every call says why.
    connector: Result<Connector, Failure>,
    expected: Expected,
    pooler: Pooler,
    follows: Option<Follows>,
    lock_wait: Option<Duration>,
    avoids_scans: bool,
    /// How many connections were opened.
    opened: u64,
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
    watch: Option<Watch>,
    /// Cancels what it is at.
    pub cancel: Arc<Cancel>,
    /// When it was used last.
    used: Instant,
    /// See [`Session::wait_for_locks`].
    lock_wait: Option<Duration>,
    /// A transaction could not be ended: nothing more may be sent over it.
    pub unusable: bool,
    /// While it is here others may know of it.
    pub known: Option<Known>,
}

impl<K> Live<K> {
    /// Where there is nothing but a scan, its prohibitive price must not have it compiled as well.
    fn avoid_scans(&mut self) -> Result<(), Failure> {
        let sql = "SET enable_seqscan = off; SET jit = off";
        self.client.batch_execute(sql).map_err(|error| own_failure(&error))
    }

    fn answer_within(&mut self, at_most: Duration, pooler: Pooler) -> Result<(), Failure> {
        self.silent_for(at_most);
        if pooler == Pooler::Transaction {
            return Ok(());
        }
        let (ms, sql) = (at_most.as_millis(), "SET jit = off; SET default_transaction_read_only = on");
        let sql = format!("{sql}; SET statement_timeout = {ms}; SET lock_timeout = {ms}");
        self.client.batch_execute(&sql).map_err(|error| own_failure(&error))
    }

    /// Over it nothing may be silent for longer, where somebody waits.
    pub fn silent_for(&self, at_most: Duration) {
        self.watch.iter().for_each(|watch| watch.allow(at_most + LATE_ANSWER));
    }

    fn wait_for_locks(&mut self, at_most: Option<Duration>) -> Result<(), Failure> {
        if self.lock_wait == at_most {
            return Ok(());
        }
        let sql = match at_most {
            // What the connection began with is 0 where there is no limit.
            Some(most) => format!(
                "SELECT set_config('lock_timeout', least(nullif(reset_val::bigint, 0), {})::text, false) \
                 FROM pg_settings WHERE name = 'lock_timeout'",
                most.as_millis()
            ),
            None => "RESET lock_timeout".to_owned(),
        };
        self.client.batch_execute(&sql).map_err(|error| own_failure(&error))?;
        self.lock_wait = at_most;
        Ok(())
    }

    fn discard(self) {
        let Live { client, statements, watch, cancel, .. } = self;
        drop(statements);
        Opened { client, watch, cancel, direct: false, pid: None }.discard();
    }
}

impl<K: Hash + Eq> Session<K> {
    pub fn new(config: &Config, shard: ShardIx, thread: &str) -> Session<K> {
        let settings = &config.shards[usize::from(shard.0)];
        let connector = Connector::new(settings, &config.kafka.group_id, thread);
        let expected = Expected::new(config, shard);
        let (shard, pooler) = (settings.name.clone(), settings.pooler);
        Session {
            shard,
            thread: thread.to_owned(),
            backends: None,
            looks: None,
            connector,
            expected,
            pooler,
            follows: None,
            lock_wait: None,
            avoids_scans: false,
            opened: 0,
            live: None,
        }
    }

    /// Tells `backends` of the connection that is open.
    pub fn known_to(&mut self, backends: &Arc<Backends>) {
        self.backends = Some(Arc::clone(backends));
    }

    /// Its connections need not lead to a server that takes writes, nor to one that has forebay's tables. A statement takes no longer
    /// than `at_most` where the session is ours; behind a pooler whoever sends one says so. What is silent for little longer is cut.
    pub fn only_looks(&mut self, at_most: Duration) {
        self.looks = Some(at_most);
    }

    /// What is read again holds for its connections, too, the open one included.
    pub fn follow(&mut self, current: Arc<live::Live>, shard: ShardIx) {
        let version = current.version();
        self.expected = Expected::new(&current.get(), shard);
        self.follows = Some(Follows { current, shard, version });
    }

    /// How long whatever is sent from now on waits for a lock at most; none, or longer than the connection's own `lock_timeout`:
    /// that. Behind a pooler that one always holds: nothing is set there.
    pub fn wait_for_locks(&mut self, at_most: Option<Duration>) {
        self.lock_wait = at_most.filter(|_| self.pooler == Pooler::None);
    }

    /// Statements go straight to the rows that they name, whatever the planner believes a table's size to be when it plans them once
    /// for all. Says whether that can be had: a pooler's sessions are not ours.
    pub fn avoid_scans(&mut self) -> bool {
        self.avoids_scans = self.pooler == Pooler::None;
        self.avoids_scans
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

    /// The connection, opened where there is none. Says whether it is new. It is watched until [`settle`](Session::settle).
    pub fn open(&mut self) -> Result<(&mut Live<K>, bool), Failure> {
        // A connection that the server closed while nobody looked fails before a statement does.
        if self.live.as_ref().is_some_and(|live| live.unusable || live.client.is_closed()) {
            self.close();
        }
        if let Some(Live { watch: Some(watch), .. }) = &self.live {
            watch.begin();
        }
        self.catch_up()?;
        let fresh = self.live.is_none();
        if fresh {
            let connector = self.connector.as_mut().map_err(|failure| failure.clone())?;
            let opened = match self.looks {
                None => schema::connect(connector, &self.expected),
                Some(_) => connector.open(),
            };
            let Opened { client, watch, cancel, pid, .. } = opened.map_err(|failure| self.named(failure))?;
            let statements = Statements::new(self.pooler);
            let known = self.backends.as_ref().map(|backends| Backends::add(backends, &self.thread, pid));
            let used = Instant::now();
            let mut live = Live { client, statements, watch, cancel, used, lock_wait: None, unusable: false, known };
            let set = match self.looks {
                Some(at_most) => live.answer_within(at_most, self.pooler),
                None if self.avoids_scans => live.avoid_scans(),
                None => Ok(()),
            };
            self.live = Some(live);
            if let Err(failure) = set {
                self.close();
                return Err(self.named(failure));
            }
            self.opened += 1;
        }
        match &mut self.live {
            Some(live) => {
                live.watch.iter().for_each(Watch::begin);
                live.wait_for_locks(self.lock_wait)?;
                Ok((live, fresh))
            }
            None => unreachable!("opened above"),
        }
    }

    /// Lets go of a connection that has ended while nobody used it: the next statement over it would fail, and nobody would know whether
    /// it was done. Only one that has rested is looked at, and none is asked anything: that would be a transaction.
    pub fn look(&mut self) {
        let Some(live) = self.live.as_mut().filter(|live| live.used.elapsed() >= RESTED) else { return };
        if live.watch.as_ref().is_some_and(Watch::is_quiet) {
            return;
        }
        // A farewell, perhaps; or nobody can see its socket, as those of the Unix domain. It is read, where there is one.
        if live.client.notifications().timeout_iter(LOOK).next().is_err() || live.client.is_closed() {
            self.close();
        }
    }

    pub fn is_open(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.unusable && !live.client.is_closed())
    }

    /// Nothing was sent over what [`open`](Session::open) opened, and nobody waits.
    pub fn rest(&self) {
        self.live.iter().filter_map(|live| live.watch.as_ref()).for_each(Watch::end);
    }

    /// The number of the connection that was opened last, from 1.
    pub fn number(&self) -> u64 {
        self.opened
    }

    /// Whether the database takes new connections, and writes on them. One that is open says nothing about that.
    pub fn probe(&mut self) -> Result<(), Failure> {
        let probed = match &self.live {
            None => self.open().map(drop),
            Some(_) => match &mut self.connector {
                Ok(connector) => schema::connect(connector, &self.expected).map(Opened::discard),
                Err(failure) => Err(failure.clone()),
            },
        };
        probed.map_err(|failure| self.named(failure))
    }

    /// Ends what [`open`](Session::open) began, and looks at a failure on its way up: after an outage, or one of the shard,
    /// nothing of this connection is used again.
    pub fn settle<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        self.live.iter_mut().for_each(|live| live.used = Instant::now());
        let watch = self.live.as_ref().and_then(|live| live.watch.as_ref());
        watch.inspect(|watch| watch.end());
        let cut = watch.and_then(Watch::was_cut);
        result.map_err(|failure| {
            let failure = match (failure, cut) {
                (Failure::Outage(_), Some(silence)) => {
                    Failure::Outage(Reason::new(format!("no answer for {silence:?}: the connection was cut")))
                }
                (failure, _) => failure,
            };
            if matches!(failure, Failure::Outage(_) | Failure::Shard(_)) {
                self.close();
            }
            self.named(failure)
        })
    }

    /// Lets the connection go without waiting for the server.
    pub fn close(&mut self) {
        self.live.take().into_iter().for_each(Live::discard);
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
        self.live.take().into_iter().for_each(Live::discard);
    }
}

/// A statement that can be run on the connection it was made for, and within a transaction of it.
#[derive(Clone)]
pub enum Ready {
    /// Prepared under a name: the server keeps it, and may come to plan it once for all parameters.
    Named(Statement),
    /// Sent whole each time, in the same single round trip: planned for its parameters, kept by nobody.
    Unnamed(Arc<Text>),
}

/// A statement's text and the types of its parameters, all of them.
pub struct Text {
    pub sql: String,
    pub types: Vec<Type>,
}

impl Text {
    /// The parameters with their types.
    fn typed<'a>(&self, params: &[Param<'a>]) -> Vec<(Param<'a>, Type)> {
        assert_eq!(self.types.len(), params.len(), "parameters of {}", self.sql);
        params.iter().copied().zip(self.types.iter().cloned()).collect()
    }
}

/// A parameter.
pub type Param<'a> = &'a (dyn ToSql + Sync);

impl Ready {
    pub fn unnamed(text: Text) -> Ready {
        Ready::Unnamed(Arc::new(text))
    }

    pub fn query(&self, on: &mut impl GenericClient, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        match self {
            Ready::Named(statement) => on.query(statement, params),
            Ready::Unnamed(text) => on.query_typed(&text.sql, &text.typed(params)),
        }
    }

    pub fn query_one(&self, on: &mut impl GenericClient, params: &[Param<'_>]) -> Result<Row, Error> {
        match self {
            Ready::Named(statement) => on.query_one(statement, params),
            Ready::Unnamed(text) => on.query_typed_one(&text.sql, &text.typed(params)),
        }
    }

    pub fn query_opt(&self, on: &mut impl GenericClient, params: &[Param<'_>]) -> Result<Option<Row>, Error> {
        match self {
            Ready::Named(statement) => on.query_opt(statement, params),
            Ready::Unnamed(text) => on.query_typed_opt(&text.sql, &text.typed(params)),
        }
    }

    pub fn execute(&self, on: &mut impl GenericClient, params: &[Param<'_>]) -> Result<u64, Error> {
        match self {
            Ready::Named(statement) => on.execute(statement, params),
            Ready::Unnamed(text) => on.execute_typed(&text.sql, &text.typed(params)),
        }
    }
}

/// The statements of one connection.
pub struct Statements<K> {
    /// Whether names last from one transaction to the next.
    pooler: Pooler,
    ready: HashMap<K, Ready>,
}

impl<K: Hash + Eq> Statements<K> {
    fn new(pooler: Pooler) -> Statements<K> {
        Statements { pooler, ready: HashMap::new() }
    }

    /// The statement of that name, prepared now if it was not, unless a pooler would lose it. `make` gives its text and the
    /// types of all its parameters.
    pub fn get(&mut self, client: &mut Client, name: K, make: impl FnOnce() -> Text) -> Result<Ready, Error> {
        if let Some(ready) = self.ready.get(&name) {
            return Ok(ready.clone());
        }
        let text = make();
        let ready = match self.pooler {
            Pooler::None => Ready::Named(client.prepare_typed(&text.sql, &text.types)?),
            Pooler::Transaction => Ready::unnamed(text),
        };
        Ok(self.keep(name, ready))
    }

    fn keep(&mut self, name: K, ready: Ready) -> Ready {
        if self.ready.len() >= STATEMENTS_MAX {
            self.ready.clear();
        }
        self.ready.insert(name, ready.clone());
        ready
    }

    /// Forgets what matches.
    pub fn forget(&mut self, which: impl Fn(&K) -> bool) {
        self.ready.retain(|name, _| !which(name));
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
