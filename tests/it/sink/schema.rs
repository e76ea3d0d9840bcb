//! forebay's own tables, and the refusal to work on what belongs to something else.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use forebay::config::{RouteBy, Tenant};
use forebay::sink::postgres::{OwnRows, PostgresControl};
use forebay::sink::{Control, Failure, Identity, schema};
use forebay::types::ShardIx;

use crate::statements::{TOPIC, World, identity, takeover};
use crate::support::{Database, Server, handler_config};

/// Each table and column, with its type and whether it may be null.
fn columns(database: &Database) -> Vec<String> {
    let sql = "SELECT format('%s.%s %s %s', table_name, column_name, data_type, is_nullable) FROM information_schema.columns \
               WHERE table_schema = 'forebay' ORDER BY table_name, ordinal_position";
    database.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Without the advisory lock two of them collide in the system catalogs (23505), IF NOT EXISTS or not.
#[test]
fn many_processes_create_the_tables_at_once() {
    for _ in 0..3 {
        let database = Database::create(Server::A, "concurrent_init");
        let barrier = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, barrier) = (database.connect(), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    schema::init(&mut client)
                })
            })
            .collect();
        let mut found: Vec<_> = threads.into_iter().map(|t| t.join().unwrap().expect("init")).collect();
        found.sort();
        assert_eq!(found[0], None, "one of them was the first");
        assert_eq!(found[1..], [Some(schema::CURRENT); 7], "the others came behind it");
    }
}

#[test]
fn what_is_printed_makes_the_same_tables_as_init() {
    let (printed, made) = (Database::create(Server::A, "printed"), Database::create(Server::A, "made"));
    printed.execute(&schema::print());
    printed.execute(&schema::print());
    schema::init(&mut made.connect()).expect("init");
    assert_eq!(columns(&printed), columns(&made));
    assert!(columns(&made).iter().any(|c| c == "fence.token bigint NO"), "{:?}", columns(&made));
    assert_eq!(schema::init(&mut printed.connect()), Ok(Some(schema::CURRENT)));
}

/// Someone else may create the schema for a role that must not create any.
#[test]
fn a_role_without_the_right_to_create_schemas() {
    let database = Database::create(Server::A, "poor_role");
    let role = database.name().to_owned();
    database.execute(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA forebay AUTHORIZATION {role}"));
    let mut client = database.connect();
    client.batch_execute(&format!("SET ROLE {role}")).unwrap();
    let result = schema::init(&mut client);
    drop(client);
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(result, Ok(None));
}

/// Says why the control connection refuses to work.
#[track_caller]
fn refused(world: &World) -> Failure {
    world.control().locate(TOPIC, &identity(), &[0]).expect_err("refused")
}

#[track_caller]
fn check_shard(failure: &Failure, expected: &str) {
    let Failure::Shard(reason) = failure else { panic!("{failure:?}") };
    assert!(reason.text.contains(expected), "{reason}");
    assert!(reason.text.starts_with("shard \"s0\": "), "which shard? {reason}");
}

#[test]
fn tables_that_nobody_may_create() {
    let world = World::with("unmanaged", |config| config.engine.manage_schema = false);
    check_shard(&refused(&world), "run `forebay init`");
    world.database.execute(&schema::print());
    world.located();
}

#[test]
fn a_newer_forebay_was_here() {
    let world = World::new("newer");
    world.located();
    world.database.execute("UPDATE forebay.meta SET value = '1.7' WHERE key = 'schema'");
    world.located();
    world.database.execute("UPDATE forebay.meta SET value = '2.0' WHERE key = 'schema'");
    check_shard(&refused(&world), "newer forebay");
    schema::init(&mut world.database.connect()).expect("init leaves it alone");
    let stored =
        world.database.connect().query_one("SELECT value FROM forebay.meta WHERE key = 'schema'", &[]).unwrap();
    assert_eq!(stored.get::<_, String>(0), "2.0");
    world.database.execute("UPDATE forebay.meta SET value = 'soon' WHERE key = 'schema'");
    check_shard(&refused(&world), "\"soon\"");
}

#[test]
fn a_table_of_ours_was_dropped() {
    let world = World::new("dropped");
    let mut control = world.located();
    control.takeover(&takeover(1, 2, 0)).expect("a takeover");
    world.database.execute("DROP TABLE forebay.fence");
    // The open connection only sees that something is wrong; the next one says what.
    assert!(matches!(control.takeover(&takeover(2, 2, 0)), Err(Failure::Outage(_))));
    let Err(failure) = control.takeover(&takeover(3, 2, 0)) else { panic!("taken without fences") };
    check_shard(&failure, "forebay.fence is gone");
}

/// Two shards under each other's names would scatter every row.
#[test]
fn swapped_shards() {
    let (a, b) = (Database::create(Server::A, "swap_a"), Database::create(Server::B, "swap_b"));
    let control = |dsns: &[&str], shard: u16| {
        let config = Arc::new(handler_config("group", dsns, &["topic"]));
        PostgresControl::new(config, ShardIx(shard), Arc::new(OwnRows::new(1))).locate(TOPIC, &identity(), &[0])
    };
    control(&[a.dsn(), b.dsn()], 0).expect("s0");
    control(&[a.dsn(), b.dsn()], 1).expect("s1");
    let swapped = control(&[b.dsn(), a.dsn()], 0).expect_err("b is s1");
    check_shard(&swapped, "this database is the shard \"s1\"");
}

/// Another routing function of the same group would write one row to two databases. Other groups are free.
#[test]
fn another_routing_function() {
    let mut world = World::new("routing");
    world.located();
    let change = |world: &mut World, group: &str, by: RouteBy| {
        let mut config = (*world.config).clone();
        config.kafka.group_id = group.to_owned();
        config.routing.by = by;
        config.routing.tenant = Tenant::KeyPart(0);
        world.config = Arc::new(config);
    };
    change(&mut world, "group", RouteBy::Hash);
    check_shard(&refused(&world), "hash of key:0 split at \":\" over s0");
    change(&mut world, "other", RouteBy::Hash);
    world.located();
    change(&mut world, "other", RouteBy::Modulo);
    check_shard(&refused(&world), "modulo");
    world.database.execute("DELETE FROM forebay.meta WHERE key = 'routing other'");
    world.located();
}

/// A recreated topic's offsets, and another cluster's, mean other records.
#[test]
fn another_incarnation_of_the_topic() {
    let world = World::new("identity");
    let of = |cluster: &str, topic: Option<&str>| Identity {
        cluster_id: cluster.to_owned(),
        topic_id: topic.map(ToOwned::to_owned),
    };
    let locate = |identity: &Identity| world.control().locate(TOPIC, identity, &[0]);
    let stored = || -> Option<String> {
        world.database.connect().query_one("SELECT topic_id FROM forebay.source", &[]).unwrap().get(0)
    };
    locate(&of("c1", None)).expect("registered");
    assert_eq!(stored(), None);
    locate(&of("c1", Some("t1"))).expect("the broker learned about ids");
    assert_eq!(stored().as_deref(), Some("t1"), "filled in");
    locate(&of("c1", None)).expect("a broker that does not say is believed");
    for (other, expected) in [(of("c1", Some("t2")), "deleted and created again"), (of("c2", Some("t1")), "\"c2\"")] {
        let Err(Failure::Topic(reason)) = locate(&other) else { panic!("{other:?} was accepted") };
        assert!(reason.text.contains(expected) && reason.text.contains("forebay fences reset"), "{reason}");
    }
    assert_eq!(stored().as_deref(), Some("t1"));
    let before = world.ids.get(TOPIC);
    assert!(before > 0);
    // A takeover compares, too: the topic may be recreated between the two.
    let mut control = world.control();
    control.locate(TOPIC, &of("c1", Some("t1")), &[0]).expect("located");
    world.database.execute("UPDATE forebay.source SET topic_id = 't9'");
    assert!(matches!(control.takeover(&takeover(1, 2, 0)), Err(Failure::Topic(_))));
}

/// The numbers of topics are looked up again: a fall-back may have given ours to another topic.
#[test]
fn a_takeover_looks_its_topic_up_again() {
    let world = World::new("renumbered");
    let mut control = world.located();
    control.takeover(&takeover(1, 2, 7)).expect("a takeover");
    let before = world.ids.get(TOPIC);
    world.database.execute(
        "TRUNCATE forebay.source, forebay.partition, forebay.fence; \
         INSERT INTO forebay.source (grp, topic, cluster_id) SELECT 'other', n::text, 'c' FROM generate_series(1, 3) n",
    );
    let taken = control.takeover(&takeover(2, 2, 9)).expect("a takeover");
    assert!(taken.created, "its anchor was lost");
    assert_ne!(world.ids.get(TOPIC), before);
    let rows = world.database.connect().query("SELECT source FROM forebay.partition", &[]).unwrap();
    assert_eq!(rows.iter().map(|r| r.get::<_, i32>(0)).collect::<Vec<_>>(), [world.ids.get(TOPIC)]);
}

#[test]
fn what_time_heals_is_an_outage_and_what_it_does_not_is_the_shards() {
    let database = Database::create(Server::A, "connecting");
    let locate = |dsn: &str| {
        let config = Arc::new(handler_config("group", &[dsn], &["topic"]));
        let mut control = PostgresControl::new(config, ShardIx(0), Arc::new(OwnRows::new(1)));
        control.locate(TOPIC, &identity(), &[0])
    };
    let with = |more: &str| format!("{} {more}", database.dsn());
    assert!(matches!(locate("host=127.0.0.1 port=1 user=forebay"), Err(Failure::Outage(_))));
    check_shard(&locate(&with("dbname=no_such_database")).unwrap_err(), "no_such_database");
    check_shard(&locate(&with("user=no_such_role")).unwrap_err(), "no_such_role");
    check_shard(&locate(&with("options='-c no_such_setting=1'")).unwrap_err(), "no_such_setting");
    check_shard(&locate(&with("sslmode=require")).unwrap_err(), "TLS");
    let serializable = with("options='-c default_transaction_isolation=serializable'");
    check_shard(&locate(&serializable).unwrap_err(), "read committed");
    let failure = locate(&with("options='-c default_transaction_read_only=on'")).unwrap_err();
    assert!(matches!(&failure, Failure::Outage(r) if r.text.contains("waiting for a primary")), "{failure:?}");
    assert_eq!(locate(database.dsn()), Ok(vec![None]));
}

/// An outage in the middle: the next call connects again by itself, with everything prepared anew.
#[test]
fn a_lost_control_connection_is_replaced() {
    let world = World::new("lost_control");
    let mut control = world.located();
    control.takeover(&takeover(1, 2, 0)).expect("a takeover");
    for _ in 0..3 {
        world.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forebay/group/control' \
             AND datname = current_database()",
        );
        crate::support::wait_until(Duration::from_secs(10), "the connection to be noticed and replaced", || {
            match control.takeover(&takeover(2, 2, 0)) {
                Ok(_) => true,
                Err(Failure::Outage(_)) => false,
                Err(other) => panic!("{other:?}"),
            }
        });
    }
}
