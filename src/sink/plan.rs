//! What a topic's records become in its table: decided once, from the configuration and the catalog, before the first record
//! is read. Every problem is reported, not the first.

use postgres::types::Type;

use crate::config::{self, ColumnSource, InsertMode, UnknownFields};
use crate::sink::catalog::{Catalog, CatalogError, Column, quoted};
use crate::sink::decode::{FieldTree, Slot};
use crate::sink::encode::Kind;
use crate::sink::key::KeyFormat;
use crate::sink::schema;

/// Columns of one table that records may feed; the number of bits in a [`Mask`].
pub const COLUMNS_MAX: usize = 256;

/// A set of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mask([u64; COLUMNS_MAX / 64]);

impl Mask {
    pub fn insert(&mut self, column: usize) {
        self.0[column / 64] |= 1 << (column % 64);
    }

    pub fn contains(&self, column: usize) -> bool {
        self.0[column / 64] >> (column % 64) & 1 == 1
    }

    pub fn union(&self, other: &Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    pub fn without(&self, other: &Mask) -> Mask {
        Mask(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; COLUMNS_MAX / 64]
    }

    pub fn covers(&self, other: &Mask) -> bool {
        other.without(self).is_empty()
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(word, mut bits)| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                (bits != 0).then(|| {
                    bits &= bits - 1;
                    word * 64 + bit
                })
            })
        })
    }
}

/// A column that records feed.
#[derive(Debug, Clone)]
pub struct PlanColumn {
    pub name: String,
    /// `"name"`.
    pub quoted: String,
    /// For messages.
    pub type_name: String,
    pub cast: Option<String>,
    pub kind: Kind,
    /// The array type of its parameter, and the OID of that one's elements.
    pub carrier: Type,
    pub element: u32,
    pub source: Source,
    /// A null is the record's fault.
    pub not_null: bool,
}

impl PlanColumn {
    /// json, and arrays of it, cannot be compared.
    pub fn has_no_equality(&self) -> bool {
        match &self.kind {
            Kind::Array(element) => **element == Kind::Json,
            kind => *kind == Kind::Json,
        }
    }
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Payload,
    Offset,
    Partition,
    Timestamp,
    Key,
    Header(String),
}

impl Source {
    pub fn is_payload(&self) -> bool {
        *self == Source::Payload
    }
}

/// What catalog and configuration say; shared by all workers of a shard.
#[derive(Debug)]
pub struct TablePlan {
    pub topic: String,
    /// `"schema"."table"`.
    pub table: String,
    /// Key columns first, in the order of `pk_fields`.
    pub columns: Vec<PlanColumn>,
    pub pk: usize,
    pub mode: InsertMode,
    pub deletes: bool,
    /// The payload's fields; the slot after the last column is that of the delete field.
    pub fields: FieldTree,
    pub delete_slot: Option<usize>,
    /// The fields of a tombstone's key.
    pub key_fields: FieldTree,
    pub key_format: Option<KeyFormat>,
    pub guard: Option<usize>,
    pub skip_unchanged: bool,
    pub unknown_is_error: bool,
    /// Equal keys have equal bytes: records of one key can be found and folded.
    pub exact_keys: bool,
    /// Columns that must have a value and get none by themselves.
    pub required: Mask,
    pub pk_mask: Mask,
}

impl TablePlan {
    /// Reads the catalog and decides. Every problem at once, each naming table, column, what was found and what was expected.
    pub fn read(
        client: &mut postgres::Client,
        topic: &config::Topic,
        table: &config::Table,
    ) -> Result<TablePlan, Vec<String>> {
        match Catalog::read(client, table) {
            Ok(catalog) => TablePlan::new(topic, table, &catalog),
            Err(CatalogError::Database(error)) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                Err(vec![format!("topic {:?}: the catalog cannot be read: {error}{cause}", topic.name)])
            }
            Err(error) => Err(vec![format!("topic {:?}: {error}", topic.name)]),
        }
    }

    /// Decides; reads nothing.
    pub fn new(topic: &config::Topic, table: &config::Table, catalog: &Catalog) -> Result<TablePlan, Vec<String>> {
        Builder { table, catalog, problems: Vec::new() }.build(topic)
    }

    pub fn pk_columns(&self) -> &[PlanColumn] {
        &self.columns[..self.pk]
    }

    pub fn slots(&self) -> usize {
        self.columns.len() + usize::from(self.delete_slot.is_some())
    }
}

struct Builder<'a> {
    table: &'a config::Table,
    catalog: &'a Catalog,
    problems: Vec<String>,
}

impl Builder<'_> {
    fn problem(&mut self, column: Option<&str>, found: impl AsRef<str>, expected: impl AsRef<str>) {
        let place = match column {
            Some(column) => format!("table {}.{}, column {column:?}", self.catalog.schema, self.catalog.table),
            None => format!("table {}.{}", self.catalog.schema, self.catalog.table),
        };
        self.problems.push(format!("{place}: found {}, expected {}", found.as_ref(), expected.as_ref()));
    }

    fn build(mut self, topic: &config::Topic) -> Result<TablePlan, Vec<String>> {
        let deletes = self.table.delete_enabled || self.table.delete_field.is_some();
        self.check_table(deletes);
        self.check_names();
        self.check_keys(deletes);
        let columns = self.columns();
        let guard = self.guard(&columns);
        if columns.len() > COLUMNS_MAX {
            let found = format!("{} columns that records may feed", columns.len());
            self.problem(None, found, format!("at most {COLUMNS_MAX}; give others `false` in [topic.columns]"));
        }
        let exact_keys = self.table.pk_fields.iter().all(|name| self.catalog.column(name).is_some_and(|c| c.exact));
        let key_format = self.key_format(&columns);
        if !self.problems.is_empty() {
            let topic = &topic.name;
            return Err(self.problems.into_iter().map(|problem| format!("topic {topic:?}: {problem}")).collect());
        }
        let (mut pk_mask, mut required) = (Mask::default(), Mask::default());
        for (index, column) in columns.iter().enumerate() {
            if index < self.table.pk_fields.len() {
                pk_mask.insert(index);
            }
            if self.catalog.column(&column.name).is_some_and(is_required) {
                required.insert(index);
            }
        }
        let delete_slot = self.table.delete_field.as_ref().map(|_| columns.len());
        Ok(TablePlan {
            topic: topic.name.clone(),
            table: format!("{}.{}", quoted(&self.catalog.schema), quoted(&self.catalog.table)),
            fields: self.fields(&columns),
            key_fields: self.key_fields(&columns),
            pk: self.table.pk_fields.len(),
            mode: self.table.insert_mode,
            deletes: self.table.delete_enabled,
            delete_slot,
            key_format,
            guard,
            skip_unchanged: self.table.skip_unchanged,
            unknown_is_error: self.table.unknown_fields == UnknownFields::Error,
            exact_keys,
            required,
            pk_mask,
            columns,
        })
    }

    fn check_table(&mut self, deletes: bool) {
        let catalog = self.catalog;
        if !matches!(catalog.relkind, 'r' | 'p') {
            let found = match catalog.relkind {
                'v' => "a view",
                'm' => "a materialized view",
                'f' => "a foreign table",
                _ => "something else",
            };
            self.problem(None, found, "a table");
        }
        // A role called forebay finds them first unless a schema is written.
        if catalog.schema == "forebay" && schema::TABLES.contains(&catalog.table.as_str()) {
            self.problem(None, "one of forebay's own tables", "one of yours: \"schema.table\" says which");
        }
        let writes_new = self.table.insert_mode != InsertMode::Update;
        let updates = self.table.insert_mode != InsertMode::Insert;
        for (needed, may, privilege) in [
            (updates || deletes, catalog.may_select, "SELECT"),
            (writes_new, catalog.may_insert, "INSERT"),
            (updates, catalog.may_update, "UPDATE"),
            (deletes, catalog.may_delete, "DELETE"),
        ] {
            if needed && !may {
                self.problem(None, format!("no {privilege} privilege"), format!("GRANT {privilege} to this role"));
            }
        }
    }

    /// Columns that the configuration names must exist and be writable.
    fn check_names(&mut self) {
        let table = self.table;
        let named = table.pk_fields.iter().chain(&table.guard).chain(table.columns.keys());
        for name in named {
            if self.catalog.column(name).is_none() {
                self.problem(Some(name), "no such column", "one of the table's");
            }
        }
        for (name, source) in &table.columns {
            if self.catalog.column(name).is_some_and(|c| c.generated) && *source != ColumnSource::Ignore {
                self.problem(Some(name), "a generated column", "one that can be written");
            }
        }
    }

    fn check_keys(&mut self, deletes: bool) {
        let pk = &self.table.pk_fields;
        let needed = self.table.insert_mode != InsertMode::Insert || deletes;
        if pk.is_empty() && needed {
            let primary = self.catalog.primary.join(", ");
            self.problem(None, "no pk_fields", format!("the columns that identify a row (its primary key: {primary})"));
        } else if self.table.insert_mode == InsertMode::Upsert && !self.catalog.is_unique_by(pk) {
            let keys: Vec<String> = self.catalog.unique.iter().map(|key| format!("({})", key.join(", "))).collect();
            let found = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            let expected = format!("one over exactly pk_fields ({}) for an upsert to find its row", pk.join(", "));
            self.problem(None, format!("unique keys {found}"), expected);
        }
        for name in pk {
            let Some(column) = self.catalog.column(name) else { continue };
            let writes_new = self.table.insert_mode != InsertMode::Update;
            if writes_new && (column.generated || column.identity_always) {
                self.problem(Some(name), "a key that PostgreSQL generates", "one that records bring");
            }
            if matches!(column.kind, Some(Kind::Json)) {
                self.problem(Some(name), "a key of type json", "a type with equality");
            }
        }
    }

    /// The columns that records feed, those of the key first.
    fn columns(&mut self) -> Vec<PlanColumn> {
        let (table, catalog) = (self.table, self.catalog);
        let pk = table.pk_fields.iter().filter_map(|name| catalog.column(name));
        let others = catalog.columns.iter().filter(|column| !table.pk_fields.contains(&column.name));
        let mut columns = Vec::new();
        for column in pk.chain(others) {
            let is_key = table.pk_fields.contains(&column.name);
            let source = table.columns.get(&column.name);
            let writes_new = table.insert_mode != InsertMode::Update;
            if source == Some(&ColumnSource::Ignore) {
                if writes_new && is_required(column) {
                    self.problem(Some(&column.name), "NOT NULL without a default, and never written", "a value");
                }
                continue;
            }
            if (column.generated || column.identity_always) && !is_key {
                continue;
            }
            match &column.kind {
                Some(kind) => columns.push(self.plan_column(column, kind, source)),
                None => {
                    let expected = format!(
                        "a type that forebay writes; `{} = false` in [topic.columns] leaves it alone",
                        column.name
                    );
                    self.problem(Some(&column.name), format!("type {}", column.type_name), expected);
                }
            }
        }
        columns
    }

    fn plan_column(&mut self, column: &Column, kind: &Kind, source: Option<&ColumnSource>) -> PlanColumn {
        use Kind::*;
        let (source, fits) = match source {
            Some(ColumnSource::Offset) => (Source::Offset, matches!(kind, Int2 | Int4 | Int8 | Numeric { .. })),
            Some(ColumnSource::Partition) => (Source::Partition, matches!(kind, Int2 | Int4 | Int8 | Numeric { .. })),
            Some(ColumnSource::Timestamp) => (Source::Timestamp, matches!(kind, TimestampTz | Timestamp | Int8)),
            Some(ColumnSource::Key) => (Source::Key, kind.reads_text()),
            Some(ColumnSource::Header(name)) => (Source::Header(name.clone()), kind.reads_text()),
            Some(ColumnSource::Pointer(_) | ColumnSource::Ignore) | None => (Source::Payload, true),
        };
        if !fits {
            let expected = match source {
                Source::Timestamp => "timestamptz, timestamp or int8 for @timestamp",
                Source::Key => "a type that is read from text, or bytea, for @key",
                Source::Header(_) => "a type that is read from text, or bytea, for a header",
                _ => "int8, int4, int2 or numeric for @offset and @partition",
            };
            self.problem(Some(&column.name), format!("type {}", column.type_name), expected);
        }
        // PostgreSQL assigns text to text and varchar by itself, and then refuses what is too long; every other text is cast.
        let as_it_is = kind.carrier() != Type::TEXT_ARRAY
            || matches!(column.cast.replace('"', "").as_str(), "pg_catalog.text" | "pg_catalog.varchar");
        let carrier = kind.carrier();
        PlanColumn {
            element: match carrier.kind() {
                postgres::types::Kind::Array(element) => element.oid(),
                _ => carrier.oid(),
            },
            carrier,
            name: column.name.clone(),
            quoted: quoted(&column.name),
            type_name: column.type_name.clone(),
            cast: (!as_it_is).then(|| column.cast.clone()),
            kind: kind.clone(),
            source,
            not_null: column.not_null && !self.catalog.has_before_triggers,
        }
    }

    fn guard(&mut self, columns: &[PlanColumn]) -> Option<usize> {
        let name = self.table.guard.as_ref()?;
        if self.table.insert_mode == InsertMode::Insert {
            self.problem(Some(name), "a guard", "insert_mode = \"upsert\" or \"update\" beside it");
        }
        if self.table.pk_fields.contains(name) {
            self.problem(Some(name), "a guard that is a key column", "a column that changes");
        }
        let index = columns.iter().position(|column| column.name == *name);
        match index {
            None if self.catalog.column(name).is_some() => {
                self.problem(Some(name), "a guard that no record feeds", "a column with a value");
            }
            Some(index) if matches!(columns[index].kind, Kind::Json) => {
                self.problem(Some(name), "a guard of type json", "a type with an order");
            }
            _ => {}
        }
        index
    }

    fn key_format(&mut self, columns: &[PlanColumn]) -> Option<KeyFormat> {
        let text = self.table.key_format.as_ref()?;
        let names: Vec<&str> = self.table.pk_fields.iter().map(String::as_str).collect();
        // A column that the record itself feeds needs no place in the key.
        let needed: Vec<bool> =
            names.iter().map(|name| columns.iter().any(|c| c.name == *name && c.source.is_payload())).collect();
        for (name, _) in names.iter().zip(&needed).filter(|(_, needed)| **needed) {
            let readable = columns.iter().any(|c| c.name == *name && c.kind.reads_text());
            if !readable && columns.iter().any(|c| c.name == *name) {
                self.problem(Some(name), "a type that cannot be read from a part of a key", "key_format without it");
            }
        }
        match KeyFormat::parse(text, &names, &needed) {
            Ok(format) => Some(format),
            Err(expected) => {
                self.problem(None, format!("key_format {text:?}"), expected);
                None
            }
        }
    }

    fn pointer(&self, column: &str) -> Vec<String> {
        match self.table.columns.get(column) {
            Some(ColumnSource::Pointer(path)) => path.clone(),
            _ => vec![column.to_owned()],
        }
    }

    fn fields(&self, columns: &[PlanColumn]) -> FieldTree {
        let mut tree = FieldTree::default();
        for (index, column) in columns.iter().enumerate().filter(|(_, column)| column.source.is_payload()) {
            tree.insert(&self.pointer(&column.name), Slot::Cell(index));
        }
        if let Some(field) = &self.table.delete_field {
            tree.insert(std::slice::from_ref(field), Slot::Cell(columns.len()));
        }
        // Columns that are there but are never written: their fields are not unknown.
        for column in &self.catalog.columns {
            tree.insert(std::slice::from_ref(&column.name), Slot::Skip);
        }
        tree
    }

    /// In a tombstone's key a field may have the column's name, or stand where the payload has it.
    fn key_fields(&self, columns: &[PlanColumn]) -> FieldTree {
        let mut tree = FieldTree::default();
        for (index, column) in columns.iter().take(self.table.pk_fields.len()).enumerate() {
            tree.insert(std::slice::from_ref(&column.name), Slot::Cell(index));
            tree.insert(&self.pointer(&column.name), Slot::Cell(index));
        }
        tree
    }
}

/// Must have a value, and gets none by itself.
fn is_required(column: &Column) -> bool {
    column.not_null && !column.has_default && !column.generated && !column.identity_always
}
