//! The test suites and the count of what they ran.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::python::{self, Venv};
use crate::sh::{at, cargo, say};
use crate::system;
use crate::tools;
use crate::wheel;

mod tally;
pub(crate) use tally::Tally;

/// Where nextest writes its report, as `.config/nextest.toml` says.
const NEXTEST_REPORT: &str = "target/nextest/default/junit.xml";
const PYTEST_REPORT: &str = "target/pytest.xml";

/// Which of the suites to run; all of them unless one is named.
#[derive(Args, Clone, Default)]
pub(crate) struct Selection {
    /// Only the Rust tests
    #[arg(long, conflicts_with = "python")]
    rust: bool,
    /// Only the Python tests, against a freshly installed wheel
    #[arg(long)]
    python: bool,
    /// Passed to pytest with --python, or to nextest with --rust
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// `cargo xtask test`: runs all the suites even if one fails, then counts.
pub(crate) fn test(which: &Selection) -> Result<()> {
    if !which.args.is_empty() && !which.rust && !which.python {
        bail!("arguments for one runner need --rust or --python before them");
    }
    let venv = python::setup()?;
    let mut suites = Vec::new();
    if !which.python {
        suites.push(("rust", nextest(&which.args)?));
        if which.args.is_empty() {
            suites.push(("doctests", doctests()?));
        }
    }
    if !which.rust {
        wheel::install_release(&venv, &venv)?;
        suites.push(("python", pytest(&venv, &which.args)?));
    }
    conclude(&suites)
}

/// Prints a line per suite and one for all; an error if anything failed.
fn conclude(suites: &[(&str, Tally)]) -> Result<()> {
    println!();
    for (name, tally) in suites {
        println!("{name}: {tally}");
    }
    let total: Tally = suites.iter().map(|(_, tally)| *tally).sum();
    println!("{total}");
    if let Some((name, _)) = suites.iter().find(|(_, tally)| tally.n_passed == 0) {
        bail!("the suite `{name}` ran no test that passed");
    }
    if total.n_failed > 0 {
        bail!("{} tests failed; their messages are above", total.n_failed);
    }
    Ok(())
}

fn nextest(args: &[String]) -> Result<Tally> {
    tools::provide_nextest()?;
    say("cargo nextest run --workspace");
    let report = at(NEXTEST_REPORT);
    let _ = fs::remove_file(&report);
    let run = cargo()
        .args(["nextest", "run", "--workspace", "--no-fail-fast"])
        .args(system::feature_flags())
        .args(args);
    let passed = run.passes()?;
    read_report(NEXTEST_REPORT, passed)
}

fn doctests() -> Result<Tally> {
    say("cargo test --workspace --doc");
    let mut tally = Tally::default();
    let run = cargo()
        .args(["test", "--workspace", "--doc"])
        .args(system::feature_flags());
    let passed = run.watch(|line| tally.add_libtest_line(line))?;
    agree(tally, passed, "the doctests")
}

fn pytest(venv: &Venv, args: &[String]) -> Result<Tally> {
    say("cargo build -p parla-fake-cuda");
    cargo()
        .args(["build", "--quiet", "-p", "parla-fake-cuda"])
        .run()?;
    say("pytest parla-py/tests (against the installed wheel)");
    let _ = fs::remove_file(at(PYTEST_REPORT));
    let mut junit = std::ffi::OsString::from("--junit-xml=");
    junit.push(at(PYTEST_REPORT));
    let run = venv
        .python()
        .args(["-m", "pytest", "-q"])
        .arg(junit)
        .args(args);
    let passed = run.dir("parla-py/tests").passes()?;
    read_report(PYTEST_REPORT, passed)
}

/// The counts in a JUnit file that a runner has just written.
fn read_report(file: &str, passed: bool) -> Result<Tally> {
    let text = fs::read_to_string(at(file))
        .with_context(|| format!("the test runner stopped before it wrote {file}"))?;
    let tally = Tally::from_junit(&text).with_context(|| format!("no counts in {file}"))?;
    agree(tally, passed, file)
}

/// Refuses counts without a failure from a runner that says it failed.
fn agree(tally: Tally, passed: bool, source: &str) -> Result<Tally> {
    if !passed && tally.n_failed == 0 {
        bail!("the test runner failed although {source} shows no failed test");
    }
    Ok(tally)
}
