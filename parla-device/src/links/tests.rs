//! Links of simulated GPUs are measured as what they are; files of links.

use super::*;
use crate::options::{Gpus, MachineOptions};
use crate::sim::SimOptions;

fn machine(n_gpus: usize, latency_ns: u64, bytes_per_second: f64) -> Machine {
    let mut sim = SimOptions::new(n_gpus);
    sim.memory.fill(64 << 20);
    sim.links.host = Link {
        latency_ns,
        bytes_per_second,
        direct: true,
    };
    sim.links.peer = None;
    let options = MachineOptions {
        gpus: Gpus::Simulated(sim),
        ..MachineOptions::default()
    };
    Machine::probe(&options).unwrap()
}

#[test]
fn what_is_measured_is_what_the_model_says() {
    // Slow enough that the host's own speed does not matter: 16 MiB take 42 ms.
    let machine = machine(1, 5_000_000, 4e8);
    let is_near = |link: &Link| {
        (2.8e8..=4.04e8).contains(&link.bytes_per_second)
            && (4_900_000..=50_000_000).contains(&link.latency_ns)
    };
    // On a busy machine all copies of one measurement may be disturbed; instrumented ones are slower than the model.
    let mut tries = 0;
    let links = loop {
        let links = machine.measure_links().unwrap();
        assert_eq!(machine.device(machine.owner(MemoryId(1))).memory_used(), 0);
        tries += 1;
        let both = [links[0][1], links[1][0]];
        if both.iter().all(is_near) || cfg!(crossbeam_sanitize) {
            break links;
        }
        assert!(tries < 10, "{both:?}");
    };
    assert!(links[0][1].direct && links[1][0].direct);
    if !cfg!(crossbeam_sanitize) {
        assert!(links[1][1].bytes_per_second > links[0][1].bytes_per_second);
    }
    let machine = machine.with_links(links.clone());
    assert_eq!(machine.model().links, links);
}

#[test]
fn a_line_is_drawn_through_two_points() {
    let link = line_through((1_000, 2_000.0), (11_000, 12_000.0));
    assert_eq!((link.latency_ns, link.bytes_per_second), (1_000, 1e9));
    let same = line_through((1_000, 2_000.0), (1_000, 2_000.0));
    assert_eq!((same.latency_ns, same.bytes_per_second), (0, 5e8));
    let disturbed = line_through((1_000, 9_000.0), (2_000, 4_000.0));
    assert!(disturbed.bytes_per_second > 0.0);
}

#[test]
fn links_are_kept_in_a_file_for_this_machine_only() {
    let path = std::env::temp_dir().join(format!("parla-links-{}", std::process::id()));
    let measured = machine(2, 12_345, 1.5e9);
    measured.save_links(&path).unwrap();
    let plain = || machine(2, 1, 2.0);
    assert!(!plain().links_are_measured());
    let read = plain().load_links(&path).unwrap().unwrap();
    assert_eq!(read.model().links, measured.model().links);
    assert!(read.links_are_measured());
    assert!(machine(1, 1, 2.0).load_links(&path).unwrap().is_none());

    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("0 1 5 -1 true\n");
    std::fs::write(&path, text).unwrap();
    let error = plain().load_links(&path).unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    assert!(error.contains("line 12: expected"), "{error}");
    // Nothing was measured yet: no file, no error.
    assert!(plain().load_links(&path).unwrap().is_none());

    let deeper = path.join("cache").join("links");
    measured.save_links(&deeper).unwrap();
    let n_files = std::fs::read_dir(deeper.parent().unwrap()).unwrap().count();
    let read = plain().load_links(&deeper).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    assert!(read.is_some() && n_files == 1);
}
