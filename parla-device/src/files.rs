//! The small text files of `/proc` and `/sys`, below a root that tests replace with a made-up tree.

use std::fs;
use std::path::{Path, PathBuf};

/// Reads files of the system, addressed by absolute path.
#[derive(Debug)]
pub(crate) struct SystemFiles {
    root: PathBuf,
}

impl SystemFiles {
    /// The files of the machine we run on.
    pub(crate) fn of_this_machine() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }

    /// The text of `path` without surrounding white space, if it can be read.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.locate(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// The number that is all of `path`, if it is one.
    pub(crate) fn read_u32(&self, path: &str) -> Option<u32> {
        self.read(path)?.parse().ok()
    }

    /// The `n` of all entries `<prefix>n` of the directory `path`, ascending.
    pub(crate) fn numbered_entries(&self, path: &str, prefix: &str) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(self.locate(path)) else {
            return Vec::new();
        };
        let mut numbers: Vec<u32> = entries
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_prefix(prefix)?
                    .parse()
                    .ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    fn locate(&self, path: &str) -> PathBuf {
        self.root
            .join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
    }
}

/// More CPUs than any machine has: longer lists are damaged files.
const MAX_CPUS: u32 = 1 << 16;

/// Parses the kernel's list format (`0-3,8,10-11`) into ascending numbers.
///
/// `None` when the text is not such a list or names a CPU beyond any machine's.
pub(crate) fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
pub(crate) use tests::MadeUpSystem;

#[cfg(test)]
mod tests;
