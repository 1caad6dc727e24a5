//! `cargo xtask mutants`: each of the faults listed in xtask/mutations.toml is put into a copy of the sources,
//! where a test must then fail.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::sh::{at, root, say};

const LIST: &str = "xtask/mutations.toml";
/// The copy; the sources themselves are never touched.
const COPY: &str = "target/mutants/tree";
/// A test that takes longer hangs, which is one way to fail.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct List {
    mutation: Vec<Mutation>,
}

/// A fault and the test that notices it.
#[derive(Deserialize)]
struct Mutation {
    /// What is wrong with the mutated program.
    name: String,
    /// Path from the root.
    file: String,
    /// Occurs once in the file.
    find: String,
    replace: String,
    /// Arguments for `cargo test`.
    test: String,
    /// Run it under loom.
    #[serde(default)]
    loom: bool,
}

/// What a test run came to.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    Passed,
    Failed,
    Hung,
    DoesNotCompile,
}

/// Applies each mutation whose name contains `only`; fails if a test does not notice one.
pub(crate) fn mutants(only: &str) -> Result<()> {
    let list = list()?;
    let chosen: Vec<_> = list.iter().filter(|m| m.name.contains(only)).collect();
    ensure!(!chosen.is_empty(), "no mutation is called `{only}`");
    say(&format!("copying the sources to {COPY}"));
    copy_sources()?;
    let mut n_missed = 0;
    for mutation in chosen {
        let start = Instant::now();
        let run = try_out(mutation).with_context(|| format!("mutation `{}`", mutation.name))?;
        let seconds = start.elapsed().as_secs();
        let verdict = match run {
            Run::Failed => "noticed",
            Run::Hung => "noticed (hangs)",
            Run::Passed => "NOT NOTICED",
            Run::DoesNotCompile => "DOES NOT COMPILE",
        };
        n_missed += u32::from(!matches!(run, Run::Failed | Run::Hung));
        println!(
            "{verdict:<17} {seconds:>4} s  {} ({})",
            mutation.name, mutation.test
        );
    }
    if n_missed > 0 {
        bail!("{n_missed} mutations turned no test red");
    }
    Ok(())
}

fn list() -> Result<Vec<Mutation>> {
    let text = fs::read_to_string(at(LIST)).with_context(|| LIST.to_owned())?;
    let list: List = toml::from_str(&text).with_context(|| format!("in {LIST}"))?;
    Ok(list.mutation)
}

/// The source with the fault in it.
fn mutated(mutation: &Mutation, original: &str) -> Result<String> {
    let n_found = original.matches(&mutation.find).count();
    ensure!(
        n_found == 1,
        "`{}` occurs {n_found} times in {}",
        mutation.find,
        mutation.file
    );
    ensure!(mutation.find != mutation.replace, "it changes nothing");
    Ok(original.replace(&mutation.find, &mutation.replace))
}

fn copy_sources() -> Result<()> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .context("git lists the sources")?;
    ensure!(output.status.success(), "git cannot list the sources");
    for path in String::from_utf8(output.stdout)?.split_terminator('\0') {
        let (from, to) = (at(path), at(COPY).join(path));
        let Ok(new) = fs::read(&from) else { continue };
        // Files that are the same keep their time, so that cargo compiles nothing anew for them.
        if fs::read(&to).is_ok_and(|old| old == new) {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        fs::write(&to, new)?;
    }
    Ok(())
}

/// Applies the mutation to the copy, runs its test, and takes it back.
fn try_out(mutation: &Mutation) -> Result<Run> {
    let file = at(COPY).join(&mutation.file);
    let original = fs::read_to_string(&file).with_context(|| mutation.file.clone())?;
    fs::write(&file, mutated(mutation, &original)?)?;
    let run = test(mutation);
    fs::write(&file, original)?;
    run
}

fn test(mutation: &Mutation) -> Result<Run> {
    let compiled = cargo(mutation, &["--no-run"]).status()?.success();
    if !compiled {
        return Ok(Run::DoesNotCompile);
    }
    let mut child = cargo(mutation, &[]).process_group(0).spawn()?;
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                Run::Passed
            } else {
                Run::Failed
            });
        }
        if Instant::now() > deadline {
            // The whole group: cargo and the test that hangs.
            let group = format!("-{}", child.id());
            Command::new("kill")
                .args(["-KILL", "--", &group])
                .status()?;
            child.wait()?;
            return Ok(Run::Hung);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn cargo(mutation: &Mutation, more: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .arg("test")
        .args(mutation.test.split_whitespace())
        .args(more)
        .current_dir(at(COPY));
    cargo.stdout(Stdio::null()).stderr(Stdio::null());
    if mutation.loom {
        cargo.args(["--release"]).env("RUSTFLAGS", "--cfg loom");
        cargo.env("CARGO_TARGET_DIR", at("target/mutants/loom"));
    } else {
        cargo.env("CARGO_TARGET_DIR", at("target/mutants/target"));
    }
    cargo
}

#[cfg(test)]
mod tests {
    use super::{at, fs, list, mutated};

    #[test]
    fn every_mutation_applies_to_the_sources_as_they_are() {
        let mut stale = Vec::new();
        for mutation in list().expect("the list can be read") {
            let source = fs::read_to_string(at(&mutation.file)).unwrap_or_default();
            if let Err(error) = mutated(&mutation, &source) {
                stale.push(format!("{}: {error}", mutation.name));
            }
        }
        assert_eq!(stale, Vec::<String>::new());
    }
}
