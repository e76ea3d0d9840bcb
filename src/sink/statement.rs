//! The statements that write a group of rows: one parameter per column, an array with a value per row. Identifiers are
//! quoted, values are always parameters. None of them contains another data-modifying statement, so that each can be a
//! member of a WITH.

use std::fmt::Write;

use crate::sink::fold::Op;
use crate::sink::plan::{Mask, TablePlan};

/// What a statement's text depends on, for one plan: the key of whoever keeps prepared statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub op: Op,
    pub mask: Mask,
}

/// The statement, its parameters numbered from `$first`. Every row only if `condition` holds.
pub fn sql(plan: &TablePlan, shape: Shape, first: usize, condition: Option<&str>) -> String {
    let statement = Statement { plan, mask: shape.mask, source: source(plan, shape.mask, first, condition) };
    match shape.op {
        Op::Insert => statement.insert(),
        Op::Upsert => statement.upsert(),
        Op::Update => statement.update(),
        Op::Delete => {
            format!("DELETE FROM {} AS dst USING {} WHERE {}", plan.table, statement.source, statement.same_key("dst"))
        }
    }
}

struct Statement<'p> {
    plan: &'p TablePlan,
    mask: Mask,
    source: String,
}

/// Which of some rows, named by their keys (parameters from $1), are there and cannot be locked: their numbers, from 1, and the
/// transaction that has them (of several that share a row it is a number for all of them). The others are locked until the transaction ends, as strongly as a delete needs where `deletes` says so.
pub fn probe(plan: &TablePlan, deletes: bool) -> String {
    let Unnested { values, parameters, names } = Unnested::new(plan, plan.pk_mask, 1);
    let statement = Statement { plan, mask: plan.pk_mask, source: String::new() };
    let (table, same) = (&plan.table, statement.same_key("dst"));
    let strength = if deletes { "FOR UPDATE" } else { "FOR NO KEY UPDATE" };
    format!(
        "WITH src AS MATERIALIZED (SELECT {values}, u.n FROM unnest({parameters}) WITH ORDINALITY AS u({names}, n)), \
         ours AS MATERIALIZED (SELECT src.n FROM src CROSS JOIN LATERAL \
         (SELECT 1 FROM {table} AS dst WHERE {same} LIMIT 1 {strength} SKIP LOCKED) AS l) \
         SELECT src.n, held.by FROM src CROSS JOIN LATERAL \
         (SELECT dst.xmax::text AS by FROM {table} AS dst WHERE {same} LIMIT 1) AS held \
         WHERE NOT EXISTS (SELECT 1 FROM ours WHERE ours.n = src.n)"
    )
}

/// The rows, typed: `(SELECT …) AS src`.
fn source(plan: &TablePlan, mask: Mask, first: usize, condition: Option<&str>) -> String {
    let Unnested { values, parameters, names } = Unnested::new(plan, mask, first);
    let mut sql = format!("(SELECT {values} FROM unnest({parameters}) AS u({names})");
    if let Some(condition) = condition {
        let _ = write!(sql, " WHERE {condition}");
    }
    sql.push_str(") AS src");
    sql
}

/// Arrays as rows: what is selected, from which parameters, under which names.
struct Unnested {
    values: String,
    parameters: String,
    names: String,
}

impl Unnested {
    fn new(plan: &TablePlan, mask: Mask, first: usize) -> Unnested {
        let columns = || mask.iter().map(|index| (index, &plan.columns[index]));
        let values = list(columns().map(|(index, column)| match &column.cast {
            Some(cast) => format!("u.c{index}::{cast} AS c{index}"),
            None => format!("u.c{index}"),
        }));
        // Without a schema, unnest: only so does PostgreSQL take several arrays at once.
        let parameters = list(columns().enumerate().map(|(place, (_, column))| {
            let element = column.carrier.name().trim_start_matches('_');
            format!("${}::pg_catalog.{element}[]", first + place)
        }));
        let names = list(columns().map(|(index, _)| format!("c{index}")));
        Unnested { values, parameters, names }
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

impl Statement<'_> {
    fn insert(&self) -> String {
        let columns = list(self.mask.iter().map(|index| self.plan.columns[index].quoted.clone()));
        let values = list(self.mask.iter().map(|index| format!("src.c{index}")));
        format!("INSERT INTO {} AS dst ({columns}) SELECT {values} FROM {}", self.plan.table, self.source)
    }

    fn upsert(&self) -> String {
        let plan = self.plan;
        // PostgreSQL checks NOT NULL before it looks for a conflict. A partial write to a row that is there would be refused
        // for columns that it leaves alone: they are shown as they are. Where there is no row they stay null, and it is refused.
        // (Where somebody else deletes the row while the statement runs, it comes back with what it last showed.)
        let kept = plan.required.without(&self.mask);
        let written = self.mask.union(&kept);
        let columns = list(written.iter().map(|index| plan.columns[index].quoted.clone()));
        let values = list(written.iter().map(|index| {
            let from = if kept.contains(index) { "old" } else { "src" };
            format!("{from}.c{index}")
        }));
        let mut sql = format!("INSERT INTO {} AS dst ({columns}) SELECT {values} FROM {}", plan.table, self.source);
        if !kept.is_empty() {
            let shown = list(kept.iter().map(|index| format!("was.{} AS c{index}", plan.columns[index].quoted)));
            let same = self.same_key("was");
            // LIMIT keeps the planner from joining with the whole table.
            let _ = write!(
                sql,
                " LEFT JOIN LATERAL (SELECT {shown} FROM {} AS was WHERE {same} LIMIT 1) AS old ON true",
                plan.table
            );
        }
        let key = list(plan.pk_columns().iter().map(|column| column.quoted.clone()));
        let _ = write!(sql, " ON CONFLICT ({key}) ");
        let changed = self.mask.without(&plan.pk_mask);
        if changed.is_empty() {
            sql.push_str("DO NOTHING");
            return sql;
        }
        let new = |index: usize| format!("EXCLUDED.{}", plan.columns[index].quoted);
        let _ = write!(sql, "DO UPDATE SET {}", self.assignments(changed, new));
        if let Some(conditions) = self.conditions(changed, new) {
            let _ = write!(sql, " WHERE {conditions}");
        }
        sql
    }

    fn update(&self) -> String {
        let changed = self.mask.without(&self.plan.pk_mask);
        let new = |index: usize| format!("src.c{index}");
        let mut sql = format!(
            "UPDATE {} AS dst SET {} FROM {} WHERE {}",
            self.plan.table,
            self.assignments(changed, new),
            self.source,
            self.same_key("dst")
        );
        if let Some(conditions) = self.conditions(changed, new) {
            let _ = write!(sql, " AND {conditions}");
        }
        sql
    }

    fn assignments(&self, changed: Mask, new: impl Fn(usize) -> String) -> String {
        list(changed.iter().map(|index| format!("{} = {}", self.plan.columns[index].quoted, new(index))))
    }

    fn same_key(&self, table: &str) -> String {
        let same = |(index, column): (usize, &crate::sink::plan::PlanColumn)| {
            format!("{table}.{} = src.c{index}", column.quoted)
        };
        self.plan.pk_columns().iter().enumerate().map(same).collect::<Vec<_>>().join(" AND ")
    }

    /// Which rows are worth writing: newer ones, changed ones.
    fn conditions(&self, changed: Mask, new: impl Fn(usize) -> String) -> Option<String> {
        let plan = self.plan;
        let guard = plan.guard.filter(|guard| changed.contains(*guard)).map(|guard| {
            let name = &plan.columns[guard].quoted;
            format!("(dst.{name} IS NULL OR dst.{name} < {})", new(guard))
        });
        let differs = plan.skip_unchanged.then(|| {
            // json has no equality of its own.
            let text = |index: usize| if plan.columns[index].has_no_equality() { "::text" } else { "" };
            let old = list(changed.iter().map(|index| format!("dst.{}{}", plan.columns[index].quoted, text(index))));
            let new = list(changed.iter().map(|index| format!("{}{}", new(index), text(index))));
            format!("ROW({old}) IS DISTINCT FROM ROW({new})")
        });
        match (guard, differs) {
            (Some(guard), Some(differs)) => Some(format!("{guard} AND {differs}")),
            (guard, differs) => guard.or(differs),
        }
    }
}
