//! The page of the admin interface, as people see it: in a real Chromium (one of `chromium`, `chromium-browser` and
//! `google-chrome` in PATH; `bin/install-deps test` installs it). Without one these tests fail. They need no Kafka and no
//! PostgreSQL: what the page shows comes from a stand-in for the admin interface, in a state that the test makes up.

mod fixtures;
mod stand_in;

use serde_json::{Value, json};

use super::support::{Chromium, wait_until};
use fixtures::{HOSTILE, bad_night, calm, letters, nothing_listed, parked, wide};
use stand_in::StandIn;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Where the page is, and the page, once it has shown a state.
fn opened(site: &StandIn) -> Chromium {
    let mut page = Chromium::open(&site.url());
    page.wait_for_text("#freshness", "Live");
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
        state.status.totals.durable_per_s = 7.25;
        state.status.totals.time_lag_ms = 4321;
        state.status.shards[0].contention = None;
    });
    for number in ["97 123", "7.2/s", "4.3 s"] {
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
    for (what, refused) in [
        ("a script", "document.body.append(Object.assign(document.createElement('script'), { type: 'text/plain' }))"),
        ("markup", "document.body.innerHTML = '<b>x</b>'"),
        (
            "a style",
            "document.head.append(Object.assign(document.createElement('style'), { textContent: 'p { top: 0 }' }))",
        ),
        ("an image", "new Promise((done) => { const one = new Image(); one.onerror = done; one.src = '/status'; })"),
        ("a request", "fetch('http://127.0.0.1:1/').catch(() => 0)"),
    ] {
        let before = page.complaints().len();
        page.eval(&format!("(async () => {{ try {{ await ({refused}); }} catch {{}} }})()"));
        if what != "a script" {
            assert!(page.complaints().len() > before, "{what} was let in");
        }
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
    let first = "Topic invoices has stopped and needs a person: column \"vat_id\" of relation \"invoices\" does not exist (42703).";
    assert_eq!(page.text("#diagnosis .first"), first);
    for also in [
        "Shard c has been down for 41 s: connection to 10.2.0.9:5432: connection refused.",
        "Shard b is lock-bound: pid 4711 (psql, idle in transaction for 34 s) holds up fb-w1.0 and fb-w1.1, and 1 more session blocks others.",
        "Behind by 1.24 M records, 1 min 34 s: Kafka delivers, shard b is lock-bound, shard c is down.",
        "Topic customers is paused: nothing of it is fetched.",
        "3 keys parked, with 120 records",
    ] {
        page.wait_for_text("#diagnosis ul", also);
    }
    page.wait_for_text("#head", "Not ready");
    page.wait_for_text("#head .reasons", "topic invoices has stopped");
    page.wait_for_text("#tiles", "oldest: orders [5], writing in shard b");
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
fn one_sentence_says_where_writes_wait() {
    let site = in_calm();
    let mut page = opened(&site);
    let mut check = |changes: &str, expected: &str| {
        let told = format!(
            "(() => {{ const status = structuredClone(page.status); const {{ totals, shards, partitions, topics, process }} = status; {changes}; return diagnose(status).text; }})()"
        );
        let told = page.eval(&told);
        assert_eq!(told.as_str().unwrap_or_default().replace('\u{202f}', " "), expected, "{changes}");
    };
    let late = "totals.time_lag_ms = 40000; totals.message_lag = 1200000";
    let quiet = "totals.fetched_per_s = 0; totals.in_flight_records = 0; for (const shard of shards) shard.verdict.kind = 'idle'";
    check("", "Caught up.");
    check("totals.time_lag_ms = 4900", "Caught up.");
    check(late, "Behind by 1.20 M records, 40 s: Kafka delivers, shard b is commit-bound.");
    check(
        &format!("{late}; for (const shard of shards) shard.verdict.kind = 'waiting_for_us'"),
        "Behind by 1.20 M records, 40 s: Kafka delivers, shards a and b wait for us.",
    );
    check(
        &format!("{late}; {quiet}; for (const one of partitions) one.end += 1000"),
        "Behind by 1.20 M records, 40 s: Kafka delivers nothing, the databases are idle.",
    );
    check(
        &format!("{late}; {quiet}; for (const one of partitions) one.state = 'locating'"),
        "Behind by 1.20 M records, 40 s: all that Kafka has is fetched, 12 of 12 partitions are being taken over, the databases are idle.",
    );
    check(&format!("{late}; process.poll_age_ms = 4200"), "forebay itself hangs: its poller has not turned for 4.2 s.");
    check(
        "status.ready = { ready: false, reasons: ['no partition is assigned yet'] }",
        "Not ready: no partition is assigned yet.",
    );
    check("partitions.length = 0", "No partition is assigned to this process: nothing to do.");
    check(
        "shards[0].state = 'refused'; shards[0].since_ms = 61000",
        "Shard a has refused us for 1 min 1 s and needs a person.",
    );
    check(
        "shards[1].contention.blockers = [{ pid: 7, application: null, user: null, state: null, transaction_age_ms: null, blocks: ['fb-w1.0'], blocked_for_ms: 2000, ours: false }]",
        "Shard b has a lock in the way: pid 7 holds up fb-w1.0.",
    );
}

#[test]
fn numbers_and_ages_as_people_say_them() {
    let site = in_calm();
    let mut page = opened(&site);
    for (call, expected) in [
        ("known(null, grouped)", "–"),
        ("known(0, grouped)", "0"),
        ("grouped(1234567)", "1 234 567"),
        ("short(999999)", "999 999"),
        ("short(1203444)", "1.20 M"),
        ("short(12034440)", "12.0 M"),
        ("count(1, 'key')", "1 key"),
        ("perSecond(0)", "0/s"),
        ("perSecond(2.44)", "2.4/s"),
        ("duration(0)", "0 ms"),
        ("duration(0.02)", "0.02 ms"),
        ("duration(999)", "999 ms"),
        ("duration(999.7)", "1.0 s"),
        ("duration(9949)", "9.9 s"),
        ("duration(59999)", "59 s"),
        ("duration(72000)", "1 min 12 s"),
        ("duration(3600000)", "1 h 0 min"),
        ("duration(176400000)", "2 d 1 h"),
        ("bytes(1023)", "1023 B"),
        ("bytes(1536)", "1.5 KiB"),
        ("percent(0.004)", "< 1 %"),
        ("listed(['a', 'b', 'c'])", "a, b and c"),
        ("keyName({ hex: '61ff' })", "0x61ff"),
        ("keyName('a\\n\\u202eb')", "a\\u{a}\\u{202e}b"),
    ] {
        assert_eq!(page.eval(call).as_str().unwrap_or_default().replace('\u{202f}', " "), expected, "{call}");
    }
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
    let letter = |offset: i64, out_of_order: bool| json!({ "shard": "a", "topic": "orders", "partition": 3, "offset": offset, "out_of_order": out_of_order });
    // One whose key has gone on: whether it may be applied over newer ones is asked, and not assumed.
    page.click(&button("Replay orders [3] offset 119\u{202f}007"));
    page.wait_for_text("#ask", "Out of order");
    page.click("#ask-yes");
    assert_eq!(posts(&site, 1)[0], ("/dead-letters/replay".into(), letter(119_007, false)));
    page.wait_for_text("#answers", "dead-letters/replay is done");
    page.click(&button("Replay orders [3] offset 119\u{202f}007"));
    page.click("#ask-option");
    page.click("#ask-yes");
    assert_eq!(posts(&site, 2)[1], ("/dead-letters/replay".into(), letter(119_007, true)));
    // One that blocks its key comes in its turn.
    page.click(&button("Replay orders [3] offset 120\u{202f}042"));
    page.wait_for("document.querySelector('#ask-option-row').hidden", "a question without an option");
    page.click("#ask-yes");
    assert_eq!(posts(&site, 3)[2], ("/dead-letters/replay".into(), letter(120_042, false)));
    // Nothing is thrown away by pressing Enter twice.
    page.click(&button("Discard orders [3] offset 120\u{202f}042"));
    assert_eq!(page.eval("document.activeElement.id"), "ask-no");
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
    site.change(|state| state.status.topics.reverse());
    page.wait_for("document.querySelector('#topics h3').textContent === 'invoices'", "another order");
    assert_eq!(page.eval("document.activeElement.ariaLabel"), "Pause topic orders");
}

#[test]
fn old_numbers_are_not_taken_for_new_ones() {
    let site = in_calm();
    let mut page = opened(&site);
    site.change(|state| state.is_silent = true);
    page.wait_for("document.body.classList.contains('stale')", "the warning");
    page.wait_for_text("#freshness", "/status does not answer");
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
    page.eval("location.reload()");
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
    let took =
        page.eval("(() => { const start = performance.now(); showStatus(); return performance.now() - start; })()");
    assert!(took.as_f64().unwrap_or(f64::MAX) < 500.0, "one update takes {took} ms");
    page.click("#filter");
    page.type_text("events [79");
    assert_eq!(page.eval(rows), 11);
    assert_eq!(page.complaints(), [""; 0]);
}

/// The texts that stand out too little from what is behind them, by WCAG's relative luminance: 4.5 to 1 is its level AA.
const FAINT: &str = "(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((numbers(colour)[3] ?? 1) === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.nodeValue.trim() || one.tagName === 'SCRIPT' || !one.checkVisibility()) continue;
    seen += 1;
    const [text, ground] = [light(getComputedStyle(one).color), light(behind(one))];
    const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    if (ratio < 4.5) faint.add(`${ratio.toFixed(2)} ${one.className || one.tagName}: ${walker.currentNode.nodeValue.slice(0, 40)}`);
  }
  return seen < 200 ? ['too little was looked at'] : [...faint];
})()";

/// What reaches beyond the window; what scrolls in a frame of its own may.
const TOO_WIDE: &str = "document.documentElement.scrollWidth > innerWidth
  ? [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > innerWidth && !one.closest('.scroll'))
      .map((one) => `${one.tagName}.${one.className}`).slice(0, 5)
  : []";

#[test]
fn it_can_be_read_by_day_by_night_and_on_a_telephone() {
    let site = in_bad_night();
    let mut page = opened(&site);
    page.click("#letters summary");
    page.wait_for_text("#letters-list", "blocks its key");
    page.wait_for_text("#parked-list", "0x61ff00");
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.prefer_colours(scheme);
        assert_eq!(page.eval(FAINT), json!([]), "{scheme}");
        grounds.push(page.eval("getComputedStyle(document.body).backgroundColor"));
        for width in [380, 768, 1280, 1920] {
            page.resize(width, 900);
            assert_eq!(page.eval(TOO_WIDE), json!([]), "{width} pixels wide");
        }
    }
    assert_ne!(grounds[0], grounds[1]);
}
