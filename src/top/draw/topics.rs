//! Topics: whether they run, what became of their records, and how long each stage took.

use ratatui::text::Line;

use super::super::rows;
use super::super::state::State;
use super::grid::{Column, Grid, wrapped};
use super::panel::{Panel, Rows};
use crate::admin::status::{Topic, TopicState};
use crate::words::{age, grouped};

const COLUMNS: [Column; 9] = [
    Column::left("", 1),
    Column::wide("TOPIC"),
    Column::wide("TABLE").from(100),
    Column::left("STATE", 8),
    Column::right("TIME LAG", 12),
    Column::right("LAG", 11),
    Column::right("UPSERTED", 13),
    Column::right("PARKED", 8),
    Column::right("DEAD", 6),
];

const STAGES: [Column; 5] = [
    Column::left("STAGE", 12),
    Column::right("RECORDS", 14),
    Column::right("MEDIAN", 12),
    Column::right("99 %", 12),
    Column::right("MOST", 12),
];

pub fn panel(state: &State, width: usize) -> Panel<'_> {
    let grid = Grid::new(&COLUMNS, width);
    let topics = rows::topics(state);
    let detail = state
        .selected()
        .and_then(|index| topics.get(index))
        .map(|topic| detail(state, topic, width))
        .unwrap_or_default();
    Panel {
        header: Some(grid.header(state.theme.faint())),
        detail,
        rows: Rows::new(topics.len(), move |index| row(state, &grid, topics[index])),
        ..Panel::default()
    }
}

fn row(state: &State, grid: &Grid<'_>, topic: &Topic) -> Line<'static> {
    let theme = state.theme;
    let plain = theme.plain();
    let (symbol, word, style) = match topic.state {
        TopicState::Running => ("✓", "running", theme.good()),
        TopicState::Paused => ("!", "paused", theme.warn()),
        TopicState::Stopped => ("✗", "stopped", theme.bad()),
    };
    let some = |number: u64| (grouped(number), if number > 0 { theme.warn() } else { plain });
    grid.row(vec![
        (symbol.to_owned(), style),
        (topic.name.clone(), theme.strong()),
        (topic.table.clone().unwrap_or_else(|| "(a handler)".to_owned()), plain),
        (word.to_owned(), style),
        (age(rows::time_lag_ms(state, topic)), plain),
        (topic.message_lag.map_or("?".to_owned(), grouped), plain),
        (grouped(topic.records.upserted), plain),
        some(topic.records.parked),
        some(topic.records.dead_lettered),
    ])
}

pub fn detail(state: &State, topic: &Topic, width: usize) -> Vec<Line<'static>> {
    let theme = state.theme;
    let mut lines = Vec::new();
    let mut say = |style, text: &str| {
        lines.extend(wrapped(text, width).into_iter().map(|text| Line::styled(text, style)));
    };
    let table = topic.table.as_deref().map_or("a handler".to_owned(), |table| format!("table {table}"));
    let records = &topic.records;
    say(
        theme.strong(),
        &format!(
            "{} into {table}: {} upserted, {} deleted, {} folded, {} skipped, {} parked, {} dead letters",
            topic.name,
            grouped(records.upserted),
            grouped(records.deleted),
            grouped(records.folded),
            grouped(records.skipped),
            grouped(records.parked),
            grouped(records.dead_lettered),
        ),
    );
    if let Some(reason) = &topic.reason {
        let code = reason.sqlstate.as_deref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
        say(theme.bad(), &format!("✗ {}{code}", reason.text));
    }
    if !topic.stages.is_empty() {
        let grid = Grid::new(&STAGES, width);
        lines.push(grid.header(theme.faint()));
        lines.extend(topic.stages.iter().map(|stage| {
            let times = [stage.p50_ms, stage.p99_ms, stage.max_ms].map(|ms| (time(ms), theme.plain()));
            let [p50, p99, max] = times;
            grid.row(vec![(stage.stage.clone(), theme.plain()), (grouped(stage.count), theme.plain()), p50, p99, max])
        }));
    }
    lines
}

/// Milliseconds while there are few.
fn time(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.1} ms") } else { age(ms as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_stages() {
        assert_eq!([0.04, 1.25, 9_999.0, 18_900.0].map(time), ["0.0 ms", "1.2 ms", "9999.0 ms", "18 s"]);
    }
}
