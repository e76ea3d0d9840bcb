//! What a process's connections to one shard tell about themselves: which of the server's processes serves each, and whose locks they
//! met. Processes of a group share their application names, so only this tells our backends from theirs. Asks nobody anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

/// Transactions that are remembered until somebody takes them; beyond it the oldest are forgotten, and met again if they matter.
const MET_MAX: usize = 256;
/// Of one try: who blocks many rows is one of the first.
const MET_AT_ONCE_MAX: usize = 16;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Backends(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By number of the connection: its thread, and its server process.
    open: BTreeMap<u64, (String, i32)>,
    next: u64,
    met: Vec<MetLock>,
}

/// A transaction that had a row which a thread of ours wanted, and did not wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetLock {
    pub thread: String,
    pub relation: String,
    /// As in the row's xmax: of several that share the row, a number for all of them.
    pub transaction: String,
}

/// A connection that is open.
#[derive(Debug)]
pub struct Known {
    backends: Arc<Backends>,
    number: u64,
    thread: String,
}

impl Backends {
    /// A connection of `thread`'s is open, until what this returns is dropped.
    pub fn add(backends: &Arc<Backends>, thread: &str, pid: Option<i32>) -> Known {
        let mut inner = backends.0.lock();
        inner.next += 1;
        let number = inner.next;
        pid.into_iter().for_each(|pid| drop(inner.open.insert(number, (thread.to_owned(), pid))));
        Known { backends: Arc::clone(backends), number, thread: thread.to_owned() }
    }

    /// The server's processes that serve us, by thread.
    pub fn open(&self) -> Vec<(String, i32)> {
        self.0.lock().open.values().cloned().collect()
    }

    /// Whether something was met that is not of these transactions.
    pub fn has_met_others(&self, than: &BTreeSet<String>) -> bool {
        self.0.lock().met.iter().any(|met| !than.contains(&met.transaction))
    }

    /// What was met since this was asked last.
    pub fn take_met(&self) -> Vec<MetLock> {
        std::mem::take(&mut self.0.lock().met)
    }
}

impl Known {
    /// Rows of `relation` were locked by these transactions.
    pub fn met_locks(&self, relation: &str, transactions: impl Iterator<Item = String>) {
        let mut inner = self.backends.0.lock();
        // 0: it let go meanwhile.
        for transaction in transactions.filter(|transaction| transaction != "0").take(MET_AT_ONCE_MAX) {
            let met = MetLock { thread: self.thread.clone(), relation: relation.to_owned(), transaction };
            if inner.met.contains(&met) {
                continue;
            }
            if inner.met.len() >= MET_MAX {
                inner.met.remove(0);
            }
            inner.met.push(met);
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.backends.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_and_what_was_met() {
        let backends = Arc::new(Backends::default());
        let first = Backends::add(&backends, "fb-w0.0", Some(11));
        let second = Backends::add(&backends, "fb-w0.1", Some(12));
        let pooled = Backends::add(&backends, "fb-w0.2", None);
        drop(first);
        // The next connection is there before the last one is gone.
        let third = Backends::add(&backends, "fb-w0.1", Some(13));
        drop(second);
        assert_eq!(backends.open(), [("fb-w0.1".to_owned(), 13)]);
        pooled.met_locks("t", ["7", "8", "7"].into_iter().map(str::to_owned));
        third.met_locks("t", std::iter::once("7".to_owned()));
        let met: Vec<String> = backends.take_met().iter().map(|m| format!("{} {}", m.thread, m.transaction)).collect();
        assert_eq!(met, ["fb-w0.2 7", "fb-w0.2 8", "fb-w0.1 7"]);
        assert_eq!(backends.take_met(), []);
        for n in 0..2 * MET_MAX {
            third.met_locks("t", std::iter::once(n.to_string()));
        }
        third.met_locks("t", (0..1000).map(|n| format!("x{n}")));
        let met = backends.take_met();
        assert_eq!((met.len(), met[MET_MAX - 1].transaction.as_str()), (MET_MAX, "x15"));
    }
}
