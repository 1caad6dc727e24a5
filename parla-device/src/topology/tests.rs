//! Machines made up in a directory, and the limits on them.

use super::*;
use crate::files::MadeUpSystem;

/// One line per PU: OS index, first PU of its core, package, NUMA node, first PU of its L3.
type Row = (u32, u32, u32, u32, u32);

/// Writes a machine's sysfs, with `siblings` as the name of the list of a core's PUs.
fn machine(rows: &[Row], siblings: &str) -> MadeUpSystem {
    let system = MadeUpSystem::new(&[]);
    let list = |same: &dyn Fn(&Row) -> bool| {
        let pus: Vec<String> = rows
            .iter()
            .filter(|row| same(row))
            .map(|row| row.0.to_string())
            .collect();
        pus.join(",")
    };
    for &(pu, core, package, node, l3) in rows {
        let dir = format!("/sys/devices/system/cpu/cpu{pu}");
        system.write(
            &format!("{dir}/topology/{siblings}"),
            &list(&|row| row.1 == core),
        );
        system.write(
            &format!("{dir}/topology/physical_package_id"),
            &package.to_string(),
        );
        system.write(&format!("{dir}/cache/index0/level"), "1");
        system.write(
            &format!("{dir}/cache/index0/shared_cpu_list"),
            &pu.to_string(),
        );
        system.write(&format!("{dir}/cache/index3/level"), "3");
        system.write(
            &format!("{dir}/cache/index3/shared_cpu_list"),
            &list(&|row| row.4 == l3),
        );
        let node_dir = format!("/sys/devices/system/node/node{node}");
        system.write(&format!("{node_dir}/cpulist"), &list(&|row| row.3 == node));
        system.write(
            &format!("{node_dir}/meminfo"),
            &format!("Node {node} MemTotal: {} kB", node + 1),
        );
    }
    system.write("/sys/devices/system/cpu/online", &list(&|_| true));
    // Entries beside the CPUs that must not be taken for some.
    system.write("/sys/devices/system/cpu/cpufreq/policy", "");
    system
}

fn read(system: &MadeUpSystem) -> Topology {
    Topology::assemble(Source::Sysfs, sysfs::read_pus(&system.files), &system.files)
        .expect("the tree has PUs")
}

fn core(index: u32, pus: &[u32], package: u32, numa_node: u32, l3: u32) -> Core {
    Core {
        index,
        pus: pus.to_vec(),
        package,
        numa_node,
        l3: Some(l3),
    }
}

/// Two packages with a node each, two cores per package, two PUs per core numbered as on most servers:
/// first PUs of all cores, then second ones.
const SERVER: &[Row] = &[
    (0, 0, 0, 0, 0),
    (1, 1, 1, 1, 1),
    (2, 2, 0, 0, 0),
    (3, 3, 1, 1, 1),
    (4, 0, 0, 0, 0),
    (5, 1, 1, 1, 1),
    (6, 2, 0, 0, 0),
    (7, 3, 1, 1, 1),
];

#[test]
fn sysfs_of_a_server_with_two_packages() {
    for siblings in ["core_cpus_list", "thread_siblings_list"] {
        let topology = read(&machine(SERVER, siblings));
        assert_eq!(topology.packages, [0, 1]);
        let node = |os_index: u32| NumaNode {
            os_index,
            memory: Some(1024 * u64::from(os_index + 1)),
        };
        assert_eq!(topology.numa_nodes, [node(0), node(1)]);
        assert_eq!(
            topology.cores,
            [
                core(0, &[0, 4], 0, 0, 0),
                core(1, &[2, 6], 0, 0, 0),
                core(2, &[1, 5], 1, 1, 1),
                core(3, &[3, 7], 1, 1, 1),
            ]
        );
        assert_eq!(topology.n_pus(), 8);
        assert_eq!(topology.default_workers(), 4);
    }
}

#[test]
fn sparse_numbers_and_offline_pus() {
    let system = machine(
        &[(3, 3, 9, 4, 3), (12, 12, 9, 4, 12), (13, 12, 9, 4, 12)],
        "core_cpus_list",
    );
    system.write("/sys/devices/system/cpu/online", "3,13");
    let topology = read(&system);
    assert_eq!(topology.packages, [9]);
    assert_eq!(
        topology.numa_nodes,
        [NumaNode {
            os_index: 4,
            memory: Some(5120)
        }]
    );
    assert_eq!(
        topology.cores,
        [core(0, &[3], 0, 0, 0), core(1, &[13], 0, 0, 1)]
    );
}

#[test]
fn bare_cpu_directories_are_a_core_each() {
    let system = MadeUpSystem::new(&[
        (
            "/sys/devices/system/cpu/cpu0/topology/physical_package_id",
            "-1",
        ),
        (
            "/sys/devices/system/cpu/cpu1/topology/core_cpus_list",
            "damaged",
        ),
    ]);
    let topology = read(&system);
    let bare = |index| Core {
        index,
        pus: vec![index],
        package: 0,
        numa_node: 0,
        l3: None,
    };
    assert_eq!(topology.cores, [bare(0), bare(1)]);
    assert_eq!(
        (topology.packages.as_slice(), topology.numa_nodes.len()),
        ([0].as_slice(), 1)
    );
}

#[test]
fn further_memories_of_a_core_are_listed_after_its_closest() {
    let system = machine(&[(0, 0, 0, 0, 0)], "core_cpus_list");
    system.write("/sys/devices/system/node/node2/cpulist", "0");
    system.write("/sys/devices/system/node/node7/cpulist", "\n");
    let topology = read(&system);
    let nodes: Vec<u32> = topology
        .numa_nodes
        .iter()
        .map(|node| node.os_index)
        .collect();
    assert_eq!(
        (nodes.as_slice(), topology.cores[0].numa_node),
        ([0, 2].as_slice(), 0)
    );
}

#[test]
fn pus_that_make_no_machine_are_refused() {
    let files = SystemFiles::of_this_machine();
    let pu = Pu {
        os_index: 0,
        core: 0,
        package: None,
        nodes: vec![],
        l3: None,
    };
    assert!(Topology::assemble(Source::Hwloc, vec![], &files).is_none());
    assert!(Topology::assemble(Source::Hwloc, vec![pu.clone(), pu.clone()], &files).is_none());
    assert!(Topology::assemble(Source::Hwloc, vec![pu], &files).is_some());
}

#[test]
fn without_sysfs_the_affinity_mask_is_the_machine() {
    let topology = Topology::detect_without_hwloc(&MadeUpSystem::new(&[]).files);
    assert_eq!(topology.source, Source::Std);
    let pus: Vec<u32> = topology
        .cores
        .iter()
        .flat_map(|core| core.pus.clone())
        .collect();
    match &topology.allowed_pus {
        Some(allowed) => assert_eq!(&pus, allowed),
        None => assert!(!pus.is_empty()),
    }
    assert_eq!(Topology::of_count(Some(&[2, 5])).cores[1].pus, [5]);
    assert!(!Topology::of_count(Some(&[])).cores.is_empty());
    assert!(!Topology::of_count(None).cores.is_empty());
}

#[test]
fn affinity_limits_cores_and_their_pus() {
    let server = read(&machine(SERVER, "core_cpus_list"));
    let usable = |allowed: &[u32]| {
        let limited = Topology {
            allowed_pus: Some(allowed.to_vec()),
            ..server.clone()
        };
        assert_eq!(limited.default_workers(), limited.usable_cores().len());
        limited.usable_cores()
    };
    // Both PUs of one core, and one PU of another.
    assert_eq!(
        usable(&[1, 5, 6]),
        [core(1, &[6], 0, 0, 0), core(2, &[1, 5], 1, 1, 1)]
    );
    assert_eq!(usable(&[0, 1, 2, 3, 4, 5, 6, 7]), server.cores);
    assert_eq!(
        usable(&[99]),
        server.cores,
        "a mask of unknown PUs limits nothing"
    );
}

#[test]
fn the_cpu_quota_bounds_the_workers() {
    let server = read(&machine(SERVER, "core_cpus_list"));
    for (cpu_quota, expected) in [
        (None, 4),
        (Some(1), 1),
        (Some(3), 3),
        (Some(64), 4),
        (Some(0), 1),
    ] {
        let limited = Topology {
            cpu_quota,
            ..server.clone()
        };
        assert_eq!(limited.default_workers(), expected, "{cpu_quota:?}");
    }
}

#[test]
fn the_quota_is_read_from_the_group() {
    let system = machine(SERVER, "core_cpus_list");
    system.write("/proc/self/cgroup", "0::/job\n");
    system.write("/proc/self/mountinfo", "1 2 0:3 / /cg rw - cgroup2 none rw");
    system.write("/cg/job/cpu.max", "250000 100000");
    let limited = read(&system).limited(None, &system.files);
    assert_eq!((limited.cpu_quota, limited.default_workers()), (Some(3), 3));
}
