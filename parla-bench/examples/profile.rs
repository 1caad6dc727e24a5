//! One pattern over and over, for perf and callgrind: `profile <pattern> <workers> <rounds> [task|outside]`.

use parla_bench::{Kernel, Parla, Pattern, Spawner, System as _};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().collect();
    let [_, pattern, workers, rounds, spawner @ ..] = &args[..] else {
        return Err("which pattern, workers, rounds?".into());
    };
    let pattern = Pattern::ALL
        .into_iter()
        .find(|p| p.name() == pattern)
        .ok_or("no such pattern")?;
    let spawner = if spawner == ["outside"] {
        Spawner::Outside
    } else {
        Spawner::Task
    };
    let parla = Parla::start(workers.parse()?, spawner)?;
    for _ in 0..rounds.parse()? {
        parla.run(pattern, 10_000, Kernel::default());
    }
    Ok(())
}
