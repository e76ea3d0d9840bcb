//! CPUs: sets of them as people write them, which of them share a core or a node, and where this process's threads run. It
//! decides nothing: what runs where says the configuration, whether that is wise says `check`.

mod affinity;
mod set;
mod topology;

pub use affinity::{Place, allowed, confine_all, inherited_from, spawn};
pub use set::{CPUS_MAX, CpuSet};
pub use topology::{Cpu, Topology};
#[cfg(test)]
pub(crate) use topology::{machine, tree};
