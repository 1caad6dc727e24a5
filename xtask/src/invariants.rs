//! House rules that a program can check: which crate may use which, and what no
//! tracked file may contain. Clippy checks the rest (`clippy.toml`).

use anyhow::{Result, bail};

use crate::sh::say;

mod arrows;
mod tree;

/// Fails with the list of all violations.
pub(crate) fn check() -> Result<()> {
    say("crate dependencies, file contents");
    let mut violations = arrows::violations()?;
    violations.extend(tree::violations()?);
    if violations.is_empty() {
        return Ok(());
    }
    for violation in &violations {
        println!("{violation}");
    }
    bail!(
        "{} violations of the house rules (CONTRIBUTING.md)",
        violations.len()
    );
}
