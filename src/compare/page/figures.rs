//! How figures are said on the page: with their unit, and with as many digits as mean something.

use crate::words::{age, grouped};

/// Stands where there is no figure.
pub const UNKNOWN: &str = "not measured";

/// Stands where there cannot be one.
pub const NOTHING: &str = "–";

/// Between a number and its unit no line ends.
pub const NBSP: char = '\u{a0}';

/// A duration in milliseconds.
pub fn ms(ms: f64) -> String {
    match ms {
        _ if ms <= 0.0 => format!("0{NBSP}ms"),
        _ if ms < 0.995 => format!("{ms:.2}{NBSP}ms"),
        _ if ms < 9.95 => format!("{ms:.1}{NBSP}ms"),
        _ if ms < 999.5 => format!("{ms:.0}{NBSP}ms"),
        _ if ms < 9_950.0 => format!("{:.1}{NBSP}s", ms / 1e3),
        _ if ms < 59_500.0 => format!("{:.0}{NBSP}s", ms / 1e3),
        // What is no number at all is no age either.
        _ if ms.is_finite() => age(ms as u64).replace(' ', "\u{a0}"),
        _ => UNKNOWN.to_owned(),
    }
}

pub fn seconds(s: f64) -> String {
    ms(s * 1e3)
}

/// How long after something.
pub fn after(s: f64) -> String {
    if s < 0.05 { "at once".to_owned() } else { format!("{} after", seconds(s)) }
}

/// A number of things; decimals where there are few.
pub fn number(n: f64) -> String {
    match n.abs() {
        few if few < 10.0 && (n - n.round()).abs() > 0.005 => format!("{n:.1}"),
        _ => grouped(n.max(0.0).round() as u64),
    }
}

/// A number in little room: `12k`, `1.5M`.
pub fn short(n: f64) -> String {
    let digits = |n: f64| format!("{}", (n * 10.0).round() / 10.0);
    match n.abs() {
        large if large >= 1e6 => format!("{}M", digits(n / 1e6)),
        large if large >= 1e4 => format!("{}k", digits(n / 1e3)),
        // `-0` is nothing to show.
        small if small < 10.0 => format!("{}", (n * 100.0).round() / 100.0 + 0.0),
        _ => number(n),
    }
}

/// A number of bytes.
pub fn bytes(n: f64) -> String {
    let (n, unit) = match n {
        _ if n < 1e3 => (n, "B"),
        _ if n < 1e6 => (n / 1e3, "kB"),
        _ if n < 1e9 => (n / 1e6, "MB"),
        _ => (n / 1e9, "GB"),
    };
    if n < 9.95 && unit != "B" { format!("{n:.1}{NBSP}{unit}") } else { format!("{n:.0}{NBSP}{unit}") }
}

/// A part of all, from 0 to 100.
pub fn percent(percent: f64) -> String {
    match percent {
        _ if percent <= 0.0 => format!("0{NBSP}%"),
        _ if percent < 0.1 => format!("less than 0.1{NBSP}%"),
        _ if percent < 9.95 => format!("{percent:.1}{NBSP}%"),
        _ if percent < 99.5 => format!("{percent:.0}{NBSP}%"),
        _ if percent < 99.9 => format!("{percent:.1}{NBSP}%"),
        _ if percent < 100.0 => format!("more than 99.9{NBSP}%"),
        _ => format!("100{NBSP}%"),
    }
}

/// As `percent`, in a sentence: none, all, or how many of a hundred.
pub fn part(of_hundred: f64) -> String {
    match of_hundred {
        none if none <= 0.0 => "none".to_owned(),
        all if all >= 100.0 => "all".to_owned(),
        some => percent(some),
    }
}

/// What there may be no figure of.
pub fn or_unknown<T>(value: Option<T>, said: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: impl Fn(f64) -> String, cases: &[(f64, &str)]) {
        for (value, expectation) in cases {
            assert_eq!(said(*value).replace(NBSP, " "), *expectation, "{value}");
        }
    }

    #[test]
    fn durations() {
        check(
            ms,
            &[
                (0.0, "0 ms"),
                (0.42, "0.42 ms"),
                (4.14, "4.1 ms"),
                (9.97, "10 ms"),
                (412.4, "412 ms"),
                (5012.0, "5.0 s"),
                (12_400.0, "12 s"),
                (252_000.0, "4 min 12 s"),
                (f64::NAN, "not measured"),
            ],
        );
        check(seconds, &[(8.04, "8.0 s"), (0.25, "250 ms")]);
        check(after, &[(0.0, "at once"), (8.04, "8.0 s after")]);
    }

    #[test]
    fn numbers_and_bytes() {
        check(number, &[(0.0, "0"), (0.25, "0.2"), (3.0, "3"), (12_400.4, "12,400"), (-1.0, "0")]);
        check(
            short,
            &[(0.0, "0"), (0.25, "0.25"), (400.0, "400"), (1200.0, "1,200"), (12_500.0, "12.5k"), (2e6, "2M")],
        );
        check(bytes, &[(0.0, "0 B"), (640.0, "640 B"), (4_100.0, "4.1 kB"), (410_000.0, "410 kB"), (2.5e9, "2.5 GB")]);
    }

    #[test]
    fn parts() {
        check(
            percent,
            &[
                (0.0, "0 %"),
                (0.02, "less than 0.1 %"),
                (3.12, "3.1 %"),
                (31.2, "31 %"),
                (99.7, "99.7 %"),
                (99.97, "more than 99.9 %"),
                (100.0, "100 %"),
            ],
        );
        check(part, &[(0.0, "none"), (31.2, "31 %"), (100.0, "all")]);
    }
}
