//! The top of the screen: who is asked, how fresh the answer is, the big numbers, and what is wrong in one sentence.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::super::state::State;
use super::super::theme::Theme;
use super::grid::{Column, Grid, cut, width_of, wrapped};
use crate::admin::diagnosis::{LATE_MS, Severity};
use crate::admin::status::{Finding, Status};
use crate::words::{age, grouped, harmless, rate};

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
    let is_late = totals.unparked_lag_ms >= LATE_MS;
    let worst = status.findings.iter().map(Severity::of).max();
    let of_late = match worst.filter(|severity| is_late && *severity > Severity::Calm) {
        Some(severity) => theme.severity(severity).1.add_modifier(Modifier::BOLD),
        None => theme.strong(),
    };
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
        (age(totals.unparked_lag_ms) + arrow(time_trend, 200.0), of_late),
        (message_lag + arrow(message_trend, 1.0), of_late),
        (rate(totals.durable_per_s), theme.strong()),
        (rate(totals.fetched_per_s), theme.strong()),
        (parked, some(totals.parked_keys)),
        (grouped(totals.dead_letters), some(totals.dead_letters)),
    ];
    vec![grid.header(theme.faint()), grid.row(cells)]
}

/// What is wrong, in at most so many lines, and how much more there is.
pub fn sentence(theme: Theme, status: &Status, width: usize, lines_max: usize) -> Vec<Line<'static>> {
    // There is always one; a program that says otherwise is another one.
    let Some((first, more)) = status.findings.split_first() else { return Vec::new() };
    let rest = if more.is_empty() { String::new() } else { format!(" (+{})", more.len()) };
    finding(theme, first, &rest, width, lines_max)
}

/// A finding: its symbol, its culprit, its text, and what follows it.
pub fn finding(theme: Theme, found: &Finding, rest: &str, width: usize, lines_max: usize) -> Vec<Line<'static>> {
    let (symbol, style) = theme.severity(Severity::of(found));
    let text = format!("{symbol} {}{}", culprit(found), harmless(&found.text));
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

/// "DATABASE B │ ", or nothing where nobody is to blame.
fn culprit(found: &Finding) -> String {
    let name = found.name.as_deref().map(|name| format!(" {}", harmless(name))).unwrap_or_default();
    match found.culprit.as_str() {
        "nobody" => String::new(),
        "purpose" => format!("ON PURPOSE{} │ ", name.to_uppercase()),
        culprit => format!("{}{} │ ", harmless(culprit).to_uppercase(), name.to_uppercase()),
    }
}

/// When it will be over, or that it gets worse; for beside the curves.
pub fn outlook(state: &State, status: &Status) -> String {
    let (Some(trend), Some(lag)) = (state.history.message_trend(), status.totals.message_lag) else {
        return String::new();
    };
    match trend {
        trend if trend > 1.0 => format!("+{}/s", rate(trend)),
        trend if trend < -1.0 && status.totals.unparked_lag_ms >= LATE_MS => {
            format!("-{}/s, done in {}", rate(-trend), age((lag as f64 / -trend * 1000.0) as u64))
        }
        trend if trend < -1.0 => format!("-{}/s", rate(-trend)),
        _ => String::new(),
    }
}
