//! Keys that stand out: by records, by the time that they take, and those that are parked or held.

use ratatui::text::Line;

use super::super::rows::{self, KeyRow, Waiting};
use super::super::state::{KeySort, State};
use super::grid::{Column, Grid, wrapped};
use super::panel::{Panel, Rows};
use crate::words::{age, counted, harmless, percent};

const COLUMNS: [Column; 6] = [
    Column::wide("KEY"),
    Column::left("SHARD", 10),
    Column::left("PARTITION", 18),
    Column::right("RECORDS", 7),
    Column::right("TIME", 6),
    Column::left("HELD, PARKED", 20),
];

pub fn panel(state: &State, width: usize) -> Panel<'_> {
    let theme = state.theme;
    let by = match state.key_sort {
        KeySort::Count => "share of the records",
        KeySort::Time => "share of the time",
        KeySort::Parked => "how long they have been parked",
    };
    let mut head = vec![Line::styled(format!("by {by} (s); k parks, u unparks"), theme.faint())];
    let missing = match &state.parked {
        None => vec!["what is parked is being asked for".to_owned()],
        Some(Err(failure)) => vec![format!("what is parked is not known: {failure}")],
        Some(Ok(parked)) => {
            let text = |failed: &super::super::parked::Failed| {
                format!(
                    "what is parked in shard {} is not known: {}",
                    harmless(&failed.shard),
                    harmless(&failed.reason)
                )
            };
            parked.failed.iter().map(text).collect()
        }
    };
    head.extend(missing.iter().flat_map(|text| wrapped(text, width)).map(|text| Line::styled(text, theme.faint())));
    let grid = Grid::new(&COLUMNS, width);
    let keys = rows::keys(state);
    let detail =
        state.selected().and_then(|index| keys.get(index)).map(|key| detail(state, key, width)).unwrap_or_default();
    Panel {
        head,
        header: Some(grid.header(theme.faint())),
        detail,
        rows: Rows::new(keys.len(), move |index| row(state, &grid, &keys[index])),
        ..Panel::default()
    }
}

fn row(state: &State, grid: &Grid<'_>, key: &KeyRow) -> Line<'static> {
    let theme = state.theme;
    let plain = theme.plain();
    let share = |share: Option<f64>| {
        let style = if share.unwrap_or(0.0) >= 0.5 { theme.warn() } else { plain };
        (share.map(percent).unwrap_or_default(), style)
    };
    let partition = key.partition.map(|number| format!(" [{number}]")).unwrap_or_default();
    let parked = match (&key.parked, key.held) {
        (Some(waiting), _) => format!("! {}, {}", waiting.reason, age(waiting.age_s.saturating_mul(1000))),
        (None, true) => "! held".to_owned(),
        (None, false) => String::new(),
    };
    grid.row(vec![
        (key.name(), theme.strong()),
        (key.shard.clone(), plain),
        (format!("{}{partition}", key.topic), plain),
        share(key.count),
        share(key.time),
        (parked, theme.warn()),
    ])
}

fn detail(state: &State, key: &KeyRow, width: usize) -> Vec<Line<'static>> {
    let theme = state.theme;
    let mut texts = vec![(theme.strong(), format!("{} of {}, shard {}", key.name(), key.topic, key.shard))];
    let shares = [(key.count, "of the records"), (key.time, "of the time")];
    let shares = shares.into_iter().filter_map(|(share, what)| Some(format!("{} {what}", percent(share?))));
    let shares: Vec<String> = shares.collect();
    if !shares.is_empty() {
        texts.push((theme.plain(), format!("{} of the topic in this shard", shares.join(", "))));
    }
    if key.held {
        texts.push((theme.warn(), "! somebody holds it: its records wait until it is unparked (u)".to_owned()));
    }
    if let Some(Waiting { records, age_s, reason, error }) = &key.parked {
        let (records, since) = (counted(*records, "record"), age(age_s.saturating_mul(1000)));
        let error = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        texts.push((theme.warn(), format!("! {records} parked for {since}, because {reason}{error}")));
    }
    let lines = texts.into_iter().flat_map(|(style, text)| wrapped(&text, width).into_iter().map(move |t| (style, t)));
    lines.map(|(style, text)| Line::styled(text, style)).collect()
}
