//! `cargo xtask ci`: every check, then every test, the cheapest first.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::invariants;
use crate::python::{self, Venv};
use crate::sh::{cargo, say};
use crate::suites::{self, Selection};
use crate::system;
use crate::tools;
use crate::wheel;

/// Runs each stage in turn and stops at the first that fails.
pub(crate) fn ci() -> Result<()> {
    let start = Instant::now();
    stage("format", format)?;
    stage("house rules", invariants::check)?;
    stage("system libraries", system::provide_hwloc)?;
    stage("lints", clippy)?;
    stage("documentation", docs)?;
    stage("dependencies", deny)?;
    stage("stubs", || stubs(&python::setup()?))?;
    stage("tests", || suites::test(&Selection::default()))?;
    // The suites' closing lines stay the last ones on standard output.
    eprintln!("ci took {} s", start.elapsed().as_secs());
    Ok(())
}

fn stage(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n---- {name}");
    work().with_context(|| format!("ci failed at: {name}"))
}

fn format() -> Result<()> {
    say("cargo fmt --check");
    let check = cargo().args(["fmt", "--all", "--check"]);
    check.or_advise("run `cargo fmt --all`").run()
}

fn clippy() -> Result<()> {
    say("cargo clippy --workspace --all-targets");
    cargo()
        .args(["clippy", "--quiet", "--workspace", "--all-targets"])
        .args(system::feature_flags())
        .args(["--", "--deny", "warnings"])
        .or_advise("fix it, or `#[expect(lint, reason = \"...\")]` where the lint is wrong")
        .run()
}

fn docs() -> Result<()> {
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
fn stubs(venv: &Venv) -> Result<()> {
    wheel::install_release(venv, venv)?;
    say("stubtest parla");
    venv.python()
        .args(["-m", "mypy.stubtest", "parla", "--concise"])
        .dir("target")
        .or_advise("make parla-py/python/parla/*.pyi say what the module does")
        .run()
}
