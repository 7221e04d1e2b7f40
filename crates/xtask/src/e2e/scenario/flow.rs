//! One member of a network of several dies: the flows over it are swallowed, and the path goes on.
//!
//! The member is played by a rule that drops what comes from half of the local ports. Which connections that meets is the
//! kernel's choice of ports, so it is looked up before.

use crate::e2e::host::Host;
use crate::e2e::isolate::command;
use crate::e2e::network::{self, ADDRESS_A, ADDRESS_B, Loss};
use crate::e2e::stage::Stage;
use crate::e2e::standin::StandIn;
use crate::e2e::storage::{self, ArrayPlan};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use vmpath_lab::report::{Bound, Truth};

const LOAD: &str = "--sizes 4KiB:4,16KiB:1 --slots 16 --zero 5 --sample-every 100ms";
const UP_MAX: Duration = Duration::from_secs(30);
const SETTLED: Duration = Duration::from_millis(500);
/// A swallowed connection is seen in 0.5 s, and one on a busy machine somewhat later.
const SEEN: Duration = Duration::from_millis(1500);
/// New connections that lead over the dead member are given up and tried again.
const MENDED: Duration = Duration::from_secs(4);
const QUIESCE: Duration = Duration::from_millis(500);

pub(super) fn flow(stage: &mut Stage) -> Result<()> {
    let portals = [("a", ADDRESS_A), ("b", ADDRESS_B)];
    let plan = ArrayPlan { portals: &portals, options: ",latency=2ms", units: &["gold"] };
    let (_storage, _array) = storage::array_with(stage, &plan)?;
    let mut host = Host::start(stage, "flow.toml")?;
    let mut gold = StandIn::start(stage, "gold", LOAD)?;
    host.wait_all_up(stage, UP_MAX)?;
    stage.watch(SETTLED, |_| Ok(()))?;
    let before = flows()?;
    let (dead, alive): (Vec<u16>, Vec<u16>) =
        before.iter().partition(|port| network::over_dead_member(**port));
    if dead.is_empty() || alive.is_empty() {
        bail!("all connections have chosen one member ({before:?}): there is nothing to see");
    }
    let lost_at = network::lose(&[ADDRESS_A], Loss::Member)?;
    stage.watch(SEEN, |_| Ok(()))?;
    let after = flows()?;
    let still = |of: &[u16]| of.iter().filter(|port| after.contains(port)).count() as f64;
    let (cut, kept) = (still(&dead), still(&alive));
    let name = "connections over the dead member that are still there";
    stage.report.check(name, cut, Bound::Equal(0.0), "connections").note = format!("of {}", dead.len());
    let name = "connections over the living member that were cut";
    let gone = alive.len() as f64 - kept;
    stage.report.check(name, gone, Bound::Equal(0.0), "connections").note = format!("of {}", alive.len());
    stage.watch(MENDED, |_| Ok(()))?;
    gold.wait_progress()?;
    let told = |e: &crate::e2e::host::Event| {
        e.at_unix_us >= lost_at && matches!(e.kind.as_str(), "path-down" | "link-down")
    };
    let lost = host.events()?.iter().find(|event| told(event)).map(|event| event.reason.clone());
    stage.report.check_that("the path is not lost", Truth::from(lost.is_none()), lost.unwrap_or_default());
    network::heal()?;
    host.wait_all_up(stage, UP_MAX)?;
    gold.end(QUIESCE)?.check(stage);
    host.finish(stage)
}

/// The local ports of the connections to path a.
fn flows() -> Result<Vec<u16>> {
    let listed = command("ss", &["-Htn", "state", "established", "dst", ADDRESS_A])?;
    let port = |line: &str| -> Result<u16> {
        let local = line.split_whitespace().nth(2).and_then(|at| at.rsplit(':').next());
        local.and_then(|port| port.parse().ok()).with_context(|| format!("no port in {line:?}"))
    };
    listed.lines().map(port).collect()
}
