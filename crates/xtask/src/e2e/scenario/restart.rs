//! The daemon dies and comes back under load, and the guest must not notice more than a pause.

use crate::e2e::host::Host;
use crate::e2e::network::{self, ADDRESS_A, ADDRESS_B, Loss};
use crate::e2e::stage::Stage;
use crate::e2e::storage;
use crate::e2e::vm::{self, Vm};
use anyhow::Result;
use serde_json::json;
use std::time::{Duration, Instant};
use vmpath_lab::report::{Bound, Truth};

const KILLS: usize = 20;
/// Sixteen threads, as fast as they can; small requests on a small part of the disk, so that blocks are often written
/// again and meet a quarantine.
const LOAD: &str = "--device /dev/vda --size 16MiB --sizes 4KiB:4,16KiB:2,64KiB:1 --slots 16 --read 40 --zero 5 \
                    --sample-every 100ms";
/// As in `restart.toml`.
const QUIESCE: Duration = Duration::from_secs(2);
/// From one kill to the next: what the last one left in quarantine has come free.
const BETWEEN: Duration = Duration::from_millis(3000);
/// Nothing at all completes for that long: QEMU looks for its back end once a second, and about one start in forty was
/// seen to take half a second more to have its first path.
const GAP_MAX_MS: f64 = 2000.0;
/// Beyond the quiesce bound, for a write that meets a quarantine.
const QUARANTINE_SLACK_MS: f64 = 500.0;
const UP_MAX: Duration = Duration::from_secs(30);
/// A decision, and QEMU doing it.
const DECISION_MAX: Duration = Duration::from_secs(10);
/// Longer than a daemon takes to act on a VM that it believes to be its own to resume.
const STAYS: Duration = Duration::from_secs(4);

pub(super) fn restart(stage: &mut Stage) -> Result<()> {
    let _storage = storage::nbdkit(stage, &["gold"])?;
    let mut host = Host::start(stage, "restart.toml")?;
    let [mut gold] = vm::boot_under(stage, ["gold"], LOAD)?;

    killed(stage, &mut host, &mut gold)?;
    updated(stage, &mut host, &mut gold)?;
    killed_while_suspended(stage, &mut host, &mut gold)?;
    killed_while_stopped_by_hand(stage, &mut host, &mut gold)?;
    killed_after_that(stage, &mut host, &mut gold)?;

    gold.finish(stage)?;
    host.finish(stage)
}

fn killed(stage: &mut Stage, host: &mut Host, gold: &mut Vm) -> Result<()> {
    let mut gaps = Vec::new();
    let mut unknown = 0;
    for kill in 1..=KILLS {
        let open = gold.sample()?["open"].as_u64().unwrap_or(0);
        gold.take_gap()?;
        let killed_at = Instant::now();
        host.crash(stage)?;
        let mut most_unknown = 0;
        host.wait_api(stage)?;
        gold.wait_progress(stage)?;
        stage.watch(BETWEEN.saturating_sub(killed_at.elapsed()), |_| {
            host.check_alive()?;
            most_unknown = host.quarantined_ranges()?.max(most_unknown);
            Ok(())
        })?;
        let gap = gold.take_gap()?;
        stage.say(format!(
            "kill {kill}: {open} requests were open, {gap:.0} ms without any, {most_unknown} ranges unknown"
        ));
        gaps.push(gap);
        unknown += most_unknown;
        host.wait_all_up(stage, UP_MAX)?;
    }
    let seen = gold.report()?;
    let report = &mut stage.report;
    report.check("kill -9 under load", gaps.len() as f64, Bound::AtLeast(KILLS as f64), "kills");
    let gap = seen["longest_gap_ms"].as_f64();
    report.check("longest time in which nothing completed", gap, Bound::AtMost(GAP_MAX_MS), "ms");
    let slowest = seen["latency_ms"]["max"].as_f64();
    let bound = QUIESCE.as_secs_f64() * 1e3 + QUARANTINE_SLACK_MS;
    report.check(
        "slowest request, those that met a quarantine included",
        slowest,
        Bound::AtMost(bound),
        "ms",
    );
    report
        .check("ranges of unknown outcome after the kills", unknown as f64, Bound::AtLeast(1.0), "ranges")
        .note = "without any, the kills would prove less".to_owned();
    report.attach("gaps_ms", &json!(gaps));
    report.attach("after_the_kills", &seen);
    Ok(())
}

/// SIGTERM and a new start: what live paths can finish is finished, so nothing is unknown.
fn updated(stage: &mut Stage, host: &mut Host, gold: &mut Vm) -> Result<()> {
    stage.watch(QUIESCE, |_| Ok(()))?;
    host.restart(stage)?;
    host.wait_api(stage)?;
    let mut unknown = 0;
    let began = Instant::now();
    while began.elapsed() < QUIESCE {
        unknown = host.quarantined_ranges()?.max(unknown);
        stage.watch(Duration::from_millis(20), |_| host.check_alive())?;
    }
    host.wait_all_up(stage, UP_MAX)?;
    gold.wait_progress(stage)?;
    stage.report.check(
        "ranges of unknown outcome after a clean restart",
        unknown as f64,
        Bound::Equal(0.0),
        "ranges",
    );
    Ok(())
}

/// It still knows that it was the one that suspended, and why.
fn killed_while_suspended(stage: &mut Stage, host: &mut Host, gold: &mut Vm) -> Result<()> {
    network::lose(&[ADDRESS_A, ADDRESS_B], Loss::Reset)?;
    stage.say("both paths are lost");
    host.wait_vm(stage, "gold", "suspended", DECISION_MAX)?;
    host.crash(stage)?;
    host.wait_api(stage)?;
    let mut stayed = true;
    stage.watch(STAYS, |_| {
        stayed &= gold.run_state()? == "paused";
        Ok(())
    })?;
    stage.report.check_that("a suspended VM stays so after a kill", Truth::from(stayed), "");
    let state = host.vm_state("gold")?;
    stage.report.check_that("and is known as suspended", Truth::from(state == "suspended"), state);
    let reason = host.vm("gold")?["because"].to_string();
    stage.report.check_that("with the reason", Truth::from(reason.len() > 4), reason);

    network::heal()?;
    stage.say("both paths are healed");
    host.wait_vm(stage, "gold", "running", UP_MAX)?;
    let state = gold.run_state()?;
    stage.report.check_that(
        "it is resumed by the repair, after the kill",
        Truth::from(state == "running"),
        state,
    );
    gold.wait_progress(stage)?;
    host.wait_all_up(stage, UP_MAX)
}

/// What somebody else stopped stays stopped.
fn killed_while_stopped_by_hand(stage: &mut Stage, host: &mut Host, gold: &mut Vm) -> Result<()> {
    gold.stop()?;
    stage.say("gold is stopped by hand");
    host.crash(stage)?;
    host.wait_api(stage)?;
    host.wait_all_up(stage, UP_MAX)?;
    let mut stayed = true;
    stage.watch(STAYS, |_| {
        stayed &= gold.run_state()? == "paused";
        Ok(())
    })?;
    stage.report.check_that("a VM stopped by hand is not resumed after a kill", Truth::from(stayed), "");
    gold.cont()?;
    gold.wait_progress(stage)
}

/// QEMU 7.2 has lost its way back in the kill before: it connects and says nothing, until the daemon has it stop and go on.
fn killed_after_that(stage: &mut Stage, host: &mut Host, gold: &mut Vm) -> Result<()> {
    host.crash(stage)?;
    host.wait_api(stage)?;
    host.wait_all_up(stage, UP_MAX)?;
    gold.wait_progress(stage)?;
    stage.report.check_that("and the VM goes on after one more kill", Truth::from(true), "");
    Ok(())
}
