//! A guest with the verifying workload in it: every block that it reads is checked against all that it wrote.
//!
//! What counts is what the guest saw: I/O errors, wrong blocks, and a read-back of everything at the end.

use super::stage::Stage;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};
use vmpath_lab::guest::{Guest, GuestConfig, Line, MEMORY_MIB, NbdDisk};
use vmpath_lab::report::Bound;

/// Two guests at once on two busy processors.
const BOOT_MAX: Duration = Duration::from_secs(60);
const PROGRESS_MAX: Duration = Duration::from_secs(20);
/// Everything is read back, under TCG.
const FINISH_MAX: Duration = Duration::from_secs(60);
/// Small requests of many threads on half of the disk, so that blocks are often written again; a rate that leaves the
/// processors some room, for what is measured is the failover and not TCG.
const WORKLOAD: &str = "vmpath lab verify --device /dev/vda --size 32MiB --sizes 4KiB:4,16KiB:2,64KiB:1 --slots 16 \
                        --zero 5 --rate 16MiB/s --sample-every 100ms";

#[derive(Debug)]
pub(crate) struct Vm {
    guest: Guest,
    /// The workload's newest sample.
    sample: Value,
    /// Its report, at the end.
    report: Value,
    read_back: Value,
}

/// Boots guests together, each on its own disk, and starts their workload.
///
/// # Errors
/// One does not boot, or its workload does not get going.
pub(crate) fn boot<const N: usize>(stage: &mut Stage, names: [&str; N]) -> Result<[Vm; N]> {
    let image = stage.image()?;
    let mut vms = Vec::new();
    for name in names {
        let dir = stage.dir.join(name);
        fs::create_dir(&dir)?;
        let config = GuestConfig {
            name: name.to_owned(),
            disks: vec![NbdDisk { socket: stage.dir.join(format!("{name}.sock")), export: "vda".to_owned() }],
            qmp: stage.dir.join(format!("{name}.qmp")),
            memory_mib: MEMORY_MIB,
            dir,
        };
        let guest = Guest::start(&image, &config)?;
        vms.push(Vm { guest, sample: Value::Null, report: Value::Null, read_back: Value::Null });
    }
    for vm in &mut vms {
        vm.guest.wait_ready(BOOT_MAX)?;
        vm.guest.send(WORKLOAD)?;
    }
    for vm in &mut vms {
        vm.wait_progress(stage)?;
        stage.say(format!("guest {} is up and under load", vm.guest.name()));
    }
    vms.try_into().ok().context("as many guests as names")
}

impl Vm {
    /// Waits until the workload has completed requests that it had not when this was called.
    ///
    /// # Errors
    /// It has not within some seconds, or the guest or its workload has ended.
    pub(crate) fn wait_progress(&mut self, stage: &mut Stage) -> Result<()> {
        self.read(Duration::ZERO)?;
        let before = self.completed();
        let began = Instant::now();
        while self.completed() <= before {
            if began.elapsed() > PROGRESS_MAX {
                bail!("guest {} has completed nothing for {} s", self.guest.name(), PROGRESS_MAX.as_secs());
            }
            self.read(Duration::from_millis(100))?;
        }
        stage.say(format!("guest {} goes on: {} requests completed", self.guest.name(), self.completed()));
        Ok(())
    }

    /// QEMU's own word, on a monitor of the test's own.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub(crate) fn run_state(&mut self) -> Result<String> {
        self.guest.run_state()
    }

    /// Stops the load, reads everything back, and puts what was found into the report.
    ///
    /// # Errors
    /// The workload does not end.
    pub(crate) fn finish(mut self, stage: &mut Stage) -> Result<()> {
        let end = Instant::now() + FINISH_MAX;
        self.guest.send("readback")?;
        while self.read_back.is_null() {
            self.take_next(end)?;
        }
        self.guest.send("quit")?;
        let status = loop {
            if let Some(status) = self.take_next(end)? {
                break status;
            }
        };
        self.judge(stage, status);
        Ok(())
    }

    fn judge(&self, stage: &mut Stage, status: i32) {
        let name = self.guest.name();
        let console = fs::read(self.guest.console()).unwrap_or_default();
        let complaints =
            String::from_utf8_lossy(&console).lines().filter(|line| line.contains("I/O error")).count();
        let seen = |key: &str| self.report[key].as_u64().map(|n| n as f64);
        let read_back = self.read_back["blocks"].as_u64().map(|n| n as f64);
        let zero = Bound::Equal(0.0);
        let report = &mut stage.report;
        report.check(&format!("{name}: I/O errors in its kernel's log"), complaints as f64, zero, "errors");
        report.check(&format!("{name}: requests failed"), seen("errors"), zero, "requests");
        report.check(&format!("{name}: requests lost"), seen("lost"), zero, "requests");
        report.check(&format!("{name}: requests completed twice"), seen("completed_twice"), zero, "requests");
        report.check(&format!("{name}: wrong blocks"), seen("mismatches"), zero, "blocks").note = self.report
            ["mismatch_details"]
            .as_array()
            .filter(|all| !all.is_empty())
            .map(|all| all[0].to_string())
            .unwrap_or_default();
        report.check(
            &format!("{name}: blocks verified"),
            seen("blocks_verified"),
            Bound::AtLeast(1.0),
            "blocks",
        );
        report.check(
            &format!("{name}: blocks read back at the end"),
            read_back,
            Bound::AtLeast(1.0),
            "blocks",
        );
        report.check(&format!("{name}: exit status of its workload"), f64::from(status), zero, "status");
    }

    fn completed(&self) -> u64 {
        self.sample["requests"].as_u64().unwrap_or_default()
    }

    /// Takes what the workload has said, waiting at most `bound` for the first line.
    fn read(&mut self, bound: Duration) -> Result<()> {
        let mut wait = bound;
        while let Some(line) = self.guest.next_line(wait)? {
            if let Some(status) = self.take(line)? {
                bail!(
                    "guest {}: the workload has ended with status {status}: {}",
                    self.guest.name(),
                    self.report
                );
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// The exit status, if the next line is that.
    fn take_next(&mut self, end: Instant) -> Result<Option<i32>> {
        match self.guest.next_line(end.saturating_duration_since(Instant::now()))? {
            Some(line) => self.take(line),
            None => {
                bail!("guest {}: the workload does not end; last sample: {}", self.guest.name(), self.sample)
            }
        }
    }

    fn take(&mut self, line: Line) -> Result<Option<i32>> {
        match line {
            Line::Exit(status) => return Ok(Some(status)),
            Line::Ready => bail!("guest {} has booted again", self.guest.name()),
            Line::Output(text) => {
                let mut line: Value =
                    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
                for (key, place) in [
                    ("sample", &mut self.sample),
                    ("report", &mut self.report),
                    ("readback", &mut self.read_back),
                ] {
                    if let Some(value) = line.get_mut(key) {
                        *place = value.take();
                    }
                }
                if let Some(why) = line.get("error") {
                    bail!("guest {}: its workload says {why}", self.guest.name());
                }
            }
        }
        Ok(None)
    }
}
