//! Shards: what their writes wait for, who blocks them, and what each worker does.

use ratatui::style::Style;
use ratatui::text::Line;

use super::super::rows;
use super::super::state::State;
use super::super::theme::Theme;
use super::grid::{Cell, Column, Grid, wrapped};
use super::panel::{Panel, Rows};
use crate::admin::diagnosis::{Severity, blocks, of_shard};
use crate::admin::status::{Blocker, Contention, Reason, Shard, Status, TableHealth, Wait, Wal, Worker};
use crate::words::{age, grouped, percent};

const COLUMNS: [Column; 7] = [
    Column::left("", 1),
    Column::left("SHARD", 12),
    Column::left("STATE", 8),
    Column::left("VERDICT", 14),
    Column::wide("WHY"),
    Column::right("PARKED", 7),
    Column::right("CONN", 8).from(70),
];

pub fn grid(width: usize) -> Grid<'static> {
    Grid::new(&COLUMNS, width)
}

pub fn panel(state: &State, width: usize) -> Panel<'_> {
    let grid = grid(width);
    let shards = rows::shards(state);
    let Some(status) = state.last() else { return Panel::default() };
    let of = |shard: &&Shard| detail(state.theme, status, shard, width);
    let detail = state.selected().and_then(|index| shards.get(index)).map(of).unwrap_or_default();
    Panel {
        header: Some(grid.header(state.theme.faint())),
        detail,
        rows: Rows::new(shards.len(), move |index| row(state.theme, &grid, status, shards[index])),
        detail_first: true,
        ..Panel::default()
    }
}

pub fn row(theme: Theme, grid: &Grid<'_>, status: &Status, shard: &Shard) -> Line<'static> {
    let (symbol, style) = sign(theme, status, shard);
    let why = shard.reason.as_ref().filter(|_| shard.state != "up").map_or(&shard.verdict.text, |reason| &reason.text);
    let connections = &shard.connections;
    let number = |number: Option<u32>| number.map_or("?".to_owned(), |number| number.to_string());
    grid.row(vec![
        (symbol.to_owned(), style),
        (shard.name.clone(), theme.strong()),
        (shard.state.clone(), style),
        (shard.verdict.kind.replace('_', "-"), style),
        (why.clone(), theme.plain()),
        (grouped(shard.parked_keys), if shard.parked_keys > 0 { theme.warn() } else { theme.plain() }),
        (format!("{}/{}", number(connections.open), number(connections.server_max)), theme.plain()),
    ])
}

fn sign(theme: Theme, status: &Status, shard: &Shard) -> (&'static str, Style) {
    match of_shard(status, &shard.name).filter(|severity| *severity > Severity::Calm) {
        Some(severity) => theme.severity(severity),
        None if shard.state == "up" => theme.severity(Severity::Calm),
        None => ("?", theme.warn()),
    }
}

/// All that is known of one.
pub fn detail(theme: Theme, status: &Status, shard: &Shard, width: usize) -> Vec<Line<'static>> {
    let now_ms = status.process.now_ms;
    let mut page = Page { theme, width, lines: Vec::new() };
    page.say(
        sign(theme, status, shard).1,
        &format!(
            "{} is {} for {}; {}: {}",
            shard.name,
            shard.state,
            age(shard.since_ms),
            shard.verdict.kind.replace('_', "-"),
            shard.verdict.text
        ),
    );
    if let Some(reason) = &shard.reason {
        page.say(theme.bad(), &format!("✗ {}", reason_text(reason)));
    }
    for limit in &shard.pace.active {
        page.say(theme.warn(), &format!("! held back on purpose: {limit}"));
    }
    match &shard.contention {
        Some(contention) => page.contention(contention, now_ms),
        None => page.say(theme.faint(), "what its writes wait for has not been sampled yet"),
    }
    page.workers(&shard.workers);
    if let Some(contention) = &shard.contention {
        page.tables(&contention.tables, now_ms);
        contention.wal.iter().for_each(|wal| page.wal(wal));
    }
    page.connections(shard);
    for note in shard.contention.iter().flat_map(|contention| &contention.notes) {
        page.say(theme.faint(), &format!("· {note}"));
    }
    page.lines
}

struct Page {
    theme: Theme,
    width: usize,
    lines: Vec<Line<'static>>,
}

const WAITS: [Column; 3] = [Column::right("SHARE", 6), Column::left("WAITS FOR", 32), Column::wide("")];

const WORKERS: [Column; 8] = [
    Column::left("WORKER", 9),
    Column::left("STATE", 9),
    Column::right("BUSY", 5),
    Column::right("BATCH", 7),
    Column::right("SINCE", 11),
    Column::right("TRY", 3),
    Column::right("QUEUED", 9),
    Column::wide("TOPIC, LAST ERROR"),
];

const TABLES: [Column; 5] = [
    Column::wide("TABLE"),
    Column::right("HOT", 6),
    Column::right("LIVE ROWS", 14),
    Column::right("DEAD ROWS", 14),
    Column::right("VACUUM", 16),
];

impl Page {
    fn say(&mut self, style: Style, text: &str) {
        self.lines.extend(wrapped(text, self.width).into_iter().map(|text| Line::styled(text, style)));
    }

    fn table(&mut self, columns: &[Column], rows: Vec<Vec<Cell>>) {
        if rows.is_empty() {
            return;
        }
        let grid = Grid::new(columns, self.width);
        self.lines.push(grid.header(self.theme.faint()));
        self.lines.extend(rows.into_iter().map(|cells| grid.row(cells)));
    }

    fn contention(&mut self, contention: &Contention, now_ms: i64) {
        for blocker in &contention.blockers {
            self.say(self.theme.bad(), &format!("✗ {}", blocker_text(blocker)));
        }
        let rows = contention.waits.iter().map(|wait| self.wait(wait)).collect();
        self.table(&WAITS, rows);
        let old = since(contention.sampled_at_ms, now_ms);
        if old >= 10_000 {
            self.say(self.theme.warn(), &format!("! sampled {} ago", age(old)));
        }
    }

    fn wait(&self, wait: &Wait) -> Vec<Cell> {
        let name = match wait.event.is_empty() {
            true => wait.kind.clone(),
            false => format!("{}: {}", wait.kind, wait.event),
        };
        let style = if wait.kind == "Lock" { self.theme.warn() } else { self.theme.plain() };
        let bar = "█".repeat((wait.share.clamp(0.0, 1.0) * 20.0).round() as usize);
        vec![(percent(wait.share), style), (name, style), (bar, style)]
    }

    fn workers(&mut self, workers: &[Worker]) {
        let theme = self.theme;
        let row = |worker: &Worker| {
            let style = match worker.state.as_str() {
                "retrying" => theme.warn(),
                "barred" => theme.bad(),
                _ => theme.plain(),
            };
            let last = worker.last.as_ref().map(|last| format!(": {}", reason_text(last))).unwrap_or_default();
            let plain = theme.plain();
            vec![
                (worker.name.clone(), plain),
                (worker.state.clone(), style),
                (percent(worker.busy), plain),
                (grouped(worker.records), plain),
                (worker.since_ms.map(age).unwrap_or_default(), plain),
                (worker.attempt.map(|tries| tries.to_string()).unwrap_or_default(), style),
                (grouped(worker.queued_records), plain),
                (format!("{}{last}", worker.topic.as_deref().unwrap_or("")), style),
            ]
        };
        self.table(&WORKERS, workers.iter().map(row).collect());
    }

    fn tables(&mut self, tables: &[TableHealth], now_ms: i64) {
        let plain = self.theme.plain();
        let row = |table: &TableHealth| {
            // Autovacuum comes at a fifth by default.
            let bloated = table.dead_rows > table.live_rows / 4 && table.dead_rows > 10_000;
            let vacuum = table.last_vacuum_at_ms.map_or("never".to_owned(), |at| age(since(at, now_ms)) + " ago");
            vec![
                (table.table.clone(), plain),
                (table.hot_ratio.map_or("?".to_owned(), percent), plain),
                (grouped(table.live_rows), plain),
                (grouped(table.dead_rows), if bloated { self.theme.warn() } else { plain }),
                (vacuum, plain),
            ]
        };
        let rows = tables.iter().map(row).collect();
        self.table(&TABLES, rows);
    }

    fn wal(&mut self, wal: &Wal) {
        let number = |number: Option<u64>| number.map_or("?".to_owned(), grouped);
        let speed = wal.bytes_per_s.map_or("?".to_owned(), |bytes| format!("{:.1} MB/s", bytes / 1e6));
        let (timed, requested) = (wal.checkpoints_timed, wal.checkpoints_requested);
        let small = match requested > timed {
            true => (self.theme.warn(), ": max_wal_size is small"),
            false => (self.theme.plain(), ""),
        };
        let text = format!(
            "WAL of the whole server: {speed}; checkpoints: {} by time, {} because the log was full{}",
            number(timed),
            number(requested),
            small.1
        );
        self.say(small.0, &text);
    }

    fn connections(&mut self, shard: &Shard) {
        let connections = &shard.connections;
        let number = |number: Option<u32>| number.map_or("?".to_owned(), |number| number.to_string());
        let text = format!(
            "connections: {} needed, {} open; the server has {} of {} in use",
            connections.needed,
            number(connections.open),
            number(connections.server_used),
            number(connections.server_max)
        );
        self.say(self.theme.plain(), &text);
        if let Some(lag) = shard.pace.replica_lag_ms {
            self.say(self.theme.plain(), &format!("the replica lags by {}", age(lag)));
        }
    }
}

fn blocker_text(blocker: &Blocker) -> String {
    let lock = blocker.lock.as_deref().map(|lock| format!(" ({lock})")).unwrap_or_default();
    let command =
        blocker.command.as_deref().map(|command| format!("; its last command: {command}")).unwrap_or_default();
    format!("{}{lock}, for {}{command}", blocks(blocker), age(blocker.blocked_for_ms))
}

fn reason_text(reason: &Reason) -> String {
    let code = reason.sqlstate.as_deref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
    format!("{}{code}", reason.text)
}

fn since(at_ms: i64, now_ms: i64) -> u64 {
    u64::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(0)
}
