//! What the door goes by at one moment: for each route the table's columns as each shard has them, for each topic its partitions, and
//! the router. Made anew when something of it changes; never changed. Compiling reads nothing but what it is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::ingest::{Key, Mode, Part, Route};
use crate::config::{Config, Routing, Table, Target, Tenant, UnknownFields};
use crate::sink::catalog::{Catalog, Column};
use crate::sink::encode::Kind;
use crate::sink::plan::{Mask, PlanColumn, TablePlan};
use crate::state::placement::Placement;
use crate::state::router::Router;
use crate::types::ShardIx;

/// See the module's text.
pub struct Rules {
    pub router: Router,
    /// By route; or what is missing.
    pub routes: Vec<Result<RouteRules, String>>,
    /// By topic; none as long as nobody knows how many partitions it has.
    pub placements: Vec<Option<Placement>>,
    /// By topic, for log and errors.
    pub topics: Vec<String>,
    /// Names of the headers that travel.
    pub headers: Vec<String>,
}

/// One route's.
#[derive(Debug)]
pub struct RouteRules {
    pub topic: usize,
    pub mode: Mode,
    /// The table as the shards have it: usually all alike.
    pub variants: Vec<Variant>,
    /// By shard: which of them it has, or why its table cannot serve the route. One that nobody has seen yet is taken to be as the first.
    pub of_shard: Vec<Result<usize, String>>,
}

/// A route over one form of its table.
#[derive(Debug)]
pub struct Variant {
    pub plan: Arc<TablePlan>,
    /// Columns that a new row must bring along.
    pub required: Mask,
    pub parameters: Vec<Parameter>,
    pub key: KeyRule,
    /// Somebody takes the key apart again: a value in it must not look like its end.
    pub key_is_read: bool,
    /// The column that the tenant's field feeds, where equal values of it have one text: that is how the tenant must be written.
    pub tenant: Option<usize>,
    /// Of each column, what of a request it comes from; for messages.
    pub fields: Vec<String>,
}

/// A path's parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    /// `"name":`, as JSON.
    pub json: String,
    /// The first column that it feeds.
    pub column: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum KeyRule {
    Format(Vec<Piece>),
    /// `"name":` as JSON, and the column.
    Json(Vec<(String, usize)>),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Literal(String),
    Column(usize),
}

/// What is known of the tables: by the shard's index, and the topic's.
pub type Tables = BTreeMap<(usize, usize), Catalog>;

impl Rules {
    /// `partitions`: by topic, as far as known.
    pub fn new(config: &Config, tables: &Tables, partitions: &[Option<i32>]) -> Rules {
        let Some(ingest) = &config.ingest else { unreachable!("a gateway without [ingest]") };
        let router = Router::new(config);
        let placements = partitions.iter().map(|n| n.map(|n| Placement::new(&router, n))).collect();
        Rules {
            routes: ingest.routes.iter().map(|route| compile(config, route, tables)).collect(),
            placements,
            router,
            topics: config.topics.iter().map(|topic| topic.name.clone()).collect(),
            headers: ingest.headers.clone(),
        }
    }

    /// Why requests are refused that are not at fault, a sentence each.
    pub fn missing(&self, config: &Config) -> Vec<String> {
        let Some(ingest) = &config.ingest else { return Vec::new() };
        let of_routes =
            self.routes.iter().zip(&ingest.routes).filter_map(|(rules, route)| {
                rules.as_ref().err().map(|why| format!("route {}: {why}", route.template()))
            });
        let mut missing: Vec<String> = of_routes.collect();
        for (rules, route) in self.routes.iter().zip(&ingest.routes) {
            let rules = rules.iter().flat_map(|rules| &rules.of_shard);
            missing.extend(
                rules.filter_map(|of| of.as_ref().err()).map(|why| format!("route {}: {why}", route.template())),
            );
        }
        for (topic, placement) in self.placements.iter().enumerate() {
            let needs =
                |route: &Route| route.topic == topic && (route.mode == Mode::Async || self.router.asks_partitions());
            if !ingest.routes.iter().any(needs) {
                continue;
            }
            let name = &self.topics[topic];
            match placement {
                None => missing.push(format!("topic {name}: the brokers have not said yet how many partitions it has")),
                Some(placement) => {
                    missing.extend(placement.without_partition().map(|ShardIx(shard)| {
                        let (shard, partitions) = (&config.shards[usize::from(shard)].name, placement.partitions());
                        format!("topic {name}: none of its {partitions} partitions is declared for shard {shard}")
                    }));
                    let count = placement.partitions();
                    let nobody_s = (0..count).filter(|n| self.router.shards_of(*n).is_empty()).count();
                    if nobody_s > 0 {
                        missing.push(format!(
                            "topic {name}: {nobody_s} of its {count} partitions are declared for no shard"
                        ));
                    }
                }
            }
        }
        missing
    }
}

fn compile(config: &Config, route: &Route, tables: &Tables) -> Result<RouteRules, String> {
    let topic = &config.topics[route.topic];
    let Target::Table(table) = &topic.target else { unreachable!("checked when the configuration was read") };
    let mut variants: Vec<(&Catalog, Variant)> = Vec::new();
    let mut of_shard = vec![Ok(0); config.shards.len()];
    for (shard, of) in of_shard.iter_mut().enumerate() {
        let Some(catalog) = tables.get(&(shard, route.topic)) else { continue };
        let alike = |known: &Catalog| Catalog { oid: 0, ..known.clone() } == Catalog { oid: 0, ..catalog.clone() };
        let known = variants.iter().position(|(known, _)| alike(known)).map_or_else(
            || {
                let plan = TablePlan::new(topic, table, catalog).map_err(|problems| problems.join("; "))?;
                variants.push((catalog, variant(config, route, table, catalog, plan)?));
                Ok(variants.len() - 1)
            },
            Ok,
        );
        *of = known.map_err(|why: String| format!("shard {:?}: {why}", config.shards[shard].name));
    }
    if variants.is_empty() {
        let why = of_shard.into_iter().find_map(Result::err);
        return Err(why.unwrap_or_else(|| format!("no database has said yet what the columns of {} are", table.name)));
    }
    let variants = variants.into_iter().map(|(_, variant)| variant).collect();
    Ok(RouteRules { topic: route.topic, mode: route.mode, variants, of_shard })
}

fn variant(
    config: &Config,
    route: &Route,
    table: &Table,
    catalog: &Catalog,
    mut plan: TablePlan,
) -> Result<Variant, String> {
    plan.unknown_is_error |= route.unknown_fields == UnknownFields::Error;
    let parameters = route.parameters().map(|name| parameter(&plan, name)).collect::<Result<_, _>>()?;
    let key = match &route.key {
        Key::Format(parts) => {
            let piece = |part: &Part| match part {
                Part::Literal(text) => Ok(Piece::Literal(text.clone())),
                Part::Field(name) => keyed(&plan, catalog, column_of(&plan, name)?).map(Piece::Column),
            };
            KeyRule::Format(parts.iter().map(piece).collect::<Result<_, String>>()?)
        }
        Key::Json => {
            let fed = (0..plan.pk).filter(|column| plan.columns[*column].source.is_payload());
            let one = |column: usize| Ok((label(&plan.columns[column].name), keyed(&plan, catalog, column)?));
            KeyRule::Json(fed.map(one).collect::<Result<_, String>>()?)
        }
    };
    // A trigger may fill in what is missing.
    let required = if catalog.has_before_triggers { Mask::default() } else { plan.required };
    let fields = plan.columns.iter().map(|column| source(table, column)).collect();
    let Routing { tenant, .. } = &config.routing;
    let is_routed = config.shards.len() > 1;
    let key_is_read = plan.deletes && plan.key_format.is_some() || is_routed && matches!(tenant, Tenant::KeyPart(_));
    let tenant = match tenant {
        Tenant::Field(name) if is_routed => column_of(&plan, name).ok(),
        _ => None,
    };
    let tenant = tenant.filter(|column| has_one_text(&plan.columns[*column].kind));
    Ok(Variant { plan: Arc::new(plan), required, parameters, key, key_is_read, tenant, fields })
}

fn parameter(plan: &TablePlan, name: &str) -> Result<Parameter, String> {
    let column = column_of(plan, name)?;
    let PlanColumn { kind, type_name, .. } = &plan.columns[column];
    if !kind.reads_text() {
        return Err(format!(
            "{{{name}}} of the path: found a column of type {type_name}, expected one that text can be"
        ));
    }
    Ok(Parameter { name: name.to_owned(), json: label(name), column })
}

/// The first column that takes a field of the payload.
fn column_of(plan: &TablePlan, field: &str) -> Result<usize, String> {
    let cells = plan.fields.cells(field).unwrap_or_default();
    let column = cells.iter().copied().find(|cell| *cell < plan.columns.len());
    column.ok_or_else(|| format!("{{{field}}}: found no column of {} that takes this field, expected one", plan.table))
}

/// Equal values of a key must be equal texts, or a row has two keys.
fn keyed(plan: &TablePlan, catalog: &Catalog, column: usize) -> Result<usize, String> {
    let PlanColumn { name, kind, type_name, .. } = &plan.columns[column];
    if has_one_text(kind) && catalog.column(name).is_some_and(|column: &Column| column.exact) {
        return Ok(column);
    }
    let expected =
        "text, varchar, integer, uuid, date, boolean or an enum: equal values of others may be written in several ways";
    Err(format!("column {name:?} in the key: found type {type_name}, expected {expected}"))
}

/// Whether equal values have equal texts, as [`Kind::write_element`] writes them, and are read back from these.
pub fn has_one_text(kind: &Kind) -> bool {
    use Kind::*;
    matches!(kind, Bool | Int2 | Int4 | Int8 | Text { .. } | Name | Uuid | Date | Enum(_))
}

fn label(name: &str) -> String {
    format!("{}:", serde_json::Value::from(name))
}

/// What feeds a column, as clients know it.
fn source(table: &Table, column: &PlanColumn) -> String {
    use crate::config::ColumnSource::{Header, Pointer};
    match table.columns.get(&column.name) {
        Some(Pointer(path)) => path.join("/"),
        Some(Header(name)) => format!("header {name}"),
        _ => column.name.clone(),
    }
}
