//! The types of settings that say where threads run.

use toml::de::DeValue;

use super::kind::Kind;
use crate::cpus::CpuSet;

/// For messages: how CPUs are written.
pub const CPUS_EXPECTED: &str = "CPU numbers such as 0 or \"0,2-5\", or a mask such as \"0x3d\"";

/// CPUs that a thread may use; none: not pinned.
pub struct Cpus;

/// Those of several threads: one set each, in turn.
pub struct CpusInTurn;

impl Kind for Cpus {
    type Value = Option<CpuSet>;

    fn read(&self, written: &DeValue<'_>) -> Option<Option<CpuSet>> {
        cpus(written).map(Some)
    }

    fn absent(&self) -> Option<CpuSet> {
        None
    }

    fn expected(&self) -> String {
        CPUS_EXPECTED.to_owned()
    }

    fn type_and_unit(&self) -> String {
        "CPUs".to_owned()
    }

    fn default_text(&self) -> String {
        "not pinned".to_owned()
    }

    fn is_text(&self) -> bool {
        true
    }
}

impl Kind for CpusInTurn {
    type Value = Vec<CpuSet>;

    fn read(&self, written: &DeValue<'_>) -> Option<Vec<CpuSet>> {
        match written {
            DeValue::Array(sets) if sets.is_empty() => None,
            DeValue::Array(sets) => sets.iter().map(|set| cpus(set.get_ref())).collect(),
            one => cpus(one).map(|set| cpus_in_turn(vec![set])),
        }
    }

    fn absent(&self) -> Vec<CpuSet> {
        Vec::new()
    }

    fn expected(&self) -> String {
        format!("{CPUS_EXPECTED}, or a list of these")
    }

    fn type_and_unit(&self) -> String {
        "CPUs".to_owned()
    }

    fn default_text(&self) -> String {
        "not pinned".to_owned()
    }

    fn is_text(&self) -> bool {
        true
    }
}

/// One set alone is of single CPUs, several are of one thread each.
pub fn cpus_in_turn(sets: Vec<CpuSet>) -> Vec<CpuSet> {
    match &sets[..] {
        [one] => one.iter().map(CpuSet::of).collect(),
        _ => sets,
    }
}

fn cpus(written: &DeValue<'_>) -> Option<CpuSet> {
    match written {
        DeValue::Integer(number) if number.radix() == 10 => CpuSet::parse(number.as_str()),
        // `0x3c` without quotes is meant as a mask, and TOML takes it for a number.
        DeValue::Integer(_) => None,
        other => other.as_str().and_then(CpuSet::parse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the value of a TOML file: the set, and the sets in turn.
    #[track_caller]
    fn check(written: &str, one: Option<&str>, in_turn: Option<&[&str]>) {
        let text = format!("a = {written}");
        let document = toml::de::DeTable::parse(&text).expect("TOML");
        let value = document.get_ref().values().next().expect("a value").get_ref();
        let read = Cpus.read(value).flatten().map(|set| set.to_string());
        assert_eq!(read.as_deref(), one, "{written}");
        let sets = CpusInTurn.read(value).map(|sets| sets.iter().map(CpuSet::to_string).collect::<Vec<_>>());
        assert_eq!(sets, in_turn.map(|sets| sets.iter().map(|set| (*set).to_owned()).collect()), "{written}");
    }

    #[test]
    fn numbers_text_and_lists() {
        check("3", Some("3"), Some(&["3"]));
        check("\"0,2-3\"", Some("0,2-3"), Some(&["0", "2", "3"]));
        check("\"0xc\"", Some("2-3"), Some(&["2", "3"]));
        check("[\"0-1\", 7, \"0x3\"]", None, Some(&["0-1", "7", "0-1"]));
        for wrong in
            ["-1", "1024", "0x3c", "1.5", "true", "\"\"", "[]", "[[0]]", "[\"x\"]", "[0, \"3-1\"]", "{ a = 1 }"]
        {
            check(wrong, None, None);
        }
    }
}
