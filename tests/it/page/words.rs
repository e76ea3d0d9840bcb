//! What the page makes of numbers and of findings.

use forebay::admin::status::Finding;
use serde_json::json;

use super::{in_calm, opened};

/// They are decided in `src/admin/diagnosis.rs`, and there alone.
#[test]
fn findings_are_those_of_the_status() {
    let site = in_calm();
    let finding = |severity: &str, culprit: &str, name: Option<&str>, text: &str| Finding {
        severity: severity.into(),
        culprit: culprit.into(),
        name: name.map(str::to_owned),
        text: text.into(),
    };
    let mut page = opened(&site);
    site.change(|state| {
        state.status.totals.unparked_lag_ms = 40_000;
        state.status.findings = vec![
            finding("bad", "database", Some("b"), "Shard b sulks, for 4 s: nobody knows why."),
            finding("warn", "kafka", None, "Kafka hands out <b>nothing</b>."),
            finding("dreadful", "nobody", None, "The moon is full."),
        ];
    });
    page.wait_for_text("#diagnosis .first", "Shard b sulks, for 4 s: nobody knows why.");
    let list = "[...document.querySelectorAll('#diagnosis li')].map((one) =>
        [one.className, one.textContent, one.querySelector('a')?.hash ?? null])";
    assert_eq!(
        page.eval(list),
        json!([["warn", "Kafka hands out <b>nothing</b>.", "#partitions"], ["note", "The moon is full.", null]])
    );
    assert_eq!(page.eval("document.title"), "Shard b sulks · orders-writer · forebay");
    let levels = "[...document.querySelectorAll('#stations li')].map((one) => one.className)";
    assert_eq!(page.eval(levels), json!(["warn", "ok", "ok", "bad"]));
    assert_eq!(page.eval("document.querySelector('#shard-b').className"), "card bad");
    assert_eq!(
        page.eval("document.querySelector('#tiles .tile').className"),
        "tile bad",
        "late, and as bad as the worst"
    );
}

/// Where it starts is not known yet.
#[test]
fn offsets_that_are_not_known_are_dashes() {
    let site = in_calm();
    site.change(|state| {
        let one = &mut state.status.partitions[8];
        (one.state, one.durable, one.fetched, one.frontier) = ("locating".into(), None, None, None);
    });
    let mut page = opened(&site);
    let cells =
        "[...document.querySelectorAll('#partitions tbody tr')].find((one) => one.textContent.includes('locating'))
        ?.querySelectorAll('td') ?? []";
    let text = page.eval(&format!("[...{cells}].slice(4).map((one) => one.textContent.replace(/\\u202f/g, ' '))"));
    assert_eq!(text, json!(["–", "15 204 398", "–", "15 204 444", "–"]));
    assert_eq!(page.complaints(), [""; 0]);
}

#[test]
fn numbers_and_ages_as_people_say_them() {
    let site = in_calm();
    let mut page = opened(&site);
    // What the lag did for half a minute.
    let moving = |lag: &str| {
        format!("trend(Array.from({{ length: 31 }}, (_, s) => ({{ at: s * 1000, totals: {{ message_lag: {lag} }} }})))")
    };
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
        ("tidy(duration(120000))", "2 min"),
        ("tidy(short(2000000))", "2 M"),
        ("tidy(short(10000))", "10 000"),
        ("durationTop(94000)", "120000"),
        ("numberTop(1240310)", "2000000"),
        (&moving("5000 - 100 * s"), "falling by 100/s, gone in about 20 s"),
        (&moving("5000 + 20 * s"), "growing by 20/s"),
        (&moving("5000 + s % 2"), "steady"),
        (&moving("null"), ""),
        ("listed(['a', 'b', 'c'])", "a, b and c"),
        ("keyName({ hex: '61ff' })", "0x61ff"),
        ("keyName('a\\n\\u202eb')", "a\\u{a}\\u{202e}b"),
    ] {
        assert_eq!(
            page.eval(&format!("String({call})")).as_str().unwrap_or_default().replace('\u{202f}', " "),
            expected,
            "{call}"
        );
    }
}
