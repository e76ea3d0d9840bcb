//! What is asked, for PostgreSQL 12 to 18. Ages are in milliseconds.

use postgres::types::Type;

use crate::sink::fence::Sql;

/// $1 what our application names begin with; $2 the server's processes that serve us.
pub(super) const BY_PID: Sql = Sql {
    text: "\
SELECT pid, substr(application_name, length($1) + 1), state, wait_event_type, wait_event, \
(extract(epoch FROM clock_timestamp() - state_change) * 1000)::bigint, \
(extract(epoch FROM clock_timestamp() - query_start) * 1000)::bigint \
FROM pg_stat_activity WHERE pid = ANY($2) AND starts_with(application_name, $1)",
    types: &[Type::TEXT, Type::INT4_ARRAY],
};

/// Likewise, where a pooler deals its connections out: one that idles has the name of whoever had it last.
pub(super) const BY_NAME: Sql = Sql {
    text: "\
SELECT pid, substr(application_name, length($1) + 1), state, wait_event_type, wait_event, \
(extract(epoch FROM clock_timestamp() - state_change) * 1000)::bigint, \
(extract(epoch FROM clock_timestamp() - query_start) * 1000)::bigint \
FROM pg_stat_activity WHERE starts_with(application_name, $1) AND datname = current_database() \
AND state <> 'idle' AND pid <> pg_backend_pid()",
    types: &[Type::TEXT],
};

/// What $1 wait for (not granted), and the row that each is first in line for (a tuple that is granted, while the wait is for a
/// transaction); tables that they write; and who has the transactions $2.
pub(super) const LOCKS: Sql = Sql {
    text: "\
SELECT l.pid, l.locktype, (SELECT concat_ws('.', nullif(n.nspname, 'public'), c.relname) \
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = l.relation AND c.relkind IN ('r', 'p') \
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())), l.granted, l.transactionid::text \
FROM pg_locks AS l \
WHERE l.pid = ANY($1) AND (NOT l.granted OR l.locktype = 'tuple' OR l.locktype = 'relation' AND l.mode = 'RowExclusiveLock') \
OR l.locktype = 'transactionid' AND l.granted AND l.transactionid::text = ANY($2)",
    types: &[Type::INT4_ARRAY, Type::TEXT_ARRAY],
};

/// Of numbers that stand for several transactions: who has these. A number that stands for none would be an error: OFFSET keeps those
/// from being asked.
pub(super) const MEMBERS: Sql = Sql {
    text: "\
SELECT DISTINCT several.number, l.pid FROM (\
SELECT u.number, u.number::xid AS id FROM unnest($1) AS u(number) \
WHERE mxid_age(u.number::xid) > 0 AND mxid_age(u.number::xid) <= (SELECT max(mxid_age(datminmxid)) FROM pg_database) OFFSET 0\
) AS several CROSS JOIN LATERAL pg_get_multixact_members(several.id) AS m \
JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = m.xid WHERE l.pid IS NOT NULL",
    types: &[Type::TEXT_ARRAY],
};

pub(super) const BLOCKING: Sql = Sql {
    text: "\
SELECT DISTINCT w.pid, b.pid FROM unnest($1) AS w(pid) CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid)",
    types: &[Type::INT4_ARRAY],
};

/// Sessions $1, and their transactions; $2 as above. The first word of a query counts only if it is one of SQL's commands: what does
/// not parse may begin with anything.
pub(super) const SESSIONS: Sql = Sql {
    text: r"
SELECT a.pid, l.virtualtransaction,
coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend')), a.usename::text, a.state,
(extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint,
(extract(epoch FROM clock_timestamp() - a.query_start) * 1000)::bigint,
CASE WHEN c.word = ANY(string_to_array('ABORT ALTER ANALYZE AUTOVACUUM BEGIN CALL CHECKPOINT CLOSE CLUSTER COMMENT COMMIT COPY CREATE DEALLOCATE DECLARE DELETE DISCARD DO DROP END EXECUTE EXPLAIN FETCH GRANT IMPORT INSERT LISTEN LOAD LOCK MERGE MOVE NOTIFY PREPARE REASSIGN REFRESH REINDEX RELEASE RESET REVOKE ROLLBACK SAVEPOINT SECURITY SELECT SET SHOW START TABLE TRUNCATE UNLISTEN UPDATE VACUUM VALUES WITH', ' ')) THEN c.word END,
coalesce(starts_with(a.application_name, $2), false)
FROM pg_stat_activity AS a
CROSS JOIN LATERAL (SELECT substring(upper(left(regexp_replace(left(a.query, 4096), '^(\s|\(|;|--[^\n]*\n|/\*([^*]|\*+[^*/])*\*+/)*', ''), 20)) FROM '^[A-Z]+') AS word) AS c
LEFT JOIN (SELECT pid, virtualtransaction FROM pg_locks WHERE locktype = 'virtualxid' AND granted AND virtualxid = virtualtransaction) AS l
ON l.pid = a.pid
WHERE a.pid = ANY($1)",
    types: &[Type::INT4_ARRAY, Type::TEXT],
};

/// Where the log ends, the checkpoints, whether this role sees other users' sessions, whether this is a replica, and the role.
pub(super) const SERVER_12: Sql = Sql {
    text: "\
SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint END, \
checkpoints_timed::bigint, checkpoints_req::bigint, pg_has_role('pg_read_all_stats', 'USAGE'), pg_is_in_recovery(), \
quote_ident(current_user) FROM pg_stat_bgwriter",
    types: &[],
};

/// Since PostgreSQL 17 checkpoints are counted elsewhere.
pub(super) const SERVER_17: Sql = Sql {
    text: "\
SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint END, \
num_timed::bigint, num_requested::bigint, pg_has_role('pg_read_all_stats', 'USAGE'), pg_is_in_recovery(), \
quote_ident(current_user) FROM pg_stat_checkpointer",
    types: &[],
};

/// Tables $1, each with its partitions together.
pub(super) const TABLES: Sql = Sql {
    text: "\
SELECT t.name, coalesce(sum(s.n_tup_upd), 0)::bigint, coalesce(sum(s.n_tup_hot_upd), 0)::bigint, \
coalesce(sum(s.n_live_tup), 0)::bigint, coalesce(sum(s.n_dead_tup), 0)::bigint, \
(extract(epoch FROM max(greatest(s.last_vacuum, s.last_autovacuum))) * 1000)::bigint \
FROM (SELECT name, to_regclass(name)::oid AS oid FROM unnest($1) AS u(name)) AS t \
JOIN pg_stat_user_tables AS s ON s.relid = t.oid OR s.relid IN (SELECT p.relid FROM pg_partition_tree(t.oid) AS p) \
GROUP BY t.name",
    types: &[Type::TEXT_ARRAY],
};
