//! `forebay top`: what a running forebay says of itself, in a terminal, for whoever must see within seconds whether writes are
//! behind, and because of whom. It knows what `/status` says, and no database and no broker.
//!
//! One thread has the terminal: keys and answers change a [`State`](state::State), which is drawn. It never waits for the network;
//! the threads of a [`Fetcher`](fetch::Fetcher) do. What is wrong the status says itself, in its findings: here nothing is decided. Nothing of what it is told reaches the terminal as it is: keys of records are anybody's.

pub mod address;

mod action;
mod client;
mod draw;
mod fetch;
mod history;
mod keys;
mod parked;
mod rows;
mod state;
mod terminal;
mod theme;
mod unix;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU};
use signal_hook::flag;
use signal_hook::low_level::emulate_default_handler;

use crate::config::secret::Secret;
use address::Address;
use client::Client;
pub use client::Failure;
use fetch::{Fetcher, Order, Report};
use keys::Effect;
use state::{Notice, State, Tab};
use terminal::Terminal;
use theme::Theme;

/// How long a key, an answer or a signal waits at most.
const TICK: Duration = Duration::from_millis(50);

/// Ages on the screen grow, whether or not anything else happens.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// What asks it to end, as `q` does.
const ENDS: [i32; 2] = [SIGTERM, SIGINT];

/// What ends a process that does not know it: so it is here, once the terminal is given back.
const KILLS: [i32; 8] = [SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU];

#[derive(Debug)]
pub struct Options {
    pub address: Address,
    pub token: Option<Secret>,
    pub interval: Duration,
    pub colour: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// There was no first answer. Later ones may be missing: the screen says so.
    #[error("{0}")]
    Answer(Failure),
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// A thread that asks has panicked, and said so.
    #[error("a thread that asks is gone")]
    Gone,
}

/// One screen as plain text.
pub fn once(options: Options) -> Result<String, Failure> {
    let client = Client::new(options.address.clone(), options.token);
    let mut state = State::new(options.address.to_string(), Theme { colour: false });
    state.hear(Ok(client.status()?));
    state.parked = Some(client.parked());
    Ok(draw::plain::text(&state))
}

/// Shows it until somebody has seen enough, or SIGTERM or SIGINT. Another signal that ends processes ends this one, too.
pub fn watch(options: Options) -> Result<(), TopError> {
    let client = Client::new(options.address.clone(), options.token);
    let mut state = State::new(options.address.to_string(), Theme { colour: options.colour });
    state.hear(Ok(client.status().map_err(TopError::Answer)?));
    // The last signal; 0 before there was one.
    let told = Arc::new(AtomicUsize::new(0));
    for signal in ENDS.into_iter().chain(KILLS) {
        flag::register_usize(signal, Arc::clone(&told), signal as usize)?;
    }
    let mut terminal = Terminal::take()?;
    let fetcher = Fetcher::start(client, options.interval)?;
    let mut screen = Screen { state, fetcher: &fetcher, started: Instant::now(), drawn: None, looks: false };
    let result = screen.run(&mut terminal, &told);
    let acting = screen.state.sending.is_some();
    drop(terminal);
    fetcher.end(acting);
    let signal = told.load(Ordering::Relaxed) as i32;
    if KILLS.contains(&signal) {
        // Whatever else went wrong: a terminal that hangs up cannot be drawn on.
        emulate_default_handler(signal)?;
    }
    result
}

struct Screen<'a> {
    state: State,
    fetcher: &'a Fetcher,
    started: Instant,
    drawn: Option<Instant>,
    /// The other thread was told that somebody looks at what is parked.
    looks: bool,
}

impl Screen<'_> {
    fn run(&mut self, terminal: &mut Terminal, told: &AtomicUsize) -> Result<(), TopError> {
        while told.load(Ordering::Relaxed) == 0 {
            self.state.now = self.started.elapsed();
            if self.hear()? {
                self.drawn = None;
            }
            self.look();
            if self.drawn.is_none_or(|at| at.elapsed() >= DRAW_EVERY) {
                self.state.cursor_mut().scroll = terminal.draw(&self.state)?;
                self.drawn = Some(Instant::now());
            }
            let Some(key) = terminal.key(TICK)? else { continue };
            self.drawn = None;
            match keys::press(&mut self.state, key) {
                Effect::None => {}
                Effect::Quit => return Ok(()),
                Effect::Suspend => terminal.suspend()?,
                Effect::Redraw => terminal.forget()?,
                Effect::Send(action) => self.send(Order::Act(action)),
            }
        }
        Ok(())
    }

    /// Whether there was anything.
    fn hear(&mut self) -> Result<bool, TopError> {
        let mut heard = false;
        loop {
            match self.fetcher.reports.try_recv() {
                Ok(Report::Status(answer)) => self.state.hear(*answer),
                Ok(Report::Parked(answer)) => self.state.parked = Some(answer),
                Ok(Report::Done(answer)) => self.state.hear_done(answer),
                Err(TryRecvError::Empty) if self.fetcher.is_gone() => return Err(TopError::Gone),
                Err(TryRecvError::Empty) => return Ok(heard),
                Err(TryRecvError::Disconnected) => return Err(TopError::Gone),
            }
            heard = true;
        }
    }

    fn look(&mut self) {
        let looks = self.state.tab == Tab::Keys;
        if looks != self.looks && self.fetcher.tell(Order::LookAtParked(looks)) {
            self.looks = looks;
        }
    }

    fn send(&mut self, order: Order) {
        if !self.fetcher.tell(order) {
            self.state.sending = None;
            self.state.notice =
                Some(Notice { good: false, text: "It was not sent: too much is under way.".to_owned() });
        }
    }
}
