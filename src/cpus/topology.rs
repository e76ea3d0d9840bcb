//! What the machine says about its CPUs, below /sys/devices/system (`Documentation/admin-guide/cputopology.rst` of the kernel):
//! which are there and on-line, which share a core, and which node's memory is near. Where nothing is said (a container without
//! /sys, a kernel without nodes) nothing is known, and that is no error. Never asks what this process is allowed.

use std::collections::BTreeMap;
use std::path::Path;

use super::CpuSet;

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Those that the machine has, on-line or not; none where that is not known.
    pub present: Option<CpuSet>,
    pub online: Option<CpuSet>,
    /// Those that the scheduler moves nothing to or from (`isolcpus=`).
    pub isolated: CpuSet,
    cpus: BTreeMap<usize, Cpu>,
}

/// One that is on-line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// The socket's number, and the core's in it. The kernel says -1 where the machine does not tell.
    pub package: Option<i32>,
    pub core: Option<i32>,
    /// All that are the same core, itself included.
    pub threads: CpuSet,
    pub node: Option<usize>,
}

impl Topology {
    /// Of this machine.
    pub fn of_this_machine() -> Topology {
        let system = Path::new("/sys/devices/system");
        Topology::read(&|path| std::fs::read_to_string(system.join(path)).ok())
    }

    /// `look` reads a file below /sys/devices/system.
    pub fn read(look: &dyn Fn(&str) -> Option<String>) -> Topology {
        let list = |path: &str| look(path).and_then(|text| CpuSet::of_kernel(&text));
        let some = |path: &str| list(path).filter(|cpus| !cpus.is_empty());
        let online = some("cpu/online");
        let present = some("cpu/present").or_else(|| some("cpu/possible"));
        let isolated = list("cpu/isolated").unwrap_or_default();
        let known = online.clone().or_else(|| present.clone()).unwrap_or_default();
        let mut cpus: BTreeMap<usize, Cpu> =
            known.iter().filter_map(|cpu| Some((cpu, Cpu::read(cpu, &known, look)?))).collect();
        // Kernels without them, and machines of one thread a core, may say who is which core only.
        let cores: Vec<(usize, i32, i32)> =
            cpus.iter().filter_map(|(number, cpu)| Some((*number, cpu.package?, cpu.core?))).collect();
        for (number, cpu) in &mut cpus {
            if cpu.threads.is_empty() {
                let same =
                    cores.iter().filter(|(_, package, core)| (Some(*package), Some(*core)) == (cpu.package, cpu.core));
                cpu.threads = same.map(|(number, ..)| *number).chain([*number]).collect();
            }
        }
        for node in some("node/online").unwrap_or_default().iter() {
            for number in list(&format!("node/node{node}/cpulist")).unwrap_or_default().iter() {
                if let Some(cpu) = cpus.get_mut(&number) {
                    cpu.node = Some(node);
                }
            }
        }
        Topology { present, online, isolated, cpus }
    }

    /// Whether anything is known about cores.
    pub fn is_known(&self) -> bool {
        !self.cpus.is_empty()
    }

    pub fn cpu(&self, number: usize) -> Option<&Cpu> {
        self.cpus.get(&number)
    }

    /// The others of the same core as one of these.
    pub fn siblings(&self, of: &CpuSet) -> CpuSet {
        let threads = of.iter().filter_map(|cpu| self.cpu(cpu)).flat_map(|cpu| cpu.threads.iter());
        threads.collect::<CpuSet>().without(of)
    }

    /// The cores that these belong to, each as all of its CPUs. One of which nothing is known is a core by itself.
    pub fn cores(&self, of: &CpuSet) -> Vec<CpuSet> {
        let core = |number| self.cpu(number).map_or_else(|| CpuSet::of(number), |cpu| cpu.threads.clone());
        let mut cores: Vec<CpuSet> = of.iter().map(core).collect();
        cores.sort();
        cores.dedup();
        cores
    }

    /// The nodes that these belong to, as far as they have one.
    pub fn nodes(&self, of: &CpuSet) -> Vec<usize> {
        let mut nodes: Vec<usize> = of.iter().filter_map(|number| self.cpu(number)?.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// How many sockets they are in, as far as that is known.
    pub fn packages(&self, of: &CpuSet) -> usize {
        let mut packages: Vec<i32> = of.iter().filter_map(|number| self.cpu(number)?.package).collect();
        packages.sort_unstable();
        packages.dedup();
        packages.len()
    }
}

impl Cpu {
    /// Nothing where its directory says nothing.
    fn read(number: usize, online: &CpuSet, look: &dyn Fn(&str) -> Option<String>) -> Option<Cpu> {
        let file = |name: &str| look(&format!("cpu/cpu{number}/topology/{name}"));
        let id = |name: &str| file(name).and_then(|text| text.trim().parse::<i32>().ok()).filter(|id| *id >= 0);
        // Its name since Linux 5.3; the older one says the same.
        let threads = file("core_cpus_list").or_else(|| file("thread_siblings_list"));
        let threads = threads.and_then(|text| CpuSet::of_kernel(&text)).unwrap_or_default().and(online);
        let cpu = Cpu { package: id("physical_package_id"), core: id("core_id"), threads, node: None };
        (cpu != Cpu::default()).then_some(cpu)
    }
}

/// Files and what they hold, as `path: text`; for tests of whoever asks about machines that are not at hand.
#[cfg(test)]
pub(crate) fn tree(files: &str) -> Topology {
    let files: BTreeMap<&str, &str> =
        files.lines().filter_map(|line| line.trim().split_once(':')).map(|(path, text)| (path, text.trim())).collect();
    Topology::read(&|path| files.get(path).map(|text| format!("{text}\n")))
}

/// A machine of sockets, each a node, of cores, of threads, numbered as Linux does on most: the first thread of every core
/// first.
#[cfg(test)]
pub(crate) fn machine(packages: usize, cores: usize, threads: usize) -> Topology {
    let (all, total) = (packages * cores, packages * cores * threads);
    let mut files = format!("cpu/present: 0-{0}\ncpu/online: 0-{0}\nnode/online: 0-{1}\n", total - 1, packages - 1);
    for cpu in 0..total {
        let (package, core) = (cpu % all / cores, cpu % all);
        let same: CpuSet = (0..threads).map(|thread| thread * all + core).collect();
        files += &format!(
            "cpu/cpu{cpu}/topology/physical_package_id: {package}\ncpu/cpu{cpu}/topology/core_id: {}\n\
             cpu/cpu{cpu}/topology/core_cpus_list: {same}\n",
            core % cores
        );
    }
    for package in 0..packages {
        let of: CpuSet = (0..total).filter(|cpu| cpu % all / cores == package).collect();
        files += &format!("node/node{package}/cpulist: {of}\n");
    }
    tree(&files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores in parentheses, then nodes: what of the CPUs is known.
    #[track_caller]
    fn check(topology: &Topology, expectation: &str) {
        let known: CpuSet = topology.cpus.keys().copied().collect();
        let cores: Vec<String> = topology.cores(&known).iter().map(|core| format!("({core})")).collect();
        let nodes: Vec<String> = topology
            .nodes(&known)
            .into_iter()
            .map(|node| {
                let of: CpuSet = known.iter().filter(|cpu| topology.cpu(*cpu).unwrap().node == Some(node)).collect();
                format!("node {node}: {of}")
            })
            .collect();
        let or_nothing = |set: &Option<CpuSet>| set.as_ref().map_or("unknown".to_owned(), CpuSet::to_string);
        let text = format!(
            "online {} of {}; {}; {}",
            or_nothing(&topology.online),
            or_nothing(&topology.present),
            cores.join(" "),
            nodes.join(" ")
        );
        assert_eq!(text, expectation);
    }

    #[test]
    fn ordinary_machines() {
        check(&machine(1, 2, 1), "online 0-1 of 0-1; (0) (1); node 0: 0-1");
        check(&machine(1, 4, 2), "online 0-7 of 0-7; (0,4) (1,5) (2,6) (3,7); node 0: 0-7");
        check(&machine(2, 2, 2), "online 0-7 of 0-7; (0,4) (1,5) (2,6) (3,7); node 0: 0-1,4-5 node 1: 2-3,6-7");
    }

    #[test]
    fn machines_that_are_odd() {
        // A container without /sys.
        check(&tree(""), "online unknown of unknown; ; ");
        assert!(!tree("").is_known());
        // Only the lists are there, as some sandboxes have it.
        check(&tree("cpu/online: 0-3\ncpu/present: 0-3"), "online 0-3 of 0-3; ; ");
        // One thread of a core is off-line: its core is the other one alone. It has no directory of its own any more, but lists
        // that were read a moment before may name it.
        check(
            &tree(
                "cpu/present: 0-3
                 cpu/online: 0,2-3
                 cpu/cpu0/topology/core_cpus_list: 0-1
                 cpu/cpu2/topology/core_cpus_list: 2-3
                 cpu/cpu3/topology/core_cpus_list: 2-3",
            ),
            "online 0,2-3 of 0-3; (0) (2-3); ",
        );
        // An old kernel: the older name, threads next to each other.
        check(
            &tree(
                "cpu/possible: 0-63
                 cpu/online: 0-3
                 cpu/cpu0/topology/thread_siblings_list: 0-1
                 cpu/cpu1/topology/thread_siblings_list: 0-1
                 cpu/cpu2/topology/thread_siblings_list: 2-3
                 cpu/cpu3/topology/thread_siblings_list: 2-3
                 node/online: 0
                 node/node0/cpulist: 0-3",
            ),
            "online 0-3 of 0-63; (0-1) (2-3); node 0: 0-3",
        );
        // Who is which core, and no list: core 0 of one socket is not core 0 of the other.
        check(
            &tree(
                "cpu/online: 0-3
                 cpu/cpu0/topology/physical_package_id: 0
                 cpu/cpu0/topology/core_id: 0
                 cpu/cpu1/topology/physical_package_id: 1
                 cpu/cpu1/topology/core_id: 0
                 cpu/cpu2/topology/physical_package_id: 0
                 cpu/cpu2/topology/core_id: 0
                 cpu/cpu3/topology/physical_package_id: 1
                 cpu/cpu3/topology/core_id: 0",
            ),
            "online 0-3 of unknown; (0,2) (1,3); ",
        );
        // A virtual machine that does not tell: -1 is nobody's core.
        check(
            &tree(
                "cpu/online: 0-1
                 cpu/cpu0/topology/physical_package_id: -1
                 cpu/cpu0/topology/core_id: -1
                 cpu/cpu0/topology/core_cpus_list: 0
                 cpu/cpu1/topology/physical_package_id: -1
                 cpu/cpu1/topology/core_id: -1
                 cpu/cpu1/topology/core_cpus_list: 1",
            ),
            "online 0-1 of unknown; (0) (1); ",
        );
        // A node of memory alone, one whose CPUs are all off-line, and numbers with holes.
        check(
            &tree(
                "cpu/online: 0,8
                 cpu/cpu0/topology/core_cpus_list: 0
                 cpu/cpu8/topology/core_cpus_list: 8
                 node/online: 0,2-4
                 node/node0/cpulist: 0
                 node/node2/cpulist:
                 node/node3/cpulist: 4-7
                 node/node4/cpulist: 8-11",
            ),
            "online 0,8 of unknown; (0) (8); node 0: 0 node 4: 8",
        );
        // Text that is none of this.
        check(
            &tree("cpu/online: many\ncpu/present: 0-1\ncpu/cpu0/topology/core_id: zero"),
            "online unknown of 0-1; ; ",
        );
    }

    #[test]
    fn questions_about_sets() {
        let topology = machine(2, 2, 2);
        let set = |text| CpuSet::parse(text).unwrap();
        assert_eq!(topology.siblings(&set("0-1")), set("4-5"));
        assert_eq!(topology.siblings(&set("0,4")), CpuSet::default());
        assert_eq!((topology.nodes(&set("0,4")), topology.nodes(&set("1-2"))), (vec![0], vec![0, 1]));
        assert_eq!((topology.packages(&set("0-1")), topology.packages(&set("0-7"))), (1, 2));
        assert_eq!(topology.cores(&set("0,4,9")), [set("0,4"), set("9")]);
        assert_eq!(tree("cpu/isolated: 2-3").isolated, set("2-3"));
    }

    #[test]
    fn this_machine_says_where_this_thread_may_run() {
        let (topology, allowed) = (Topology::of_this_machine(), super::super::allowed().unwrap());
        if let Some(online) = topology.online {
            assert!(allowed.is_within(&online), "{allowed} of {online}");
        }
    }
}
