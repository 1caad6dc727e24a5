//! Cargo subcommands that the checks need, kept in `target/tools` where the
//! machine does not have them.

use anyhow::Result;

use crate::sh::{at, cargo, say};

/// Makes `cargo nextest` available.
pub(crate) fn provide_nextest() -> Result<()> {
    provide("nextest", "0.9")
}

/// Makes `cargo deny` available.
pub(crate) fn provide_deny() -> Result<()> {
    provide("deny", "0.20")
}

/// Installs `cargo-NAME` unless `cargo NAME` works. The tool spends its time
/// waiting for others, so it is compiled quickly rather than well.
fn provide(name: &str, version: &str) -> Result<()> {
    if cargo().args([name, "--version"]).ask().is_some() {
        return Ok(());
    }
    let package = format!("cargo-{name}");
    say(&format!(
        "cargo install {package} (once, into target/tools; takes minutes)"
    ));
    cargo()
        .args([
            "install",
            "--quiet",
            "--locked",
            &package,
            "--version",
            &format!("^{version}"),
        ])
        .arg("--root")
        .arg(at("target/tools"))
        .arg("--target-dir")
        .arg(at("target/tools/build"))
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .or_advise(&format!(
            "install {package} in any other way and run this again"
        ))
        .run()
}
