//! What there is to show and what the person at the keyboard chose: values only. It asks no clock and nobody else.

use std::time::Duration;

use super::action::Action;
use super::client::Failure;
use super::history::{History, Sample};
use super::parked::Parked;
use super::rows::{self, Id};
use super::theme::Theme;
use crate::admin::status::Status;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Overview,
    Shards,
    Partitions,
    Topics,
    Keys,
}

impl Tab {
    pub const ALL: [Tab; 5] = [Tab::Overview, Tab::Shards, Tab::Partitions, Tab::Topics, Tab::Keys];

    pub fn title(self) -> &'static str {
        match self {
            Tab::Overview => "Overview",
            Tab::Shards => "Shards",
            Tab::Partitions => "Partitions",
            Tab::Topics => "Topics",
            Tab::Keys => "Keys",
        }
    }
}

/// By what partitions and keys are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    TimeLag,
    MessageLag,
    InFlight,
    Name,
}

impl Sort {
    pub fn next(self) -> Sort {
        match self {
            Sort::TimeLag => Sort::MessageLag,
            Sort::MessageLag => Sort::InFlight,
            Sort::InFlight => Sort::Name,
            Sort::Name => Sort::TimeLag,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySort {
    Count,
    Time,
    Parked,
}

impl KeySort {
    pub fn next(self) -> KeySort {
        match self {
            KeySort::Count => KeySort::Time,
            KeySort::Time => KeySort::Parked,
            KeySort::Parked => KeySort::Count,
        }
    }
}

/// What keys on the keyboard mean now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Normal,
    Help,
    /// A filter is being written; what it was before.
    Filter {
        before: String,
    },
    /// A log level is being written.
    Level(String),
    Confirm(Action),
}

/// In each tab, what is selected: the thing itself, wherever it moves to, and where it was, for when it is gone.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    pub id: Option<Id>,
    pub index: usize,
    /// Lines of the detail that are scrolled past.
    pub scroll: u16,
}

/// The last line of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub good: bool,
    pub text: String,
}

#[derive(Debug, Clone)]
pub struct Outage {
    pub since: Duration,
    pub failure: Failure,
}

#[derive(Debug, Clone)]
pub struct State {
    /// Whom it asks.
    pub target: String,
    pub theme: Theme,
    /// Since the start.
    pub now: Duration,
    /// The last answer, and when it came.
    pub status: Option<(Status, Duration)>,
    pub outage: Option<Outage>,
    pub history: History,
    pub parked: Option<Result<Parked, Failure>>,
    pub tab: Tab,
    pub cursors: [Cursor; Tab::ALL.len()],
    pub sort: Sort,
    pub key_sort: KeySort,
    pub reversed: bool,
    pub filter: String,
    pub mode: Mode,
    pub notice: Option<Notice>,
    /// Told, and not answered yet.
    pub sending: Option<Action>,
}

impl State {
    pub fn new(target: String, theme: Theme) -> State {
        State {
            target,
            theme,
            now: Duration::ZERO,
            status: None,
            outage: None,
            history: History::default(),
            parked: None,
            tab: Tab::Overview,
            cursors: Default::default(),
            sort: Sort::TimeLag,
            key_sort: KeySort::Count,
            reversed: false,
            filter: String::new(),
            mode: Mode::Normal,
            notice: None,
            sending: None,
        }
    }

    /// An answer, or none: the last one stays.
    pub fn hear(&mut self, answer: Result<Status, Failure>) {
        match answer {
            Ok(status) => {
                let (time_lag_ms, message_lag) = (status.totals.unparked_lag_ms, status.totals.message_lag);
                self.history.push(Sample { at: self.now, time_lag_ms, message_lag });
                self.status = Some((status, self.now));
                self.outage = None;
            }
            Err(failure) => {
                let since = self.outage.as_ref().map_or(self.now, |outage| outage.since);
                self.outage = Some(Outage { since, failure });
            }
        }
    }

    pub fn hear_done(&mut self, answer: Result<String, Failure>) {
        self.sending = None;
        self.notice = Some(match answer {
            Ok(text) => Notice { good: true, text },
            Err(failure) => Notice { good: false, text: failure.to_string() },
        });
    }

    pub fn last(&self) -> Option<&Status> {
        self.status.as_ref().map(|(status, _)| status)
    }

    pub fn cursor(&self) -> &Cursor {
        &self.cursors[self.tab as usize]
    }

    pub fn cursor_mut(&mut self) -> &mut Cursor {
        &mut self.cursors[self.tab as usize]
    }

    /// Which row of the tab is selected: that of the thing that was chosen, or the nearest to where it was.
    pub fn selected(&self) -> Option<usize> {
        let ids = rows::ids(self);
        let cursor = self.cursor();
        let found = cursor.id.as_ref().and_then(|id| ids.iter().position(|other| other == id));
        found.or_else(|| ids.len().checked_sub(1).map(|last| cursor.index.min(last)))
    }

    /// Selects another row: by so many down.
    pub fn step(&mut self, by: isize) {
        let ids = rows::ids(self);
        let (Some(now), Some(last)) = (self.selected(), ids.len().checked_sub(1)) else { return };
        let index = now.saturating_add_signed(by).min(last);
        let id = ids.into_iter().nth(index);
        *self.cursor_mut() = Cursor { id, index, scroll: 0 };
    }
}
