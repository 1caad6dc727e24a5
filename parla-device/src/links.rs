//! What copies between the memories of a machine really cost: measured by copying, kept in a file so that it is done once per machine.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parla_core::{Link, MachineModel, MemoryId};
use smallvec::SmallVec;

use crate::backend::{Block, Copy, Device, Place, Stream};
use crate::error::DeviceError;
use crate::machine::Machine;

/// `links[from][to]`, as in [`MachineModel::links`].
pub type Links = Vec<Vec<Link>>;

/// Bytes of the copies that show latencies.
const SMALL: usize = 4 << 10;
/// Bytes of the copies that show bandwidths, unless a memory is too small for them.
const LARGE: usize = 32 << 20;
/// How often each is done; the fastest counts, as whatever disturbs only slows.
const N_TRIES: usize = 5;

impl Machine {
    /// Measures all links, by copies of some megabytes; takes a second or so for a few GPUs, which should have nothing else to do. Whether a
    /// way is direct is left as the model has it.
    ///
    /// # Errors
    /// What a device says, [`DeviceError::OutOfMemory`] among it.
    pub fn measure_links(&self) -> Result<Links, DeviceError> {
        let n = u32::try_from(self.model().memories.len()).unwrap_or(u32::MAX);
        let measure = |from| (0..n).map(move |to| self.measure(MemoryId(from), MemoryId(to)));
        (0..n).map(|from| measure(from).collect()).collect()
    }

    fn measure(&self, from: MemoryId, to: MemoryId) -> Result<Link, DeviceError> {
        let owner = |memory| self.device(self.owner(memory));
        let (source, destination) = (owner(from), owner(to));
        let free = |device: &Arc<dyn Device>| device.memory_capacity() - device.memory_used();
        let most = free(source).min(free(destination)) / 4;
        let large = usize::try_from(most).unwrap_or(LARGE).clamp(SMALL, LARGE);
        // A copy out of a GPU into the host's memory belongs on the GPU's stream.
        let device = if to == MachineModel::HOST {
            source
        } else {
            destination
        };
        let stream = device.stream()?;
        let blocks = [
            source.allocate(large as u64)?,
            destination.allocate(large as u64)?,
        ];
        blocks.iter().for_each(|block| device.pin_host(block));
        let place = |block: &Arc<Block>, memory| Place {
            block: Arc::clone(block),
            offset: 0,
            strides: SmallVec::from_slice(&[1]),
            device: self.key(memory),
        };
        let copy = |n_bytes| Copy {
            item: 1,
            shape: SmallVec::from_slice(&[n_bytes]),
            source: place(&blocks[0], from),
            destination: place(&blocks[1], to),
        };
        let small_ns = fastest(&stream, &copy(SMALL))?;
        let large_ns = fastest(&stream, &copy(large))?;
        Ok(Link {
            direct: self.model().link(from, to).direct,
            ..line_through((SMALL, small_ns), (large, large_ns))
        })
    }

    /// The same machine with these links.
    ///
    /// # Panics
    /// When they are not one for each pair of memories.
    #[must_use]
    pub fn with_links(&self, links: Links) -> Self {
        let n = self.model().memories.len();
        assert!(
            links.len() == n && links.iter().all(|row| row.len() == n),
            "a machine with {n} memories has {n} x {n} links"
        );
        let mut machine = self.clone();
        machine.set_links(links);
        machine
    }

    /// Writes the links to a file, with what tells this machine from others; the directories above it are made. Who reads it meanwhile finds
    /// the old file or the new one.
    ///
    /// # Errors
    /// [`DeviceError::DeviceFile`] when it cannot be written.
    pub fn save_links(&self, path: &Path) -> Result<(), DeviceError> {
        let write = || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let whole = path.with_extension(format!("{}.tmp", std::process::id()));
            std::fs::write(&whole, self.link_text())?;
            std::fs::rename(&whole, path)
        };
        write().map_err(|error| refuse(path, error.to_string()))
    }

    /// The same machine with the links from a file that [`save_links`](Self::save_links) wrote; `None` if there is no such file or it is about
    /// another machine.
    ///
    /// # Errors
    /// [`DeviceError::DeviceFile`] when it cannot be read, with the line that makes no sense.
    pub fn load_links(&self, path: &Path) -> Result<Option<Self>, DeviceError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(path, error.to_string())),
        };
        let links = self.parse_links(&text);
        let links = links.map_err(|problem| refuse(path, problem))?;
        Ok(links.map(|links| self.with_links(links)))
    }

    /// What tells machines apart: the memories with what has them, and the sizes of those that are not the host's (whose limit may change from run to
    /// run).
    fn link_title(&self) -> String {
        let mut title = "parla links 2:".to_owned();
        for (k, memory) in (0..).zip(&self.model().memories) {
            let device = self.device(self.owner(MemoryId(k)));
            let (model, size) = match k {
                0 => ("host", 0),
                _ => (device.model(), memory.capacity),
            };
            // Writing to a string does not fail.
            let _ = write!(title, " {}={size} ({model})", memory.name);
        }
        title
    }

    fn link_text(&self) -> String {
        let mut text = self.link_title() + "\n# from to latency_ns bytes_per_second direct\n";
        for (from, row) in self.model().links.iter().enumerate() {
            for (to, link) in row.iter().enumerate() {
                let (latency, rate) = (link.latency_ns, link.bytes_per_second);
                let _ = writeln!(text, "{from} {to} {latency} {rate} {}", link.direct);
            }
        }
        text
    }

    /// `None`: it is about another machine.
    fn parse_links(&self, text: &str) -> Result<Option<Links>, String> {
        let mut lines = (1..).zip(text.lines());
        if lines
            .next()
            .is_none_or(|(_, first)| first != self.link_title())
        {
            return Ok(None);
        }
        let mut links = self.model().links.clone();
        for (number, line) in lines.filter(|(_, line)| !line.starts_with('#')) {
            let parsed = parse_line(line, links.len());
            let (from, to, link) = parsed.ok_or_else(|| {
                format!("line {number}: expected \"from to latency_ns bytes_per_second direct\"")
            })?;
            links[from][to] = link;
        }
        Ok(Some(links))
    }
}

fn refuse(path: &Path, problem: String) -> DeviceError {
    DeviceError::DeviceFile {
        path: path.display().to_string(),
        problem,
    }
}

/// Nanoseconds of the fastest of some copies, the first of which does not count.
fn fastest(stream: &Arc<dyn Stream>, copy: &Copy) -> Result<f64, DeviceError> {
    let mut fastest = f64::INFINITY;
    for k in 0..=N_TRIES {
        let start = Instant::now();
        stream.copy(copy.clone())?;
        stream.synchronize()?;
        if k > 0 {
            fastest = fastest.min(start.elapsed().as_nanos() as f64);
        }
    }
    Ok(fastest)
}

/// The link on which copies of two sizes take these times.
fn line_through(small: (usize, f64), large: (usize, f64)) -> Link {
    let per_byte = (large.1 - small.1) / (large.0 as f64 - small.0 as f64);
    // Sizes that are equal, or a disturbed small copy: all of the time is for bytes.
    let per_byte = if per_byte.is_finite() && per_byte > 0.0 {
        per_byte
    } else {
        large.1.max(1.0) / large.0 as f64
    };
    Link {
        latency_ns: (small.1 - per_byte * small.0 as f64).max(0.0) as u64,
        bytes_per_second: 1e9 / per_byte,
        direct: true,
    }
}

fn parse_line(line: &str, n: usize) -> Option<(usize, usize, Link)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [from, to, latency, rate, direct] = words.as_slice() else {
        return None;
    };
    let memory = |word: &str| word.parse().ok().filter(|&k: &usize| k < n);
    let link = Link {
        latency_ns: latency.parse().ok()?,
        bytes_per_second: rate.parse().ok().filter(|&rate: &f64| rate > 0.0)?,
        direct: direct.parse().ok()?,
    };
    Some((memory(from)?, memory(to)?, link))
}

#[cfg(test)]
mod tests;
