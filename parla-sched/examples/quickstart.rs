//! The shortest program: a sum in pieces, and a task that needs them all. `cargo run -p parla-sched --example quickstart`
#![allow(clippy::print_stdout, reason = "it prints its result")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parla_sched::native::{self, body};
use parla_sched::{Options, Task, Waited};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rt = native::start(Options::default())?;
    let total = Arc::new(AtomicU64::new(0));

    let mut pieces = Vec::new();
    for piece in 0..8_u64 {
        let total = Arc::clone(&total);
        pieces.push(rt.spawn(Task::default(), |_| {
            body(move |_| {
                let sum: u64 = (piece * 1_000_000..(piece + 1) * 1_000_000).sum();
                total.fetch_add(sum, Ordering::Relaxed);
                Ok(())
            })
        })?);
    }
    rt.spawn(
        Task {
            dependencies: &pieces,
            ..Task::default()
        },
        |_| {
            body(move |_| {
                println!(
                    "the sum below 8 000 000 is {}",
                    total.load(Ordering::Relaxed)
                );
                Ok(())
            })
        },
    )?;

    // Without this the end of `rt` would cancel what has not started.
    match rt.wait_idle(None, None) {
        Waited::Ended => {}
        other => return Err(format!("the tasks did not end: {other:?}").into()),
    }
    match rt.executor().take_failures().into_values().next() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}
