//! A set of CPUs, by the kernel's numbers: how it is written, and how it is shown.

use std::collections::BTreeSet;
use std::fmt;

/// Numbers are smaller: as many as a `cpu_set_t` of the C library holds.
pub const CPUS_MAX: usize = rustix::thread::CpuSet::MAX_CPU;

/// The kernel writes masks in groups of so many digits.
const MASK_GROUP: usize = 8;

/// See the module's text. Shown as `0-2,5`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet(BTreeSet<usize>);

impl CpuSet {
    /// What people write: a list (`0,2-5`; `0-30:2` is every second one), or a mask as taskset(1) takes them (`0x3d`). Nothing
    /// twice, and at least one.
    pub fn parse(text: &str) -> Option<CpuSet> {
        let text = text.trim();
        let set = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => mask(digits)?,
            None => list(text)?,
        };
        (!set.is_empty()).then_some(set)
    }

    /// What the kernel writes: a list, which may be empty.
    pub fn of_kernel(text: &str) -> Option<CpuSet> {
        let text = text.trim();
        if text.is_empty() { Some(CpuSet::default()) } else { list(text) }
    }

    pub fn of(cpu: usize) -> CpuSet {
        CpuSet(BTreeSet::from([cpu]))
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    pub fn first(&self) -> Option<usize> {
        self.0.first().copied()
    }

    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn is_within(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }

    pub fn meets(&self, other: &CpuSet) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    pub fn without(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 - &other.0)
    }

    /// Those that are in both.
    pub fn and(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 & &other.0)
    }

    /// Those that are in one of them.
    pub fn or(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 | &other.0)
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        if ranges.is_empty() {
            return f.write_str("none");
        }
        for (index, (first, last)) in ranges.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn list(text: &str) -> Option<CpuSet> {
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (range, stride) = match part.split_once(':') {
            Some((range, stride)) => (range, number(stride).filter(|stride| *stride > 0)?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None if stride == 1 => (number(range)?, number(range)?),
            None => return None,
        };
        if first > last || !(first..=last).step_by(stride).all(|cpu| set.insert(cpu)) {
            return None;
        }
    }
    Some(CpuSet(set))
}

fn number(digits: &str) -> Option<usize> {
    let digits = digits.trim();
    // `parse` would take a sign.
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|cpu| plain && *cpu < CPUS_MAX)
}

/// The last digit has CPUs 0 to 3.
fn mask(digits: &str) -> Option<CpuSet> {
    let groups: Vec<&str> = digits.split(',').collect();
    if groups.iter().skip(1).any(|group| group.len() != MASK_GROUP) {
        return None;
    }
    let mut set = BTreeSet::new();
    for (place, digit) in groups.concat().chars().rev().enumerate() {
        let bits = digit.to_digit(16)?;
        set.extend((0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| place * 4 + bit));
    }
    (!groups[0].is_empty() && set.last().is_none_or(|last| *last < CPUS_MAX)).then_some(CpuSet(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, expectation: Option<&str>) {
        assert_eq!(CpuSet::parse(written).map(|set| set.to_string()).as_deref(), expectation, "{written:?}");
    }

    #[test]
    fn lists_and_masks() {
        for (written, set) in [
            ("0", "0"),
            ("1-3,7", "1-3,7"),
            (" 0 , 2 - 5 ", "0,2-5"),
            ("5,0-2", "0-2,5"),
            ("0-6:2", "0,2,4,6"),
            ("0-3:2,1", "0-2"),
            ("1023", "1023"),
            ("0x1", "0"),
            ("0x3d", "0,2-5"),
            ("0X3D", "0,2-5"),
            ("0x1,00000000", "32"),
            ("0x8000000000000000", "63"),
        ] {
            check(written, Some(set));
        }
        for wrong in [
            "",
            "x",
            "3-1",
            "0-3,2",
            "-1",
            "+1",
            "1,,2",
            "1,",
            "1024",
            "0-1000000",
            "99999999999999999999",
            "0-4:0",
            "3:1:1",
            "3:2",
            "0x",
            "0x0",
            "0xg",
            "0x,1",
            "0x1,0",
            "1-",
            "1-2-3",
        ] {
            check(wrong, None);
        }
        check(&format!("0x1{}", "0".repeat(CPUS_MAX / 4)), None);
    }

    #[test]
    fn the_kernel_s_lists_may_be_empty() {
        assert_eq!(CpuSet::of_kernel("\n"), Some(CpuSet::default()));
        assert_eq!(CpuSet::of_kernel("0-1,4\n").unwrap().to_string(), "0-1,4");
        assert_eq!(CpuSet::default().to_string(), "none");
    }
}
