//! No flood from one place in the code: of the lines of one call site so many are written in each interval; how many more there
//! would have been is said afterwards, in one line. A safety net far above what the engine says on purpose: it already says once
//! a minute what repeats itself ([`Notices`](crate::state::retry::Notices), [`Trying`](crate::state::retry::Trying)).
//!
//! It never allocates for a line that is left out, and never keeps more than [`SITES_MAX`] call sites.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::clock::Clock;

/// Budgets are for so long, and what is left out is said so long after the first such line.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Lines of one call site in each interval. A start says one line for each topic.
const LINES_MAX: u32 = 100;
/// Whoever has to act wants them all, within reason.
const ERROR_LINES_MAX: u32 = 500;
/// Who asks for debug or trace wants detail; librdkafka's all come from one call site.
const DETAIL_LINES_MAX: u32 = 5_000;

/// Call sites that are remembered; one more is not limited. forebay has some hundred.
const SITES_MAX: usize = 512;

/// What is shown of a line as an example of those that were left out.
const EXAMPLE_CHARS_MAX: usize = 80;

thread_local! {
    /// This thread is saying what was left out, which is never left out itself.
    static SAYING: Cell<bool> = const { Cell::new(false) };
}

/// The budgets of all call sites, and a count of the lines by level.
pub struct Limit {
    clock: Box<dyn Clock>,
    sites: Mutex<Sites>,
    lines: [AtomicU64; 5],
    /// Called when a call site's lines begin to be left out: [`say`](Limit::say) is due one [`INTERVAL`] later.
    begun: Box<dyn Fn() + Send + Sync>,
}

impl Limit {
    pub fn new(clock: impl Clock + 'static, begun: impl Fn() + Send + Sync + 'static) -> Limit {
        let sites = Mutex::new(Sites::new(SITES_MAX));
        Limit { clock: Box::new(clock), sites, lines: Default::default(), begun: Box::new(begun) }
    }

    /// How many lines there were of each level, error first, trace last: also those that were left out, but not those that the
    /// level keeps silent, because they never come this far.
    pub fn lines(&self) -> [u64; 5] {
        std::array::from_fn(|level| self.lines[level].load(Ordering::Relaxed))
    }

    /// Writes a line for each call site that lines were left out of since it last did.
    pub fn say(&self) {
        // The lock is free again before anything is written: that comes by here, too.
        let left_out = self.sites.lock().take(self.clock.now());
        SAYING.set(true);
        left_out.iter().for_each(LeftOut::say);
        SAYING.set(false);
    }

    fn admits(&self, event: &Event<'_>) -> bool {
        if SAYING.get() {
            return true;
        }
        let (site, now) = (event.metadata(), self.clock.now());
        self.lines[index(*site.level())].fetch_add(1, Ordering::Relaxed);
        let verdict = self.sites.lock().verdict(site, now);
        match verdict {
            Verdict::Written => true,
            Verdict::WrittenLast => {
                let mut example = Example::default();
                event.record(&mut example);
                self.sites.lock().illustrate(site, example.0);
                true
            }
            Verdict::LeftOutFirst => {
                (self.begun)();
                false
            }
            Verdict::LeftOut => false,
        }
    }
}

/// The layer of a shared [`Limit`].
pub struct Limited(pub &'static Limit);

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admits(event)
    }
}

/// Error first.
fn index(level: Level) -> usize {
    match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }
}

fn budget(level: Level) -> u32 {
    match level {
        Level::ERROR => ERROR_LINES_MAX,
        Level::WARN | Level::INFO => LINES_MAX,
        Level::DEBUG | Level::TRACE => DETAIL_LINES_MAX,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Written,
    /// The last one of this interval: those that may follow are like this one.
    WrittenLast,
    LeftOutFirst,
    LeftOut,
}

/// One call site's budget.
struct Site {
    of: &'static Metadata<'static>,
    /// When its interval began, and the lines of it.
    since: Duration,
    lines: u32,
    /// Lines that nobody was told of, and when the first of them came.
    left_out: u64,
    left_out_since: Duration,
    example: String,
}

struct Sites {
    sites: HashMap<Identifier, Site>,
    max: usize,
}

impl Sites {
    fn new(max: usize) -> Sites {
        Sites { sites: HashMap::with_capacity(max), max }
    }

    fn verdict(&mut self, of: &'static Metadata<'static>, now: Duration) -> Verdict {
        if self.sites.len() == self.max && !self.sites.contains_key(&of.callsite()) {
            self.sites.retain(|_, site| site.left_out > 0 || now < site.since + INTERVAL);
            if self.sites.len() == self.max {
                return Verdict::Written;
            }
        }
        let new = || Site { of, since: now, lines: 0, left_out: 0, left_out_since: now, example: String::new() };
        let site = self.sites.entry(of.callsite()).or_insert_with(new);
        if now >= site.since + INTERVAL {
            (site.since, site.lines) = (now, 0);
        }
        let budget = budget(*of.level());
        if site.lines < budget {
            site.lines += 1;
            return if site.lines == budget { Verdict::WrittenLast } else { Verdict::Written };
        }
        site.left_out += 1;
        if site.left_out > 1 {
            return Verdict::LeftOut;
        }
        site.left_out_since = now;
        Verdict::LeftOutFirst
    }

    fn illustrate(&mut self, of: &'static Metadata<'static>, example: String) {
        if let Some(site) = self.sites.get_mut(&of.callsite()) {
            site.example = example;
        }
    }

    fn take(&mut self, now: Duration) -> Vec<LeftOut> {
        let sites = self.sites.values_mut().filter(|site| site.left_out > 0);
        let take = |site: &mut Site| LeftOut {
            of: site.of,
            lines: std::mem::take(&mut site.left_out),
            lasted: now.saturating_sub(site.left_out_since),
            example: site.example.clone(),
        };
        sites.map(take).collect()
    }
}

/// What was left out of one call site.
struct LeftOut {
    of: &'static Metadata<'static>,
    lines: u64,
    lasted: Duration,
    example: String,
}

impl LeftOut {
    /// As the call site itself would say it: of its level and its target.
    fn say(&self) {
        let Some(message) = self.of.fields().field("message") else { return };
        let LeftOut { lines, lasted, example, .. } = self;
        let (lines_are, seconds) = (if *lines == 1 { "line" } else { "lines" }, lasted.as_secs().max(1));
        // As `tracing`'s own macros do it.
        let text = format_args!("… {lines} more {lines_are} like \"{example}\" were left out in the last {seconds} s");
        Event::dispatch(self.of, &self.of.fields().value_set(&[(&message, Some(&text as &dyn tracing::Value))]));
    }
}

/// The beginning of a line's text.
#[derive(Default)]
struct Example(String);

impl Visit for Example {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // It ends by refusing what is too long.
            let _ = write!(Short { text: &mut self.0, room: EXAMPLE_CHARS_MAX }, "{value:?}");
        }
    }
}

struct Short<'a> {
    text: &'a mut String,
    room: usize,
}

impl Write for Short<'_> {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        for char in piece.chars() {
            if self.room == 0 {
                self.text.push('…');
                return Err(std::fmt::Error);
            }
            self.room -= 1;
            self.text.push(char);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::clock::TestClock;

    /// Level and text of each line that got through.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<(Level, String)>>>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = Example::default();
            event.record(&mut text);
            self.0.lock().push((*event.metadata().level(), text.0));
        }
    }

    struct World {
        clock: TestClock,
        limit: &'static Limit,
        begun: Arc<AtomicU32>,
        written: Written,
    }

    impl World {
        fn new() -> World {
            let (clock, begun) = (TestClock::default(), Arc::new(AtomicU32::new(0)));
            let rung = Arc::clone(&begun);
            let ring = move || {
                rung.fetch_add(1, Ordering::Relaxed);
            };
            let limit = Box::leak(Box::new(Limit::new(clock.clone(), ring)));
            World { clock, limit, begun, written: Written::default() }
        }

        /// What got through of what this logs.
        fn run(&self, body: impl FnOnce()) -> Vec<(Level, String)> {
            let subscriber = tracing_subscriber::registry().with(Limited(self.limit)).with(self.written.clone());
            with_default(subscriber, body);
            std::mem::take(&mut self.written.0.lock())
        }
    }

    fn warn(number: u32) {
        tracing::warn!(number, "number {number}");
    }

    #[test]
    fn a_call_site_has_its_budget_in_each_interval_and_the_rest_is_counted() {
        let world = World::new();
        let written = world.run(|| (0..1234).for_each(warn));
        assert_eq!(written.len(), LINES_MAX as usize);
        assert_eq!(written.last(), Some(&(Level::WARN, format!("number {}", LINES_MAX - 1))));
        assert_eq!(world.begun.load(Ordering::Relaxed), 1, "told once that lines are left out");

        world.clock.advance(INTERVAL);
        let said = world.run(|| world.limit.say());
        let rest = 1234 - LINES_MAX;
        assert_eq!(
            said,
            [(
                Level::WARN,
                format!("… {rest} more lines like \"number {}\" were left out in the last 10 s", LINES_MAX - 1)
            )]
        );
        assert_eq!(world.run(|| world.limit.say()), [], "said once");
        assert_eq!(world.run(|| warn(7)), [(Level::WARN, "number 7".to_owned())], "a new interval");
        assert_eq!(world.limit.lines(), [0, 1235, 0, 0, 0], "counted all the same, but for what was said of them");
    }

    #[test]
    fn others_are_not_held_up_and_errors_have_a_larger_budget() {
        let world = World::new();
        let written = world.run(|| {
            (0..=LINES_MAX).for_each(warn);
            tracing::warn!("another");
            (0..2 * ERROR_LINES_MAX).for_each(|_| tracing::error!("bad"));
            (0..2 * LINES_MAX).for_each(|_| tracing::info!("well"));
            (0..2 * DETAIL_LINES_MAX).for_each(|_| tracing::debug!("detail"));
        });
        let count = |text: &str| written.iter().filter(|(_, line)| line == text).count() as u32;
        assert_eq!([count("another"), count("bad"), count("well")], [1, ERROR_LINES_MAX, LINES_MAX]);
        assert_eq!(count("detail"), DETAIL_LINES_MAX);
        let [error, warn, info, debug] =
            [2 * ERROR_LINES_MAX, LINES_MAX + 2, 2 * LINES_MAX, 2 * DETAIL_LINES_MAX].map(u64::from);
        assert_eq!(world.limit.lines(), [error, warn, info, debug, 0]);
        assert_eq!(world.run(|| world.limit.say()).len(), 4);
    }

    #[test]
    fn what_is_left_out_while_it_goes_on_is_said_in_each_interval() {
        let world = World::new();
        let mut said = Vec::new();
        world.run(|| {
            for second in 0..35 {
                (0..50).for_each(|_| warn(second));
                world.clock.advance(Duration::from_secs(1));
                if second % 10 == 9 {
                    world.written.0.lock().clear();
                    world.limit.say();
                    said.append(&mut world.written.0.lock());
                }
            }
        });
        let counts: Vec<&str> = said.iter().map(|(_, line)| line.split(' ').nth(1).expect("a number")).collect();
        assert_eq!(counts, ["400"; 3], "500 in each interval, and 100 of them written");
    }

    #[test]
    fn an_example_is_short_and_ends_where_a_character_does() {
        let world = World::new();
        let long = "é".repeat(10_000);
        world.run(|| (0..=LINES_MAX).for_each(|_| tracing::warn!("{long}")));
        let shown = world.limit.sites.lock().take(Duration::ZERO).pop().expect("one was left out").example;
        assert_eq!(shown, format!("{}…", "é".repeat(EXAMPLE_CHARS_MAX)));
    }

    #[test]
    fn call_sites_are_bounded_and_idle_ones_make_room() {
        let world = World::new();
        *world.limit.sites.lock() = Sites::new(2);
        let remembered = || world.limit.sites.lock().sites.len();
        world.run(|| {
            tracing::info!("one");
            (0..=LINES_MAX).for_each(warn);
        });
        let third = |lines: u32| world.run(|| (0..lines).for_each(|_| tracing::info!("three"))).len() as u32;
        assert_eq!(third(2 * LINES_MAX), 2 * LINES_MAX, "not limited: there is no room");
        assert_eq!(remembered(), 2);
        world.clock.advance(INTERVAL);
        assert_eq!(third(2 * LINES_MAX), LINES_MAX, "the first one is idle and made room");
        assert_eq!(remembered(), 2, "the second one has something to say still");
        assert_eq!(world.run(|| world.limit.say()).len(), 2);
    }
}
