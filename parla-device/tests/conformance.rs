//! The promises of the contract, on the host and on simulated GPUs.

use std::sync::{Arc, OnceLock};

use parla_device::conformance::Subject;
use parla_device::conformance::copies::{BoxCopy, Layout, Lie, check_copy, directions};
use parla_device::{
    Backend, CpuArchitecture, HostBackend, HostOptions, SimBackend, SimLinks, SimOptions,
};
use proptest::collection::vec;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn host(architecture: CpuArchitecture) -> Subject {
    let options = HostOptions {
        workers: Some(2),
        memory: Some(256 * MIB),
        architecture,
        ..HostOptions::default()
    };
    Subject {
        backend: Arc::new(HostBackend::probe(&options).expect("the options are good")),
        lose: None,
        in_host_memory: true,
    }
}

fn sim(n_devices: usize, change: impl FnOnce(&mut SimOptions)) -> Subject {
    let mut options = SimOptions::new(n_devices);
    options.memory.fill(64 * MIB);
    change(&mut options);
    let sim = Arc::new(SimBackend::new(&options).expect("the options are good"));
    Subject {
        backend: Arc::clone(&sim) as Arc<dyn Backend>,
        lose: Some(Box::new(move |index| {
            sim.sim_devices()[index as usize].lose("a test loses it");
        })),
        in_host_memory: false,
    }
}

mod whole_host {
    fn subject() -> super::Subject {
        super::host(super::CpuArchitecture::Whole)
    }
    parla_device::conformance!(subject);
}

mod host_cores {
    fn subject() -> super::Subject {
        super::host(super::CpuArchitecture::Cores)
    }
    parla_device::conformance!(subject);
}

mod one_sim {
    fn subject() -> super::Subject {
        super::sim(1, |_| {})
    }
    parla_device::conformance!(subject);
}

mod three_sims {
    fn subject() -> super::Subject {
        super::sim(3, |options| options.links.peer = None)
    }
    parla_device::conformance!(subject);
}

mod sims_without_time {
    fn subject() -> super::Subject {
        super::sim(2, |options| options.timed = false)
    }
    parla_device::conformance!(subject);
}

fn layouts(n_dimensions: usize) -> impl Strategy<Value = Layout> {
    let lie = (0..5_u8, 0..3_u8, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(rank, gap, reversed, broadcast)| Lie {
            rank,
            gap,
            reversed,
            broadcast,
        },
    );
    (vec(lie, n_dimensions), 0..9_usize, 0..9_usize).prop_map(|(dimensions, before, after)| {
        Layout {
            dimensions,
            before,
            after,
        }
    })
}

fn copies() -> impl Strategy<Value = BoxCopy> {
    let items = prop::sample::select(vec![1_usize, 2, 3, 4, 8, 16, 40]);
    (items, vec(0..6_usize, 0..=5)).prop_flat_map(|(item, shape)| {
        (layouts(shape.len()), layouts(shape.len())).prop_map(move |(source, destination)| {
            BoxCopy {
                item,
                shape: shape.clone(),
                source,
                destination,
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_copy_on_the_host(copy in copies()) {
        static HOST: OnceLock<Subject> = OnceLock::new();
        let subject = HOST.get_or_init(|| host(CpuArchitecture::Whole));
        let devices = subject.backend.devices();
        check_copy(subject, (Some(&devices[0]), Some(&devices[0])), &copy);
    }

    #[test]
    fn any_copy_between_simulated_memories(copy in copies(), direction in 0..5_usize) {
        static SIM: OnceLock<Subject> = OnceLock::new();
        let subject = SIM.get_or_init(|| sim(2, |options| options.links = SimLinks::instant()));
        let devices = subject.backend.devices();
        check_copy(subject, directions(&devices)[direction], &copy);
    }
}
