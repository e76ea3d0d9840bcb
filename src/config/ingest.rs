//! `[ingest]`: what the gateway serves, cross-checked with the topics that its routes publish to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::raw::Section;
use super::secret::{Secret, shown};
use super::settings::ingest as s;
use super::{ColumnSource, Routing, Shard, Table, Target, Tenant, Topic, UnknownFields, load};
use crate::cpus::CpuSet;

/// The gateway.
#[derive(Debug, Clone)]
pub struct Ingest {
    pub listen: SocketAddr,
    /// What requests must bring along.
    pub token: Option<Secret>,
    pub admin_listen: Option<SocketAddr>,
    pub threads: usize,
    /// Cores that they are pinned to, round robin; none: not pinned.
    pub cores: Vec<CpuSet>,
    /// Of librdkafka's threads, and of all others; none: not pinned.
    pub kafka_cores: Option<CpuSet>,
    pub other_cores: Option<CpuSet>,
    pub connections_max: usize,
    pub idle_timeout: Duration,
    pub body_bytes_max: usize,
    pub queue_records_max: usize,
    pub queue_bytes_max: usize,
    pub deadline: Duration,
    pub drain_deadline: Duration,
    /// Connections to each shard for routes that write rows themselves, and how long a request waits for one.
    pub pool_size: usize,
    pub pool_wait: Duration,
    /// Headers that travel, as their records' headers are named; those that tenants and columns need included.
    pub headers: Vec<String>,
    pub catalog_file: PathBuf,
    pub catalog_interval: Duration,
    pub routes: Vec<Route>,
}

impl Ingest {
    /// Connections to each shard that routes hold which write rows themselves; 0 where there is none of these.
    pub fn pooled_per_shard(&self) -> usize {
        if self.routes.iter().any(|route| route.mode == Mode::Sync) { self.pool_size } else { 0 }
    }
}

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);
const HEADERS: [&str; 2] = ["traceparent", "Idempotency-Key"];
/// Each becomes a header of every record.
const HEADERS_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub path: Vec<Segment>,
    pub methods: Vec<Method>,
    /// Index into the configuration's topics.
    pub topic: usize,
    pub key: Key,
    pub mode: Mode,
    pub unknown_fields: UnknownFields,
}

impl Route {
    /// The path as it was written.
    pub fn template(&self) -> String {
        let text = |segment: &Segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Parameter(name) => format!("/{{{name}}}"),
        };
        self.path.iter().map(text).collect()
    }

    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.path.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }
}

/// What stands between two slashes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Decoded.
    Literal(String),
    Parameter(String),
}

/// A piece of a key's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    Field(String),
}

/// How a record's key is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Fields with literal text between them.
    Format(Vec<Part>),
    /// A JSON object of the columns of the topic's `pk_fields` that the payload feeds.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Put,
    Post,
    Patch,
    Delete,
}

impl Method {
    const ALL: [Method; 4] = [Method::Put, Method::Post, Method::Patch, Method::Delete];

    pub fn name(self) -> &'static str {
        match self {
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }

    pub fn of(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }
}

pub const METHODS_EXPECTED: &str = "a list of \"PUT\", \"POST\", \"PATCH\" and \"DELETE\", at least one";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 202 once the brokers have it.
    Async,
    /// 200 once the row is written.
    Sync,
}

/// `/apps/{app_id}/state`: each parameter a whole segment, each name once.
pub fn path(written: &str) -> Option<Vec<Segment>> {
    let mut names = BTreeSet::new();
    let mut segment = |text: &str| {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let fits = !name.is_empty() && !name.contains(['{', '}']) && names.insert(name.to_owned());
            return fits.then(|| Segment::Parameter(name.to_owned()));
        }
        // A request's path has them escaped, or not at all.
        let legal = |c: char| !c.is_control() && !matches!(c, '{' | '}' | '%' | '?' | '#' | ' ');
        text.chars().all(legal).then(|| Segment::Literal(text.to_owned()))
    };
    written.strip_prefix('/')?.split('/').map(&mut segment).collect()
}

/// `{app_id}:{subscription_id}`: at least one field, each once, and something between any two.
pub fn key(written: &str) -> Option<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    let mut rest = written;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, next) = behind.split_once('}')?;
        let field = Part::Field(name.to_owned());
        let follows = before.is_empty() && !parts.is_empty();
        if name.is_empty() || name.contains('{') || before.contains('}') || parts.contains(&field) || follows {
            return None;
        }
        if !before.is_empty() {
            parts.push(Part::Literal(before.to_owned()));
        }
        parts.push(field);
        rest = next;
    }
    if parts.is_empty() || rest.contains('}') {
        return None;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Some(parts)
}

/// The gateway, where the file has one. `None` where there is none, or something about it is wrong, which is reported.
pub fn read(
    root: &Section<'_>,
    topics: &[Topic],
    routing: Option<&Routing>,
    shards: &[Option<Shard>],
    admin_token: bool,
) -> Option<Ingest> {
    if !root.is_written("ingest") {
        return None;
    }
    let section = &root.table("ingest", "ingest", &["route"]);
    let sections = section.tables_of("route", "ingest.route", &[]);
    if sections.is_empty() && !section.is_written("route") {
        section.problem("route", "nothing", "[[ingest.route]], one table for each route");
    }
    // Where routing is wrong somebody else says so.
    let tenant = routing.filter(|_| shards.len() > 1).map(|routing| &routing.tenant);
    let routes: Vec<Option<Route>> = sections.iter().map(|section| route(section, topics, tenant)).collect();
    unambiguous(&sections, &routes);
    one_key_for_a_topic(&sections, &routes, topics);
    let routes: Vec<Route> = routes.into_iter().collect::<Option<_>>()?;
    let listen = section.get(&s::LISTEN).unwrap_or(LISTEN);
    let token = section.get(&s::TOKEN_FILE).and_then(|file| load::token(section, s::TOKEN_FILE.name, &file));
    if !listen.ip().is_loopback() && !section.is_written(s::TOKEN_FILE.name) {
        let expected = "token_file beside it, a loopback address, or something in front of it that knows who asks";
        section.warning(s::LISTEN.name, listen.to_string(), expected);
    }
    let admin_listen = section.get(&s::ADMIN_LISTEN).unwrap_or(Some(ADMIN_LISTEN));
    if let Some(address) = admin_listen.filter(|address| !address.ip().is_loopback() && !admin_token) {
        let expected = "[admin] token_file, or a loopback address: others can reach this one";
        section.problem(s::ADMIN_LISTEN.name, address.to_string(), expected);
    }
    let headers = headers(section, topics, &routes, tenant)?;
    let file = section.report.file();
    let beside = || file.with_extension("catalog.json").file_name().map_or_else(PathBuf::new, PathBuf::from);
    let catalog_file = section.get(&s::CATALOG_FILE).unwrap_or_else(beside);
    let ingest = Ingest {
        listen,
        token,
        admin_listen,
        threads: section.get(&s::THREADS),
        cores: section.get(&s::CORES),
        kafka_cores: section.get(&s::KAFKA_CORES),
        other_cores: section.get(&s::OTHER_CORES),
        connections_max: section.get(&s::CONNECTIONS_MAX),
        idle_timeout: section.get(&s::IDLE_TIMEOUT),
        body_bytes_max: section.get(&s::BODY_BYTES_MAX),
        queue_records_max: section.get(&s::QUEUE_RECORDS_MAX),
        queue_bytes_max: section.get(&s::QUEUE_BYTES_MAX),
        deadline: section.get(&s::DEADLINE),
        drain_deadline: section.get(&s::DRAIN_DEADLINE),
        pool_size: section.get(&s::POOL_SIZE),
        pool_wait: section.get(&s::POOL_WAIT),
        headers,
        catalog_file: section.report.path(&catalog_file),
        catalog_interval: section.get(&s::CATALOG_INTERVAL),
        routes,
    };
    if ingest.pool_wait > ingest.deadline {
        let found = ingest.pool_wait.as_millis().to_string();
        section.problem(s::POOL_WAIT.name, found, "at most deadline_ms, which holds for the whole request");
    }
    let pooled = ingest.pooled_per_shard();
    for shard in shards.iter().flatten().filter(|_| pooled > 0) {
        if let Some(max) = shard.connections_max.filter(|max| *max <= pooled) {
            let expected = format!(
                "less than the {max} that shard {:?} may have (connections_max): one more looks at its tables",
                shard.name
            );
            section.problem(s::POOL_SIZE.name, pooled.to_string(), expected);
        }
    }
    Some(ingest)
}

/// A path that two routes answer to, with a method in common.
fn unambiguous(sections: &[Section<'_>], routes: &[Option<Route>]) {
    for (i, this) in routes.iter().enumerate() {
        let Some(this) = this else { continue };
        for other in routes[..i].iter().flatten() {
            let Some(method) = this.methods.iter().find(|method| other.methods.contains(method)) else { continue };
            if overlap(&this.path, &other.path) {
                let found = format!("{:?} with {}, beside {:?}", this.template(), method.name(), other.template());
                sections[i].problem(s::ROUTE_PATH.name, found, "paths of which no request can mean both");
            }
        }
    }
}

/// Records of one row have one key, whichever route they come by, those that delete it included.
fn one_key_for_a_topic(sections: &[Section<'_>], routes: &[Option<Route>], topics: &[Topic]) {
    for (i, this) in routes.iter().enumerate() {
        let Some(this) = this else { continue };
        let Target::Table(table) = &topics[this.topic].target else { continue };
        let name = s::ROUTE_KEY.name;
        // Without a format the key of a null value may be JSON of more than one form.
        let is_of_deletes =
            this.methods.contains(&Method::Delete) || table.delete_enabled && table.key_format.is_some();
        if is_of_deletes && this.key != of_deletes(table) {
            let format = table.key_format.as_deref().unwrap_or("none: the key of a null value is JSON");
            let found = format!("another form than the topic's key_format ({format})");
            sections[i].problem(name, found, "the same for DELETE, or no key here");
            continue;
        }
        let mut others = routes[..i].iter().flatten().filter(|other| other.topic == this.topic);
        // Rows that nothing identifies have no order.
        if let Some(other) = others.find(|other| other.key != this.key).filter(|_| !table.pk_fields.is_empty()) {
            let found = format!("another form than that of {:?}, which has the same topic", other.template());
            sections[i].problem(name, found, "the same: records of one row have one key");
        }
    }
}

/// The key of a topic's null values.
fn of_deletes(table: &Table) -> Key {
    match table.key_format.as_deref().and_then(key) {
        Some(parts) => Key::Format(in_fields(parts, table)),
        None => Key::Json,
    }
}

fn overlap(a: &[Segment], b: &[Segment]) -> bool {
    let meet = |(a, b): (&Segment, &Segment)| match (a, b) {
        (Segment::Literal(a), Segment::Literal(b)) => a == b,
        // A parameter is never empty.
        (Segment::Parameter(_), Segment::Literal(text)) | (Segment::Literal(text), Segment::Parameter(_)) => {
            !text.is_empty()
        }
        (Segment::Parameter(_), Segment::Parameter(_)) => true,
    };
    a.len() == b.len() && a.iter().zip(b).all(meet)
}

fn route(section: &Section<'_>, topics: &[Topic], tenant: Option<&Tenant>) -> Option<Route> {
    let path = section.get(&s::ROUTE_PATH);
    let methods = methods(section);
    let name = section.get(&s::ROUTE_TOPIC);
    let written = section.get(&s::ROUTE_KEY);
    let mode = section.get(&s::ROUTE_MODE);
    let unknown_fields = section.get(&s::ROUTE_UNKNOWN_FIELDS);
    let (path, methods, name) = (path?, methods?, name?);
    let Some(topic) = topics.iter().position(|topic| topic.name == name) else {
        // With none at all, what is wrong with them is said already.
        if !topics.is_empty() {
            section.problem(s::ROUTE_TOPIC.name, shown(&name), "the name of a [[topic]]");
        }
        return None;
    };
    let Target::Table(table) = &topics[topic].target else {
        section.problem(
            s::ROUTE_TOPIC.name,
            shown(&name),
            "a topic with a table: bodies are checked against its columns",
        );
        return None;
    };
    if section.is_written(s::ROUTE_KEY.name) && written.is_none() {
        return None;
    }
    let key = match (written, &table.key_format) {
        (Some(parts), _) => Key::Format(parts),
        (None, Some(format)) => Key::Format(in_fields(self::key(format)?, table)),
        (None, None) => Key::Json,
    };
    if key == Key::Json && !table.pk_fields.iter().any(|column| is_of_payload(table, column)) {
        section.problem(s::ROUTE_KEY.name, "nothing", "a key: without one records of a row have no order");
        return None;
    }
    let route = Route { path, methods, topic, key, mode, unknown_fields };
    one_key_for_a_row(section, &route, table);
    let of_kafka = |source: &&ColumnSource| matches!(source, ColumnSource::Offset | ColumnSource::Partition);
    if mode == Mode::Sync && table.columns.values().any(|source| of_kafka(&source)) {
        let expected = "\"async\": the topic's table has columns of @offset or @partition, and a row that is written at once has none";
        section.problem(s::ROUTE_MODE.name, "\"sync\"", expected);
    }
    if route.methods.contains(&Method::Delete) {
        deletes(section, &route, table, tenant);
    }
    Some(route)
}

fn methods(section: &Section<'_>) -> Option<Vec<Method>> {
    let written = section.get(&s::ROUTE_METHODS);
    let methods: Option<BTreeSet<Method>> = written.iter().map(|name| Method::of(name)).collect();
    match methods {
        Some(methods) if !methods.is_empty() => Some(methods.into_iter().collect()),
        _ => {
            let found = written.iter().find(|name| Method::of(name).is_none());
            let found = found.map_or_else(|| "nothing".to_owned(), |name| shown(name));
            section.problem(s::ROUTE_METHODS.name, found, METHODS_EXPECTED);
            None
        }
    }
}

/// Whether a column is fed from the payload, wherever in it.
fn is_of_payload(table: &Table, column: &str) -> bool {
    table.columns.get(column).is_none_or(|source| matches!(source, ColumnSource::Pointer(_)))
}

/// The payload's field that feeds a column, where it is one of the payload's own.
fn field<'t>(table: &'t Table, column: &'t str) -> Option<&'t str> {
    match table.columns.get(column) {
        None => Some(column),
        Some(ColumnSource::Pointer(path)) => match path.as_slice() {
            [name] => Some(name),
            _ => None,
        },
        Some(_) => None,
    }
}

/// A format whose fields are columns, with the payload's names of them.
fn in_fields(parts: Vec<Part>, table: &Table) -> Vec<Part> {
    let named = |part| match part {
        Part::Field(column) => Part::Field(field(table, &column).unwrap_or(&column).to_owned()),
        literal => literal,
    };
    parts.into_iter().map(named).collect()
}

/// The row's order is that of its key.
fn one_key_for_a_row(section: &Section<'_>, route: &Route, table: &Table) {
    let Key::Format(parts) = &route.key else { return };
    let of_row: Vec<&str> = table.pk_fields.iter().filter_map(|column| field(table, column)).collect();
    let others = parts.iter().find_map(|part| match part {
        Part::Field(name) if !of_row.contains(&name.as_str()) => Some(name),
        _ => None,
    });
    if let Some(name) = others.filter(|_| !table.pk_fields.is_empty()) {
        let expected = "fields of pk_fields only: records of one row would get several keys, and have no order";
        section.warning(s::ROUTE_KEY.name, format!("{{{name}}}"), expected);
    }
}

/// What a tombstone says is in its key, and that comes from the path.
fn deletes(section: &Section<'_>, route: &Route, table: &Table, tenant: Option<&Tenant>) {
    if !table.delete_enabled {
        let expected = "none, or delete_enabled = true in its [[topic]]";
        section.problem(s::ROUTE_METHODS.name, "\"DELETE\"", expected);
    }
    if let Some(Tenant::Field(name)) = tenant {
        let found = format!("\"DELETE\" with shards.tenant = \"field:{name}\"");
        section.problem(s::ROUTE_METHODS.name, found, "a tenant in the key or in a header: a null value has no field");
    }
    let needed: Vec<String> = match &route.key {
        Key::Json => {
            let fields = table.pk_fields.iter().filter(|column| is_of_payload(table, column));
            fields.map(|column| field(table, column).unwrap_or(column).to_owned()).collect()
        }
        Key::Format(parts) => {
            let name = |part: &Part| if let Part::Field(name) = part { Some(name.clone()) } else { None };
            parts.iter().filter_map(name).collect()
        }
    };
    if let Some(name) = needed.iter().find(|name| !route.parameters().any(|parameter| parameter == *name)) {
        let found = format!("{:?} with DELETE", route.template());
        section.problem(
            s::ROUTE_PATH.name,
            found,
            format!("{{{name}}} in it: the key of a null value is made of the path"),
        );
    }
}

/// Those of the setting, and those that somebody needs.
fn headers(section: &Section<'_>, topics: &[Topic], routes: &[Route], tenant: Option<&Tenant>) -> Option<Vec<String>> {
    let written = section.get(&s::HEADERS);
    let mut names = written.unwrap_or_else(|| HEADERS.map(str::to_owned).to_vec());
    // RFC 9110, 5.1: a token.
    let is_token = |name: &String| {
        name.len() <= 256 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    if let Some(wrong) = names.iter().find(|name| !is_token(name)) {
        section.problem(s::HEADERS.name, shown(wrong), s::HEADERS.kind.0.expected);
        return None;
    }
    let of_columns = routes.iter().filter_map(|route| match &topics[route.topic].target {
        Target::Table(table) => Some(table.columns.values()),
        Target::Handler => None,
    });
    let of_columns = of_columns.flatten().filter_map(|source| match source {
        ColumnSource::Header(name) => Some(name),
        _ => None,
    });
    let of_tenant = tenant.and_then(|tenant| if let Tenant::Header(name) = tenant { Some(name) } else { None });
    for name in of_tenant.into_iter().chain(of_columns) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.len() > HEADERS_MAX {
        section.problem(s::HEADERS.name, format!("{} headers", names.len()), format!("at most {HEADERS_MAX}"));
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let literal = |text: &str| Segment::Literal(text.to_owned());
        let parameter = |name: &str| Segment::Parameter(name.to_owned());
        assert_eq!(path("/apps/{app}/x"), Some(vec![literal("apps"), parameter("app"), literal("x")]));
        assert_eq!(path("/"), Some(vec![literal("")]));
        assert_eq!(path("/é/"), Some(vec![literal("é"), literal("")]));
        for wrong in ["", "apps", "/{a}/{a}", "/{}", "/a{b}", "/{a", "/a}", "/a%20b", "/a?b", "/a b", "/{a{b}}"] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn keys() {
        let literal = |text: &str| Part::Literal(text.to_owned());
        let field = |name: &str| Part::Field(name.to_owned());
        assert_eq!(key("{a}"), Some(vec![field("a")]));
        assert_eq!(key("x-{a}:{b}."), Some(vec![literal("x-"), field("a"), literal(":"), field("b"), literal(".")]));
        for wrong in ["", "a", "{a", "a}", "{a}{b}", "{a}:{a}", "{}", "{a}}", "}{a}", "{{a}}"] {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_that_meet() {
        let check = |a: &str, b: &str, expected| {
            let (a, b) = (path(a).expect("a path"), path(b).expect("a path"));
            assert_eq!((overlap(&a, &b), overlap(&b, &a)), (expected, expected), "{a:?} {b:?}");
        };
        check("/a", "/a", true);
        check("/a", "/b", false);
        check("/a", "/{x}", true);
        check("/{x}/a", "/{y}/a", true);
        check("/{x}/a", "/b/{y}", true);
        check("/{x}/a", "/{y}/b", false);
        check("/a", "/a/", false);
        check("/a/", "/a/{x}", false);
    }
}
