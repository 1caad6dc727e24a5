//! Which crate may depend on which.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::sh::cargo;

/// Each crate of the workspace with the crates of the workspace it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("parla-core", &[]),
    ("parla-fake-cuda", &["parla-core"]),
    ("parla-device", &["parla-core", "parla-fake-cuda"]),
    ("parla-data", &["parla-core", "parla-device"]),
    ("parla-sched", &["parla-core", "parla-device", "parla-data"]),
    (
        "parla-py",
        &["parla-core", "parla-device", "parla-data", "parla-sched"],
    ),
    (
        "parla-bench",
        &["parla-core", "parla-device", "parla-data", "parla-sched"],
    ),
    ("xtask", &[]),
];

/// Libraries that belong to one crate, as the rest must do without them.
const RESERVED: &[(&str, &str)] = &[
    ("anyhow", "xtask"),
    ("hwloc2", "parla-device"),
    ("pyo3", "parla-py"),
];

/// One line for each dependency that the tables above do not allow.
pub(crate) fn violations() -> Result<Vec<String>> {
    let text = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .ask();
    let metadata: Value = serde_json::from_str(&text.context("cargo metadata failed")?)?;
    let mut edges = Vec::new();
    for package in list(&metadata, "packages") {
        let uses = list(package, "dependencies").iter().map(name);
        edges.push((name(package), uses.collect::<Vec<_>>()));
    }
    Ok(judge(&edges))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn judge(edges: &[(&str, Vec<&str>)]) -> Vec<String> {
    let mut found = Vec::new();
    for (package, uses) in edges {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| known == package) else {
            found.push(format!("{package}: not in the table of crates in xtask"));
            continue;
        };
        for used in uses {
            let ours = ARROWS.iter().any(|(known, _)| known == used);
            if ours && !allowed.contains(used) {
                found.push(format!("{package}: may not depend on {used}"));
            }
            if let Some((_, owner)) = RESERVED.iter().find(|(library, _)| library == used)
                && owner != package
            {
                found.push(format!("{package}: only {owner} may depend on {used}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{judge, violations};

    #[test]
    fn the_workspace_keeps_to_the_table() {
        assert_eq!(
            violations().expect("cargo metadata works here"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_arrow_upwards_is_found() {
        let edges = [("parla-core", vec!["smallvec", "parla-sched"])];
        assert_eq!(judge(&edges), ["parla-core: may not depend on parla-sched"]);
    }

    #[test]
    fn a_reserved_library_is_found() {
        let edges = [("parla-sched", vec!["pyo3"]), ("parla-py", vec!["pyo3"])];
        assert_eq!(
            judge(&edges),
            ["parla-sched: only parla-py may depend on pyo3"]
        );
    }

    #[test]
    fn an_unknown_crate_is_found() {
        assert_eq!(judge(&[("parla-new", vec![])]).len(), 1);
    }
}
