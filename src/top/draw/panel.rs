//! One tab: lines on top, a list with a selected row, and what is known of that one. The same lines are printed by `--once`.

use std::ops::Range;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::super::state::State;

#[derive(Default)]
pub struct Panel<'a> {
    pub head: Vec<Line<'static>>,
    pub header: Option<Line<'static>>,
    pub rows: Rows<'a>,
    pub detail: Vec<Line<'static>>,
    /// What the detail says is more than the list: it gets the room.
    pub detail_first: bool,
}

/// Rows are made when they are shown: there may be ten thousand, and a screen shows twenty.
pub struct Rows<'a> {
    pub count: usize,
    make: Box<dyn Fn(usize) -> Line<'static> + 'a>,
}

impl<'a> Rows<'a> {
    pub fn new(count: usize, make: impl Fn(usize) -> Line<'static> + 'a) -> Rows<'a> {
        Rows { count, make: Box::new(make) }
    }

    /// Those of the range that there are.
    pub fn lines(&self, range: Range<usize>) -> impl Iterator<Item = Line<'static>> + '_ {
        (range.start..range.end.min(self.count)).map(|index| (self.make)(index))
    }
}

impl Default for Rows<'_> {
    fn default() -> Self {
        Rows::new(0, |_| Line::default())
    }
}

/// Of the rows between two parts.
const GAP: u16 = 1;

/// A list keeps so many rows.
const ROWS_MIN: u16 = 3;

/// How many lines of the detail are scrolled past.
pub fn draw(frame: &mut Frame<'_>, area: Rect, panel: Panel<'_>, state: &State) -> u16 {
    let mut rest = area;
    let head = (panel.head.len() as u16).min(rest.height.saturating_sub(ROWS_MIN));
    take(frame, &mut rest, head, panel.head);
    if let Some(header) = panel.header {
        take(frame, &mut rest, 1, vec![header]);
    }
    let (rows, detail) = (panel.rows.count, panel.detail.len() as u16);
    let selected = state.selected();
    let list = match (detail, panel.detail_first) {
        (0, _) => rest.height,
        (_, true) => (rows.max(1)).min((rest.height / 4).max(1).into()) as u16,
        (detail, false) => rest.height.saturating_sub((detail + GAP).min(rest.height / 2)),
    };
    // The selected row stands in the middle where there is more than fits.
    let first = selected.unwrap_or(0).saturating_sub(usize::from(list) / 2);
    let first = first.min(rows.saturating_sub(usize::from(list)));
    let theme = state.theme;
    let lines = (first..).zip(panel.rows.lines(first..first + usize::from(list)));
    let mark = |(index, line): (usize, Line<'static>)| {
        if Some(index) == selected { line.patch_style(theme.selected()) } else { line }
    };
    let shown: Vec<Line<'static>> = lines.map(mark).collect();
    let empty = if rows == 0 { vec![Line::styled("nothing here", theme.faint())] } else { shown };
    take(frame, &mut rest, list, empty);
    take(frame, &mut rest, GAP, Vec::new());
    let past = state.cursor().scroll.min(detail.saturating_sub(rest.height));
    let below = detail.saturating_sub(past + rest.height);
    let mut lines: Vec<Line<'static>> = panel.detail.into_iter().skip(past.into()).collect();
    if below > 0 && rest.height > 0 {
        lines.truncate(usize::from(rest.height) - 1);
        let how = if panel.detail_first { ": PgDn, PgUp" } else { "" };
        lines.push(Line::styled(format!("… {} more lines{how}", below + 1), theme.faint()));
    }
    frame.render_widget(Paragraph::new(lines), rest);
    past
}

/// Draws lines at the top of what is left, and leaves the rest.
fn take(frame: &mut Frame<'_>, rest: &mut Rect, height: u16, lines: Vec<Line<'static>>) {
    let height = height.min(rest.height);
    frame.render_widget(Paragraph::new(lines), Rect { height, ..*rest });
    rest.y += height;
    rest.height -= height;
}
