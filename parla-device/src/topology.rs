//! The processors of this machine as plain data, and which of them this process may use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::affinity;
use crate::cgroup;
use crate::files::SystemFiles;

#[cfg(all(feature = "hwloc", unix, target_pointer_width = "64"))]
mod hwloc;
mod sysfs;

/// Packages, NUMA nodes and cores of a machine, and the limits of this process on them.
///
/// Cores and NUMA nodes refer to each other by index into these lists; the operating system's own numbers
/// are called OS indices.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// Where all this was read from.
    pub source: Source,
    /// The OS indices of the packages (sockets).
    pub packages: Vec<u32>,
    /// The NUMA nodes that are local to some core.
    pub numa_nodes: Vec<NumaNode>,
    /// The physical cores, neighbours next to each other.
    pub cores: Vec<Core>,
    /// The OS indices of the PUs that this process may run on, ascending: its affinity mask. `None` when
    /// there is no such limit.
    pub allowed_pus: Option<Vec<u32>>,
    /// The CPUs' worth of time that this process's control group grants, rounded up to whole CPUs. `None`
    /// when there is no such limit.
    pub cpu_quota: Option<u32>,
}

/// A physical core and the PUs (hardware threads) on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Core {
    /// The position in [`Topology::cores`].
    pub index: u32,
    /// The OS indices of its PUs, ascending, at least one.
    pub pus: Vec<u32>,
    /// The index in [`Topology::packages`] of the package it is part of.
    pub package: u32,
    /// The index in [`Topology::numa_nodes`] of the memory closest to it.
    pub numa_node: u32,
    /// A number that cores with a common last-level (L3) cache share, where the caches are known.
    pub l3: Option<u32>,
}

/// A memory and the cores that it is local to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NumaNode {
    /// The operating system's number.
    pub os_index: u32,
    /// Its size in bytes, where the system says so.
    pub memory: Option<u64>,
}

/// Where a [`Topology`] was read from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The hwloc library.
    Hwloc,
    /// The kernel's `/sys/devices/system/cpu`.
    Sysfs,
    /// Only the number of processors is known, from the standard library: each counts as a core.
    Std,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hwloc => "hwloc",
            Self::Sysfs => "sysfs",
            Self::Std => "std",
        })
    }
}

impl Topology {
    /// Reads the machine: through hwloc if the feature is on, else or if that fails from sysfs, else from
    /// the standard library. Never fails, prints nothing, and costs milliseconds: call it once.
    ///
    /// The affinity mask is that of the calling thread, so call this before binding it.
    ///
    /// hwloc can be told to describe another machine (`HWLOC_SYNTHETIC`, `HWLOC_XMLFILE`). The limits of
    /// this process and the sizes of NUMA nodes are still those that the system here reports.
    #[must_use]
    pub fn detect() -> Self {
        let files = SystemFiles::of_this_machine();
        #[cfg(all(feature = "hwloc", unix, target_pointer_width = "64"))]
        if let Some(topology) =
            hwloc::read_pus().and_then(|pus| Self::assemble(Source::Hwloc, pus, &files))
        {
            return topology.limited(affinity::allowed_pus(), &files);
        }
        Self::detect_without_hwloc(&files)
    }

    fn detect_without_hwloc(files: &SystemFiles) -> Self {
        let allowed = affinity::allowed_pus();
        Self::assemble(Source::Sysfs, sysfs::read_pus(files), files)
            .unwrap_or_else(|| Self::of_count(allowed.as_deref()))
            .limited(allowed, files)
    }

    /// The cores that this process may run on, with only those of their PUs that it may run on; never
    /// empty. Indices are those of [`Topology::cores`].
    #[must_use]
    pub fn usable_cores(&self) -> Vec<Core> {
        let Some(allowed) = &self.allowed_pus else {
            return self.cores.clone();
        };
        let usable: Vec<Core> = self
            .cores
            .iter()
            .map(|core| {
                let pus = core
                    .pus
                    .iter()
                    .copied()
                    .filter(|pu| allowed.binary_search(pu).is_ok());
                Core {
                    pus: pus.collect(),
                    ..core.clone()
                }
            })
            .filter(|core| !core.pus.is_empty())
            .collect();
        // A mask of PUs that we have never heard of limits nothing.
        if usable.is_empty() {
            self.cores.clone()
        } else {
            usable
        }
    }

    /// The number of workers that keeps this process's share of the machine busy: one for each physical
    /// core it may run on, no more than its control group grants CPUs, at least 1.
    #[must_use]
    pub fn default_workers(&self) -> usize {
        let granted = self.cpu_quota.map_or(usize::MAX, |cpus| cpus as usize);
        self.usable_cores().len().min(granted).max(1)
    }

    /// The number of PUs (hardware threads) of the whole machine.
    #[must_use]
    pub fn n_pus(&self) -> usize {
        self.cores.iter().map(|core| core.pus.len()).sum()
    }

    /// Numbers packages, nodes, cores and caches in the order in which the PUs name them. `None` when the
    /// PUs make no machine: there are none, or one is listed twice.
    fn assemble(source: Source, pus: Vec<Pu>, files: &SystemFiles) -> Option<Self> {
        let distinct: BTreeSet<u32> = pus.iter().map(|pu| pu.os_index).collect();
        if pus.is_empty() || distinct.len() < pus.len() {
            return None;
        }
        let (mut packages, mut nodes, mut caches) =
            (Numbering::new(), Numbering::new(), Numbering::new());
        let mut core_numbers = Numbering::new();
        let mut cores: Vec<Core> = Vec::new();
        for pu in pus {
            let core = core_numbers.number_of(pu.core);
            if core as usize == cores.len() {
                let numa_node = nodes.number_of(pu.nodes.first().copied().unwrap_or(0));
                cores.push(Core {
                    index: core,
                    pus: Vec::new(),
                    package: packages.number_of(pu.package.unwrap_or(0)),
                    numa_node,
                    l3: pu.l3.map(|l3| caches.number_of(l3)),
                });
            }
            cores[core as usize].pus.push(pu.os_index);
            for node in pu.nodes {
                nodes.number_of(node);
            }
        }
        for core in &mut cores {
            core.pus.sort_unstable();
        }
        let numa_nodes = nodes
            .names
            .into_iter()
            .map(|os_index| NumaNode {
                os_index,
                memory: sysfs::node_memory(files, os_index),
            })
            .collect();
        Some(Self {
            source,
            packages: packages.names,
            numa_nodes,
            cores,
            allowed_pus: None,
            cpu_quota: None,
        })
    }

    /// A machine of which nothing but a number of processors is known.
    fn of_count(allowed: Option<&[u32]>) -> Self {
        let pus: Vec<u32> = match allowed {
            Some(allowed) if !allowed.is_empty() => allowed.to_vec(),
            _ => {
                let count = std::thread::available_parallelism().map_or(1, usize::from);
                (0..u32::try_from(count).unwrap_or(u32::MAX)).collect()
            }
        };
        let core = |(index, pu)| Core {
            index,
            pus: vec![pu],
            package: 0,
            numa_node: 0,
            l3: None,
        };
        Self {
            source: Source::Std,
            packages: vec![0],
            numa_nodes: vec![NumaNode {
                os_index: 0,
                memory: None,
            }],
            cores: (0_u32..).zip(pus).map(core).collect(),
            allowed_pus: None,
            cpu_quota: None,
        }
    }

    fn limited(self, allowed_pus: Option<Vec<u32>>, files: &SystemFiles) -> Self {
        Self {
            allowed_pus,
            cpu_quota: cgroup::cpu_quota(files),
            ..self
        }
    }
}

/// What a source says about one PU. Names are any numbers that are equal for PUs with a common part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pu {
    os_index: u32,
    core: u32,
    package: Option<u32>,
    /// OS indices of the local memories, the closest first; empty when unknown.
    nodes: Vec<u32>,
    l3: Option<u32>,
}

/// Gives names the numbers 0, 1, ... in the order in which they come up.
struct Numbering {
    names: Vec<u32>,
    numbers: BTreeMap<u32, u32>,
}

impl Numbering {
    fn new() -> Self {
        Self {
            names: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    fn number_of(&mut self, name: u32) -> u32 {
        let next = u32::try_from(self.names.len()).expect("names are distinct u32 numbers of PUs");
        *self.numbers.entry(name).or_insert_with(|| {
            self.names.push(name);
            next
        })
    }
}

#[cfg(test)]
mod tests;
