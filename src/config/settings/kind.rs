//! The types that a setting's value may have: how each is read, what it is called in messages, and its default.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

/// A setting's definition.
pub struct Setting<K: 'static> {
    /// As the table of the file is called: `engine`, `shard` for each `[[shard]]`, …
    pub section: &'static str,
    pub name: &'static str,
    pub kind: K,
    pub prose: &'static str,
}

/// A type of values.
pub trait Kind: Sync {
    type Value: fmt::Debug;
    /// The value; `None` where it is of another type or out of range.
    fn read(&self, written: &DeValue<'_>) -> Option<Self::Value>;
    /// The value where nothing was written.
    fn absent(&self) -> Self::Value;
    /// For messages: "found …, expected {this}".
    fn expected(&self) -> String;
    /// For the table: type and unit.
    fn type_and_unit(&self) -> String;
    /// For the table.
    fn default_text(&self) -> String;
    /// For the table.
    fn range_text(&self) -> String {
        String::new()
    }
    fn required(&self) -> bool {
        false
    }
    /// Whether it stands in for text, so that it may come from a file or from the environment.
    fn is_text(&self) -> bool {
        false
    }
    /// Whether a running process takes a change over, on SIGHUP.
    fn reloads(&self) -> bool {
        false
    }
}

/// What the unknown-key check and the table need to know of a setting, whatever its type.
pub trait Described: Sync {
    fn section(&self) -> &'static str;
    fn name(&self) -> &'static str;
    /// The cells of its row in the table.
    fn row(&self) -> [String; 4];
    /// See [`Kind::reloads`].
    fn reloads(&self) -> bool;
}

impl<K: Kind> Described for Setting<K> {
    fn section(&self) -> &'static str {
        self.section
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn row(&self) -> [String; 4] {
        let k = &self.kind;
        [k.type_and_unit(), k.default_text(), k.range_text(), self.prose.to_owned()]
    }

    fn reloads(&self) -> bool {
        self.kind.reloads()
    }
}

/// A whole number of something.
pub struct Number {
    pub unit: &'static str,
    pub default: usize,
    pub range: RangeInclusive<usize>,
}

impl Kind for Number {
    type Value = usize;

    fn read(&self, written: &DeValue<'_>) -> Option<usize> {
        let DeValue::Integer(integer) = written else { return None };
        usize::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|n| self.range.contains(n))
    }

    fn absent(&self) -> usize {
        self.default
    }

    fn expected(&self) -> String {
        format!("a whole number of {} from {} to {}", self.unit, self.range.start(), self.range.end())
    }

    fn type_and_unit(&self) -> String {
        self.unit.to_owned()
    }

    fn default_text(&self) -> String {
        self.default.to_string()
    }

    fn range_text(&self) -> String {
        format!("{}–{}", self.range.start(), self.range.end())
    }
}

/// A length of time in milliseconds.
pub struct Millis(pub Number);

impl Kind for Millis {
    type Value = Duration;

    fn read(&self, written: &DeValue<'_>) -> Option<Duration> {
        self.0.read(written).map(|ms| Duration::from_millis(ms as u64))
    }

    fn absent(&self) -> Duration {
        Duration::from_millis(self.0.default as u64)
    }

    fn expected(&self) -> String {
        self.0.expected()
    }

    fn type_and_unit(&self) -> String {
        self.0.type_and_unit()
    }

    fn default_text(&self) -> String {
        self.0.default_text()
    }

    fn range_text(&self) -> String {
        self.0.range_text()
    }
}

/// True or false.
pub struct Flag {
    pub default: bool,
}

impl Kind for Flag {
    type Value = bool;

    fn read(&self, written: &DeValue<'_>) -> Option<bool> {
        written.as_bool()
    }

    fn absent(&self) -> bool {
        self.default
    }

    fn expected(&self) -> String {
        "true or false".to_owned()
    }

    fn type_and_unit(&self) -> String {
        "flag".to_owned()
    }

    fn default_text(&self) -> String {
        self.default.to_string()
    }
}

/// One of several words.
pub struct Choice<T: 'static> {
    pub default: T,
    pub words: &'static [(&'static str, T)],
}

impl<T: Copy + PartialEq + Sync + fmt::Debug> Kind for Choice<T> {
    type Value = T;

    fn read(&self, written: &DeValue<'_>) -> Option<T> {
        let written = written.as_str()?;
        self.words.iter().find(|(word, _)| *word == written).map(|(_, value)| *value)
    }

    fn absent(&self) -> T {
        self.default
    }

    fn expected(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
        match words.as_slice() {
            [only] => format!("{only}, the only choice of this version"),
            words => format!("one of {}", words.join(", ")),
        }
    }

    fn type_and_unit(&self) -> String {
        "word".to_owned()
    }

    fn default_text(&self) -> String {
        self.words.iter().find(|(_, v)| *v == self.default).map_or(String::new(), |(word, _)| format!("`\"{word}\"`"))
    }

    fn range_text(&self) -> String {
        self.words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
    }

    fn is_text(&self) -> bool {
        true
    }
}

/// Text of some form.
pub struct Text<T: 'static> {
    pub expected: &'static str,
    pub required: bool,
    pub parse: fn(&str) -> Option<T>,
    /// For the table: what holds where nothing was written.
    pub absent: &'static str,
}

impl<T: fmt::Debug> Kind for Text<T> {
    type Value = Option<T>;

    fn read(&self, written: &DeValue<'_>) -> Option<Option<T>> {
        written.as_str().and_then(self.parse).map(Some)
    }

    fn absent(&self) -> Option<T> {
        None
    }

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn type_and_unit(&self) -> String {
        "text".to_owned()
    }

    fn default_text(&self) -> String {
        if self.required { "required".to_owned() } else { self.absent.to_owned() }
    }

    fn required(&self) -> bool {
        self.required
    }

    fn is_text(&self) -> bool {
        true
    }
}

/// Several texts, none of them empty.
pub struct TextList {
    pub expected: &'static str,
}

impl Kind for TextList {
    type Value = Vec<String>;

    fn read(&self, written: &DeValue<'_>) -> Option<Vec<String>> {
        let items = written.as_array()?.iter();
        items.map(|item| item.get_ref().as_str().filter(|text| !text.is_empty()).map(str::to_owned)).collect()
    }

    fn absent(&self) -> Vec<String> {
        Vec::new()
    }

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn type_and_unit(&self) -> String {
        "list of text".to_owned()
    }

    fn default_text(&self) -> String {
        "`[]`".to_owned()
    }
}

/// A kind whose default depends on something else, which the text names.
pub struct Optional<K>(pub K, pub &'static str);

impl<K: Kind> Kind for Optional<K> {
    type Value = Option<K::Value>;

    fn read(&self, written: &DeValue<'_>) -> Option<Option<K::Value>> {
        self.0.read(written).map(Some)
    }

    fn absent(&self) -> Option<K::Value> {
        None
    }

    fn expected(&self) -> String {
        self.0.expected()
    }

    fn type_and_unit(&self) -> String {
        self.0.type_and_unit()
    }

    fn default_text(&self) -> String {
        self.1.to_owned()
    }

    fn range_text(&self) -> String {
        self.0.range_text()
    }

    fn is_text(&self) -> bool {
        self.0.is_text()
    }
}

/// Marks a kind: a running process takes a change over, on SIGHUP. Whoever uses the setting reads it from
/// [`Live`](crate::config::live::Live), not from the configuration of the start.
pub struct Reloads<K>(pub K);

impl<K: Kind> Kind for Reloads<K> {
    type Value = K::Value;

    fn read(&self, written: &DeValue<'_>) -> Option<K::Value> {
        self.0.read(written)
    }

    fn absent(&self) -> K::Value {
        self.0.absent()
    }

    fn expected(&self) -> String {
        self.0.expected()
    }

    fn type_and_unit(&self) -> String {
        self.0.type_and_unit()
    }

    fn default_text(&self) -> String {
        self.0.default_text()
    }

    fn range_text(&self) -> String {
        self.0.range_text()
    }

    fn required(&self) -> bool {
        self.0.required()
    }

    fn is_text(&self) -> bool {
        self.0.is_text()
    }

    fn reloads(&self) -> bool {
        true
    }
}
