//! How much memory this process may use.

use crate::cgroup;
use crate::error::DeviceError;
use crate::files::SystemFiles;

/// The bytes of memory available to this process: the machine's, or less where its control group sets a
/// limit. What other processes use at the moment is not subtracted.
///
/// # Errors
///
/// [`DeviceError::UnknownMemory`] when the system does not say.
pub fn available_memory() -> Result<u64, DeviceError> {
    let files = SystemFiles::of_this_machine();
    smaller_of(
        installed(&files).or_else(physical_pages),
        cgroup::memory_limit(&files),
    )
}

fn smaller_of(installed: Option<u64>, limit: Option<u64>) -> Result<u64, DeviceError> {
    let installed = installed
        .filter(|&bytes| bytes > 0)
        .ok_or(DeviceError::UnknownMemory)?;
    Ok(limit.map_or(installed, |limit| installed.min(limit)))
}

/// The `MemTotal` of `/proc/meminfo`.
fn installed(files: &SystemFiles) -> Option<u64> {
    parse_mem_total(&files.read("/proc/meminfo")?)
}

/// The bytes of a `MemTotal: <n> kB` line, as `/proc/meminfo` and each NUMA node's `meminfo` have it.
pub(crate) fn parse_mem_total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (_, value) = line.split_once("MemTotal:")?;
        value
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    })
}

/// The memory that the C library reports, for systems without `/proc`.
fn physical_pages() -> Option<u64> {
    let sysconf = |name| {
        // SAFETY: sysconf takes any number and touches no memory of ours.
        let value = unsafe { libc::sysconf(name) };
        u64::try_from(value).ok()
    };
    sysconf(libc::_SC_PHYS_PAGES)?.checked_mul(sysconf(libc::_SC_PAGESIZE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::MadeUpSystem;

    #[test]
    fn mem_total_of_machine_and_node() {
        assert_eq!(
            parse_mem_total("MemTotal:       24684096 kB\nMemFree: 1 kB"),
            Some(24_684_096 * 1024)
        );
        assert_eq!(
            parse_mem_total("Node 0 MemTotal:  2048 kB\nNode 0 MemFree: 9 kB"),
            Some(2048 * 1024)
        );
        for bad in [
            "",
            "MemFree: 5 kB",
            "MemTotal: 5 MB",
            "MemTotal: -5 kB",
            "MemTotal: 18446744073709551615 kB",
        ] {
            assert_eq!(parse_mem_total(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_cgroup_lowers_but_never_raises() {
        let system = MadeUpSystem::new(&[
            ("/proc/meminfo", "MemTotal: 4 kB"),
            ("/proc/self/cgroup", "0::/\n"),
            ("/proc/self/mountinfo", "1 2 0:3 / /cg rw - cgroup2 none rw"),
            ("/cg/memory.max", "1000"),
        ]);
        let available =
            |files: &SystemFiles| smaller_of(installed(files), cgroup::memory_limit(files)).ok();
        assert_eq!(available(&system.files), Some(1000));
        system.write("/cg/memory.max", "9223372036854771712");
        assert_eq!(available(&system.files), Some(4096));
        system.write("/cg/memory.max", "max");
        assert_eq!(available(&system.files), Some(4096));
    }

    #[test]
    fn an_unknown_size_is_an_error_that_says_what_to_set() {
        let error = smaller_of(None, Some(1000)).expect_err("nothing is known");
        assert!(error.to_string().contains("PARLA_CPU_MEM"), "{error}");
    }

    #[test]
    fn the_c_library_agrees_with_proc() {
        let pages = physical_pages().expect("every Unix reports its pages");
        if let Some(proc) = installed(&SystemFiles::of_this_machine()) {
            assert!(pages.abs_diff(proc) < proc / 10, "{pages} and {proc}");
        }
    }
}
