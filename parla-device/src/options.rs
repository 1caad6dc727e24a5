//! What the user asked of the machine: its CPUs, and which GPUs, real or simulated. Environment variables say it.

use std::env;
use std::path::{Path, PathBuf};

use parla_core::Link;

use crate::cuda::CudaOptions;
use crate::error::DeviceError;
use crate::host::HostOptions;
use crate::host::options::{parse, parse_bytes};
use crate::sim::{MAX_SIM_GPUS, SimLinks, SimOptions};

/// How to make the devices of this process. The default leaves everything to the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineOptions {
    /// The CPUs.
    pub host: HostOptions,
    /// The GPUs.
    pub gpus: Gpus,
    /// Where the measured links of real GPUs are kept; `None`: typical ones are taken.
    pub link_file: Option<LinkFile>,
    /// What to make of real ones.
    pub cuda: CudaOptions,
}

/// A file that [`Machine::save_links`](crate::Machine::save_links) writes. It need not exist.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkFile {
    /// Where it is.
    pub path: PathBuf,
    /// The user named it, and is told if it cannot be read; else it is a cache, and taken for missing.
    pub named: bool,
}

/// Which GPUs there are; never real and simulated ones together.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Gpus {
    /// Those that are found, perhaps none.
    #[default]
    Real,
    /// These.
    Simulated(SimOptions),
}

mod file;

const LINK_ALLOWED: &str = "settings such as \"latency=10us,bandwidth=12GB/s,peer=48GB/s\" (peer=none: through the host), also peer_latency and inside";
const FAULTS_ALLOWED: &str = "rules such as \"gpu:0 alloc=3; gpu:* copy=2+; gpu:1 lose=40\" for GPUs that PARLA_SIM_GPUS makes";

impl MachineOptions {
    /// Reads the options from environment variables, of which `lookup` gives the value if it is set. Those of the CPUs are
    /// [those of `HostOptions`](HostOptions::from_env), those of real GPUs [those of `CudaOptions`](CudaOptions::from_env).
    ///
    /// | variable | value |
    /// |---|---|
    /// | `PARLA_SIM_GPUS` | number of simulated GPUs, up to [`MAX_SIM_GPUS`]; 0 or empty: real ones, if there are any |
    /// | `PARLA_SIM_GPU_MEM` | bytes of memory of each (`2G` unless set), or one number per GPU with commas between |
    /// | `PARLA_SIM_LINK` | `latency` and `bandwidth` to and from the host, `peer` bandwidth (or `none`) and `peer_latency` between GPUs, `inside` bandwidth; see [`SimLinks`] for what is not set |
    /// | `PARLA_SIM_TIME` | `0`: simulated GPUs are as fast as possible; `1`: they take the time of the model |
    /// | `PARLA_SIM_FILL` | `0`: memory of simulated GPUs is not filled when it is handed out, which is faster and hides missing copies |
    /// | `PARLA_SIM_FAULTS` | what is to go wrong, see [`SimOptions::add_faults`] |
    /// | `PARLA_LINK_FILE` | where the measured links of real GPUs are kept; `parla/links` in `XDG_CACHE_HOME` or `HOME/.cache` unless set; `none`: nowhere |
    /// | `PARLA_DEVICE_FILE` | a file as [`from_file`](Self::from_file) reads it; the other variables win over what it says |
    ///
    /// # Errors
    /// [`DeviceError::BadVariable`] for a value that is none of these, [`DeviceError::DeviceFile`]. Of simulated GPUs that are not asked
    /// for nothing is read.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, DeviceError> {
        let path = lookup("PARLA_DEVICE_FILE").filter(|path| !path.trim().is_empty());
        let mut options = match path {
            Some(path) => Self::from_file(Path::new(&path))?,
            None => Self::default(),
        };
        let host = HostOptions::from_env(&lookup)?;
        options.host = HostOptions {
            cores: host.cores.or(options.host.cores),
            memory: host.memory.or(options.host.memory),
            ..host
        };
        let count = parse_set(
            &lookup,
            "PARLA_SIM_GPUS",
            "a whole number from 0 to 32",
            |text| text.parse().ok().filter(|&n: &usize| n <= MAX_SIM_GPUS),
        )?;
        let sim = match (count, options.gpus) {
            (None, Gpus::Real) | (Some(0), _) => None,
            (None, Gpus::Simulated(sim)) => Some(sim),
            (Some(n_gpus), Gpus::Real) => Some(SimOptions::new(n_gpus)),
            (Some(n_gpus), Gpus::Simulated(mut sim)) => {
                sim.memory.resize(n_gpus, SimOptions::DEFAULT_MEMORY);
                // What the file says about GPUs that are not there now.
                let there = |end: Option<u32>| end.is_none_or(|gpu| (gpu as usize) < n_gpus);
                sim.links
                    .pairs
                    .retain(|pair| there(pair.0) && there(pair.1));
                Some(sim)
            }
        };
        let sim = sim.map(|sim| simulated(sim, &lookup)).transpose()?;
        options.gpus = sim.map_or(Gpus::Real, Gpus::Simulated);
        options.link_file = link_file(&lookup);
        options.cuda = CudaOptions::from_env(&lookup)?;
        Ok(options)
    }

    /// Reads a YAML file that describes a machine: `CPU` with `num_cores` (at most so many are used) and `mem_sz`, `GPU` with `num_devices` and
    /// `mem_sz` (one for all, or a list with one for each), and `LINKS` with `latency_us` and `bandwidth_gb_s` to and from the host, the same
    /// for `peer` (or `none`) and `inside`, and `pairs`, each of them `between` two memories. Its GPUs are simulated, also if it has none.
    ///
    /// # Errors
    /// [`DeviceError::DeviceFile`] with the line.
    pub fn from_file(path: &Path) -> Result<Self, DeviceError> {
        let file = file::read(path)?;
        Ok(Self {
            host: HostOptions {
                cores: file.cpu_cores,
                memory: file.cpu_memory,
                ..HostOptions::default()
            },
            gpus: Gpus::Simulated(file.sim),
            link_file: None,
            cuda: CudaOptions::default(),
        })
    }

    /// Reads the options from this process's environment.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env). A value that is not UTF-8 is an error like any other bad value.
    pub fn from_process_env() -> Result<Self, DeviceError> {
        // Replacement characters occur in no allowed value.
        Self::from_env(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }
}

/// Where measured links are kept.
fn link_file(lookup: impl Fn(&str) -> Option<String>) -> Option<LinkFile> {
    let set = |name| lookup(name).filter(|value| !value.trim().is_empty());
    if let Some(path) = set("PARLA_LINK_FILE") {
        let path = PathBuf::from(path);
        return (path.as_os_str() != "none").then_some(LinkFile { path, named: true });
    }
    let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?;
    let path = caches.join("parla").join("links");
    Some(LinkFile { path, named: false })
}

/// Simulated GPUs, with what the environment says about them.
fn simulated(
    mut sim: SimOptions,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<SimOptions, DeviceError> {
    let n_gpus = sim.memory.len();
    let memory = parse_set(
        lookup,
        "PARLA_SIM_GPU_MEM",
        "a whole number of bytes above 0, such as 512MiB or 2G, or one for each simulated GPU with commas between",
        |text| {
            let each: Option<Vec<u64>> = text.split(',').map(|n| parse_bytes(n.trim())).collect();
            match each?.as_slice() {
                [all] => Some(vec![*all; n_gpus]),
                each if each.len() == n_gpus => Some(each.to_vec()),
                _ => None,
            }
        },
    )?;
    sim.memory = memory.unwrap_or(sim.memory);
    let links = parse_set(lookup, "PARLA_SIM_LINK", LINK_ALLOWED, |text| {
        parse_links(text, &sim.links)
    })?;
    sim.links = links.unwrap_or(sim.links);
    let switch = |name| {
        parse_set(lookup, name, "0 or 1", |text| match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        })
    };
    sim.timed = switch("PARLA_SIM_TIME")?.unwrap_or(sim.timed);
    sim.fill = switch("PARLA_SIM_FILL")?.unwrap_or(sim.fill);
    let faults = parse_set(lookup, "PARLA_SIM_FAULTS", FAULTS_ALLOWED, |text| {
        let mut sim = sim.clone();
        sim.add_faults(text).ok().map(|()| sim.faults)
    })?;
    sim.faults = faults.unwrap_or(sim.faults);
    Ok(sim)
}

/// As `parse`, for variables that may be empty, which is as if they were not set.
fn parse_set<T>(
    lookup: impl Fn(&str) -> Option<String>,
    name: &'static str,
    allowed: &'static str,
    parser: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, DeviceError> {
    let lookup = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    parse(lookup, name, allowed, parser)
}

/// Changes `links` as `latency=10us,bandwidth=12GB/s,peer=none` says.
fn parse_links(text: &str, links: &SimLinks) -> Option<SimLinks> {
    let mut links = links.clone();
    // What peers have unless it is said follows the link to the host.
    let (mut bandwidth, mut latency) = (Some(None), None);
    for setting in text.split(',') {
        let (key, value) = setting.split_once('=')?;
        let value = value.trim();
        match key.trim() {
            "latency" => links.host.latency_ns = parse_time(value)?,
            "bandwidth" => links.host.bytes_per_second = parse_rate(value)?,
            "inside" => links.inside.bytes_per_second = parse_rate(value)?,
            "peer_latency" => latency = Some(parse_time(value)?),
            "peer" if value == "none" => bandwidth = None,
            "peer" => bandwidth = Some(Some(parse_rate(value)?)),
            _ => return None,
        }
    }
    links.peer = bandwidth.map(|bandwidth| Link {
        latency_ns: latency.unwrap_or(links.host.latency_ns),
        bytes_per_second: bandwidth.unwrap_or(links.host.bytes_per_second),
        direct: true,
    });
    Some(links)
}

/// `10us`, as nanoseconds.
fn parse_time(text: &str) -> Option<u64> {
    let (number, unit) = parse_number(text)?;
    let factor = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ if number == 0.0 && unit.is_empty() => 0.0,
        _ => return None,
    };
    // Up to an hour; beyond that it is a mistake.
    Some(number * factor)
        .filter(|&ns| ns <= 3.6e12)
        .map(|ns| ns as u64)
}

/// `12GB/s`, as bytes per second; above 0.
fn parse_rate(text: &str) -> Option<f64> {
    if text == "inf" {
        return Some(f64::INFINITY);
    }
    let (number, unit) = parse_number(text)?;
    let factor = match unit.strip_suffix("/s")? {
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "B" => 1.0,
        _ => return None,
    };
    Some(number * factor).filter(|&rate| rate >= 1.0)
}

/// A number of digits and at most one point, and what follows.
fn parse_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests;
