//! Machines described in a YAML file: their CPUs, simulated GPUs, and links.
//!
//! ```yaml
//! CPU:
//!   num_cores: 4              # use at most so many
//!   mem_sz: 8G                # bytes, or with a suffix as in PARLA_CPU_MEM
//! GPU:
//!   num_devices: 2
//!   mem_sz: [2147483648, 2G]  # one for each, or one number for all
//! LINKS:                      # optional, like everything in it
//!   latency_us: 10            # between the host and each GPU
//!   bandwidth_gb_s: 12
//!   peer:                     # between GPUs; `none`: through the host
//!     bandwidth_gb_s: 48
//!   inside:                   # within a GPU
//!     bandwidth_gb_s: 300
//!   pairs:                    # what differs, in both directions
//!     - between: [gpu:0, gpu:1]
//!       latency_us: 5
//!       bandwidth_gb_s: 100
//! ```

use std::path::Path;

use parla_core::Link;
use saphyr::{LoadableYamlNode, MarkedYaml};

use crate::error::DeviceError;
use crate::host::options::{MAX_WORKERS, parse_bytes};
use crate::sim::{MAX_SIM_GPUS, SimOptions};

/// What a device file says.
#[derive(Debug, PartialEq)]
pub(super) struct DeviceFile {
    pub(super) cpu_cores: Option<usize>,
    pub(super) cpu_memory: Option<u64>,
    pub(super) sim: SimOptions,
}

/// What is wrong, and in which line.
type Problem = (usize, String);

pub(super) fn read(path: &Path) -> Result<DeviceFile, DeviceError> {
    let refuse = |problem| DeviceError::DeviceFile {
        path: path.display().to_string(),
        problem,
    };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    parse(&text).map_err(|(line, problem)| refuse(format!("line {line}: {problem}")))
}

fn parse(text: &str) -> Result<DeviceFile, Problem> {
    let documents = MarkedYaml::load_from_str(text)
        .map_err(|error| (error.marker().line(), error.info().to_owned()))?;
    let mut file = DeviceFile {
        cpu_cores: None,
        cpu_memory: None,
        sim: SimOptions::new(0),
    };
    let [document] = documents.as_slice() else {
        return Err((1, "expected CPU, GPU and LINKS".to_owned()));
    };
    let document = Node(document);
    let mut links = None;
    for (key, value) in document.entries()? {
        match key.text()? {
            "CPU" => file.cpus(value)?,
            "GPU" => file.gpus(value)?,
            "LINKS" => links = Some(value),
            _ => return Err(key.unknown("CPU, GPU or LINKS")),
        }
    }
    // After the GPUs, whose indices they use.
    links.map_or(Ok(()), |links| file.links(links))?;
    Ok(file)
}

impl DeviceFile {
    fn cpus(&mut self, cpus: Node<'_>) -> Result<(), Problem> {
        for (key, value) in cpus.entries()? {
            match key.text()? {
                "num_cores" => self.cpu_cores = Some(value.count(1, MAX_WORKERS)?),
                "mem_sz" => self.cpu_memory = Some(value.bytes()?),
                _ => return Err(key.unknown("num_cores or mem_sz")),
            }
        }
        Ok(())
    }

    fn gpus(&mut self, gpus: Node<'_>) -> Result<(), Problem> {
        let (mut n_devices, mut memory) = (None, None);
        for (key, value) in gpus.entries()? {
            match key.text()? {
                "num_devices" => n_devices = Some(value.count(0, MAX_SIM_GPUS)?),
                "mem_sz" => memory = Some(value),
                _ => return Err(key.unknown("num_devices or mem_sz")),
            }
        }
        let given = memory.as_ref().map(|memory| memory.bytes_of_each());
        let given = given.transpose()?;
        self.sim.memory = match (n_devices, given) {
            (None, None) => Vec::new(),
            (None, Some(Each::Listed(all))) if all.len() <= MAX_SIM_GPUS => all,
            (None, Some(_)) => {
                return Err(gpus.wrong(format!("expected num_devices, 0 to {MAX_SIM_GPUS}")));
            }
            (Some(n), None) => vec![SimOptions::DEFAULT_MEMORY; n],
            (Some(n), Some(Each::Same(bytes))) => vec![bytes; n],
            (Some(n), Some(Each::Listed(all))) if all.len() == n => all,
            (Some(n), Some(Each::Listed(all))) => {
                let line = memory.map_or(1, |memory| memory.line());
                let problem = format!("mem_sz has {} entries for {n} devices", all.len());
                return Err((line, problem));
            }
        };
        Ok(())
    }

    fn links(&mut self, node: Node<'_>) -> Result<(), Problem> {
        let (mut peer, mut pairs) = (None, None);
        for (key, value) in node.entries()? {
            match key.text()? {
                "peer" => peer = Some(value),
                "inside" => self.sim.links.inside = value.link(self.sim.links.inside, &[])?,
                "pairs" => pairs = Some(value),
                "latency_us" | "bandwidth_gb_s" => {}
                _ => {
                    return Err(key.unknown("latency_us, bandwidth_gb_s, peer, inside or pairs"));
                }
            }
        }
        let host = node.link(self.sim.links.host, &["peer", "inside", "pairs"])?;
        self.sim.links.host = host;
        self.sim.links.peer = match peer {
            None => Some(host),
            Some(peer) if peer.is_none() => None,
            Some(peer) => Some(peer.link(host, &[])?),
        };
        for pair in pairs.map_or(Ok(Vec::new()), |pairs| pairs.list())? {
            let (from, to) = self.ends(&pair)?;
            let usual = self.sim.links.between(from, to);
            let usual = Link {
                direct: true,
                ..usual
            };
            let link = pair.link(usual, &["between"])?;
            self.sim.links.pairs.push((from, to, link));
            self.sim.links.pairs.push((to, from, link));
        }
        Ok(())
    }

    /// The two memories of an entry of `pairs`; `None`: the host's.
    fn ends(&self, pair: &Node<'_>) -> Result<(Option<u32>, Option<u32>), Problem> {
        let entries = pair.entries()?;
        let mut between = entries.iter().filter(|(key, _)| key.is("between"));
        let expected = "expected two of host, gpu:0, gpu:1 .. in \"between\"";
        let Some((_, between)) = between.next() else {
            return Err(pair.wrong(expected));
        };
        let end = |node: &Node<'_>| {
            let name = node.text()?;
            let n_devices = self.sim.memory.len();
            if name == "host" {
                return Ok(None);
            }
            let index = name.strip_prefix("gpu:").and_then(|n| n.parse().ok());
            match index {
                Some(index) if (index as usize) < n_devices => Ok(Some(index)),
                Some(_) => Err(node.wrong(format!("{name}: there are {n_devices} GPUs"))),
                None => Err(node.wrong(expected)),
            }
        };
        match between.list()?.as_slice() {
            [from, to] => Ok((end(from)?, end(to)?)),
            _ => Err(between.wrong(expected)),
        }
    }
}

/// One size for all or one for each.
enum Each {
    Same(u64),
    Listed(Vec<u64>),
}

/// A part of the file, with its line.
#[derive(Clone, Copy)]
struct Node<'a>(&'a MarkedYaml<'a>);

impl<'a> Node<'a> {
    fn line(&self) -> usize {
        self.0.span.start.line()
    }

    fn wrong(&self, problem: impl Into<String>) -> Problem {
        (self.line(), problem.into())
    }

    fn unknown(&self, expected: &str) -> Problem {
        let key = self.text().unwrap_or("this key");
        self.wrong(format!("{key:?} is not known, expected {expected}"))
    }

    fn entries(&self) -> Result<Vec<(Node<'a>, Node<'a>)>, Problem> {
        let mapping = self.0.data.as_mapping();
        let mapping = mapping.ok_or_else(|| self.wrong("expected \"key: value\" lines"))?;
        Ok(mapping.iter().map(|(k, v)| (Node(k), Node(v))).collect())
    }

    fn list(&self) -> Result<Vec<Node<'a>>, Problem> {
        let list = self.0.data.as_sequence();
        let list = list.ok_or_else(|| self.wrong("expected a list"))?;
        Ok(list.iter().map(Node).collect())
    }

    fn text(&self) -> Result<&'a str, Problem> {
        let text = self.0.data.as_str();
        text.ok_or_else(|| self.wrong("expected a word"))
    }

    fn is(&self, text: &str) -> bool {
        self.0.data.as_str() == Some(text)
    }

    /// YAML's null, or the word.
    fn is_none(&self) -> bool {
        self.0.data.is_null() || self.is("none")
    }

    fn count(&self, min: usize, max: usize) -> Result<usize, Problem> {
        let count = self.0.data.as_integer().and_then(|n| n.try_into().ok());
        count
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| self.wrong(format!("expected a whole number from {min} to {max}")))
    }

    fn bytes(&self) -> Result<u64, Problem> {
        let number = self.0.data.as_integer().and_then(|n| u64::try_from(n).ok());
        let bytes = number.or_else(|| self.0.data.as_str().and_then(parse_bytes));
        bytes.filter(|&n| n > 0).ok_or_else(|| {
            self.wrong("expected a whole number of bytes above 0, such as 4000000000, 512MiB or 8G")
        })
    }

    fn bytes_of_each(&self) -> Result<Each, Problem> {
        if !self.0.data.is_sequence() {
            return self.bytes().map(Each::Same);
        }
        let each: Result<_, _> = self.list()?.iter().map(Node::bytes).collect();
        Ok(Each::Listed(each?))
    }

    /// A number from `min` up.
    fn number(&self, min: f64) -> Result<f64, Problem> {
        let whole = self.0.data.as_integer().map(|n| n as f64);
        let number = whole.or_else(|| self.0.data.as_floating_point());
        number
            .filter(|&n| n >= min && n <= 1e9)
            .ok_or_else(|| self.wrong(format!("expected a number from {min} up to 1e9")))
    }

    /// What `usual` becomes by these settings, among `others` that are somebody else's.
    fn link(&self, mut usual: Link, others: &[&str]) -> Result<Link, Problem> {
        for (key, value) in self.entries()? {
            match key.text()? {
                "latency_us" => usual.latency_ns = (value.number(0.0)? * 1e3) as u64,
                "bandwidth_gb_s" => usual.bytes_per_second = value.number(1e-6)? * 1e9,
                other if others.contains(&other) => {}
                _ => return Err(key.unknown("latency_us or bandwidth_gb_s")),
            }
        }
        Ok(usual)
    }
}

#[cfg(test)]
mod tests;
