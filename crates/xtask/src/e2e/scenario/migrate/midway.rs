//! Something dies, or is cut off, while a guest is on its way: before the commit it stays, after it it is moved.
//!
//! The way to the destination is slow where something must happen while memory is sent. After each failure a healthy move shows that
//! nothing of it is left.

use super::{Story, gold_to_2};
use crate::e2e::hosts::Seat;
use crate::e2e::hosts::journey::{Journey, Shape};
use crate::e2e::hosts::network::{Cable, Cut, cut, host_name, hurry, mend, slow_down};
use crate::e2e::network::now_unix_us;
use crate::e2e::stage::Stage;
use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::Duration;
use vmpath_lab::report::{Bound, Truth};

/// QEMU tells at once, a dead daemon's silence is waited for.
const GIVEN_UP_MAX: Duration = Duration::from_secs(30);
/// What stands still is cancelled within.
const STUCK_S: f64 = 10.0;
const RESTARTED_MAX: Duration = Duration::from_secs(20);
const COMMITTED_MAX: Duration = Duration::from_secs(20);
/// A daemon that is killed without etcd costs its guests at most.
const ALONE_MS: f64 = 2000.0;
/// By then the daemons have noticed what happened to etcd.
const NOTICED: Duration = Duration::from_secs(3);

impl Story {
    /// On its way, slowly.
    pub(super) fn midway(&mut self, stage: &mut Stage, out: &Journey<'_>) -> Result<u64> {
        slow_down(out.to)?;
        let began = now_unix_us();
        self.command(stage, out)?;
        out.wait_midway(stage, &mut self.gold)?;
        Ok(began)
    }

    fn stays(&mut self, stage: &mut Stage, out: &Journey<'_>, since: u64) -> Result<()> {
        let why = out.stays(stage, &mut self.hosts, &mut self.gold, (since, GIVEN_UP_MAX))?;
        stage.report.check_that("it is told why the guest stays", Truth::from(!why.is_empty()), why);
        out.wait_nothing_there(stage)
    }

    /// Waits until the destination has nothing more to do with it, and says so.
    fn wait_cancelled_there(&mut self, stage: &mut Stage, since: u64) -> Result<()> {
        stage.wait("the destination to be done with it", RESTARTED_MAX, |_| {
            let told = self.hosts.host(2).events()?.into_iter().find(|event| {
                let is_end = event.reason.starts_with("it does not come from");
                event.kind == "arrival-cancelled" && event.at_unix_us >= since && is_end
            });
            Ok(told.map(drop))
        })
    }

    /// The daemon is killed while etcd cannot say who owns what: what it has left on its host says it.
    fn restarts_alone(&mut self, stage: &mut Stage, since: u64) -> Result<()> {
        stage.wait("host 1 to be done with it", RESTARTED_MAX, |_| {
            let told = self.hosts.host(1).events()?.into_iter().find(|event| {
                let is_end = event.reason.starts_with("it stays");
                event.kind == "migration-cancelled" && event.at_unix_us >= since && is_end
            });
            Ok(told.map(drop))
        })?;
        // That is on its disk by then.
        stage.watch(NOTICED, |_| Ok(()))?;
        self.gold.take_gap()?;
        self.hosts.host(1).crash(stage)?;
        stage.say("the daemon of host 1 is killed while etcd is away, and comes again");
        self.hosts.host(1).wait_ready(stage)?;
        self.gold.wait_progress(stage)?;
        let gap = self.gold.take_gap()?;
        stage.report.check("without etcd a restart costs the guest", gap, Bound::AtMost(ALONE_MS), "ms");
        Ok(())
    }

    /// Nothing of a failed move is in the way of the next, once it is known what became of the writes that a killed daemon had on the wire.
    pub(super) fn moves_after_all(mut self, stage: &mut Stage) -> Result<()> {
        let out = gold_to_2(stage);
        stage.wait("writes of unknown outcome to be over", RESTARTED_MAX, |_| {
            Ok((self.hosts.host(1).quarantined_ranges()? == 0).then_some(()))
        })?;
        let arrival = self.hosts.expect(stage, out.seat())?;
        self.gold.take_gap()?;
        let words = ["vm", "migrate", "gold", "--to", "h2", "--wait=30"];
        let (began, done, text) = self.insist(stage, 1, &words)?;
        stage.report.check_that("after all that it moves", Truth::from(done), text);
        out.complete(stage, &mut self.hosts, &mut self.gold, (arrival, began, Shape::Healthy))?;
        self.finish(stage, &[2])
    }
}

pub(in super::super) fn destination_dies(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    let began = story.midway(stage, &out)?;
    signal_all(stage, out.seat(), Signal::KILL)?;
    stage.say("the QEMU at host 2 is killed");
    story.stays(stage, &out, began)?;
    hurry(out.to)?;

    let began = story.midway(stage, &out)?;
    story.hosts.host(2).kill()?;
    stage.say("the daemon of host 2 is killed");
    hurry(out.to)?;
    let why = out.stays(stage, &mut story.hosts, &mut story.gold, (began, GIVEN_UP_MAX))?;
    stage.report.check_that("it is told that the destination is silent", Truth::from(!why.is_empty()), why);
    let again = now_unix_us();
    story.hosts.host(2).begin_again(stage)?;
    story.hosts.host(2).wait_ready(stage)?;
    story.wait_cancelled_there(stage, again)?;
    out.wait_nothing_there(stage)?;
    drop(arrival);
    story.moves_after_all(stage)
}

pub(in super::super) fn link_cut(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    let began = story.midway(stage, &out)?;
    let cut_at = cut(Cable::Management(2), Cut::Blackhole)?;
    stage.say("the management network of host 2 swallows everything");
    let why = out.stays(stage, &mut story.hosts, &mut story.gold, (began, GIVEN_UP_MAX))?;
    let took = now_unix_us().saturating_sub(cut_at) as f64 / 1e6;
    stage.report.check("a stuck move is cancelled within", took, Bound::AtMost(STUCK_S), "s").note = why;
    let gap = story.gold.take_gap()?;
    stage.report.check("and the guest has not stood still", gap, Bound::AtMost(1000.0), "ms");
    mend(Cable::Management(2), Cut::Blackhole)?;
    hurry(out.to)?;
    story.wait_cancelled_there(stage, began)?;
    out.wait_nothing_there(stage)?;
    drop(arrival);
    story.moves_after_all(stage)
}

pub(in super::super) fn etcd_lost(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    let began = story.midway(stage, &out)?;
    for member in [1, 2] {
        story.hosts.etcd.kill(member);
    }
    stage.say("two of three members of etcd are killed");
    stage.watch(NOTICED, |_| Ok(()))?;
    hurry(out.to)?;
    // What cannot be asked of etcd now is asked when it is back.
    let kind = "migration-cancelled";
    let wanted =
        crate::e2e::host::Wanted { kind, subject: "gold", since_unix_us: began, bound: GIVEN_UP_MAX };
    let why = story.hosts.host(1).wait_event(stage, &wanted)?.reason;
    stage.report.check_that("without etcd the guest stays", Truth::from(why.contains("etcd")), why);
    let events = story.hosts.host(1).events()?;
    let stopped = events.into_iter().find(|event| {
        event.at_unix_us >= began && event.subject == "gold" && event.reason.contains("it stands still")
    });
    let note = stopped.as_ref().map(|event| event.reason.clone()).unwrap_or_default();
    stage.report.check_that("and is not stopped for it", Truth::from(stopped.is_none()), note);
    story.gold.wait_progress(stage)?;
    story.restarts_alone(stage, began)?;
    for member in [1, 2] {
        story.hosts.etcd.restart(member)?;
    }
    stage.wait("etcd to have its majority again", RESTARTED_MAX, |_| {
        Ok(story.hosts.owner("san0/gold").ok())
    })?;
    stage.say("etcd has its majority again");
    story.stays(stage, &out, began)?;
    drop(arrival);
    story.moves_after_all(stage)
}

/// QEMU leaves a guest that was stopped before in `postmigrate` when the move comes to nothing, and can continue it from there.
pub(in super::super) fn suspended_stays(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let (done, text) = story.ask(stage, out.from, &["vm", "suspend", "gold"])?;
    ensure!(done, "the guest is not suspended: {text}");
    story.hosts.host(out.from).wait_vm(stage, "gold", "suspended", RESTARTED_MAX)?;
    let arrival = story.hosts.expect(stage, out.seat())?;
    let began = story.midway(stage, &out)?;
    // What is handed over is not taken.
    story.hosts.host(out.to).signal(Signal::STOP)?;
    hurry(out.to)?;
    let kind = "migration-cancelled";
    let wanted =
        crate::e2e::host::Wanted { kind, subject: "gold", since_unix_us: began, bound: GIVEN_UP_MAX };
    let why = story.hosts.host(out.from).wait_event(stage, &wanted)?.reason;
    stage.wait("QEMU to have ended its migration", RESTARTED_MAX, |_| {
        Ok((story.gold.run_state()? == "postmigrate").then_some(()))
    })?;
    story.hosts.host(out.to).signal(Signal::CONT)?;
    let state = story.hosts.host(out.from).vm_state("gold")?;
    let name = "a suspended guest that is not moved stays suspended";
    stage.report.check_that(name, Truth::from(state == "suspended"), format!("{state}; {why}"));
    let (done, text) = story.ask(stage, out.from, &["vm", "resume", "gold"])?;
    ensure!(done, "the guest is not resumed: {text}");
    story.hosts.host(out.from).wait_vm(stage, "gold", "running", RESTARTED_MAX)?;
    story.gold.wait_progress(stage)?;
    let state = story.gold.run_state()?;
    stage.report.check_that("QEMU continues it", Truth::from(state == "running"), state);
    out.wait_nothing_there(stage)?;
    drop(arrival);
    story.finish(stage, &[])
}

pub(in super::super) fn source_dies(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    let began = story.midway(stage, &out)?;
    story.hosts.host(1).crash(stage)?;
    stage.say("the daemon of host 1 is killed, and comes again");
    hurry(out.to)?;
    story.hosts.host(1).wait_ready(stage)?;
    story.stays(stage, &out, began)?;
    drop(arrival);
    story.moves_after_all(stage)
}

/// QEMU stands still at the source when its daemon is killed: it has not gone on, and perhaps was not even told to.
pub(in super::super) fn source_dies_after_commit(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    let began = story.midway(stage, &out)?;
    // What is handed over is not taken yet, so that there is time to stop QEMU at the switch-over.
    story.hosts.host(2).signal(Signal::STOP)?;
    hurry(out.to)?;
    stage.wait("the switch-over", COMMITTED_MAX, |_| {
        let seen = story.gold.qmp("query-migrate", &Value::Null)?;
        Ok((seen["status"] == "pre-switchover").then_some(()))
    })?;
    signal_all(stage, out.back().seat(), Signal::STOP)?;
    story.hosts.host(2).signal(Signal::CONT)?;
    stage.say("QEMU is stopped at the switch-over; host 2 takes what is handed over");
    let to = host_name(out.to);
    stage.wait("etcd to name host 2 as the owner", COMMITTED_MAX, |_| {
        Ok((story.hosts.owner("san0/gold")?.0 == to).then_some(()))
    })?;
    stage.say("it is committed");
    story.hosts.host(1).crash(stage)?;
    stage.say("the daemon of host 1 is killed, and comes again");
    signal_all(stage, out.back().seat(), Signal::CONT)?;
    story.hosts.host(1).wait_ready(stage)?;
    out.complete(stage, &mut story.hosts, &mut story.gold, (arrival, began, Shape::Hurt))?;
    story.finish(stage, &[2])
}

pub(super) fn signal_all(stage: &Stage, seat: Seat<'_>, signal: Signal) -> Result<()> {
    for pid in seat.hypervisors(stage)?.into_iter().filter_map(Pid::from_raw) {
        kill_process(pid, signal)?;
    }
    Ok(())
}
