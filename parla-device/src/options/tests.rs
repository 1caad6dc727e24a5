//! Options from environment variables.

use super::*;

fn options(variables: &[(&str, &str)]) -> Result<MachineOptions, DeviceError> {
    MachineOptions::from_env(|name| {
        let given = variables.iter().find(|(variable, _)| *variable == name);
        given.map(|(_, value)| (*value).to_owned())
    })
}

fn sim(variables: &[(&str, &str)]) -> SimOptions {
    let mut all = vec![("PARLA_SIM_GPUS", "2")];
    all.extend_from_slice(variables);
    match options(&all).expect("all are good").gpus {
        Gpus::Simulated(sim) => sim,
        Gpus::Real => panic!("simulated GPUs were asked for"),
    }
}

#[test]
fn links_are_kept_in_the_users_cache_unless_said() {
    let file = |variables: &[(&str, &str)]| options(variables).unwrap().link_file;
    let at = |path: &str, named| {
        let path = path.into();
        Some(LinkFile { path, named })
    };
    let home = ("HOME", "/houses/me");
    assert_eq!(file(&[home]), at("/houses/me/.cache/parla/links", false));
    let caches = ("XDG_CACHE_HOME", "/fast");
    assert_eq!(file(&[home, caches]), at("/fast/parla/links", false));
    let chosen = ("PARLA_LINK_FILE", "mine");
    assert_eq!(file(&[home, chosen]), at("mine", true));
    assert_eq!(file(&[home, ("PARLA_LINK_FILE", "none")]), None);
}

#[test]
fn nothing_set_leaves_it_to_the_machine() {
    assert_eq!(options(&[]).unwrap(), MachineOptions::default());
    for none in ["0", "", " "] {
        let options = options(&[("PARLA_SIM_GPUS", none), ("PARLA_SIM_TIME", "what")]);
        assert_eq!(options.unwrap().gpus, Gpus::Real);
    }
}

#[test]
fn simulated_gpus_have_2_gib_and_take_time() {
    assert_eq!(sim(&[]), SimOptions::new(2));
    assert_eq!(sim(&[]).memory, [2 << 30, 2 << 30]);
}

#[test]
fn every_variable_is_read() {
    let sim = sim(&[
        ("PARLA_SIM_GPU_MEM", "1G, 512MiB"),
        (
            "PARLA_SIM_LINK",
            "latency=5us, bandwidth=1.5GB/s, peer=48GB/s, peer_latency=0, inside=inf",
        ),
        ("PARLA_SIM_TIME", "0"),
        ("PARLA_SIM_FILL", "0"),
        ("PARLA_SIM_FAULTS", "gpu:1 alloc=2"),
    ]);
    assert_eq!(sim.memory, [1 << 30, 512 << 20]);
    assert!(!sim.timed && !sim.fill);
    assert_eq!(sim.faults.len(), 1);
    let link = |latency_ns, bytes_per_second| Link {
        latency_ns,
        bytes_per_second,
        direct: true,
    };
    assert_eq!(sim.links.host, link(5_000, 1.5e9));
    assert_eq!(sim.links.peer, Some(link(0, 48e9)));
    assert_eq!(sim.links.inside, link(2_000, f64::INFINITY));
}

#[test]
fn peers_follow_the_link_to_the_host_unless_there_is_none() {
    let links = |text| sim(&[("PARLA_SIM_LINK", text)]).links;
    let followed = links("bandwidth=25GB/s");
    assert_eq!(followed.peer, Some(followed.host));
    assert_eq!(links("peer=none").peer, None);
}

#[test]
fn bad_values_are_errors_that_name_variable_and_value() {
    for (name, bad_values) in [
        (
            "PARLA_SIM_GPUS",
            &["33", "-1", "two", "1.5", "\u{fffd}"][..],
        ),
        ("PARLA_SIM_GPU_MEM", &["0", "1G,1G,1G", "1GB", "-1", ","]),
        (
            "PARLA_SIM_LINK",
            &[
                "12GB/s",
                "bandwidth=12",
                "bandwidth=0GB/s",
                "latency=10",
                "latency=-1us",
                "peer=some",
                "speed=1GB/s",
                "latency=9999999s",
                "bandwidth=1.2.3GB/s",
            ],
        ),
        ("PARLA_SIM_TIME", &["2", "yes"]),
        ("PARLA_SIM_FILL", &["0xDD"]),
        ("PARLA_SIM_FAULTS", &["gpu:2 alloc=1", "boom"]),
    ] {
        for value in bad_values {
            let error = options(&[("PARLA_SIM_GPUS", "2"), (name, value)]);
            let error = if name == "PARLA_SIM_GPUS" {
                options(&[(name, value)])
            } else {
                error
            };
            let text = error.expect_err(value).to_string();
            assert!(
                text.contains(name) && text.contains(&format!("{value:?}")),
                "{text}"
            );
        }
    }
}

#[test]
fn variables_win_over_the_device_file() {
    let path = std::env::temp_dir().join(format!("parla-devices-{}.yaml", std::process::id()));
    let text = "CPU: {num_cores: 1, mem_sz: 5G}\nGPU: {num_devices: 2, mem_sz: [3G, 4G]}";
    std::fs::write(&path, text).unwrap();
    let file = ("PARLA_DEVICE_FILE", path.to_str().unwrap());
    let from_file = options(&[file]).unwrap();
    assert_eq!(from_file, MachineOptions::from_file(&path).unwrap());
    assert_eq!(
        (from_file.host.cores, from_file.host.memory),
        (Some(1), Some(5 << 30))
    );
    let changed = options(&[
        file,
        ("PARLA_CPU_MEM", "1G"),
        ("PARLA_SIM_GPUS", "3"),
        ("PARLA_SIM_TIME", "0"),
    ]);
    let real = options(&[file, ("PARLA_SIM_GPUS", "0")]);
    std::fs::remove_file(&path).unwrap();
    let changed = changed.unwrap();
    assert_eq!(changed.host.memory, Some(1 << 30));
    let Gpus::Simulated(sim) = changed.gpus else {
        panic!("the file describes simulated GPUs");
    };
    assert_eq!(sim.memory, [3 << 30, 4 << 30, 2 << 30]);
    assert!(!sim.timed);
    assert_eq!(real.unwrap().gpus, Gpus::Real);
}
