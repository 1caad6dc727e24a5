//! What no file of the repository may contain.

use std::env;
use std::fs;

use anyhow::{Context as _, Result};

use crate::sh::{at, cmd, root};

/// Places that exist on one machine only. In pieces, so that this file does not
/// contain them.
const PLACES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/"),
];

/// Parts of addresses of package mirrors: a lock or configuration file that
/// names one works only near it.
const MIRRORS: &[&str] = &[
    concat!("arti", "factory"),
    concat!("/simple/", "pypi"),
    concat!("/pypi/", "simple"),
];

/// Files above this are data, and data belongs elsewhere.
const MAX_BYTES: u64 = 1 << 20;

/// One line for each rule that a file breaks.
pub(crate) fn violations() -> Result<Vec<String>> {
    let listing = cmd("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .ask();
    let listing = listing.context("git ls-files failed: is this a git checkout?")?;
    let home = env::var("HOME").unwrap_or_default();
    let here = root().display().to_string();
    let own = [here.as_str(), home.as_str()];
    let mut found = Vec::new();
    for path in listing.lines() {
        // A file that was deleted but not yet committed is still listed.
        let Ok(about) = fs::metadata(at(path)) else {
            continue;
        };
        if about.len() > MAX_BYTES {
            found.push(format!(
                "{path}: {} bytes, more than {MAX_BYTES}",
                about.len()
            ));
            continue;
        }
        if let Ok(text) = fs::read_to_string(at(path)) {
            found.extend(
                judge(path, &text, &own)
                    .iter()
                    .map(|what| format!("{path}: {what}")),
            );
        }
    }
    Ok(found)
}

fn judge(path: &str, text: &str, own: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let own = own.iter().filter(|place| place.len() > 1);
    for place in own.chain(PLACES) {
        if mentions(text, place) {
            found.push(format!(
                "names the place {place}, which is on one machine only"
            ));
        }
    }
    for mirror in MIRRORS.iter().filter(|mirror| text.contains(**mirror)) {
        found.push(format!("names a package mirror ({mirror})"));
    }
    if path.ends_with(".rs") && !text.starts_with("//!") {
        found.push("does not begin with a `//!` sentence on what it is for".to_owned());
    }
    if path.ends_with(".py") && path.contains("/python/") && !has_docstring(text) {
        found.push("does not begin with a docstring on what it is for".to_owned());
    }
    found
}

/// Whether `place` occurs as the start of a path rather than inside a longer one.
fn mentions(text: &str, place: &str) -> bool {
    text.match_indices(place).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~/}".contains(c))
    })
}

fn has_docstring(text: &str) -> bool {
    let first = text
        .lines()
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_none_or(|line| line.starts_with("\"\"\"") || line.starts_with("r\"\"\""))
}

#[cfg(test)]
mod tests {
    use super::{PLACES, judge, mentions};

    #[test]
    fn a_place_is_found_only_at_the_start_of_a_path() {
        let place = PLACES[0];
        assert!(mentions(&format!("open('{place}me/x')"), place));
        assert!(mentions(place, place));
        assert!(!mentions(&format!("docs{place}page"), place));
    }

    #[test]
    fn the_checkout_itself_is_a_place() {
        assert_eq!(
            judge("a.md", "see /build/here/x", &["/build/here"]).len(),
            1
        );
        assert_eq!(judge("a.md", "see here/x", &["/build/here", ""]).len(), 0);
    }

    #[test]
    fn sources_say_what_they_are_for() {
        assert_eq!(judge("a/src/lib.rs", "fn main() {}", &[]).len(), 1);
        assert_eq!(judge("a/src/lib.rs", "//! Yes.", &[]).len(), 0);
        assert_eq!(judge("p/python/m.py", "import os", &[]).len(), 1);
        assert_eq!(
            judge("p/python/m.py", "#!x\n\"\"\"Yes.\"\"\"", &[]).len(),
            0
        );
    }
}
