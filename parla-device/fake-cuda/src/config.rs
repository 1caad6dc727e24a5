//! What the environment says the machine is like, and what is to go wrong on it.

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The machine to play. Every variable begins with `FAKE_CUDA_`.
#[derive(Debug)]
pub(crate) struct Config {
    /// `DEVICES`: how many there are (2). As with NVIDIA's, a program sees those of them that `CUDA_VISIBLE_DEVICES` names, up to the first that is none.
    pub(crate) n_devices: usize,
    /// `MEMORY`: bytes of each device (1 GiB).
    pub(crate) memory: u64,
    /// `VERSION`: what the driver says it is (12040).
    pub(crate) version: i32,
    /// `SEED`: of the delays (1).
    pub(crate) seed: u64,
    /// `DELAY_US`: the longest delay before an operation on the slowest stream (60). 0: none.
    pub(crate) delay_us: u64,
    /// `PEER`: whether devices reach each other's memory (1).
    pub(crate) peer: bool,
    /// `SKIP_WAIT`: the number (from 1) of the call of `cuStreamWaitEvent` that does nothing; `all`: none of them does.
    skip_wait: Option<Nth>,
    /// `FAIL`: a list such as `alloc:3,copy:5=illegal`; the nth call of a kind (`alloc`, `context`, `copy`, `launch`, `stream`) fails, or makes the context
    /// unusable when it runs.
    faults: Vec<Fault>,
}

#[derive(Debug)]
enum Nth {
    All,
    One(u64),
}

#[derive(Debug)]
struct Fault {
    kind: Kind,
    n: u64,
    outcome: Outcome,
}

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Alloc,
    Context,
    Copy,
    Launch,
    Stream,
}

/// How a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well.
    Good,
    /// The call returns an error and does nothing.
    Refused,
    /// The call succeeds; when the operation runs it accesses an illegal address, and the context is lost.
    Illegal,
}

/// The configuration, read at the first call of the driver.
pub(crate) fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| Config {
        n_devices: n_visible(number("DEVICES", 2) as usize),
        memory: number("MEMORY", 1 << 30),
        version: number("VERSION", 12040) as i32,
        seed: number("SEED", 1),
        delay_us: number("DELAY_US", 60),
        peer: number("PEER", 1) != 0,
        skip_wait: text("SKIP_WAIT").map(|value| match value.as_str() {
            "all" => Nth::All,
            n => Nth::One(n.parse().expect("FAKE_CUDA_SKIP_WAIT: a number or \"all\"")),
        }),
        faults: text("FAIL").map_or_else(Vec::new, |value| value.split(',').map(fault).collect()),
    })
}

/// How many of the devices a program sees; they are all alike.
fn n_visible(n_devices: usize) -> usize {
    let Ok(names) = env::var("CUDA_VISIBLE_DEVICES") else {
        return n_devices;
    };
    let is_there = |name: &&str| name.trim().parse::<usize>().is_ok_and(|i| i < n_devices);
    names.split(',').take_while(is_there).count()
}

fn text(name: &str) -> Option<String> {
    env::var(format!("FAKE_CUDA_{name}")).ok()
}

fn number(name: &str, default: u64) -> u64 {
    text(name).map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("FAKE_CUDA_{name}={value}: not a number"))
    })
}

fn fault(text: &str) -> Fault {
    let (what, outcome) = match text.split_once('=') {
        Some((what, "illegal")) => (what, Outcome::Illegal),
        Some((what, "refused")) => (what, Outcome::Refused),
        Some(_) => panic!("FAKE_CUDA_FAIL: {text}"),
        None => (text, Outcome::Refused),
    };
    let (kind, n) = what
        .split_once(':')
        .unwrap_or_else(|| panic!("FAKE_CUDA_FAIL: {text}"));
    let kind = match kind {
        "alloc" => Kind::Alloc,
        "context" => Kind::Context,
        "copy" => Kind::Copy,
        "launch" => Kind::Launch,
        "stream" => Kind::Stream,
        _ => panic!("FAKE_CUDA_FAIL: {text}"),
    };
    let n = n
        .parse()
        .unwrap_or_else(|_| panic!("FAKE_CUDA_FAIL: {text}"));
    Fault { kind, n, outcome }
}

/// How the next call of this kind goes. Counts calls.
pub(crate) fn next(kind: Kind) -> Outcome {
    static CALLS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
    let n = CALLS[kind as usize].fetch_add(1, Ordering::Relaxed) + 1;
    let faults = &config().faults;
    let hit = faults
        .iter()
        .find(|fault| fault.kind == kind && fault.n == n);
    hit.map_or(Outcome::Good, |fault| fault.outcome)
}

/// Whether the next wait for an event is to be left out. Counts calls.
pub(crate) fn skips_wait() -> bool {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let n = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    match config().skip_wait {
        None => false,
        Some(Nth::All) => true,
        Some(Nth::One(which)) => which == n,
    }
}
