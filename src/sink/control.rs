//! The control connection of a shard: who owns a partition, how far it is, and which incarnation of a topic it is about.
//! Writes no rows of the user's, and never decides what follows from an answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postgres::types::Type;
use postgres::{Client, Error, IsolationLevel, Row, Transaction};

use crate::config::Config;
use crate::sink::backends::Backends;
use crate::sink::fence::Sql;
use crate::sink::postgres::OwnRows;
use crate::sink::replicas::{self, Positions, Replicas};
use crate::sink::session::{Live, Param, Ready, Session, Text, own_failure};
use crate::sink::{
    Anchor, Control, Failure, Identity, OldestParked, Progress, Reason, Replica, Taken, Takeover, fence, parked,
};
use crate::state::holds::Decided;
use crate::state::parked::Why;
use crate::state::replica::Position;
use crate::types::{KEY_BYTES_MAX, Lane, NextOffset, Offset, ShardIx, TopicIx};

/// Bytes of a parked key that are asked for.
const OLDEST_KEY_BYTES: i32 = KEY_BYTES_MAX as i32;

/// Statements are named by their text.
type Name = &'static str;

/// See the module's text. Connects when first used; an outage makes the next call connect again.
pub struct PostgresControl {
    config: Arc<Config>,
    ids: Arc<OwnRows>,
    session: Session<Name>,
    /// What the brokers say of each topic, as last heard: a takeover or a new connection compares it again.
    identities: HashMap<TopicIx, Identity>,
    taken_by: String,
    /// The connection over which progress was stored last.
    progress_over: u64,
    /// Where they have a say in what is committed to Kafka.
    replicas: Option<Replicas>,
}

impl PostgresControl {
    pub fn new(config: Arc<Config>, shard: ShardIx, ids: Arc<OwnRows>) -> PostgresControl {
        let session = Session::new(&config, shard, "control");
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let taken_by = format!("{host} pid {}", std::process::id());
        let settings = &config.shards[usize::from(shard.0)];
        let replicas = settings.commit_gate.clone().map(|gate| Replicas::new(gate, &settings.name));
        PostgresControl { config, ids, session, identities: HashMap::new(), taken_by, progress_over: 0, replicas }
    }

    /// Tells which of the server's processes serves it, and whose locks it meets.
    pub fn known_to(mut self, backends: &Arc<Backends>) -> PostgresControl {
        self.session.known_to(backends);
        self
    }

    /// Takes over what reloads of the configuration.
    pub fn following(mut self, live: Arc<crate::config::live::Live>, shard: ShardIx) -> PostgresControl {
        self.session.follow(live, shard);
        self
    }

    /// The topic's number, looked up and registered where nobody did, and its identity compared.
    fn resolve(&mut self, topic: TopicIx) -> Result<i32, Failure> {
        let Some(identity) = self.identities.get(&topic) else {
            return Err(self.broken(topic, "it was taken over before anyone asked where it stands (locate)".to_owned()));
        };
        let name = &self.config.topics[usize::from(topic.0)].name;
        let (live, _) = self.session.open()?;
        let id = source(live, &self.config.kafka.group_id, name, identity)?;
        self.ids.set(topic, id);
        Ok(id)
    }

    /// A rule of the protocol is broken: nothing may go on with this topic until a person has looked.
    fn broken(&self, topic: TopicIx, what: String) -> Failure {
        Failure::Topic(Reason::new(format!("topic {:?}: {what}", self.config.topics[usize::from(topic.0)].name)))
    }

    fn located(&mut self, topic: TopicIx, partitions: &[i32]) -> Result<Vec<Option<Anchor>>, Failure> {
        let source = self.resolve(topic)?;
        let (live, _) = self.session.open()?;
        let rows = live.query(&fence::LOCATE, &[&source, &partitions])?;
        let anchors: HashMap<i32, Anchor> = rows
            .iter()
            .map(|row| (row.get(0), Anchor { origin: NextOffset(row.get(1)), done: NextOffset(row.get(2)) }))
            .collect();
        Ok(partitions.iter().map(|partition| anchors.get(partition).copied()).collect())
    }

    fn taken(&mut self, takeover: &Takeover) -> Result<Taken, Failure> {
        let topic = takeover.at.topic;
        // Always afresh: after a fall behind a pooler the number may be another topic's.
        let source = self.resolve(topic)?;
        let (live, _) = self.session.open()?;
        let statements = TakeoverStatements::prepare(live).map_err(|e| own_failure(&e))?;
        let mut transaction = begin(&mut live.client)?;
        match take(&mut transaction, &statements, source, takeover, &self.taken_by) {
            Ok(taken) => {
                // A lost answer leaves it open whether the partition is ours; the next attempt, with the same token, finds out.
                transaction.commit().map_err(|e| own_failure(&e))?;
                Ok(taken)
            }
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Broken(what)) => {
                drop(transaction);
                Err(self.broken(topic, format!("partition {}: {what}", takeover.at.partition)))
            }
        }
    }

    fn progressed(&mut self, topic: TopicIx, of: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure> {
        // A connection over which no progress was stored yet, whoever opened it, may lead to a database that fell back.
        self.session.open()?;
        let this = self.session.number();
        let fresh = std::mem::replace(&mut self.progress_over, this) != this;
        let source = match self.ids.get(topic) {
            known if known != 0 && !fresh => known,
            _ => self.resolve(topic)?,
        };
        let (live, _) = self.session.open()?;
        let partitions: Vec<i32> = of.iter().map(|p| p.partition).collect();
        let tokens: Vec<i64> = of.iter().map(|p| p.token.0).collect();
        let done: Vec<i64> = of.iter().map(|p| p.done.0).collect();
        let believed = of.iter().flat_map(|p| p.fences.iter().enumerate().map(move |(lane, next)| (p, lane, next)));
        let (mut of_partition, mut lanes, mut next_offsets) = (Vec::new(), Vec::new(), Vec::new());
        let mut of_token = Vec::new();
        for (progress, lane, next) in believed {
            of_partition.push(progress.partition);
            lanes.push(smallint(lane));
            next_offsets.push(next.0);
            of_token.push(progress.token.0);
        }
        let asked: [Param<'_>; 8] =
            [&source, &partitions, &tokens, &done, &of_partition, &lanes, &next_offsets, &of_token];
        let rows = live.query(&fence::PROGRESS, &asked)?;
        let stored: Vec<(i32, NextOffset)> = rows.iter().map(|row| (row.get(0), NextOffset(row.get(1)))).collect();
        let Some(replicas) = &mut self.replicas else { return Ok(stored) };
        if fresh {
            replicas.forget();
        }
        // Behind the progress, which is committed by now.
        let (names, enough) = replicas.params();
        let positions = live.query(&replicas::POSITIONS, &[&names, &enough])?;
        let positions = positions.first().ok_or_else(|| Failure::Transient(Reason::new("no position in the log")))?;
        let name = &self.config.topics[usize::from(topic.0)].name;
        Ok(replicas.pass((topic, name), of, &stored, &Positions::new(positions)))
    }
}

impl PostgresControl {
    fn ask_for_oldest_parked(&mut self, topic: TopicIx, partitions: &[i32]) -> Result<Vec<OldestParked>, Failure> {
        let source = self.ids.get(topic);
        let (live, _) = self.session.open()?;
        let params: [(Param<'_>, Type); 3] =
            [(&source, Type::INT4), (&partitions, Type::INT4_ARRAY), (&OLDEST_KEY_BYTES, Type::INT4)];
        let rows = live.client.query_typed(parked::OLDEST, &params).map_err(|error| own_failure(&error))?;
        let oldest = |row: &Row| OldestParked {
            partition: row.get(0),
            offset: Offset(row.get(1)),
            timestamp_ms: row.get(2),
            key: row.get(3),
            why: Why::of_letter(row.get::<_, i8>(4) as u8 as char),
            dead: row.get::<_, i8>(5) as u8 == b'd',
            attempts: row.get::<_, i32>(6).max(0) as u32,
            sqlstate: row.get(7),
        };
        Ok(rows.iter().map(oldest).collect())
    }

    fn asked_what_is_decided(&mut self, topic: TopicIx) -> Result<Decided, Failure> {
        let source = self.ids.get(topic);
        let (live, _) = self.session.open()?;
        let rows = live.query(&parked::DECIDED, &[&source])?;
        let mut decided = Decided::default();
        for row in &rows {
            decided.letters = row.get(0);
            match (row.get::<_, Option<i8>>(1).map(|scope| scope as u8), row.get(2)) {
                (Some(b't'), Some(tenant)) => decided.holds.hold_tenant(tenant),
                (Some(_), Some(key)) => decided.holds.hold_key(&key),
                _ => {}
            }
        }
        Ok(decided)
    }
}

impl PostgresControl {
    fn replica_seen(&mut self, name: &str) -> Result<Replica, Failure> {
        let (live, _) = self.session.open()?;
        let rows = live.query(&REPLICA, &[&name])?;
        let [row] = &rows[..] else { unreachable!("aggregates without groups are one row") };
        let bytes = |column: usize| row.get::<_, Option<i64>>(column).map(|n| n.max(0) as u64);
        Ok(match (bytes(1), bytes(2)) {
            (Some(written), Some(replayed)) => {
                Replica::At(Position { written, replayed, measured: bytes(3).map(Duration::from_millis) })
            }
            _ if row.get(0) => Replica::Gone,
            _ => Replica::Hidden,
        })
    }
}

impl Control for PostgresControl {
    fn probe(&mut self) -> Result<(), Failure> {
        let result = self.session.probe();
        self.session.settle(result)
    }

    fn locate(
        &mut self,
        topic: TopicIx,
        identity: &Identity,
        partitions: &[i32],
    ) -> Result<Vec<Option<Anchor>>, Failure> {
        // Remembered even if nobody answers now: a takeover may be the first call that gets through.
        self.identities.insert(topic, identity.clone());
        let result = self.located(topic, partitions);
        self.session.settle(result)
    }

    fn takeover(&mut self, takeover: &Takeover) -> Result<Taken, Failure> {
        let result = self.taken(takeover);
        self.session.settle(result)
    }

    fn progress(&mut self, topic: TopicIx, of: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure> {
        let result = self.progressed(topic, of);
        self.session.settle(result)
    }

    fn replica(&mut self, name: &str) -> Result<Replica, Failure> {
        let result = self.replica_seen(name);
        self.session.settle(result)
    }

    fn oldest_parked(&mut self, topic: TopicIx, partitions: &[i32]) -> Result<Vec<OldestParked>, Failure> {
        let result = self.ask_for_oldest_parked(topic, partitions);
        self.session.settle(result)
    }

    fn decided(&mut self, topic: TopicIx) -> Result<Decided, Failure> {
        let result = self.asked_what_is_decided(topic);
        self.session.settle(result)
    }
}

/// Always one row; the positions are null where no such replica is connected, or this role may not see it. On a
/// server that is a replica itself nothing is written.
pub(crate) const REPLICA: Sql = Sql {
    text: "SELECT coalesce(pg_has_role('pg_read_all_stats', 'USAGE'), false), \
           CASE WHEN pg_is_in_recovery() THEN NULL ELSE (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END, \
           min(replay_lsn - '0/0'::pg_lsn)::bigint, \
           (extract(epoch FROM max(replay_lag)) * 1000)::bigint \
           FROM pg_stat_replication WHERE application_name = $1",
    types: &[Type::TEXT],
};

impl Live<Name> {
    fn ready(&mut self, sql: &Sql) -> Result<Ready, Error> {
        let make = || Text { sql: sql.text.to_owned(), types: sql.types.to_vec() };
        self.statements.get(&mut self.client, sql.text, make)
    }

    fn query(&mut self, sql: &Sql, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
        let result = self.ready(sql).and_then(|statement| statement.query(&mut self.client, params));
        result.map_err(|error| own_failure(&error))
    }
}

/// Lanes are numbered below 2^15: the configuration and the table both say so.
fn smallint(lane: usize) -> i16 {
    i16::try_from(lane).expect("a lane's number fits a smallint")
}

fn begin(client: &mut Client) -> Result<Transaction<'_>, Failure> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start();
    transaction.map_err(|e| own_failure(&e))
}

fn source(live: &mut Live<Name>, group: &str, topic: &str, identity: &Identity) -> Result<i32, Failure> {
    let mut found = live.query(&fence::SOURCE, &[&group, &topic])?;
    if found.is_empty() {
        live.query(&fence::REGISTER, &[&group, &topic, &identity.cluster_id, &identity.topic_id])?;
        found = live.query(&fence::SOURCE, &[&group, &topic])?;
    }
    let Some(row) = found.first() else {
        // Registered, and gone again: someone resets the topic at this moment.
        return Err(Failure::Transient(Reason::new(format!("topic {topic:?} was reset while it was registered"))));
    };
    let (id, cluster_id, topic_id): (i32, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
    let on = "Stop the group and run `forebay fences reset` to begin anew with what is there now";
    if cluster_id != identity.cluster_id {
        let text = format!(
            "topic {topic:?}: this database was filled by group {group:?} from the cluster {cluster_id:?}, but the brokers \
             are the cluster {:?}, whose offsets mean other records. {on}, or point the configuration at the old cluster",
            identity.cluster_id
        );
        return Err(Failure::Topic(Reason::new(text)));
    }
    match (&topic_id, &identity.topic_id) {
        (Some(stored), Some(now)) if stored != now => {
            let text = format!(
                "topic {topic:?} was deleted and created again: its id was {stored:?} and is {now:?}, so its offsets mean \
                 other records than those that group {group:?} applied here. {on}"
            );
            Err(Failure::Topic(Reason::new(text)))
        }
        (None, Some(now)) => {
            live.query(&fence::LEARN_TOPIC_ID, &[&id, now])?;
            Ok(id)
        }
        _ => Ok(id),
    }
}

/// Prepared, where they are, before the transaction begins, so that it holds its locks for its own statements only.
struct TakeoverStatements {
    hold_source: Ready,
    anchor: Ready,
    lock_fences: Ready,
    make_fences: Ready,
    drop_fences: Ready,
    set_lanes: Ready,
    mark_fences: Ready,
}

impl TakeoverStatements {
    fn prepare(live: &mut Live<Name>) -> Result<TakeoverStatements, Error> {
        Ok(TakeoverStatements {
            hold_source: live.ready(&fence::HOLD_SOURCE)?,
            anchor: live.ready(&fence::ANCHOR)?,
            lock_fences: live.ready(&fence::LOCK_FENCES)?,
            make_fences: live.ready(&fence::MAKE_FENCES)?,
            drop_fences: live.ready(&fence::DROP_FENCES)?,
            set_lanes: live.ready(&fence::SET_LANES)?,
            mark_fences: live.ready(&fence::MARK_FENCES)?,
        })
    }
}

enum Stop {
    Failed(Failure),
    Broken(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(own_failure(&error))
    }
}

/// One takeover, statement by statement: each needs a snapshot of its own (see `fence`).
fn take(
    transaction: &mut Transaction<'_>,
    statements: &TakeoverStatements,
    source: i32,
    takeover: &Takeover,
    taken_by: &str,
) -> Result<Taken, Stop> {
    let (partition, token, configured) = (takeover.at.partition, takeover.token.0, smallint(takeover.lanes.into()));
    if statements.hold_source.query_opt(transaction, &[&source])?.is_none() {
        let text = "the topic was reset while it was taken over";
        return Err(Stop::Failed(Failure::Transient(Reason::new(text))));
    }
    let anchor = statements
        .anchor
        .query_one(transaction, &[&source, &partition, &configured, &token, &takeover.begin.0, &taken_by])?;
    let (lanes, origin, done, created): (i16, i64, i64, bool) =
        (anchor.get(0), anchor.get(1), anchor.get(2), anchor.get(3));
    let rows = statements.lock_fences.query(transaction, &[&source, &partition])?;
    let mut fences: Vec<(i16, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if created {
        if !fences.is_empty() {
            return Err(Stop::Broken(format!(
                "it has {} fences but had no anchor; somebody changed forebay's tables. Stop the group and run `forebay \
                 fences reset`",
                fences.len()
            )));
        }
        statements.make_fences.execute(transaction, &[&source, &partition, &configured, &done, &token])?;
        fences = (0..configured).map(|lane| (lane, done)).collect();
    } else {
        if !fences.iter().map(|(lane, _)| *lane).eq(0..lanes) {
            return Err(Stop::Broken(format!(
                "its anchor says {lanes} lanes, but the fences of these lanes are there: {:?}; somebody changed forebay's \
                 tables. Stop the group and run `forebay fences reset`",
                fences.iter().map(|(lane, _)| lane).collect::<Vec<_>>()
            )));
        }
        let drained = fences.iter().all(|(_, next)| *next <= done);
        if lanes != configured && drained {
            statements.drop_fences.execute(transaction, &[&source, &partition])?;
            statements.make_fences.execute(transaction, &[&source, &partition, &configured, &done, &token])?;
            statements.set_lanes.execute(transaction, &[&source, &partition, &configured])?;
            fences = (0..configured).map(|lane| (lane, done)).collect();
        } else {
            statements.mark_fences.execute(transaction, &[&source, &partition, &token])?;
        }
    }
    let fences: Vec<NextOffset> = fences.into_iter().map(|(_, next)| NextOffset(next)).collect();
    debug_assert!(Lane::try_from(fences.len()).is_ok());
    // Only now: what the owner before had in flight is there, and nobody can add to it any more.
    let parked = transaction.query_typed(parked::SET, &[(&source, Type::INT4), (&partition, Type::INT4)])?;
    let parked = parked.iter().map(|row| parked::tail(row, 0)).collect();
    Ok(Taken { origin: NextOffset(origin), done: NextOffset(done), created, fences, parked })
}
