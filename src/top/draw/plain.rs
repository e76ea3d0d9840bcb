//! Everything at once as text without any style: what `--once` prints, and what a mail or a ticket can take.

use ratatui::text::Line;

use super::super::rows;
use super::super::state::State;
use super::{grid, head, keys, overview, panel::Panel, partitions, shards, topics};
use crate::words::harmless;

/// Of the partitions furthest behind, and of the keys that stand out.
const ROWS_MAX: usize = 20;

/// The widest that a sentence gets.
const WIDTH: usize = 120;

pub fn text(state: &State) -> String {
    let mut lines = head::title(state, WIDTH);
    let Some(status) = state.last() else { return joined(&lines) };
    lines.extend(head::numbers(state, status, WIDTH));
    for found in &status.findings {
        lines.extend(head::finding(state.theme, found, "", WIDTH, usize::MAX));
    }
    section(&mut lines, "", Panel { head: Vec::new(), ..overview::panel(state, WIDTH, 0) });
    let worst = rows::furthest(state).into_iter().next();
    if let Some(worst) = worst.filter(|partition| partition.frontier.is_some()) {
        lines.extend(partitions::detail(state, worst, WIDTH));
    }
    for shard in rows::shards(state) {
        lines.push(Line::raw(""));
        lines.push(Line::raw(format!("Shard {}", grid::cut(&harmless(&shard.name), WIDTH))));
        lines.extend(shards::detail(state.theme, status, shard, WIDTH));
    }
    let of_topics = topics::panel(state, WIDTH);
    section(&mut lines, "Topics", of_topics);
    for topic in rows::topics(state).into_iter().filter(|topic| topic.reason.is_some()) {
        lines.extend(topics::detail(state, topic, WIDTH).into_iter().take(2));
    }
    let of_keys = keys::panel(state, WIDTH);
    if of_keys.rows.count > 0 {
        section(&mut lines, "Keys that stand out", Panel { head: Vec::new(), ..of_keys });
    }
    joined(&lines)
}

fn section(lines: &mut Vec<Line<'static>>, title: &str, panel: Panel<'_>) {
    lines.push(Line::raw(""));
    if !title.is_empty() {
        lines.push(Line::raw(title.to_owned()));
    }
    lines.extend(panel.header);
    let more = panel.rows.count.saturating_sub(ROWS_MAX);
    lines.extend(panel.rows.lines(0..ROWS_MAX));
    if more > 0 {
        lines.push(Line::raw(format!("… and {more} more")));
    }
}

fn joined(lines: &[Line<'static>]) -> String {
    let text = |line: &Line<'static>| line.spans.iter().map(|span| span.content.as_ref()).collect::<String>();
    lines.iter().map(|line| text(line).trim_end().to_owned() + "\n").collect()
}
