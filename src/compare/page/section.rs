//! One metric's part of the page: what was found, a chart for each mode on the same scales, the totals, and what replaces what.

use super::chart::{Band, Chart, Line};
use super::figures::{UNKNOWN, number};
use super::markup::{Markup, classed, el, foreign, plain};
use super::metrics::{Column, Metric, Panel, Series, Thinned, When};
use super::pairs::{MODES, Pair, label};
use super::scale::Scale;
use crate::compare::findings::{Kind, Mode, Run, Sample};

/// Of a line. More of them are not to be told apart, and make the file large.
const POINTS_MAX: usize = 600;

/// What was written after the last request gets a band of its own where it is at least so much of the axis.
const DRAIN_SHOWN_FROM: f64 = 0.02;

pub fn section(metric: &Metric, pairs: &[Pair<'_>]) -> Markup {
    let id = format!("{}-title", metric.id);
    let finding = pairs.iter().find_map(|pair| (metric.claim)(pair));
    let told = finding.as_deref().map_or_else(|| Markup::from(UNKNOWN), foreign);
    let mut inside = classed("p", "metric", metric.name).and(el("h2", &[("id", &id)], told));
    for pair in pairs {
        inside = inside.and(side_by_side(metric, pair, finding.as_deref()));
    }
    inside = inside.and(totals(metric, pairs)).and(replaces(metric));
    el("section", &[("id", &metric.id), ("aria-labelledby", &id)], inside)
}

/// A rate, as a heading says it.
pub fn at_rate(pair: &Pair<'_>) -> String {
    let what = if pair.what.is_empty() { String::new() } else { format!(", {}", pair.what) };
    format!("At {} requests a second{what}", number(pair.rate as f64))
}

fn side_by_side(metric: &Metric, pair: &Pair<'_>, said_above: Option<&str>) -> Markup {
    // What the section's heading says is not said twice.
    let claim = (metric.claim)(pair).filter(|claim| Some(claim.as_str()) != said_above);
    let claim = claim.map(|claim| plain("p", foreign(&claim))).unwrap_or_default();
    let charts: Markup = metric.panels.iter().map(|panel| classed("div", "row", charts(panel, pair))).collect();
    classed("div", "pair", plain("h3", at_rate(pair)).and(claim).and(charts))
}

/// The charts of both modes: the same scales, so that a glance compares.
fn charts(panel: &Panel, pair: &Pair<'_>) -> Markup {
    let lines = |run: &Run| panel.series.iter().map(|series| line(series, &run.samples)).collect::<Vec<Line>>();
    let of = |mode: Mode| pair.run(mode).map(lines).unwrap_or_default();
    let all = MODES.map(of);
    let values = all.iter().flatten().flat_map(|line| &line.points).filter_map(|(_, value)| *value);
    let scale = Scale::of(values, panel.may_be_log);
    let end = pair.end();
    let figure = |(mode, lines): (Mode, Vec<Line>)| {
        let bands = pair.run(mode).map(|run| bands(run, end)).unwrap_or_default();
        let name = format!("{}: {}", mode.word(), panel.name);
        Chart { name: &name, lines, bands: &bands, scale, end, unit: panel.unit, unit_short: panel.unit_short }.figure()
    };
    MODES.into_iter().zip(all).map(figure).collect()
}

fn line(series: &Series, samples: &[Sample]) -> Line {
    let seconds = samples.len().div_ceil(POINTS_MAX).max(1);
    let point = |samples: &[Sample]| {
        let first = samples.first().map_or(0.0, |sample| f64::from(sample.second));
        let at = match series.when {
            When::Throughout => first + samples.len() as f64 / 2.0,
            When::AtItsEnd => first + samples.len() as f64,
        };
        let values: Vec<f64> = samples.iter().filter_map(series.value).filter(|value| value.is_finite()).collect();
        let value = match series.thinned {
            _ if values.is_empty() => None,
            Thinned::Mean => Some(values.iter().sum::<f64>() / values.len() as f64),
            Thinned::Most => values.into_iter().reduce(f64::max),
        };
        (at, value)
    };
    Line { name: series.name, class: series.class, points: samples.chunks(seconds).map(point).collect() }
}

fn bands(run: &Run, end: f64) -> Vec<Band> {
    let came = run.disturbances.iter().filter(|one| one.effect.is_some());
    let mut bands: Vec<Band> = came
        .map(|one| Band { label: label(one), class: class(one.kind), from_s: one.from_s, to_s: one.to_s })
        .collect();
    bands.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    let sampled = run.samples.last().map_or(0.0, |sample| f64::from(sample.second) + 1.0);
    if sampled - run.seconds > end * DRAIN_SHOWN_FROM {
        bands.push(Band { label: "nothing sent".into(), class: "drain", from_s: run.seconds, to_s: sampled });
    }
    bands
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::RowLocked => "row-locked",
        Kind::Checkpoint => "checkpoint",
        Kind::ShardStopped => "shard-stopped",
        Kind::Burst => "burst",
    }
}

/// A row for each mode and rate.
fn totals(metric: &Metric, pairs: &[Pair<'_>]) -> Markup {
    let head = |column: &Column| el("th", &[("scope", &"col")], column.name);
    let head = el("th", &[("scope", &"col")], "whole run").and(metric.totals.iter().map(head).collect::<Markup>());
    let row = |pair: &Pair<'_>, mode: Mode| {
        let cell = |column: &Column| {
            let value = pair.run(mode).and_then(column.value);
            classed("td", "number", value.unwrap_or_else(|| column.nothing(mode, pair.run(mode).is_some()).to_owned()))
        };
        let what = format!("{}, {}/s", mode.word(), number(pair.rate as f64));
        let what = el("th", &[("scope", &"row")], what);
        plain("tr", what.and(metric.totals.iter().map(cell).collect::<Markup>()))
    };
    let rows: Markup = pairs.iter().flat_map(|pair| MODES.map(|mode| row(pair, mode))).collect();
    scrolling(&format!("Totals: {}", metric.name), plain("thead", plain("tr", head)).and(plain("tbody", rows)))
}

/// A table that scrolls in a frame of its own where it is too wide, with the keyboard, too.
pub fn scrolling(caption: &str, rows: Markup) -> Markup {
    let table = plain("table", classed("caption", "unseen", caption).and(rows));
    el("div", &[("class", &"scroll"), ("tabindex", &"0"), ("role", &"region"), ("aria-label", &caption)], table)
}

fn replaces(metric: &Metric) -> Markup {
    let alert = |(alert, says): &(&str, &str)| plain("li", plain("code", *alert).and(format!(": {says}")));
    let alerts = plain("ul", metric.alerts.iter().map(alert).collect::<Markup>());
    let entry = |term: &str, told: Markup| plain("div", plain("dt", term).and(plain("dd", told)));
    let entries = entry("Before, in sync", metric.before.into())
        .and(entry("After, in async", metric.after.into()))
        .and(entry(&format!("Alerts from now on, instead of {}", metric.instead_of), alerts));
    classed("dl", "replaces", entries)
}
