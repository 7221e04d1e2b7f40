//! A target that stalls for two seconds again and again while its network acknowledges is slow, and never lost.
//!
//! Seconds in daily work, two minutes with `--minutes 2`; an hour of it is the simulator's, in virtual time.

use crate::e2e::host::Host;
use crate::e2e::stage::Stage;
use crate::e2e::standin::StandIn;
use crate::e2e::storage::{self, ArrayPlan};
use anyhow::Result;
use std::time::Duration;
use vmpath_lab::report::Bound;

const LOAD: &str = "--sizes 4KiB:4,16KiB:1 --slots 16 --zero 2 --sample-every 100ms";
const STALLS: Duration = Duration::from_secs(20);
const PORTALS: [(&str, &str); 2] = [("a", "127.0.0.2"), ("b", "127.0.0.3")];
const QUIESCE: Duration = Duration::from_secs(5);

pub(super) fn stall(stage: &mut Stage) -> Result<()> {
    let plan = ArrayPlan { portals: &PORTALS, options: ",latency=1ms", units: &["gold"] };
    let (_storage, mut array) = storage::array_with(stage, &plan)?;
    let mut host = Host::start(stage, "one-guest.toml")?;
    let mut gold = StandIn::start(stage, "gold", LOAD)?;
    gold.take_gap()?;

    // With different periods: each alone, and now and then both at once.
    let since = array.fault("a", "stall 2s/4s")?;
    array.fault("b", "stall 2s/5s")?;
    let span = stage.patience(STALLS);
    stage.say(format!("both portals stall for 2 s, every 4 s and every 5 s, for {} s", span.as_secs()));
    let (mut waited, mut gap) = (0.0_f64, 0.0_f64);
    stage.watch(span, |_| {
        host.check_alive()?;
        waited = waited.max(host.path_number("san0/a", "pending_requests")?);
        gap = gap.max(gold.take_gap()?);
        std::thread::sleep(Duration::from_millis(90));
        Ok(())
    })?;
    let completed = gold.wait_progress()?;
    array.clear("all")?;
    let report = &mut stage.report;
    report.check("most requests that waited for a stalled path", waited, Bound::AtLeast(1.0), "requests");
    report.check("longest time in which nothing completed", gap, Bound::AtLeast(1000.0), "ms").note =
        "else nothing has stalled".to_owned();
    report.check("requests completed meanwhile", completed as f64, Bound::AtLeast(1.0), "requests");
    for kind in ["path-down", "link-down", "failed-over"] {
        let seen = host.events()?.iter().filter(|e| e.kind == kind && e.at_unix_us >= since).count();
        let name = format!("{kind} events during {} s of stalls", span.as_secs());
        stage.report.check(&name, seen as f64, Bound::Equal(0.0), "events");
    }
    gold.end(QUIESCE)?.check(stage);
    host.finish(stage)
}
