//! Batches for a `Handler`: what it does is committed with the fences or not at all, and what it does wrong is named.

use std::sync::Arc;

use forebay::config::Delivery;
use forebay::sink::handler::{Handler, HandlerError};
use forebay::sink::{Applied, Control, Failure, Written};
use forebay::state::chunk::RecordRef;
use postgres::Transaction;

use crate::statements::{TOPIC, World, takeover, write};

/// What a test's handler does with the records of one lane.
type Act = fn(&mut Transaction<'_>, &[RecordRef<'_>]) -> Result<(), HandlerError>;

struct Acting(Act);

impl Handler for Acting {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for record in records {
            transaction.execute("INSERT INTO applied VALUES ($1, $2)", &[&record.partition, &record.offset.0])?;
        }
        (self.0)(transaction, records)
    }
}

/// One batch, records 0 and 2 in lane 0 and record 1 in lane 1, in a world where `before` was executed. If it fails,
/// nothing may be left of it, and the connection must still work.
#[track_caller]
fn check(name: &str, before: &str, act: Act) -> Result<Written, Failure> {
    let world = World::new(name);
    world.database.execute(before);
    world.located().takeover(&takeover(1, 2, 0)).expect("a takeover");
    let mut writer = world.writer_of("w0", Arc::new(move || Box::new(Acting(act))));
    let result = write(&mut writer, 1, &[(0, 0, &[0, 2]), (1, 0, &[1])]);
    if result.is_ok() {
        assert_eq!(world.applied(), [0, 1, 2]);
    } else {
        assert_eq!(world.applied(), [0; 0], "{name}: something of a failed batch is left");
        let mut good = world.writer_of("w1", Arc::new(|| Box::new(Acting(|_, _| Ok(())))));
        let again = write(&mut good, 1, &[(0, 0, &[0, 2]), (1, 0, &[1])]);
        assert!(matches!(again, Ok(Written::Applied(_))), "{name}: its fences moved: {again:?}");
    }
    result
}

#[test]
pub fn records_come_lane_by_lane_in_offset_order() {
    let result = check("handler_order", "", |_, records| {
        let offsets: Vec<i64> = records.iter().map(|r| r.offset.0).collect();
        assert!(offsets == [0, 2] || offsets == [1], "{offsets:?}");
        Ok(())
    });
    assert!(matches!(result, Ok(Written::Applied(Applied { counts, .. })) if counts.upserted == 3), "{result:?}");
}

#[test]
pub fn the_record_at_fault_is_named_where_it_can_be() {
    // Places in the batch: offsets 0, 2 and 1 are records 0, 1 and 2.
    let named = check("handler_record", "", |_, records| match records {
        [_, second] if second.offset.0 == 2 => Err(HandlerError::record(1, "too blue")),
        _ => Ok(()),
    });
    assert!(matches!(&named, Err(Failure::Record(Some(1), r)) if r.text == "too blue"), "{named:?}");
    // A database error does not say which record; alone in its lane there is no doubt.
    let fail_in_lane_1: Act = |transaction, records| {
        if records[0].offset.0 == 1 {
            transaction.execute("INSERT INTO narrow VALUES ('abc')", &[])?;
        }
        Ok(())
    };
    let result = check("handler_database", "CREATE TABLE narrow (v varchar(2))", fail_in_lane_1);
    let Err(Failure::Record(Some(2), reason)) = result else { panic!("{result:?}") };
    assert_eq!(reason.sqlstate.as_deref(), Some("22001"));
    let both = check("handler_both", "", |transaction, records| {
        if records.len() == 2 {
            transaction.execute("SELECT 1 / 0", &[])?;
        }
        Ok(())
    });
    assert!(matches!(both, Err(Failure::Record(None, _))), "{both:?}");
}

#[test]
pub fn a_panic_is_the_records_fault_and_stays_in_its_transaction() {
    let result = check("handler_panic", "", |_, records| match records {
        [one] if one.offset.0 == 1 => panic!("cannot divide by tomatoes"),
        _ => Ok(()),
    });
    let Err(Failure::Record(Some(2), reason)) = result else { panic!("{result:?}") };
    assert!(reason.text.contains("tomatoes"), "{reason}");
}

#[test]
pub fn a_handler_may_ask_for_patience() {
    let result = check("handler_retry", "", |_, _| Err(HandlerError::Retry("the moon is full".into())));
    assert!(matches!(&result, Err(Failure::Transient(r)) if r.text.contains("moon")), "{result:?}");
}

/// PostgreSQL answers COMMIT of a failed transaction with success, having rolled it back. Taken at its word, the
/// records would be gone.
#[test]
pub fn a_swallowed_error_is_not_committed() {
    let act: [Act; 2] = [
        |transaction, _| {
            let _ = transaction.execute("SELECT 1 / 0", &[]);
            Ok(())
        },
        // In the last lane, so that nothing but the COMMIT follows.
        |transaction, records| {
            if records[0].offset.0 == 1 {
                let _ = transaction.execute("SELECT 1 / 0", &[]);
            }
            Ok(())
        },
    ];
    for act in act {
        let result = check("handler_swallows", "", act);
        let Err(Failure::Topic(reason)) = result else { panic!("{result:?}") };
        assert!(reason.text.contains("went on although"), "{reason}");
    }
}

/// PostgreSQL checks deferred constraints at COMMIT: a refusal there is an answer, not an outage.
#[test]
pub fn a_constraint_that_is_checked_at_commit() {
    let before = "CREATE TABLE parent (id bigint PRIMARY KEY); \
                  CREATE TABLE child (id bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";
    let result = check("handler_deferred", before, |transaction, _| {
        transaction.execute("INSERT INTO child VALUES (7)", &[])?;
        Ok(())
    });
    let Err(Failure::Record(None, reason)) = result else { panic!("{result:?}") };
    assert_eq!(reason.sqlstate.as_deref(), Some("23503"));
    assert!(!reason.text.contains("(7)"), "a value is shown: {reason}");
}

#[test]
pub fn failures_are_called_by_their_class() {
    let class = |name, act: Act| match check(name, "", act) {
        Err(Failure::Transient(_)) => "transient",
        Err(Failure::LockWait(_)) => "lock wait",
        Err(Failure::TooLong(_)) => "too long",
        Err(Failure::Topic(_)) => "topic",
        Err(Failure::Outage(_)) => "outage",
        other => panic!("{other:?}"),
    };
    assert_eq!(class("class_40001", |t, _| raise(t, "40001")), "transient");
    assert_eq!(class("class_55P03", |t, _| raise(t, "55P03")), "lock wait");
    assert_eq!(class("class_40003", |t, _| raise(t, "40003")), "outage");
    assert_eq!(class("class_42P01", |t, _| Ok(t.batch_execute("SELECT 1 FROM no_such_table")?)), "topic");
    assert_eq!(
        class("class_57014", |t, _| Ok(t.batch_execute("SET LOCAL statement_timeout = 20; SELECT pg_sleep(30)")?)),
        "too long"
    );
    assert_eq!(
        class("class_57P01", |t, _| Ok(t.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())")?)),
        "outage"
    );
}

fn raise(transaction: &mut Transaction<'_>, code: &str) -> Result<(), HandlerError> {
    Ok(transaction.batch_execute(&format!("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"))?)
}

/// Without fences a replay happens again: that is what was asked for.
#[test]
pub fn at_least_once_leaves_the_fences_out() {
    let world = World::with("handler_alo", |config| config.topics[0].delivery = Delivery::AtLeastOnce);
    world.located();
    let mut writer = world.writer_of("w0", Arc::new(|| Box::new(Acting(|_, _| Ok(())))));
    for _ in 0..2 {
        assert!(matches!(write(&mut writer, 1, &[(0, 0, &[0])]), Ok(Written::Applied(_))));
    }
    assert_eq!(world.applied(), [0, 0]);
    assert_eq!(world.control().locate(TOPIC, &crate::statements::identity(), &[0]), Ok(vec![None]));
}
