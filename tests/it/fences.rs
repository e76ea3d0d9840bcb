//! `forebay fences show|reset` on a real broker and two shards.

use std::sync::Arc;
use std::time::Duration;

use forebay::config::Config;
use forebay::config::secret::Secret;
use forebay::fences::ToOffset;
use forebay::fences::reset::{Request, ResetError, reset};
use forebay::fences::show::show;
use forebay::sink::connect::application_prefix;
use forebay::sink::postgres::{OwnRows, PostgresControl};
use forebay::sink::{Control, Identity, Progress, Takeover, connections, fence};
use forebay::types::{NextOffset, ShardIx, Token, TopicIx, TopicPartition};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::support::{Database, Server, Topic, handler_config, kafka_bootstrap, produce, unique_name, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);
const NOTED: &str = "what a commit of ours notes";

/// Two shards that have applied two partitions of a topic up to 7, and a group that has committed so. Nobody runs.
struct World {
    shards: [Database; 2],
    topic: Topic,
    config: Config,
}

impl World {
    fn new(name: &str) -> World {
        let shards = [Database::create(Server::A, name), Database::create(Server::B, name)];
        let topic = Topic::create(name, 2);
        produce(topic.name(), (0..20).map(|n| (n % 2, None, Some(&b"value"[..]))));
        let mut config = handler_config(&unique_name(name), &[shards[0].dsn(), shards[1].dsn()], &[topic.name()]);
        config.kafka.properties.insert("bootstrap.servers".to_owned(), Secret(kafka_bootstrap()));
        // What a member may have must not get into this command's way.
        config.kafka.properties.insert("group.instance.id".to_owned(), Secret("one".to_owned()));
        let world = World { shards, topic, config };
        for shard in [0, 1] {
            world.apply(shard);
        }
        world.commit(&[7, 7]);
        world.wait_until_alone();
        world
    }

    fn control(&self, shard: u16) -> PostgresControl {
        PostgresControl::new(Arc::new(self.config.clone()), ShardIx(shard), Arc::new(OwnRows::new(1)))
    }

    fn apply(&self, shard: u16) {
        let mut control = self.control(shard);
        control.locate(TopicIx(0), &identity("one"), &[0, 1]).expect("locate");
        for partition in [0, 1] {
            let at = TopicPartition { topic: TopicIx(0), partition };
            let token = Token(i64::from(partition) + 100);
            control.takeover(&Takeover { at, token, lanes: 2, begin: NextOffset(2) }).expect("takeover");
            let fences = vec![NextOffset(2); 2];
            let progress = Progress { partition, token, done: NextOffset(7), fences };
            assert_eq!(control.progress(TopicIx(0), &[progress]), Ok(vec![(partition, NextOffset(7))]));
        }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka_bootstrap()).set("group.id", &self.config.kafka.group_id);
        config.set("enable.auto.commit", "false");
        config
    }

    /// Commits for partitions 0 and 1, with metadata.
    fn commit(&self, offsets: &[i64]) {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets.iter().enumerate() {
            let mut element = list.add_partition(self.topic.name(), partition as i32);
            element.set_offset(Offset::Offset(*offset)).unwrap();
            element.set_metadata(NOTED);
        }
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// The group's offset and metadata of partitions 0 and 1.
    fn committed(&self) -> Vec<(Offset, String)> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(self.topic.name(), 0, 1);
        let found = consumer.committed_offsets(list, PATIENCE).unwrap();
        found.elements().iter().map(|e| (e.offset(), e.metadata().to_owned())).collect()
    }

    /// (topics, partitions, fences) stored in each shard.
    fn stored(&self) -> [(i64, i64, i64); 2] {
        [0, 1].map(|shard: usize| {
            let sql = "SELECT (SELECT count(*) FROM forebay.source), (SELECT count(*) FROM forebay.partition), \
                       (SELECT count(*) FROM forebay.fence)";
            let row = self.shards[shard].connect().query_one(sql, &[]).unwrap();
            (row.get(0), row.get(1), row.get(2))
        })
    }

    fn reset(&self, partition: Option<i32>, to: ToOffset) -> Result<Vec<(i32, i64)>, ResetError> {
        let request = Request { topic: self.topic.name().to_owned(), partition, to };
        reset(&self.config, &request).map(|done| done.offsets)
    }

    /// Closed connections take the server a moment.
    fn wait_until_alone(&self) {
        for shard in &self.shards {
            let mut client = shard.connect();
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
                       application_name LIKE 'forebay/%'";
            wait_until(PATIENCE, "the group's connections to close", || {
                client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0
            });
        }
    }

    #[track_caller]
    fn check_untouched(&self) {
        assert_eq!(self.stored(), [(1, 2, 4); 2], "a refused reset changed a shard");
        let noted = (Offset::Offset(7), NOTED.to_owned());
        assert_eq!(self.committed(), [noted.clone(), noted], "a refused reset changed the group's offsets");
    }
}

fn identity(topic_id: &str) -> Identity {
    Identity { cluster_id: "cluster".to_owned(), topic_id: Some(topic_id.to_owned()) }
}

#[track_caller]
fn check_refused(result: Result<Vec<(i32, i64)>, ResetError>, expected: &str) {
    let Err(ResetError::Refused(text)) = result else { panic!("{result:?}") };
    assert!(text.contains(expected), "{text}");
}

#[test]
fn show_says_who_is_how_far() {
    let world = World::new("fences_show");
    let report = show(&world.config, None, None);
    for shard in &report.shards {
        let lines = shard.answer.as_ref().expect("an answer");
        let found: Vec<_> =
            lines.iter().map(|l| (l.partition, l.lanes, l.origin, l.done, l.fences, l.fence_max)).collect();
        assert_eq!(found, [(0, 2, 2, 7, 2, Some(2)), (1, 2, 2, 7, 2, Some(2))]);
    }
    let text = report.to_string();
    assert!(text.starts_with("shard  topic") && text.contains(&format!("pid {}", std::process::id())), "{text}");
    assert_eq!(show(&world.config, Some("another"), None).shards[0].answer, Ok(vec![]));
    assert_eq!(show(&world.config, None, Some(1)).shards[1].answer.as_ref().map(Vec::len), Ok(1));
    // A fence that is missing shows, and so does a shard that does not answer.
    world.shards[0].execute("DELETE FROM forebay.fence WHERE partition = 1 AND lane = 0");
    let mut config = world.config.clone();
    config.shards[1].dsn = Secret("host=127.0.0.1 port=1 user=forebay".to_owned());
    config.shards[1].connect_timeout = Duration::from_secs(1);
    let text = show(&config, None, None).to_string();
    assert!(text.contains("only 1 of 2 are there") && text.contains("shard s1: "), "{text}");
}

#[test]
fn a_partition_is_reset_and_the_others_stay() {
    let world = World::new("fences_one");
    assert_eq!(world.reset(Some(0), ToOffset::Committed), Ok(vec![(0, 7)]));
    assert_eq!(world.stored(), [(1, 1, 2); 2]);
    let noted = (Offset::Offset(7), NOTED.to_owned());
    // Noted origins would lead the next start back to them.
    assert_eq!(world.committed(), [(Offset::Offset(7), String::new()), noted]);
    for (to, expected) in
        [(ToOffset::Earliest, 0), (ToOffset::Latest, 10), (ToOffset::At(3), 3), (ToOffset::At(10), 10)]
    {
        assert_eq!(world.reset(Some(0), to), Ok(vec![(0, expected)]), "{to:?}");
        assert_eq!(world.committed()[0], (Offset::Offset(expected), String::new()), "{to:?}");
    }
    check_refused(world.reset(Some(0), ToOffset::At(11)), "holds offsets 0 to 10, not 11");
    assert_eq!(world.committed()[0].0, Offset::Offset(10));
}

/// The whole topic: its identity goes, too, so that a recreated topic can begin.
#[test]
fn a_topic_is_reset_with_its_identity() {
    let world = World::new("fences_all");
    world.control(0).locate(TopicIx(0), &identity("two"), &[0]).expect_err("another incarnation");
    world.wait_until_alone();
    // A gateway that writes rows itself owns no partition.
    let name = format!("{}{}", application_prefix(&world.config.kafka.group_id), connections::SYNC);
    let gateway = world.shards[0].dsn().parse::<postgres::Config>().expect("a DSN").application_name(&name).to_owned();
    let gateway = gateway.connect(postgres::NoTls).expect("a connection");
    assert_eq!(world.reset(None, ToOffset::Committed), Ok(vec![(0, 7), (1, 7)]));
    drop(gateway);
    assert_eq!(world.stored(), [(0, 0, 0); 2]);
    for shard in [0, 1] {
        let anchors = world.control(shard).locate(TopicIx(0), &identity("two"), &[0, 1]);
        assert_eq!(anchors, Ok(vec![None, None]));
    }
    world.wait_until_alone();
    let request = Request { topic: "no such topic".to_owned(), partition: None, to: ToOffset::Committed };
    assert!(matches!(reset(&world.config, &request), Err(ResetError::Unknown(_))));
}

#[test]
fn an_owner_that_is_alive_is_not_robbed() {
    let world = World::new("fences_alive");
    // Connected to a shard.
    let mut control = world.control(1);
    control.locate(TopicIx(0), &identity("one"), &[0]).expect("locate");
    check_refused(world.reset(None, ToOffset::Committed), "/control (pid ");
    drop(control);
    world.wait_until_alone();
    world.check_untouched();
    // A member of the Kafka group, with no connection to any shard.
    let member: BaseConsumer = world.client().create().unwrap();
    member.subscribe(&[world.topic.name()]).unwrap();
    wait_until(PATIENCE, "the consumer to join the group", || {
        let _ = member.poll(Duration::from_millis(100));
        !member.assignment().unwrap().elements().is_empty()
    });
    check_refused(world.reset(None, ToOffset::Committed), "has members");
    drop(member);
    world.check_untouched();
    // In the middle of a takeover.
    let mut other = world.shards[0].connect();
    let mut taking = other.transaction().unwrap();
    let source: i32 = taking.query_one("SELECT id FROM forebay.source", &[]).unwrap().get(0);
    taking.query_one(fence::HOLD_SOURCE.text, &[&source]).unwrap();
    let mut config = world.config.clone();
    config.shards[0].lock_timeout = Duration::from_millis(100);
    let request = Request { topic: world.topic.name().to_owned(), partition: None, to: ToOffset::Committed };
    assert!(matches!(reset(&config, &request), Err(ResetError::Unavailable(_))));
    drop(taking);
    world.check_untouched();
    // KIP-848 groups do not show their members to everyone; their broker refuses the commit.
    let member: BaseConsumer = world.client().set("group.protocol", "consumer").create().unwrap();
    member.subscribe(&[world.topic.name()]).unwrap();
    wait_until(PATIENCE, "the consumer to join the group", || {
        let _ = member.poll(Duration::from_millis(100));
        !member.assignment().unwrap().elements().is_empty()
    });
    let result = world.reset(None, ToOffset::Committed);
    assert!(matches!(result, Err(ResetError::Refused(_))), "{result:?}");
    drop(member);
    world.check_untouched();
}

/// A shard that does not answer would keep its word, and its progress would hold the others'.
#[test]
fn every_shard_must_answer() {
    let world = World::new("fences_down");
    let mut config = world.config.clone();
    config.shards[1].dsn = Secret("host=127.0.0.1 port=1 user=forebay".to_owned());
    config.shards[1].connect_timeout = Duration::from_secs(1);
    let request = Request { topic: world.topic.name().to_owned(), partition: None, to: ToOffset::Earliest };
    let result = reset(&config, &request);
    assert!(matches!(&result, Err(ResetError::Unavailable(text)) if text.contains("s1")), "{result:?}");
    world.check_untouched();
}
