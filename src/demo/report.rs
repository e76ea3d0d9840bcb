//! What `forebay demo` prints at its end, on stdout.

use std::fmt::Write;
use std::time::Duration;

use crate::demo::options::Phase;
use crate::demo::verify::Check;
use crate::demo::watch::Lag;
use crate::words::grouped;

/// Speed and time lag of each phase.
pub fn speed(phases: &[Phase], lags: &[Lag]) -> String {
    let mut text = String::new();
    for (phase, lag) in phases.iter().zip(lags) {
        let how = phase.rate.map_or("as fast as they are applied".to_owned(), |rate| {
            format!("published at {}/s", grouped(rate.into()))
        });
        let took = lag.last_durable.zip(lag.first_published).map_or(Duration::ZERO, |(last, first)| last - first);
        let per_second = f64::from(phase.records) / took.as_secs_f64().max(1e-3);
        let ms = |quantile| lag.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} records, {how}: {:.2} s, {} rows/s\n  time lag, published to durable: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            grouped(phase.records.into()),
            took.as_secs_f64(),
            grouped(per_second as u64),
            ms(0.5),
            ms(0.99),
            lag.histogram.max() as f64 / 1000.0
        );
    }
    text.push_str(
        "  (of every record: from the moment it was due to be published until another connection saw its fence moved;\n   \
         without a rate it waits in the log most of that time, because publishing is faster than applying)\n",
    );
    text
}

/// The proof, a line for each check.
pub fn proof(checks: &[Check]) -> String {
    let mut text = String::from("proof:\n");
    for Check { name, result } in checks {
        let (word, detail) = match result {
            Ok(detail) => ("ok", detail),
            Err(detail) => ("FAILED", detail),
        };
        let _ = writeln!(text, "  {word:<6} {name:<8} {detail}");
    }
    text
}
