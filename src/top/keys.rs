//! What a key on the keyboard does: a state and a key make the next state, and what is to be done outside of it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::action::{Action, Whose};
use super::rows::{self, Id};
use super::state::{Mode, Notice, State, Tab};
use crate::admin::status::TopicState;
use crate::words::harmless;

#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    Quit,
    /// Back to the shell, until it says `fg`.
    Suspend,
    /// Something else wrote on the screen.
    Redraw,
    Send(Action),
}

/// Rows of a page.
const PAGE: isize = 10;

/// A filter or a level is no longer than that.
const TEXT_MAX: usize = 200;

pub fn press(state: &mut State, key: KeyEvent) -> Effect {
    if key.kind == KeyEventKind::Release {
        return Effect::None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Effect::Quit,
            KeyCode::Char('z') => Effect::Suspend,
            KeyCode::Char('l') => Effect::Redraw,
            _ => Effect::None,
        };
    }
    match state.mode.clone() {
        Mode::Normal => normal(state, key.code),
        Mode::Help => {
            state.mode = Mode::Normal;
            Effect::None
        }
        Mode::Filter { before } => filter(state, key.code, before),
        Mode::Level(text) => level(state, key.code, text),
        Mode::Confirm(action) => confirm(state, key.code, action),
    }
}

fn normal(state: &mut State, key: KeyCode) -> Effect {
    state.notice = None;
    match key {
        KeyCode::Char('q') => return Effect::Quit,
        KeyCode::Char(digit @ '1'..='5') => state.tab = Tab::ALL[digit as usize - '1' as usize],
        KeyCode::Tab | KeyCode::Right => turn(state, 1),
        KeyCode::BackTab | KeyCode::Left => turn(state, Tab::ALL.len() - 1),
        KeyCode::Up => state.step(-1),
        KeyCode::Down => state.step(1),
        KeyCode::Home | KeyCode::Char('g') => state.step(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => state.step(isize::MAX),
        KeyCode::PageUp => page(state, -1),
        KeyCode::PageDown => page(state, 1),
        KeyCode::Char('s') if state.tab == Tab::Keys => state.key_sort = state.key_sort.next(),
        KeyCode::Char('s') => state.sort = state.sort.next(),
        KeyCode::Char('r') => state.reversed = !state.reversed,
        KeyCode::Char('/') => state.mode = Mode::Filter { before: state.filter.clone() },
        KeyCode::Esc => state.filter.clear(),
        KeyCode::Char('p') => ask(state, pause),
        KeyCode::Char('k') => ask(state, |state| hold(state, None)),
        KeyCode::Char('u') => ask(state, |state| hold(state, Some(true))),
        KeyCode::Char('L') => {
            let now = state.last().map(|status| status.process.log_level.clone());
            state.mode = Mode::Level(now.unwrap_or_default());
        }
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => state.mode = Mode::Help,
        _ => {}
    }
    Effect::None
}

fn turn(state: &mut State, by: usize) {
    state.tab = Tab::ALL[(state.tab as usize + by) % Tab::ALL.len()];
}

/// Where the detail is what there is to read, it moves; else the selection does.
fn page(state: &mut State, by: i16) {
    if state.tab == Tab::Shards {
        let cursor = state.cursor_mut();
        cursor.scroll = cursor.scroll.saturating_add_signed(by * 5);
    } else {
        state.step(PAGE * isize::from(by));
    }
}

fn edit(text: &mut String, key: KeyCode) {
    match key {
        KeyCode::Char(c) if text.len() < TEXT_MAX && !c.is_control() => text.push(c),
        KeyCode::Backspace => drop(text.pop()),
        _ => {}
    }
}

fn filter(state: &mut State, key: KeyCode, before: String) -> Effect {
    match key {
        KeyCode::Enter => state.mode = Mode::Normal,
        KeyCode::Esc => (state.filter, state.mode) = (before, Mode::Normal),
        key => edit(&mut state.filter, key),
    }
    Effect::None
}

fn level(state: &mut State, key: KeyCode, mut text: String) -> Effect {
    match key {
        KeyCode::Esc => state.mode = Mode::Normal,
        KeyCode::Enter if text.trim().is_empty() => state.mode = Mode::Normal,
        KeyCode::Enter => return send(state, Action::LogLevel(text.trim().to_owned())),
        key => {
            edit(&mut text, key);
            state.mode = Mode::Level(text);
        }
    }
    Effect::None
}

/// Only a `y` does it.
fn confirm(state: &mut State, key: KeyCode, action: Action) -> Effect {
    if matches!(key, KeyCode::Char('y' | 'Y')) {
        return send(state, action);
    }
    state.mode = Mode::Normal;
    state.notice = Some(Notice { good: true, text: "Nothing was done.".to_owned() });
    Effect::None
}

fn send(state: &mut State, action: Action) -> Effect {
    state.mode = Mode::Normal;
    state.sending = Some(action.clone());
    Effect::Send(action)
}

/// Asks for a confirmation, or says why there is nothing to confirm.
fn ask(state: &mut State, action: impl FnOnce(&State) -> Result<Action, String>) {
    if state.sending.is_some() {
        state.notice = Some(Notice { good: false, text: "The last one is not answered yet.".to_owned() });
        return;
    }
    match action(state) {
        Ok(action) => state.mode = Mode::Confirm(action),
        Err(text) => state.notice = Some(Notice { good: false, text }),
    }
}

fn selected(state: &State) -> Option<Id> {
    rows::ids(state).into_iter().nth(state.selected()?)
}

fn pause(state: &State) -> Result<Action, String> {
    let topic = match selected(state) {
        Some(Id::Topic(topic) | Id::Partition(topic, _) | Id::Key { topic, .. }) => topic,
        Some(Id::Shard(_)) => return Err("A shard cannot be paused: select a topic, a partition or a key.".to_owned()),
        None => return Err("Nothing is selected.".to_owned()),
    };
    let of_it = state.last().and_then(|status| status.topics.iter().find(|other| other.name == topic));
    match of_it.map(|topic| topic.state) {
        Some(TopicState::Paused) => Ok(Action::Resume { topic }),
        Some(TopicState::Stopped) => Err(format!("Topic {} is stopped already, and says why.", harmless(&topic))),
        Some(TopicState::Running) | None => Ok(Action::Pause { topic }),
    }
}

/// Parks what is selected, or lets it go on where it is held, or where that is wanted.
fn hold(state: &State, let_go: Option<bool>) -> Result<Action, String> {
    let (topic, whose, is_held) = match selected(state) {
        Some(Id::Partition(topic, partition)) => {
            let status = state.last().map(|status| status.partitions.as_slice()).unwrap_or_default();
            let found = status.iter().find(|other| other.topic == topic && other.partition == partition);
            let frontier = found.and_then(rows::shown);
            let key = frontier.and_then(|frontier| frontier.key.clone());
            let key = key.ok_or_else(|| "No key is known to hold this partition up.".to_owned())?;
            (topic, Whose::Key(whole(key)?), frontier.is_some_and(|frontier| frontier.place == "parked"))
        }
        Some(Id::Key { .. }) => {
            let row = rows::keys(state).into_iter().nth(state.selected().unwrap_or(0));
            let row = row.ok_or_else(|| "Nothing is selected.".to_owned())?;
            match (row.tenant, row.key) {
                (Some(tenant), _) => (row.topic, Whose::Tenant(tenant), row.held),
                (None, Some(key)) => (row.topic, Whose::Key(whole(key)?), row.held),
                (None, None) => return Err("Only the hash of this key is known: it cannot be named.".to_owned()),
            }
        }
        _ => return Err("Select a partition or a key first (tabs 1, 3 and 5).".to_owned()),
    };
    match let_go.unwrap_or(is_held) {
        true => Ok(Action::Unpark { topic, whose }),
        false => Ok(Action::Park { topic, whose }),
    }
}

/// A key that was cut, or is no text, names another one.
fn whole(key: String) -> Result<String, String> {
    match key.ends_with('…') || key.contains('\u{fffd}') {
        true => Err("This key is not shown whole: forebay park --key takes it.".to_owned()),
        false => Ok(key),
    }
}

#[cfg(test)]
mod tests;
