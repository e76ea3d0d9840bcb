//! Several processes in one group, under each way in which Kafka spreads partitions: members come, leave and are replaced
//! while records flow.

use super::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, publish, shard};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, wait_until};

/// The shortest that a broker's defaults allow: a killed member's partitions come free after it.
const SESSION: (&str, &str) = ("session.timeout.ms", "6000");

/// Members come and leave one after the other while records are published; in the end every record is there once, in order.
fn rolling(kafka: &[(&str, &str)], instances: Option<[&str; 2]>) {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 6);
    let toml = format!(
        "[engine]\ncommit_interval_ms = 200\nworkers_per_shard = 2\n{}{}",
        shard("main", database.dsn()),
        ledger_topic(topic.name())
    );
    let rig = Rig::empty(topic.bootstrap());
    let files = ["first.toml", "second.toml"];
    for (index, file) in files.iter().enumerate() {
        let mut kafka = kafka.to_vec();
        if let Some(instances) = &instances {
            kafka.push(("group.instance.id", instances[index]));
        }
        rig.configure_as(file, &kafka, &toml);
    }
    let mut client = database.connect();
    let mut published = 0;
    let mut more = |client: &mut postgres::Client| {
        publish(&topic, published..published + 2000, 60);
        published += 2000;
        wait_until(PATIENCE, "all that was published", || count(client, "ledger") >= published);
    };

    let first = rig.start_with(files[0], &[]);
    more(&mut client);
    let second = rig.start_with(files[1], &[]);
    second.wait_for_log(&["assigned: ", topic.name()]);
    more(&mut client);
    first.terminate().expect(0);
    more(&mut client);
    // Its successor has the same name where members have names.
    let first = rig.start_with(files[0], &[]);
    first.wait_for_log(&["assigned: ", topic.name()]);
    more(&mut client);
    second.kill();
    // Those of the dead one come to the other after the session's timeout.
    more(&mut client);
    first.terminate().expect(0);

    assert_complete(&ledger(&mut client), &ends(&topic));
    for (partition, end) in ends(&topic) {
        assert_eq!(rig.committed(topic.name(), partition), Some(end), "the group's offset of partition {partition}");
    }
}

#[test]
fn members_come_and_leave_eagerly() {
    rolling(&[SESSION, ("partition.assignment.strategy", "range")], None);
}

#[test]
fn members_come_and_leave_cooperatively() {
    rolling(&[SESSION, ("partition.assignment.strategy", "cooperative-sticky")], None);
}

#[test]
fn members_come_and_leave_by_the_consumer_protocol() {
    rolling(&[("group.protocol", "consumer")], None);
}

#[test]
fn members_with_names_come_and_leave() {
    rolling(&[SESSION, ("partition.assignment.strategy", "cooperative-sticky")], Some(["one", "two"]));
}
