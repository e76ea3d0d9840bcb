//! Own CPU time a row with more partitions, workers and rows, and larger records: `forebay bench catch-up`, everything but one as the
//! reference job has it.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::Outcome;
use super::arguments::Arguments;
use super::rounds::Rounds;

/// An option of `forebay bench`, and its values.
const OPTIONS: [(&str, &[&str]); 5] = [
    ("--partitions", &["1", "8", "64"]),
    ("--workers", &["1", "8", "32"]),
    ("--keys", &["1000", "200000", "10000000"]),
    ("--value-bytes", &["300", "1000", "10000"]),
    // Partial updates are the smallest records that it has.
    ("--operations", &["upsert=100", "partial=100"]),
];

pub fn flat(a: &Arguments) -> Outcome<()> {
    println!("\n| option | bytes a value | rows/s | own CPU, µs/row | own CPU, ns/byte | peak memory, MB |");
    println!("|---|---|---|---|---|---|");
    let mut of: Vec<([&str; 2], Figures)> = OPTIONS
        .into_iter()
        .flat_map(|(option, values)| values.iter().map(move |value| ([option, *value], Figures::default())))
        .collect();
    for _ in 0..a.rounds {
        for (option, figures) in &mut of {
            figures.push(&measure(a, *option)?)?;
        }
    }
    for ([option, value], figures) in &of {
        println!("| `{option} {value}` | {figures} |");
    }
    Ok(())
}

/// What `forebay bench` wrote of one round.
fn measure(a: &Arguments, option: [&str; 2]) -> Outcome<Value> {
    let json = tempfile::NamedTempFile::new()?;
    let mut words: Vec<String> = ["bench", "catch-up", "--log-level", "warn"].map(str::to_owned).into();
    let bytes = if option[0] == "--value-bytes" { option[1].parse::<u64>()? } else { 0 };
    // As much to publish and to write, however large a record is.
    let records = if bytes > 1_000 { a.records * 1_000 / bytes } else { a.records };
    let defaults = [
        ("--brokers", a.kafka.clone()),
        ("--dsn", a.dsn.clone()),
        ("--records", records.to_string()),
        ("--partitions", "8".to_owned()),
        ("--workers", a.workers.to_string()),
        ("--keys", a.keys.to_string()),
        ("--batch", a.batch.to_string()),
        ("--json", json.path().display().to_string()),
    ];
    for (name, value) in defaults.into_iter().filter(|(name, _)| *name != option[0]) {
        words.extend([name.to_owned(), value]);
    }
    words.extend(option.map(str::to_owned));
    words.extend(a.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    let run = Command::new(env!("CARGO_BIN_EXE_forebay")).args(&words).stdout(Stdio::null()).output()?;
    if !run.status.success() {
        return Err(format!("forebay {}: {}", words.join(" "), String::from_utf8_lossy(&run.stderr)).into());
    }
    Ok(serde_json::from_slice(&std::fs::read(json.path())?)?)
}

#[derive(Default)]
struct Figures {
    bytes: Rounds,
    rate: Rounds,
    cpu_us: Rounds,
    byte_ns: Rounds,
    peak_mb: Rounds,
}

impl Figures {
    fn push(&mut self, report: &Value) -> Outcome<()> {
        let round = &report["cases"][0]["rounds"][0];
        let number = |of: &Value, name: &str| of[name].as_f64().ok_or_else(|| format!("no {name} in the report"));
        let (bytes, cpu_us) = (number(&report["workload"], "value_bytes")?, number(round, "cpu_us_per_row")?);
        self.bytes.push(bytes);
        self.rate.push(number(round, "rows_per_s")?);
        self.cpu_us.push(cpu_us);
        self.byte_ns.push(cpu_us * 1e3 / bytes);
        self.peak_mb.push(number(round, "memory_peak_bytes")? / f64::from(1 << 20));
        Ok(())
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figures { bytes, rate, cpu_us, byte_ns, peak_mb } = self;
        write!(f, "{:.0} | {rate} | {cpu_us:.2} | {byte_ns:.2} | {peak_mb}", bytes.median())
    }
}
