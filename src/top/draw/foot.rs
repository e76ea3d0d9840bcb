//! The last line: what may be pressed, what is asked, and what came of it; and the page that `?` shows.

use ratatui::text::Line;

use super::super::state::{Mode, State, Tab};
use super::grid::{cut, width_of};
use crate::words::harmless;

pub fn line(state: &State, width: usize) -> Line<'static> {
    let theme = state.theme;
    match &state.mode {
        Mode::Confirm(action) => {
            let answer = "  y: yes, other keys: no";
            let question = cut(&action.question(), width.saturating_sub(width_of(answer)));
            return Line::styled(format!("{question}{answer}"), theme.warn().patch(theme.selected()));
        }
        Mode::Filter { .. } => return written("Filter", &state.filter, width),
        Mode::Level(text) => return written("Log level", text, width),
        Mode::Help => return Line::styled("any key goes back", theme.faint()),
        Mode::Normal => {}
    }
    if let Some(action) = &state.sending {
        return Line::styled(cut(&format!("… {}", action.question()), width), theme.warn());
    }
    if let Some(notice) = &state.notice {
        let (symbol, style) = if notice.good { ("✓", theme.good()) } else { ("✗", theme.bad()) };
        return Line::styled(cut(&format!("{symbol} {}", notice.text), width), style);
    }
    let actions = match state.tab {
        Tab::Shards => "PgDn more",
        Tab::Topics => "p pause or resume",
        Tab::Partitions => "s sort  / filter  p pause  k park its key",
        Tab::Overview => "/ filter  p pause  k park its key",
        Tab::Keys => "s sort  / filter  k park  u unpark",
    };
    let filter = match state.filter.is_empty() {
        true => String::new(),
        false => format!("only {:?} (Esc: all)  ", harmless(&state.filter)),
    };
    Line::styled(cut(&format!("{filter}? help  q quit  ↑↓ select  {actions}"), width), theme.faint())
}

/// The end of what is written stays in sight.
fn written(what: &str, text: &str, width: usize) -> Line<'static> {
    let help = "  (Enter, Esc)";
    let mut text = harmless(text);
    while !text.is_empty() && width_of(what) + width_of(&text) + width_of(help) + 3 > width {
        text.remove(0);
    }
    Line::raw(format!("{what}: {text}▏{help}"))
}

pub fn help(state: &State) -> Vec<Line<'static>> {
    let keys = [
        ("1-5, Tab, ← →", "overview, shards, partitions, topics, keys"),
        ("↑ ↓ PgUp PgDn Home End", "select; PgUp, PgDn: the text below, in shards"),
        ("s, r", "sort by the next column; reverse"),
        ("/, Esc", "show only what contains a text; show all again"),
        ("p", "pause or resume the topic of what is selected"),
        ("k", "park the key selected, or the oldest of a partition"),
        ("u", "unpark it"),
        ("L", "change what it logs"),
        ("q, Ctrl-C; Ctrl-Z", "quit; back to the shell, until fg"),
    ];
    let signs = [
        ("✓ ! ✗", "well; writes wait, or will; a person is needed"),
        ("TIME LAG", "age of the oldest write that is neither durable nor parked"),
        ("MESSAGE LAG", "records in Kafka that are not committed yet"),
        ("PARKED", "keys (and records) that wait apart, in order"),
        ("▲ ▼", "grows, shrinks: over the last half minute"),
    ];
    let theme = state.theme;
    let line = |(key, what): (&str, &str)| Line::raw(format!("  {key:<24}{what}"));
    let mut lines = vec![Line::styled("Keys", theme.title())];
    lines.extend(keys.map(line));
    lines.push(Line::styled("Signs", theme.title()));
    lines.extend(signs.map(line));
    lines
}
