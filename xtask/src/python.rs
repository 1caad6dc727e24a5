//! Python: the interpreter, the virtual environments and what pip puts there.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::sh::{Cmd, at, cmd, say};
use crate::system::{self, Apt};

/// Names the interpreter to use instead of the first suitable one on PATH.
const CHOICE: &str = "PARLA_PYTHON";

/// Prints nothing and fails on an interpreter that is too old for us.
const IS_RECENT: &str = "import sys; sys.exit(sys.version_info < (3, 10))";

/// A virtual environment of this project.
pub(crate) struct Venv {
    dir: PathBuf,
}

/// Makes the development environment ready: libhwloc, `.venv`, pip packages.
pub(crate) fn setup() -> Result<Venv> {
    system::provide_hwloc()?;
    let venv = Venv::ensure(".venv")?;
    venv.install_requirements("parla-py/requirements-dev.txt")?;
    Ok(venv)
}

impl Venv {
    /// The environment at `dir` below the root, made if it is not there.
    pub(crate) fn ensure(dir: &str) -> Result<Self> {
        let venv = Self { dir: at(dir) };
        if venv.works() {
            say(&format!("{dir}: present"));
            return Ok(venv);
        }
        let python = find_interpreter()?;
        say(&format!("{dir}: made with {}", python.display()));
        if venv.create(&python) {
            return Ok(venv);
        }
        // Debian keeps the module `ensurepip` in a package of its own.
        let advice = "Python's venv module or pip is missing; install it \
            (Debian, Ubuntu: apt-get install python3-venv) and run this again";
        match system::apt_install(&["python3-venv"])? {
            Apt::Installed if venv.create(&python) => Ok(venv),
            Apt::Installed | Apt::Failed => {
                bail!("{} -m venv {dir}\n  what to do: {advice}", python.display())
            }
            Apt::Unavailable(why) => {
                bail!(
                    "{} -m venv {dir}\n  what to do: {advice} ({why})",
                    python.display()
                )
            }
        }
    }

    fn works(&self) -> bool {
        let probe = format!("import pip; {IS_RECENT}");
        self.python().arg("-c").arg(probe).ask().is_some()
    }

    fn create(&self, python: &Path) -> bool {
        let made = cmd(python).args(["-m", "venv", "--clear"]).arg(&self.dir);
        matches!(made.passes(), Ok(true)) && self.works()
    }

    /// The directory of the environment's programs.
    pub(crate) fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// The environment's interpreter, its programs first on PATH.
    pub(crate) fn python(&self) -> Cmd {
        cmd(self.bin().join("python")).path_first(&self.bin())
    }

    /// A program that a pip package installed.
    pub(crate) fn program(&self, name: &str) -> Cmd {
        cmd(self.bin().join(name)).path_first(&self.bin())
    }

    /// `pip install`, quietly.
    pub(crate) fn pip_install(&self) -> Cmd {
        self.python()
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .or_advise("see pip's message above; a first run needs a package index within reach")
    }

    /// Installs what a requirements file lists, unless that was done already.
    pub(crate) fn install_requirements(&self, file: &str) -> Result<()> {
        let wanted = fs::read_to_string(at(file)).with_context(|| format!("cannot read {file}"))?;
        self.once("requirements", &wanted, || {
            say(&format!("pip install -r {file}"));
            self.pip_install().arg("-r").arg(at(file)).run()
        })
    }

    /// Does `work` unless the last success under this name was for the same
    /// `input` text.
    pub(crate) fn once(
        &self,
        name: &str,
        input: &str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let stamp = self.dir.join(format!(".xtask-{name}"));
        if fs::read_to_string(&stamp).is_ok_and(|done| done == input) {
            return Ok(());
        }
        work()?;
        fs::write(&stamp, input).with_context(|| format!("cannot write {}", stamp.display()))
    }
}

/// The first Python 3.10 or later: the user's choice, or one on PATH.
fn find_interpreter() -> Result<PathBuf> {
    let recent = |name: &str| {
        let path = cmd(name).args(["-c", IS_RECENT_AND_WHERE]).ask()?;
        Some(PathBuf::from(path))
    };
    if let Ok(choice) = env::var(CHOICE) {
        return recent(&choice)
            .with_context(|| format!("{CHOICE}={choice} is not a Python 3.10 or later that runs"));
    }
    let minor_versions = (10..=14).rev().map(|minor| format!("python3.{minor}"));
    let names = ["python3".to_owned(), "python".to_owned()]
        .into_iter()
        .chain(minor_versions);
    let found = names.into_iter().find_map(|name| recent(&name));
    found.with_context(|| {
        format!(
            "no Python 3.10 or later on PATH\n  what to do: install one \
             (Debian, Ubuntu: apt-get install python3 python3-venv) or name it in {CHOICE}"
        )
    })
}

/// Prints the interpreter's own path, or fails if it is too old.
const IS_RECENT_AND_WHERE: &str =
    "import sys; print(sys.executable); sys.exit(sys.version_info < (3, 10))";
