//! The two checkers of concurrent code: loom, which tries every interleaving,
//! and ThreadSanitizer, which watches real threads.

use std::env;

use anyhow::{Context as _, Result, bail};

use crate::sh::{Cmd, at, cargo, cmd, say};
use crate::suites::Tally;

/// The crates that have atomics of their own.
const CRATES: [&str; 4] = ["-p", "parla-core", "-p", "parla-sched"];

/// Compiles in what ThreadSanitizer needs, and replaces the fences it cannot see.
const TSAN_FLAGS: &str = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer \
    --cfg crossbeam_sanitize --cfg crossbeam_sanitize_thread";

/// `cargo xtask loom`: the tests with `loom` in their path, under loom.
pub(crate) fn loom(args: &[String]) -> Result<()> {
    let bound = env::var("LOOM_MAX_PREEMPTIONS").unwrap_or_else(|_| "3".to_owned());
    say(&format!(
        "cargo test loom (every interleaving with up to {bound} preemptions)"
    ));
    let test = cargo()
        .args(["test", "--release", "--lib", "--tests"])
        .args(CRATES)
        .args(["loom", "--"])
        .args(args)
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", at("target/loom"))
        .env("LOOM_MAX_PREEMPTIONS", bound);
    count(test)
}

/// `cargo xtask tsan`: the Rust tests of the runtime under ThreadSanitizer.
pub(crate) fn tsan(args: &[String]) -> Result<()> {
    let about = cmd("rustc")
        .arg("-vV")
        .ask()
        .context("cannot start rustc")?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    say("cargo test under ThreadSanitizer (compiles everything anew the first time)");
    let suppressions = format!("suppressions={}", at("xtask/tsan.supp").display());
    // The sanitizer's shadow memory does not bear address randomisation.
    let test = cmd("setarch")
        .arg("-R")
        .arg(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "test",
            "--lib",
            "--tests",
            "--no-default-features",
            "--target",
            host,
        ])
        .args(CRATES)
        .args(["-p", "parla-device", "--"])
        .args(args)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", TSAN_FLAGS)
        .env("CARGO_TARGET_DIR", at("target/tsan"))
        .env("TSAN_OPTIONS", suppressions)
        // Random graphs on one thread have no races to find: a few are enough.
        .env("PROPTEST_CASES", "8")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .or_advise("ThreadSanitizer needs Linux and util-linux's setarch");
    count(test)
}

/// Runs tests, counts them, and does not take "no test at all" for a success.
fn count(test: Cmd) -> Result<()> {
    let mut tally = Tally::default();
    let passed = test.watch(|line| tally.add_libtest_line(line))?;
    println!("\n{tally}");
    if !passed {
        bail!("the run failed; its messages are above");
    }
    if tally.n_passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}
