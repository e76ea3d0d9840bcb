//! What the user wrote: the TOML document with the place of every key. It hands out values by their definitions in
//! [`settings`](super::settings) and collects every problem on the way; what the values mean together is not its business.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::live::Readings;
use super::problem::{Problem, Problems, did_you_mean};
use super::secret::{self, is_sensitive, looks_secret, shown};
use super::settings::{ALL, Kind, Setting};

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where each key of the file stands.
#[derive(Debug, Clone, Default)]
pub struct Places {
    file: PathBuf,
    lines: BTreeMap<String, usize>,
    /// Keys whose values come from elsewhere, and from where.
    overruled: BTreeMap<String, &'static str>,
}

impl Places {
    /// The line of a key, or of the table around it.
    pub fn line(&self, key: &str) -> usize {
        let mut key = key;
        loop {
            if let Some(line) = self.lines.get(key) {
                return *line;
            }
            match key.rfind('.') {
                Some(dot) => key = &key[..dot],
                None => return 0,
            }
        }
    }

    /// From now on the key's value is somebody else's than the file's.
    pub fn overruled(&mut self, key: &str, by: &'static str) {
        self.overruled.insert(key.to_owned(), by);
    }

    /// Of a text that nobody wrote by hand its lines say nothing.
    pub fn forget_lines(&mut self) {
        self.lines.clear();
    }

    /// A problem at a key.
    pub fn problem(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> Problem {
        let overruled = self.overruled.get(key);
        Problem {
            file: overruled.map_or_else(|| self.file.clone(), PathBuf::from),
            line: if overruled.is_some() { 0 } else { self.line(key) },
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}

/// The file and everything that was noticed about it.
pub struct Report<'a> {
    file: &'a Path,
    environment: Environment<'a>,
    line_starts: Vec<usize>,
    places: RefCell<Places>,
    readings: RefCell<Readings>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'a> Report<'a> {
    pub fn new(file: &'a Path, text: &str, environment: Environment<'a>) -> Report<'a> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Report {
            file,
            environment,
            line_starts,
            places: RefCell::new(Places { file: file.to_owned(), ..Places::default() }),
            readings: RefCell::default(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Parses the text, reporting every syntax error.
    pub fn parse<'d>(&self, text: &'d str) -> Option<Spanned<DeTable<'d>>> {
        let (document, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Some(document);
        }
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            let line = self.line_of(at);
            let column = text[self.line_starts[line - 1]..at].chars().count() + 1;
            self.problems.borrow_mut().push(Problem {
                file: self.file.to_owned(),
                line,
                key: String::new(),
                found: format!("a syntax error in column {column}: {}", error.message()),
                expected: "TOML".to_owned(),
            });
        }
        None
    }

    /// Notes a problem at a key that was written, or in the table where it is missing.
    pub fn problem(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        let problem = self.places.borrow().problem(key, found, expected);
        self.problems.borrow_mut().push(problem);
    }

    /// Notes something that works but is hardly meant.
    pub fn warning(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        let problem = self.places.borrow().problem(key, found, expected);
        self.warnings.borrow_mut().push(problem);
    }

    /// Whether something was written under this key.
    pub fn is_written(&self, key: &str) -> bool {
        self.places.borrow().lines.contains_key(key)
    }

    /// Notes what a setting came to, for the comparison with a later reading. What was noted last holds.
    pub fn reading(&self, key: &str, reloads: bool, value: &dyn std::fmt::Debug) {
        self.readings.borrow_mut().note(key, reloads, value);
    }

    /// What was noted so far.
    pub fn readings(&self) -> Readings {
        self.readings.borrow().clone()
    }

    /// The warnings, or every problem if there is one, in the order of the file.
    pub fn finish(self) -> Result<(Vec<Problem>, Places), Problems> {
        let mut problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok((self.warnings.into_inner(), self.places.into_inner()));
        }
        problems.sort_by_key(|problem| problem.line);
        problems.dedup();
        Err(Problems(problems))
    }

    /// The file that is read.
    pub fn file(&self) -> &Path {
        self.file
    }

    /// A file that the configuration names, relative to the configuration's own directory.
    pub fn path(&self, named: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(named)
    }

    /// The content of a secrets file, without the line end behind it.
    pub fn secret_file(&self, key: &str, named: &Path) -> Option<String> {
        let path = self.path(named);
        match secret::read_file(&path) {
            Ok(text) => {
                if is_world_readable(&path) {
                    self.warning(
                        key,
                        format!("a file that every user may read: {}", path.display()),
                        "mode 0600 or 0640",
                    );
                }
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                self.reading(key, false, &text);
                Some(text)
            }
            Err(error) => {
                self.problem(key, self.unreadable(named, &error), "a file that holds the value");
                None
            }
        }
    }

    /// What was found where a file was named that cannot be read.
    pub fn unreadable(&self, named: &Path, error: &std::io::Error) -> String {
        match named.to_string_lossy() {
            text if looks_secret(&text) => "no path, but a text that is not shown".to_owned(),
            _ => format!("no readable file at {}: {error}", self.path(named).display()),
        }
    }

    /// The content of an environment variable.
    pub fn secret_env(&self, key: &str, name: &str) -> Option<String> {
        let found = match (self.environment)(name).map(OsString::into_string) {
            Some(Ok(value)) => {
                self.reading(key, false, &value);
                return Some(value);
            }
            Some(Err(_)) => format!("an environment variable {name} that is not UTF-8"),
            None if looks_secret(name) => "no name of a variable, but a text that is not shown".to_owned(),
            None => format!("no environment variable {name}"),
        };
        self.problem(key, found, "one that holds the value");
        None
    }

    fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    fn place(&self, key: &str, span: Range<usize>) {
        self.places.borrow_mut().lines.insert(key.to_owned(), self.line_of(span.start));
    }
}

/// Whether every user of the machine may read a file.
pub fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
}

/// One table of the file, or its absence.
pub struct Section<'d> {
    pub report: &'d Report<'d>,
    /// As messages call it: `topic[0]`.
    pub path: String,
    /// As the definitions call it: `topic`.
    name: &'static str,
    table: Option<&'d DeTable<'d>>,
}

impl<'d> Section<'d> {
    /// The whole file. `sections` are the tables it may hold.
    pub fn root(report: &'d Report<'d>, table: &'d DeTable<'d>, sections: &[&str]) -> Section<'d> {
        let root = Section { report, path: String::new(), name: "", table: Some(table) };
        root.note_places();
        root.refuse_unknown(sections);
        root
    }

    /// The table `name` inside this one; `definitions` is its name in [`ALL`], `tables` what else it may hold.
    pub fn table(&self, name: &str, definitions: &'static str, tables: &[&str]) -> Section<'d> {
        let section = self.open_table(name, definitions);
        section.refuse_unknown(tables);
        section
    }

    /// A table whose keys are the user's own.
    pub fn open_table(&self, name: &str, definitions: &'static str) -> Section<'d> {
        let path = self.key(name);
        let table = match self.find(name) {
            None => None,
            Some((_, DeValue::Table(table))) => Some(table),
            Some((_, other)) => {
                self.report.problem(&path, describe(&path, other), format!("a table, [{definitions}]"));
                None
            }
        };
        let section = Section { report: self.report, path, name: definitions, table };
        section.note_places();
        section
    }

    /// The tables of `[[name]]`.
    pub fn tables(&self, name: &'static str, tables: &[&str]) -> Vec<Section<'d>> {
        self.tables_of(name, name, tables)
    }

    /// Likewise inside this one; `definitions` is their name in [`ALL`].
    pub fn tables_of(&self, name: &str, definitions: &'static str, tables: &[&str]) -> Vec<Section<'d>> {
        let key = self.key(name);
        let Some((_, value)) = self.find(name) else { return Vec::new() };
        let expected = format!("[[{definitions}]], one table for each");
        let DeValue::Array(array) = value else {
            self.report.problem(&key, describe(&key, value), expected);
            return Vec::new();
        };
        if array.is_empty() {
            self.report.problem(&key, "an empty list", expected);
            return Vec::new();
        }
        let mut sections = Vec::new();
        for (i, item) in array.iter().enumerate() {
            let path = format!("{key}[{i}]");
            self.report.place(&path, item.span());
            let DeValue::Table(table) = item.get_ref() else {
                self.report.problem(&path, describe(&path, item.get_ref()), expected.as_str());
                continue;
            };
            let section = Section { report: self.report, path, name: definitions, table: Some(table) };
            section.note_places();
            section.refuse_unknown(tables);
            sections.push(section);
        }
        sections
    }

    /// The value of a setting, or its default; what is wrong with it is reported.
    pub fn get<K: Kind>(&self, setting: &Setting<K>) -> K::Value {
        let key = self.key(setting.name);
        let value = self.read(&key, setting);
        self.report.reading(&key, setting.kind.reloads(), &value);
        value
    }

    fn read<K: Kind>(&self, key: &str, setting: &Setting<K>) -> K::Value {
        let Some((_, value)) = self.find(setting.name) else {
            if setting.kind.required() {
                self.report.problem(key, "nothing", setting.kind.expected());
            }
            return setting.kind.absent();
        };
        let resolved = if setting.kind.is_text() { self.reference(key, value) } else { Resolved::Itself };
        let read = match &resolved {
            Resolved::Itself => setting.kind.read(value),
            Resolved::Text(text) => setting.kind.read(&DeValue::String(text.into())),
            Resolved::Failed => return setting.kind.absent(),
        };
        let control_character = match (&resolved, value) {
            (Resolved::Text(text), _) => control_character(text),
            (_, DeValue::String(text)) => control_character(text),
            (_, DeValue::Array(items)) => {
                items.iter().find_map(|item| item.get_ref().as_str().and_then(control_character))
            }
            _ => None,
        };
        if let Some(found) = control_character {
            self.report.problem(key, found, format!("{} without it", setting.kind.expected()));
            return setting.kind.absent();
        }
        read.unwrap_or_else(|| {
            let found = match &resolved {
                Resolved::Text(_) => "another value there".to_owned(),
                _ => describe(key, value),
            };
            self.report.problem(key, found, setting.kind.expected());
            setting.kind.absent()
        })
    }

    /// Every key and value of a table whose keys are the user's own; tables within are flattened with dots.
    pub fn entries(&self) -> Vec<(String, &'d DeValue<'d>)> {
        let mut entries = Vec::new();
        if let Some(table) = self.table {
            self.flatten("", table, &mut entries);
        }
        entries
    }

    fn flatten(&self, prefix: &str, table: &'d DeTable<'d>, entries: &mut Vec<(String, &'d DeValue<'d>)>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if reference_of(inner).is_none() => {
                    self.flatten(&format!("{name}."), inner, entries);
                }
                value => {
                    self.report.place(&self.key(&name), key.span());
                    self.report.reading(&self.key(&name), false, &plain(value));
                    entries.push((name, value));
                }
            }
        }
    }

    /// A value as text, through `{ env = … }` or `{ file = … }` where it is one of these. `None` was reported.
    pub fn scalar_text(&self, name: &str, value: &DeValue<'_>) -> Option<String> {
        let key = self.key(name);
        let text = match (self.reference(&key, value), value) {
            (Resolved::Failed, _) => return None,
            (Resolved::Text(text), _) => text,
            (_, DeValue::String(text)) => text.to_string(),
            (_, DeValue::Boolean(flag)) => flag.to_string(),
            (_, DeValue::Integer(integer)) => integer.to_string(),
            (_, DeValue::Float(float)) => float.to_string(),
            (_, other) => {
                // Whose names are the user's own may be misspelt ones of passwords.
                self.report.problem(&key, describe_unless(true, other), "text, a number, true or false");
                return None;
            }
        };
        match control_character(&text) {
            Some(found) => self.report.problem(&key, found, "a value without it"),
            None => return Some(text),
        }
        None
    }

    /// The full name of a key in this table.
    pub fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub fn is_written(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub fn is_empty_list(&self, name: &str) -> bool {
        self.find(name).and_then(|(_, value)| value.as_array()).is_some_and(|list| list.is_empty())
    }

    pub fn problem(&self, name: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.report.problem(&self.key(name), found, expected);
    }

    pub fn warning(&self, name: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.report.warning(&self.key(name), found, expected);
    }

    /// A key of this table, written plainly or, where its name has dots, as nested tables.
    fn find(&self, name: &str) -> Option<(&'d Spanned<std::borrow::Cow<'d, str>>, &'d DeValue<'d>)> {
        find(self.table?, name)
    }

    fn note_places(&self) {
        for (key, value) in self.table.into_iter().flatten() {
            let (path, span) = (self.key(key.get_ref()), key.span());
            // The span of `[a]` begins at its header; that of a key inside an array of tables is its own.
            let span = if value.get_ref().is_table() && self.path.is_empty() { value.span() } else { span };
            self.report.place(&path, span);
        }
    }

    fn refuse_unknown(&self, tables: &[&str]) {
        let settings = ALL.iter().filter(|setting| setting.section() == self.name).map(|setting| setting.name());
        let known: Vec<&str> = settings.chain(tables.iter().copied()).collect();
        for (key, _) in self.table.into_iter().flatten() {
            let key = key.get_ref().as_ref();
            if known.contains(&key) {
                continue;
            }
            let expected = match did_you_mean(key, known.iter().copied()) {
                Some(near) => format!("a known one; did you mean {near}?"),
                None => format!("one of {}", known.join(", ")),
            };
            self.problem(key, "an unknown key", expected);
        }
    }

    fn reference(&self, key: &str, value: &DeValue<'_>) -> Resolved {
        let Some((kind, name)) = value.as_table().and_then(|table| reference_of(table)) else {
            return Resolved::Itself;
        };
        let text = match kind {
            "env" => self.report.secret_env(key, name),
            _ => self.report.secret_file(key, Path::new(name)),
        };
        text.map_or(Resolved::Failed, Resolved::Text)
    }
}

/// A value without its place in the file.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(items) => items.iter().map(|item| plain(item.get_ref()) + ",").collect(),
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| format!("{}={},", key.get_ref(), plain(value.get_ref()))).collect()
        }
    }
}

/// A value that may stand elsewhere.
enum Resolved {
    Itself,
    Text(String),
    Failed,
}

/// `{ env = "NAME" }` and `{ file = "path" }`.
fn reference_of<'t>(table: &'t DeTable<'_>) -> Option<(&'static str, &'t str)> {
    let mut entries = table.iter();
    let (key, value) = entries.next().filter(|_| table.len() == 1)?;
    let kind = match key.get_ref().as_ref() {
        "env" => "env",
        "file" => "file",
        _ => return None,
    };
    value.get_ref().as_str().map(|text| (kind, text))
}

fn find<'d>(table: &'d DeTable<'d>, name: &str) -> Option<(&'d Spanned<std::borrow::Cow<'d, str>>, &'d DeValue<'d>)> {
    if let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) {
        return Some((key, value.get_ref()));
    }
    let (outer, inner) = name.split_once('.')?;
    let (_, value) = table.iter().find(|(key, _)| key.get_ref() == outer)?;
    find(value.get_ref().as_table()?, inner)
}

/// Neither Kafka nor PostgreSQL takes a zero byte, and nobody means any other of these. Tabs and line ends separate the
/// parts of connection strings and certificates.
fn control_character(text: &str) -> Option<String> {
    let is_meant = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    text.chars().find(|c| !is_meant(*c)).map(|c| format!("a text with the control character U+{:04X}", u32::from(c)))
}

/// What was found, in words; a value only where it cannot be a secret.
pub fn describe(key: &str, value: &DeValue<'_>) -> String {
    describe_unless(is_sensitive(key), value)
}

/// What was found, in words; `hidden`: whatever it is, no value.
pub fn describe_unless(hidden: bool, value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) if hidden => "a text that is not shown".to_owned(),
        DeValue::String(text) => shown(text),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) if hidden => {
            "a value that is not shown".to_owned()
        }
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(items) if !hidden => {
            let wrong = items.iter().map(toml::Spanned::get_ref).find(|item| item.as_str().is_none_or(str::is_empty));
            wrong.map_or("a list".to_owned(), |item| format!("a list with {} in it", describe_unless(hidden, item)))
        }
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
