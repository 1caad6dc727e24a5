//! Machines that hwloc makes up, each in a process of its own since the environment describes them.
#![cfg(feature = "hwloc")]

use std::env;
use std::process::Command;

use parla_device::{Source, Topology};

/// Runs the test `name` of this file again in a child with hwloc's view of another machine.
fn on_machine(name: &str, description: &str) {
    let output = Command::new(env::current_exe().expect("a test is a file"))
        .args([name, "--exact", "--ignored", "--test-threads=1"])
        .env("HWLOC_SYNTHETIC", description)
        .output()
        .expect("a test can be run again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn two_packages() {
    on_machine("in_child_two_packages", "pack:2 [numa] l3:1 core:4 pu:1");
}

#[test]
#[ignore = "run by two_packages, on its machine"]
fn in_child_two_packages() {
    let topology = Topology::detect();
    assert_eq!(topology.source, Source::Hwloc);
    assert_eq!(topology.packages, [0, 1]);
    let nodes: Vec<u32> = topology.numa_nodes.iter().map(|node| node.os_index).collect();
    assert_eq!(nodes, [0, 1]);
    assert!(topology.numa_nodes.iter().all(|node| node.memory.is_none()), "sizes would be of this machine");
    assert_eq!(topology.cores.len(), 8);
    for core in &topology.cores {
        let half = core.index / 4;
        assert_eq!((core.package, core.numa_node, core.l3), (half, half, Some(half)));
        assert_eq!(core.pus, [core.index]);
    }
    // The limits of this process are not those of another machine.
    assert_eq!((topology.allowed_pus.as_ref(), topology.cpu_quota), (None, None));
    assert_eq!(topology.default_workers(), 8);
}

#[test]
fn hardware_threads_without_caches() {
    on_machine("in_child_hardware_threads", "pack:1 core:3 pu:2");
}

#[test]
#[ignore = "run by hardware_threads_without_caches, on its machine"]
fn in_child_hardware_threads() {
    let topology = Topology::detect();
    let pus: Vec<&[u32]> = topology.cores.iter().map(|core| core.pus.as_slice()).collect();
    assert_eq!(pus, [[0, 1], [2, 3], [4, 5]]);
    assert!(topology.cores.iter().all(|core| core.l3.is_none()));
    assert_eq!((topology.n_pus(), topology.default_workers()), (6, 3));
}

#[test]
fn more_numa_nodes_than_packages() {
    on_machine("in_child_numa_nodes", "pack:1 group:2 [numa] core:2 pu:1");
}

#[test]
#[ignore = "run by more_numa_nodes_than_packages, on its machine"]
fn in_child_numa_nodes() {
    let topology = Topology::detect();
    assert_eq!((topology.packages.len(), topology.numa_nodes.len()), (1, 2));
    let nodes: Vec<u32> = topology.cores.iter().map(|core| core.numa_node).collect();
    assert_eq!(nodes, [0, 0, 1, 1]);
}

#[test]
fn hwloc_that_fails_gives_way_to_sysfs() {
    on_machine("in_child_nonsense", "nonsense:0 machine");
}

#[test]
#[ignore = "run by hwloc_that_fails_gives_way_to_sysfs, on its machine"]
fn in_child_nonsense() {
    // hwloc either refuses the description, or ignores it and looks at this machine.
    let topology = Topology::detect();
    assert!(matches!(topology.source, Source::Hwloc | Source::Sysfs), "{:?}", topology.source);
    assert!(!topology.cores.is_empty());
}
