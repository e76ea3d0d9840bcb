//! What benchmarks have in common, and what they say of themselves.

#[path = "../../benches/reference/arguments.rs"]
#[allow(dead_code)]
mod arguments;
#[path = "../../benches/common/mod.rs"]
mod common;

use std::error::Error;
use std::fs;
use std::time::Duration;

use arguments::Arguments;
use common::bare_poll;

use crate::support::{self, Topic, kafka_bootstrap, produce};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// It waited for ever where a partition had fewer records than expected, or a broker was away.
#[test]
fn the_bare_loop_waits_for_records_that_do_not_come_and_not_for_ever() {
    let topic = Topic::create("bare", 2);
    produce(topic.name(), [(0, None, Some(&b"abc"[..])), (0, None, Some(&b"d"[..])), (1, None, Some(&b"e"[..]))]);
    let bootstrap = kafka_bootstrap();
    let poll = |bootstrap: &str, records| bare_poll(bootstrap, topic.name(), 2, records, Duration::from_secs(2));
    assert_eq!(poll(&bootstrap, 3).unwrap().bytes, 5);
    let error = poll(&bootstrap, 5).unwrap_err();
    assert!(
        error.contains("found 3 records, of its partitions [2, 1], expected 5: nothing more came for 2s"),
        "{error}"
    );
    let error = poll("127.0.0.1:1", 3).unwrap_err();
    assert!(error.contains("at 127.0.0.1:1: found 0 records, of its partitions [0, 0], expected 3"), "{error}");
}

#[test]
fn lags_are_a_list_of_millions() {
    let of = |list: &str| Arguments::of(["lag", "--lags", list].map(str::to_owned)).map(|a| a.lags);
    assert_eq!(of("1,10,50").unwrap(), [1.0, 10.0, 50.0]);
    assert_eq!(of("0.2").unwrap(), [0.2]);
    for wrong in ["", "1,", "0", "-1", "many", "NaN"] {
        let error = of(wrong).unwrap_err().to_string();
        assert_eq!(error, format!("--lags: found {wrong:?}, expected millions of records, such as 1,10,50"));
    }
}

#[test]
fn numbers_have_bounds() {
    let of = |option: &str, text: &str| Arguments::of([option, text].map(str::to_owned)).map_err(|e| e.to_string());
    assert_eq!(of("--records", "7").unwrap().records, 7);
    assert_eq!(of("--records", "0").unwrap_err(), "--records: found \"0\", expected 1 to 1000000000");
    assert_eq!(of("--batch", "many").unwrap_err(), "--batch: found \"many\", expected 1 to 100000");
    assert_eq!(of("--adaptive", "yes").unwrap_err(), "--adaptive: found \"yes\", expected false to true");
}

/// What cargo, and the processes that it starts, are told is nobody else's.
#[test]
fn every_option_of_the_reference_job_is_in_its_head_and_in_the_readme() {
    const OWN: [&str; 4] = ["--bench", "--dsn", "--topic", "--seen-at"];
    let benches = concat!(env!("CARGO_MANIFEST_DIR"), "/benches");
    let read = |file: &str| fs::read_to_string(format!("{benches}/{file}")).unwrap();
    let (source, head, readme) = (read("reference/arguments.rs"), read("reference/main.rs"), read("README.md"));
    let head: String = head.lines().filter(|line| line.starts_with("//!")).collect();
    let options = source.split('"').filter(|part| part.starts_with("--") && !part.contains(' ') && !OWN.contains(part));
    let mut checked = 0;
    for option in options {
        let said = |text: &str| text.contains(&format!("`{option}`")) || text.contains(&format!("`{option} "));
        assert!(said(&head), "{option} is missing in the head of benches/reference/main.rs");
        assert!(said(&readme), "{option} is missing in benches/README.md");
        checked += 1;
    }
    assert!(checked > 15, "{checked} options");
}
