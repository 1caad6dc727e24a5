//! What a native task costs, beside rayon in the same run, with the targets: `cargo xtask bench native`.
//!
//! `--quick` tries it out at small sizes; its figures mean nothing. `--empty` measures empty tasks only.
#![allow(clippy::print_stdout, reason = "it prints a table")]

use std::alloc::{GlobalAlloc, Layout, System as SystemAllocator};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parla_bench::{Kernel, Parla, Pattern, Rayon, Spawner, System, half_efficiency, in_turns};
use parla_sched::{Task, native};

const WORKERS: usize = 2;

/// Bytes in use, while counting.
static IN_USE: AtomicUsize = AtomicUsize::new(0);
static COUNTING: AtomicBool = AtomicBool::new(false);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all work is the system allocator's; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { SystemAllocator.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { SystemAllocator.dealloc(at, layout) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let (n, rounds): (u32, _) = if quick { (2_000, 3) } else { (10_000, 31) };
    let parla = Parla::start(WORKERS, Spawner::Task)?;
    let outside = Parla::start(WORKERS, Spawner::Outside)?;
    let rayon = Rayon::start(WORKERS)?;
    let systems: [&dyn System; 3] = [&parla, &outside, &rayon];

    println!("{WORKERS} workers, medians of {rounds}, systems by turns; x: how many times Parla's");
    println!(
        "{:<22}{:>10}{:>22}{:>18}  target",
        "", "parla", "parla, outside", "rayon"
    );
    let targets = [Some(0.20), Some(0.15), Some(0.25), None];
    for (pattern, target) in Pattern::ALL.into_iter().zip(targets) {
        let times = in_turns(&systems, rounds, pattern, n as usize, Kernel::default());
        print_row(
            &format!("{}, us/task", pattern.name()),
            &times.map_to(|t| t.as_secs_f64() * 1e6 / f64::from(n)),
            target,
        );
    }
    if args.iter().any(|arg| arg == "--empty") {
        return Ok(());
    }
    for (pattern, target) in [(Pattern::Independent, 0.5), (Pattern::Stencil, 0.6)] {
        let lengths = half_efficiency(&systems, 2, rounds / 2, pattern, n);
        print_row(
            &format!("{} d50, us", pattern.name()),
            &lengths.map_to(|t| t.as_secs_f64() * 1e6),
            Some(target),
        );
    }
    let bytes = pending_bytes(n)?;
    println!(
        "{:<22}{:>10.0}{:>40}  {}",
        "pending task, bytes",
        bytes,
        "",
        verdict(bytes, Some(256.0))
    );
    Ok(())
}

trait MapTo {
    fn map_to(&self, f: impl Fn(&Duration) -> f64) -> Vec<f64>;
}

impl MapTo for Vec<Duration> {
    fn map_to(&self, f: impl Fn(&Duration) -> f64) -> Vec<f64> {
        self.iter().map(f).collect()
    }
}

fn print_row(name: &str, figures: &[f64], target: Option<f64>) {
    let ours = figures[0];
    let beside = |at: usize| format!("{:.3} ({:.2}x)", figures[at], figures[at] / ours);
    println!(
        "{name:<22}{ours:>10.3}{:>22}{:>18}  {}",
        beside(1),
        beside(2),
        verdict(ours, target)
    );
}

fn verdict(figure: f64, target: Option<f64>) -> String {
    match target {
        None => String::new(),
        Some(target) if figure <= target => format!("{target} met"),
        Some(target) => format!("{target} NOT MET"),
    }
}

/// Bytes per task that waits for another one, its (empty) closure included.
fn pending_bytes(n: u32) -> Result<f64, Box<dyn std::error::Error>> {
    let parla = Parla::start(WORKERS, Spawner::Outside)?;
    let rt = parla.runtime();
    let gate = rt.declare();
    COUNTING.store(true, Ordering::SeqCst);
    for _ in 0..n {
        rt.spawn(
            Task {
                dependencies: &[gate],
                ..Task::default()
            },
            |_| native::body(|_| Ok(())),
        )?;
    }
    COUNTING.store(false, Ordering::SeqCst);
    Ok(IN_USE.swap(0, Ordering::SeqCst) as f64 / f64::from(n))
}
