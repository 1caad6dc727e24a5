//! What each policy does with a few programs, as a table: a change of a policy is a difference that can be read.
//!
//! After a change, look at the new table that the test prints; if it is meant, put it into `placements.txt` (`PARLA_BLESS=1` does that).

use super::*;

const MS: u64 = 1_000_000;
const MB: u64 = 1_000_000;

/// A tiled Cholesky factorisation: `n` by `n` blocks of 8 MB, 1 ms a task on a GPU, 8 on a CPU.
fn cholesky(n: usize, choices: &[Choice]) -> Program {
    let mut s = Sequential::default();
    let block: Vec<Vec<_>> = (0..n)
        .map(|_| (0..n).map(|_| s.datum(8 * MB)).collect())
        .collect();
    let mut task = |reads: &[usize], update| s.task(choices, (MS, 8 * MS), reads, &[update]);
    for k in 0..n {
        task(&[], block[k][k]);
        for row in &block[k + 1..] {
            task(&[block[k][k]], row[k]);
        }
        for i in k + 1..n {
            for j in k + 1..=i {
                let panels = [block[i][k], block[j][k]];
                task(&panels[..if i == j { 1 } else { 2 }], block[i][j]);
            }
        }
    }
    s.program
}

/// Chains on a datum each, all of the same length.
fn chains(n: usize, length: usize, choices: &[Choice]) -> Program {
    let mut s = Sequential::default();
    let data: Vec<_> = (0..n).map(|_| s.datum(50 * MB)).collect();
    for _ in 0..length {
        for &datum in &data {
            s.task(choices, (2 * MS, 5 * MS), &[], &[datum]);
        }
    }
    s.program
}

/// Independent tasks of different lengths, some of which claim most of a device's memory, and one on both.
fn claims() -> Program {
    let mut s = Sequential::default();
    for number in 0..12 {
        let memory = if number % 4 == 1 { 900 * MB } else { 300 * MB };
        let choices = [on(&[1], 250, memory), on(&[2], 250, memory)];
        s.task(&choices, ((1 + number % 3) * MS, 0), &[], &[]);
        if number == 5 {
            s.task(&[on(&[1, 2], 0, 0)], (MS, 0), &[], &[]);
        }
    }
    s.program
}

/// Independent tasks of two kinds, one of which is as fast on a CPU as on a GPU.
fn kinds(choices: &[Choice]) -> Program {
    let mut s = Sequential::default();
    for number in 0..24 {
        let time = if number % 2 == 0 { 2 * MS } else { 16 * MS };
        s.task(choices, (2 * MS, time), &[], &[]);
    }
    s.program
}

fn programs() -> Vec<(&'static str, MachineModel, Program)> {
    let gpus = |n: usize| machine(&[2], &vec![1000 * MB; n]);
    let anywhere: Vec<_> = [1, 2, 0].map(|device| on(&[device], 0, 0)).into();
    let two = &anywhere[..2];
    let four: Vec<_> = (1..=4).map(|device| on(&[device], 0, 0)).collect();
    vec![
        ("3 chains of 4 tasks, 2 GPUs", gpus(2), chains(3, 4, two)),
        (
            "3 chains of 4 tasks, 2 GPUs or the CPU",
            gpus(2),
            chains(3, 4, &anywhere),
        ),
        (
            "Cholesky of 4 x 4 blocks, 2 GPUs",
            gpus(2),
            cholesky(4, two),
        ),
        (
            "Cholesky of 5 x 5 blocks, 4 GPUs",
            gpus(4),
            cholesky(5, &four),
        ),
        (
            "24 tasks of two kinds, a CPU with 2 workers or a GPU",
            gpus(1),
            kinds(&[on(&[0], 0, 0), on(&[1], 0, 0)]),
        ),
        ("claims on memory and on both of 2 GPUs", gpus(2), claims()),
    ]
}

/// `gpu:0+gpu:1` becomes `01`, `cpu:0` becomes `c`.
fn short(devices: &str) -> String {
    let one = |name: &str| {
        name.strip_prefix("gpu:")
            .map_or("c".to_owned(), str::to_owned)
    };
    devices.split('+').map(one).collect()
}

fn table() -> String {
    let mut text = String::from(
        "Where each task ran, in the order in which they were spawned: the GPU's number, c: the CPU.\n\
         Time until the last has ended, and bytes moved, in the simulation of policy/conformance.\n",
    );
    for (name, machine, program) in programs() {
        let machine = Arc::new(machine);
        writeln!(text, "\n{name}").unwrap();
        for entry in POLICIES {
            let policy = make(entry.name, 1).unwrap();
            let outcome = simulate(&machine, &program, policy, 2, 1).unwrap();
            let mut places = outcome.started.clone();
            places.sort_by_key(|&(_, task, _)| task);
            let places: Vec<_> = places.iter().map(|(.., devices)| short(devices)).collect();
            writeln!(
                text,
                "  {:9} {:6.2} ms {:5} MB  {}",
                entry.name,
                outcome.end as f64 / MS as f64,
                outcome.moved / MB,
                places.join(" ")
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn placements_are_as_they_were() {
    let table = table();
    if std::env::var_os("PARLA_BLESS").is_some() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/policy/tests/placements.txt"
        );
        std::fs::write(path, &table).unwrap();
        return;
    }
    let expected = include_str!("placements.txt");
    assert!(table == expected, "the table is now\n{table}");
}
