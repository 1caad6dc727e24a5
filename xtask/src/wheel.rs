//! The wheel: built by maturin, installed by pip, shown off and shipped.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::python::{self, Venv};
use crate::sh::{Cmd, at, say};
use crate::system;

/// A program that passes only where the installed package works.
const SMOKE: &str = r#"
import parla
from parla import Parla, TaskSpace, spawn

with Parla():
    T = TaskSpace("T")
    squares = []
    for i in range(4):
        @spawn(T[i])
        def square():
            return i * i
        squares.append(square)
    @spawn(T[4], dependencies=[T[0:4]])
    def total():
        return sum(task.result() for task in squares)
    assert total.result() == 14, total.result()
with open("/proc/self/maps") as maps:
    foreign = {line.split()[-1] for line in maps if "libhwloc" in line and "parla_runtime.libs" not in line}
assert not foreign, f"the wheel uses this system's libraries: {foreign}"
print("the installed wheel runs tasks:", parla.__file__)
"#;

/// Prints how many GPUs there are, simulated ones that the user asked for included.
const COUNT_GPUS: &str = "from parla.devices import gpu; print(len(gpu))";

/// `cargo xtask demo`: from nothing to a matrix factorised on the CPU, then on CPU and GPUs together.
pub(crate) fn demo(args: &[String]) -> Result<()> {
    let venv = python::setup()?;
    install_release(&venv, &venv)?;
    say("python parla-py/examples/cholesky.py");
    let program = venv.python().arg(at("parla-py/examples/cholesky.py"));
    program.args(args).run()?;
    if !args.is_empty() {
        // They are for the first program, which was what the user wanted to see.
        return Ok(());
    }
    let program = venv
        .python()
        .arg(at("parla-py/examples/cholesky_parray.py"));
    let n_gpus = venv.python().args(["-c", COUNT_GPUS]).ask();
    if n_gpus.is_some_and(|n| n != "0") {
        say("python parla-py/examples/cholesky_parray.py");
        return program.run();
    }
    say("PARLA_SIM_GPUS=4 python parla-py/examples/cholesky_parray.py (there is no GPU here)");
    program.env("PARLA_SIM_GPUS", "4").run()
}

/// `cargo xtask dist`: a wheel for other machines.
pub(crate) fn dist() -> Result<()> {
    let venv = python::setup()?;
    let repair = maturin(&venv, "dist").args(["--strip", "--auditwheel", "repair"]);
    say(
        "maturin build --profile dist --auditwheel repair (whole-program optimisation: takes minutes)",
    );
    let wheel = build_into("dist", repair)?;

    say("a new environment tries the wheel");
    let fresh = at("target/dist-venv");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).context("cannot remove target/dist-venv")?;
    }
    let fresh = Venv::ensure("target/dist-venv")?;
    fresh.pip_install().arg(&wheel).run()?;
    let smoke = at("target/dist-venv/smoke.py");
    fs::write(&smoke, SMOKE).context("cannot write the smoke test")?;
    let advice = "the wheel imports or runs wrongly outside the development tree";
    fresh.python().arg(&smoke).or_advise(advice).run()?;
    let size = fs::metadata(&wheel)?.len().div_ceil(1024);
    say(&format!("done: {} ({size} KiB)", relative(&wheel)));
    Ok(())
}

/// Builds the release wheel with the tools in `tools` and installs it into
/// `target`, each only where something changed.
pub(crate) fn install_release(tools: &Venv, target: &Venv) -> Result<()> {
    install(tools, target, "release")
}

/// Like [`install_release`], with the profile that users get.
pub(crate) fn install_dist(tools: &Venv, target: &Venv) -> Result<()> {
    install(tools, target, "dist")
}

fn install(tools: &Venv, target: &Venv, profile: &str) -> Result<()> {
    say(&format!("maturin build --profile {profile}"));
    let build = maturin(tools, profile).args(["--auditwheel", "skip"]);
    let wheel = build_into(&format!("target/wheels/{profile}"), build)?;
    target.once("wheel", &fingerprint(&wheel)?, || {
        say(&format!("pip install {}", relative(&wheel)));
        // Without its dependencies when it is there already at the same version,
        // which pip would otherwise take for the same thing.
        let parts: [&[&str]; 2] = [&[], &["--force-reinstall", "--no-deps"]];
        parts
            .iter()
            .try_for_each(|flags| target.pip_install().args(*flags).arg(&wheel).run())
    })
}

fn maturin(venv: &Venv, profile: &str) -> Cmd {
    let quiet = ["build", "--quiet", "--locked", "--manifest-path"];
    venv.program("maturin")
        .args(quiet)
        .arg(at("parla-py/Cargo.toml"))
        .args(["--profile", profile])
        .args(system::wheel_feature_flags())
        .arg("--interpreter")
        .arg(venv.bin().join("python"))
        .or_advise(
            "the compiler's message is above; a C compiler (cc) and Rust are all a build needs",
        )
}

/// Runs a build whose only product is one wheel in `dir`.
fn build_into(dir: &str, build: Cmd) -> Result<PathBuf> {
    let out = at(dir);
    for old in wheels_in(&out) {
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", relative(&old)))?;
    }
    build.arg("--out").arg(&out).run()?;
    match wheels_in(&out).as_slice() {
        [wheel] => Ok(wheel.clone()),
        wheels => bail!("expected one wheel in {dir}, found {}", wheels.len()),
    }
}

fn wheels_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "whl"))
        .collect()
}

/// A text that changes when the wheel does.
fn fingerprint(wheel: &Path) -> Result<String> {
    let bytes = fs::read(wheel).with_context(|| format!("cannot read {}", relative(wheel)))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok(format!("{} {:016x}", relative(wheel), hasher.finish()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(crate::sh::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
