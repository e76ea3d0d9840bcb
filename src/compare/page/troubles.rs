//! The same trouble in both modes, beside each other: what clients saw of it, how late rows were, and which alert says so now.

use super::figures::{NOTHING, UNKNOWN, after, ms, number, or_unknown, percent};
use super::markup::{Markup, classed, el, foreign, plain};
use super::pairs::{MODES, Pair, Trouble};
use super::section::{at_rate, scrolling};
use crate::compare::findings::{Effect, Kind, Mode, Times};

/// What tells an operator of a trouble that goes on, in async.
pub const ALERTS: [(Kind, &[&str]); 4] = [
    (Kind::RowLocked, &["ForebayBackendsBlocked", "ForebayKeysParkedLong"]),
    (Kind::Checkpoint, &["ForebayTimeLagHigh"]),
    (Kind::ShardStopped, &["ForebayShardDown", "ForebayNotReady"]),
    (Kind::Burst, &["ForebayMessageLagGrows", "ForebayTimeLagGrows"]),
];

struct Column {
    name: &'static str,
    value: fn(&Effect) -> String,
}

/// In both modes.
const OF_BOTH: [Column; 3] = [
    Column { name: "failed", value: |effect| percent(effect.error_percent) },
    Column { name: "answered, p99", value: |effect| p99(effect.request_ms) },
    Column { name: "durable, p99", value: |effect| p99(effect.durable_ms) },
];

/// In async only.
const OF_ASYNC: [Column; 2] = [
    Column { name: "message lag", value: |effect| or_unknown(effect.message_lag_max, |lag| number(lag as f64)) },
    Column { name: "all written", value: |effect| effect.caught_up_after_s.map_or(NOTHING.to_owned(), after) },
];

fn p99(times: Option<Times>) -> String {
    or_unknown(times, |times| ms(times.p99))
}

pub fn section(pairs: &[Pair<'_>]) -> Markup {
    let head = el("h2", &[("id", &"troubles-title")], "The same trouble, before and after");
    let tables: Markup = pairs.iter().map(|pair| plain("h3", at_rate(pair)).and(table(pair))).collect();
    let note = "Times are from when a request was due: until its answer, where a time-out counts as the time it took, and until its row \
                was written (its COMMIT follows), of what was accepted. Each of these alerts waits for minutes before it fires: what heals by itself before \
                that wakes nobody.";
    let inside = head.and(tables).and(classed("p", "note", note));
    el("section", &[("id", &"troubles"), ("aria-labelledby", &"troubles-title")], inside)
}

fn table(pair: &Pair<'_>) -> Markup {
    let th = |scope: &'static str, text: &str| el("th", &[("scope", &scope)], text);
    let group = |name: &str, columns: usize| el("th", &[("scope", &"colgroup"), ("colspan", &columns)], name);
    let (both, queued) = (OF_BOTH.len(), OF_BOTH.len() + OF_ASYNC.len());
    let groups = plain("td", "").and(group("sync", both)).and(group("async", queued)).and(plain("td", ""));
    let names: Markup = MODES.into_iter().flat_map(columns).map(|column| th("col", column.name)).collect();
    let names = th("col", "trouble").and(names).and(th("col", "alert, in async"));
    let row = |one: &Trouble<'_>| {
        let cells: Markup = MODES.into_iter().map(|mode| cells(one, mode)).collect();
        let what = el("th", &[("scope", &"row")], foreign(&one.label));
        plain("tr", what.and(cells).and(plain("td", alerts(one.kind))))
    };
    let rows: Markup = pair.troubles().iter().map(row).collect();
    let head = plain("thead", plain("tr", groups).and(plain("tr", names)));
    let rows =
        if rows.is_empty() { plain("tr", el("td", &[("colspan", &(both + queued + 2))], UNKNOWN)) } else { rows };
    scrolling(&at_rate(pair), head.and(plain("tbody", rows)))
}

fn columns(mode: Mode) -> impl Iterator<Item = &'static Column> {
    let of_async: &[Column] = if mode == Mode::Async { &OF_ASYNC } else { &[] };
    OF_BOTH.iter().chain(of_async)
}

fn cells(one: &Trouble<'_>, mode: Mode) -> Markup {
    let Some(effect) = one.effect(mode) else {
        let columns = columns(mode).count();
        return el("td", &[("class", &"number"), ("colspan", &columns)], UNKNOWN);
    };
    let cell = |(index, column): (usize, &Column)| {
        let is_bad = index == 0 && effect.error_percent > 0.0;
        classed("td", if is_bad { "number bad" } else { "number" }, (column.value)(effect))
    };
    columns(mode).enumerate().map(cell).collect()
}

fn alerts(kind: Option<Kind>) -> Markup {
    let found = ALERTS.iter().find(|(one, _)| Some(*one) == kind).map_or(&[][..], |(_, alerts)| alerts);
    found.iter().map(|alert| plain("code", *alert).and(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{pairs, samples};
    use super::*;

    const RULES: &str = include_str!("../../../deploy/prometheus/forebay-alerts.yml");

    #[test]
    fn each_alert_waits_for_minutes() {
        for alert in ALERTS.iter().flat_map(|(_, alerts)| *alerts) {
            let rule = RULES.split("- alert: ").find(|rule| rule.lines().next() == Some(*alert)).expect("delivered");
            let waits = rule.lines().find_map(|line| line.trim().strip_prefix("for: ")).expect("how long it waits");
            let minutes = waits.strip_suffix('m').and_then(|minutes| minutes.parse::<u32>().ok());
            assert!(minutes.is_some_and(|minutes| minutes >= 2), "{alert}: {waits}");
        }
    }

    #[test]
    fn a_trouble_stands_in_one_row_for_both() {
        let findings = samples::normal();
        let html = section(&pairs::pairs(&findings)).into_string().replace('\u{a0}', " ");
        let row = html.split("<tr>").find(|row| row.contains("shard b stopped")).expect("a row");
        let cells: Vec<&str> = row.split("<td").skip(1).filter_map(|cell| cell.split(['>', '<']).nth(1)).collect();
        assert_eq!(cells[..8], ["31 %", "1.0 s", "9.8 ms", "0 %", "6.4 ms", "10 s", "12,400", "8.0 s after"], "{row}");
        assert!(row.contains("ForebayShardDown"));
    }

    #[test]
    fn what_one_mode_did_not_have_is_not_measured() {
        let findings = samples::one_mode();
        let html = section(&pairs::pairs(&findings)).into_string();
        assert!(html.contains("colspan=\"5\">not measured"), "{html}");
        let findings = samples::empty_runs();
        assert!(section(&pairs::pairs(&findings)).into_string().contains("colspan=\"10\">not measured"));
    }
}
