//! How long copies between simulated memories take.

use parla_core::Link;

/// The links of simulated GPUs: to the host, between each other, inside.
#[derive(Clone, Debug, PartialEq)]
pub struct SimLinks {
    /// Between the host and each GPU, in each direction.
    pub host: Link,
    /// Between any two GPUs, in each direction; `None`: there is no direct way, copies go through the host, in and out one after the other.
    pub peer: Option<Link>,
    /// Inside one GPU.
    pub inside: Link,
    /// Links that differ from these, each direction for itself; `None` stands for the host.
    pub pairs: Vec<(Option<u32>, Option<u32>, Link)>,
}

impl Default for SimLinks {
    /// PCIe 3.0 with 16 lanes for each GPU, also between GPUs, and the memory of a mid-range GPU: 12 GB/s after 10 us, 300 GB/s inside.
    fn default() -> Self {
        let pcie = Link {
            latency_ns: 10_000,
            bytes_per_second: 12e9,
            direct: true,
        };
        Self {
            host: pcie,
            peer: Some(pcie),
            inside: Link {
                latency_ns: 2_000,
                bytes_per_second: 300e9,
                direct: true,
            },
            pairs: Vec::new(),
        }
    }
}

impl SimLinks {
    /// Copies that take no time.
    #[must_use]
    pub fn instant() -> Self {
        let link = Link {
            latency_ns: 0,
            bytes_per_second: f64::INFINITY,
            direct: true,
        };
        Self {
            host: link,
            peer: Some(link),
            inside: link,
            pairs: Vec::new(),
        }
    }

    /// The link from one GPU or the host (`None`) to another. Copies inside the host are not modelled: they take what they take.
    #[must_use]
    pub fn between(&self, from: Option<u32>, to: Option<u32>) -> Link {
        let given = |pair: &&(Option<u32>, Option<u32>, Link)| (pair.0, pair.1) == (from, to);
        if let Some((_, _, link)) = self.pairs.iter().rev().find(given) {
            return *link;
        }
        match (from, to) {
            (None, None) => Link {
                latency_ns: 0,
                bytes_per_second: 10e9,
                direct: true,
            },
            (None, Some(_)) | (Some(_), None) => self.host,
            (Some(a), Some(b)) if a == b => self.inside,
            (Some(_), Some(_)) => self.peer.unwrap_or_else(|| self.through_host(from, to)),
        }
    }

    /// Out to the host and from there in, one after the other.
    fn through_host(&self, from: Option<u32>, to: Option<u32>) -> Link {
        let (out, back) = (self.between(from, None), self.between(None, to));
        Link {
            latency_ns: out.latency_ns + back.latency_ns,
            bytes_per_second: 1.0 / (1.0 / out.bytes_per_second + 1.0 / back.bytes_per_second),
            direct: false,
        }
    }
}
