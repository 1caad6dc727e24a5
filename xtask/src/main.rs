//! `cargo xtask`: the one vocabulary for building, testing, measuring and
//! packaging Parla. Continuous integration calls nothing else.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program speaks on the terminal"
)]

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod gpu_check;
mod invariants;
mod mutants;
mod python;
mod sanitize;
mod sh;
mod suites;
mod system;
mod tools;
mod wheel;

/// Build, test, measure and package Parla.
///
/// Every command may be run again at any time: it does only what is missing.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make .venv with all that building and testing needs, and find hwloc
    Setup,
    /// Build and install the wheel, then factorise a matrix (blocked Cholesky) on the CPU, and on CPU and GPUs together
    Demo {
        /// Passed to parla-py/examples/cholesky.py, such as --help; with any, nothing else is run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test: Rust, doctests, then the installed wheel with pytest
    Test(suites::Selection),
    /// Run every check and then every test, the cheapest first
    Ci {
        /// Only these stages, rather than all
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(ci::stage_names()))]
        stage: Vec<String>,
    },
    /// Measure: `fig13`, `overhead` (beside other libraries), `fig11`, `fig9-synthetic`, `coherence` (data) or `native` (criterion)
    Bench {
        /// `native`, or the name of a program in parla-bench/python
        name: String,
        /// Passed to the benchmark, such as --quick or --out DIR
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build the self-contained wheel into dist/ and try it in a new environment
    Dist,
    /// Make the bundle of checks for a machine with a GPU, in dist/, and try it here
    GpuCheck {
        /// Use this wheel rather than building one
        #[arg(long)]
        wheel: Option<std::path::PathBuf>,
    },
    /// Check the lock-free protocols under every interleaving (loom)
    Loom {
        /// Passed to the test binaries, such as part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Put known faults into a copy of the sources: a test must notice each
    Mutants {
        /// Part of the name of those to try; all of them if empty
        #[arg(default_value = "")]
        only: String,
    },
    /// Run the Rust tests under ThreadSanitizer
    Tsan {
        /// Passed to the test binaries, such as part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() {
    let outcome = match Cli::parse().command {
        Verb::Setup => python::setup().map(drop),
        Verb::Demo { args } => wheel::demo(&args),
        Verb::Test(selection) => suites::test(&selection),
        Verb::Ci { stage } => ci::ci(&stage),
        Verb::Bench { name, args } => bench::bench(&name, &args),
        Verb::Dist => wheel::dist(),
        Verb::GpuCheck { wheel } => gpu_check::gpu_check(wheel),
        Verb::Loom { args } => sanitize::loom(&args),
        Verb::Mutants { only } => mutants::mutants(&only),
        Verb::Tsan { args } => sanitize::tsan(&args),
    };
    if let Err(error) = outcome {
        eprintln!("\nerror: {error:#}");
        std::process::exit(1);
    }
}
