//! One guest's way from one host to another, as QEMU, the guest, etcd and the array saw it.
//!
//! Nothing is taken from what the daemon says of the move itself, except when it began and ended; that is compared with the rest.
//! It does not know why the guest moves.

use super::network::host_name;
use super::{Hosts, Seat};
use crate::e2e::host::Wanted;
use crate::e2e::stage::Stage;
use crate::e2e::vm::Vm;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use vmpath_lab::guest::{Arrival, FrontEnd};
use vmpath_lab::report::{Bound, Truth};

/// A guest of 256 MiB on a busy machine; longer has hung.
const MOVED_MAX: Duration = Duration::from_secs(40);
const STEP_MAX: Duration = Duration::from_secs(20);
/// For QEMU to close its disks and end.
const LEFT_MAX: Duration = Duration::from_secs(5);
/// For a daemon to tell what it knows.
const TOLD_MAX: Duration = Duration::from_secs(3);
/// What a healthy guest under load may be moved in, and what its requests may wait beyond the time for which QEMU stops it.
const TIMED: (f64, f64) = (3.0, 300.0);
/// The same where a busy machine's own time may be in it.
const HEALTHY: (f64, f64) = (10.0, 1500.0);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Journey<'a> {
    pub(crate) vm: &'a str,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) front_end: FrontEnd,
}

/// What it is to be judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing is wrong with the guest's paths, and it is about time. No write may be of unknown outcome.
    Timed,
    /// The same, and not about time.
    Healthy,
    /// One of several is lost: no time counts, and what that one carried is of unknown outcome.
    Hurt,
}

impl Shape {
    /// The whole move in seconds, and the pause in milliseconds.
    const fn bounds(self) -> Option<(f64, f64)> {
        match self {
            Self::Timed => Some(TIMED),
            Self::Healthy => Some(HEALTHY),
            Self::Hurt => None,
        }
    }
}

impl<'a> Journey<'a> {
    pub(crate) fn seat(&self) -> Seat<'a> {
        Seat { host: self.to, vm: self.vm, front_end: self.front_end }
    }

    pub(crate) fn back(&self) -> Self {
        Self { from: self.to, to: self.from, ..*self }
    }

    fn unit(&self) -> String {
        format!("san0/{}", self.vm)
    }

    /// Waits until the guest is at the destination, whoever has sent it there since that moment; goes on with it there, and puts what
    /// was seen into the report.
    ///
    /// # Errors
    /// It does not come there.
    pub(crate) fn complete(
        &self,
        stage: &mut Stage,
        hosts: &mut Hosts,
        guest: &mut Vm,
        (arrival, since_unix_us, shape): (Arrival, u64, Shape),
    ) -> Result<()> {
        let what = format!("{} to h{}", self.vm, self.to);
        let mut sent = Value::Null;
        stage
            .wait(&format!("QEMU to send {what}"), MOVED_MAX, |_| {
                hosts.host(self.to).check_alive()?;
                let Ok(seen) = guest.qmp("query-migrate", &Value::Null) else {
                    // It was ended, because it has sent everything.
                    return Ok(Some(()));
                };
                // One that a guest has come to says so too, and no downtime.
                let is_done = seen["status"] == "completed" && seen["downtime"].is_u64();
                sent = seen;
                Ok(is_done.then_some(()))
            })
            .inspect_err(|_| self.ask_why(hosts))?;
        self.check_nothing_left(stage);
        guest.follow(arrival)?;
        stage.wait(&format!("{what}: QEMU to run there"), STEP_MAX, |_| {
            Ok((guest.run_state()? == "running").then_some(()))
        })?;
        hosts.host(self.to).wait_vm(stage, self.vm, "running", STEP_MAX)?;
        guest.wait_progress(stage).inspect_err(|_| self.ask_why(hosts))?;
        self.check_source(stage, hosts)?;
        self.check_owner(stage, hosts)?;
        self.check_times(stage, hosts, since_unix_us, shape)?;
        self.check_pauses(stage, hosts, guest, (&sent, shape))
    }

    /// Its daemon ends it, or the guest could not come back. Before the guest is followed: that would end it, too.
    fn check_nothing_left(&self, stage: &mut Stage) {
        let source = self.back().seat();
        let ended = stage.wait("the QEMU at the source to be ended", LEFT_MAX, |stage| {
            Ok(source.hypervisors(stage)?.is_empty().then_some(()))
        });
        let name = format!("{} to h{}: no QEMU is left at the source", self.vm, self.to);
        stage.report.check_that(&name, Truth::from(ended.is_ok()), "");
    }

    /// What an operator would ask when the guest does not go on.
    fn ask_why(&self, hosts: &Hosts) {
        let questions: [&[&str]; 3] =
            [&["explain", "vm", self.vm], &["show", "disks"], &["show", "units", "-o", "json"]];
        for host in [self.from, self.to] {
            for words in questions {
                let said = hosts.operator(host, words).map(|answer| [answer.stdout, answer.stderr].concat());
                let said = said.unwrap_or_default();
                println!("--- h{host}: vmpath {}\n{}", words.join(" "), String::from_utf8_lossy(&said));
            }
        }
    }

    fn check_source(&self, stage: &mut Stage, hosts: &mut Hosts) -> Result<()> {
        let source = hosts.host(self.from);
        let told = stage.wait("the source to say so", TOLD_MAX, |_| {
            Ok((source.vm_state(self.vm)? == "elsewhere").then_some(()))
        });
        let name = format!("{} to h{}: the source says that it is elsewhere", self.vm, self.to);
        stage.report.check_that(&name, Truth::from(told.is_ok()), source.vm(self.vm)?["because"].to_string());
        Ok(())
    }

    /// What etcd says, asked from outside.
    fn check_owner(&self, stage: &mut Stage, hosts: &Hosts) -> Result<()> {
        let (owner, epoch) = hosts.owner(&self.unit())?;
        let name = format!("{} to h{}: etcd names the owner", self.vm, self.to);
        let note = format!("{owner}, epoch {epoch}");
        stage.report.check_that(&name, Truth::from(owner == host_name(self.to)), note);
        Ok(())
    }

    fn check_times(&self, stage: &mut Stage, hosts: &mut Hosts, since: u64, shape: Shape) -> Result<()> {
        let wanted = |kind| Wanted { kind, subject: self.vm, since_unix_us: since, bound: STEP_MAX };
        let source = hosts.host(self.from);
        let moved = source.wait_event(stage, &wanted("vm-migrated"))?;
        // The last that began before it ended: each of its steps is told, and this is the first.
        let began = source.events()?.into_iter().rfind(|e| {
            let is_first =
                e.kind == "vm-migrating" && e.reason.contains("is asked to read each of its units");
            is_first && e.subject == self.vm && e.at_unix_us <= moved.at_unix_us
        });
        let began = began.context("a move that ended has begun")?;
        hosts.host(self.to).wait_event(stage, &wanted("vm-arrived"))?;
        let took = moved.at_unix_us.saturating_sub(began.at_unix_us) as f64 / 1e6;
        let bound = shape.bounds().map_or(MOVED_MAX.as_secs_f64(), |(whole, _)| whole);
        let name = format!("{} to h{}: the whole move", self.vm, self.to);
        stage.report.check(&name, took, Bound::AtMost(bound), "s").note = began.reason;
        Ok(())
    }

    /// The array's clock runs while the guest stands still; the guest's own does not.
    fn check_pauses(
        &self,
        stage: &mut Stage,
        hosts: &mut Hosts,
        guest: &mut Vm,
        (sent, shape): (&Value, Shape),
    ) -> Result<()> {
        let what = format!("{} to h{}", self.vm, self.to);
        let downtime = self.downtime(hosts, sent)?;
        let gap = guest.take_gap()?;
        // What it does first there may be reading.
        let pause = stage.wait("the guest to write there", TOLD_MAX, |_| self.pause(hosts)).ok();
        let note = format!("downtime {downtime} ms by QEMU, longest gap {gap:.0} ms by the guest's clock");
        stage.say(format!("{what}: {note}, {:.0} ms between two hosts' writes", pause.unwrap_or(f64::NAN)));
        stage.report.attach(
            &format!("pauses-{}-to-{}", self.vm, host_name(self.to)),
            &json!({ "downtime_ms": downtime, "guest_gap_ms": gap, "array_pause_ms": pause, "qemu": sent }),
        );
        let Some((_, bound)) = shape.bounds() else { return Ok(()) };
        let over = pause.map(|pause| (pause - downtime).max(0.0));
        let name = format!("{what}: from its last write here to its first there, over QEMU's downtime");
        stage.report.check(&name, over, Bound::AtMost(bound), "ms").note = note;
        let name = format!("{what}: longest gap by the guest's clock");
        stage.report.check(&name, gap, Bound::AtMost(bound), "ms");
        for host in [self.from, self.to] {
            let ranges = hosts.host(host).quarantined_ranges()? as f64;
            let name = format!("{what}: ranges of unknown outcome at h{host}");
            stage.report.check(&name, ranges, Bound::Equal(0.0), "ranges");
        }
        Ok(())
    }

    /// Milliseconds between the last write from the source and the first from the destination, if there was one.
    fn pause(&self, hosts: &mut Hosts) -> Result<Option<f64>> {
        let writers = hosts.array.writers()?;
        let turns = writers.iter().find(|seen| seen.unit == self.vm).map(|seen| seen.turns.as_slice());
        Ok(match turns.unwrap_or_default() {
            [.., before, after]
                if before.host == host_name(self.from) && after.host == host_name(self.to) =>
            {
                Some(after.first_unix_us.saturating_sub(before.last_unix_us) as f64 / 1e3)
            }
            _ => None,
        })
    }

    /// As QEMU told us; if it was ended before that, as it told the daemon.
    fn downtime(&self, hosts: &Hosts, sent: &Value) -> Result<f64> {
        if let Some(told) = sent["downtime"].as_f64() {
            return Ok(told);
        }
        let answer = hosts.operator(self.from, &["show", "migrations", "-o", "json"])?;
        let told: Value = serde_json::from_slice(&answer.stdout).context("no migrations are shown")?;
        let rows = told["migrations"].as_array().context("no migrations are shown")?;
        let ours = rows.iter().find(|row| row["vm"] == self.vm && row["side"] == "source");
        let downtime = ours.and_then(|row| row["downtime_us"].as_f64());
        Ok(downtime.context("nobody has told the downtime")? / 1e3)
    }

    /// Waits until QEMU has sent some of the memory.
    ///
    /// # Errors
    /// It does not begin.
    pub(crate) fn wait_midway(&self, stage: &mut Stage, guest: &mut Vm) -> Result<()> {
        stage.wait(&format!("{} to be on its way", self.vm), STEP_MAX, |_| {
            let seen = guest.qmp("query-migrate", &Value::Null)?;
            let sent = seen["ram"]["transferred"].as_u64().unwrap_or_default();
            Ok((seen["status"] == "active" && sent > 4 << 20).then_some(()))
        })?;
        stage.say("midway");
        Ok(())
    }

    /// Waits until the source has given the move up since that moment, and checks that the guest runs on there and nothing is left of
    /// it at the destination. Why it was given up.
    ///
    /// # Errors
    /// It is not given up, or the guest does not run on.
    pub(crate) fn stays(
        &self,
        stage: &mut Stage,
        hosts: &mut Hosts,
        guest: &mut Vm,
        (since_unix_us, bound): (u64, Duration),
    ) -> Result<String> {
        let kind = "migration-cancelled";
        let wanted = Wanted { kind, subject: self.vm, since_unix_us, bound };
        let given_up = hosts.host(self.from).wait_event(stage, &wanted)?;
        stage.wait("QEMU to run on at the source", STEP_MAX, |_| {
            Ok((guest.run_state()? == "running").then_some(()))
        })?;
        hosts.host(self.from).wait_vm(stage, self.vm, "running", STEP_MAX)?;
        guest.wait_progress(stage)?;
        let (owner, epoch) = hosts.owner(&self.unit())?;
        let owned = owner == host_name(self.from);
        let note = format!("{owner}, epoch {epoch}");
        stage.report.check_that("a move that was given up leaves the owner", Truth::from(owned), note);
        Ok(given_up.reason)
    }

    /// Waits until no QEMU is left for it at the destination.
    ///
    /// # Errors
    /// One is.
    pub(crate) fn wait_nothing_there(&self, stage: &mut Stage) -> Result<()> {
        stage.wait("the QEMU at the destination to be ended", STEP_MAX, |stage| {
            Ok(self.seat().hypervisors(stage)?.is_empty().then_some(()))
        })
    }
}

impl Hosts {
    /// Who owns a unit, and in which epoch.
    ///
    /// # Errors
    /// etcd does not answer, or nobody has ever owned it.
    pub(crate) fn owner(&self, unit: &str) -> Result<(String, u64)> {
        self.owner_by(1, unit)
    }

    /// The same, asked from a host of which etcd is heard.
    ///
    /// # Errors
    /// As [`Hosts::owner`].
    pub(crate) fn owner_by(&self, host: usize, unit: &str) -> Result<(String, u64)> {
        let key = format!("/vmpath/owner/{unit}");
        let value = self.etcd.ask(&host_name(host), &["get", "--print-value-only", &key])?;
        ensure!(!value.is_empty(), "etcd has no {key}");
        let record: Value = serde_json::from_str(&value).with_context(|| format!("{key} is {value}"))?;
        let owner = record["host"].as_str().unwrap_or("nobody").to_owned();
        Ok((owner, record["epoch"].as_u64().unwrap_or_default()))
    }
}
