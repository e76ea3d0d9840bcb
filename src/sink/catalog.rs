//! What PostgreSQL's catalog says of a table: columns, types, unique keys, privileges. Reads only.

use std::collections::HashMap;

use postgres::types::Type;
use postgres::{Client, GenericClient, Row};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::sink::encode::Kind;

/// A table as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    pub oid: u32,
    pub schema: String,
    pub table: String,
    /// pg_class.relkind: `r` table, `p` partitioned table, `v` view, …
    pub relkind: char,
    pub columns: Vec<Column>,
    /// Columns of each unique index that ON CONFLICT can use: complete, valid, not deferrable, without expressions.
    pub unique: Vec<Vec<String>>,
    /// Columns of the primary key; none without one.
    pub primary: Vec<String>,
    /// Whether triggers of the user's may change a row before it is checked.
    pub has_before_triggers: bool,
    pub may_select: bool,
    pub may_insert: bool,
    pub may_update: bool,
    pub may_delete: bool,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// The type as people write it: `numeric(10,2)`, `text[]`.
    pub type_name: String,
    /// What the statement casts to: the type under the domains, qualified and quoted, without its length.
    pub cast: String,
    /// None for a type that forebay does not write.
    pub kind: Option<Kind>,
    /// Whether equal keys always have equal bytes after encoding: not with a length that rounds, not under every collation.
    pub exact: bool,
    pub not_null: bool,
    pub has_default: bool,
    /// Computed from other columns.
    pub generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: PostgreSQL numbers its rows itself.
    pub identity_always: bool,
}

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Database(#[from] postgres::Error),
    #[error("table {0}: not found")]
    NotFound(String),
}

const TABLE: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relkind::text AS relkind,
       has_any_column_privilege(c.oid, 'SELECT') AS may_select, has_any_column_privilege(c.oid, 'INSERT') AS may_insert,
       has_any_column_privilege(c.oid, 'UPDATE') AS may_update, has_table_privilege(c.oid, 'DELETE') AS may_delete,
       -- Of pg_trigger.tgtype: 1 per row, 2 before.
       EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgtype & 3 = 3) AS triggers
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass($1)::oid";

const COLUMNS: &str = "\
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name, a.atttypid, a.atttypmod, a.attnotnull,
       a.atthasdef AND a.attgenerated = '' OR a.attidentity <> '' AS has_default,
       a.attgenerated <> '' AS generated, a.attidentity = 'a' AS identity_always,
       coalesce(l.collisdeterministic, true) AS deterministic
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const TYPES: &str = "\
WITH RECURSIVE need(oid) AS (
    SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
  UNION
    SELECT x.oid FROM need JOIN pg_catalog.pg_type t ON t.oid = need.oid
    CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) x(oid) WHERE x.oid <> 0)
SELECT t.oid, n.nspname, t.typname, t.typtype::text AS typtype, t.typcategory::text AS typcategory, t.typbasetype,
       t.typtypmod, t.typelem, t.typnotnull, t.typdefault IS NOT NULL AS has_default,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) AS qualified,
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels
FROM need JOIN pg_catalog.pg_type t ON t.oid = need.oid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace";

const UNIQUE: &str = "\
SELECT i.indisprimary,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indexrelid";

impl Catalog {
    /// Reads the table that `table` names, by the connection's search_path where no schema is given.
    pub fn read(client: &mut Client, table: &config::Table) -> Result<Catalog, CatalogError> {
        // One snapshot, or a table altered meanwhile would be seen half.
        let mut transaction = client
            .build_transaction()
            .isolation_level(postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()?;
        let catalog = read(&mut transaction, table)?;
        transaction.commit()?;
        Ok(catalog)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether ON CONFLICT can find a row by exactly these columns.
    pub fn is_unique_by(&self, columns: &[String]) -> bool {
        self.unique.iter().any(|key| key.len() == columns.len() && columns.iter().all(|name| key.contains(name)))
    }
}

/// An identifier as SQL takes it, whatever it contains.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A table as SQL takes it.
pub fn table_name(table: &config::Table) -> String {
    match &table.schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(&table.name)),
        None => quoted(&table.name),
    }
}

fn read(client: &mut impl GenericClient, table: &config::Table) -> Result<Catalog, CatalogError> {
    let name = table_name(table);
    let found = client.query_typed_opt(TABLE, &[(&name, Type::TEXT)])?.ok_or(CatalogError::NotFound(name))?;
    let oid: u32 = found.get("oid");
    let types: HashMap<u32, TypeRow> = client
        .query_typed(TYPES, &[(&oid, Type::OID)])?
        .iter()
        .map(|row| (row.get("oid"), TypeRow::new(row)))
        .collect();
    let columns = client.query_typed(COLUMNS, &[(&oid, Type::OID)])?.iter().map(|row| column(row, &types)).collect();
    let keys: Vec<(bool, Vec<String>)> = client
        .query_typed(UNIQUE, &[(&oid, Type::OID)])?
        .iter()
        .map(|row| (row.get("indisprimary"), row.get("columns")))
        .collect();
    Ok(Catalog {
        oid,
        schema: found.get("nspname"),
        table: found.get("relname"),
        relkind: found.get::<_, String>("relkind").chars().next().unwrap_or('?'),
        columns,
        primary: keys.iter().find(|(primary, _)| *primary).map(|(_, key)| key.clone()).unwrap_or_default(),
        unique: keys.into_iter().map(|(_, key)| key).collect(),
        has_before_triggers: found.get("triggers"),
        may_select: found.get("may_select"),
        may_insert: found.get("may_insert"),
        may_update: found.get("may_update"),
        may_delete: found.get("may_delete"),
    })
}

struct TypeRow {
    schema: String,
    name: String,
    typtype: String,
    category: String,
    base: u32,
    typmod: i32,
    element: u32,
    not_null: bool,
    has_default: bool,
    qualified: String,
    labels: Vec<String>,
}

impl TypeRow {
    fn new(row: &Row) -> TypeRow {
        TypeRow {
            schema: row.get("nspname"),
            name: row.get("typname"),
            typtype: row.get("typtype"),
            category: row.get("typcategory"),
            base: row.get("typbasetype"),
            typmod: row.get("typtypmod"),
            element: row.get("typelem"),
            not_null: row.get("typnotnull"),
            has_default: row.get("has_default"),
            qualified: row.get("qualified"),
            labels: row.get("labels"),
        }
    }
}

/// What lies under a type's domains.
struct Base<'a> {
    type_row: &'a TypeRow,
    typmod: i32,
    not_null: bool,
    has_default: bool,
}

fn base(types: &HashMap<u32, TypeRow>, oid: u32, typmod: i32) -> Option<Base<'_>> {
    let mut found = Base { type_row: types.get(&oid)?, typmod, not_null: false, has_default: false };
    while found.type_row.typtype == "d" {
        found.not_null |= found.type_row.not_null;
        found.has_default |= found.type_row.has_default;
        found.typmod = found.type_row.typmod;
        found.type_row = types.get(&found.type_row.base)?;
    }
    Some(found)
}

fn column(row: &Row, types: &HashMap<u32, TypeRow>) -> Column {
    let base = base(types, row.get("atttypid"), row.get("atttypmod"));
    let kind = base.as_ref().and_then(|base| kind(types, base));
    let deterministic: bool = row.get("deterministic");
    Column {
        name: row.get("attname"),
        type_name: row.get("type_name"),
        cast: base.as_ref().map(|base| base.type_row.qualified.clone()).unwrap_or_default(),
        exact: deterministic && base.as_ref().is_some_and(|base| is_exact(base, kind.as_ref())),
        kind,
        not_null: row.get::<_, bool>("attnotnull") || base.as_ref().is_some_and(|base| base.not_null),
        has_default: row.get::<_, bool>("has_default") || base.as_ref().is_some_and(|base| base.has_default),
        generated: row.get("generated"),
        identity_always: row.get("identity_always"),
    }
}

fn is_exact(base: &Base<'_>, kind: Option<&Kind>) -> bool {
    match kind {
        // A key of fewer digits than it was given is rounded, and then two keys may have become one.
        Some(Kind::Numeric { .. } | Kind::TimestampTz | Kind::Timestamp | Kind::Time) => base.typmod < 0,
        // `char(n)` ignores blanks at the end.
        Some(Kind::Text { .. }) => matches!(base.type_row.name.as_str(), "text" | "varchar"),
        Some(kind) => kind.has_exact_key(),
        None => false,
    }
}

/// Of `numeric(p, s)`, as src/backend/utils/adt/numeric.c packs them: behind four bytes of header, with a signed scale of 11 bits.
fn precision_and_scale(typmod: i32) -> (i64, i64) {
    let packed = i64::from(typmod) - 4;
    (packed >> 16 & 0xffff, ((packed & 0x7ff) ^ 0x400) - 0x400)
}

fn kind(types: &HashMap<u32, TypeRow>, base: &Base<'_>) -> Option<Kind> {
    let row = base.type_row;
    if row.category == "A" && row.element != 0 {
        // The column's length belongs to the elements.
        let element = self::base(types, row.element, base.typmod)?;
        return kind(types, &element).map(|element| Kind::Array(Box::new(element)));
    }
    if row.typtype == "e" {
        return Some(Kind::Enum(row.labels.clone()));
    }
    // An extension's type may be in any schema.
    if row.name == "citext" {
        return Some(Kind::Opaque);
    }
    if row.schema != "pg_catalog" {
        return None;
    }
    Some(match row.name.as_str() {
        "bool" => Kind::Bool,
        "int2" => Kind::Int2,
        "int4" => Kind::Int4,
        "int8" => Kind::Int8,
        "float4" => Kind::Float4,
        "float8" => Kind::Float8,
        "numeric" => Kind::Numeric { rounds: (base.typmod >= 0).then(|| precision_and_scale(base.typmod)) },
        "text" => Kind::Text { chars_max: None },
        "name" => Kind::Name,
        // The length as pg_attribute keeps it: with four bytes of header.
        "varchar" | "bpchar" => Kind::Text { chars_max: usize::try_from(base.typmod - 4).ok() },
        "uuid" => Kind::Uuid,
        "timestamptz" => Kind::TimestampTz,
        "timestamp" => Kind::Timestamp,
        "date" => Kind::Date,
        "time" => Kind::Time,
        "json" => Kind::Json,
        "jsonb" => Kind::Jsonb,
        "bytea" => Kind::Bytea,
        "interval" | "timetz" | "macaddr" | "macaddr8" => Kind::Opaque,
        "inet" => Kind::Inet,
        "cidr" => Kind::Cidr,
        _ => return None,
    })
}
