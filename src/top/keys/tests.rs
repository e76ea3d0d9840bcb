use std::time::Duration;

use super::*;
use crate::admin::samples::{HOSTILE, bad_night};
use crate::top::parked::Parked;
use crate::top::state::{KeySort, Sort};
use crate::top::theme::Theme;

fn state() -> State {
    let mut state = State::new("127.0.0.1:9464".to_owned(), Theme { colour: false });
    state.hear(Ok(bad_night()));
    state
}

/// Presses keys one after the other: a character each, `⏎`, `⎋`, `⌫`, `↑`, `↓`, `⇞`, `⇟`, `⇤`, `⇥`. The last one's effect.
fn type_in(state: &mut State, keys: &str) -> Effect {
    let mut effect = Effect::None;
    for c in keys.chars() {
        let code = match c {
            '⏎' => KeyCode::Enter,
            '⎋' => KeyCode::Esc,
            '⌫' => KeyCode::Backspace,
            '↑' => KeyCode::Up,
            '↓' => KeyCode::Down,
            '⇞' => KeyCode::PageUp,
            '⇟' => KeyCode::PageDown,
            '⇤' => KeyCode::BackTab,
            '⇥' => KeyCode::Tab,
            c => KeyCode::Char(c),
        };
        effect = press(state, KeyEvent::new(code, KeyModifiers::NONE));
    }
    effect
}

fn key(name: &str) -> Whose {
    Whose::Key(name.to_owned())
}

#[test]
fn keys_and_what_they_send() {
    let topic = || "updates".to_owned();
    for (keys, expected) in [
        ("p", Effect::None),
        ("py", Effect::Send(Action::Pause { topic: topic() })),
        ("pY", Effect::Send(Action::Pause { topic: topic() })),
        ("p⏎", Effect::None),
        ("pny", Effect::None),
        ("p⎋y", Effect::None),
        ("3py", Effect::Send(Action::Pause { topic: topic() })),
        // Topics: the stopped one, the paused one, the running one.
        ("4py", Effect::None),
        ("4↓py", Effect::Send(Action::Resume { topic: "audit".to_owned() })),
        ("4↓↓↓↓py", Effect::Send(Action::Pause { topic: topic() })),
        ("2py", Effect::None),
        ("ky", Effect::Send(Action::Park { topic: topic(), whose: key("a1:s0") })),
        ("uy", Effect::Send(Action::Unpark { topic: topic(), whose: key("a1:s0") })),
        // It is parked already, and keeps its name, whatever that is.
        ("3↓↓↓↓↓↓↓↓ky", Effect::Send(Action::Unpark { topic: topic(), whose: key(HOSTILE) })),
        ("4ky", Effect::None),
        ("5↓ky", Effect::Send(Action::Park { topic: topic(), whose: key(HOSTILE) })),
        // Of this one the hash is known.
        ("5↓↓ky", Effect::None),
        ("5sky", Effect::Send(Action::Park { topic: topic(), whose: key("a1:s7") })),
        ("L⌫⌫⌫⌫warn⏎", Effect::Send(Action::LogLevel("warn".to_owned()))),
        ("L⌫⌫⌫⌫ ⏎", Effect::None),
        ("Lx⎋", Effect::None),
        ("q", Effect::Quit),
        // Where a text is written, or a question asked, it is a letter.
        ("/q", Effect::None),
        ("Lq", Effect::None),
        ("pq", Effect::None),
        ("?q", Effect::None),
        ("?qq", Effect::Quit),
    ] {
        assert_eq!(type_in(&mut state(), keys), expected, "{keys}");
    }
}

#[test]
fn control_keys_mean_the_same_everywhere() {
    for keys in ["", "/x", "L", "p", "?"] {
        for (c, expected) in [('c', Effect::Quit), ('z', Effect::Suspend), ('l', Effect::Redraw), ('x', Effect::None)] {
            let mut state = state();
            type_in(&mut state, keys);
            assert_eq!(
                press(&mut state, KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)),
                expected,
                "{keys}^{c}"
            );
        }
    }
}

#[test]
fn tabs_sorting_and_filters() {
    let mut state = state();
    for (keys, tab) in [("3", Tab::Partitions), ("⇥⇥⇥", Tab::Overview), ("⇤", Tab::Keys), ("2", Tab::Shards)] {
        type_in(&mut state, keys);
        assert_eq!(state.tab, tab, "{keys}");
    }
    type_in(&mut state, "3ss");
    assert_eq!(state.sort, Sort::InFlight);
    type_in(&mut state, "ssr");
    assert_eq!((state.sort, state.reversed), (Sort::TimeLag, true));
    assert_eq!(rows::partitions(&state)[0].partition, 3, "only what is parked waits there");
    type_in(&mut state, "5ss");
    assert_eq!((state.sort, state.key_sort), (Sort::TimeLag, KeySort::Parked));
    type_in(&mut state, "3/EVENTSx⌫⏎");
    assert_eq!((state.filter.as_str(), rows::partitions(&state).len()), ("EVENTS", 1));
    type_in(&mut state, "/y⎋");
    assert_eq!(state.filter, "EVENTS", "as it was before");
    type_in(&mut state, "⎋");
    assert_eq!(rows::partitions(&state).len(), 9);
}

#[test]
fn what_is_selected_stays_so_while_it_moves() {
    let mut state = state();
    type_in(&mut state, "3↓↓");
    let id = Id::Partition("updates".to_owned(), 2);
    assert_eq!(state.cursor().id, Some(id.clone()));
    type_in(&mut state, "r");
    assert_eq!((state.selected(), state.cursor().id.clone()), (Some(6), Some(id)));
    type_in(&mut state, "⇟");
    assert_eq!(state.selected(), Some(8), "no further than the last");
    type_in(&mut state, "⇞⇞↑");
    assert_eq!(state.selected(), Some(0));
    // It is gone: the nearest to where it was.
    type_in(&mut state, "⇟/events⏎");
    assert_eq!(state.selected(), Some(0));
    type_in(&mut state, "/nothing⏎");
    assert_eq!((state.selected(), type_in(&mut state, "py")), (None, Effect::None));
}

#[test]
fn one_action_at_a_time() {
    let mut state = state();
    assert!(matches!(type_in(&mut state, "py"), Effect::Send(_)));
    assert_eq!(type_in(&mut state, "py"), Effect::None);
    state.hear_done(Ok("Paused.".to_owned()));
    assert_eq!(state.notice.as_ref().map(|notice| notice.good), Some(true));
    assert!(matches!(type_in(&mut state, "py"), Effect::Send(_)));
}

/// A key that is cut, or no text, would be another key.
#[test]
fn a_key_that_is_not_known_whole_is_not_parked() {
    for wrong in ["a-long-key…", "a\u{fffd}"] {
        let mut status = bad_night();
        status.partitions[0].frontier.as_mut().expect("set").key = Some(wrong.to_owned());
        let mut state = state();
        state.hear(Ok(status));
        assert_eq!(type_in(&mut state, "k"), Effect::None);
        assert_eq!(state.mode, Mode::Normal);
        assert!(state.notice.is_some_and(|notice| notice.text.contains("forebay park --key")), "{wrong}");
    }
    let mut state = state();
    let parked = r#"{"entries": [
        {"kind": "key", "shard": "b", "topic": "updates", "partition": 3, "key": {"hex": "61ff"}, "records": 1, "offset": 7,
         "age_s": 90, "reason": "held", "held": true, "dead_letter": false, "attempts": 0, "sqlstate": null, "error": null},
        {"kind": "hold", "shard": "b", "topic": "updates", "scope": "tenant", "value": "a1", "since": "2026-11-26"},
        {"kind": "hold", "shard": "b", "topic": "updates", "scope": "key", "value": "a1:s7", "since": "2026-11-26"}]}"#;
    state.parked = Some(Ok(serde_json::from_str::<Parked>(parked).expect("valid")));
    state.now = Duration::from_secs(1);
    let names = |state: &State| rows::keys(state).iter().map(rows::KeyRow::name).collect::<Vec<_>>();
    type_in(&mut state, "5ss");
    assert_eq!(names(&state)[..3], ["#0x61ff", "a1:s7", "tenant a1"]);
    assert_eq!(type_in(&mut state, "uy"), Effect::None);
    let unpark = |whose| Effect::Send(Action::Unpark { topic: "updates".to_owned(), whose });
    assert_eq!(type_in(&mut state, "↓ky"), unpark(key("a1:s7")));
    state.hear_done(Ok(String::new()));
    assert_eq!(type_in(&mut state, "↓ky"), unpark(Whose::Tenant("a1".to_owned())));
}
