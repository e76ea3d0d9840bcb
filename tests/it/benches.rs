//! What benchmarks have in common, and what they say of themselves.

#[path = "../../benches/common/mod.rs"]
mod common;

use std::time::Duration;

use common::bare_poll;

use crate::support::{Topic, kafka_bootstrap, produce};

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
