//! Checks that hold for every policy: nothing lost, nothing twice, live, deterministic, nobody starved.
//!
//! [`check`] drives a policy through the mapper, over random programs on random machines in virtual time, with priorities, claims, tasks on
//! several devices, tasks that suspend and tasks that are cancelled at any stage. Bodies that take the same time are of one
//! [kind](crate::Placing::kind), so what a policy learns counts; its random numbers have the program's seed. Run it on your own policy:
//!
//! ```
//! use parla_sched::policy::{conformance, make};
//!
//! let report = conformance::check(&mut |seed| make("eager", seed).expect("there is 'eager'"), 20)?;
//! assert!(report.n_tasks > 100);
//! # Ok::<(), conformance::Violation>(())
//! ```

use std::sync::Arc;

use thiserror::Error;

use super::SchedulingPolicy;
use super::seeded::Seeded;
use crate::mapper::PATIENCE;

pub(crate) mod programs;
pub(crate) mod simulate;

use programs::{Big, random_machine, random_program, stream};
use simulate::{Outcome, simulate};

/// What a policy was put through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Programs, each run twice.
    pub n_programs: u64,
    /// Their tasks.
    pub n_tasks: u64,
}

/// What a policy did that none may.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("policy '{policy}', {program}: {what}")]
pub struct Violation {
    /// The policy's name.
    pub policy: String,
    /// The program, with its seed where it is a random one.
    pub program: String,
    /// What happened.
    pub what: String,
}

/// Puts a policy through that many random programs and those in which big requests compete with a stream of small ones.
/// `make` makes it, from a seed; the same seed must give the same decisions.
///
/// # Errors
/// The first thing that no policy may do.
pub fn check(
    make: &mut dyn FnMut(u64) -> Box<dyn SchedulingPolicy>,
    n_programs: u64,
) -> Result<Report, Violation> {
    let mut report = Report::default();
    for seed in 0..n_programs {
        let mut numbers = Seeded::new(seed);
        let machine = Arc::new(random_machine(&mut numbers));
        let program = random_program(&mut numbers, &machine);
        let depth = 1 + numbers.below(3);
        let name = format!("random program {seed}");
        twice(make, seed, &name, |policy| {
            simulate(&machine, &program, policy, depth, seed)
        })?;
        report.n_programs += 1;
        report.n_tasks += program.tasks.len() as u64;
    }
    for big in [Big::Memory, Big::Units, Big::TwoDevices] {
        let (machine, program, number) = stream(big);
        let name = format!("a task with {big} and a stream of small ones");
        let machine = Arc::new(machine);
        let outcome = twice(make, 0, &name, |policy| {
            simulate(&machine, &program, policy, 3, 0)
        })?;
        let n_before = (outcome.started.iter())
            .take_while(|&&(_, task, _)| task != number)
            .filter(|&&(_, task, _)| task > number)
            .count();
        if n_before > 8 * PATIENCE as usize {
            return Err(Violation {
                policy: make(0).name().to_owned(),
                program: name,
                what: format!("starved: {n_before} later tasks ran before it"),
            });
        }
        report.n_programs += 1;
        report.n_tasks += program.tasks.len() as u64;
    }
    Ok(report)
}

fn twice(
    make: &mut dyn FnMut(u64) -> Box<dyn SchedulingPolicy>,
    seed: u64,
    program: &str,
    run: impl Fn(Box<dyn SchedulingPolicy>) -> Result<Outcome, String>,
) -> Result<Outcome, Violation> {
    let policy = make(seed);
    let violation = |what| Violation {
        policy: policy.name().to_owned(),
        program: program.to_owned(),
        what,
    };
    let first = run(make(seed)).map_err(violation)?;
    let second = run(make(seed)).map_err(violation)?;
    let differs = |(a, b): &(_, _)| a != b;
    if let Some((a, b)) = (first.started.iter().zip(&second.started)).find(differs) {
        return Err(violation(format!(
            "not deterministic: task {} began on {} at {} ns, in a second run task {} on {} at {} ns",
            a.1, a.2, a.0, b.1, b.2, b.0
        )));
    }
    Ok(first)
}
