//! One path fails under a real guest's load: its requests complete on the other, and none is lost, wrong or doubled.
//!
//! Times are bounded here and measured in `failover`: when an emulated guest next uses the lost path, and how long the firewall
//! takes to learn its rules, is in each of them.

use crate::e2e::host::{Host, Wanted};
use crate::e2e::network::{self, ADDRESS_A, Loss};
use crate::e2e::stage::Stage;
use crate::e2e::{storage, vm};
use anyhow::Result;
use std::time::Duration;
use vmpath_lab::report::Bound;

/// Loss to repair: shorter than the quiesce (5 s), so that the target may still hold what the lost path carried.
const LOST_FOR: Duration = Duration::from_millis(2500);
/// After the repair the load goes on beyond the last moment at which a ghost write could land.
const GHOSTS_GONE: Duration = Duration::from_secs(5);
const SEEN_MAX: Duration = Duration::from_secs(15);
const REPAIR_MAX: Duration = Duration::from_secs(30);
const FAILED_OVER: &str = "from the loss to the first request completed on the other path";

/// An emulated guest on busy processors may need that long to notice anything at all.
const EMULATED_MS: f64 = 1000.0;

pub(super) fn reset(stage: &mut Stage) -> Result<()> {
    lose_one_path(stage, Loss::Reset, EMULATED_MS)
}

pub(super) fn blackhole(stage: &mut Stage) -> Result<()> {
    lose_one_path(stage, Loss::Blackhole, 700.0 + EMULATED_MS)
}

pub(super) fn blackhole_replies(stage: &mut Stage) -> Result<()> {
    lose_one_path(stage, Loss::BlackholeReplies, 700.0 + EMULATED_MS)
}

fn lose_one_path(stage: &mut Stage, loss: Loss, bound_ms: f64) -> Result<()> {
    let _storage = storage::nbdkit(stage, &["gold"])?;
    let mut host = Host::start(stage, "one-guest.toml")?;
    let [mut gold] = vm::boot(stage, ["gold"])?;

    let lost_at = network::lose(&[ADDRESS_A], loss)?;
    stage.say(format!("path a is lost: {loss:?}"));
    let lost_when = stage.elapsed();
    failed_over(stage, &mut host, lost_at, bound_ms)?;
    gold.wait_progress(stage)?;
    host.check_commands(stage, "gold")?;
    stage.watch(LOST_FOR.saturating_sub(stage.elapsed() - lost_when), |_| Ok(()))?;

    network::heal()?;
    stage.say("path a is healed");
    repaired(stage, &mut host, lost_at)?;
    gold.wait_progress(stage)?;
    gold.finish(stage)?;
    host.finish(stage)
}

/// Waits for the journal to say so, and checks the time between.
pub(super) fn failed_over(stage: &mut Stage, host: &mut Host, lost_at: u64, bound_ms: f64) -> Result<()> {
    let wanted = Wanted { kind: "failed-over", subject: "*", since_unix_us: lost_at, bound: SEEN_MAX };
    let event = host.wait_event(stage, &wanted)?;
    let took = event.at_unix_us.saturating_sub(lost_at) as f64 / 1e3;
    stage.report.check(FAILED_OVER, took, Bound::AtMost(bound_ms), "ms").note = event.reason;
    Ok(())
}

/// The path counts again, its traffic is back, and no ghost can come any more.
pub(super) fn repaired(stage: &mut Stage, host: &mut Host, since_unix_us: u64) -> Result<()> {
    let wanted = |kind| Wanted { kind, subject: "san0/a", since_unix_us, bound: REPAIR_MAX };
    host.wait_event(stage, &wanted("path-repaired"))?;
    host.wait_event(stage, &Wanted { subject: "*", ..wanted("failback") })?;
    host.wait_path(stage, "san0/a", "up", REPAIR_MAX)?;
    let before = host.path_number("san0/a", "completed_requests")?;
    stage.watch(GHOSTS_GONE, |_| Ok(()))?;
    let carried = host.path_number("san0/a", "completed_requests")? - before;
    stage.report.check("requests completed by the repaired path", carried, Bound::AtLeast(1.0), "requests");
    Ok(())
}

/// The controller behind path a dies; its network still acknowledges.
pub(super) fn hang(stage: &mut Stage) -> Result<()> {
    let (_storage, mut array) = storage::array(stage, &["gold"])?;
    let mut host = Host::start(stage, "one-guest.toml")?;
    let [mut gold] = vm::boot(stage, ["gold"])?;

    let lost_at = array.fault("a", "hang")?;
    stage.say("portal a hangs");
    failed_over(stage, &mut host, lost_at, 5100.0 + EMULATED_MS)?;
    gold.wait_progress(stage)?;

    array.clear("a")?;
    stage.say("portal a answers again");
    repaired(stage, &mut host, lost_at)?;
    gold.wait_progress(stage)?;
    gold.finish(stage)?;
    host.finish(stage)
}

/// Two seconds of silence out of every four, with TCP acknowledging: slow, and alive.
pub(super) fn slow_not_dead(stage: &mut Stage) -> Result<()> {
    const STALLS: Duration = Duration::from_secs(12);
    let (_storage, mut array) = storage::array(stage, &["gold"])?;
    let mut host = Host::start(stage, "one-guest.toml")?;
    let [mut gold] = vm::boot(stage, ["gold"])?;

    let since = array.fault("a", "stall 2s/4s")?;
    stage.say("portal a stalls for 2 s, every 4 s");
    let mut waiting = 0.0_f64;
    stage.watch(STALLS, |_| {
        waiting = waiting.max(host.path_number("san0/a", "pending_requests")?);
        Ok(())
    })?;
    array.clear("a")?;
    stage.report.check(
        "most requests that waited for the stalled path",
        waiting,
        Bound::AtLeast(1.0),
        "requests",
    );
    for kind in ["path-down", "link-down", "failed-over"] {
        let seen = host.events()?.iter().filter(|e| e.kind == kind && e.at_unix_us >= since).count();
        stage.report.check(
            &format!("{kind} events during stalls of 2 s"),
            seen as f64,
            Bound::Equal(0.0),
            "events",
        );
    }
    gold.wait_progress(stage)?;
    gold.finish(stage)?;
    host.finish(stage)
}
