//! Measures the links between the memories of this machine and writes them to a file, for `PARLA_LINK_FILE`:
//! `cargo run --release -p parla-device --example measure_links -- FILE`. Nothing else should use the GPUs meanwhile.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::path::Path;

use parla_device::{Machine, MachineOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1);
    let file = file.ok_or("the file to write is missing: measure_links FILE")?;
    let machine = Machine::probe(&MachineOptions::from_process_env()?)?;
    let names: Vec<_> = machine.model().memories.iter().map(|m| &m.name).collect();
    let links = machine.measure_links()?;
    for (from, row) in names.iter().zip(&links) {
        for (to, link) in names.iter().zip(row) {
            let (us, gb_s) = (link.latency_ns as f64 * 1e-3, link.bytes_per_second * 1e-9);
            println!("{from} to {to}: {us:.1} us, {gb_s:.1} GB/s");
        }
    }
    machine.with_links(links).save_links(Path::new(&file))?;
    Ok(())
}
