//! Made-up file trees, and the parsers over them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::{SystemFiles, parse_cpu_list};

/// A temporary directory that plays `/`, removed when dropped.
pub(crate) struct MadeUpSystem {
    pub(crate) files: SystemFiles,
}

impl MadeUpSystem {
    /// A tree with these files, given as (absolute path, text).
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only uniqueness matters.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root: PathBuf =
            std::env::temp_dir().join(format!("parla-device-{}-{number}", std::process::id()));
        let system = Self {
            files: SystemFiles { root },
        };
        fs::create_dir_all(&system.files.root).expect("the temporary directory is writable");
        for (path, text) in files {
            system.write(path, text);
        }
        system
    }

    /// Adds or replaces one file.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.files.locate(path);
        fs::create_dir_all(path.parent().expect("files lie in directories"))
            .expect("the temporary directory is writable");
        fs::write(path, text).expect("the temporary directory is writable");
    }
}

impl Drop for MadeUpSystem {
    fn drop(&mut self) {
        // A leftover directory under the system's temporary one harms no later run.
        let _ = fs::remove_dir_all(&self.files.root);
    }
}

#[test]
fn files_are_read_below_the_root() {
    let system = MadeUpSystem::new(&[
        ("/sys/devices/system/cpu/cpu10/x", " 7\n"),
        ("/sys/devices/system/cpu/cpu2/x", "no number"),
        ("/sys/devices/system/cpu/cpufreq/x", ""),
    ]);
    let files = &system.files;
    assert_eq!(
        files.read("/sys/devices/system/cpu/cpu10/x").as_deref(),
        Some("7")
    );
    assert_eq!(files.read_u32("/sys/devices/system/cpu/cpu10/x"), Some(7));
    assert_eq!(files.read_u32("/sys/devices/system/cpu/cpu2/x"), None);
    assert_eq!(files.read("/sys/devices/system/cpu/cpu3/x"), None);
    assert_eq!(
        files.numbered_entries("/sys/devices/system/cpu", "cpu"),
        [2, 10]
    );
    assert!(files.numbered_entries("/sys/nowhere", "cpu").is_empty());
}

#[test]
fn cpu_lists() {
    assert_eq!(
        parse_cpu_list("0-3,8,10-11\n"),
        Some(vec![0, 1, 2, 3, 8, 10, 11])
    );
    assert_eq!(parse_cpu_list("5,1,1-2"), Some(vec![1, 2, 5]));
    assert_eq!(parse_cpu_list(""), Some(vec![]));
    for bad in ["a", "3-1", "-1", "1-", "0-4294967295", "99999999999", "1 2"] {
        assert_eq!(parse_cpu_list(bad), None, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_set_of_cpus_survives_its_list(ranges in proptest::collection::vec((0_u32..2000, 0_u32..40), 0..20)) {
        let expected: BTreeSet<u32> = ranges.iter().flat_map(|&(first, n)| first..=first + n).collect();
        let text: Vec<String> = ranges.iter().map(|&(first, n)| format!("{first}-{}", first + n)).collect();
        prop_assert_eq!(parse_cpu_list(&text.join(",")), Some(expected.into_iter().collect()));
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        let _ = parse_cpu_list(&text);
    }
}
