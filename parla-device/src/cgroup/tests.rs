//! Control groups of made-up machines: version 1, version 2, both, and containers.

use super::*;
use crate::files::MadeUpSystem;

const V2_MOUNT: &str =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
const V1_MOUNTS: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";

fn v2_system(group: &str, limits: &[(&str, &str)]) -> MadeUpSystem {
    let system = MadeUpSystem::new(limits);
    system.write("/proc/self/cgroup", &format!("0::{group}\n"));
    system.write("/proc/self/mountinfo", V2_MOUNT);
    system
}

#[test]
fn quotas_round_up_to_whole_cpus() {
    for (text, expected) in [
        ("max 100000", None),
        ("200000 100000", Some(2)),
        ("250000 100000", Some(3)),
        ("1000 100000", Some(1)),
        ("0 100000", Some(1)),
        ("150000", Some(2)),
        ("-1 100000", None),
        ("100000 0", None),
        ("18446744073709551615 1", Some(u32::MAX)),
        ("", None),
        ("many", None),
    ] {
        assert_eq!(parse_cpu_max(text), expected, "{text:?}");
    }
}

#[test]
fn the_smallest_limit_on_the_way_up_counts() {
    let system = v2_system(
        "/user.slice/job",
        &[
            ("/sys/fs/cgroup/user.slice/job/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/user.slice/cpu.max", "350000 100000\n"),
            ("/sys/fs/cgroup/cpu.max", "800000 100000\n"),
            ("/sys/fs/cgroup/user.slice/job/memory.max", "3000\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "max\n"),
            ("/sys/fs/cgroup/other/cpu.max", "100000 100000\n"),
            ("/sys/fs/cgroup/other/memory.max", "10\n"),
        ],
    );
    assert_eq!(cpu_quota(&system.files), Some(4));
    assert_eq!(memory_limit(&system.files), Some(3000));
    system.write("/sys/fs/cgroup/memory.max", "2000");
    assert_eq!(memory_limit(&system.files), Some(2000));
}

#[test]
fn a_container_sees_its_group_as_the_root() {
    let system = v2_system(
        "/",
        &[
            ("/sys/fs/cgroup/cpu.max", "50000 100000"),
            ("/sys/fs/cgroup/memory.max", "7"),
        ],
    );
    assert_eq!(cpu_quota(&system.files), Some(1));
    assert_eq!(memory_limit(&system.files), Some(7));
}

#[test]
fn version_1_keeps_one_hierarchy_per_controller() {
    let system = MadeUpSystem::new(&[
        (
            "/proc/self/cgroup",
            "4:memory:/job\n3:cpuset:/\n1:cpu,cpuacct:/job/step\n0::/\n",
        ),
        ("/proc/self/mountinfo", V1_MOUNTS),
        (
            "/sys/fs/cgroup/cpu,cpuacct/job/step/cpu.cfs_quota_us",
            "-1\n",
        ),
        (
            "/sys/fs/cgroup/cpu,cpuacct/job/step/cpu.cfs_period_us",
            "100000\n",
        ),
        (
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us",
            "120000\n",
        ),
        (
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us",
            "50000\n",
        ),
        (
            "/sys/fs/cgroup/memory/job/memory.limit_in_bytes",
            "123456\n",
        ),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        ),
    ]);
    assert_eq!(cpu_quota(&system.files), Some(3));
    assert_eq!(memory_limit(&system.files), Some(123_456));
}

#[test]
fn both_versions_are_read_on_a_hybrid_system() {
    let system = MadeUpSystem::new(&[
        (
            "/proc/self/cgroup",
            "4:memory:/job\n1:cpu,cpuacct:/\n0::/unified\n",
        ),
        (
            "/proc/self/mountinfo",
            &format!("{V1_MOUNTS}\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"),
        ),
        ("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "500"),
        ("/sys/fs/cgroup/unified/unified/memory.max", "400"),
        ("/sys/fs/cgroup/unified/unified/cpu.max", "500000 100000"),
    ]);
    assert_eq!(memory_limit(&system.files), Some(400));
    system.write("/sys/fs/cgroup/unified/unified/memory.max", "600");
    assert_eq!(memory_limit(&system.files), Some(500));
    assert_eq!(cpu_quota(&system.files), Some(5));
}

#[test]
fn directories_of_partly_mounted_hierarchies() {
    let mount = |root: &str| Mount {
        root: root.to_owned(),
        point: "/cg".to_owned(),
    };
    assert_eq!(
        directories_upwards(&mount("/"), "/a/b"),
        ["/cg/a/b", "/cg/a", "/cg"]
    );
    assert_eq!(directories_upwards(&mount("/"), "/"), ["/cg"]);
    // A container that was given its group under the host's name.
    assert_eq!(
        directories_upwards(&mount("/docker/x"), "/docker/x"),
        ["/cg"]
    );
    assert_eq!(
        directories_upwards(&mount("/docker/x"), "/docker/x/y"),
        ["/cg/y", "/cg"]
    );
    // Groups that the mount does not show.
    assert_eq!(
        directories_upwards(&mount("/docker/x"), "/docker/xy"),
        ["/cg"]
    );
    assert_eq!(directories_upwards(&mount("/"), "/../other"), ["/cg"]);
}

#[test]
fn mount_points_may_hold_blanks() {
    let line = r"1 2 0:3 / /my\040groups rw - cgroup2 none rw";
    let expected = Mount {
        root: "/".to_owned(),
        point: "/my groups".to_owned(),
    };
    assert_eq!(parse_mount(line, Hierarchy::V2), Some(expected));
}

#[test]
fn missing_or_damaged_files_mean_no_limit() {
    let system = MadeUpSystem::new(&[]);
    assert_eq!(
        (cpu_quota(&system.files), memory_limit(&system.files)),
        (None, None)
    );
    system.write("/proc/self/cgroup", "nonsense\n0:\n::::");
    system.write(
        "/proc/self/mountinfo",
        "nonsense - \n - cgroup2\n1 2 - cgroup2 x",
    );
    assert_eq!(
        (cpu_quota(&system.files), memory_limit(&system.files)),
        (None, None)
    );
}
