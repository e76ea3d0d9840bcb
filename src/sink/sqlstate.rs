//! What a failed statement means, decided in one place and by SQLSTATE: the class of each published code, and of the
//! errors that rust-postgres raises without one. Never by the words of a message: those are translated and change.
//!
//! A code that nobody knows stops the topic: a guess in either direction could throw good records away or retry a bad one
//! for ever. What is shown to people never holds a value of a record: DETAIL and parameters are left out, and so is what
//! PostgreSQL quotes in messages about malformed data, in whatever language it speaks. What a trigger or a function says in its
//! own words may hold anything: that stays in the database, with the record ([`Reason::theirs`]).

use std::error::Error as _;

use postgres::error::{DbError, Error};

use crate::sink::{Failure, Reason};

/// A foreign key's parent is not there.
pub const MISSING_PARENT: &str = "23503";

/// What is to be done about an error; see [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Outage,
    Transient,
    LockWait,
    TooLong,
    Record,
    Topic,
    Shard,
}

impl Class {
    fn failure(self, reason: Reason) -> Failure {
        match self {
            Class::Outage => Failure::Outage(reason),
            Class::Transient => Failure::Transient(reason),
            Class::LockWait => Failure::LockWait(reason),
            Class::TooLong => Failure::TooLong(reason),
            Class::Record => Failure::Record(None, reason),
            Class::Topic => Failure::Topic(reason),
            Class::Shard => Failure::Shard(reason),
        }
    }
}

/// The class of a SQLSTATE. Single codes first, then a default for each class of PostgreSQL's appendix A.
pub fn class(code: &str) -> Class {
    single(code).unwrap_or_else(|| of_class(code.get(..2).unwrap_or_default()))
}

/// Codes that mean something else than the rest of their class.
fn single(code: &str) -> Option<Class> {
    Some(match code {
        // Whether the statement happened is unknown: exactly what a broken connection means.
        "40003" => Class::Outage,
        "40002" => Class::Record,
        // A standby, or a primary that was demoted under us.
        "25006" => Class::Outage,
        "25P03" | "25P04" => Class::TooLong,
        // A pooler that does not carry prepared statements from one server connection to the next.
        "42P05" => Class::Shard,
        "55P03" => Class::LockWait,
        "57014" => Class::TooLong,
        // A foreign server that has no memory or cannot be reached is as good as down.
        "HV001" | "HV00N" => Class::Outage,
        _ => return None,
    })
}

fn of_class(class: &str) -> Class {
    match class {
        // Connection exception; insufficient resources; operator intervention (shutdown, crash, starting up, database
        // dropped: the next connection attempt says which); system error (disk, files).
        "08" | "53" | "57" | "58" => Class::Outage,
        // Transaction rollback; snapshot too old.
        "40" | "72" => Class::Transient,
        // Triggered action; XQuery; case not found; cardinality; data; integrity constraint; triggered data change;
        // external routine (an exception of a trigger in another language); check option; program limit; PL/pgSQL.
        "09" | "10" | "20" | "21" | "22" | "23" | "27" | "38" | "44" | "54" | "P0" => Class::Record,
        // Prepared statement unknown (as 42P05); authorization; database; configuration file.
        "26" | "28" | "3D" | "F0" => Class::Shard,
        // Everything else that PostgreSQL publishes is about statements, objects, privileges or code: 00–03, 0A, 0B, 0F,
        // 0L, 0P, 0Z, 24, 25, 2B, 2D, 2F, 34, 39, 3B, 3F, 42, 55, HV, XX. So is what an extension or a trigger invents.
        _ => Class::Topic,
    }
}

/// What a failed statement means.
pub fn failure(error: &Error) -> Failure {
    let class = match error.as_db_error() {
        Some(db) => class(db.code().code()),
        None => class_without_code(error),
    };
    class.failure(reason(error))
}

/// What a failed connection attempt means: what no time will heal is the shard's fault, not a topic's or a record's.
pub fn connect_failure(error: &Error) -> Failure {
    // pgbouncer answers an unknown startup parameter as a protocol violation, whose class is an outage.
    let refused_startup = error.as_db_error().is_some_and(|db| db.message().contains("startup parameter"));
    match failure(error) {
        Failure::Outage(mut reason) if refused_startup => {
            reason.text.push_str(": a pooler, which is declared by pooler = \"transaction\"");
            Failure::Shard(reason)
        }
        Failure::Outage(reason) => Failure::Outage(reason),
        Failure::Transient(reason) | Failure::LockWait(reason) => Failure::Outage(reason),
        Failure::LockedOut(reason) | Failure::NoRoom(reason) | Failure::TooLong(reason) => Failure::Outage(reason),
        Failure::Record(_, reason) | Failure::Topic(reason) | Failure::Shard(reason) => Failure::Shard(reason),
    }
}

/// rust-postgres keeps the kind of an error to itself; its fixed sentences are the only way to tell them apart.
fn class_without_code(error: &Error) -> Class {
    let text = error.to_string();
    let starts = |prefix: &str| text.starts_with(prefix);
    if starts("error serializing parameter") {
        // A wrong type is the statement's fault, not a value's.
        let wrong_type = error.source().is_some_and(|s| s.is::<postgres::types::WrongType>());
        if wrong_type { Class::Topic } else { Class::Record }
    } else if starts("error encoding message") {
        // A message beyond the protocol's 2^31 bytes; nothing was sent. A smaller batch may fit.
        Class::TooLong
    } else if starts("error deserializing column")
        || starts("invalid column")
        || starts("query returned an unexpected number")
        || (starts("expected ") && text.contains(" parameters but got "))
    {
        Class::Topic
    } else if starts("authentication error") || starts("invalid configuration") || starts("invalid connection string") {
        Class::Shard
    } else if starts("error performing TLS handshake") {
        // A socket that broke heals; a certificate that does not verify does not.
        if caused_by_io(error) { Class::Outage } else { Class::Shard }
    } else {
        // Closed, I/O, connect, time-out, an answer that cannot be read: the connection is gone, the outcome unknown.
        Class::Outage
    }
}

fn caused_by_io(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether PostgreSQL says that a prepared statement no longer fits its tables, or that it never heard of it: preparing it
/// anew may be all that is needed. The source routine is compared because the message is translated.
pub fn is_stale_statement(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| match db.code().code() {
        "0A000" => db.routine() == Some("RevalidateCachedQuery"),
        "26000" => true,
        _ => false,
    })
}

/// Whether a statement failed on something that a changed table explains: class 42, or a statement that went stale.
pub fn may_be_altered_table(error: &Error) -> bool {
    let class_42 = error.code().is_some_and(|c| c.code().starts_with("42") && c.code() != "42P05");
    let wrong_type = error.source().is_some_and(|s| s.is::<postgres::types::WrongType>());
    class_42 || wrong_type || is_stale_statement(error)
}

/// The error in words for people; see the module's text for what is left out.
pub fn reason(error: &Error) -> Reason {
    if let Some(db) = error.as_db_error() {
        let said = Said {
            code: db.code().code(),
            message: db.message(),
            file: db.file(),
            routine: db.routine(),
            context: db.where_(),
        };
        let theirs = said.is_theirs().then(|| said.message.to_owned());
        return Reason { sqlstate: Some(said.code.to_owned()), text: with_names(said.text(THEIR_REFUSAL), db), theirs };
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    Reason::new(text)
}

const THEIR_REFUSAL: &str = "refused by a trigger or function, in its own words";

/// A notice, without values of records like everything else.
pub fn notice(notice: &DbError) -> String {
    let said = Said {
        code: notice.code().code(),
        message: notice.message(),
        file: notice.file(),
        routine: notice.routine(),
        context: notice.where_(),
    };
    said.text("a notice of a trigger or function")
}

/// Most messages name them already.
fn with_names(mut text: String, db: &DbError) -> String {
    let names = [("table", db.table()), ("column", db.column()), ("constraint", db.constraint())];
    for (what, name) in names {
        if let Some(name) = name
            && !text.contains(&format!("\"{name}\""))
        {
            text.push_str(&format!(", {what} \"{name}\""));
        }
    }
    text
}

/// A message of PostgreSQL, and where in its source it comes from.
#[derive(Debug, Clone, Copy)]
struct Said<'a> {
    code: &'a str,
    message: &'a str,
    file: Option<&'a str>,
    routine: Option<&'a str>,
    context: Option<&'a str>,
}

impl Said<'_> {
    /// Whether somebody else's words are in it: those of RAISE and ASSERT of PL/pgSQL, or anything that another procedural language
    /// reports (`plpy_elog.c`, `plperl.c`, …; PostgreSQL's planner has files of similar names).
    fn is_theirs(&self) -> bool {
        let language = |file: &str| file.starts_with("pl") && !file.starts_with("pl_") && !file.starts_with("plan");
        match self.routine {
            Some("exec_stmt_raise" | "exec_stmt_assert") => true,
            Some(_) => self.file.is_some_and(language),
            // Something that is not quite PostgreSQL and does not say.
            None => matches!(self.code.get(..2), Some("P0" | "38")),
        }
    }

    /// `theirs` stands in for somebody else's words.
    fn text(&self, theirs: &str) -> String {
        if self.is_theirs() {
            // The first line of the context is the innermost function: its name, its arguments' types, a line number.
            let place = self.context.and_then(|c| c.lines().next()).filter(|line| line.starts_with("PL/pgSQL"));
            let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
            return format!("{theirs}{place}");
        }
        match quotes_names_only(self.code) {
            true => self.message.to_owned(),
            false => without_bytes(&without_quoted(self.message)),
        }
    }
}

/// Whether messages under this code quote names of tables, constraints, roles and the like, and never a datum.
fn quotes_names_only(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    let classes = [
        "08", "0A", "23", "25", "26", "28", "2B", "34", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58",
        "F0", "HV",
    ];
    classes.contains(&class) || matches!(code, "XX001" | "XX002")
}

/// What PostgreSQL's translations put around what they quote.
const QUOTES: [char; 10] = ['"', '«', '»', '„', '“', '”', '‹', '›', '「', '」'];

/// Messages about malformed data (class 22) quote the datum: `invalid input syntax for type integer: "…"`. It may hold quotes itself.
fn without_quoted(message: &str) -> String {
    match (message.find(QUOTES), message.rfind(QUOTES)) {
        (Some(first), Some(last)) if first < last => {
            let behind = message[last..].chars().next().map_or(last, |quote| last + quote.len_utf8());
            format!("{}\"…\"{}", &message[..first], &message[behind..])
        }
        _ => message.to_owned(),
    }
}

/// Others show its bytes: `invalid byte sequence for encoding "UTF8": 0xff 0xfe`.
fn without_bytes(message: &str) -> String {
    match message.find("0x") {
        Some(at) => format!("{}…", &message[..at]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres::error::SqlState;

    fn check(code: &SqlState, expected: Class) {
        assert_eq!(class(code.code()), expected, "{}", code.code());
    }

    #[test]
    fn each_row_of_the_table_in_the_design() {
        check(&SqlState::LOCK_NOT_AVAILABLE, Class::LockWait);
        for code in [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED] {
            check(code, Class::Transient);
        }
        for code in [&SqlState::QUERY_CANCELED, &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT] {
            check(code, Class::TooLong);
        }
        for code in [
            &SqlState::CONNECTION_EXCEPTION,
            &SqlState::CONNECTION_DOES_NOT_EXIST,
            &SqlState::CONNECTION_FAILURE,
            &SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
            &SqlState::SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION,
            &SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            &SqlState::PROTOCOL_VIOLATION,
            &SqlState::ADMIN_SHUTDOWN,
            &SqlState::CRASH_SHUTDOWN,
            &SqlState::CANNOT_CONNECT_NOW,
            &SqlState::DATABASE_DROPPED,
            &SqlState::INSUFFICIENT_RESOURCES,
            &SqlState::DISK_FULL,
            &SqlState::OUT_OF_MEMORY,
            &SqlState::TOO_MANY_CONNECTIONS,
            &SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            &SqlState::READ_ONLY_SQL_TRANSACTION,
            &SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN,
            &SqlState::IO_ERROR,
        ] {
            check(code, Class::Outage);
        }
        for code in [
            &SqlState::CARDINALITY_VIOLATION,
            &SqlState::DATA_EXCEPTION,
            &SqlState::STRING_DATA_RIGHT_TRUNCATION,
            &SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            &SqlState::INVALID_TEXT_REPRESENTATION,
            &SqlState::UNTRANSLATABLE_CHARACTER,
            &SqlState::INTEGRITY_CONSTRAINT_VIOLATION,
            &SqlState::NOT_NULL_VIOLATION,
            &SqlState::FOREIGN_KEY_VIOLATION,
            &SqlState::UNIQUE_VIOLATION,
            &SqlState::CHECK_VIOLATION,
            &SqlState::EXCLUSION_VIOLATION,
            &SqlState::WITH_CHECK_OPTION_VIOLATION,
            &SqlState::PROGRAM_LIMIT_EXCEEDED,
            &SqlState::STATEMENT_TOO_COMPLEX,
            &SqlState::RAISE_EXCEPTION,
            &SqlState::NO_DATA_FOUND,
            &SqlState::ASSERT_FAILURE,
        ] {
            check(code, Class::Record);
        }
        for code in [
            &SqlState::SYNTAX_ERROR,
            &SqlState::INSUFFICIENT_PRIVILEGE,
            &SqlState::UNDEFINED_TABLE,
            &SqlState::UNDEFINED_COLUMN,
            &SqlState::DATATYPE_MISMATCH,
            &SqlState::INVALID_SCHEMA_NAME,
            &SqlState::FEATURE_NOT_SUPPORTED,
            &SqlState::IN_FAILED_SQL_TRANSACTION,
            &SqlState::INTERNAL_ERROR,
        ] {
            check(code, Class::Topic);
        }
        for code in [
            &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            &SqlState::INVALID_PASSWORD,
            &SqlState::INVALID_CATALOG_NAME,
            &SqlState::INVALID_SQL_STATEMENT_NAME,
            &SqlState::DUPLICATE_PSTATEMENT,
        ] {
            check(code, Class::Shard);
        }
    }

    /// Every class of PostgreSQL 17's appendix A, by its default. A class that is missing in `of_class` by mistake shows up
    /// here as `Topic` where something else is expected.
    #[test]
    fn each_published_class_has_its_default() {
        let expected: &[(Class, &[&str])] = &[
            (Class::Outage, &["08", "53", "57", "58"]),
            (Class::Transient, &["40", "72"]),
            (Class::Record, &["09", "10", "20", "21", "22", "23", "27", "38", "44", "54", "P0"]),
            (Class::Shard, &["26", "28", "3D", "F0"]),
            (
                Class::Topic,
                &[
                    "00", "01", "02", "03", "0A", "0B", "0F", "0L", "0P", "0Z", "24", "25", "2B", "2D", "2F", "34",
                    "39", "3B", "3F", "42", "55", "HV", "XX",
                ],
            ),
        ];
        assert_eq!(expected.iter().map(|(_, c)| c.len()).sum::<usize>(), 44, "classes in appendix A");
        for (class_expected, classes) in expected {
            for class_name in *classes {
                assert_eq!(class(&format!("{class_name}000")), *class_expected, "class {class_name}");
            }
        }
    }

    #[test]
    fn what_nobody_knows_stops_the_topic() {
        for code in ["", "4", "ZZ999", "é0000"] {
            assert_eq!(class(code), Class::Topic, "{code:?}");
        }
    }

    #[track_caller]
    fn check_text(said: Said<'_>, expected: &str) {
        assert_eq!(said.text(THEIR_REFUSAL), expected, "{said:?}");
    }

    fn said<'a>(code: &'a str, message: &'a str) -> Said<'a> {
        Said { code, message, file: Some("numutils.c"), routine: Some("pg_strtoint64"), context: None }
    }

    #[test]
    fn values_are_not_repeated() {
        for (message, expected) in [
            ("invalid input syntax for type integer: \"4711\"", "invalid input syntax for type integer: \"…\""),
            ("ungültige Eingabesyntax für Typ integer: »4711«", "ungültige Eingabesyntax für Typ integer: \"…\""),
            (
                "syntaxe en entrée invalide pour le type integer : « 47»11 »",
                "syntaxe en entrée invalide pour le type integer : \"…\"",
            ),
            ("value \"99\" of \"x\" is out of range", "value \"…\" is out of range"),
            ("value too long for type character varying(5)", "value too long for type character varying(5)"),
            ("invalid byte sequence for encoding \"UTF8\": 0xff 0xfe", "invalid byte sequence for encoding \"…\": …"),
            ("one \" only", "one \" only"),
        ] {
            check_text(said("22P02", message), expected);
        }
        check_text(said("ZZ001", "an extension knows \"4711\""), "an extension knows \"…\"");
    }

    #[test]
    fn names_are_repeated() {
        for (code, message) in [
            ("23505", "duplicate key value violates unique constraint \"once\""),
            ("42P01", "relation \"gone\" does not exist"),
            ("28P01", "password authentication failed for user \"app\""),
            ("XX001", "invalid page in block 3 of relation \"base/5/16385\""),
        ] {
            check_text(said(code, message), message);
        }
    }

    #[test]
    fn a_triggers_own_words_stay_in_the_database() {
        let context = "PL/pgSQL function balance(text) line 3 at RAISE\nSQL statement \"SELECT balance('4711')\"";
        let raised = Said {
            code: "23514",
            message: "the balance of 4711 is too low",
            file: Some("pl_exec.c"),
            routine: Some("exec_stmt_raise"),
            context: Some(context),
        };
        let theirs = THEIR_REFUSAL;
        check_text(raised, &format!("{theirs} (PL/pgSQL function balance(text) line 3 at RAISE)"));
        check_text(Said { routine: Some("exec_stmt_assert"), context: None, ..raised }, theirs);
        let python = Said {
            file: Some("plpy_elog.c"),
            routine: Some("PLy_elog_impl"),
            context: Some("Traceback: 4711"),
            ..raised
        };
        check_text(python, theirs);
        check_text(Said { code: "P0001", file: None, routine: None, context: None, ..raised }, theirs);
        // PL/pgSQL's own words, and the planner's.
        let own =
            Said { message: "query returned no rows", code: "P0002", routine: Some("exec_stmt_execsql"), ..raised };
        check_text(own, "query returned no rows");
        let planner =
            Said { message: "no", code: "0A000", file: Some("planner.c"), routine: Some("standard_planner"), ..raised };
        check_text(planner, "no");
    }

    #[test]
    fn errors_without_a_code() {
        let config = "host=a nonsense=1".parse::<postgres::Config>().expect_err("an unknown option");
        assert!(matches!(failure(&config), Failure::Shard(_)), "{config:?}");
        // Nothing listens on port 1.
        let Err(refused) =
            "host=127.0.0.1 port=1 user=x".parse::<postgres::Config>().expect("valid").connect(postgres::NoTls)
        else {
            panic!("somebody listens on port 1");
        };
        let Failure::Outage(reason) = connect_failure(&refused) else { panic!("{refused:?}") };
        assert!(reason.text.to_lowercase().contains("refused"), "the cause is missing: {reason}");
    }
}
