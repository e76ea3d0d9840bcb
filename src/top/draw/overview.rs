//! The first tab: everything that is wrong, the shards, and the partitions that are furthest behind.

use ratatui::text::Line;

use super::super::rows;
use super::super::state::State;
use super::grid::{Column, Grid};
use super::panel::{Panel, Rows};
use super::{head, partitions, shards};
use crate::admin::diagnosis::Severity;
use crate::admin::status::Partition;
use crate::words::{age, grouped};

const COLUMNS: [Column; 8] = [
    Column::wide("FURTHEST BEHIND"),
    Column::right("TIME LAG", 12),
    Column::right("LAG", 10),
    Column::left("OLDEST IS", 11),
    Column::left("IN", 9).from(100),
    Column::right("TRY", 3),
    Column::left("ERROR", 5),
    Column::wide("ITS KEY"),
];

/// The findings after the first one, which stands above, and the shards, have a part of the screen each; the list has the rest.
const FINDINGS_PART: usize = 4;
const SHARDS_PART: usize = 5;

/// `height`: of the whole panel.
pub fn panel(state: &State, width: usize, height: usize) -> Panel<'_> {
    let Some(status) = state.last() else { return Panel::default() };
    let theme = state.theme;
    let mut lines: Vec<Line<'static>> = Vec::new();
    for found in status.findings.iter().skip(1) {
        let long = if Severity::of(found) == Severity::Bad { 2 } else { 1 };
        let more = head::finding(theme, found, "", width, long);
        if lines.len() + more.len() <= height.div_ceil(FINDINGS_PART) {
            lines.extend(more);
        }
    }
    let grid = shards::grid(width);
    lines.push(grid.header(theme.faint()));
    let (shards, most) = (rows::shards(state), (height / SHARDS_PART).max(1));
    lines.extend(shards.iter().take(most).map(|shard| shards::row(theme, &grid, status, shard)));
    if let Some(more) = shards.len().checked_sub(most + 1) {
        lines.push(Line::styled(format!("… and {} more (2)", more + 1), theme.faint()));
    }
    let grid = Grid::new(&COLUMNS, width);
    let furthest = rows::furthest(state);
    let detail = state
        .selected()
        .and_then(|index| furthest.get(index))
        .map(|one| partitions::detail(state, one, width))
        .unwrap_or_default();
    Panel {
        head: lines,
        header: Some(grid.header(theme.faint())),
        detail,
        rows: Rows::new(furthest.len(), move |index| row(state, &grid, furthest[index])),
        ..Panel::default()
    }
}

fn row(state: &State, grid: &Grid<'_>, partition: &Partition) -> Line<'static> {
    let plain = state.theme.plain();
    let frontier = rows::shown(partition);
    let code = frontier.and_then(|frontier| frontier.last.as_ref()?.sqlstate.clone());
    let tries = frontier.and_then(|frontier| frontier.attempt);
    grid.row(vec![
        (partitions::name(partition), plain),
        (age(partition.unparked_lag_ms), plain),
        (partition.message_lag.map_or("?".to_owned(), grouped), plain),
        (frontier.map_or("-", |frontier| &frontier.place).to_owned(), plain),
        (frontier.and_then(|frontier| frontier.worker.clone()).unwrap_or_default(), plain),
        (tries.map(|tries| tries.to_string()).unwrap_or_default(), plain),
        (code.unwrap_or_default(), state.theme.warn()),
        (frontier.map(partitions::key_of).unwrap_or_default(), plain),
    ])
}
