//! Running other programs: say what happens, and on failure say which command
//! failed and what to do about it.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;

use anyhow::{Context as _, Result, bail};

/// The repository's root, where every command runs unless told otherwise. From cargo, which runs this program: the checkout may have
/// moved since it was compiled.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let xtask = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        xtask
            .parent()
            .expect("xtask lies in the workspace root")
            .to_owned()
    });
    &ROOT
}

/// A path below the root, written with forward slashes.
pub(crate) fn at(path: &str) -> PathBuf {
    root().join(path)
}

/// Announces a step.
pub(crate) fn say(what: &str) {
    println!("==> {what}");
}

/// A program to run, with the advice to give should it fail.
pub(crate) struct Cmd {
    command: Command,
    advice: Option<String>,
}

/// A program by name or path, to be run in the repository's root.
pub(crate) fn cmd(program: impl AsRef<OsStr>) -> Cmd {
    let mut command = Command::new(program);
    command.current_dir(root());
    Cmd {
        command,
        advice: None,
    }
}

/// The cargo that runs us, with the project's own tools on its path.
pub(crate) fn cargo() -> Cmd {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    cmd(cargo).path_first(&at("target/tools/bin"))
}

impl Cmd {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the program in `dir`, relative to the root.
    pub(crate) fn dir(mut self, dir: &str) -> Self {
        self.command.current_dir(at(dir));
        self
    }

    /// Puts a directory first on the program's PATH.
    pub(crate) fn path_first(self, dir: &Path) -> Self {
        let rest = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(dir.to_owned()).chain(env::split_paths(&rest));
        match env::join_paths(all) {
            Ok(path) => self.env("PATH", path),
            Err(_) => self,
        }
    }

    /// What to tell the user if the program fails.
    pub(crate) fn or_advise(mut self, advice: &str) -> Self {
        self.advice = Some(advice.to_owned());
        self
    }

    /// Runs the program, its output going where ours goes.
    pub(crate) fn run(mut self) -> Result<()> {
        let status = self.command.status();
        self.judge(status)
    }

    /// Like [`Cmd::run`], but a failing exit status is the answer `false`.
    pub(crate) fn passes(mut self) -> Result<bool> {
        let status = self.command.status();
        let status = status.with_context(|| format!("cannot start: {}", self.line()))?;
        Ok(status.success())
    }

    /// Runs the program silently; its standard output, or `None` if it cannot
    /// be started or fails.
    pub(crate) fn ask(mut self) -> Option<String> {
        let output = self.command.stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    /// Runs the program and shows its standard output while also handing each
    /// line to `line`; whether it succeeded.
    pub(crate) fn watch(mut self, mut line: impl FnMut(&str)) -> Result<bool> {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start: {}", self.line()))?;
        if let Some(stdout) = child.stdout.take() {
            for text in BufReader::new(stdout).lines() {
                let text = text.context("unreadable output")?;
                println!("{text}");
                line(&text);
            }
        }
        Ok(child.wait()?.success())
    }

    fn judge(&self, status: std::io::Result<ExitStatus>) -> Result<()> {
        let advice = match &self.advice {
            Some(advice) => format!("\n  what to do: {advice}"),
            None => String::new(),
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("{status}: {}{advice}", self.line()),
            Err(error) => bail!("cannot start ({error}): {}{advice}", self.line()),
        }
    }

    /// The command as one could type it in the root.
    fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let root = format!("{}/", root().display());
        let words = words.map(|word| word.to_string_lossy().replace(&root, ""));
        words.collect::<Vec<_>>().join(" ")
    }
}
