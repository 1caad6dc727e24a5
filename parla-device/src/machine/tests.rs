//! Machines of simulated GPUs.

use super::*;
use crate::sim::SimOptions;

#[test]
fn simulated_gpus_have_memories_and_links_of_their_own() {
    let options = MachineOptions {
        gpus: Gpus::Simulated(SimOptions::new(2)),
        ..MachineOptions::default()
    };
    let machine = Machine::probe(&options).unwrap();
    let model = machine.model();
    let names: Vec<&str> = model.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["cpu:0", "gpu:0", "gpu:1"]);
    let memories: Vec<&str> = model.memories.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(memories, ["host", "gpu:0", "gpu:1"]);
    assert_eq!(model.link(MemoryId(0), MemoryId(2)).latency_ns, 10_000);
    assert_eq!(machine.key(MemoryId(2)), Some(("gpu", 1)));
    assert_eq!(machine.unavailable("gpu"), None);
    assert_eq!(machine.sim().unwrap().sim_devices().len(), 2);
}

#[test]
fn without_a_gpu_there_is_a_reason() {
    let machine = Machine::probe(&MachineOptions::default()).unwrap();
    if let Some(reason) = machine.unavailable("gpu") {
        assert!(reason.contains("PARLA_SIM_GPUS"), "{reason}");
    }
    assert_eq!(machine.unavailable("cpu"), None);
    assert!(machine.unavailable("tpu").is_some());
}
