//! The GPU checks: a bundle that a machine with a GPU runs without a network, tried here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::python;
use crate::sh::{at, cmd, say};
use crate::wheel;

const BUNDLE: &str = "dist/gpu-check";

/// `cargo xtask gpu-check`: the wheel, the checks and the examples in one directory and one archive.
pub(crate) fn gpu_check(wheel: Option<PathBuf>) -> Result<()> {
    let venv = python::setup()?;
    let wheel = match wheel {
        Some(wheel) => wheel,
        None => {
            wheel::dist()?;
            built()?
        }
    };
    let bundle = at(BUNDLE);
    if bundle.exists() {
        fs::remove_dir_all(&bundle).with_context(|| format!("cannot remove {BUNDLE}"))?;
    }
    copy_files(&at("parla-py/gpu"), &bundle)?;
    copy_files(&at("parla-py/examples"), &bundle.join("examples"))?;
    let name = wheel.file_name().context("the wheel is no file")?;
    fs::copy(&wheel, bundle.join(name))
        .with_context(|| format!("cannot copy {}", wheel.display()))?;
    fs::write(bundle.join("commit.txt"), commit())?;
    let archive = "dist/gpu-check.tar.gz";
    cmd("tar")
        .args(["-czf", archive, "-C", "dist", "gpu-check"])
        .run()?;

    say("python run.py (on this machine)");
    let advice = "a check failed here, or missed its measure; dist/gpu-check-here has the report";
    venv.python()
        .arg(bundle.join("run.py"))
        .arg("--out")
        .arg(at("dist/gpu-check-here"))
        .or_advise(advice)
        .run()?;
    say(&format!(
        "done: {archive}. On a machine with a GPU: tar -xzf gpu-check.tar.gz && python3 gpu-check/run.py"
    ));
    Ok(())
}

/// The wheel in `dist`.
fn built() -> Result<PathBuf> {
    let entries = fs::read_dir(at("dist")).context("no directory dist")?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut wheels = paths.filter(|path| path.extension().is_some_and(|end| end == "whl"));
    match (wheels.next(), wheels.next()) {
        (Some(wheel), None) => Ok(wheel),
        _ => bail!("expected one wheel in dist"),
    }
}

/// Copies the files of a directory, not those of directories inside it.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().context("a file has a name")?;
            fs::copy(&path, to.join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// What the bundle was made from.
fn commit() -> String {
    let git = |arguments: &[&str]| cmd("git").args(arguments).ask();
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    let changed = if changed { " with changes" } else { "" };
    format!("{commit}{changed}\n")
}
