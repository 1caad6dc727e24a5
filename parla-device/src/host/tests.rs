//! Devices made of made-up machines.

use super::*;
use crate::topology::Topology;

const GIB: u64 = 1 << 30;

/// Two packages of two cores with two PUs each: core `i` has the PUs `i` and `i + 4`.
fn machine() -> Topology {
    let mut machine = Topology::detect();
    machine.packages = vec![0, 1];
    machine.cores = (0..4)
        .map(|index| Core {
            index,
            pus: vec![index, index + 4],
            package: index / 2,
            numa_node: 0,
            l3: None,
        })
        .collect();
    machine.allowed_pus = None;
    machine.cpu_quota = None;
    machine
}

fn backend(options: HostOptions) -> HostBackend {
    HostBackend::new(&options, &machine(), 8 * GIB).expect("the options are good")
}

#[test]
fn by_default_the_whole_machine_is_one_device() {
    let host = backend(HostOptions::default());
    assert_eq!(host.architecture(), "cpu");
    let devices = host.devices();
    assert_eq!(devices.len(), 1);
    assert_eq!((devices[0].index(), devices[0].name()), (0, "cpu:0"));
    assert_eq!(devices[0].memory_capacity(), 8 * GIB);
    assert_eq!(host.n_workers(), 4);
    assert_eq!(host.host_devices()[0].cores().len(), 4);
}

#[test]
fn each_core_can_be_a_device() {
    let host = backend(HostOptions {
        architecture: CpuArchitecture::Cores,
        ..Default::default()
    });
    assert_eq!(host.n_workers(), 4);
    for (index, device) in (0_u32..).zip(host.host_devices()) {
        assert_eq!(device.index(), index);
        assert_eq!(device.name(), format!("cpu:{index}"));
        assert_eq!(device.n_workers(), 1);
        assert_eq!(device.memory_capacity(), 2 * GIB);
        assert_eq!(device.core_of_worker(0).index, index);
    }
}

#[test]
fn workers_win_over_cores_which_only_bound() {
    for (workers, cores, expected) in [
        (None, None, 4),
        (None, Some(2), 2),
        (None, Some(100), 4),
        (Some(1), None, 1),
        (Some(7), None, 7),
        (Some(7), Some(2), 7),
        (Some(MAX_WORKERS), None, MAX_WORKERS),
    ] {
        let host = backend(HostOptions {
            workers,
            cores,
            ..Default::default()
        });
        assert_eq!(
            host.n_workers(),
            expected,
            "workers {workers:?}, cores {cores:?}"
        );
        assert_eq!(
            host.host_devices()[0].cores().len(),
            cores.unwrap_or(4).min(4)
        );
    }
}

#[test]
fn workers_go_round_the_cores() {
    let host = backend(HostOptions {
        workers: Some(5),
        cores: Some(2),
        ..Default::default()
    });
    let device = &host.host_devices()[0];
    let cores: Vec<u32> = (0..5)
        .map(|worker| device.core_of_worker(worker).index)
        .collect();
    assert_eq!(cores, [0, 1, 0, 1, 0]);
}

#[test]
fn the_cpu_quota_and_the_affinity_mask_bound_the_workers() {
    let mut machine = machine();
    machine.cpu_quota = Some(3);
    let n_workers = |machine: &Topology| {
        HostBackend::new(&HostOptions::default(), machine, GIB)
            .expect("the options are good")
            .n_workers()
    };
    assert_eq!(n_workers(&machine), 3);
    machine.allowed_pus = Some(vec![5, 1]);
    machine
        .allowed_pus
        .as_mut()
        .expect("just set")
        .sort_unstable();
    assert_eq!(n_workers(&machine), 1);
}

#[test]
fn the_memory_asked_for_replaces_what_is_available() {
    let host = backend(HostOptions {
        memory: Some(GIB),
        ..Default::default()
    });
    assert_eq!(host.devices()[0].memory_capacity(), GIB);
}

#[test]
fn shares_of_memory_never_add_up_to_more_than_there_is() {
    let options = HostOptions {
        workers: Some(3),
        memory: Some(100),
        architecture: CpuArchitecture::Cores,
        ..Default::default()
    };
    let host = backend(options);
    let total: u64 = host
        .devices()
        .iter()
        .map(|device| device.memory_capacity())
        .sum();
    assert_eq!(total, 99);
}

#[test]
fn impossible_options_are_refused_with_their_numbers() {
    let refused = |options: &HostOptions| {
        HostBackend::new(options, &machine(), GIB)
            .expect_err("impossible")
            .to_string()
    };
    let too_many = refused(&HostOptions {
        workers: Some(4097),
        ..Default::default()
    });
    assert_eq!(too_many, "4097 workers were requested, expected 1 to 4096");
    let none = refused(&HostOptions {
        workers: Some(0),
        ..Default::default()
    });
    assert_eq!(none, "0 workers were requested, expected 1 to 4096");
    let no_cores = refused(&HostOptions {
        cores: Some(0),
        ..Default::default()
    });
    assert!(no_cores.contains("limited to 0"), "{no_cores}");
    let memory = refused(&HostOptions {
        memory: Some(3),
        architecture: CpuArchitecture::Cores,
        ..Default::default()
    });
    assert_eq!(
        memory,
        "3 bytes of host memory cannot be shared by 4 devices"
    );
}

#[test]
fn this_machine_can_be_probed() {
    let options = HostOptions {
        memory: Some(GIB),
        ..Default::default()
    };
    let host = HostBackend::probe(&options).expect("a machine that runs tests has a CPU");
    assert_eq!(host.n_workers(), Topology::detect().default_workers());
}
