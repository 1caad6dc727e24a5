//! `cargo xtask ci`: every check, then every test, the cheapest first.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::invariants;
use crate::python;
use crate::sh::{cargo, say};
use crate::suites::{self, Selection};
use crate::system;
use crate::tools;
use crate::wheel;

/// A stage's name and its work.
type Stage = (&'static str, fn() -> Result<()>);

/// All of them, in order.
const STAGES: [Stage; 8] = [
    ("format", format),
    ("rules", invariants::check),
    ("python-lints", ruff),
    ("lints", clippy),
    ("docs", docs),
    ("deny", deny),
    ("stubs", stubs),
    ("tests", tests),
];

/// The names that `cargo xtask ci` takes.
pub(crate) fn stage_names() -> Vec<&'static str> {
    STAGES.iter().map(|(name, _)| *name).collect()
}

/// Runs the stages that are named, or all, and stops at the first that fails.
pub(crate) fn ci(only: &[String]) -> Result<()> {
    let start = Instant::now();
    for (name, work) in STAGES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        // On standard error, as the suites' closing lines end standard output.
        eprintln!("\n---- ci: {name} ({} s)", start.elapsed().as_secs());
        work().with_context(|| format!("ci failed at: {name}"))?;
    }
    Ok(())
}

fn format() -> Result<()> {
    say("cargo fmt --check");
    let check = cargo().args(["fmt", "--all", "--check"]);
    check.or_advise("run `cargo fmt --all`").run()
}

fn ruff() -> Result<()> {
    let venv = python::setup()?;
    say("ruff check");
    venv.program("ruff")
        .args(["check", "--quiet", "parla-py", "parla-bench"])
        .or_advise("run `.venv/bin/ruff check --fix`")
        .run()
}

fn clippy() -> Result<()> {
    system::provide_hwloc()?;
    say("cargo clippy --workspace --all-targets");
    cargo()
        .args(["clippy", "--quiet", "--workspace", "--all-targets"])
        .args(system::feature_flags())
        .args(["--", "--deny", "warnings"])
        .or_advise("fix it, or `#[expect(lint, reason = \"...\")]` where the lint is wrong")
        .run()
}

fn docs() -> Result<()> {
    system::provide_hwloc()?;
    say("cargo doc --workspace");
    cargo()
        .args([
            "doc",
            "--quiet",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ])
        .args(system::feature_flags())
        .env("RUSTDOCFLAGS", "--deny warnings")
        .or_advise("mend the links and code blocks named above")
        .run()
}

fn deny() -> Result<()> {
    tools::provide_deny()?;
    say("cargo deny check licenses bans sources");
    cargo()
        .args([
            "deny",
            "--log-level",
            "error",
            "check",
            "--hide-inclusion-graph",
        ])
        .args(["licenses", "bans", "sources"])
        .or_advise("deny.toml says what is allowed and why")
        .run()
}

/// The `.pyi` files against the module that is installed.
fn stubs() -> Result<()> {
    let venv = python::setup()?;
    wheel::install_release(&venv, &venv)?;
    say("stubtest parla");
    venv.python()
        .args(["-m", "mypy.stubtest", "parla", "--concise"])
        .args(["--allowlist", "../parla-py/stubtest-allowlist.txt"])
        .dir("target")
        .or_advise("make parla-py/python/parla/*.pyi say what the module does")
        .run()
}

fn tests() -> Result<()> {
    suites::test(&Selection::default())
}
