//! Ceilings of tenants in records per second: which of a tenant's records may be applied now, and when those come that wait.
//!
//! A tenant that sends more than its ceiling keeps nobody else: its keys are parked, and slow lanes apply what is parked as the
//! ceiling allows. Whoever finds nothing left stands in its tenant's line and is told when to come; while somebody stands there,
//! records that arrive are parked, too, or those that wait would wait for ever. Records are paid for once they are applied, so
//! that a try that fails costs nothing; several at once may take more than is there, and then it is paid off before the next.

use std::collections::HashMap;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::config::TenantCeilings;
use crate::state::bucket::Bucket;

/// A tenant's name, hashed: names are as long as whoever sends them likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TenantHash(u64);

impl TenantHash {
    pub fn new(name: &[u8]) -> TenantHash {
        TenantHash(xxh3_64(name))
    }
}

/// The longest that somebody is sent away for. It bounds how late those who wait see a ceiling that was raised.
const LINE_MAX: Duration = Duration::from_secs(10);
/// How often tenants are forgotten that have as much as if they had never been seen.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Records of each tenant that one try would apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(HashMap<TenantHash, usize>);

impl Tally {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, tenant: TenantHash, records: usize) {
        *self.0.entry(tenant).or_default() += records;
    }

    /// So many of them are not applied after all.
    pub fn remove(&mut self, tenant: TenantHash, records: usize) {
        self.0.entry(tenant).and_modify(|of| *of = of.saturating_sub(records));
    }

    fn of(&self, tenant: TenantHash) -> usize {
        self.0.get(&tenant).copied().unwrap_or_default()
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct TenantPace {
    /// Of those that are not named.
    each: Option<usize>,
    /// Those tenants' ceilings that differ from all others'.
    of: HashMap<TenantHash, usize>,
    /// Tenants of late.
    tenants: HashMap<TenantHash, Tenant>,
    forgotten: Duration,
}

#[derive(Debug)]
struct Tenant {
    bucket: Bucket,
    /// When the last of those who wait was told to come.
    line: Duration,
}

impl TenantPace {
    /// Other ceilings from now on.
    pub fn set(&mut self, ceilings: &TenantCeilings, now: Duration) {
        self.of = ceilings.of.iter().map(|(name, rate)| (TenantHash::new(name.as_bytes()), *rate)).collect();
        self.each = ceilings.each;
        let rate = |hash| self.of.get(&hash).copied().or(self.each);
        self.tenants.retain(|hash, tenant| match rate(*hash) {
            Some(rate) => {
                tenant.bucket.set_rate(rate, now);
                true
            }
            None => false,
        });
    }

    /// The most records of one key, whosever it is, that are worth reading at once.
    pub fn piece_max(&self) -> usize {
        let Some(each) = self.each else { return usize::MAX };
        let highest = self.of.values().copied().fold(each, usize::max);
        Bucket::new(highest, Duration::ZERO).piece(usize::MAX)
    }

    /// Whether a record that arrives may be applied now, beside those of `tally`. If so, it is added to them.
    pub fn goes(&mut self, tenant: TenantHash, tally: &mut Tally, now: Duration) -> bool {
        let Some(of_late) = self.tenant(tenant, now) else { return true };
        let goes = of_late.line <= now && of_late.bucket.there(now) > tally.of(tenant);
        if goes {
            tally.add(tenant, 1);
        }
        goes
    }

    /// Of so many records that are parked, how many may be applied now, beside those of `tally`, to which they are added; or how
    /// long they wait on. `told`: they come because they were told to; others stand behind all who were.
    pub fn turn(
        &mut self,
        tenant: TenantHash,
        records: usize,
        told: bool,
        tally: &mut Tally,
        now: Duration,
    ) -> Result<usize, Duration> {
        let Some(of_late) = self.tenant(tenant, now) else { return Ok(records) };
        let records = of_late.bucket.piece(records);
        let there = of_late.bucket.there(now).saturating_sub(tally.of(tenant));
        let in_turn = told || of_late.line <= now;
        if there > 0 && in_turn || records == 0 {
            let go = records.min(there);
            tally.add(tenant, go);
            return Ok(go);
        }
        let come = of_late.line.max(now) + of_late.bucket.time_of(records);
        of_late.line = come.min(now + LINE_MAX);
        Err(of_late.line - now)
    }

    /// These were applied.
    pub fn applied(&mut self, tally: &Tally, now: Duration) {
        for (tenant, records) in &tally.0 {
            if let Some(of_late) = self.tenant(*tenant, now) {
                of_late.bucket.take(*records);
            }
        }
        self.forget(now);
    }

    /// None where it has no ceiling.
    fn tenant(&mut self, tenant: TenantHash, now: Duration) -> Option<&mut Tenant> {
        let rate = self.of.get(&tenant).copied().or(self.each)?;
        let new = || Tenant { bucket: Bucket::new(rate, now), line: Duration::ZERO };
        Some(self.tenants.entry(tenant).or_insert_with(new))
    }

    /// Those whose bucket is full again and for whom nobody waits: memory follows who writes, not who ever wrote.
    fn forget(&mut self, now: Duration) {
        if now.saturating_sub(self.forgotten) >= FORGET_EVERY {
            self.forgotten = now;
            self.tenants.retain(|_, tenant| tenant.line > now || !tenant.bucket.is_full(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn pace(each: Option<usize>, of: &[(&str, usize)]) -> TenantPace {
        let mut pace = TenantPace::default();
        pace.set(&TenantCeilings { each, of: of.iter().map(|(name, rate)| ((*name).to_owned(), *rate)).collect() }, S);
        pace
    }

    fn tenant(name: &str) -> TenantHash {
        TenantHash::new(name.as_bytes())
    }

    /// How many of so many that arrive at once go.
    fn arrive(pace: &mut TenantPace, name: &str, records: usize, now: Duration) -> usize {
        let mut tally = Tally::default();
        let gone = (0..records).filter(|_| pace.goes(tenant(name), &mut tally, now)).count();
        pace.applied(&tally, now);
        gone
    }

    /// Of those who came before.
    fn turn(pace: &mut TenantPace, name: &str, records: usize, now: Duration) -> Result<usize, Duration> {
        come(pace, name, records, true, now)
    }

    fn come(pace: &mut TenantPace, name: &str, records: usize, told: bool, now: Duration) -> Result<usize, Duration> {
        let mut tally = Tally::default();
        let turn = pace.turn(tenant(name), records, told, &mut tally, now);
        pace.applied(&tally, now);
        turn
    }

    #[test]
    fn each_tenant_has_its_own_ceiling() {
        let mut p = pace(Some(1000), &[("small", 10)]);
        assert_eq!(
            (arrive(&mut p, "a", 500, S), arrive(&mut p, "b", 150, S), arrive(&mut p, "small", 9, S)),
            (200, 150, 2)
        );
        assert_eq!((arrive(&mut p, "a", 500, S + MS * 50), arrive(&mut p, "small", 9, S + MS * 50)), (50, 0));
        let mut p = pace(None, &[("small", 10)]);
        assert_eq!((arrive(&mut p, "a", 5000, S), arrive(&mut p, "small", 9, S)), (5000, 2));
        assert_eq!(turn(&mut p, "a", 5000, S), Ok(5000));
    }

    #[test]
    fn those_who_wait_are_told_when_to_come_one_behind_the_other_and_nobody_overtakes_them() {
        let mut p = pace(Some(1000), &[]);
        assert_eq!(arrive(&mut p, "a", 500, S), 200);
        assert_eq!(turn(&mut p, "a", 30, S), Err(MS * 30));
        assert_eq!(turn(&mut p, "a", 5000, S), Err(MS * 130), "a piece of it");
        assert_eq!(turn(&mut p, "b", 30, S), Ok(30));
        assert_eq!(turn(&mut p, "a", 30, S + MS * 30), Ok(30));
        assert_eq!(arrive(&mut p, "a", 9, S + MS * 100), 0, "somebody waits");
        assert_eq!(turn(&mut p, "a", 5000, S + MS * 130), Ok(100));
        assert_eq!(arrive(&mut p, "a", 9, S + MS * 135), 5, "nobody does");
    }

    /// However many come behind it.
    #[test]
    fn who_was_told_when_to_come_is_served_then() {
        let mut p = pace(Some(1), &[]);
        assert_eq!(arrive(&mut p, "a", 9, S), 2);
        assert_eq!(come(&mut p, "a", 1, false, S), Err(S));
        for n in 1..10 {
            let now = S + MS * 99 * n;
            assert_eq!(come(&mut p, "a", 1, false, now), Err(S * (n + 1) - MS * 99 * n), "behind all others");
        }
        assert_eq!(come(&mut p, "a", 1, false, S * 2 - MS), Err(LINE_MAX));
        assert_eq!(come(&mut p, "a", 1, true, S * 2), Ok(1));
    }

    #[test]
    fn who_has_no_ceiling_is_read_whole() {
        assert_eq!(pace(None, &[("small", 10)]).piece_max(), usize::MAX);
        assert_eq!(pace(Some(1000), &[("small", 10)]).piece_max(), 100);
        assert_eq!(pace(Some(1000), &[("large", 9000)]).piece_max(), 900);
    }

    #[test]
    fn nobody_is_sent_away_for_long() {
        let mut p = pace(Some(1), &[]);
        assert_eq!(arrive(&mut p, "a", 9, S), 2);
        (0..100).for_each(|_| assert!(turn(&mut p, "a", 1, S).unwrap_err() <= LINE_MAX));
        p.set(&TenantCeilings { each: Some(1000), of: Default::default() }, S);
        assert_eq!(turn(&mut p, "a", 50, S + MS * 50), Ok(50), "a ceiling that was raised holds at once");
        p.set(&TenantCeilings::default(), S);
        assert_eq!((arrive(&mut p, "a", 9999, S), turn(&mut p, "a", 9999, S)), (9999, Ok(9999)));
    }

    #[test]
    fn who_is_quiet_is_forgotten() {
        let mut p = pace(Some(10), &[]);
        for n in 0..1000 {
            arrive(&mut p, &format!("tenant {n}"), 1, S);
        }
        assert_eq!(p.tenants.len(), 1000);
        assert_eq!(turn(&mut p, "tenant 7", 1, S), Ok(1));
        assert!(turn(&mut p, "tenant 7", 1, S).is_err());
        arrive(&mut p, "tenant 1", 1, S * 12);
        assert_eq!(p.tenants.len(), 1);
    }

    /// Whatever arrives and waits, and however late they come: the ceiling is kept, and used.
    #[test]
    fn the_ceiling_is_kept_and_used() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rate = rng.usize(5..3000);
            let mut p = pace(Some(rate), &[]);
            let (mut now, mut applied) = (S, 0);
            // By key: what waits, when it comes, and whether it was told so.
            let mut waiting: Vec<(usize, Duration, bool)> = Vec::new();
            while now < S * 21 {
                now += Duration::from_micros(rng.u64(0..20_000));
                let arrives = rng.usize(0..1 + rate / 40);
                let gone = arrive(&mut p, "a", arrives, now);
                applied += gone;
                if gone < arrives {
                    waiting.push((arrives - gone, now, false));
                }
                for (records, at, told) in waiting.iter_mut().filter(|(_, at, _)| *at <= now).take(64) {
                    match come(&mut p, "a", *records, *told, now) {
                        Ok(go) => (*records, applied, *told) = (*records - go, applied + go, false),
                        Err(wait) => (*at, *told) = (now + wait, true),
                    }
                }
                waiting.retain(|(records, ..)| *records > 0);
            }
            assert!(applied <= rate * 20 + rate / 4 + 2, "seed {seed}: {applied} at {rate}");
            let waits: usize = waiting.iter().map(|(records, ..)| records).sum();
            assert!(applied >= rate * 18 || waits == 0, "seed {seed}: {applied} at {rate}, {waits} wait");
        }
    }
}
