//! What the page makes of numbers and of a whole state, asked of its own functions.

use super::{in_calm, opened};

#[test]
fn one_sentence_says_where_writes_wait() {
    let site = in_calm();
    let mut page = opened(&site);
    let mut check = |changes: &str, expected: &str| {
        let told = format!(
            "(() => {{ const status = structuredClone(page.status);
             const {{ totals, shards, partitions, topics, process }} = status; {changes};
             return diagnose(status).text; }})()"
        );
        let told = page.eval(&told);
        assert_eq!(told.as_str().unwrap_or_default().replace('\u{202f}', " "), expected, "{changes}");
    };
    let late = "totals.time_lag_ms = 40000; totals.message_lag = 1200000";
    let quiet = "totals.fetched_per_s = 0; for (const shard of shards) shard.verdict.kind = 'idle'";
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
        "Behind by 1.20 M records, 40 s: all that Kafka has is fetched, 12 of 12 partitions are being taken over, \
         the databases are idle.",
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
        "const unseen = { application: null, user: null, state: null, transaction_age_ms: null };
         shards[1].contention.blockers = [{ ...unseen, pid: 7, blocks: ['fb-w1.0'], blocked_for_ms: 2000, ours: false }]",
        "Shard b has a lock in the way: pid 7 holds up fb-w1.0.",
    );
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
