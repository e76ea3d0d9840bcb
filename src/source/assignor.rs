//! Which process of a group gets which partitions, as librdkafka's assignors deal them out (`rdkafka_range_assignor.c`,
//! `rdkafka_roundrobin_assignor.c` and `rdkafka_sticky_assignor.c` of its sources). Pure.
//!
//! A shard's partitions lie next to each other. How many processes have a part of it, and so how many connections write to it, depends
//! on who deals, and, where what members have is kept, on who came when:
//!
//! - `range`: blocks of neighbours, so whole shards.
//! - `roundrobin`: one each in turn, so each shard to everybody.
//! - `cooperative-sticky`: in turn as well for members that come at the same time; but whoever comes later gets the first partitions of
//!   those who have most, which are neighbours. After members came one by one, or after a rolling deployment, some shards are of one
//!   process. So is it with the assignors of a broker (`group.protocol = "consumer"`).

use crate::config::Kafka;
use crate::source::client::client_config;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    Range,
    RoundRobin,
    Sticky,
}

impl Assignor {
    /// The one that this configuration makes a member ask for: the first of a list, which all members of a group have.
    pub fn of(kafka: &Kafka) -> Assignor {
        let client = client_config(kafka);
        if client.get("group.protocol") == Some("consumer") {
            return Assignor::Sticky;
        }
        match client.get("partition.assignment.strategy").and_then(|list| list.split(',').next()).map(str::trim) {
            Some("roundrobin") => Assignor::RoundRobin,
            Some("cooperative-sticky") => Assignor::Sticky,
            _ => Assignor::Range,
        }
    }

    /// As the property has it.
    pub fn word(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::RoundRobin => "roundrobin",
            Assignor::Sticky => "cooperative-sticky",
        }
    }

    /// Whether a rebalance stops every partition, and not only those that move.
    pub fn is_eager(self) -> bool {
        self != Assignor::Sticky
    }

    /// So many of the processes have a part of a shard in any case. Those that keep neighbours together, or may, fill a shard with the
    /// largest parts that balanced processes have.
    pub fn fewest(self, processes: usize, shards: usize, partitions_per_shard: usize) -> usize {
        let processes = processes.max(1);
        if self == Assignor::RoundRobin {
            return processes.min(partitions_per_shard);
        }
        let all = shards * partitions_per_shard;
        let (least, larger) = (all / processes, all % processes);
        let in_larger = (least + 1) * larger;
        match partitions_per_shard <= in_larger {
            true => partitions_per_shard.div_ceil(least + 1),
            false => larger + (partitions_per_shard - in_larger).div_ceil(least),
        }
    }

    /// Who of those that are alive has each partition then, of one topic, after who had it; at least one is alive.
    pub fn assign(self, had: &[Option<usize>], alive: &[bool]) -> Vec<usize> {
        let members: Vec<usize> = (0..alive.len()).filter(|process| alive[*process]).collect();
        let (all, number) = (had.len(), members.len());
        match self {
            Assignor::RoundRobin => (0..all).map(|partition| members[partition % number]).collect(),
            Assignor::Range => {
                let (least, larger) = (all / number, all % number);
                let block = |i: usize| std::iter::repeat_n(members[i], least + usize::from(i < larger));
                (0..number).flat_map(block).collect()
            }
            Assignor::Sticky => sticky(had, &members, alive),
        }
    }
}

/// Everybody keeps what he has; what nobody has goes to whoever has fewest; then whoever has most gives his first ones to whoever has
/// fewest, until that makes nothing more even.
fn sticky(had: &[Option<usize>], members: &[usize], alive: &[bool]) -> Vec<usize> {
    let mut owners: Vec<Option<usize>> = had.iter().map(|owner| owner.filter(|process| alive[*process])).collect();
    let mut has = vec![0usize; alive.len()];
    owners.iter().flatten().for_each(|process| has[*process] += 1);
    let fewest = |has: &[usize]| *members.iter().min_by_key(|process| has[**process]).expect("somebody is alive");
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        let process = fewest(&has);
        has[process] += 1;
        *owner = Some(process);
    }
    let mut owners: Vec<usize> = owners.into_iter().flatten().collect();
    // From where on each one's first partition is to be looked for.
    let mut from = vec![0usize; alive.len()];
    loop {
        let (least, most) = (fewest(&has), *members.iter().max_by_key(|p| has[**p]).expect("somebody is alive"));
        if has[most] <= has[least] + 1 {
            return owners;
        }
        let first = (from[most]..owners.len()).find(|partition| owners[*partition] == most);
        let first = first.expect("whoever has most has one");
        from[most] = first + 1;
        owners[first] = least;
        (has[most], has[least]) = (has[most] - 1, has[least] + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SHARDS: usize = 40;
    const PER_SHARD: usize = 16;

    /// How many processes have a part of the shard of which fewest have one.
    fn fewest(owners: &[usize]) -> usize {
        let parts = owners.chunks(PER_SHARD).map(|shard| shard.iter().collect::<BTreeSet<_>>().len());
        parts.min().unwrap_or_default()
    }

    fn all(assignor: Assignor, alive: &[bool]) -> Vec<usize> {
        assignor.assign(&vec![None; SHARDS * PER_SHARD], alive)
    }

    /// Each process goes and comes back, one after the other.
    fn rolled(assignor: Assignor, mut owners: Vec<usize>, processes: usize) -> Vec<usize> {
        for gone in 0..processes {
            let mut alive = vec![true; processes];
            for here in [false, true] {
                alive[gone] = here;
                owners = assignor.assign(&owners.iter().copied().map(Some).collect::<Vec<_>>(), &alive);
            }
        }
        owners
    }

    /// What a plan counts on.
    #[test]
    fn how_many_processes_have_a_part_of_a_shard() {
        for (assignor, at_first, after_rolling) in
            [(Assignor::Range, 1, 1), (Assignor::RoundRobin, 5, 5), (Assignor::Sticky, 5, 1)]
        {
            let owners = all(assignor, &[true; 5]);
            let rolled = rolled(assignor, owners.clone(), 5);
            assert_eq!((fewest(&owners), fewest(&rolled)), (at_first, after_rolling), "{assignor:?}");
            assert_eq!(assignor.fewest(5, SHARDS, PER_SHARD), after_rolling, "{assignor:?}");
            let counts = (0..5).map(|process| rolled.iter().filter(|owner| **owner == process).count());
            assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1, "{assignor:?}");
        }
        // One database is everybody's, as far as there are partitions.
        for assignor in [Assignor::Range, Assignor::Sticky, Assignor::RoundRobin] {
            assert_eq!((assignor.fewest(5, 1, 8), assignor.fewest(5, 1, 2), assignor.fewest(1, 3, 8)), (5, 2, 1));
        }
        assert_eq!((Assignor::Range.fewest(8, 2, 8), Assignor::Range.fewest(5, 2, 8)), (4, 3));
    }

    #[test]
    fn who_is_gone_has_nothing_and_others_keep_what_they_have() {
        let owners = all(Assignor::Sticky, &[true; 4]);
        let had: Vec<_> = owners.iter().copied().map(Some).collect();
        let left = Assignor::Sticky.assign(&had, &[true, false, true, true]);
        assert!(left.iter().all(|owner| *owner != 1));
        assert!(owners.iter().zip(&left).all(|(before, after)| before == after || *before == 1));
        assert!(all(Assignor::Range, &[false, true, true]).is_sorted());
    }

    #[test]
    fn the_configuration_says_which() {
        let of = |more: &str| {
            let text = format!(
                "[kafka]\n\"bootstrap.servers\" = \"b\"\n\"group.id\" = \"g\"\n{more}\n[[shard]]\nname = \"main\"\ndsn = \"host=h\"\n\
                 [[topic]]\nname = \"t\"\ntable = \"t\"\n"
            );
            let loaded = crate::config::load::parse(std::path::Path::new("f"), &text, &|_| None).expect("valid");
            Assignor::of(&loaded.config.kafka)
        };
        assert_eq!(of(""), Assignor::Sticky);
        assert_eq!(of("\"partition.assignment.strategy\" = \"range,roundrobin\""), Assignor::Range);
        assert_eq!(of("\"partition.assignment.strategy\" = \"roundrobin\""), Assignor::RoundRobin);
        assert_eq!(of("\"group.protocol\" = \"consumer\""), Assignor::Sticky);
    }
}
