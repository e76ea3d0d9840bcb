//! How many rows a second one database takes: from measured points, or from three numbers that somebody gives. Pure arithmetic.
//!
//! The model: a transaction of `b` rows takes a time that grows with `b` and with the number of connections that are at work; rows
//! a second are connections × b ÷ that time. Between measured points the time is interpolated along straight lines; beyond the most
//! connections that were measured, more of them gain nothing.

use serde::Serialize;

/// What was measured at one batch size with so many connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    pub batch: usize,
    pub connections: usize,
    pub rows_per_s: f64,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rates {
    /// A transaction takes `commit_s` and, for each row, the longer of what a connection and what the database need for it.
    Assumed {
        database_rows_per_s: f64,
        connection_rows_per_s: f64,
        commit_s: f64,
    },
    Measured(Curves),
}

/// The points of each batch size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curves(Vec<Curve>);

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Curve {
    batch: f64,
    /// Connections, and the seconds that a transaction takes.
    times: Vec<(f64, f64)>,
}

/// More connections are worth it while they gain so much.
pub const KNEE_GAIN: f64 = 1.10;
/// A larger batch is worth it while the largest of those that come into question gains more than so much.
pub const BATCH_GAIN: f64 = 1.05;
/// The batch sizes that come into question.
pub const BATCHES: [usize; 6] = [50, 100, 200, 500, 1000, 2000];

impl Curves {
    /// None without a point.
    pub fn new(points: &[Point]) -> Option<Curves> {
        let mut batches: Vec<usize> = points.iter().map(|point| point.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        let curve = |batch: &usize| {
            let of_batch = points.iter().filter(|point| point.batch == *batch && point.rows_per_s > 0.0);
            let time = |point: &Point| {
                let connections = point.connections as f64;
                (connections, connections * *batch as f64 / point.rows_per_s)
            };
            let mut times: Vec<(f64, f64)> = of_batch.map(time).collect();
            times.sort_by(|a, b| a.0.total_cmp(&b.0));
            (!times.is_empty()).then_some(Curve { batch: *batch as f64, times })
        };
        let curves: Vec<Curve> = batches.iter().filter_map(curve).collect();
        (!curves.is_empty()).then_some(Curves(curves))
    }

    /// The numbers of connections between which times lie along straight lines.
    fn turns(&self) -> impl Iterator<Item = f64> {
        self.0.iter().flat_map(|curve| curve.times.iter().map(|(connections, _)| *connections))
    }

    fn transaction_s(&self, batch: f64, connections: f64) -> f64 {
        let of: Vec<(f64, f64)> = self.0.iter().map(|curve| (curve.batch, curve.at(connections))).collect();
        along(&of, batch).max(1e-9)
    }
}

impl Curve {
    /// Beyond the most connections, a transaction takes as much longer as there are more.
    fn at(&self, connections: f64) -> f64 {
        let (most, longest) = self.times[self.times.len() - 1];
        if connections >= most { longest * connections / most } else { along(&self.times, connections) }
    }
}

/// 1, 2, 4, … up to so many.
fn doublings(at_most: usize) -> impl Iterator<Item = usize> {
    (0..usize::BITS).map(|n| 1 << n).take_while(move |c| *c <= at_most.max(1))
}

/// Along straight lines through points in order; before the first one as there, behind the last one on as the last line went, but
/// never down.
fn along(points: &[(f64, f64)], x: f64) -> f64 {
    let (first, last) = (points[0], points[points.len() - 1]);
    if x <= first.0 {
        return first.1;
    }
    let between = points.windows(2).find(|pair| x <= pair[1].0);
    match (between, points.len()) {
        (Some(pair), _) => {
            let part = (x - pair[0].0) / (pair[1].0 - pair[0].0);
            pair[0].1 + part * (pair[1].1 - pair[0].1)
        }
        // In proportion, where one point is all there is.
        (None, 1) => first.1 * x / first.0,
        (None, n) => {
            let before = points[n - 2];
            let slope = ((last.1 - before.1) / (last.0 - before.0)).max(0.0);
            last.1 + slope * (x - last.0)
        }
    }
}

impl Rates {
    /// How long a transaction of so many rows takes while so many connections are at work.
    pub fn transaction_s(&self, batch: f64, connections: f64) -> f64 {
        match self {
            Rates::Assumed { database_rows_per_s, connection_rows_per_s, commit_s } => {
                let row_s = (1.0 / connection_rows_per_s).max(connections / database_rows_per_s);
                commit_s + batch * row_s
            }
            Rates::Measured(curves) => curves.transaction_s(batch, connections),
        }
    }

    pub fn rows_per_s(&self, batch: f64, connections: f64) -> f64 {
        connections * batch / self.transaction_s(batch, connections)
    }

    /// What a COMMIT takes by itself, with one row.
    pub fn commit_s(&self) -> f64 {
        match self {
            Rates::Assumed { commit_s, .. } => *commit_s,
            Rates::Measured(_) => self.transaction_s(1.0, 1.0),
        }
    }

    /// The fewest connections, one or a doubling of it, to which all more of them together, up to so many, add less than a tenth.
    pub fn knee(&self, batch: f64, at_most: usize) -> usize {
        let best = self.most(batch, at_most);
        doublings(at_most).find(|c| self.most(batch, *c) * KNEE_GAIN > best).unwrap_or(1)
    }

    /// The most rows a second that up to so many connections take: nobody has to use all of them.
    pub fn most(&self, batch: f64, connections: usize) -> f64 {
        self.between(batch, 1, connections.max(1)).fold(0.0, f64::max)
    }

    /// The fewest rows a second that so many connections take, where nobody chooses how many are at work.
    pub fn least(&self, batch: f64, from: usize, to: usize) -> f64 {
        self.between(batch, from, to.max(from)).fold(f64::INFINITY, f64::min)
    }

    /// Rows a second at both ends and wherever they may turn in between: elsewhere they rise or fall all the way, as connections ÷ (a + b ×
    /// connections) does.
    fn between(&self, batch: f64, from: usize, to: usize) -> impl Iterator<Item = f64> {
        let (from, to) = (from as f64, to as f64);
        let turns: Vec<f64> = match self {
            Rates::Assumed { .. } => Vec::new(),
            Rates::Measured(curves) => curves.turns().filter(|at| *at > from && *at < to).collect(),
        };
        turns.into_iter().chain([from, to]).map(move |connections| self.rows_per_s(batch, connections))
    }

    /// Of a database that does everything in so many times less time.
    pub fn times(&self, faster: f64) -> Rates {
        match self {
            Rates::Assumed { database_rows_per_s, connection_rows_per_s, commit_s } => Rates::Assumed {
                database_rows_per_s: database_rows_per_s * faster,
                connection_rows_per_s: connection_rows_per_s * faster,
                commit_s: commit_s / faster,
            },
            Rates::Measured(Curves(curves)) => {
                let quick = |curve: &Curve| Curve {
                    batch: curve.batch,
                    times: curve.times.iter().map(|(connections, time)| (*connections, time / faster)).collect(),
                };
                Rates::Measured(Curves(curves.iter().map(quick).collect()))
            }
        }
    }

    /// What is left for each of so many databases of one server that are all as busy.
    pub fn shared_by(&self, databases: usize) -> Rates {
        let of = databases.max(1) as f64;
        match self {
            Rates::Assumed { database_rows_per_s, connection_rows_per_s, commit_s } => Rates::Assumed {
                database_rows_per_s: database_rows_per_s / of,
                connection_rows_per_s: *connection_rows_per_s,
                commit_s: *commit_s,
            },
            Rates::Measured(Curves(curves)) => {
                let shared = |curve: &Curve| Curve {
                    batch: curve.batch,
                    times: curve.times.iter().map(|(connections, time)| (connections / of, *time)).collect(),
                };
                Rates::Measured(Curves(curves.iter().map(shared).collect()))
            }
        }
    }

    /// The smallest batch that takes nearly as many rows as the largest one, each at its own knee.
    pub fn batch(&self, at_most: usize) -> usize {
        let rate = |batch: usize| self.most(batch as f64, self.knee(batch as f64, at_most));
        let best = BATCHES.into_iter().map(rate).fold(0.0, f64::max);
        BATCHES.into_iter().find(|batch| rate(*batch) * BATCH_GAIN >= best).unwrap_or(BATCHES[BATCHES.len() - 1])
    }

    /// Under steady traffic: how many connections have work, and how many rows each of their transactions holds. So many of them have some in
    /// any case: a process wakes a worker of its own, whatever others do. A worker takes what has arrived while it wrote; another one is
    /// woken where that is more than a batch. None: it is more than they take.
    pub fn steady(&self, rows_per_s: f64, batch_max: usize, awake: usize, connections: usize) -> Option<(usize, f64)> {
        let (awake, connections) = (awake.max(1), connections.max(awake).max(1));
        let fits = |c: usize| {
            let c_f = c as f64;
            if self.rows_per_s(batch_max as f64, c_f) < rows_per_s {
                return None;
            }
            // The least batch of which so many a second are enough.
            let (mut least, mut most) = (1.0, batch_max as f64);
            for _ in 0..40 {
                let middle = (least + most) / 2.0;
                match self.rows_per_s(middle, c_f) < rows_per_s {
                    true => least = middle,
                    false => most = middle,
                }
            }
            Some((c, most))
        };
        // A worker with a batch outstanding, written and waiting together, is not given more.
        let packed = (awake..=connections).filter_map(fits).find(|(_, batch)| 2.0 * batch <= batch_max as f64);
        packed.or_else(|| (awake..=connections).rev().find_map(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assumed() -> Rates {
        Rates::Assumed { database_rows_per_s: 12_000.0, connection_rows_per_s: 3_000.0, commit_s: 0.002 }
    }

    fn measured() -> Rates {
        let point = |batch, connections, rows_per_s| Point { batch, connections, rows_per_s };
        let points = [
            point(1, 1, 500.0),
            point(1, 2, 900.0),
            point(1, 4, 1_500.0),
            point(500, 1, 40_000.0),
            point(500, 2, 60_000.0),
            point(500, 4, 62_000.0),
        ];
        Rates::Measured(Curves::new(&points).unwrap())
    }

    #[test]
    fn three_numbers_say_what_a_batch_takes() {
        let rates = assumed();
        assert!((rates.transaction_s(500.0, 1.0) - (0.002 + 500.0 / 3000.0)).abs() < 1e-9);
        assert!((rates.rows_per_s(500.0, 8.0) - 4000.0 / (0.002 + 4000.0 / 12_000.0)).abs() < 1e-6);
        assert_eq!((rates.knee(500.0, 64), rates.knee(500.0, 2)), (4, 2));
        assert_eq!(rates.batch(64), 200, "2 ms of 2000 rows is next to nothing, of 100 rows 6 per cent");
    }

    #[test]
    fn measured_points_come_back_and_between_them_lie_straight_lines() {
        let rates = measured();
        for (batch, connections, rows) in [(1.0, 4.0, 1_500.0), (500.0, 1.0, 40_000.0), (500.0, 2.0, 60_000.0)] {
            assert!((rates.rows_per_s(batch, connections) - rows).abs() < 1e-6);
        }
        let (one, many) = (1.0 / 500.0, 500.0 / 40_000.0);
        let half = one + (250.5 - 1.0) / 499.0 * (many - one);
        assert!((rates.transaction_s(250.5, 1.0) - half).abs() < 1e-12);
        assert!((rates.rows_per_s(500.0, 32.0) - 62_000.0).abs() < 1e-6, "beyond the last one more gain nothing");
        assert_eq!((rates.knee(500.0, 64), rates.knee(1.0, 64)), (2, 4));
        assert!((rates.commit_s() - 0.002).abs() < 1e-12);
        assert_eq!(Curves::new(&[]), None);
    }

    #[test]
    fn steady_traffic_uses_as_few_connections_as_it_needs() {
        let rates = assumed();
        let (connections, batch) = rates.steady(1_000.0, 500, 1, 8).unwrap();
        assert_eq!(connections, 1);
        assert!((batch - 3.0).abs() < 0.01, "1000 = b / (0.002 + b / 3000): {batch}");
        let (connections, _) = rates.steady(8_000.0, 500, 1, 8).unwrap();
        assert_eq!(connections, 3);
        assert_eq!(rates.steady(12_000.0, 500, 1, 8), None);
    }

    /// Processes know nothing of each other: with little to do, each of five still wakes a worker of its own.
    #[test]
    fn nobody_packs_traffic_across_processes() {
        let (connections, batch) = assumed().steady(1_000.0, 500, 5, 40).unwrap();
        assert_eq!(connections, 5);
        assert!((batch - 1.0).abs() < 0.001, "0.44 would be enough, and one is the least: {batch}");
    }

    #[test]
    fn connections_that_nobody_chooses_may_be_too_many() {
        let point = |connections, rows_per_s| Point { batch: 500, connections, rows_per_s };
        let points =
            [point(1, 30_000.0), point(2, 50_000.0), point(4, 60_000.0), point(8, 45_000.0), point(16, 48_000.0)];
        let rates = Rates::Measured(Curves::new(&points).unwrap());
        assert!((rates.most(500.0, 16) - 60_000.0).abs() < 1e-6);
        assert!((rates.least(500.0, 4, 16) - 45_000.0).abs() < 1e-6, "between both ends it is worse");
        assert!((rates.least(500.0, 2, 3) - 50_000.0).abs() < 1e-6);
    }

    /// Four databases of one server have a quarter of it each.
    #[test]
    fn databases_of_one_server_share_what_it_takes() {
        for rates in [assumed(), measured()] {
            let shared = rates.shared_by(4);
            for connections in [1.0, 2.0, 8.0] {
                let each = rates.rows_per_s(500.0, 4.0 * connections) / 4.0;
                assert!((shared.rows_per_s(500.0, connections) - each).abs() < 1e-6);
            }
        }
    }
}
