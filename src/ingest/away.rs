//! A shard's database that rows of requests cannot be written to: what is said of it, once, and how soon it is tried again. Opens nothing.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ingest::problem::Problem;
use crate::metrics::labelled::Refused;
use crate::sink::Failure;

/// How soon a database that was away is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// For so long a database that refuses is a reason not to be ready. Only requests try it again, and whoever is not ready gets none.
const REFUSAL_HOLDS: Duration = Duration::from_secs(10);

/// What keeps connections to a shard from being opened.
pub struct Away {
    shard: String,
    /// Until when it is not tried again, and why.
    since: Mutex<Option<(Instant, Failure)>>,
}

impl Away {
    pub fn new(shard: &str) -> Away {
        Away { shard: shard.to_owned(), since: Mutex::default() }
    }

    /// # Errors
    /// Where it is not to be tried now.
    pub fn check(&self, now: Instant) -> Result<(), Problem> {
        match &*self.since.lock() {
            Some((until, failure)) if now < *until => Err(away(failure)),
            _ => Ok(()),
        }
    }

    /// It is said once, and again when it is another failure.
    pub fn note(&self, failure: Failure, now: Instant) -> Problem {
        let problem = away(&failure);
        let mut since = self.since.lock();
        if since.as_ref().is_none_or(|(_, known)| *known != failure) {
            let (shard, reason) = (&self.shard, failure.reason());
            match &failure {
                Failure::Shard(_) => tracing::error!(shard, "rows of requests are not written: {reason}"),
                _ => tracing::warn!(shard, "rows of requests are not written for now: {reason}"),
            }
        }
        *since = Some((now + AGAIN, failure));
        problem
    }

    pub fn is_there(&self) {
        if self.since.lock().take().is_some() {
            tracing::info!(shard = self.shard, "shard {}: rows of requests are written again", self.shard);
        }
    }

    pub fn refuses(&self, now: Instant) -> Option<String> {
        match &*self.since.lock() {
            Some((until, Failure::Shard(reason))) if now < *until + REFUSAL_HOLDS => Some(reason.to_string()),
            _ => None,
        }
    }
}

fn away(failure: &Failure) -> Problem {
    let why = match failure {
        // It names what is in the configuration, which is nobody's business out there.
        Failure::Shard(_) => "the database refuses this gateway, whose log says why; nothing was done".to_owned(),
        failure => format!("the database is away: {}; nothing was done", failure.reason()),
    };
    Problem::new(Refused::Database, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Reason;

    /// It is tried again soon, and does not keep a gateway from being ready for ever that nobody asks any more.
    #[test]
    fn a_database_that_is_away_or_refuses() {
        let (away, start) = (Away::new("s"), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(away.check(start).is_ok() && away.refuses(start).is_none());
        let problem = away.note(Failure::Outage(Reason::new("gone")), start);
        assert!(problem.detail().contains("gone") && problem.detail().contains("nothing was done"));
        assert_eq!((away.check(at(999)).err(), away.check(at(1000)).err()), (Some(problem), None));
        assert_eq!(away.refuses(start), None, "others may be served meanwhile");
        let problem = away.note(Failure::Shard(Reason::new("password of x")), start);
        assert!(!problem.detail().contains("password"), "that is for the log");
        assert_eq!(away.refuses(at(10_999)).as_deref(), Some("password of x"));
        assert_eq!(away.refuses(at(11_000)), None);
        away.is_there();
        assert_eq!(away.refuses(start), None);
    }
}
