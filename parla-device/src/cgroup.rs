//! The limits that control groups (v1 and v2) set for this process.
//!
//! A limit may sit on the process's own group or on any group above it, so all directories from the
//! process's group up to the mount point are read and the smallest limit counts. On hybrid systems, where
//! both versions are mounted, both are read.

use crate::files::SystemFiles;

/// The CPUs' worth of time this process may use, rounded up to whole CPUs and at least 1; `None` when
/// there is no limit.
pub(crate) fn cpu_quota(files: &SystemFiles) -> Option<u32> {
    let v2 = group_directories(files, Hierarchy::V2)
        .into_iter()
        .filter_map(|dir| parse_cpu_max(&files.read(&format!("{dir}/cpu.max"))?));
    let v1 = group_directories(files, Hierarchy::V1 { controller: "cpu" })
        .into_iter()
        .filter_map(|dir| {
            let quota = files.read(&format!("{dir}/cpu.cfs_quota_us"))?;
            let period = files.read(&format!("{dir}/cpu.cfs_period_us"))?;
            parse_quota(&quota, &period)
        });
    v2.chain(v1).min()
}

/// The bytes of memory this process's groups may use; `None` when there is no limit.
///
/// Version 1 writes "no limit" as a number near 2^63, which is returned as it is.
pub(crate) fn memory_limit(files: &SystemFiles) -> Option<u64> {
    let read_in = |hierarchy, file: &str| -> Option<u64> {
        group_directories(files, hierarchy)
            .into_iter()
            .filter_map(|dir| files.read(&format!("{dir}/{file}"))?.parse().ok())
            .min()
    };
    let v2 = read_in(Hierarchy::V2, "memory.max");
    let v1 = read_in(
        Hierarchy::V1 {
            controller: "memory",
        },
        "memory.limit_in_bytes",
    );
    v2.into_iter().chain(v1).min()
}

/// `cpu.max`: `max 100000` or `150000 100000`, quota and period in microseconds.
fn parse_cpu_max(text: &str) -> Option<u32> {
    let mut words = text.split_whitespace();
    let quota = words.next()?;
    // The kernel's default period, should the file leave it out.
    parse_quota(quota, words.next().unwrap_or("100000"))
}

/// Whole CPUs for a quota per period; `None` for `max`, `-1` and nonsense.
fn parse_quota(quota: &str, period: &str) -> Option<u32> {
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    if period == 0 {
        return None;
    }
    Some(
        u32::try_from(quota.div_ceil(period))
            .unwrap_or(u32::MAX)
            .max(1),
    )
}

#[derive(Clone, Copy)]
enum Hierarchy {
    V1 { controller: &'static str },
    V2,
}

/// The directories of the process's group and of all groups above it that this process can see.
fn group_directories(files: &SystemFiles, hierarchy: Hierarchy) -> Vec<String> {
    let find = || -> Option<Vec<String>> {
        let group = parse_own_group(&files.read("/proc/self/cgroup")?, hierarchy)?;
        let mount = parse_mount(&files.read("/proc/self/mountinfo")?, hierarchy)?;
        Some(directories_upwards(&mount, &group))
    };
    find().unwrap_or_default()
}

/// This process's group: the path of the matching line (`id:controllers:path`) of `/proc/self/cgroup`.
fn parse_own_group(text: &str, hierarchy: Hierarchy) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match hierarchy {
            Hierarchy::V1 { controller } => controllers.split(',').any(|c| c == controller),
            Hierarchy::V2 => id == "0" && controllers.is_empty(),
        };
        matches.then(|| path.to_owned())
    })
}

/// Where a hierarchy is mounted, and which of its groups the mount point shows (a container often sees
/// only its own).
#[derive(Debug, PartialEq)]
struct Mount {
    root: String,
    point: String,
}

/// Finds the hierarchy in `/proc/self/mountinfo`:
/// `id parent major:minor root point options [tags...] - type source super-options`.
fn parse_mount(text: &str, hierarchy: Hierarchy) -> Option<Mount> {
    text.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (fs_type, options) = (kind.next()?, kind.nth(1).unwrap_or(""));
        let matches = match hierarchy {
            Hierarchy::V1 { controller } => {
                fs_type == "cgroup" && options.split(',').any(|option| option == controller)
            }
            Hierarchy::V2 => fs_type == "cgroup2",
        };
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        // The kernel writes blanks in paths as \040.
        matches.then(|| Mount {
            root: root.replace(r"\040", " "),
            point: point.replace(r"\040", " "),
        })
    })
}

/// The group's directory below the mount point, then each one above it, ending with the mount point.
fn directories_upwards(mount: &Mount, group: &str) -> Vec<String> {
    let point = mount.point.trim_end_matches('/');
    // A group outside of what is mounted cannot be seen; the top of what is mounted is above it or is it.
    let below = group
        .strip_prefix(mount.root.trim_end_matches('/'))
        .filter(|rest| {
            (rest.is_empty() || rest.starts_with('/')) && !rest.split('/').any(|part| part == "..")
        });
    let mut below = below.unwrap_or("").trim_end_matches('/');
    let mut directories = vec![format!("{point}{below}")];
    while let Some(slash) = below.rfind('/') {
        below = &below[..slash];
        directories.push(format!("{point}{below}"));
    }
    directories
}

#[cfg(test)]
mod tests;
