//! Machines that hwloc makes up, each in a process of its own since the environment describes them.
#![cfg(feature = "hwloc")]

use std::env;
use std::process::Command;

use parla_device::{Source, Topology};

/// Runs `check` where hwloc sees what the environment variable `hint` tells it: the test `name`, which
/// called this, is run again in a child process that has the variable, and calls this again there.
fn with_hint(name: &str, hint: (&str, &str), check: fn(Topology)) {
    let (variable, value) = hint;
    if env::var_os(variable).is_some_and(|set| set == value) {
        return check(Topology::detect());
    }
    let output = Command::new(env::current_exe().expect("a test is a file"))
        .args([name, "--exact", "--test-threads=1", "--nocapture"])
        .env(variable, value)
        .output()
        .expect("a test can be run again");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{out}\n{err}"
    );
    assert_eq!(err, "", "detection prints nothing");
}

fn on_machine(name: &str, description: &str, check: fn(Topology)) {
    with_hint(name, ("HWLOC_SYNTHETIC", description), check);
}

#[test]
fn two_packages() {
    on_machine(
        "two_packages",
        "pack:2 [numa] l3:1 core:4 pu:1",
        |topology| {
            assert_eq!(topology.source, Source::Hwloc);
            assert_eq!(topology.packages, [0, 1]);
            let nodes: Vec<u32> = topology
                .numa_nodes
                .iter()
                .map(|node| node.os_index)
                .collect();
            assert_eq!(nodes, [0, 1]);
            assert_eq!(topology.cores.len(), 8);
            for core in &topology.cores {
                let half = core.index / 4;
                assert_eq!(
                    (core.package, core.numa_node, core.l3),
                    (half, half, Some(half))
                );
                assert_eq!(core.pus, [core.index]);
            }
            assert_eq!(topology.n_pus(), 8);
        },
    );
}

#[test]
fn hardware_threads_without_caches() {
    on_machine(
        "hardware_threads_without_caches",
        "pack:1 core:3 pu:2",
        |topology| {
            let pus: Vec<&[u32]> = topology
                .cores
                .iter()
                .map(|core| core.pus.as_slice())
                .collect();
            assert_eq!(pus, [[0, 1], [2, 3], [4, 5]]);
            assert!(topology.cores.iter().all(|core| core.l3.is_none()));
            assert_eq!(topology.n_pus(), 6);
        },
    );
}

#[test]
fn more_numa_nodes_than_packages() {
    on_machine(
        "more_numa_nodes_than_packages",
        "pack:1 group:2 [numa] core:2 pu:1",
        |topology| {
            assert_eq!((topology.packages.len(), topology.numa_nodes.len()), (1, 2));
            let nodes: Vec<u32> = topology.cores.iter().map(|core| core.numa_node).collect();
            assert_eq!(nodes, [0, 0, 1, 1]);
        },
    );
}

#[test]
fn pus_outside_of_all_cores_are_cores() {
    on_machine(
        "pus_outside_of_all_cores_are_cores",
        "pack:2 pu:3",
        |topology| {
            assert_eq!(topology.source, Source::Hwloc);
            assert_eq!(topology.cores.len(), 6);
            let packages: Vec<u32> = topology.cores.iter().map(|core| core.package).collect();
            assert_eq!(packages, [0, 0, 0, 1, 1, 1]);
        },
    );
}

#[test]
#[cfg(target_os = "linux")]
fn hwloc_that_fails_gives_way_to_sysfs() {
    // "stop" leaves hwloc without any way to discover a machine.
    let hint = ("HWLOC_COMPONENTS", "stop");
    with_hint("hwloc_that_fails_gives_way_to_sysfs", hint, |topology| {
        assert_eq!(topology.source, Source::Sysfs);
        assert!(!topology.cores.is_empty());
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_affinity_mask_limits_what_hwloc_reports() {
    on_machine(
        "the_affinity_mask_limits_what_hwloc_reports",
        "pack:64 core:64 pu:1",
        |topology| {
            let allowed = topology
                .allowed_pus
                .clone()
                .expect("Linux has affinity masks");
            let usable: Vec<u32> = topology
                .usable_cores()
                .into_iter()
                .flat_map(|core| core.pus)
                .collect();
            assert_eq!(topology.cores.len(), 4096);
            assert_eq!(usable, allowed);
        },
    );
}
