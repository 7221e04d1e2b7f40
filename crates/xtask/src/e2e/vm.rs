//! A guest with the verifying workload in it: every block that it reads is checked against all that it wrote.
//!
//! What counts is what the guest saw: I/O errors, wrong blocks, and a read-back of everything at the end.

use super::stage::Stage;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::time::Duration;
use vmpath_lab::guest::{Arrival, Guest, GuestConfig, GuestDisk, Load, LoadEnd, MEMORY_MIB};
use vmpath_lab::report::Bound;

/// Two guests at once on two busy processors.
const BOOT_MAX: Duration = Duration::from_secs(60);
const PROGRESS_MAX: Duration = Duration::from_secs(20);
/// A failure meets a load that is in full swing.
const WARM_UP: Duration = Duration::from_millis(1500);
/// In which the load tells some times how it stands.
const AT_REST: Duration = Duration::from_millis(700);
/// Everything is read back, under TCG.
const FINISH_MAX: Duration = Duration::from_secs(60);
/// Small requests of many threads on half of the disk, so that blocks are often written again; a rate that leaves the
/// processors some room, for what is measured is the failover and not TCG.
pub(crate) const LOAD: &str = "--device /dev/vda --size 32MiB --sizes 4KiB:4,16KiB:2,64KiB:1 --slots 16 --zero 5 --rate 16MiB/s \
                    --sample-every 100ms";

#[derive(Debug)]
pub(crate) struct Vm {
    load: Load,
    /// Lines about I/O errors in its kernel's log, at the hosts that it has left.
    complaints: usize,
}

/// Boots guests together, each on its own disk, and puts them under load.
///
/// # Errors
/// One does not boot, or its load does not get going.
pub(crate) fn boot<const N: usize>(stage: &mut Stage, names: [&str; N]) -> Result<[Vm; N]> {
    boot_under(stage, names, LOAD)
}

/// The same under a load of the scenario's own: arguments of `vmpath lab verify`.
///
/// # Errors
/// As [`boot`].
pub(crate) fn boot_under<const N: usize>(stage: &mut Stage, names: [&str; N], load: &str) -> Result<[Vm; N]> {
    let mut configs = Vec::new();
    for name in names {
        let dir = stage.dir.join(name);
        _ = fs::remove_dir_all(&dir); // one that was killed has left its sockets
        fs::create_dir(&dir)?;
        configs.push(GuestConfig {
            name: name.to_owned(),
            disks: vec![GuestDisk {
                front_end: stage.front_end,
                socket: stage.dir.join(format!("{name}.sock")),
            }],
            qmp: stage.dir.join(format!("{name}.qmp")),
            memory_mib: MEMORY_MIB,
            within: Vec::new(),
            dir,
        });
    }
    boot_guests(stage, &configs, load)?.try_into().ok().context("as many guests as names")
}

/// The same for guests whose places are already made.
///
/// # Errors
/// As [`boot`].
pub(crate) fn boot_guests(stage: &mut Stage, configs: &[GuestConfig], load: &str) -> Result<Vec<Vm>> {
    let image = stage.image()?;
    let guests = configs.iter().map(|config| Guest::start(&image, config)).collect::<Result<Vec<_>>>()?;
    let mut vms = Vec::new();
    for mut guest in guests {
        guest.wait_ready(BOOT_MAX)?;
        vms.push(Vm { load: Load::start(guest, load)?, complaints: 0 });
    }
    for vm in &mut vms {
        vm.load.wait_progress(PROGRESS_MAX)?;
    }
    stage.watch(WARM_UP, |_| Ok(()))?;
    for vm in &mut vms {
        vm.wait_progress(stage)?;
    }
    Ok(vms)
}

impl Vm {
    /// Any QMP command by hand; what it returns.
    ///
    /// # Errors
    /// QEMU refuses, or does not answer.
    pub(crate) fn qmp(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.load.guest_mut().command(command, arguments)
    }

    /// Lets the load rest: returns when none of its requests is open any more. `go` ends it.
    ///
    /// # Errors
    /// The guest or its load has ended.
    pub(crate) fn pause(&mut self, stage: &mut Stage) -> Result<()> {
        self.load.command("pause")?;
        loop {
            let before = self.load.completed();
            stage.watch(AT_REST, |_| self.load.poll(Duration::ZERO))?;
            if self.load.completed() == before {
                return Ok(());
            }
        }
    }

    /// # Errors
    /// The guest has ended.
    pub(crate) fn go(&mut self) -> Result<()> {
        self.load.command("go")
    }

    /// Goes on with the guest where it was migrated to; the QEMU that it came from is ended.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn follow(&mut self, arrival: Arrival) -> Result<()> {
        self.complaints += self.complaints_here();
        self.load.guest_mut().follow(arrival)
    }

    fn complaints_here(&self) -> usize {
        let console = fs::read(self.load.guest().console()).unwrap_or_default();
        String::from_utf8_lossy(&console).lines().filter(|line| line.contains("I/O error")).count()
    }

    /// Waits until the load has completed requests that it had not when this was called.
    ///
    /// # Errors
    /// It has not within some seconds, or the guest or its load has ended.
    pub(crate) fn wait_progress(&mut self, stage: &Stage) -> Result<()> {
        let completed = self.load.wait_progress(PROGRESS_MAX)?;
        stage.say(format!("guest {} goes on: {completed} requests completed", self.load.guest().name()));
        Ok(())
    }

    /// Takes what the load has said since, and returns its newest sample.
    ///
    /// # Errors
    /// The guest or its load has ended.
    pub(crate) fn sample(&mut self) -> Result<Value> {
        self.load.poll(Duration::ZERO)?;
        Ok(self.load.sample().clone())
    }

    /// The longest time without a completion while requests were open, in milliseconds, since the last call.
    ///
    /// # Errors
    /// The guest or its load has ended.
    pub(crate) fn take_gap(&mut self) -> Result<f64> {
        self.load.poll(Duration::ZERO)?;
        Ok(self.load.take_gap())
    }

    /// Everything that the load has counted so far.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) fn report(&mut self) -> Result<Value> {
        self.load.report(PROGRESS_MAX)
    }

    /// QMP `stop` by hand; how long QEMU took to answer.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn stop(&mut self) -> Result<Duration> {
        self.load.guest_mut().stop()
    }

    /// QMP `cont` by hand; how long QEMU took to answer.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn cont(&mut self) -> Result<Duration> {
        self.load.guest_mut().cont()
    }

    /// QEMU's own word, on a monitor of the test's own.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub(crate) fn run_state(&mut self) -> Result<String> {
        self.load.guest_mut().run_state()
    }

    /// Stops the load, reads everything back, and puts what was found into the report.
    ///
    /// # Errors
    /// The load does not end.
    pub(crate) fn finish(mut self, stage: &mut Stage) -> Result<()> {
        let end = self.load.finish(FINISH_MAX)?;
        let name = self.load.guest().name();
        let complaints = self.complaints + self.complaints_here();
        stage.report.check(
            &format!("{name}: I/O errors in its kernel's log"),
            complaints as f64,
            Bound::Equal(0.0),
            "lines",
        );
        check(stage, name, &end);
        Ok(())
    }

    /// Stops the load, reads everything back, and judges nothing.
    ///
    /// # Errors
    /// The load does not end.
    pub(crate) fn end(mut self) -> Result<LoadEnd> {
        self.load.finish(FINISH_MAX)
    }
}

/// All that a guest has a right to, as checks: nothing failed, lost, doubled or wrong.
pub(crate) fn check(stage: &mut Stage, name: &str, end: &LoadEnd) {
    let LoadEnd { status, report: seen, read_back } = end;
    let report = &mut stage.report;
    for (what, key) in [
        ("requests failed", "errors"),
        ("requests lost", "lost"),
        ("requests completed twice", "completed_twice"),
        ("wrong blocks", "mismatches"),
    ] {
        let found = seen[key].as_u64().map(|n| n as f64);
        report.check(&format!("{name}: {what}"), found, Bound::Equal(0.0), "");
    }
    for (what, found) in
        [("verified", &seen["blocks_verified"]), ("read back at the end", &read_back["blocks"])]
    {
        let found = found.as_u64().map(|n| n as f64);
        report.check(&format!("{name}: blocks {what}"), found, Bound::AtLeast(1.0), "blocks");
    }
    let first_wrong = seen["mismatch_details"][0].to_string();
    report
        .check(&format!("{name}: exit status of its load"), f64::from(*status), Bound::Equal(0.0), "status")
        .note = if first_wrong == "null" { String::new() } else { first_wrong };
}
