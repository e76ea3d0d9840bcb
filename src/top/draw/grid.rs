//! Rows of cells, cut and filled up to columns of a terminal. What comes in here is made harmless here.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::words::harmless;

#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    /// 0: an equal part of what the others leave.
    pub width: usize,
    /// Numbers stand to the right.
    pub right: bool,
    /// Only where the screen is as wide as that.
    pub from: usize,
}

impl Column {
    pub const fn left(title: &'static str, width: usize) -> Column {
        Column { title, width, right: false, from: 0 }
    }

    pub const fn right(title: &'static str, width: usize) -> Column {
        Column { title, width, right: true, from: 0 }
    }

    pub const fn wide(title: &'static str) -> Column {
        Column::left(title, 0)
    }

    pub const fn from(self, from: usize) -> Column {
        Column { from, ..self }
    }
}

pub type Cell = (String, Style);

/// The columns that a screen has room for, with their widths.
pub struct Grid<'a> {
    columns: &'a [Column],
    widths: Vec<usize>,
}

impl<'a> Grid<'a> {
    pub fn new(columns: &'a [Column], width: usize) -> Grid<'a> {
        let shown = |column: &Column| width >= column.from;
        let fixed: usize = columns.iter().filter(|c| shown(c)).map(|c| c.width + 1).sum();
        let wide = columns.iter().filter(|c| shown(c) && c.width == 0).count().max(1);
        let share = (width + 1).saturating_sub(fixed) / wide;
        let width_of = |column: &Column| match (shown(column), column.width) {
            (false, _) => 0,
            (true, 0) => share,
            (true, width) => width,
        };
        Grid { columns, widths: columns.iter().map(width_of).collect() }
    }

    pub fn header(&self, style: Style) -> Line<'static> {
        self.row(self.columns.iter().map(|column| (column.title.to_owned(), style)).collect())
    }

    /// As many cells as there are columns.
    pub fn row(&self, cells: Vec<Cell>) -> Line<'static> {
        debug_assert_eq!(cells.len(), self.columns.len());
        let mut spans = Vec::with_capacity(cells.len() * 2);
        for ((column, width), (text, style)) in self.columns.iter().zip(&self.widths).zip(cells) {
            if *width == 0 {
                continue;
            }
            if !spans.is_empty() {
                spans.push(Span::raw(" "));
            }
            spans.push(Span::styled(filled(&text, *width, column.right), style));
        }
        Line::from(spans)
    }
}

/// How many columns of a terminal a text takes.
pub fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text of exactly that width, harmless, cut with a mark where it is longer.
fn filled(text: &str, width: usize, right: bool) -> String {
    let text = cut(&harmless(text), width);
    let blank = " ".repeat(width.saturating_sub(width_of(&text)));
    if right { blank + &text } else { text + &blank }
}

/// A text that is no wider than that; it is harmless already.
pub fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let (mut kept, mut used) = (String::new(), 0);
    for c in text.chars() {
        used += width_of(c.encode_utf8(&mut [0; 4]));
        if used + 1 > width {
            break;
        }
        kept.push(c);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// A text in lines of at most that width, broken between words where that is possible; harmless.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(2);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in harmless(text).split(' ') {
        let wide = width_of(word);
        if used > 0 && used + 1 + wide > width {
            lines.push(String::new());
            used = 0;
        }
        if used > 0 {
            lines.last_mut().expect("never empty").push(' ');
            used += 1;
        }
        for c in word.chars() {
            let wide = width_of(c.encode_utf8(&mut [0; 4]));
            if used + wide > width {
                lines.push(String::new());
                used = 0;
            }
            lines.last_mut().expect("never empty").push(c);
            used += wide;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fill_their_columns() {
        for (text, width, right, expected) in [
            ("abc", 5, false, "abc  "),
            ("abc", 5, true, "  abc"),
            ("abcdef", 5, false, "abcd…"),
            ("漢字漢字", 5, false, "漢字…"),
            ("漢字漢字", 4, false, "漢… "),
            ("\u{1b}[2J", 6, true, r"\u{1b…"),
            ("e\u{301}tude", 5, false, "e\u{301}tude"),
            ("abc", 0, false, ""),
        ] {
            assert_eq!(filled(text, width, right), expected, "{text:?} in {width}");
        }
    }

    #[test]
    fn long_texts_are_wrapped_between_words() {
        for (text, width, expected) in [
            ("to be or not", 6, &["to be", "or not"][..]),
            ("abcdefgh ij", 4, &["abcd", "efgh", "ij"]),
            ("漢字漢字", 5, &["漢字", "漢字"]),
            ("", 5, &[""]),
            ("a\nb", 9, &[r"a\nb"]),
        ] {
            assert_eq!(wrapped(text, width), expected, "{text:?} in {width}");
        }
    }

    #[test]
    fn columns_share_what_is_left() {
        let columns = [Column::left("A", 3), Column::wide("B"), Column::right("C", 2).from(20), Column::wide("D")];
        let widths = |width| Grid::new(&columns, width).widths;
        assert_eq!(widths(12), [3, 3, 0, 3]);
        assert_eq!(widths(20), [3, 6, 2, 6]);
        assert_eq!(widths(2), [3, 0, 0, 0]);
    }
}
