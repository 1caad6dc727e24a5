//! The patterns on rayon, which has no graph: join counters by hand, made anew for each run, as part of the time.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::{Scope, ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::{Kernel, Pattern, System, WIDTH};

/// A pool of rayon's.
pub struct Rayon {
    pool: ThreadPool,
}

impl Rayon {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the system has no threads to give.
    pub fn start(workers: usize) -> Result<Self, ThreadPoolBuildError> {
        Ok(Self {
            pool: ThreadPoolBuilder::new().num_threads(workers).build()?,
        })
    }
}

/// A task with dependencies.
struct Node {
    open: AtomicU32,
    successors: Vec<u32>,
}

fn nodes(n: usize, dependencies: impl Fn(usize) -> Vec<usize>) -> Vec<Node> {
    let mut nodes: Vec<_> = (0..n)
        .map(|_| Node {
            open: AtomicU32::new(0),
            successors: Vec::new(),
        })
        .collect();
    for i in 0..n {
        for on in dependencies(i) {
            *nodes[i].open.get_mut() += 1;
            nodes[on]
                .successors
                .push(u32::try_from(i).expect("tasks are counted in thousands"));
        }
    }
    nodes
}

fn run_node<'a>(scope: &Scope<'a>, nodes: &'a [Node], i: usize, kernel: Kernel) {
    kernel.run();
    for &to in &nodes[i].successors {
        if nodes[to as usize].open.fetch_sub(1, Ordering::AcqRel) == 1 {
            scope.spawn(move |scope| run_node(scope, nodes, to as usize, kernel));
        }
    }
}

fn tree<'a>(scope: &Scope<'a>, n: usize, kernel: Kernel) {
    kernel.run();
    let rest = n - 1;
    for half in [rest / 2, rest - rest / 2] {
        if half > 0 {
            scope.spawn(move |scope| tree(scope, half, kernel));
        }
    }
}

impl System for Rayon {
    fn name(&self) -> &str {
        "rayon"
    }

    fn run(&self, pattern: Pattern, n: usize, kernel: Kernel) {
        self.pool.install(|| {
            let nodes = match pattern {
                Pattern::Independent | Pattern::Tree => Vec::new(),
                Pattern::Chain => nodes(n, |i| if i == 0 { vec![] } else { vec![i - 1] }),
                Pattern::Stencil => nodes(n / WIDTH * WIDTH, |i| {
                    if i < WIDTH {
                        return vec![];
                    }
                    let (row, at) = (i / WIDTH * WIDTH - WIDTH, i % WIDTH);
                    vec![
                        row + (at + WIDTH - 1) % WIDTH,
                        row + at,
                        row + (at + 1) % WIDTH,
                    ]
                }),
            };
            rayon::scope(|scope| match pattern {
                Pattern::Independent => (0..n).for_each(|_| scope.spawn(move |_| kernel.run())),
                Pattern::Tree => tree(scope, n, kernel),
                Pattern::Chain => run_node(scope, &nodes, 0, kernel),
                Pattern::Stencil => {
                    let nodes = &nodes;
                    (0..WIDTH)
                        .for_each(|i| scope.spawn(move |scope| run_node(scope, nodes, i, kernel)));
                }
            });
        });
    }
}
