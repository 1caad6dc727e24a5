//! Measurements: the Python programs of parla-bench in an environment that also
//! holds the libraries they compare with, and criterion for the native layers.

use std::fs;

use anyhow::{Result, bail};

use crate::python::{self, Venv};
use crate::sh::{at, cargo, say};
use crate::system;
use crate::wheel;

/// `cargo xtask bench NAME`.
pub(crate) fn bench(name: &str, args: &[String]) -> Result<()> {
    if name == "native" {
        return native(args);
    }
    let program = at(&format!("parla-bench/python/{name}.py"));
    if !program.is_file() {
        bail!(
            "no benchmark `{name}`; there are: native, {}",
            programs().join(", ")
        );
    }
    let tools = python::setup()?;
    let venv = Venv::ensure(".venv-bench")?;
    venv.install_requirements("parla-bench/python/requirements.txt")?;
    wheel::install_dist(&tools, &venv)?;
    say(&format!("python parla-bench/python/{name}.py"));
    venv.python().arg(program).args(args).run()
}

/// Criterion's benches, compiled as the wheel is; then the table with its targets and peers. Arguments go to the table.
fn native(args: &[String]) -> Result<()> {
    system::provide_hwloc()?;
    say("cargo bench --profile dist -p parla-bench");
    let bench = cargo().args([
        "bench",
        "--profile",
        "dist",
        "-p",
        "parla-bench",
        "--benches",
    ]);
    bench.run()?;
    say("cargo run --profile dist -p parla-bench --bin native");
    let table = [
        "run",
        "--quiet",
        "--profile",
        "dist",
        "-p",
        "parla-bench",
        "--bin",
        "native",
    ];
    cargo().args(table).arg("--").args(args).run()
}

/// The programs in parla-bench/python that can be started by name.
fn programs() -> Vec<String> {
    let entries = fs::read_dir(at("parla-bench/python"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".py")?.to_owned();
            text.contains("__main__").then_some(name)
        })
        .collect();
    names.sort();
    names
}
