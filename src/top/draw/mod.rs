//! A state as a screen, and as plain text. Pure: the same state and size make the same screen.

mod foot;
mod grid;
mod head;
mod keys;
mod overview;
mod panel;
mod partitions;
pub mod plain;
mod shards;
mod topics;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline, SparklineBar};

use super::history::Sample;
use super::state::{Mode, State, Tab};
use crate::admin::status::Status;
use crate::words::{age, grouped};
use panel::Panel;

/// A screen of fewer rows shows less above its tabs.
const ROOMY: u16 = 30;

/// Below that there is only a sentence.
const TINY: (u16, u16) = (40, 10);

/// The curves' least height, so that a calm day does not look wild.
const TIME_LAG_SCALE_MS: u64 = 10_000;
const MESSAGE_LAG_SCALE: u64 = 1_000;

/// How many lines of the detail were scrolled past in the end: no more than there are.
pub fn draw(frame: &mut Frame<'_>, state: &State) -> u16 {
    let area = frame.area();
    let width = usize::from(area.width);
    let title = head::title(state, width);
    let Some(status) = state.last() else {
        frame.render_widget(Paragraph::new(title), area);
        return 0;
    };
    if area.width < TINY.0 || area.height < TINY.1 {
        let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        frame.render_widget(Paragraph::new(title), top);
        let lines = head::sentence(state.theme, status, width, rest.height.into());
        frame.render_widget(Paragraph::new(lines), rest);
        return state.cursor().scroll;
    }
    let roomy = area.height >= ROOMY;
    let mut lines = head::numbers(state, status, width);
    lines.extend(head::sentence(state.theme, status, width, if roomy { 3 } else { 2 }));
    let curves = if roomy { 3 } else { 1 };
    let parts = [title.len() as u16, lines.len() as u16, curves, 1].map(Constraint::Length);
    let [title_at, lines_at, curves_at, tabs_at, body, foot] =
        Layout::vertical(parts.into_iter().chain([Constraint::Fill(1), Constraint::Length(1)])).areas(area);
    frame.render_widget(Paragraph::new(title), title_at);
    frame.render_widget(Paragraph::new(lines), lines_at);
    draw_curves(frame, curves_at, state, status);
    frame.render_widget(tabs(state), tabs_at);
    let mut scroll = state.cursor().scroll;
    match state.mode {
        Mode::Help => frame.render_widget(Paragraph::new(foot::help(state)), body),
        _ => scroll = panel::draw(frame, body, panel_of(state, width, body.height.into()), state),
    }
    if state.outage.is_some() {
        // What was true once.
        let old = Rect { y: lines_at.y, height: foot.y - lines_at.y, ..area };
        frame.buffer_mut().set_style(old, state.theme.faint());
    }
    frame.render_widget(foot::line(state, width), foot);
    scroll
}

fn panel_of(state: &State, width: usize, height: usize) -> Panel<'_> {
    match state.tab {
        Tab::Overview => overview::panel(state, width, height),
        Tab::Shards => shards::panel(state, width),
        Tab::Partitions => partitions::panel(state, width),
        Tab::Topics => topics::panel(state, width),
        Tab::Keys => keys::panel(state, width),
    }
}

fn tabs(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let style =
            if tab == state.tab { state.theme.title().patch(state.theme.selected()) } else { state.theme.strong() };
        spans.push(Span::styled(format!(" {} {} ", index + 1, tab.title()), style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

/// Time lag and message lag, side by side, each with the most that it was.
fn draw_curves(frame: &mut Frame<'_>, area: Rect, state: &State, status: &Status) {
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2).areas(area);
    let outlook = head::outlook(state, status);
    let most = |value: &dyn Fn(&Sample) -> Option<u64>| {
        state.history.bars(1, state.now, value).first().copied().flatten().unwrap_or(0)
    };
    let time_lag = |sample: &Sample| Some(sample.time_lag_ms);
    let message_lag = |sample: &Sample| sample.message_lag;
    let first = format!("≤ {}", age(most(&time_lag)));
    let second = format!("≤ {} {outlook}", grouped(most(&message_lag)));
    draw_curve(frame, halves[0], state, ("time lag ", &first), TIME_LAG_SCALE_MS, &time_lag);
    draw_curve(frame, halves[1], state, ("lag ", second.trim_end()), MESSAGE_LAG_SCALE, &message_lag);
}

fn draw_curve(
    frame: &mut Frame<'_>,
    area: Rect,
    state: &State,
    (before, after): (&str, &str),
    scale: u64,
    value: &dyn Fn(&Sample) -> Option<u64>,
) {
    let widths = [Constraint::Length(before.len() as u16), Constraint::Fill(1)];
    let [left, middle, right] =
        Layout::horizontal(widths.into_iter().chain([Constraint::Length(grid::width_of(after) as u16 + 1)]))
            .areas(area);
    let bottom = |area: Rect| Rect { y: area.bottom().saturating_sub(1), height: area.height.min(1), ..area };
    frame.render_widget(Line::styled(before.to_owned(), state.theme.faint()), bottom(left));
    frame.render_widget(Line::styled(format!(" {after}"), state.theme.faint()), bottom(right));
    let bars = state.history.bars(middle.width.into(), state.now, value);
    let most = bars.iter().flatten().copied().max().unwrap_or(0).max(scale);
    let bars: Vec<SparklineBar> = bars.into_iter().map(SparklineBar::from).collect();
    frame.render_widget(Sparkline::default().data(bars).max(most).absent_value_symbol(" "), middle);
}

#[cfg(test)]
mod tests;
