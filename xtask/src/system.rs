//! What the operating system must offer: libhwloc, and Debian's packages where
//! they can be installed without asking anybody.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Result;

use crate::sh::{at, cmd, say};

/// Set to build without libhwloc even where it is present.
const NO_HWLOC: &str = "PARLA_NO_HWLOC";

/// The cargo flags that choose the features this machine can build.
///
/// With libhwloc these are the default features; without it, all but `hwloc`,
/// so that the topology comes from sysfs.
pub(crate) fn feature_flags() -> &'static [&'static str] {
    if hwloc_is_usable() {
        &[]
    } else {
        &["--no-default-features", "--features", "parla-py/abi3"]
    }
}

/// The same choice for a build of parla-py alone.
pub(crate) fn wheel_feature_flags() -> &'static [&'static str] {
    if hwloc_is_usable() {
        &[]
    } else {
        &["--no-default-features", "--features", "abi3"]
    }
}

/// Finds libhwloc, installs it where that needs no question, or explains that
/// the build goes on without it.
pub(crate) fn provide_hwloc() -> Result<()> {
    if env::var_os(NO_HWLOC).is_some() {
        say("hwloc: left out, as PARLA_NO_HWLOC asks; the topology comes from sysfs");
        return Ok(());
    }
    if hwloc_links() {
        say("hwloc: found");
        return Ok(());
    }
    let why = match apt_install(&["libhwloc-dev", "pkg-config"])? {
        Apt::Installed if hwloc_links() => {
            say("hwloc: installed");
            return Ok(());
        }
        Apt::Installed => "libhwloc-dev was installed but a C program still cannot link it",
        Apt::Failed => "apt-get could not install libhwloc-dev",
        Apt::Unavailable(why) => why,
    };
    say(&format!(
        "hwloc: not found, and {why}; building without it (the topology comes from sysfs). \
         To have it: install libhwloc-dev (Debian, Ubuntu), hwloc-devel (Fedora) or hwloc (Arch, Homebrew)"
    ));
    Ok(())
}

/// Whether a build may use libhwloc. Decided once, at the first question, so
/// ask only after [`provide_hwloc`].
fn hwloc_is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| env::var_os(NO_HWLOC).is_none() && hwloc_links())
}

/// Whether a C program that uses hwloc 2 compiles and links here.
fn hwloc_links() -> bool {
    let probe = at("target/hwloc-probe");
    let source = probe.with_extension("c");
    let program = "#include <hwloc.h>\n\
        #if HWLOC_API_VERSION < 0x00020000\n#error hwloc 1 is too old\n#endif\n\
        int main(void) { hwloc_topology_t t; return hwloc_topology_init(&t); }\n";
    if fs::create_dir_all(at("target")).is_err() || fs::write(&source, program).is_err() {
        return false;
    }
    let flags = cmd("pkg-config")
        .args(["--cflags", "--libs", "hwloc"])
        .ask();
    let flags = flags.unwrap_or_else(|| "-lhwloc".to_owned());
    let compiler = cmd("cc").arg(&source).arg("-o").arg(&probe);
    compiler.args(flags.split_whitespace()).ask().is_some()
}

/// How an attempt to install Debian packages ended.
pub(crate) enum Apt {
    /// They are installed now.
    Installed,
    /// apt-get ran and failed; its output has been shown.
    Failed,
    /// It was not tried, for the reason given.
    Unavailable(&'static str),
}

/// Installs Debian packages if that is possible without asking for a password.
pub(crate) fn apt_install(packages: &[&str]) -> Result<Apt> {
    if !Path::new("/usr/bin/apt-get").exists() {
        return Ok(Apt::Unavailable("this is not a Debian or Ubuntu system"));
    }
    let root_user = cmd("id").arg("-u").ask().as_deref() == Some("0");
    if !root_user && cmd("sudo").args(["-n", "true"]).ask().is_none() {
        return Ok(Apt::Unavailable(
            "installing packages needs a password here",
        ));
    }
    say(&format!("apt-get install {}", packages.join(" ")));
    let apt = |args: &[&str]| {
        let words: &[&str] = if root_user { &[] } else { &["sudo", "-n"] };
        let words = [
            words,
            &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"],
        ]
        .concat();
        cmd(words[0]).args(&words[1..]).args(args).passes()
    };
    // An old package list is no reason to give up: the install may still work.
    apt(&["update"])?;
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    Ok(if apt(&install)? {
        Apt::Installed
    } else {
        Apt::Failed
    })
}
