//! The terminal: taken over, and given back as it was, whatever happens: at the end, on an error, and on a panic of any thread.

use std::io::{self, Stdout, stdout};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use signal_hook::consts::SIGTSTP;
use signal_hook::low_level::emulate_default_handler;

use super::draw;
use super::state::State;

static TAKEN: AtomicBool = AtomicBool::new(false);

pub struct Terminal(ratatui::Terminal<CrosstermBackend<Stdout>>);

impl Terminal {
    pub fn take() -> io::Result<Terminal> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                give_back();
                previous(panic);
            }));
        });
        enter()?;
        // What follows fails with the terminal given back.
        ratatui::Terminal::new(CrosstermBackend::new(stdout())).map(Terminal).inspect_err(|_| give_back())
    }

    /// See [`draw::draw`].
    pub fn draw(&mut self, state: &State) -> io::Result<u16> {
        let mut scroll = 0;
        self.0.draw(|frame| scroll = draw::draw(frame, state))?;
        Ok(scroll)
    }

    /// Draws all of it the next time, whatever stands there. Ratatui's `clear` would first ask the terminal where its cursor is: one
    /// that answers late, or never, would end the program.
    pub fn forget(&mut self) -> io::Result<()> {
        let area = self.0.size()?.into();
        self.0.resize(area)
    }

    /// Stops the process as Ctrl-Z does elsewhere, and comes back with `fg`.
    pub fn suspend(&mut self) -> io::Result<()> {
        give_back();
        emulate_default_handler(SIGTSTP)?;
        enter()?;
        self.forget()
    }

    /// The next key, or none within that time, or where the screen only changed its size.
    pub fn key(&mut self, within: Duration) -> io::Result<Option<KeyEvent>> {
        if !event::poll(within)? {
            return Ok(None);
        }
        match event::read()? {
            Event::Key(key) => Ok(Some(key)),
            // The next drawing looks at the size itself.
            _ => Ok(None),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    let entered = enable_raw_mode().and_then(|()| execute!(stdout(), EnterAlternateScreen));
    entered.inspect_err(|_| give_back())
}

/// Once; nobody is left to be told of an error.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    }
}
