//! Device files, good and bad.

use super::*;

const WHOLE: &str = "\
CPU:
  num_cores: 4
  mem_sz: 8G
GPU:
  num_devices: 2
  mem_sz: [2147483648, 1G]
LINKS:
  latency_us: 5
  bandwidth_gb_s: 24.5
  peer:
    bandwidth_gb_s: 48
  inside:
    latency_us: 0
  pairs:
    - between: [host, gpu:1]
      latency_us: 100
";

#[test]
fn everything_is_read() {
    let file = parse(WHOLE).unwrap();
    assert_eq!((file.cpu_cores, file.cpu_memory), (Some(4), Some(8 << 30)));
    assert_eq!(file.sim.memory, [2 << 30, 1 << 30]);
    let link = |latency_ns, bytes_per_second| Link {
        latency_ns,
        bytes_per_second,
        direct: true,
    };
    let links = &file.sim.links;
    assert_eq!(links.between(None, Some(0)), link(5_000, 24.5e9));
    assert_eq!(links.between(None, Some(1)), link(100_000, 24.5e9));
    assert_eq!(links.between(Some(1), None), link(100_000, 24.5e9));
    assert_eq!(links.between(Some(0), Some(1)), link(5_000, 48e9));
    assert_eq!(links.between(Some(0), Some(0)), link(0, 300e9));
}

#[test]
fn little_is_enough() {
    let gpus = |text| parse(text).unwrap().sim;
    assert_eq!(gpus("GPU: {num_devices: 3}"), SimOptions::new(3));
    assert_eq!(gpus("CPU: {num_cores: 1}"), SimOptions::new(0));
    let same = gpus("GPU:\n  num_devices: 2\n  mem_sz: 1000");
    assert_eq!(same.memory, [1000, 1000]);
    assert_eq!(gpus("GPU: {mem_sz: [5, 6]}").memory, [5, 6]);
    let none = gpus("GPU: {num_devices: 2}\nLINKS: {peer: none}");
    assert_eq!(none.links.peer, None);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, line, problem) in [
        ("CPU:\n  cores: 4", 2, "\"cores\" is not known"),
        ("CPU:\n  num_cores: 0", 2, "from 1 to 4096"),
        ("CPU:\n  mem_sz: 1GB", 2, "512MiB"),
        ("GPU:\n  num_devices: 33", 2, "0 to 32"),
        (
            "GPU:\n  num_devices: 2\n  mem_sz:\n    - 1",
            4,
            "1 entries for 2",
        ),
        ("GPU:\n  mem_sz: 5", 2, "num_devices"),
        ("TPU: {}", 1, "CPU, GPU or LINKS"),
        ("LINKS:\n  peer:\n    speed: 4", 3, "\"speed\" is not known"),
        ("LINKS:\n  bandwidth_gb_s: -1", 2, "number"),
        ("LINKS:\n  bandwidth_gb_s: .nan", 2, "number"),
        (
            "LINKS:\n  pairs:\n    - between: [gpu:0, host]",
            3,
            "there are 0 GPUs",
        ),
        ("LINKS:\n  pairs:\n    - latency_us: 1", 3, "between"),
        ("CPU: [1\nGPU: 2", 2, ""),
        ("", 1, "expected CPU"),
        ("5", 1, "key: value"),
    ] {
        let (at, what) = parse(text).expect_err(text);
        assert_eq!(at, line, "{text}: {what}");
        assert!(what.contains(problem), "{text}: {what}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = read(Path::new("no/such/file.yaml")).unwrap_err();
    assert!(error.to_string().contains("no/such/file.yaml"), "{error}");
}
