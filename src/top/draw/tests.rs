use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::*;
use crate::admin::samples::{HOSTILE, bad_night, calm, diagnosed, frontier};
use crate::top::action::{Action, Whose};
use crate::top::client::Failure;
use crate::top::theme::Theme;

fn state(status: Status) -> State {
    let mut state = State::new("127.0.0.1:9464".to_owned(), Theme { colour: true });
    state.hear(Ok(status));
    state
}

fn drawn(state: &State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no terminal at all");
    terminal.draw(|frame| _ = draw(frame, state)).expect("it cannot fail");
    terminal.backend().buffer().clone()
}

fn screen(state: &State, width: u16, height: u16) -> String {
    let buffer = drawn(state, width, height);
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

#[track_caller]
fn check(state: &State, expected: &str) {
    let found = screen(state, 80, 24);
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

#[test]
fn a_calm_day() {
    check(
        &state(calm()),
        "\
forebay  subscriptions on ingest-3 · 0.1.0 · up 3 d 4 h · p… ✓ ready · 0.0 s ago
TIME LAG       MESSAGE LAG      DURABLE/s   FETCHED/s   PARKED       DEAD
0.6 s          120              11,988      12,010      0            0
✓ Caught up.
time lag                        ≤ 0.6 s  lag                               ≤ 120
 1 Overview   2 Shards   3 Partitions   4 Topics   5 Keys
  SHARD        STATE    VERDICT        WHY                       PARKED     CONN
✓ a            up       waiting-for-us its workers wait for re…       0     7/97
✓ b            up       waiting-for-us its workers wait for re…       0     7/97
FURTHEST BEHIND      TIME LAG        LAG OLDEST IS   TRY ERROR ITS KEY
updates [0]             0.6 s        112 writing               a1:s0
updates [1]             0.6 s        112 writing               a1:s0
updates [2]             0.6 s        112 writing               a1:s0
updates [3]             0.6 s        112 writing               a1:s0
updates [4]             0.6 s        112 writing               a1:s0
updates [5]             0.6 s        112 writing               a1:s0
updates [6]             0.6 s        112 writing               a1:s0
updates [7]             0.6 s        112 writing               a1:s0

oldest of updates [0]: offset 399,990, key a1:s0, 0.6 s old, writing in fb-w0.0
(shard a, lane 3)
updates [0]: running; committed 399,900, durable 399,990, fetched 400,000, end
400,012
? help  q quit  ↑↓ select  / filter  p pause  k park its key
",
    );
}

#[test]
fn a_bad_night() {
    let mut state = state(bad_night());
    check(
        &state,
        "\
forebay  subscriptions on ingest-3 · 0.1.0 · up 3 d 4 h… ✗ NOT READY · 0.0 s ago
  topic events stopped
TIME LAG       MESSAGE LAG      DURABLE/s   FETCHED/s   PARKED       DEAD
4 min 12 s     1,204,331        42          310         3 (120)      4
✗ TOPIC EVENTS │ Topic events has stopped and needs a person: column \"email\" of
relation \"events\" does not exist (SQLSTATE 42703). (+4)
time lag                 █ ≤ 4 min 12 s  lag                       █ ≤ 1,204,331
 1 Overview   2 Shards   3 Partitions   4 Topics   5 Keys
✗ DATABASE B │ Shard b is lock-bound: pid 4711 (psql, user ann, idle in
transaction for 5 min 40 s) holds up fb-w1.0 on public.subscriptions, and with …
! ON PURPOSE │ Topic audit is paused: nothing of it is fetched; 24,331 records …
· 3 keys are parked, with 120 records, the oldest 2 min 42 s old.
  SHARD        STATE    VERDICT        WHY                       PARKED     CONN
✗ b            up       lock-bound     71 % of the time waits …       3     7/97
✓ a            up       waiting-for-us its workers wait for re…       0     7/97
FURTHEST BEHIND      TIME LAG        LAG OLDEST IS   TRY ERROR ITS KEY
updates [0]        4 min 12 s    400,000 writing       5 55P03 a1:s0
updates [1]        3 min 42 s    360,000 queued                a1:s1
updates [2]        3 min 12 s    320,000 queued                a1:s2
updates [4]        2 min 12 s    240,000 queued                a1:s4

✗ pid 4711 (psql, user ann, idle in transaction for 5 min 40 s) holds up fb-w1.0
… 6 more lines
? help  q quit  ↑↓ select  / filter  p pause  k park its key
",
    );
    state.tab = Tab::Shards;
    let body: Vec<String> = screen(&state, 80, 24).lines().skip(12).map(str::to_owned).collect();
    assert_eq!(
        body,
        [
            "b is up for 3 d 3 h; lock-bound: 71 % of the time waits for locks",
            "! held back on purpose: replica db-b2 lags by 9 s",
            "✗ pid 4711 (psql, user ann, idle in transaction for 5 min 40 s) holds up fb-w1.0",
            "on public.subscriptions (transactionid), for 34 s; its last command: UPDATE",
            " SHARE WAITS FOR",
            "  71 % Lock: transactionid              ██████████████",
            "  20 % CPU                              ████",
            "   9 % LWLock: WALWrite                 ██",
            "WORKER    STATE      BUSY   BATCH       SINCE TRY    QUEUED TOPIC, LAST ERROR",
            "fb-w1.0   retrying   98 %     500        34 s   5     7,000 updates: canceling …",
            "… 9 more lines: PgDn, PgUp",
            "? help  q quit  ↑↓ select  PgDn more",
        ]
    );
    state.cursor_mut().scroll = u16::MAX;
    let mut scroll = 0;
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("no terminal at all");
    terminal.draw(|frame| scroll = draw(frame, &state)).expect("it cannot fail");
    assert_eq!(scroll, 8, "no further than the end");
    let end = screen(&state, 80, 24);
    assert!(end.contains("17 because the log\nwas full: max_wal_size is small"), "{end}");
    assert!(end.contains("pg_read_all_stats") && !end.contains("more lines"), "{end}");
}

#[test]
fn tabs_show_what_their_names_say() {
    for (tab, expected) in [
        (Tab::Partitions, "updates [0] full        4 min 12 s     400,000     7,000 writing     a1:s0"),
        (Tab::Topics, "✗ events         stopped         0.6 s          40     2,900,000        0      0"),
        (Tab::Topics, "! audit          paused          0.0 s      24,331     2,900,000        0      0"),
        (Tab::Topics, "✗ column \"email\" of relation \"events\" does not exist (SQLSTATE 42703)"),
        (Tab::Keys, "a1:s7          b          updates [0]           31 %   88 %"),
        (Tab::Keys, "31 % of the records, 88 % of the time of the topic in this shard"),
    ] {
        let mut state = state(bad_night());
        state.tab = tab;
        let screen = screen(&state, 80, 24);
        assert!(screen.contains(expected), "{expected:?} in:\n{screen}");
    }
}

/// Once the parked key was all that was to be seen of its partition.
#[test]
fn a_parked_key_hides_nothing_of_its_partition() {
    let mut status = calm();
    let partition = &mut status.partitions[0];
    (partition.time_lag_ms, partition.unparked_lag_ms) = (259_200_000, 40_000);
    partition.parked_age_ms = Some(259_200_000);
    partition.frontier = Some(frontier(7, "a", "parked", 259_200_000));
    partition.unparked = Some(frontier(9, "b", "queued", 40_000));
    (status.totals.time_lag_ms, status.totals.unparked_lag_ms) = (259_200_000, 40_000);
    status.totals.parked_keys = 1;
    (status.partitions[1].durable, status.partitions[1].fetched) = (None, None);
    let mut state = state(diagnosed(status));
    state.tab = Tab::Partitions;
    let text = screen(&state, 160, 40);
    for expected in [
        "\n40 s ",
        "Catching up: 40 s behind",
        "updates [0]",
        "queued      a1:s9",
        "oldest of updates [0]: offset 9, key a1:s9, 40 s old, queued in fb-w1.0",
        "oldest of updates [0]: offset 7, key a1:s7, 3 d 0 h old, parked in fb-w0.0",
        "399,900             –             –       400,012",
    ] {
        assert!(text.contains(expected), "{expected:?} in:\n{text}");
    }
}

/// Whatever the status says is shown, and nothing else: here is nothing decided.
#[test]
fn findings_are_those_of_the_status() {
    let mut status = bad_night();
    status.findings.truncate(1);
    status.findings[0].text = "All is lost.".to_owned();
    status.findings[0].culprit = "moon".to_owned();
    let text = plain::text(&state(status));
    assert!(text.contains("\n✗ MOON EVENTS │ All is lost.\n") && !text.contains("lock-bound: pid"), "{text}");
}

/// A paused topic's partitions are not fetched because of that, not because their window is full.
#[test]
fn a_partition_says_why_it_is_not_fetched() {
    let mut status = bad_night();
    status.topics[0].state = crate::admin::status::TopicState::Paused;
    let mut state = state(status);
    state.tab = Tab::Partitions;
    let screen = screen(&state, 80, 24);
    assert!(screen.contains("updates [0] paused "), "{screen}");
}

#[test]
fn an_outage_dims_what_was_true_once() {
    let mut state = state(bad_night());
    for second in [70, 75] {
        state.now = Duration::from_secs(second);
        state.hear(Err(Failure::Unreachable("127.0.0.1:9464 does not answer: Connection refused".to_owned())));
    }
    state.now = Duration::from_secs(80);
    let buffer = drawn(&state, 80, 24);
    let text = screen(&state, 80, 24);
    assert!(text.contains("✗ NO ANSWER for 10 s\n  127.0.0.1:9464 does not answer"), "{text}");
    let dim = |y| buffer[(0, y)].modifier.contains(Modifier::DIM);
    assert!((0..2).all(|y| !dim(y)) && (2..23).all(dim), "{:?}", (0..24).map(dim).collect::<Vec<_>>());
    state.hear(Ok(calm()));
    assert!(!drawn(&state, 80, 24)[(0, 2)].modifier.contains(Modifier::DIM), "it answers again");
}

#[test]
fn a_lag_that_grows_or_shrinks_says_so() {
    let at = |lags: [u64; 2]| {
        let mut state = State::new("here".to_owned(), Theme { colour: true });
        for (second, lag) in [(0, lags[0]), (10, lags[1])] {
            let mut status = bad_night();
            (status.totals.message_lag, status.totals.unparked_lag_ms) = (Some(lag), lag);
            state.now = Duration::from_secs(second);
            state.hear(Ok(status));
        }
        screen(&state, 100, 24)
    };
    let (grows, shrinks) = (at([1_000_000, 1_031_000]), at([1_031_000, 1_000_000]));
    assert!(grows.contains("1,031,000 ▲") && grows.contains("+3,100/s"), "{grows}");
    assert!(shrinks.contains("1,000,000 ▼") && shrinks.contains("-3,100/s, done in 5 min 22 s"), "{shrinks}");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let has_colours = |colour| {
        let mut state = state(bad_night());
        state.theme = Theme { colour };
        drawn(&state, 80, 24).content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(has_colours(true) && !has_colours(false));
}

#[test]
fn a_question_keeps_its_answers_in_sight() {
    let mut state = state(bad_night());
    let whose = Whose::Key(HOSTILE.repeat(9));
    state.mode = Mode::Confirm(Action::Park { topic: "updates".to_owned(), whose });
    let last = screen(&state, 80, 24).lines().last().map(str::to_owned);
    assert!(last.as_deref().is_some_and(|line| line.ends_with("…  y: yes, other keys: no")), "{last:?}");
}

/// Every text is as bad as it can be, in every tab, mode and size, as a screen and as plain text.
#[test]
fn nothing_reaches_the_terminal_as_it_came() {
    let text = serde_json::to_string(&bad_night()).expect("JSON");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    spoil(&mut value);
    let status: Status = serde_json::from_value(value).expect("a status still");
    let mut state = state(status);
    let mut texts = vec![plain::text(&state)];
    let whose = || Whose::Tenant(HOSTILE.to_owned());
    let modes = [
        Mode::Normal,
        Mode::Help,
        Mode::Level(HOSTILE.to_owned()),
        Mode::Confirm(Action::Unpark { topic: HOSTILE.to_owned(), whose: whose() }),
    ];
    for (tab, mode) in Tab::ALL.into_iter().flat_map(|tab| modes.iter().map(move |mode| (tab, mode))) {
        (state.tab, state.mode) = (tab, mode.clone());
        for (width, height) in [(1, 1), (10, 3), (40, 10), (80, 24), (131, 37), (250, 80), (80, 1), (1, 80)] {
            texts.push(screen(&state, width, height));
        }
    }
    for text in &texts {
        let wrong = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{200b}' | '\u{202e}');
        assert!(!text.contains(wrong), "{text:?}");
    }
    assert!(texts.iter().any(|text| text.contains(r"\u{202e}")));
}

/// Appends to each text, but for the words that decide something.
fn spoil(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if !["running", "stopped", "paused"].contains(&text.as_str()) => {
            text.insert_str(0, HOSTILE);
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(spoil),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(spoil),
        _ => {}
    }
}

/// Once a status without keys was a panic: what is selected in one list was looked for in the others.
#[test]
fn lists_may_be_empty() {
    for empty in 0..4 {
        let mut status = bad_night();
        match empty {
            0 => status.topics.clear(),
            1 => status.partitions.clear(),
            2 => status.shards.clear(),
            _ => status.top_keys.clear(),
        }
        let mut state = state(status);
        assert!(plain::text(&state).contains("TIME LAG"));
        for tab in Tab::ALL {
            state.tab = tab;
            assert!(screen(&state, 80, 24).contains("TIME LAG"));
        }
    }
}

#[test]
fn plain_text_says_all_that_matters() {
    let mut status = bad_night();
    status.partitions = (0..30).map(|number| crate::admin::samples::partition("updates", number)).collect();
    let mut state = state(status);
    state.parked = Some(Ok(crate::top::parked::Parked::default()));
    let text = plain::text(&state);
    for expected in [
        "4 min 12 s     1,204,331 ",
        "✗ DATABASE B │ Shard b is lock-bound: pid 4711 (psql",
        "\n… and 10 more\n",
        "\nShard b\nb is up for 3 d 3 h; lock-bound",
        "✗ column \"email\" of relation \"events\" does not exist (SQLSTATE 42703)\n",
        "a1:s7 ",
    ] {
        assert!(text.contains(expected), "{expected:?} in:\n{text}");
    }
}
