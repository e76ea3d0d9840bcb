//! The examples, run on the real services as their users would run them.

#[allow(dead_code)]
#[path = "../../examples/accounts.rs"]
mod accounts;
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../../examples/embedded.rs"]
mod embedded;

use crate::support::{Database, Server, kafka_bootstrap, unique_name};

#[test]
fn accounts_are_never_overdrawn_and_the_audit_tells_every_transfer_once() {
    let database = Database::create(Server::A, "accounts");
    let place = accounts::support::Place {
        bootstrap: kafka_bootstrap(),
        dsn: database.dsn().to_owned(),
        suffix: unique_name("test"),
    };
    let mut out = Vec::new();
    accounts::show(&place, &mut out).unwrap();
    let told = String::from_utf8(out).unwrap();
    let (begin, rest) = told.split_once("stopped: partition ").unwrap_or_else(|| panic!("nothing stopped:\n{told}"));
    assert!(rest.contains("ada has not got 50000 cents for \"a bicycle\""), "{told}");
    let (stopped, end) = rest.split_once("after a deposit").expect("the end of the story");
    assert!(begin.contains("applied; topics that stopped: 0"), "{told}");
    assert!(!stopped.contains("its lock"), "it overtook the record before:\n{told}");
    assert!(end.contains("topics that stopped: 0"), "{told}");
    // 40,000 are left of the salary behind three rents; 100,000 came by hand.
    assert!(end.contains("-50000 →   90000  a bicycle") && end.contains("-10000 →   80000  its lock"), "{told}");
    let mut client = database.connect();
    let row = client.query_one("SELECT count(*), count(DISTINCT (account, reason)) FROM audit", &[]);
    let row = row.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (11, 11), "{told}");
}

#[test]
fn an_embedded_engine_serves_a_table_and_a_handler() {
    let database = Database::create(Server::A, "embedded");
    let place = embedded::support::Place {
        bootstrap: kafka_bootstrap(),
        dsn: database.dsn().to_owned(),
        suffix: unique_name("test"),
    };
    let mut out = Vec::new();
    embedded::show(&place, &mut out).unwrap();
    let told = String::from_utf8(out).unwrap();
    assert!(told.contains("1000 profiles, 20000 visits counted of 20000 published"), "{told}");
    assert!(told.contains("fetched "), "{told}");
}
