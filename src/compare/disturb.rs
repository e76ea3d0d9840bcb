//! The trouble: a row that another session holds, and checkpoints, each on a thread of its own. (A server is stopped by the thread that
//! started it, in [`crate::compare::one`].) What cannot be done is left out, and says why; nobody else's data is touched.

use std::sync::Arc;
use std::thread::JoinHandle;

use postgres::types::Type;

use crate::compare::findings::Kind;
use crate::compare::generator::Live;
use crate::compare::moment::Zero;
use crate::compare::schedule::Span;
use crate::config::Shard;
use crate::sink::pool::Pool;
use crate::sink::sqlstate;

const PURPOSE: &str = "trouble";

/// What came of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    pub kind: Kind,
    pub shard: Option<String>,
    /// As it was, and one sentence; or why it was left out.
    pub outcome: Result<(Span, String), String>,
}

impl Happened {
    pub fn skipped(kind: Kind, why: impl Into<String>) -> Happened {
        Happened { kind, shard: None, outcome: Err(why.into()) }
    }
}

/// Who makes the trouble, and where.
#[derive(Clone)]
pub struct Trouble {
    pub zero: Zero,
    pub live: Arc<Live>,
    pub shards: Vec<Shard>,
    /// Of our own connections, not that of the processes that are watched.
    pub group: String,
}

const EARLY: &str = "it was ended before";

impl Trouble {
    /// Holds the row of this `app_id` and `subscription_id`, wherever it is.
    pub fn lock_row(&self, table: String, ids: (String, String), span: Span) -> JoinHandle<Happened> {
        let trouble = self.clone();
        std::thread::spawn(move || {
            if !trouble.zero.wait_until(span.from_s, &trouble.live.over) {
                return Happened::skipped(Kind::RowLocked, EARLY);
            }
            let mut why = "the row is not there yet".to_owned();
            for shard in &trouble.shards {
                match trouble.hold(shard, &table, &ids, span) {
                    Ok(Some(held)) => {
                        let told = format!(
                            "another session holds the row that is written most often for {:.0} s",
                            held.to_s - held.from_s
                        );
                        let shard = Some(shard.name.clone());
                        return Happened { kind: Kind::RowLocked, shard, outcome: Ok((held, told)) };
                    }
                    Ok(None) => {}
                    Err(error) => why = format!("shard {}: {error}", shard.name),
                }
            }
            Happened::skipped(Kind::RowLocked, why)
        })
    }

    /// None: the row is not here.
    fn hold(&self, shard: &Shard, table: &str, ids: &(String, String), span: Span) -> Result<Option<Span>, String> {
        let failed = |e: postgres::Error| sqlstate::failure(&e).reason().to_string();
        let pool = Pool::new(shard, &self.group, PURPOSE, 1).map_err(|f| f.reason().to_string())?;
        let mut client = pool.get().map_err(|f| f.reason().to_string())?;
        let mut transaction = client.transaction().map_err(failed)?;
        let sql = format!(
            "SELECT FROM {table} WHERE app_id = $1::text::uuid AND subscription_id = $2::text::uuid FOR UPDATE"
        );
        let found = transaction.query_typed(&sql, &[(&ids.0, Type::TEXT), (&ids.1, Type::TEXT)]).map_err(failed)?;
        if found.is_empty() {
            return Ok(None);
        }
        let from_s = self.zero.now_s();
        self.zero.wait_until(from_s + span.to_s - span.from_s, &self.live.over);
        transaction.rollback().map_err(failed)?;
        Ok(Some(Span { from_s, to_s: self.zero.now_s() }))
    }

    /// In all shards at once.
    pub fn checkpoint(&self, at_s: f64) -> JoinHandle<Happened> {
        let trouble = self.clone();
        std::thread::spawn(move || {
            if !trouble.zero.wait_until(at_s, &trouble.live.over) {
                return Happened::skipped(Kind::Checkpoint, EARLY);
            }
            let from_s = trouble.zero.now_s();
            let outcomes: Vec<Result<(), String>> = std::thread::scope(|scope| {
                let trouble = &trouble;
                let one = |shard| scope.spawn(move || trouble.checkpoint_of(shard));
                let threads: Vec<_> = trouble.shards.iter().map(one).collect();
                let joined = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                threads.into_iter().map(joined).collect()
            });
            match outcomes.into_iter().find_map(Result::err) {
                Some(why) => Happened::skipped(Kind::Checkpoint, why),
                None => {
                    let span = Span { from_s, to_s: trouble.zero.now_s() };
                    let told = "CHECKPOINT on every server: all dirty pages are written at once".to_owned();
                    Happened { kind: Kind::Checkpoint, shard: None, outcome: Ok((span, told)) }
                }
            }
        })
    }

    fn checkpoint_of(&self, shard: &Shard) -> Result<(), String> {
        let said = |reason: &crate::sink::Reason| format!("shard {}: {reason}", shard.name);
        let pool = Pool::new(shard, &self.group, PURPOSE, 1).map_err(|f| said(f.reason()))?;
        let mut client = pool.get().map_err(|f| said(f.reason()))?;
        client.batch_execute("CHECKPOINT").map_err(|e| said(sqlstate::failure(&e).reason()))
    }
}
