//! Who holds up our connections: from what one look at the locks saw, and from what earlier looks saw, to the sessions at the root of
//! it. A wait may be over before anybody looks again (a key is parked after some milliseconds); whoever was waited for counts
//! on while its transaction lasts, because locks last as long, but not for ever: what it held may matter to nobody any more.
//! Decides nothing about the waits themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Waits that are remembered; beyond it the one that was confirmed longest ago is forgotten.
const KNOWN_MAX: usize = 256;
/// Blockers that are told of.
const BLOCKERS_MAX: usize = 32;

/// The pid of whoever is none: a prepared transaction, as `pg_blocking_pids` says.
pub const PREPARED: i32 = 0;

/// One look at the locks: those of our connections that wait, and everybody who stands in front of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    pub waiting: Vec<Waiting>,
    pub holders: Vec<Holder>,
    pub edges: Vec<Edge>,
    /// Of everybody who stands in front of somebody, as far as they are still there.
    pub sessions: Vec<Session>,
}

/// One of our backends that waits for a lock now.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub thread: String,
    pub pid: i32,
    /// For how long at most.
    pub since: Duration,
    /// As PostgreSQL calls its kind.
    pub lock: Option<String>,
    pub relation: Option<String>,
}

/// A session that holds a row which a thread of ours wanted, and did not wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub thread: String,
    pub relation: String,
    pub pid: i32,
}

/// `waiter` waits for `blocker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    pub waiter: i32,
    pub blocker: i32,
}

/// What may be seen of a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Session {
    pub pid: i32,
    /// Names its transaction; none outside of one.
    pub transaction: Option<String>,
    pub application: Option<String>,
    pub user: Option<String>,
    pub state: Option<String>,
    pub transaction_age: Option<Duration>,
    pub query_age: Option<Duration>,
    /// The first word of what it runs or ran last.
    pub command: Option<String>,
    /// It is of our group.
    pub ours: bool,
}

/// A session that others wait for and that waits for none itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocker {
    pub session: Session,
    /// Our threads that wait for it or, where their keys were parked since, did.
    pub blocks: Vec<String>,
    /// Sessions in between.
    pub through: Vec<i32>,
    pub blocked_for: Duration,
    pub lock: Option<String>,
    pub relation: Option<String>,
    /// One of ours waits for it at this moment.
    pub waited_for: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Blocking {
    known: Vec<Known>,
    edges: HashMap<i32, Vec<i32>>,
    sessions: BTreeMap<i32, Session>,
    /// Our backends that waited at the last look.
    waiters: Vec<i32>,
}

#[derive(Debug)]
struct Known {
    thread: String,
    /// Whom it waited for, without regard to whom that one waits for.
    pid: i32,
    transaction: Option<String>,
    first: Duration,
    confirmed: Duration,
    lock: Option<String>,
    relation: Option<String>,
    /// At the last look.
    waits: bool,
}

impl Blocking {
    /// Takes in a look. What no look has confirmed for longer than `remember` is forgotten.
    pub fn look(&mut self, now: Duration, look: Look, remember: Duration) {
        let Look { waiting, holders, edges, sessions } = look;
        self.sessions = sessions.into_iter().map(|session| (session.pid, session)).collect();
        self.edges.clear();
        for Edge { waiter, blocker } in edges {
            self.edges.entry(waiter).or_default().push(blocker);
        }
        self.waiters = waiting.iter().map(|waiting| waiting.pid).collect();
        self.known.iter_mut().for_each(|known| known.waits = false);
        for waiting in waiting {
            for pid in self.edges.get(&waiting.pid).cloned().unwrap_or_default() {
                let Waiting { thread, since, lock, relation, .. } = waiting.clone();
                let transaction = self.transaction(pid);
                let first = now.saturating_sub(since);
                self.learn(Known { thread, pid, transaction, first, confirmed: now, lock, relation, waits: true });
            }
        }
        for Holder { thread, relation, pid } in holders {
            let (lock, relation, transaction) = (Some("transactionid".into()), Some(relation), self.transaction(pid));
            self.learn(Known { thread, pid, transaction, first: now, confirmed: now, lock, relation, waits: false });
        }
        let sessions = &self.sessions;
        self.known.retain(|known| {
            let lasts = known.transaction.is_some()
                && sessions.get(&known.pid).is_some_and(|session| session.transaction == known.transaction);
            known.confirmed == now || lasts && now - known.confirmed <= remember
        });
    }

    /// Nobody of ours waits, and nobody is remembered, or nobody knows any more.
    pub fn forget(&mut self) {
        *self = Blocking::default();
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.waiters.is_empty()
    }

    /// Our backends that waited at the last look.
    pub fn waiters(&self) -> &[i32] {
        &self.waiters
    }

    /// Whom the next look is to ask after.
    pub fn remembered(&self) -> Vec<i32> {
        let pids: BTreeSet<i32> = self.known.iter().map(|known| known.pid).filter(|pid| *pid != PREPARED).collect();
        pids.into_iter().collect()
    }

    /// Whether some of this thread's keys were seen behind a lock that is still held.
    pub fn holds_up(&self, thread: &str) -> bool {
        self.known.iter().any(|known| known.thread == thread)
    }

    /// The longest first.
    pub fn blockers(&self, now: Duration) -> Vec<Blocker> {
        let mut found: BTreeMap<i32, (Duration, Blocker)> = BTreeMap::new();
        let mut known: Vec<&Known> = self.known.iter().collect();
        known.sort_by_key(|known| known.first);
        for known in known {
            for (root, through) in self.roots(known.pid) {
                let session = || self.sessions.get(&root).cloned().unwrap_or_else(|| unseen(root));
                let (_, blocker) = found.entry(root).or_insert_with(|| {
                    let (lock, relation) = (known.lock.clone(), known.relation.clone());
                    let blocked_for = now.saturating_sub(known.first);
                    let (blocks, through) = (Vec::new(), Vec::new());
                    let waited_for = false;
                    let session = session();
                    (known.first, Blocker { session, blocks, through, blocked_for, lock, relation, waited_for })
                });
                if !blocker.blocks.contains(&known.thread) {
                    blocker.blocks.push(known.thread.clone());
                }
                blocker.through.extend(through.iter().filter(|pid| !self.waiters.contains(pid)));
                blocker.waited_for |= known.waits;
                if blocker.relation.is_none() {
                    blocker.relation = known.relation.clone();
                }
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by_key(|(first, blocker)| (*first, blocker.session.pid));
        found.truncate(BLOCKERS_MAX);
        found.into_iter().map(|(_, blocker)| blocker.tidied()).collect()
    }

    fn transaction(&self, pid: i32) -> Option<String> {
        self.sessions.get(&pid).and_then(|session| session.transaction.clone())
    }

    fn learn(&mut self, new: Known) {
        let same = |known: &&mut Known| {
            (&known.thread, known.pid, &known.transaction) == (&new.thread, new.pid, &new.transaction)
        };
        if let Some(known) = self.known.iter_mut().find(same) {
            known.confirmed = new.confirmed;
            known.waits |= new.waits;
            known.lock = new.lock.or(known.lock.take());
            known.relation = new.relation.or(known.relation.take());
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            let oldest = self.known.iter().enumerate().min_by_key(|(_, known)| known.confirmed).map(|(index, _)| index);
            oldest.into_iter().for_each(|index| drop(self.known.swap_remove(index)));
        }
        self.known.push(new);
    }

    /// Whoever `pid` waits for in the end, itself where it does for nobody, and who is in between. Of those who wait for each
    /// other (a deadlock, which PostgreSQL ends) it is `pid`.
    fn roots(&self, pid: i32) -> BTreeMap<i32, Vec<i32>> {
        let mut roots = BTreeMap::new();
        let mut seen = BTreeSet::from([pid]);
        let mut stack = vec![(pid, Vec::new())];
        while let Some((at, way)) = stack.pop() {
            match self.edges.get(&at) {
                None => drop(roots.insert(at, way)),
                Some(next) => {
                    let way = [&way[..], &[at]].concat();
                    let next = next.iter().filter(|next| seen.insert(**next));
                    stack.extend(next.map(|next| (*next, way.clone())).collect::<Vec<_>>());
                }
            }
        }
        if roots.is_empty() {
            roots.insert(pid, Vec::new());
        }
        roots
    }
}

impl Blocker {
    fn tidied(mut self) -> Blocker {
        self.blocks.sort();
        self.through.sort_unstable();
        self.through.dedup();
        self
    }
}

fn unseen(pid: i32) -> Session {
    let state = (pid == PREPARED).then(|| "prepared transaction".to_owned());
    Session { pid, state, ..Session::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn session(pid: i32, transaction: &str) -> Session {
        let transaction = (!transaction.is_empty()).then(|| transaction.to_owned());
        Session { pid, transaction, ..Session::default() }
    }

    fn waiting(thread: &str, pid: i32) -> Waiting {
        let (lock, relation) = (Some("transactionid".into()), None);
        Waiting { thread: thread.into(), pid, since: S, lock, relation }
    }

    fn look(waiting: &[Waiting], edges: &[(i32, i32)], sessions: &[Session]) -> Look {
        let edges = edges.iter().map(|&(waiter, blocker)| Edge { waiter, blocker }).collect();
        Look { waiting: waiting.to_vec(), holders: Vec::new(), edges, sessions: sessions.to_vec() }
    }

    /// Each blocker as `pid: threads (through) seconds`.
    #[track_caller]
    fn check(blocking: &Blocking, now: Duration, expectation: &[&str]) {
        let text = |b: &Blocker| {
            let through: String = b.through.iter().map(|pid| format!(" through {pid}")).collect();
            format!("{}: {}{through} {} s", b.session.pid, b.blocks.join("+"), b.blocked_for.as_secs())
        };
        assert_eq!(blocking.blockers(now).iter().map(text).collect::<Vec<_>>(), expectation);
    }

    #[test]
    fn a_blocker_counts_on_while_its_transaction_lasts() {
        let mut blocking = Blocking::default();
        let mut see = |at: Duration, look: Look, expectation: &[&str]| {
            blocking.look(at, look, 5 * S);
            check(&blocking, at, expectation);
        };
        see(S, look(&[waiting("fb-w0.0", 10)], &[(10, 99)], &[session(99, "3/7")]), &["99: fb-w0.0 1 s"]);
        // Its key is parked; nobody waits.
        see(3 * S, look(&[], &[], &[session(99, "3/7")]), &["99: fb-w0.0 3 s"]);
        see(6 * S, look(&[], &[], &[session(99, "3/7")]), &["99: fb-w0.0 6 s"]);
        // Nothing has confirmed it for too long.
        see(7 * S, look(&[], &[], &[session(99, "3/7")]), &[]);
        let mut held = look(&[], &[], &[session(99, "3/7")]);
        held.holders.push(Holder { thread: "fb-s0.0".into(), relation: "t".into(), pid: 99 });
        see(8 * S, held.clone(), &["99: fb-s0.0 0 s"]);
        see(13 * S, held, &["99: fb-s0.0 5 s"]);
        // The same session, in its next transaction.
        see(14 * S, look(&[], &[], &[session(99, "3/8")]), &[]);
    }

    #[test]
    fn without_a_transaction_only_who_is_waited_for_counts() {
        let mut blocking = Blocking::default();
        // A lock of the session, not of a transaction; and a prepared transaction.
        let waits = [waiting("fb-w0.0", 10), waiting("fb-w0.1", 11)];
        blocking.look(S, look(&waits, &[(10, 99), (11, PREPARED)], &[session(99, "")]), 5 * S);
        check(&blocking, S, &["0: fb-w0.1 1 s", "99: fb-w0.0 1 s"]);
        assert_eq!(blocking.blockers(S)[0].session.state.as_deref(), Some("prepared transaction"));
        assert_eq!(blocking.remembered(), [99]);
        blocking.look(2 * S, look(&[], &[], &[session(99, "")]), 5 * S);
        check(&blocking, 2 * S, &[]);
    }

    #[test]
    fn the_root_is_named() {
        let all = [session(99, "3/7"), session(50, "4/1"), session(10, "5/1")];
        let waits = [waiting("fb-w0.0", 10), waiting("fb-w0.1", 11)];
        let mut blocking = Blocking::default();
        // Ours wait in a queue, behind somebody who waits, too.
        blocking.look(S, look(&waits, &[(10, 50), (11, 10), (11, 50), (50, 99)], &all), S);
        check(&blocking, S, &["99: fb-w0.0+fb-w0.1 through 50 1 s"]);
        // Two at the end of it.
        blocking.forget();
        blocking.look(S, look(&waits[..1], &[(10, 50), (50, 99), (50, 98)], &all), S);
        check(&blocking, S, &["98: fb-w0.0 through 50 1 s", "99: fb-w0.0 through 50 1 s"]);
        // A deadlock.
        blocking.forget();
        blocking.look(S, look(&waits[..1], &[(10, 50), (50, 10)], &all), S);
        check(&blocking, S, &["50: fb-w0.0 1 s"]);
        assert!(blocking.holds_up("fb-w0.0") && !blocking.holds_up("fb-s0.0"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut blocking = Blocking::default();
        for n in 0..2 * KNOWN_MAX as i32 {
            let at = S * (n as u32 + 1);
            let sessions: Vec<Session> = (0..=n).map(|pid| session(1000 + pid, "1/1")).collect();
            blocking.look(at, look(&[waiting("fb-w0.0", 10)], &[(10, 1000 + n)], &sessions), 10_000 * S);
        }
        assert_eq!(blocking.known.len(), KNOWN_MAX);
        let blockers = blocking.blockers(1000 * S);
        assert_eq!((blockers.len(), blockers[0].session.pid), (BLOCKERS_MAX, 1000 + KNOWN_MAX as i32));
    }
}
