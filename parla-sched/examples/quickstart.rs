//! The shortest useful program for Rust: four tasks, and one that runs after them.
//!
//! `cargo run -p parla-sched --example quickstart`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use parla_sched::{Options, Task, Waited, native};

fn main() -> Result<(), Box<dyn Error>> {
    // One worker per core this process may use.
    let rt = native::start(Options::default())?;

    let mut first = Vec::new();
    for i in 0..4 {
        let body = native::body(move |_| {
            println!("I run first. I am task {i}");
            Ok(())
        });
        first.push(rt.spawn(Task::default(), |_| body)?);
    }

    let after = Task {
        dependencies: &first,
        ..Task::default()
    };
    rt.spawn(after, |_| {
        native::body(|scope| {
            println!("I run second, and spawn a third");
            scope.spawn(Task::default(), |_| {
                native::body(|_| Err("the third one fails".into()))
            })?;
            Ok(())
        })
    })?;

    // Everything has ended, or (a dependency that nobody spawns, a cycle) never will.
    if let Waited::Stalled(why) = rt.wait_idle(None, None) {
        return Err(format!("stalled: {why:?}").into());
    }
    for (task, failure) in rt.executor().take_failures() {
        println!("{task}: {failure}");
    }
    Ok(())
}
