//! How many connections may be at work at a database that others use, too: a limit that shrinks when batches take longer than
//! they recently did at best, and grows back.
//!
//! The algorithm is *Gradient* of Netflix's concurrency-limits (`GradientLimit.java`; "Performance Under Load", Netflix
//! Technology Blog, 2018), which comes from TCP Vegas (Brakmo and Peterson, 1995):
//!
//! ```text
//! gradient = tolerance × best ÷ now, between ½ and 1
//! limit    = limit × gradient + √limit ÷ 4        a fall is smoothed; it never grows while it is not used
//! ```
//!
//! A time-out of a statement halves it. As there, and as in BBR's ProbeRTT, it falls to one connection now and then (and begins
//! there): what many connections take at best can only be seen with few. Three things are our own, because batches are not
//! requests of one kind. *Best* is kept by topic and by the batch's size. It is the best mean of some batches in a row within
//! the last five to ten minutes, since single ones are now and then faster than is typical. And the limit may fall below one:
//! then one connection is at work for that part of the time only, with smaller batches.

use std::time::Duration;

use crate::types::TopicIx;

/// How much longer than at best batches may take before the limit shrinks. Netflix's default is 2.
const TOLERANCE: f64 = 1.5;
/// What the queue may grow by, in parts of √limit. Netflix's default, √limit as a whole, would never fall below four.
const QUEUE: f64 = 0.25;
/// How much of a fall happens at once; as at Netflix's.
const SMOOTHING: f64 = 0.2;
/// The limit follows what so many batches took, …
const BATCHES_MIN: u32 = 8;
/// … over at least this time.
const WINDOW: Duration = Duration::from_millis(100);
/// So many in a row make a candidate for the best.
const IN_A_ROW: u32 = 8;
/// The best is forgotten after one or two of these; each begins with one connection.
const PERIOD: Duration = Duration::from_secs(300);
/// Never less than a connection for this part of the time.
pub const LIMIT_MIN: f64 = 1.0 / 64.0;
/// Sizes for each doubling: within one of them, times differ by less than a fifth.
const SIZES_PER_DOUBLING: f64 = 4.0;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Adaptive {
    limit: f64,
    max: f64,
    /// By topic, then by size.
    best: Vec<Vec<Best>>,
    period_ends: Duration,
    window: Window,
}

/// What a topic's batches of one size took, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Best {
    sum: f64,
    batches: u32,
    now: Option<f64>,
    before: Option<f64>,
}

/// Batches since the limit moved last.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    since: Duration,
    batches: u32,
    /// Of best ÷ now.
    ratios: f64,
}

impl Adaptive {
    /// `max` connections there are.
    pub fn new(max: usize, topics: usize, now: Duration) -> Adaptive {
        let window = Window { since: now, ..Window::default() };
        Adaptive { limit: 1.0, max: max as f64, best: vec![Vec::new(); topics], period_ends: now + PERIOD, window }
    }

    /// Connections at work, on average.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// A batch of so many records was written. `used`: as many connections are at work as may be, or nearly so.
    pub fn written(&mut self, topic: TopicIx, records: usize, took: Duration, used: bool, now: Duration) {
        if now >= self.period_ends {
            self.begin_period(now);
        }
        let took = (took.as_secs_f64() * 1e6).max(1.0);
        let of_topic = &mut self.best[usize::from(topic.0)];
        let size = size(records);
        if of_topic.len() <= size {
            of_topic.resize(size + 1, Best::default());
        }
        of_topic[size].note(took);
        // Nothing to compare with yet: as good as it gets.
        self.window.ratios += expected(of_topic, records).map_or(1.0, |best| (best / took).min(1.0));
        self.window.batches += 1;
        if self.window.batches >= BATCHES_MIN && now.saturating_sub(self.window.since) >= WINDOW {
            let gradient = (TOLERANCE * self.window.ratios / f64::from(self.window.batches)).clamp(0.5, 1.0);
            self.window = Window { since: now, ..Window::default() };
            if used {
                self.follow(gradient);
            }
        }
    }

    /// A statement timed out.
    pub fn timed_out(&mut self) {
        self.limit = (self.limit / 2.0).max(LIMIT_MIN);
    }

    fn follow(&mut self, gradient: f64) {
        let next = self.limit * gradient + QUEUE * self.limit.sqrt();
        let next = if next < self.limit { self.limit + (next - self.limit) * SMOOTHING } else { next };
        self.limit = next.clamp(LIMIT_MIN, self.max);
    }

    fn begin_period(&mut self, now: Duration) {
        self.period_ends = now + PERIOD;
        self.limit = self.limit.min(1.0);
        for best in self.best.iter_mut().flatten() {
            best.before = best.now.take();
        }
    }
}

impl Best {
    fn note(&mut self, took: f64) {
        self.sum += took;
        self.batches += 1;
        if self.batches == IN_A_ROW {
            let mean = self.sum / f64::from(IN_A_ROW);
            self.now = Some(self.now.map_or(mean, |now| now.min(mean)));
            (self.sum, self.batches) = (0.0, 0);
        }
    }

    fn known(&self) -> Option<f64> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some(now.min(before)),
            (now, before) => now.or(before),
        }
    }
}

fn size(records: usize) -> usize {
    ((records.max(1) as f64).log2() * SIZES_PER_DOUBLING) as usize
}

/// What a batch of so many records takes at best, by what batches of any size took. A larger one costs at most as much as the
/// smaller ones that it is made of. A smaller one saves at most a half, as far as we know before such batches were seen on a good
/// day: some of the costs are the transaction's own.
fn expected(of_topic: &[Best], records: usize) -> Option<f64> {
    let own = size(records);
    let known = of_topic.iter().enumerate().filter_map(|(size, best)| Some((size, best.known()?)));
    let scaled = known.map(|(size, best)| {
        let ratio = 2f64.powf((own as f64 - size as f64) / SIZES_PER_DOUBLING);
        if own >= size { best * ratio } else { best * (1.0 + ratio) / 2.0 }
    });
    scaled.reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicIx = TopicIx(0);
    const MS: Duration = Duration::from_millis(1);

    /// A database with some cores: a batch takes `base`, and longer where more are at work, others included, than it has cores.
    struct Database {
        cores: f64,
        others: f64,
        rng: fastrand::Rng,
        now: Duration,
    }

    impl Database {
        fn new(cores: f64) -> Database {
            Database { cores, others: 0.0, rng: fastrand::Rng::with_seed(7), now: Duration::ZERO }
        }

        /// As many connections as the limit says work for so long.
        fn run(&mut self, adaptive: &mut Adaptive, for_how_long: Duration) {
            let end = self.now + for_how_long;
            while self.now < end {
                let connections = adaptive.limit().round().max(1.0);
                let duty = adaptive.limit().min(1.0);
                let load = ((connections * duty + self.others) / self.cores).max(1.0);
                let records = (500.0 * duty.max(0.25)) as usize;
                let base = 4.0 * (0.3 + 0.7 * records as f64 / 500.0);
                let noise = 0.8 + 0.4 * self.rng.f64();
                let took = MS.mul_f64(base * load * noise);
                self.now += took.mul_f64(1.0 / connections / duty);
                adaptive.written(TOPIC, records, took, true, self.now);
            }
        }
    }

    #[test]
    fn it_finds_what_the_database_has_and_no_more() {
        for (cores, connections) in [(1.0, 1.0..2.6), (2.0, 2.0..4.1), (4.0, 4.0..7.5), (64.0, 16.0..16.1)] {
            let (mut database, mut adaptive) = (Database::new(cores), Adaptive::new(16, 1, Duration::ZERO));
            assert_eq!(adaptive.limit(), 1.0);
            database.run(&mut adaptive, Duration::from_secs(30));
            let limit = adaptive.limit();
            assert!(connections.contains(&limit), "{limit} connections for {cores} cores");
        }
    }

    #[test]
    fn it_makes_way_for_others_and_comes_back() {
        let (mut database, mut adaptive) = (Database::new(2.0), Adaptive::new(8, 1, Duration::ZERO));
        database.run(&mut adaptive, Duration::from_secs(20));
        let alone = adaptive.limit();
        database.others = 4.0;
        database.run(&mut adaptive, Duration::from_secs(20));
        let beside = adaptive.limit();
        assert!(beside < 1.0 && beside > LIMIT_MIN, "{alone} alone, {beside} beside others");
        database.others = 0.0;
        database.run(&mut adaptive, Duration::from_secs(20));
        assert!(adaptive.limit() > alone * 0.7, "{alone} before, {} afterwards", adaptive.limit());
    }

    /// The best is recent: a database that became slower for good is used as it is now.
    #[test]
    fn what_was_good_long_ago_is_forgotten() {
        let (mut database, mut adaptive) = (Database::new(2.0), Adaptive::new(8, 1, Duration::ZERO));
        database.run(&mut adaptive, Duration::from_secs(20));
        database.others = 4.0;
        database.run(&mut adaptive, 2 * PERIOD + Duration::from_secs(60));
        assert!(adaptive.limit() >= 1.0, "{}", adaptive.limit());
    }

    #[test]
    fn it_stays_within_its_bounds_whatever_happens() {
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let max = rng.usize(1..20);
            let (mut adaptive, mut now) = (Adaptive::new(max, 2, Duration::ZERO), Duration::ZERO);
            for _ in 0..400 {
                let mut up_to_two_to_the = |bits: u32| {
                    let bits = rng.u32(0..=bits);
                    rng.u64(0..=1 << bits)
                };
                now += Duration::from_micros(up_to_two_to_the(30));
                let took = Duration::from_micros(up_to_two_to_the(30));
                let records = up_to_two_to_the(17) as usize;
                let topic = TopicIx(rng.u16(0..2));
                match rng.u8(0..20) {
                    0 => adaptive.timed_out(),
                    _ => adaptive.written(topic, records, took, rng.bool(), now),
                }
                let limit = adaptive.limit();
                assert!((LIMIT_MIN..=max as f64).contains(&limit), "seed {seed}: {limit} of {max}");
            }
        }
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_move() {
        let mut adaptive = Adaptive::new(8, 1, Duration::ZERO);
        (1..1000).for_each(|n| adaptive.written(TOPIC, 10, MS, false, MS * n));
        assert_eq!(adaptive.limit(), 1.0);
    }

    /// A topic whose batches take long is not held against one whose batches do not, nor a large batch against a small one.
    #[test]
    fn topics_and_sizes_are_compared_with_their_own_best() {
        let mut adaptive = Adaptive::new(8, 2, Duration::ZERO);
        for n in 0..1000 {
            let (topic, took) = [(TopicIx(0), MS), (TopicIx(1), MS * 50)][n as usize % 2];
            let records = [1, 40, 500][n as usize % 3];
            let took = took + took.mul_f64(records as f64 / 100.0);
            adaptive.written(topic, records, took, true, MS * 20 * n);
        }
        assert_eq!(adaptive.limit(), 8.0);
    }
}
