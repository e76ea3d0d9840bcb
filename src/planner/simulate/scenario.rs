//! What happens in a simulation, and when.

use std::time::Duration;

use super::Setup;

/// A rebalance of the group: for so long nobody fetches a partition that moves.
pub const REBALANCE_S: f64 = 3.0;
/// How long a process is away when it is deployed.
const RESTART_S: f64 = 10.0;
/// From one process's restart to the next.
const ROLLING_S: f64 = 30.0;
const OUTAGE_S: f64 = 600.0;
/// Traffic as it is before, so that there is something to compare with.
const BEFORE_S: f64 = 30.0;
/// A peak, in a simulation, is no longer.
const PEAK_MAX_S: f64 = 600.0;
/// Whatever becomes of it.
const AFTER_MAX_S: f64 = 1800.0;
/// Of all records.
const HOT_SHARE: f64 = 0.2;
pub const GROWTH: usize = 10;
/// Simulated records of one batch, at the least: or batches would be no batches.
const UNITS_OF_A_BATCH: u64 = 5;

/// The first shard is away.
#[derive(Debug, Clone, Copy)]
pub struct Lost {
    pub from_s: f64,
    pub to_s: f64,
    /// Whoever probes it waits between two tries, longer and longer, at most so long.
    pub backoff_max: Duration,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub what: String,
    /// Up to when, and how many records a second; the last one goes on.
    pub rates: Vec<(f64, f64)>,
    /// It ends when time lag is calm after `trouble_ends`; then in any case.
    pub seconds_max: f64,
    pub trouble_ends: f64,
    /// One tenant has this part of all records.
    pub hot_share: f64,
    pub lost: Option<Lost>,
    /// Each process is restarted, one after the other: when, and for how long.
    pub restarts: Vec<(f64, f64)>,
    /// Records that a simulated one stands for.
    pub weight: u64,
}

/// Those that every plan is put through.
pub fn scenarios(setup: &Setup<'_>) -> Vec<Scenario> {
    let Setup { plan, wish, .. } = setup;
    let (mean, peak) = (wish.mean_per_s, wish.peak_per_s);
    let burst = wish.burst_s.clamp(10.0, PEAK_MAX_S);
    let base = |name, what: String, rate: f64, lasts: f64, after: f64| {
        let trouble_ends = BEFORE_S + lasts;
        let rates = vec![(BEFORE_S, mean), (trouble_ends, rate), (f64::MAX, mean)];
        let scenario = Scenario {
            name,
            what,
            rates,
            seconds_max: trouble_ends + after,
            trouble_ends,
            hot_share: 0.0,
            lost: None,
            restarts: Vec::new(),
            weight: 1,
        };
        scenario.weighted(setup)
    };
    let mut all = vec![base("peak", format!("{burst:.0} s at the peak"), peak, burst, AFTER_MAX_S)];
    let hot = base("hot tenant", format!("one tenant has {:.0} % of all", HOT_SHARE * 100.0), mean, 300.0, AFTER_MAX_S);
    all.push(Scenario { hot_share: HOT_SHARE, ..hot });
    let processes = plan.processes;
    let rolling = base(
        "rolling",
        format!("each of {processes} processes is restarted, {ROLLING_S:.0} s apart"),
        mean,
        ROLLING_S * processes as f64,
        120.0,
    );
    let restarts = (0..processes).map(|i| (BEFORE_S + ROLLING_S * i as f64, RESTART_S)).collect();
    all.push(Scenario { restarts, ..rolling });
    let lost =
        base("shard lost", format!("one database is away for {OUTAGE_S:.0} s"), mean, OUTAGE_S, 2.0 * AFTER_MAX_S);
    let away = Lost { from_s: BEFORE_S, to_s: BEFORE_S + OUTAGE_S, backoff_max: setup.fixed.retry_backoff_max };
    all.push(Scenario { lost: Some(away), ..lost });
    let what = format!("{GROWTH} times the mean for 60 s, on the same databases");
    all.push(base("growth", what, mean * GROWTH as f64, 60.0, 120.0));
    all
}

impl Scenario {
    /// Records a second at this time.
    pub fn rate(&self, at_s: f64) -> f64 {
        let rates = &self.rates;
        rates.iter().find(|(until, _)| at_s < *until).or(rates.last()).map_or(0.0, |(_, rate)| *rate)
    }

    /// As many records for each simulated one as keep their number in bounds, but batches batches. Where both cannot be, what comes
    /// after the trouble is cut.
    fn weighted(mut self, setup: &Setup<'_>) -> Scenario {
        let of_batch = (setup.plan.batch_records_max as u64 / UNITS_OF_A_BATCH).max(1);
        let mut before = 0.0;
        let mut records = 0.0;
        for (until, rate) in &self.rates {
            let until = until.min(self.trouble_ends + 300.0);
            records += (until - before).max(0.0) * rate;
            before = until.max(before);
        }
        self.weight = ((records / setup.units_max as f64).ceil() as u64).clamp(1, of_batch);
        let last = self.rates.last().map_or(0.0, |(_, rate)| *rate).max(1.0);
        let trouble = records - (before - self.trouble_ends).max(0.0) * last;
        let left = (3 * setup.units_max * self.weight) as f64 - trouble;
        self.seconds_max = self.seconds_max.min(self.trouble_ends + (left / last).max(30.0));
        self
    }
}
