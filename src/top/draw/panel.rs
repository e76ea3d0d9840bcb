//! One tab: lines on top, a list with a selected row, and what is known of that one. The same lines are printed by `--once`.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::super::state::State;

#[derive(Debug, Default)]
pub struct Panel {
    pub head: Vec<Line<'static>>,
    pub header: Option<Line<'static>>,
    pub rows: Vec<Line<'static>>,
    pub detail: Vec<Line<'static>>,
    /// What the detail says is more than the list: it gets the room.
    pub detail_first: bool,
}

/// Of the rows between two parts.
const GAP: u16 = 1;

/// A list keeps so many rows.
const ROWS_MIN: u16 = 3;

/// How many lines of the detail are scrolled past.
pub fn draw(frame: &mut Frame<'_>, area: Rect, panel: Panel, state: &State) -> u16 {
    let mut rest = area;
    let head = (panel.head.len() as u16).min(rest.height.saturating_sub(ROWS_MIN));
    take(frame, &mut rest, head, panel.head);
    if let Some(header) = panel.header {
        take(frame, &mut rest, 1, vec![header]);
    }
    let (rows, detail) = (panel.rows.len() as u16, panel.detail.len() as u16);
    let selected = state.selected();
    let list = match (detail, panel.detail_first) {
        (0, _) => rest.height,
        (_, true) => rows.max(1).min((rest.height / 4).max(1)),
        (detail, false) => rest.height.saturating_sub((detail + GAP).min(rest.height / 2)),
    };
    // The selected row stands in the middle where there is more than fits.
    let first = selected.unwrap_or(0).saturating_sub(usize::from(list) / 2);
    let first = first.min(panel.rows.len().saturating_sub(usize::from(list)));
    let theme = state.theme;
    let shown = panel.rows.into_iter().enumerate().skip(first).take(list.into());
    let shown: Vec<Line<'static>> = shown
        .map(|(index, line)| if Some(index) == selected { line.patch_style(theme.selected()) } else { line })
        .collect();
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
