//! The top of the screen: who is asked, how fresh the answer is, the big numbers, and what is wrong in one sentence.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::state::State;
use super::super::theme::Theme;
use super::grid::{Column, Grid, cut, width_of, wrapped};
use crate::admin::diagnosis::{Culprit, Finding, LATE_MS, diagnosis, late_ms};
use crate::admin::status::Status;
use crate::admin::words::{age, grouped, harmless, rate};

/// A minute late is more than late.
const VERY_LATE_MS: u64 = 60_000;

/// An answer older than that is no news.
const STALE_MS: u64 = 5_000;

/// The first line, and a second one where something is wrong: never dimmed.
pub fn title(state: &State, width: usize) -> Vec<Line<'static>> {
    let theme = state.theme;
    let (left, (right, style)) = match state.last() {
        Some(status) => (who(status), freshness(state, status)),
        None => (harmless(&state.target), ("no answer yet".to_owned(), theme.warn())),
    };
    let left = cut(&left, width.saturating_sub(width_of(&right) + 10));
    let gap = " ".repeat(width.saturating_sub(width_of(&left) + width_of(&right) + 9));
    let mut lines = vec![Line::from(vec![
        Span::styled("forebay", theme.title()),
        Span::raw("  "),
        Span::styled(left, theme.strong()),
        Span::raw(gap),
        Span::styled(right, style),
    ])];
    let reasons = state.last().map(|status| status.ready.reasons.as_slice()).unwrap_or_default();
    if let Some(outage) = &state.outage {
        lines.push(Line::styled(cut(&format!("  {}", outage.failure), width), theme.bad()));
    } else if !reasons.is_empty() {
        let reasons: Vec<String> = reasons.iter().map(|reason| harmless(reason)).collect();
        lines.push(Line::styled(cut(&format!("  {}", reasons.join("; ")), width), theme.warn()));
    }
    lines
}

fn who(status: &Status) -> String {
    let process = &status.process;
    let up = u64::try_from(process.now_ms.saturating_sub(process.started_at_ms)).unwrap_or(0);
    let (group, host, version) = (harmless(&process.group), harmless(&process.host), harmless(&process.version));
    format!("{group} on {host} · {version} · up {} · pid {}", age(up), process.pid)
}

fn freshness(state: &State, status: &Status) -> (String, Style) {
    let theme = state.theme;
    let since = |at: std::time::Duration| state.now.saturating_sub(at).as_millis() as u64;
    if let Some(outage) = &state.outage {
        let since = age(since(outage.since));
        return (format!("✗ NO ANSWER for {since}"), theme.bad());
    }
    let answered = since(state.status.as_ref().map_or(state.now, |(_, at)| *at));
    let ready = match (status.process.leaving, status.ready.ready) {
        (true, _) => ("! draining", theme.warn()),
        (false, true) => ("✓ ready", theme.good()),
        (false, false) => ("✗ NOT READY", theme.bad()),
    };
    let style = if answered >= STALE_MS { theme.bad() } else { ready.1 };
    (format!("{} · {} ago", ready.0, age(answered)), style)
}

const NUMBERS: [Column; 6] = [
    Column::left("TIME LAG", 14),
    Column::left("MESSAGE LAG", 16),
    Column::left("DURABLE/s", 11),
    Column::left("FETCHED/s", 11),
    Column::left("PARKED", 12),
    Column::left("DEAD", 0),
];

/// Two lines.
pub fn numbers(state: &State, status: &Status, width: usize) -> Vec<Line<'static>> {
    let (theme, totals) = (state.theme, &status.totals);
    let late = late_ms(status);
    let of_late = match late {
        late if late >= VERY_LATE_MS => theme.bad(),
        late if late >= LATE_MS => theme.warn(),
        _ => theme.strong(),
    };
    let stands = late >= LATE_MS && totals.durable_per_s < 0.5;
    let some = |number: u64| if number > 0 { theme.warn() } else { theme.strong() };
    let parked = match (totals.parked_keys, totals.parked_records) {
        (0, 0) => "0".to_owned(),
        (keys, records) => format!("{} ({})", grouped(keys), grouped(records)),
    };
    let arrow = |trend: Option<f64>, least: f64| match trend {
        Some(trend) if trend > least => " ▲",
        Some(trend) if trend < -least => " ▼",
        _ => "",
    };
    let grid = Grid::new(&NUMBERS, width);
    let (time_trend, message_trend) = (state.history.time_trend(), state.history.message_trend());
    let message_lag = totals.message_lag.map_or("?".to_owned(), grouped);
    let cells = vec![
        (age(totals.time_lag_ms) + arrow(time_trend, 200.0), of_late),
        (message_lag + arrow(message_trend, 1.0), of_late),
        (rate(totals.durable_per_s), if stands { theme.bad() } else { theme.strong() }),
        (rate(totals.fetched_per_s), theme.strong()),
        (parked, some(totals.parked_keys)),
        (grouped(totals.dead_letters), some(totals.dead_letters)),
    ];
    vec![grid.header(theme.faint()), grid.row(cells)]
}

/// What is wrong, in at most so many lines, and how much more there is.
pub fn sentence(theme: Theme, status: &Status, width: usize, lines_max: usize) -> Vec<Line<'static>> {
    let found = diagnosis(status);
    let more = found.len() - 1;
    let rest = if more > 0 { format!(" (+{more})") } else { String::new() };
    let first = &found[0];
    finding(theme, first, &rest, width, lines_max)
}

/// A finding: its symbol, its culprit, its text, and what follows it.
pub fn finding(theme: Theme, found: &Finding, rest: &str, width: usize, lines_max: usize) -> Vec<Line<'static>> {
    let (symbol, style) = theme.severity(found.severity);
    let culprit = match found.culprit {
        Culprit::Nobody => String::new(),
        ref culprit => format!("{} │ ", culprit.to_string().to_uppercase()),
    };
    let text = format!("{symbol} {culprit}{}", found.text);
    let mut texts = wrapped(&format!("{text}{rest}"), width);
    if texts.len() > lines_max {
        // The last line is filled, whatever words it breaks, and what follows stays in sight.
        texts.truncate(lines_max.saturating_sub(1));
        let before: usize = texts.iter().map(|text| text.chars().count() + 1).sum();
        let last: String = text.chars().skip(before).collect();
        texts.push(cut(&last, width.saturating_sub(width_of(rest))) + rest);
    }
    texts.into_iter().map(|text| Line::styled(text, style)).collect()
}

/// When it will be over, or that it gets worse; for beside the curves.
pub fn outlook(state: &State, status: &Status) -> String {
    let (Some(trend), Some(lag)) = (state.history.message_trend(), status.totals.message_lag) else {
        return String::new();
    };
    match trend {
        trend if trend > 1.0 => format!("+{}/s", rate(trend)),
        trend if trend < -1.0 && late_ms(status) >= LATE_MS => {
            format!("-{}/s, done in {}", rate(-trend), age((lag as f64 / -trend * 1000.0) as u64))
        }
        trend if trend < -1.0 => format!("-{}/s", rate(-trend)),
        _ => String::new(),
    }
}
