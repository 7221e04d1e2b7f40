//! What happens to the guests when paths fail: held, suspended, resumed, each for its reason.

use crate::e2e::host::{Host, Wanted};
use crate::e2e::network::{self, ADDRESS_A, ADDRESS_B, Loss};
use crate::e2e::stage::Stage;
use crate::e2e::storage;
use crate::e2e::vm::{self, Vm};
use anyhow::{Result, ensure};
use std::time::Duration;
use vmpath_lab::report::{Bound, Truth};

/// A decision, and QEMU doing it.
const DECISION_MAX: Duration = Duration::from_secs(10);
/// Reconnecting backs off, and a repaired path must stay good for a while.
const REPAIR_MAX: Duration = Duration::from_secs(30);
/// Longer than any repair takes to be acted on.
const STAYS: Duration = Duration::from_secs(4);
/// By then the data plane's counters have been reported.
const COUNTED: Duration = Duration::from_secs(1);

pub(super) fn no_path(stage: &mut Stage) -> Result<()> {
    let _storage = storage::nbdkit(stage, &["gold"])?;
    let mut host = Host::start(stage, "no-path.toml")?;
    let [mut gold] = vm::boot(stage, ["gold"])?;

    let lost_at = network::lose(&[ADDRESS_A, ADDRESS_B], Loss::Reset)?;
    stage.say("both paths are lost");
    let wanted = |kind| Wanted { kind, subject: "gold", since_unix_us: lost_at, bound: DECISION_MAX };
    host.wait_event(stage, &wanted("no-path"))?;
    let suspending = host.wait_event(stage, &wanted("vm-suspending"))?;
    let held = suspending.at_unix_us.saturating_sub(lost_at) as f64 / 1e6;
    stage.report.check("held before it is suspended, at least", held, Bound::AtLeast(5.0), "s");
    stage.report.check("held before it is suspended, at most", held, Bound::AtMost(6.0), "s");
    suspended(stage, &mut host, &mut gold, "gold")?;
    host.check_commands(stage, "gold")?;

    network::heal()?;
    stage.say("both paths are healed");
    resumed(stage, &mut host, &mut gold, "gold")?;
    gold.finish(stage)?;
    host.finish(stage)
}

pub(super) fn shed(stage: &mut Stage) -> Result<()> {
    let _storage = storage::nbdkit(stage, &["gold", "bronze"])?;
    let mut host = Host::start(stage, "shed.toml")?;
    let [mut gold, mut bronze] = vm::boot(stage, ["gold", "bronze"])?;

    lose_bandwidth(stage, &mut host, &mut gold, &mut bronze)?;

    network::heal()?;
    stage.say("path a is healed");
    resumed(stage, &mut host, &mut bronze, "bronze")?;
    gold.wait_progress(stage)?;
    gold.finish(stage)?;
    bronze.finish(stage)?;
    host.finish(stage)
}

pub(super) fn shed_failback(stage: &mut Stage) -> Result<()> {
    let _storage = storage::nbdkit(stage, &["gold", "bronze"])?;
    let mut host = Host::start(stage, "shed-failback.toml")?;
    let [mut gold, mut bronze] = vm::boot(stage, ["gold", "bronze"])?;

    let lost_at = lose_bandwidth(stage, &mut host, &mut gold, &mut bronze)?;

    network::heal()?;
    stage.say("path a is healed");
    let repaired =
        Wanted { kind: "path-repaired", subject: "san0/a", since_unix_us: lost_at, bound: REPAIR_MAX };
    host.wait_event(stage, &repaired)?;
    let mut stayed = true;
    stage.watch(STAYS, |_| {
        stayed &= host.vm_state("bronze")? == "suspended" && bronze.run_state()? == "paused";
        Ok(())
    })?;
    let note = format!("looked at for {} s after the repair", STAYS.as_secs());
    stage.report.check_that("the repair alone does not resume it", Truth::from(stayed), note);

    let answer = host.operator(&["failback", "san0"])?;
    let words = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    stage.say(format!("vmpath failback san0: {words}"));
    stage.report.check_that("vmpath failback is accepted", Truth::from(answer.status.success()), words);
    resumed(stage, &mut host, &mut bronze, "bronze")?;
    gold.wait_progress(stage)?;
    gold.finish(stage)?;
    bronze.finish(stage)?;
    host.finish(stage)
}

/// Path a is lost, bronze must leave, gold must not notice. Returns when it was lost.
fn lose_bandwidth(stage: &mut Stage, host: &mut Host, gold: &mut Vm, bronze: &mut Vm) -> Result<u64> {
    let lost_at = network::lose(&[ADDRESS_A], Loss::Reset)?;
    stage.say("path a is lost");
    suspended(stage, host, bronze, "bronze")?;
    let alone = host.vm_state("gold")? == "running" && gold.run_state()? == "running";
    stage.report.check_that("the higher guest goes on", Truth::from(alone), "");
    gold.wait_progress(stage)?;
    let mut stayed = true;
    stage.watch(COUNTED, |_| {
        stayed &= bronze.run_state()? == "paused";
        Ok(())
    })?;
    stage.report.check_that("bronze stays suspended while the path is lost", Truth::from(stayed), "");
    let waits_for = host.vm("bronze")?["waits_for"].as_str().unwrap_or_default().to_owned();
    stage.report.check_that(
        "it is said what bronze waits for",
        Truth::from(!waits_for.is_empty()),
        waits_for,
    );
    Ok(lost_at)
}

pub(super) fn suspend(stage: &mut Stage) -> Result<()> {
    let _storage = storage::nbdkit(stage, &["gold"])?;
    let mut host = Host::start(stage, "suspend.toml")?;
    let [mut gold] = vm::boot(stage, ["gold"])?;

    let lost_at = network::lose(&[ADDRESS_A], Loss::Reset)?;
    stage.say("path a is lost");
    suspended(stage, &mut host, &mut gold, "gold")?;
    // What was on its way over b when a was lost finishes, and the counters are some moments old.
    stage.watch(COUNTED, |_| Ok(()))?;
    let before = host.path_number("san0/b", "completed_requests")?;
    stage.watch(STAYS, |_| Ok(()))?;
    let routed = host.path_number("san0/b", "completed_requests")? - before;
    let moved = host.events()?.iter().filter(|e| e.kind == "failed-over" && e.at_unix_us >= lost_at).count();
    stage.report.check(
        "requests of path a completed over the other",
        moved as f64,
        Bound::Equal(0.0),
        "failovers",
    );
    ensure!(host.path("san0/b")?["health"] == "up", "path b was to stay up");
    stage
        .report
        .check("requests routed over the other path, which is up", routed, Bound::Equal(0.0), "requests")
        .note = format!("in {} s of suspension", STAYS.as_secs());

    network::heal()?;
    stage.say("path a is healed");
    resumed(stage, &mut host, &mut gold, "gold")?;
    gold.finish(stage)?;
    host.finish(stage)
}

/// The daemon says so, and QEMU itself.
fn suspended(stage: &mut Stage, host: &mut Host, guest: &mut Vm, name: &str) -> Result<()> {
    host.wait_vm(stage, name, "suspended", DECISION_MAX)?;
    let state = guest.run_state()?;
    let stopped = matches!(state.as_str(), "paused" | "io-error");
    stage.report.check_that(&format!("QEMU has stopped {name}"), Truth::from(stopped), state);
    Ok(())
}

/// The daemon says so, QEMU itself, and its requests complete again.
fn resumed(stage: &mut Stage, host: &mut Host, guest: &mut Vm, name: &str) -> Result<()> {
    host.wait_vm(stage, name, "running", REPAIR_MAX)?;
    let state = guest.run_state()?;
    stage.report.check_that(&format!("QEMU runs {name} again"), Truth::from(state == "running"), state);
    guest.wait_progress(stage)
}
