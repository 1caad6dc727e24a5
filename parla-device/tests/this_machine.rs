//! What is detected on the machine that runs the tests, whichever it is.

use std::collections::BTreeSet;
use std::thread;

use parla_device::{
    Backend, HostBackend, HostOptions, Source, Topology, available_memory, bind_current_thread,
};

#[test]
fn the_topology_is_consistent() {
    let topology = Topology::detect();
    assert!(!topology.cores.is_empty());

    let pus: Vec<u32> = topology
        .cores
        .iter()
        .flat_map(|core| core.pus.iter().copied())
        .collect();
    let distinct: BTreeSet<u32> = pus.iter().copied().collect();
    assert_eq!(distinct.len(), pus.len(), "a PU belongs to one core");
    assert_eq!(pus.len(), topology.n_pus());

    for (position, core) in topology.cores.iter().enumerate() {
        assert_eq!(core.index as usize, position);
        assert!(!core.pus.is_empty() && core.pus.is_sorted());
        assert!((core.package as usize) < topology.packages.len());
        assert!((core.numa_node as usize) < topology.numa_nodes.len());
    }
    for package in 0..topology.packages.len() {
        assert!(
            topology
                .cores
                .iter()
                .any(|core| core.package as usize == package)
        );
    }
}

#[test]
fn the_best_source_is_used() {
    let source = Topology::detect().source;
    if cfg!(feature = "hwloc") {
        assert_eq!(source, Source::Hwloc);
    } else if cfg!(target_os = "linux") {
        assert_eq!(source, Source::Sysfs);
    }
}

#[test]
fn workers_are_within_what_the_standard_library_sees() {
    let topology = Topology::detect();
    let parallelism = thread::available_parallelism()
        .expect("this machine has CPUs")
        .get();
    // The standard library counts PUs and rounds the quota down, we count cores and round it up.
    assert!((1..=parallelism + 1).contains(&topology.default_workers()));
    assert!(topology.default_workers() <= topology.usable_cores().len());
}

#[test]
fn detecting_again_gives_the_same() {
    assert_eq!(Topology::detect(), Topology::detect());
}

#[test]
fn memory_is_plausible() {
    let memory = available_memory().expect("this machine has memory");
    assert!((1 << 20..1 << 60).contains(&memory), "{memory}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_thread_can_be_bound_to_every_usable_core() {
    for core in Topology::detect().usable_cores() {
        let bound = thread::spawn(move || {
            bind_current_thread(&core).expect("the core is usable");
            // The mask is inherited, so a topology detected here is limited to this core.
            (Topology::detect().usable_cores(), core)
        });
        let (usable, core) = bound.join().expect("binding does not panic");
        assert_eq!(usable, [core]);
    }
}

#[test]
fn the_host_backend_uses_what_is_there() {
    let host = HostBackend::probe(&HostOptions::default()).expect("a default never fails");
    assert_eq!(host.devices().len(), 1);
    assert_eq!(
        host.devices()[0].memory_capacity(),
        available_memory().expect("this machine has memory")
    );
    assert_eq!(host.n_workers(), Topology::detect().default_workers());
}
