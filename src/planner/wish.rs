//! What is asked of a plan: rates, sizes, times, and the assumptions that stand where nobody said anything. Each of those has a name,
//! a unit, and an option that changes it. Nothing here is decided.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::config::settings;
use crate::planner::PlanError;
use crate::words::{grouped, rate};

/// What was written on the command line; nothing where nothing was.
#[derive(Debug, Clone, Default, Args)]
pub struct Asked {
    /// Records a second at a peak [default: three times the mean].
    #[arg(long, value_name = "N", value_parser = number)]
    pub peak: Option<f64>,
    /// Records a second on average [default: a third of the peak].
    #[arg(long, value_name = "N", value_parser = number)]
    pub mean: Option<f64>,
    /// Instead of --mean: records a day.
    #[arg(long, value_name = "N", value_parser = number)]
    pub per_day: Option<f64>,
    /// Key, value and headers of a record [default: 300].
    #[arg(long, value_name = "BYTES", value_parser = number)]
    pub record_bytes: Option<f64>,
    /// How long a peak lasts [default: 10min].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub burst: Option<Duration>,
    /// Time lag allowed at the end of a peak [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time_lag: Option<Duration>,
    /// The longest outage of the databases to survive [default: 1h].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub outage: Option<Duration>,
    /// Time to catch up after it, beside the mean rate [default: twice as long as the outage].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub catch_up: Option<Duration>,
    /// Copies of a record in Kafka [default: 3].
    #[arg(long, value_name = "N")]
    pub replication: Option<u64>,
    /// Replicas that each database sends its WAL to [default: 1].
    #[arg(long, value_name = "N")]
    pub replicas: Option<u64>,
    /// So many processes may fail at a time [default: 1].
    #[arg(long, value_name = "N")]
    pub spare_processes: Option<u64>,
    /// So many times the peak without other partitions [default: 4].
    #[arg(long, value_name = "N")]
    pub growth: Option<u64>,
    /// Load of the busiest database, in shares of an even one [default: 1.2].
    #[arg(long, value_name = "N")]
    pub busiest_shard: Option<f64>,
    /// Part of what a database bears that is planned with [default: 80].
    #[arg(long, value_name = "PERCENT")]
    pub used_percent: Option<f64>,
    /// Bytes of records for each byte in Kafka [default: 1].
    #[arg(long, value_name = "N")]
    pub compression: Option<f64>,
    /// Kafka keeps records so many times as long as outage and catching up take [default: 2].
    #[arg(long, value_name = "N")]
    pub retention_factor: Option<f64>,
    /// Databases [default: the configuration's, or as many as it takes].
    #[arg(long, value_name = "N")]
    pub shards: Option<u64>,
    /// [default: as many as it takes].
    #[arg(long, value_name = "N")]
    pub processes: Option<u64>,
    /// Workers of a process for each database, where that is decided already [default: as many as it takes].
    #[arg(long, value_name = "N")]
    pub workers_per_shard: Option<u64>,
    /// Partitions of each topic for each database, where there are some already [default: as many as it takes].
    #[arg(long, value_name = "N")]
    pub partitions_per_shard: Option<u64>,
    /// Records that one process takes in [default: 100k].
    #[arg(long = "process-rows-per-second", value_name = "N", value_parser = number)]
    pub process_rows: Option<f64>,
    /// Memory of a process for records between Kafka and the databases [default: 2048].
    #[arg(long, value_name = "MIB")]
    pub process_memory_mib: Option<u64>,
    /// Bytes that one partition takes in, a second [default: 5M].
    #[arg(long = "partition-bytes-per-second", value_name = "N", value_parser = number)]
    pub partition_bytes: Option<f64>,
}

/// See the module's text. Rates are records a second of all topics together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Wish {
    pub peak_per_s: f64,
    pub mean_per_s: f64,
    /// Key, value and headers.
    pub record_bytes: f64,
    /// How long a peak lasts.
    pub burst_s: f64,
    /// Until a record is durable, at the end of a peak.
    pub time_lag_s: f64,
    /// How long every database may be away without a record being lost.
    pub outage_s: f64,
    /// Within which time what waited then is applied, beside what comes.
    pub catch_up_s: f64,
    /// Copies of each record in Kafka.
    pub replication: u64,
    /// Of each database.
    pub replicas: u64,
    /// So many processes may fail at a time.
    pub spare_processes: u64,
    /// So many times the peak without other partitions.
    pub growth: u64,
    /// What the busiest shard gets, in shares of an even one.
    pub busiest_shard: f64,
    /// Of what a database bears, so much is planned with.
    pub used: f64,
    /// Bytes of records for each byte in Kafka.
    pub compression: f64,
    /// Kafka keeps records so many times as long as they are needed.
    pub retention_factor: f64,
    /// How many databases there are; as many as it takes where nobody says.
    pub shards: Option<u64>,
    pub processes: Option<u64>,
    /// Of a process; as many as it takes where nobody says.
    pub workers_per_shard: Option<u64>,
    /// Of each topic; as many as it takes where nobody says.
    pub partitions_per_shard: Option<u64>,
    /// What one process takes in.
    pub process_rows_per_s: f64,
    pub process_memory_bytes: u64,
    /// What one partition takes in.
    pub partition_bytes_per_s: f64,
}

/// Something that a plan rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assumption {
    pub what: String,
    /// With its unit.
    pub value: String,
    /// How to say something else.
    pub option: String,
}

impl Assumption {
    pub fn new(what: &str, value: impl Into<String>, option: &str) -> Assumption {
        Assumption { what: what.to_owned(), value: value.into(), option: option.to_owned() }
    }
}

const DAY_S: f64 = 86_400.0;
/// A peak is so many times the mean, where only one of them is known.
const PEAK_FACTOR: f64 = 3.0;
const RATE_MAX: f64 = 1e9;
const SECONDS_MAX: f64 = 365.0 * DAY_S;

impl Wish {
    /// With what is assumed where nothing was said.
    ///
    /// # Errors
    /// [`PlanError::Usage`] names the option, what was found and what was expected.
    pub fn new(asked: &Asked) -> Result<(Wish, Vec<Assumption>), PlanError> {
        let mut of = Assumed { list: Vec::new() };
        let (peak_per_s, mean_per_s) = rates(asked, &mut of)?;
        let outage_s = of.seconds("--outage", "longest outage of the databases to survive", asked.outage, 3600.0)?;
        let wish = Wish {
            peak_per_s,
            mean_per_s,
            record_bytes: of.number(
                "--record-bytes",
                "key, value and headers of a record, bytes",
                asked.record_bytes,
                300.0,
                1.0..=1e8,
            )?,
            burst_s: of.seconds("--burst", "how long a peak lasts", asked.burst, 600.0)?,
            time_lag_s: of.seconds("--time-lag", "time lag allowed at the end of a peak", asked.time_lag, 10.0)?,
            outage_s,
            catch_up_s: of.seconds(
                "--catch-up",
                "time to catch up after that outage, beside the mean rate",
                asked.catch_up,
                2.0 * outage_s.max(1.0),
            )?,
            replication: of.whole("--replication", "copies of a record in Kafka", asked.replication, 3, 1..=10)?,
            replicas: of.whole(
                "--replicas",
                "replicas that each database sends its WAL to",
                asked.replicas,
                1,
                0..=64,
            )?,
            spare_processes: of.whole(
                "--spare-processes",
                "processes that may fail at a time",
                asked.spare_processes,
                1,
                0..=100,
            )?,
            growth: of.whole(
                "--growth",
                "so many times the peak without other partitions",
                asked.growth,
                4,
                1..=1024,
            )?,
            busiest_shard: of.number(
                "--busiest-shard",
                "load of the busiest database, in shares of an even one",
                asked.busiest_shard,
                1.2,
                1.0..=1000.0,
            )?,
            used: of.number(
                "--used-percent",
                "part of what a database bears that is planned with, per cent",
                asked.used_percent,
                80.0,
                1.0..=100.0,
            )? / 100.0,
            compression: of.number(
                "--compression",
                "bytes of records for each byte in Kafka (1: not compressed)",
                asked.compression,
                1.0,
                0.5..=100.0,
            )?,
            retention_factor: of.number(
                "--retention-factor",
                "Kafka keeps records so many times as long as outage and catching up take",
                asked.retention_factor,
                2.0,
                1.0..=100.0,
            )?,
            shards: asked.shards.map(|n| within("--shards", n, 1..=10_000)).transpose()?,
            processes: asked.processes.map(|n| within("--processes", n, 1..=1000)).transpose()?,
            workers_per_shard: asked
                .workers_per_shard
                .map(|n| within("--workers-per-shard", n, 1..=*settings::WORKERS_PER_SHARD.kind.range.end() as u64))
                .transpose()?,
            partitions_per_shard: asked
                .partitions_per_shard
                .map(|n| within("--partitions-per-shard", n, 1..=100_000))
                .transpose()?,
            process_rows_per_s: of.number(
                "--process-rows-per-second",
                "records that one process takes in, a second",
                asked.process_rows,
                100_000.0,
                1.0..=RATE_MAX,
            )?,
            process_memory_bytes: of.whole(
                "--process-memory-mib",
                "memory of a process for records between Kafka and the databases, MiB",
                asked.process_memory_mib,
                2048,
                64..=1 << 20,
            )? << 20,
            partition_bytes_per_s: of.number(
                "--partition-bytes-per-second",
                "bytes that one partition takes in, a second",
                asked.partition_bytes,
                5e6,
                1.0..=1e10,
            )?,
        };
        if let Some(processes) = wish.processes.filter(|n| *n <= wish.spare_processes) {
            let found = format!("--processes {processes} with --spare-processes {}", wish.spare_processes);
            return Err(PlanError::Usage(format!("found {found}, expected at least one process that does not fail")));
        }
        Ok((wish, of.list))
    }
}

fn rates(asked: &Asked, of: &mut Assumed) -> Result<(f64, f64), PlanError> {
    let per_day = asked.per_day.map(|n| number_within("--per-day", n, 1.0..=RATE_MAX * DAY_S)).transpose()?;
    let mean = asked.mean.map(|n| number_within("--mean", n, 0.001..=RATE_MAX)).transpose()?;
    let peak = asked.peak.map(|n| number_within("--peak", n, 0.001..=RATE_MAX)).transpose()?;
    if mean.is_some() && per_day.is_some() {
        return Err(PlanError::Usage("found both --mean and --per-day, expected one of them".to_owned()));
    }
    let (peak, mean) = match (peak, mean.or(per_day.map(|n| n / DAY_S))) {
        (Some(peak), Some(mean)) => (peak, mean),
        (Some(peak), None) => {
            let mean = peak / PEAK_FACTOR;
            of.note("mean rate: a third of the peak", format!("{}/s", rate(mean)), "--mean, --per-day");
            (peak, mean)
        }
        (None, Some(mean)) => {
            let peak = mean * PEAK_FACTOR;
            of.note("peak: three times the mean", format!("{}/s", rate(peak)), "--peak");
            (peak, mean)
        }
        (None, None) => {
            return Err(PlanError::Usage(
                "expected --peak, --mean or --per-day: records a second, or a day".to_owned(),
            ));
        }
    };
    match peak < mean {
        true => Err(PlanError::Usage(format!(
            "--peak: found {}/s, expected at least the mean, {}/s",
            rate(peak),
            rate(mean)
        ))),
        false => Ok((peak, mean)),
    }
}

/// What was assumed so far.
struct Assumed {
    list: Vec<Assumption>,
}

impl Assumed {
    fn note(&mut self, what: &str, value: String, option: &str) {
        self.list.push(Assumption::new(what, value, option));
    }

    fn number(
        &mut self,
        option: &str,
        what: &str,
        asked: Option<f64>,
        default: f64,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<f64, PlanError> {
        match asked {
            Some(number) => number_within(option, number, range),
            None => {
                let text = if default < 1000.0 { default.to_string() } else { grouped(default as u64) };
                self.note(what, text, option);
                Ok(default)
            }
        }
    }

    fn whole(
        &mut self,
        option: &str,
        what: &str,
        asked: Option<u64>,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, PlanError> {
        match asked {
            Some(number) => within(option, number, range),
            None => {
                self.note(what, grouped(default), option);
                Ok(default)
            }
        }
    }

    fn seconds(&mut self, option: &str, what: &str, asked: Option<Duration>, default_s: f64) -> Result<f64, PlanError> {
        match asked {
            Some(time) if time.as_secs_f64() <= SECONDS_MAX => Ok(time.as_secs_f64()),
            Some(time) => {
                Err(PlanError::Usage(format!("{option}: found {} s, expected at most a year", time.as_secs())))
            }
            None => {
                self.note(what, seconds(default_s), option);
                Ok(default_s)
            }
        }
    }
}

fn within(option: &str, found: u64, range: std::ops::RangeInclusive<u64>) -> Result<u64, PlanError> {
    match range.contains(&found) {
        true => Ok(found),
        false => {
            let (least, most) = (range.start(), range.end());
            Err(PlanError::Usage(format!("{option}: found {found}, expected {least} to {most}")))
        }
    }
}

fn number_within(option: &str, found: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64, PlanError> {
    match range.contains(&found) {
        true => Ok(found),
        false => {
            let (least, most) = (range.start(), range.end());
            Err(PlanError::Usage(format!("{option}: found {found}, expected {least} to {most}")))
        }
    }
}

/// A time for people, in the form that [`duration`] reads: what is whole in a unit is said in it.
pub fn seconds(s: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")];
    let whole = units.iter().find(|(of, unit)| s >= *of && (s / of).fract() == 0.0 && (*unit != "s" || s < 120.0));
    match whole {
        Some((of, unit)) => format!("{} {unit}", s / of),
        None if s < 0.0995 => format!("{:.1} ms", s * 1e3),
        None if s < 1.0 => format!("{:.0} ms", s * 1e3),
        None if s < 120.0 => format!("{s:.1} s"),
        None if s < 7200.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        None => format!("{:.1} h", s / 3600.0),
    }
}

/// `500ms`, `30s`, `10min`, `2h`, `1d`; a number without a unit is refused, because nobody can tell which was meant.
///
/// # Errors
/// What was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as 500ms, 30s, 10min, 2h or 1d".to_owned();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(expected)?;
    let (number, unit) = (text[..at].trim(), text[at..].trim());
    let number: f64 = number.parse().map_err(|_| expected())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(expected()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())
}

/// `400000`, `400k`, `10G`; decimal points are allowed, and commas between groups of three digits: anywhere else nobody can tell whether
/// one was meant to be a decimal point.
///
/// # Errors
/// What was expected.
pub fn number(text: &str) -> Result<f64, String> {
    let expected = || "expected a number such as 1500, 400k, 2.5M or 10G".to_owned();
    let (digits, factor) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1e3),
        Some('M') => (&text[..text.len() - 1], 1e6),
        Some('G') => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    let is_grouped = !first.is_empty() && first.len() <= 3 && groups.all(|group| group.len() == 3);
    if fraction.contains(',') || whole.contains(',') && !is_grouped {
        return Err(expected());
    }
    let number: f64 = digits.replace(['_', ','], "").parse().map_err(|_| expected())?;
    (number.is_finite() && number >= 0.0).then_some(number * factor).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_as_people_write_them() {
        for (text, expectation) in
            [("500ms", 0.5), ("30s", 30.0), ("10min", 600.0), ("1.5h", 5400.0), ("2 d", 172_800.0), ("10m", 600.0)]
        {
            assert_eq!(duration(text).map(|d| d.as_secs_f64()), Ok(expectation), "{text}");
        }
        for wrong in ["", "10", "s", "10x", "-1s", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for (text, expectation) in [
            ("1500", 1500.0),
            ("400k", 400_000.0),
            ("2.5M", 2.5e6),
            ("10G", 1e10),
            ("1,000", 1000.0),
            ("12,345,678.5", 12_345_678.5),
        ] {
            assert_eq!(number(text), Ok(expectation), "{text}");
        }
        for wrong in ["", "k", "-1", "1x", "NaN", "inf", "2,5M", "1,0", ",100", "1000,000", "1.5,000"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
        let said = [0.0021, 0.5, 3.0, 90.0, 95.5, 600.0, 3700.0, 9000.0, 86_400.0].map(seconds);
        assert_eq!(said, ["2.1 ms", "500 ms", "3 s", "90 s", "95.5 s", "10 min", "61 min 40 s", "150 min", "1 d"]);
    }

    #[test]
    fn what_nobody_said_is_named_with_the_option_that_changes_it() {
        let (wish, assumed) = Wish::new(&Asked { per_day: Some(1e10), peak: Some(4e5), ..Asked::default() }).unwrap();
        assert_eq!((wish.peak_per_s, wish.mean_per_s.round()), (400_000.0, 115_741.0));
        let options: Vec<&str> = assumed.iter().map(|a| a.option.as_str()).collect();
        assert!(options.contains(&"--record-bytes") && options.contains(&"--compression"), "{options:?}");
        assert!(!options.iter().any(|option| option.contains("--peak") || option.contains("--mean")), "{options:?}");
        let (wish, assumed) = Wish::new(&Asked { peak: Some(300.0), ..Asked::default() }).unwrap();
        assert_eq!((wish.mean_per_s, assumed[0].option.as_str()), (100.0, "--mean, --per-day"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |change: &dyn Fn(&mut Asked), expectation: &str| {
            let mut asked = Asked { peak: Some(100.0), mean: Some(50.0), ..Asked::default() };
            change(&mut asked);
            match Wish::new(&asked) {
                Err(PlanError::Usage(text)) => assert_eq!(text, expectation),
                other => panic!("{other:?}"),
            }
        };
        check(&|a| a.peak = Some(10.0), "--peak: found 10/s, expected at least the mean, 50/s");
        check(&|a| (a.peak, a.mean) = (None, None), "expected --peak, --mean or --per-day: records a second, or a day");
        check(&|a| a.per_day = Some(10.0), "found both --mean and --per-day, expected one of them");
        check(&|a| a.replication = Some(0), "--replication: found 0, expected 1 to 10");
        check(&|a| a.workers_per_shard = Some(0), "--workers-per-shard: found 0, expected 1 to 256");
        check(&|a| a.used_percent = Some(f64::NAN), "--used-percent: found NaN, expected 1 to 100");
        check(
            &|a| (a.processes, a.spare_processes) = (Some(2), Some(2)),
            "found --processes 2 with --spare-processes 2, expected at least one process that does not fail",
        );
    }
}
