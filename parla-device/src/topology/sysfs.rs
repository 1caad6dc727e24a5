//! The topology as the Linux kernel shows it under `/sys/devices/system`.

use std::collections::BTreeMap;

use super::Pu;
use crate::files::{SystemFiles, parse_cpu_list};
use crate::memory::parse_mem_total;

const CPU: &str = "/sys/devices/system/cpu";
const NODE: &str = "/sys/devices/system/node";

/// All PUs that are online, neighbours next to each other; empty when sysfs is not there.
pub(super) fn read_pus(files: &SystemFiles) -> Vec<Pu> {
    let online = files
        .read(&format!("{CPU}/online"))
        .and_then(|text| parse_cpu_list(&text));
    let nodes = nodes_of_pus(files);
    let mut pus: Vec<Pu> = files
        .numbered_entries(CPU, "cpu")
        .into_iter()
        .filter(|os_index| {
            online
                .as_ref()
                .is_none_or(|online| online.binary_search(os_index).is_ok())
        })
        .map(|os_index| {
            read_pu(
                files,
                os_index,
                nodes.get(&os_index).cloned().unwrap_or_default(),
            )
        })
        .collect();
    pus.sort_by_key(|pu| {
        (
            pu.package,
            pu.nodes.first().copied(),
            pu.l3,
            pu.core,
            pu.os_index,
        )
    });
    pus
}

/// The size of a NUMA node's memory in bytes.
pub(super) fn node_memory(files: &SystemFiles, os_index: u32) -> Option<u64> {
    parse_mem_total(&files.read(&format!("{NODE}/node{os_index}/meminfo"))?)
}

fn read_pu(files: &SystemFiles, os_index: u32, nodes: Vec<u32>) -> Pu {
    let dir = format!("{CPU}/cpu{os_index}");
    // Core numbers repeat from package to package, so a core goes by the name of its first PU.
    // Kernels before 5.3 call the file thread_siblings_list.
    let core = first_of_list(files, &format!("{dir}/topology/core_cpus_list"))
        .or_else(|| first_of_list(files, &format!("{dir}/topology/thread_siblings_list")))
        .unwrap_or(os_index);
    Pu {
        os_index,
        core,
        // Negative where the firmware does not say, which parses as unknown.
        package: files.read_u32(&format!("{dir}/topology/physical_package_id")),
        nodes,
        l3: l3_of(files, &dir),
    }
}

/// The first PU of the L3 cache that serves this PU: cache ids are newer than many kernels.
fn l3_of(files: &SystemFiles, cpu_dir: &str) -> Option<u32> {
    let caches = format!("{cpu_dir}/cache");
    files
        .numbered_entries(&caches, "index")
        .into_iter()
        .find_map(|index| {
            let cache = format!("{caches}/index{index}");
            (files.read_u32(&format!("{cache}/level")) == Some(3))
                .then(|| first_of_list(files, &format!("{cache}/shared_cpu_list")))?
        })
}

fn first_of_list(files: &SystemFiles, path: &str) -> Option<u32> {
    parse_cpu_list(&files.read(path)?)?.first().copied()
}

/// For each PU the memories that list it as local, ascending: memory that only accelerators or high
/// bandwidth devices own has higher numbers than the main memory.
fn nodes_of_pus(files: &SystemFiles) -> BTreeMap<u32, Vec<u32>> {
    let mut nodes_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for node in files.numbered_entries(NODE, "node") {
        let local = files.read(&format!("{NODE}/node{node}/cpulist"));
        for pu in local
            .and_then(|text| parse_cpu_list(&text))
            .unwrap_or_default()
        {
            nodes_of.entry(pu).or_default().push(node);
        }
    }
    nodes_of
}
