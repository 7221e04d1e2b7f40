//! Rooms of our own: a network, process and mount namespace for each run, so that firewall rules, listening servers
//! and left-over processes touch nothing else and end with it, however it ends.
//!
//! By root directly; by another user inside a user namespace, if the system allows that.
//! Rejected: `ip netns add`, which needs root and stays behind after a crash.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

const ROOMS: &[&str] = &["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
const AS_ROOT_WITHIN: &[&str] = &["--user", "--map-root-user"];

/// Runs this program again with `arguments`, inside. It dies with us.
///
/// # Errors
/// Namespaces cannot be made here; the error says what is needed.
pub(crate) fn run(arguments: &[&std::ffi::OsStr]) -> Result<ExitStatus> {
    let own = std::env::current_exe()?;
    let mut command = unshare(extra()?);
    command.arg(own).args(arguments);
    command.status().context("cannot run setpriv; it is part of Debian's util-linux")
}

/// Brings up the namespace's own loopback; everything else of it is empty.
///
/// # Errors
/// iproute2 is not installed, or may not.
pub(crate) fn prepare() -> Result<()> {
    command("ip", &["link", "set", "lo", "up"]).map(drop)
}

/// A file system in memory, mounted in `dir`. Nobody outside sees it, and it ends with the run.
///
/// # Errors
/// It cannot be mounted.
pub(crate) fn memory(dir: &Path) -> Result<PathBuf> {
    let place = dir.join("memory");
    std::fs::create_dir(&place)?;
    command("mount", &["-t", "tmpfs", "tmpfs", &place.to_string_lossy()])?;
    Ok(place)
}

/// Takes the file system of [`memory`] away, so that its folder can be removed.
///
/// # Errors
/// It is not mounted.
pub(crate) fn forget_memory(dir: &Path) -> Result<()> {
    command("umount", &["--lazy", &dir.join("memory").to_string_lossy()]).map(drop)
}

/// Runs a short command; its output.
///
/// # Errors
/// It fails; its own words are in the error.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// # Errors
/// Namespaces cannot be made here; the error says what is needed.
pub(crate) fn check() -> Result<()> {
    extra().map(drop)
}

/// What this user must add: nothing, or a user namespace.
fn extra() -> Result<&'static [&'static str]> {
    for extra in [&[][..], AS_ROOT_WITHIN] {
        let tried =
            unshare(extra).arg("true").output().context("cannot run setpriv; it is part of util-linux")?;
        if tried.status.success() {
            return Ok(extra);
        }
    }
    bail!(
        "this system lets us make no network namespace, neither directly nor as a user: run it as root, or in a \
         container with CAP_SYS_ADMIN"
    );
}

fn unshare(extra: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]).args(extra).args(ROOMS).arg("--");
    command
}
