//! A plan for people: what it is, the arithmetic behind it, what it rests on. And for programs: all of it as JSON, whose fields are only
//! ever added to within one [`VERSION`].

use std::fmt::Write;

use serde::Serialize;

use crate::planner::limits::ServerLimits;
use crate::planner::measure::Measured;
use crate::planner::plan::{Decision, Plan, Traffic};
use crate::planner::simulate::Simulated;
use crate::planner::wish::{Assumption, Wish, seconds};
use crate::planner::write::range;
use crate::words::{GIB, MIB, counted, grouped, rate};

/// Of the JSON's form.
pub const VERSION: u32 = 1;

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub version: u32,
    pub forebay: String,
    pub wish: Wish,
    pub servers: Vec<ServerLimits>,
    pub measured: Option<Measured>,
    pub assumptions: Vec<Assumption>,
    #[serde(flatten)]
    pub decision: Decision,
    pub simulated: Option<Simulated>,
    /// Files that were written.
    pub written: Vec<String>,
}

/// All of it but the simulation, which speaks for itself.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(plan) = &report.decision.plan {
        summary(&mut text, plan, &report.wish);
    }
    if let Some(measured) = &report.measured {
        section(&mut text, &format!("Measured at shard {}", measured.shard));
        text.push_str(&measured.table());
    }
    section(&mut text, "Arithmetic");
    let width = report.decision.steps.iter().map(|step| step.of.chars().count()).max().unwrap_or(0);
    let mut of = "";
    for step in &report.decision.steps {
        let head = if step.of == of { "" } else { step.of };
        of = step.of;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {head:<width$}  {}", step.text);
    }
    if !report.assumptions.is_empty() {
        section(&mut text, "Assumed, because nobody said otherwise");
        let rows = report.assumptions.iter().map(|a| (a.value.as_str(), a.what.as_str(), a.option.as_str()));
        let rows: Vec<_> = rows.collect();
        let width = |of: fn(&(&str, &str, &str)) -> usize| rows.iter().map(of).max().unwrap_or(0);
        let (values, whats) = (width(|r| r.0.chars().count()), width(|r| r.1.chars().count()));
        for (value, what, option) in &rows {
            let _ = writeln!(text, "  {value:>values$}  {what:<whats$}  {option}");
        }
    }
    for warning in &report.decision.warnings {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    for refusal in &report.decision.refusals {
        let _ = writeln!(text, "\nREFUSED: {}\n  what can be, one of:", refusal.why);
        for nearest in &refusal.nearest {
            let _ = writeln!(text, "  - {nearest}");
        }
    }
    let written = report.written.iter().map(|file| format!("written: {file}\n")).collect::<String>();
    if !written.is_empty() {
        let _ = write!(text, "\n{written}");
    }
    text
}

fn section(text: &mut String, title: &str) {
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{gap}{title}");
}

fn summary(text: &mut String, plan: &Plan, wish: &Wish) {
    let rows = [
        ("databases", counted(plan.shards as u64, "shard")),
        (
            "processes",
            format!(
                "{}, of which {} may fail; at most {:.0} MiB of records each",
                plan.processes,
                plan.spare_processes,
                plan.process_memory_bytes as f64 / MIB
            ),
        ),
        (
            "for each shard",
            format!(
                "workers_per_shard = {}, lanes = {}, batch_records_max = {}",
                plan.workers_per_shard, plan.lanes, plan.batch_records_max
            ),
        ),
        (
            "connections",
            format!(
                "{} of a process, {} of all, to each shard; there are {}",
                plan.connections_per_process,
                plan.connections_per_shard,
                grouped(plan.connections_room.max(0) as u64)
            ),
        ),
        ("partitions", partitions(plan)),
        (
            "Kafka keeps",
            format!(
                "{}: {} GiB on all brokers, {} copies",
                seconds(plan.retention_s),
                grouped((plan.kafka_bytes / GIB).ceil() as u64),
                plan.replication
            ),
        ),
        (
            "capacity",
            format!(
                "{}/s with {} failed, if the busiest shard has {} of an even part",
                rate(plan.capacity_per_s),
                plan.spare_processes,
                wish.busiest_shard
            ),
        ),
        ("at the mean", traffic(&plan.at_mean)),
        ("at the peak", traffic(&plan.at_peak)),
        (
            "time lag",
            format!(
                "{} at the end of a peak until rows are durable; forebay_time_lag_seconds also waits for Kafka's commit, once each \
                 commit_interval_ms",
                seconds(plan.time_lag_s)
            ),
        ),
        ("catching up", format!("{} after {} of outage", seconds(plan.catch_up_s.ceil()), seconds(wish.outage_s))),
        (
            "breaks first",
            plan.breaks.first().map_or(String::new(), |first| format!("at {}/s: {}", rate(first.at_per_s), first.what)),
        ),
    ];
    section(
        text,
        &format!(
            "A plan for {}/s (peaks of {}, {}/s on average, {} bytes each)",
            rate(wish.peak_per_s),
            seconds(wish.burst_s),
            rate(wish.mean_per_s),
            grouped(wish.record_bytes as u64)
        ),
    );
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<width$}  {value}");
    }
}

/// Nothing is aligned before somebody says which are whose.
fn partitions(plan: &Plan) -> String {
    let Plan { partitions, partitions_per_shard, shards, .. } = plan;
    match shards {
        1 => format!("{partitions}, all of the one shard"),
        _ => format!(
            "{partitions} = {partitions_per_shard} × {shards} shards, aligned where each declares its own: partitions = \"{}\" and so on",
            range(plan, 0)
        ),
    }
}

fn traffic(of: &Traffic) -> String {
    format!(
        "busiest shard {} rows/s, {} transactions/s of {}, {} at work{}; a transaction takes {}",
        rate(of.shard_per_s),
        rate(of.transactions_per_s),
        counted(of.batch_records.round() as u64, "record"),
        counted(of.connections_at_work as u64, "connection"),
        if of.waits { ", records wait" } else { "" },
        seconds(of.transaction_s)
    )
}
