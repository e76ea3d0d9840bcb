//! Behind a real pgbouncer that pools transactions: what the sink promises, an end-to-end run whose pooler goes away again and
//! again, and poolers that are there undeclared, or declared and not there.

use std::cell::RefCell;
use std::path::Path;

use forebay::check::{Report, check};
use forebay::config::load::parse;
use forebay::config::{Pooler, Shard};
use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::real::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, publish};
use crate::sink::{dead_letters, handlers, parking, sampling, tables};
use crate::statements;
use crate::support::{
    Database, PATIENCE, Pgbouncer, Rig, Server, Topic, bound_the_role, kafka_bootstrap, pg_dsn_a, unique_name,
    wait_until,
};

thread_local! {
    /// What this thread's tests stand behind.
    static POOLER: RefCell<Option<Pgbouncer>> = const { RefCell::new(None) };
}

/// Puts a test's shard behind the pooler, where there is one.
pub fn stand_behind(database: &Database, shard: &mut Shard) {
    POOLER.with_borrow(|pooler| {
        if let Some(pgbouncer) = pooler {
            let statement = shard.statement_timeout.as_millis() as u64;
            bound_the_role(database, [shard.lock_timeout.as_millis() as u64, statement, statement + 30_000]);
            shard.dsn.0 = pgbouncer.dsn(database.dsn());
            shard.pooler = Pooler::Transaction;
        }
    });
}

/// Runs cases that others run directly.
fn run_behind(cases: &[fn()]) {
    POOLER.set(Some(Pgbouncer::start(&pg_dsn_a(), 10, "")));
    cases.iter().for_each(|case| case());
    POOLER.set(None);
}

#[test]
fn tables_behind_a_pooler() {
    run_behind(&[
        tables::one_kind_of_row_is_one_statement,
        tables::several_kinds_of_rows_are_one_transaction,
        tables::at_least_once_writes_rows_only,
        tables::a_bad_record_is_named_and_nothing_is_written,
        tables::a_table_that_is_altered_while_records_flow,
        tables::a_table_that_grew,
        tables::a_table_that_is_gone_or_forbidden_stops_the_topic,
        tables::tables_of_ours_that_fell_back_to_nothing,
        tables::a_lost_connection_is_replaced,
    ]);
}

#[test]
fn handlers_behind_a_pooler() {
    run_behind(&[
        handlers::records_come_lane_by_lane_in_offset_order,
        handlers::the_record_at_fault_is_named_where_it_can_be,
        handlers::a_panic_is_the_records_fault_and_stays_in_its_transaction,
        handlers::a_handler_may_ask_for_patience,
        handlers::a_swallowed_error_is_not_committed,
        handlers::a_constraint_that_is_checked_at_commit,
        handlers::failures_are_called_by_their_class,
        handlers::at_least_once_leaves_the_fences_out,
    ]);
}

#[test]
fn dead_letters_behind_a_pooler() {
    run_behind(&[
        dead_letters::exactly_the_bad_ones_and_each_once,
        dead_letters::what_does_not_decode_needs_no_search,
        dead_letters::too_many_are_none,
        dead_letters::what_is_checked_at_commit_is_found_before,
        dead_letters::a_parent_may_come_later_in_the_batch_and_a_missing_one_is_waited_for,
        dead_letters::what_takes_too_long_is_bad_only_alone,
        dead_letters::what_is_deferred_stays_deferred_from_piece_to_piece,
        dead_letters::a_handlers_bad_records_are_found_as_well,
    ]);
}

#[test]
fn parking_behind_a_pooler() {
    run_behind(&[
        parking::a_row_that_somebody_holds_parks_its_key_and_nobody_else,
        parking::keys_that_meet_in_a_row_wait_together,
        parking::a_delete_needs_a_stronger_lock_than_an_update,
        parking::a_table_that_is_locked_as_a_whole_parks_nobody,
        parking::fences_that_are_locked_park_nobody,
        parking::what_no_probe_shows_is_parked_with_all_its_batch,
        parking::a_batch_that_mixes_locked_rows_and_bad_records_ends_right,
        parking::a_dead_letter_may_block_its_key,
        parking::the_slow_lane_makes_dead_letters_too,
        parking::a_missing_parent_is_waited_for_and_then_at_fault,
        parking::a_key_is_free_only_when_nothing_of_it_is_parked,
        parking::two_slow_lanes_do_not_apply_the_same_rows,
        parking::what_was_read_must_be_what_is_there,
        parking::a_takeover_finds_what_is_parked,
        parking::a_handlers_key_that_waits_for_a_lock_is_parked,
    ]);
}

#[test]
fn sampling_behind_a_pooler() {
    run_behind(&[sampling::who_holds_a_row_that_we_wait_for, sampling::who_holds_a_row_whose_key_is_parked]);
}

#[test]
fn the_fence_protocol_behind_a_pooler() {
    run_behind(&[
        statements::a_takeover_waits_for_the_one_that_creates_the_anchor,
        statements::the_earlier_of_two_takeovers_is_fenced_out,
        statements::a_takeover_waits_for_a_worker_and_sees_what_it_did,
        statements::a_takeover_does_not_wait_for_ever,
        statements::a_worker_behind_a_takeover_does_nothing,
        statements::a_retry_behind_its_own_orphan_does_nothing,
        statements::a_retry_behind_an_orphan_that_is_rolled_back_applies_the_batch,
        statements::progress_behind_a_takeover_is_not_stored,
        statements::several_lanes_move_together_or_not_at_all,
        statements::lanes_change_once_drained_and_back_again,
        statements::a_worker_behind_a_change_of_lanes_does_nothing,
        statements::lost_fences_stop_the_topic,
        statements::progress_finds_a_database_that_fell_back,
        statements::progress_of_many_partitions,
    ]);
}

fn shard(dsn: &str, pooler: &str) -> String {
    format!("[[shard]]\nname = \"main\"\ndsn = {dsn:?}\npooler = {pooler:?}\n")
}

/// Two processes share a pool that is smaller than what they would open directly. It loses its connections, is killed with all
/// of its clients, and starts again; in between it has other connections to offer, which know nothing of anybody's statements.
#[test]
fn every_record_once_although_the_pooler_goes_away() {
    let database = Database::create(Server::A, "pooler");
    database.execute(LEDGER);
    bound_the_role(&database, [2000, 30_000, 60_000]);
    const CONNECTIONS: usize = 4;
    let mut pgbouncer = Pgbouncer::start(database.dsn(), CONNECTIONS, "server_lifetime = 1");
    let topic = Topic::create("pooler", 4);
    let rig = Rig::new(&format!(
        "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\nbatch_records_max = 100\n{}{}",
        shard(&pgbouncer.dsn(database.dsn()), "transaction"),
        ledger_topic(topic.name())
    ));
    publish(&topic, 0..1000, 40);
    let processes = [rig.start(), rig.start()];
    let mut rows = database.connect();
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 1000);
    let mut published = 1000;
    for round in 0..9 {
        publish(&topic, published..published + 2000, 40);
        published += 2000;
        assert_nothing_is_named(&pgbouncer.dsn(database.dsn()), CONNECTIONS);
        match round % 3 {
            0 => pgbouncer.command("RECONNECT"),
            1 => {
                pgbouncer.command(&format!("KILL {}", database.name()));
                pgbouncer.command(&format!("RESUME {}", database.name()));
            }
            _ => pgbouncer.restart(),
        }
    }
    wait_until(PATIENCE, "all rows", || count(&mut rows, "ledger") >= published);
    for process in processes {
        process.terminate().expect(0);
    }
    assert_complete(&ledger(&mut rows), &ends(&topic));
    for (partition, end) in ends(&topic) {
        assert_eq!(rig.committed(topic.name(), partition), Some(end), "partition {partition}");
    }
}

/// On the connections that the pooler deals out now, each shows its own: how many statements have names.
#[track_caller]
fn assert_nothing_is_named(dsn: &str, connections: usize) {
    let mut clients: Vec<Client> = (0..connections).map(|_| Client::connect(dsn, NoTls).expect("the pooler")).collect();
    // All at once, so that each has a connection of its own. Simple queries, which name nothing themselves.
    clients.iter_mut().for_each(|client| client.batch_execute("BEGIN").expect("a transaction"));
    for client in &mut clients {
        let answer = client.simple_query("SELECT name, statement FROM pg_prepared_statements").expect("an answer");
        let named: Vec<_> = answer.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).collect();
        assert!(named.is_empty(), "{named:?}");
    }
    clients.iter_mut().for_each(|client| client.batch_execute("ROLLBACK").expect("its end"));
}

fn report(dsn: &str, pooler: &str, table: &str) -> Report {
    let text = format!(
        "[kafka]\nbootstrap.servers = {:?}\ngroup.id = {:?}\n{}[[topic]]\nname = \"none\"\ntable = {table:?}\n",
        kafka_bootstrap(),
        unique_name("pooler"),
        shard(dsn, pooler)
    );
    let loaded = parse(Path::new("f"), &text, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    check(&loaded)
}

/// What is said about the shard, the way there being as it is.
fn said(dsn: &str, pooler: &str) -> String {
    let report = report(dsn, pooler, "t");
    let findings = report.problems.iter().map(|f| ("problem", f)).chain(report.warnings.iter().map(|f| ("warning", f)));
    let findings =
        findings.filter(|(_, f)| f.key.starts_with("shard")).map(|(w, f)| format!("{w} {}: {}", f.key, f.text));
    findings.chain(report.checked).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn a_pooler_is_found_out() {
    let database = Database::create(Server::A, "pooler");
    database.execute("CREATE TABLE t (id int PRIMARY KEY)");
    let strict = Pgbouncer::start(database.dsn(), 2, "");
    let lenient = Pgbouncer::start(database.dsn(), 2, "ignore_startup_parameters = options");
    // Undeclared, whether it refuses the connection's options or drops them.
    assert_says(&said(&strict.dsn(database.dsn()), "none"), &["problem shard[0].dsn", "pooler = \"transaction\""]);
    assert_says(
        &said(&lenient.dsn(database.dsn()), "none"),
        &["problem shard[0].dsn", "found a session without the settings", "pooler = \"transaction\""],
    );
    // Declared, and the role sets nothing, or not everything.
    let missing = said(&strict.dsn(database.dsn()), "transaction");
    let alter = format!("ALTER ROLE forebay IN DATABASE {} SET", database.name());
    assert_says(&missing, &["found lock_timeout 0, statement_timeout 0", &format!("{alter} lock_timeout = 2000;")]);
    // What it says to run is what helps.
    let commands: Vec<&str> = missing.split("ALTER ROLE").skip(1).map(|rest| rest.split(';').next().unwrap()).collect();
    assert_eq!(commands.len(), 3, "{missing}");
    commands[..2].iter().for_each(|command| database.execute(&format!("ALTER ROLE{command}")));
    strict.command("RECONNECT");
    let missing = said(&strict.dsn(database.dsn()), "transaction");
    assert_says(
        &missing,
        &["found idle_in_transaction_session_timeout 0 ", "SET idle_in_transaction_session_timeout = 60000"],
    );
    database.execute(&format!("ALTER ROLE{}", commands[2]));
    strict.command("RECONNECT");
    let well = said(&strict.dsn(database.dsn()), "transaction");
    assert_says(&well, &["shard main: behind a pooler", "shard main: every topic's table"]);
    assert!(!well.contains("shard[0]"), "{well}");
    // Declared, and not there: it works, and says so.
    assert_says(
        &said(database.dsn(), "transaction"),
        &["warning shard[0].pooler", "the server itself", "shard main: every"],
    );
    assert_says(&said(database.dsn(), "none"), &["shard main: every topic's table", "connections left"]);
}
