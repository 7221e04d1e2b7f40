//! Clients that we did not write, on both front ends.

use crate::e2e::host::Host;
use crate::e2e::stage::Stage;
use crate::e2e::storage::{self, UNIT_BYTES};
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use vmpath_lab::report::Truth;

/// Bounds every client: one that hangs is a failure like another.
const SECONDS_MAX: &str = "60";

pub(super) fn tools(stage: &mut Stage) -> Result<()> {
    let _storage = storage::nbdkit(stage, &["gold"])?;
    let mut host = Host::start(stage, "tools.toml")?;
    let state = host.vm_state("gold")?;
    stage.report.check_that("a VM without a monitor is unmanaged", Truth::from(state == "unmanaged"), state);
    let mode = stage.dir.join("gold.sock").metadata()?.permissions().mode() & 0o777;
    stage.report.check_that(
        "the front end's socket is 0660",
        Truth::from(mode == 0o660),
        format!("{mode:o}"),
    );
    let unix = format!("nbd+unix:///vda?socket={}", stage.dir.join("gold.sock").display());
    for (place, uri) in [("unix", unix.as_str()), ("tcp", "nbd://127.0.0.1:10810/vda")] {
        information(stage, place, uri)?;
        copies(stage, place, uri)?;
        qemu_io(stage, place, uri)?;
        fio(stage, place, uri)?;
    }
    host.finish(stage)
}

fn information(stage: &mut Stage, place: &str, uri: &str) -> Result<()> {
    let size = client(&["nbdinfo", "--size", uri])?;
    let right = text(&size).trim() == UNIT_BYTES.to_string();
    stage.report.check_that(&format!("nbdinfo by {place}"), Truth::from(right), last(&size));
    let can = client(&["nbdinfo", "--can", "multi-conn", uri])?;
    stage.report.check_that(&format!("multi-conn by {place}"), Truth::from(can.status.success()), last(&can));
    let listed = client(&["nbdinfo", "--list", uri])?;
    let well = listed.status.success() && text(&listed).contains("vda");
    stage.report.check_that(&format!("nbdinfo --list by {place}"), Truth::from(well), last(&listed));
    verdict(stage, "qemu-img info", place, &["qemu-img", "info", uri])
}

/// A file goes in by one tool and comes out by another, unchanged.
fn copies(stage: &mut Stage, place: &str, uri: &str) -> Result<()> {
    let path = |name: &str| stage.dir.join(format!("{place}-{name}")).to_string_lossy().into_owned();
    let (original, by_nbdcopy, by_qemu) = (path("in"), path("nbdcopy"), path("qemu"));
    let noise = std::fs::File::open("/dev/urandom").context("/dev/urandom")?;
    std::io::copy(&mut std::io::Read::take(noise, UNIT_BYTES), &mut std::fs::File::create(&original)?)?;
    verdict(stage, "nbdcopy in", place, &["nbdcopy", "--flush", &original, uri])?;
    verdict(stage, "nbdcopy out", place, &["nbdcopy", uri, &by_nbdcopy])?;
    verdict(stage, "what nbdcopy copied is the same", place, &["cmp", &original, &by_nbdcopy])?;
    verdict(
        stage,
        "qemu-img convert out",
        place,
        &["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, &by_qemu],
    )?;
    verdict(
        stage,
        "qemu-img compare",
        place,
        &["qemu-img", "compare", "-f", "raw", "-F", "raw", &by_qemu, uri],
    )?;
    let back = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", &original, uri];
    verdict(stage, "qemu-img convert in", place, &back)
}

/// Reads, writes, zeroes, discards, FUA and flushes, and a pattern that must be there afterwards.
fn qemu_io(stage: &mut Stage, place: &str, uri: &str) -> Result<()> {
    let mut arguments = vec!["qemu-io", "-f", "raw", "-t", "none"];
    let steps = [
        "write -P 0xa5 1M 1M",
        "read -P 0xa5 1M 1M",
        "write -f -P 0x5a 3M 64k",
        "read -P 0x5a 3M 64k",
        "write -z 1M 512k",
        "read -P 0 1M 512k",
        "read -P 0xa5 1536k 512k",
        "discard 8M 4M",
        "flush",
    ];
    for step in &steps {
        arguments.extend(["-c", step]);
    }
    arguments.push(uri);
    let output = client(&arguments)?;
    let well = output.status.success() && !text(&output).contains("verification failed");
    stage.report.check_that(&format!("qemu-io by {place}"), Truth::from(well), last(&output));
    Ok(())
}

fn fio(stage: &mut Stage, place: &str, uri: &str) -> Result<()> {
    let uri = format!("--uri={uri}");
    let job = [
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=16",
        "--size=8M",
    ];
    let check = ["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0"];
    verdict(stage, "fio, writing and verifying", place, &[&job[..], &check[..]].concat())
}

fn verdict(stage: &mut Stage, name: &str, place: &str, command: &[&str]) -> Result<()> {
    let output = client(command)?;
    stage.say(format!("{name} by {place}: {}", output.status));
    stage.report.check_that(
        &format!("{name} by {place}"),
        Truth::from(output.status.success()),
        last(&output),
    );
    Ok(())
}

fn client(command: &[&str]) -> Result<Output> {
    let mut bounded = Command::new("timeout");
    bounded.args(["--signal=KILL", SECONDS_MAX]).args(command);
    bounded.output().with_context(|| format!("cannot run {}", command[0]))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The last line that a tool said, for the report.
fn last(output: &Output) -> String {
    text(output).lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}
