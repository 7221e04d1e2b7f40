//! A cable is pulled under load: this host knows of it at once, and so do its VMs' requests.

use super::loss::{failed_over, repaired};
use crate::e2e::cables::{Pulled, Storage};
use crate::e2e::host::{Host, Wanted};
use crate::e2e::stage::Stage;
use crate::e2e::vm;
use anyhow::Result;
use std::time::Duration;
use vmpath_lab::report::{Bound, Truth};

const BOUND_MS: f64 = 200.0;
/// Most of it is the identity check, by a storage that takes 10 ms for each request and has others to do.
const RETURNED_MS: f64 = 2000.0;
const PULLED_FOR: Duration = Duration::from_millis(2500);
const RETURN_MAX: Duration = Duration::from_secs(10);

pub(super) fn link_down(stage: &mut Stage) -> Result<()> {
    let storage = Storage::start(stage, &["gold"])?;
    let mut host = Host::start(stage, "link-down.toml")?;
    let [mut gold] = vm::boot(stage, ["gold"])?;
    for how in [Pulled::Off, Pulled::Carrier] {
        let pulled_at = storage.pull(how)?;
        stage.say(format!("path a's cable is pulled: {how:?}"));
        failed_over(stage, &mut host, pulled_at, BOUND_MS)?;
        let told =
            |e: &crate::e2e::host::Event| e.at_unix_us >= pulled_at && e.reason.contains("near-a is down");
        let known = host.events()?.iter().any(told);
        stage.report.check_that("the journal names the interface", Truth::from(known), format!("{how:?}"));
        stage.watch(PULLED_FOR, |_| Ok(()))?;
        let plugged_at = storage.plug(how)?;
        let wanted =
            Wanted { kind: "path-up", subject: "san0/a", since_unix_us: plugged_at, bound: RETURN_MAX };
        let up = host.wait_event(stage, &wanted)?;
        let took = up.at_unix_us.saturating_sub(plugged_at) as f64 / 1e3;
        let name = "from the cable's return to the path connected";
        stage.report.check(name, took, Bound::AtMost(RETURNED_MS), "ms").note = format!("{how:?}");
        repaired(stage, &mut host, pulled_at)?;
        gold.wait_progress(stage)?;
    }
    spare(stage, &mut host, &storage)?;
    gold.finish(stage)?;
    host.finish(stage)
}

/// What no path uses is nobody's loss.
fn spare(stage: &mut Stage, host: &mut Host, storage: &Storage) -> Result<()> {
    let since = crate::e2e::network::now_unix_us();
    for word in ["down", "up"] {
        storage.switch_spare(word)?;
        stage.watch(Duration::from_millis(500), |_| Ok(()))?;
    }
    let lost = |e: &&crate::e2e::host::Event| {
        e.at_unix_us >= since && matches!(e.kind.as_str(), "path-down" | "link-down" | "failed-over")
    };
    let seen = host.events()?.iter().filter(lost).count();
    let name = "paths lost with an interface that none uses";
    stage.report.check(name, seen as f64, Bound::Equal(0.0), "events");
    Ok(())
}
