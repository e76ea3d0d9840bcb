//! Partitions: how far each is, and what holds it up.

use ratatui::text::Line;

use super::super::rows;
use super::super::state::{Sort, State};
use super::grid::{Column, Grid, wrapped};
use super::panel::{Panel, Rows};
use crate::admin::diagnosis::{LATE_MS, blocks, oldest_unparked};
use crate::admin::status::{Frontier, Partition, Status, TopicState};
use crate::words::{age, grouped};

const COLUMNS: [Column; 11] = [
    Column::wide("PARTITION"),
    Column::left("STATE", 9),
    Column::right("TIME LAG", 12),
    Column::right("LAG", 11),
    Column::right("IN FLIGHT", 9),
    Column::right("COMMITTED", 13).from(140),
    Column::right("DURABLE", 13).from(140),
    Column::right("FETCHED", 13).from(140),
    Column::right("END", 13).from(140),
    Column::left("OLDEST IS", 11),
    Column::wide("ITS KEY"),
];

pub fn panel(state: &State, width: usize) -> Panel<'_> {
    let grid = Grid::new(&COLUMNS, width);
    let partitions = rows::partitions(state);
    let by = match state.sort {
        Sort::TimeLag => "time lag",
        Sort::MessageLag => "message lag",
        Sort::InFlight => "records in flight",
        Sort::Name => "name",
    };
    let order = if state.reversed { ", reversed" } else { "" };
    let detail = state
        .selected()
        .and_then(|index| partitions.get(index))
        .map(|one| detail(state, one, width))
        .unwrap_or_default();
    Panel {
        head: vec![Line::styled(format!("by {by}{order} (s, r)"), state.theme.faint())],
        header: Some(grid.header(state.theme.faint())),
        detail,
        rows: Rows::new(partitions.len(), move |index| row(state, &grid, partitions[index])),
        ..Panel::default()
    }
}

fn row(state: &State, grid: &Grid<'_>, partition: &Partition) -> Line<'static> {
    let theme = state.theme;
    let plain = theme.plain();
    let offset = |offset: Option<i64>| (offset.map_or("–".to_owned(), offset_text), plain);
    let fetched = state.last().and_then(|status| status.topics.iter().find(|topic| topic.name == partition.topic));
    let state_word = match (partition.paused && partition.state == "running", fetched.map(|topic| topic.state)) {
        (true, Some(TopicState::Running) | None) => "full",
        (true, Some(TopicState::Paused)) => "paused",
        _ => &partition.state,
    };
    let frontier = rows::shown(partition);
    let lag_ms = partition.unparked_lag_ms;
    grid.row(vec![
        (name(partition), plain),
        (state_word.to_owned(), if partition.state == "stopped" { theme.bad() } else { plain }),
        (age(lag_ms), if lag_ms >= LATE_MS { theme.warn() } else { plain }),
        (partition.message_lag.map_or("?".to_owned(), grouped), plain),
        (grouped(partition.in_flight_records), plain),
        offset(partition.committed),
        offset(partition.durable),
        offset(partition.fetched),
        offset(partition.end),
        (frontier.map_or("-", |frontier| &frontier.place).to_owned(), plain),
        (frontier.map(key_of).unwrap_or_default(), plain),
    ])
}

pub fn name(partition: &Partition) -> String {
    format!("{} [{}]", partition.topic, partition.partition)
}

pub fn key_of(frontier: &Frontier) -> String {
    frontier.key.clone().unwrap_or_else(|| format!("(offset {})", offset_text(frontier.offset)))
}

fn offset_text(offset: i64) -> String {
    u64::try_from(offset).map_or_else(|_| offset.to_string(), grouped)
}

/// All that is known of one, in sentences.
pub fn detail(state: &State, partition: &Partition, width: usize) -> Vec<Line<'static>> {
    let theme = state.theme;
    let offset = |offset: Option<i64>| offset.map_or("–".to_owned(), offset_text);
    let full = if partition.paused { ", not fetched now" } else { "" };
    let mut texts = Vec::new();
    // What is not parked first; where that is all, what is.
    let parked = partition.frontier.as_ref().filter(|frontier| frontier.place == "parked");
    for frontier in oldest_unparked(partition).into_iter().chain(parked) {
        for pid in &frontier.blocked_by {
            texts.push((theme.bad(), format!("✗ {}", blocker(state.last(), frontier, *pid))));
        }
        texts.push((theme.strong(), oldest(partition, frontier)));
        if let Some(last) = &frontier.last {
            let code = last.sqlstate.as_deref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
            texts.push((theme.warn(), format!("! last try: {}{code}", last.text)));
        }
    }
    let offsets = format!(
        "{}: {}{full}; committed {}, durable {}, fetched {}, end {}",
        name(partition),
        partition.state,
        offset(partition.committed),
        offset(partition.durable),
        offset(partition.fetched),
        offset(partition.end),
    );
    texts.push((theme.plain(), offsets));
    let lines = texts.into_iter().flat_map(|(style, text)| wrapped(&text, width).into_iter().map(move |t| (style, t)));
    lines.map(|(style, text)| Line::styled(text, style)).collect()
}

fn oldest(partition: &Partition, frontier: &Frontier) -> String {
    let offset = offset_text(frontier.offset);
    let key = frontier.key.as_deref().map(|key| format!(", key {key}")).unwrap_or_default();
    let worker = frontier.worker.as_deref().map(|worker| format!(" in {worker}")).unwrap_or_default();
    let shard = frontier.shard.as_deref().map(|shard| format!("shard {shard}"));
    let lane = frontier.lane.map(|lane| format!("lane {lane}"));
    let places: Vec<String> = [shard, lane].into_iter().flatten().collect();
    let places = if places.is_empty() { String::new() } else { format!(" ({})", places.join(", ")) };
    let tries = frontier.attempt.map(|tries| format!(", try {tries}")).unwrap_or_default();
    let (name, age) = (name(partition), age(frontier.age_ms));
    format!("oldest of {name}: offset {offset}{key}, {age} old, {}{worker}{places}{tries}", frontier.place)
}

/// Who that is, as far as the shard's sample knows.
fn blocker(status: Option<&Status>, frontier: &Frontier, pid: i32) -> String {
    let shards = status.map(|status| status.shards.as_slice()).unwrap_or_default();
    let shard = shards.iter().find(|shard| Some(shard.name.as_str()) == frontier.shard.as_deref());
    let contention = shard.and_then(|shard| shard.contention.as_ref());
    let blocker = contention.and_then(|contention| contention.blockers.iter().find(|blocker| blocker.pid == pid));
    blocker.map_or_else(|| format!("pid {pid} holds a lock that it waits for"), blocks)
}
