//! Faults and links of simulated GPUs. What they promise as devices is in the conformance suite.

use super::*;

#[test]
fn faults_are_parsed() {
    let mut options = SimOptions::new(2);
    options
        .add_faults("gpu:0 alloc=3; gpu:* copy = 2+ ;gpu:1 lose=40;")
        .unwrap();
    let fault = |kind, nth, repeats| Fault { kind, nth, repeats };
    let expected = vec![
        (0, fault(FaultKind::Allocation, 3, false)),
        (0, fault(FaultKind::Copy, 2, true)),
        (1, fault(FaultKind::Copy, 2, true)),
        (1, fault(FaultKind::Loss, 40, false)),
    ];
    assert_eq!(options.faults, expected);
    for (text, complaint) in [
        ("alloc=3", "expected a device"),
        ("gpu:2 alloc=3", "there are 2"),
        ("cpu:0 alloc=3", "gpu:0 or gpu:*"),
        ("gpu:0 alloc=0", "number from 1"),
        ("gpu:0 explode=1", "alloc, copy"),
    ] {
        let error = SimOptions::new(2).add_faults(text).unwrap_err();
        assert!(error.contains(complaint), "{text}: {error}");
    }
}

#[test]
fn the_nth_allocation_fails_and_no_other() {
    let sim = SimBackend::new(&SimOptions::new(1)).unwrap();
    let device = &sim.sim_devices()[0];
    device.inject(Fault::nth(FaultKind::Allocation, 2));
    assert!(device.allocate(10).is_ok());
    let error = device.allocate(20).unwrap_err();
    assert!(
        matches!(error, DeviceError::OutOfMemory { requested: 20, .. }),
        "{error}"
    );
    assert!(device.allocate(30).is_ok());
    assert_eq!(device.memory_used(), 0);
}

#[test]
fn without_a_direct_link_copies_go_through_the_host() {
    let links = SimLinks {
        peer: None,
        ..SimLinks::default()
    };
    let link = links.between(Some(0), Some(1));
    assert!(!link.direct);
    assert_eq!(link.latency_ns, 20_000);
    assert!((link.bytes_per_second - 6e9).abs() < 1.0);
}

#[test]
fn too_many_gpus_are_refused() {
    let error = SimBackend::new(&SimOptions::new(33)).unwrap_err();
    assert!(error.to_string().contains("0 to 32"), "{error}");
}

#[test]
fn copies_occupy_the_engines_at_both_of_their_ends() {
    let sim = SimBackend::new(&SimOptions::new(2)).expect("two GPUs");
    let place = |device| Place {
        block: Arc::new(Block::foreign(64, 8, ())),
        offset: 0,
        strides: [8].into_iter().collect(),
        device,
    };
    let engines = |which: usize, from, to| {
        let copy = Copy {
            item: 8,
            shape: [1].into_iter().collect(),
            source: place(from),
            destination: place(to),
        };
        let (engines, _) = sim.devices[which].core.route(&copy).expect("a way");
        engines.to_vec()
    };
    let (host, first, second) = (None, Some(("gpu", 0)), Some(("gpu", 1)));
    assert_eq!(engines(0, host, first), [engine(0, IN)]);
    assert_eq!(engines(1, second, host), [engine(1, OUT)]);
    assert_eq!(engines(0, first, first), [engine(0, IN)]);
    for which in [0, 1] {
        assert_eq!(
            engines(which, first, second),
            [engine(0, OUT), engine(1, IN)]
        );
    }
}
