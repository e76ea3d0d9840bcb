//! Replicas on real servers: one that is promoted after it lost commits, and one whose word Kafka's commit waits for.

use std::collections::BTreeMap;

use postgres::Client;

use super::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, publish, shard};
use crate::support::{OwnServices, PATIENCE, Proxy, Replica, Rig, Server, Service, Topic, port_of, wait_until};

const PG_A: Service = Service::Pg(Server::A);
const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\n";

/// A primary with a replica that can be cut off it.
struct Pair {
    topic: Topic,
    replica: Replica,
    /// Between the two.
    link: Proxy,
    own: OwnServices,
}

impl Pair {
    fn start() -> Pair {
        let own = OwnServices::start(&[PG_A]);
        let link = Proxy::to(port_of(&own.pg_dsn(Server::A)));
        let replica = Replica::of(&own, link.port(), "replica");
        let pair = Pair { topic: Topic::create("failover", 4), replica, link, own };
        pair.primary().batch_execute(LEDGER).unwrap();
        pair
    }

    fn primary(&self) -> Client {
        Client::connect(&self.own.pg_dsn(Server::A), postgres::NoTls).expect("the primary")
    }

    /// A connection string with both hosts; `more` of them may follow.
    fn dsn(&self) -> String {
        let (primary, replica) = (port_of(&self.own.pg_dsn(Server::A)), self.replica.port());
        format!("host=127.0.0.1,127.0.0.1 port={replica},{primary} user=forebay dbname=forebay")
    }

    /// `more` stands in the shard's part of the configuration.
    fn rig(&self, more: &str) -> Rig {
        let toml = format!("{ENGINE}{}{more}{}", shard("main", &self.dsn()), ledger_topic(self.topic.name()));
        Rig::at(self.topic.bootstrap(), &[("session.timeout.ms", "6000")], &toml)
    }

    /// Whether the group has committed every partition to its end.
    fn is_committed(&self, rig: &Rig) -> bool {
        ends(&self.topic).into_iter().all(|(partition, end)| rig.committed(self.topic.name(), partition) == Some(end))
    }
}

/// The database goes back behind what was committed to Kafka. What it lost is applied again, from Kafka.
#[test]
fn a_replica_that_is_promoted_after_it_lost_commits() {
    let pair = Pair::start();
    publish(&pair.topic, 0..4000, 40);
    let rig = pair.rig("");
    let process = rig.start();
    let mut rows = pair.primary();
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 4000);
    let mut copy = pair.replica.connect();
    wait_until(PATIENCE, "the first rows on the replica", || count(&mut copy, "ledger") == 4000);
    pair.link.swallow(true);
    publish(&pair.topic, 4000..8000, 40);
    wait_until(PATIENCE, "more rows", || count(&mut rows, "ledger") == 8000);
    wait_until(PATIENCE, "Kafka's commit", || pair.is_committed(&rig));
    // While there is work at hand.
    publish(&pair.topic, 8000..10_000, 40);
    pair.own.die(Server::A);
    assert_eq!(count(&mut copy, "ledger"), 4000, "the replica heard of what it was to lose");
    pair.replica.promote();
    publish(&pair.topic, 10_000..11_000, 40);
    wait_until(PATIENCE, "all rows on the promoted replica", || count(&mut copy, "ledger") >= 11_000);
    process.wait_for_log(&["WARN", "starting over"]);
    wait_until(PATIENCE, "Kafka's commit", || pair.is_committed(&rig));
    process.terminate().expect(0);
    assert_complete(&ledger(&mut copy), &ends(&pair.topic));
}

/// Kafka is told what the replica has, and nothing else: while it is away, and after a restart of the process, too.
#[test]
fn a_commit_waits_for_the_replica() {
    let pair = Pair::start();
    let rig = pair.rig("commit_replicas = [\"replica\", \"another\"]\ncommit_replicas_min = 1\n");
    publish(&pair.topic, 0..2000, 40);
    let process = rig.start();
    let mut rows = pair.primary();
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 2000);
    wait_until(PATIENCE, "Kafka's commit", || pair.is_committed(&rig));
    let confirmed = ends(&pair.topic);
    let committed =
        || -> BTreeMap<i32, i64> { (0..4).map(|p| (p, rig.committed(pair.topic.name(), p).unwrap_or(-1))).collect() };

    pair.link.swallow(true);
    publish(&pair.topic, 2000..4000, 40);
    wait_until(PATIENCE, "rows that the replica does not get", || count(&mut rows, "ledger") == 4000);
    let done = "SELECT sum(done)::bigint FROM forebay.partition";
    wait_until(PATIENCE, "stored progress", || rows.query_one(done, &[]).unwrap().get::<_, i64>(0) == 4000);
    process.wait_for_log(&["have not confirmed what is stored", "Kafka's commit stands still"]);
    assert_eq!(confirmed, committed(), "Kafka was told what only the primary has");
    // Draining waits in vain for the replica.
    process.kill();
    let process = rig.start();
    publish(&pair.topic, 4000..5000, 40);
    wait_until(PATIENCE, "rows after a restart", || count(&mut rows, "ledger") == 5000);
    wait_until(PATIENCE, "stored progress", || rows.query_one(done, &[]).unwrap().get::<_, i64>(0) == 5000);
    process.wait_for_log(&["have not confirmed what is stored", "Kafka's commit stands still"]);
    assert_eq!(confirmed, committed(), "a restart told Kafka what only the primary has");

    // The replica comes back and catches up.
    pair.link.swallow(false);
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
    rows.query_one(terminate, &[]).unwrap();
    pair.replica.reconnect();
    wait_until(PATIENCE, "Kafka's commit", || pair.is_committed(&rig));
    process.wait_for_log(&["replicas confirm what is stored again"]);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut rows), &ends(&pair.topic));
    assert_complete(&ledger(&mut pair.replica.connect()), &ends(&pair.topic));
}
