//! How numbers, durations, lists and other people's texts are said to people. Nothing here writes anything.

use std::fmt::Write;

/// Of bytes.
pub const MIB: f64 = 1_048_576.0;
pub const GIB: f64 = 1_073_741_824.0;

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and what it counts: `1 key`, `1,200 keys`.
pub fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// `a`, `a and b`, `a, b and c`.
pub fn listed(names: &[String]) -> String {
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => names.join(""),
    }
}

/// A duration in milliseconds: the two largest units that say something.
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{seconds}.{} s", ms % 1000 / 100),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// So many a second; a decimal where there are few.
pub fn rate(per_s: f64) -> String {
    if per_s > 0.0 && per_s < 10.0 { format!("{per_s:.1}") } else { grouped(per_s.max(0.0).round() as u64) }
}

/// 0 to 1 as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).clamp(0.0, 100.0))
}

/// The most marks that one character may carry: some scripts need two, and a hundred cover half the screen.
const MARKS_MAX: usize = 2;

/// A text from anywhere, without a character that does anything but show itself: control characters, line ends, marks of
/// direction, characters without a shape and piles of accents come as escapes.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\') {
            shown.push(c);
            marks = 0;
            continue;
        }
        let escaped = c.escape_debug().len() > 1;
        // `escape_debug` escapes marks, too, which belong to the character before them.
        let is_mark = escaped && is_mark(c);
        marks = if is_mark { marks + 1 } else { 0 };
        match (escaped, is_mark && marks <= MARKS_MAX && !shown.is_empty()) {
            (true, false) => drop(write!(shown, "{}", c.escape_debug())),
            _ => shown.push(c),
        }
    }
    shown
}

/// Of the combining marks, those of living scripts that mean nothing by themselves.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}' | '\u{900}'..='\u{903}' | '\u{93a}'..='\u{94f}' | '\u{e31}'..='\u{e4e}'
        | '\u{3099}' | '\u{309a}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, expectation) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expectation);
        }
        assert_eq!((counted(1, "key"), counted(1200, "key")), ("1 key".to_owned(), "1,200 keys".to_owned()));
    }

    #[test]
    fn names_are_listed() {
        let list = |names: &[&str]| listed(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            [list(&[]), list(&["a"]), list(&["a", "b"]), list(&["a", "b", "c"])],
            ["", "a", "a and b", "a, b and c"]
        );
    }

    #[test]
    fn ages_as_people_say_them() {
        for (ms, expectation) in [
            (0, "0.0 s"),
            (950, "0.9 s"),
            (9_999, "9.9 s"),
            (10_000, "10 s"),
            (252_000, "4 min 12 s"),
            (7_260_000, "2 h 1 min"),
            (176_400_000, "2 d 1 h"),
        ] {
            assert_eq!(age(ms), expectation);
        }
    }

    #[test]
    fn rates_and_shares() {
        assert_eq!([0.0, 0.25, 9.4, 1234.5, -1.0, f64::NAN].map(rate), ["0", "0.2", "9.4", "1,235", "0", "0"]);
        assert_eq!([0.0, 0.456, 2.0].map(percent), ["0 %", "46 %", "100 %"]);
    }

    #[test]
    fn texts_from_anywhere_do_nothing() {
        for (text, expectation) in [
            ("app:subscription-1", "app:subscription-1"),
            (r#"{"a": 'b\c'}"#, r#"{"a": 'b\c'}"#),
            ("größe 漢字 🙂 क्षि", "größe 漢字 🙂 क्षि"),
            ("e\u{301}", "e\u{301}"),
            ("\u{1b}[2J\u{7}\n\t\0", r"\u{1b}[2J\u{7}\n\t\0"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("a\u{202e}b\u{200d}c\u{feff}", r"a\u{202e}b\u{200d}c\u{feff}"),
            ("a\u{301}\u{301}\u{301}", "a\u{301}\u{301}\\u{301}"),
            ("\u{301}a", "\\u{301}a"),
            ("a\u{fe0f}", r"a\u{fe0f}"),
        ] {
            assert_eq!(harmless(text), expectation);
        }
    }
}
