//! How good and bad look: a symbol first, so that nobody needs the colour, which `NO_COLOR` takes away. The colours are the terminal's
//! own sixteen.

use ratatui::style::{Color, Modifier, Style};

use crate::admin::diagnosis::Severity;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub fn plain(self) -> Style {
        Style::new()
    }

    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn title(self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub fn good(self) -> Style {
        self.colour(Color::Green)
    }

    pub fn warn(self) -> Style {
        self.colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub fn severity(self, severity: Severity) -> (&'static str, Style) {
        match severity {
            Severity::Note => ("·", self.plain()),
            Severity::Calm => ("✓", self.good()),
            Severity::Warn => ("!", self.warn()),
            Severity::Bad => ("✗", self.bad()),
        }
    }
}
