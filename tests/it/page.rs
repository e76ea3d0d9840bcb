//! The page of the admin interface, as people see it: in a real Chromium (one of `chromium`, `chromium-browser` and
//! `google-chrome` in PATH; `bin/install-deps test` installs it). Without one these tests fail. They need no Kafka and no
//! PostgreSQL: what the page shows comes from a stand-in for the admin interface, in a state that the test makes up.

mod fixtures;
pub mod looks;
mod stand_in;
mod words;

use serde_json::{Value, json};

use super::support::{Chromium, wait_until};
use fixtures::{HOSTILE, bad_night, calm, letters, nothing_listed, parked, wide};
use stand_in::StandIn;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The page, once it has shown a state, and the list that it opens by itself: what comes later moves what is below.
fn opened(site: &StandIn) -> Chromium {
    let mut page = Chromium::open(&site.url());
    page.wait_for_text("#freshness", "Live");
    page.wait_for("page.lists.parked || !document.querySelector('#parked').open", "the list of what is parked");
    page
}

fn in_calm() -> StandIn {
    StandIn::start(calm(), nothing_listed(), nothing_listed())
}

fn in_bad_night() -> StandIn {
    StandIn::start(bad_night(), parked(), letters())
}

fn button(label: &str) -> String {
    format!("button[aria-label={}]", json!(label))
}

/// The requests, once there are so many.
#[track_caller]
fn posts(site: &StandIn, number: usize) -> Vec<(String, Value)> {
    wait_until(PATIENCE, "the page's requests", || site.posts().len() >= number);
    site.posts()
}

#[test]
fn what_status_says_is_on_the_page_and_follows_it() {
    let site = in_calm();
    let mut page = opened(&site);
    assert_eq!(page.text("#diagnosis .first"), "Caught up.");
    assert_eq!(page.text("#head h1"), "orders-writer");
    for fact in ["forebay 0.1.0", "writer-3.fra", "up 3 d 4 h", "Ready"] {
        page.wait_for_text("#head", fact);
    }
    for number in ["640 ms", "184", "412 records in flight", "184 KiB", "12 391/s", "fetched 12 480/s", "0 keys"] {
        page.wait_for_text("#tiles", number);
    }
    page.wait_for_text("#shard-a", "6 of 6; server 41 of 97");
    page.wait_for_text("#shard-b", "IO: WALSync 46 %");
    page.wait_for_text("#topics", "1.10 M");
    assert_eq!(page.eval("document.querySelectorAll('#partitions tbody tr').length"), 12);
    let place =
        "JSON.stringify(['#tiles', '#charts', '#shards', '#topics'].map((id) => document.querySelector(id).offsetTop))";
    let before = page.eval(place);
    site.change(|state| {
        state.status.totals.message_lag = Some(97_123);
        state.status.totals.durable_per_s = 7.26;
        state.status.totals.unparked_lag_ms = 4321;
        state.status.shards[0].contention = None;
    });
    for number in ["97 123", "7.3/s", "4.3 s"] {
        page.wait_for_text("#tiles", number);
    }
    page.wait_for_text("#shard-a", "not been sampled");
    site.change(|state| state.status.shards[0] = calm().shards[0].clone());
    page.wait_for_text("#shard-a", "IO: WALSync");
    assert_eq!(page.eval(place), before, "what has changed has moved what is below");
    site.change(|state| state.status.totals.message_lag = None);
    page.wait_for("document.querySelectorAll('#tiles .number')[1].textContent === '–'", "a dash for what is not known");
    assert_eq!(page.complaints(), [""; 0]);
}

#[test]
fn nothing_but_its_own_scripts_and_style_is_let_in() {
    let site = in_calm();
    let mut page = opened(&site);
    assert_eq!(page.complaints(), [""; 0]);
    let made = |tag: &str, text: &str| {
        format!(
            "(() => {{ const one = document.createElement('{tag}'); one.append('{text}'); document.head.append(one); }})()"
        )
    };
    for (what, refused) in [
        ("a script", made("script", "console.log(1)")),
        ("a style", made("style", "p { top: 0 }")),
        ("a handler", "document.body.setAttribute('onclick', 'x()')".to_owned()),
        ("markup", "document.body.innerHTML = '<b>x</b>'".to_owned()),
        (
            "an image",
            "new Promise((done) => { const one = new Image(); one.onerror = done; one.src = '/x'; })".to_owned(),
        ),
        ("a request", "fetch('http://127.0.0.1:1/')".to_owned()),
    ] {
        let before = page.complaints().len();
        page.eval(&format!("(async () => {{ try {{ await ({refused}); }} catch {{}} }})()"));
        let said = page.complaints()[before..].join("\n");
        assert!(said.contains("Content Security Policy") || said.contains("requires 'Trusted"), "{what}: {said}");
    }
}

#[test]
fn keys_are_shown_as_what_they_are_and_never_run() {
    let site = in_bad_night();
    let mut page = opened(&site);
    page.click("#letters summary");
    page.wait_for_text("#letters-list", "119 007");
    let shown = "<img src=x onerror=\"document.title='owned'\">\\u{202e}'`${1}";
    for section in ["#keys", "#partitions", "#parked-list", "#letters-list"] {
        page.wait_for_text(section, shown);
    }
    assert_eq!(page.eval("document.images.length"), 0);
    assert_ne!(page.eval("document.title"), "owned");
    // What is asked for is the key itself, not what stands for it.
    page.click(&button(&format!("Unpark key {shown} of orders")));
    assert_eq!(posts(&site, 1)[0], ("/unpark".into(), json!({ "topic": "orders", "key": HOSTILE })));
    assert_eq!(page.complaints(), [""; 0]);
}

#[test]
fn a_bad_night_is_told_in_order_of_what_matters() {
    let site = in_bad_night();
    let mut page = opened(&site);
    let first = "Shard c has been down for 41 s: connection to 10.2.0.9:5432: connection refused.";
    assert_eq!(page.text("#diagnosis .first"), first);
    for also in [
        "Topic invoices has stopped and needs a person: \
         column \"vat_id\" of relation \"invoices\" does not exist (SQLSTATE 42703).",
        "Shard b is lock-bound: pid 4711 (psql, user ann, idle in transaction for 34 s) holds up fb-w1.0, fb-w1.1 \
         on public.orders, and with it key <img",
        "Topic customers is paused: nothing of it is fetched; 92 records wait.",
        "3 keys are parked, with 120 records, the oldest 3 d 0 h old.",
    ] {
        page.wait_for_text("#diagnosis ul", also);
    }
    page.wait_for_text("#head", "Not ready");
    page.wait_for_text("#head .reasons", "topic invoices has stopped");
    // Not three days: what is parked makes nobody late.
    page.wait_for_text("#tiles", "1 min 34 s");
    page.wait_for_text("#tiles", "oldest: orders [5], writing in shard b");
    page.wait_for_text("#tiles", "the oldest 3 d 0 h old");
    page.wait_for_text("#shard-b .blockers", "pid 4711");
    // Parked keys are listed without being asked for, since there are some; a shard that does not answer is said.
    page.wait_for_text("#parked-list", "Shard c does not answer: connection refused");
    page.wait_for_text("#parked-list", "0x61ff00");
    let rows =
        "[...document.querySelectorAll('#partitions tbody th')].slice(0, 3).map((one) => one.textContent).join()";
    page.wait_for(
        &format!("({rows}).replace(/\\u202f/g, ' ') === 'invoices [0],orders [5],orders [2]'"),
        "the order of trouble",
    );
    for fact in ["blocked by pid 4711", "attempt 4", "(55P03)", "fb-w1.0", "offset 15 239 475, 1 min 34 s old"] {
        page.wait_for_text("#partitions tr:nth-child(2)", fact);
    }
    assert_eq!(page.complaints(), [""; 0]);
}

#[test]
fn buttons_ask_do_and_tell() {
    let site = in_bad_night();
    let mut page = opened(&site);
    let pause = button("Pause topic orders");
    page.click(&pause);
    page.wait_for_text("#ask", "Pause topic orders?");
    page.click("#ask-no");
    page.wait_for("!document.querySelector('#ask').open", "the end of the question");
    site.change(|state| state.holds_posts = true);
    page.click(&pause);
    page.click("#ask-yes");
    assert_eq!(posts(&site, 1), [("/pause".into(), json!({ "topic": "orders" }))]);
    // Under way: a second press does nothing.
    page.wait_for(&format!("document.querySelector({}).ariaDisabled === 'true'", json!(pause)), "a button that rests");
    page.click(&pause);
    assert_eq!(page.eval("document.querySelector('#ask').open"), false);
    site.change(|state| state.holds_posts = false);
    page.wait_for_text("#answers", "pause is done");
    page.wait_for(&format!("document.querySelector({}).ariaDisabled === null", json!(pause)), "a button that works");
    page.click(&button("Resume topic customers"));
    assert_eq!(posts(&site, 2)[1], ("/resume".into(), json!({ "topic": "customers" })));
    page.wait_for_text("#parked-list", "tenant-17");
    page.click(&button("Unpark tenant tenant-17 of orders"));
    assert_eq!(posts(&site, 3)[2], ("/unpark".into(), json!({ "topic": "orders", "tenant": "tenant-17" })));
    page.click(&button("Park key tenant-4 of customers"));
    page.click("#ask-yes");
    assert_eq!(posts(&site, 4)[3], ("/park".into(), json!({ "topic": "customers", "key": "tenant-4" })));
    page.click("#level");
    page.type_text("debug");
    page.press("Enter");
    assert_eq!(posts(&site, 5)[4], ("/log-level".into(), json!({ "level": "debug" })));
    assert_eq!(page.complaints(), [""; 0]);
    let detail = "topic \"orders\" is not known to this process";
    site.change(|state| state.problem = Some((409, "Not paused", detail)));
    page.click(&pause);
    page.click("#ask-yes");
    page.wait_for_text("#problems", &format!("Pausing topic orders failed: Not paused: {detail}"));
}

#[test]
fn dead_letters_are_replayed_and_discarded_after_a_question() {
    let site = in_bad_night();
    let mut page = opened(&site);
    page.click("#letters summary");
    page.wait_for_text("#letters-list", "blocks its key");
    // While one is under way its buttons do nothing; what is answered moves what is below.
    let rested = |page: &mut Chromium| {
        page.wait_for("!document.querySelector('#letters-list [aria-disabled=true]')", "buttons that work");
    };
    let letter = |offset: i64, out_of_order: bool| json!({ "shard": "a", "topic": "orders", "partition": 3, "offset": offset, "out_of_order": out_of_order });
    // One whose key has gone on: whether it may be applied over newer ones is asked, and not assumed.
    page.click(&button("Replay orders [3] offset 119\u{202f}007"));
    page.wait_for_text("#ask", "Out of order");
    page.click("#ask-yes");
    assert_eq!(posts(&site, 1)[0], ("/dead-letters/replay".into(), letter(119_007, false)));
    rested(&mut page);
    page.wait_for_text("#answers", "dead-letters/replay is done");
    page.click(&button("Replay orders [3] offset 119\u{202f}007"));
    page.click("#ask-option");
    page.click("#ask-yes");
    assert_eq!(posts(&site, 2)[1], ("/dead-letters/replay".into(), letter(119_007, true)));
    rested(&mut page);
    // One that blocks its key comes in its turn.
    page.click(&button("Replay orders [3] offset 120\u{202f}042"));
    page.wait_for("document.querySelector('#ask-option-row').hidden", "a question without an option");
    page.click("#ask-yes");
    assert_eq!(posts(&site, 3)[2], ("/dead-letters/replay".into(), letter(120_042, false)));
    rested(&mut page);
    // Nothing is thrown away by pressing Enter twice.
    page.click(&button("Discard orders [3] offset 120\u{202f}042"));
    page.wait_for("document.activeElement.id === 'ask-no'", "the focus on the button that does nothing");
    page.press("Escape");
    page.wait_for("!document.querySelector('#ask').open", "the end of the question");
    page.click(&button("Discard orders [3] offset 120\u{202f}042"));
    page.click("#ask-yes");
    assert_eq!(posts(&site, 4)[3], ("/dead-letters/discard".into(), letter(120_042, false)));
}

#[test]
fn the_keyboard_alone_will_do() {
    let site = in_bad_night();
    let mut page = opened(&site);
    page.wait_for_text("#parked-list", "tenant-17");
    page.tab_to("a.skip");
    page.press("Enter");
    assert_eq!(page.eval("document.activeElement.id"), "main");
    page.tab_to(".plot");
    page.press("ArrowLeft");
    page.wait_for(
        "/^\\d\\d:\\d\\d:\\d\\d: 1.min 34.s$/.test(document.activeElement.ariaValueText)",
        "the value at the cursor",
    );
    page.tab_to("button.sort");
    for sorted in ["ascending", "descending"] {
        page.press("Enter");
        assert_eq!(page.eval("document.activeElement.closest('th').ariaSort"), sorted);
    }
    page.press(" ");
    assert_eq!(page.eval("document.activeElement.closest('th').ariaSort"), Value::Null);
    let pause = button("Pause topic orders");
    page.tab_to(&pause);
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(page.eval(outline), "solid", "the focus is not to be seen");
    page.press("Enter");
    assert_eq!(page.eval("document.activeElement.id"), "ask-yes");
    page.press("Enter");
    assert_eq!(posts(&site, 1)[0], ("/pause".into(), json!({ "topic": "orders" })));
    page.wait_for_text("#answers", "pause is done");
    // Back where it came from, and still there after updates have moved what it stands in.
    for first in ["invoices", "orders"] {
        site.change(|state| state.status.topics.reverse());
        page.wait_for(&format!("document.querySelector('#topics h3').textContent === '{first}'"), "another order");
    }
    assert_eq!(page.eval("document.activeElement.ariaLabel"), "Pause topic orders");
}

#[test]
fn old_numbers_are_not_taken_for_new_ones() {
    let site = in_calm();
    let mut page = opened(&site);
    site.change(|state| state.is_silent = true);
    page.wait_for("document.body.classList.contains('stale')", "the warning");
    page.wait_for_text("#freshness", "No news from /status");
    page.wait_for_text("#tiles", "640 ms");
    assert_eq!(page.complaints(), [""; 0]);
    site.change(|state| state.is_silent = false);
    page.wait_for_text("#freshness", "Live");
    assert_eq!(page.eval("document.body.classList.contains('stale')"), false);
}

#[test]
fn the_token_is_asked_for_once() {
    let site = in_calm();
    site.change(|state| state.token = Some("s3cret".into()));
    let mut page = Chromium::open(&site.url());
    page.wait_for("document.querySelector('#token').open", "the question");
    page.type_text("wrong");
    page.press("Enter");
    page.wait_for_text("#token", "did not accept");
    page.type_text("s3cret");
    page.press("Enter");
    page.wait_for_text("#freshness", "Live");
    page.eval("window.isOld = true; location.reload()");
    page.wait_for("!window.isOld && document.readyState === 'complete'", "the document, once more");
    page.wait_for_text("#freshness", "Live");
    assert_eq!(page.eval("document.querySelector('#token').open"), false);
    // Who does not know it is not asked each second.
    site.change(|state| state.token = Some("another".into()));
    page.wait_for("document.querySelector('#token').open", "the question");
    page.press("Escape");
    page.wait_for_text("#freshness", "wants a token");
    page.wait_for("!document.querySelector('#token-again').hidden", "a way to give it later");
    assert_eq!(page.eval("document.querySelector('#token').open"), false);
}

#[test]
fn hundreds_of_partitions_stay_usable() {
    let site = StandIn::start(wide(800), nothing_listed(), nothing_listed());
    let mut page = opened(&site);
    let rows = "document.querySelectorAll('#partitions tbody tr').length";
    assert_eq!(page.eval(rows), 25);
    page.click("#partitions > button");
    assert_eq!(page.eval(rows), 812);
    // The machine may be busy with something else, but not each time.
    let took = page.eval(
        "Math.min(...Array.from({ length: 5 }, () => {
           const start = performance.now(); showStatus(); return performance.now() - start; }))",
    );
    assert!(took.as_f64().unwrap_or(f64::MAX) < 250.0, "one update takes {took} ms");
    page.click("#filter");
    page.type_text("events [79");
    assert_eq!(page.eval(rows), 11);
    assert_eq!(page.complaints(), [""; 0]);
}
