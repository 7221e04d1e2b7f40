//! The Debian packages that the tests use: which are lacking, and how to get them.
//!
//! Installed only by root on a system with apt; anybody else is told the one line that would do it.

use crate::step;
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// What the build, the end-to-end tests and the benchmark need, and what libFuzzer is built with, beside what every Debian
/// system has.
pub(crate) const NEEDED: &[&str] = &[
    "nbdkit",
    "libnbd-bin",
    "fio",
    "nftables",
    "iproute2",
    "qemu-system-x86",
    "qemu-utils",
    "busybox-static",
    "g++",
    // The store that hosts share, and its tool.
    "etcd-server",
    "etcd-client",
    // The etcd client's build.
    "protobuf-compiler",
    // Certificates of hosts.
    "openssl",
    // A host whose clock is wrong.
    "faketime",
];

const INSTALL_TIME: Duration = Duration::from_secs(600);

/// Those of [`NEEDED`] that are not installed. On a system without dpkg: all.
pub(crate) fn lacking() -> Vec<&'static str> {
    NEEDED.iter().copied().filter(|package| !is_installed(package)).collect()
}

fn is_installed(package: &str) -> bool {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    output.is_ok_and(|o| o.status.success() && o.stdout == b"installed")
}

/// The one line that installs `packages`.
pub(crate) fn line(packages: &[&str]) -> String {
    format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// Installs what is lacking if this user may. Returns what is lacking afterwards.
///
/// # Errors
/// If apt-get cannot even be started.
pub(crate) fn install() -> Result<Vec<&'static str>> {
    let before = lacking();
    if before.is_empty() {
        println!("all {} packages are there", NEEDED.len());
    } else if !rustix::process::geteuid().is_root() {
        println!("lacking: {}. To install them:\n  {}", before.join(", "), line(&before));
    } else {
        println!("installing {}", before.join(", "));
        let mut update = Command::new("apt-get");
        step::run("packages", update.arg("update"), INSTALL_TIME)?;
        let mut install = Command::new("apt-get");
        install
            .args(["install", "-y", "--no-install-recommends"])
            .args(&before)
            .env("DEBIAN_FRONTEND", "noninteractive");
        step::run("packages", &mut install, INSTALL_TIME)?;
    }
    Ok(lacking())
}
