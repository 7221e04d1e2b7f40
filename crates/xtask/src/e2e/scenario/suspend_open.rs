//! Nothing answers any more, and the guest is stopped with all of its requests open.

use crate::e2e::host::Host;
use crate::e2e::stage::Stage;
use crate::e2e::storage;
use crate::e2e::vm::{self, Vm};
use anyhow::Result;
use std::time::{Duration, Instant};
use vmpath_lab::report::{Bound, Truth};

const OPEN: u64 = 32;
/// A thread for each request, as fast as they can.
const LOAD: &str = "--device /dev/vda --size 32MiB --sizes 4KiB:4,16KiB:2,64KiB:1 --slots 32 --zero 5 --flush-every 0 \
                    --sample-every 100ms";
const FULL_MAX: Duration = Duration::from_secs(10);
/// QEMU's main loop waits for the back end.
const STOP_MAX_MS: f64 = 100.0;
const UP_MAX: Duration = Duration::from_secs(30);
/// Stopped, with the paths back: results come in that must wait for the ring.
const PARKED: Duration = Duration::from_secs(3);
const DRAIN_MAX: Duration = Duration::from_secs(20);

pub(super) fn suspend_open(stage: &mut Stage) -> Result<()> {
    let mut storage = storage::nbdkit(stage, &["gold"])?;
    let mut host = Host::start(stage, "suspend-open.toml")?;
    let [mut gold] = vm::boot_under(stage, ["gold"], LOAD)?;

    storage.kill();
    stage.say("the storage is dead");
    let open = wait_full(stage, &mut gold)?;
    let stop = gold.stop()?;
    stage.report.check("open in the guest at the stop", open as f64, Bound::Equal(OPEN as f64), "requests");
    milliseconds(stage, "QMP stop", stop);
    let state = gold.run_state()?;
    stage.report.check_that("the guest is stopped", Truth::from(state == "paused"), state);

    storage = storage::nbdkit_again(stage)?;
    host.wait_all_up(stage, UP_MAX)?;
    stage.watch(PARKED, |_| host.check_alive())?;
    let state = gold.run_state()?;
    stage.report.check_that("and stays so after the repair", Truth::from(state == "paused"), state);

    let before = gold.sample()?["requests"].as_u64().unwrap_or(0);
    let cont = gold.cont()?;
    milliseconds(stage, "QMP cont", cont);
    let began = Instant::now();
    let completed = stage.wait("the open requests to complete", DRAIN_MAX, |_| {
        let completed = gold.sample()?["requests"].as_u64().unwrap_or(0) - before;
        Ok((completed >= OPEN).then_some(completed))
    })?;
    stage.say(format!("{completed} requests completed within {:.2} s", began.elapsed().as_secs_f64()));
    stage.report.check(
        "completed after the cont, at least those that were open",
        completed as f64,
        Bound::AtLeast(OPEN as f64),
        "requests",
    );
    gold.finish(stage)?;
    host.finish(stage)?;
    storage.check_alive()
}

/// Waits until every thread of the load waits for the disk, twice in a row.
fn wait_full(stage: &mut Stage, gold: &mut Vm) -> Result<u64> {
    let mut last = None;
    stage.wait("32 requests to be open", FULL_MAX, |_| {
        let sample = gold.sample()?;
        let now = (sample["requests"].as_u64(), sample["at_unix_us"].as_u64());
        let open = sample["open"].as_u64().unwrap_or(0);
        let still = last.is_some_and(|(requests, at)| requests == now.0 && at != now.1);
        if last.is_none_or(|(_, at)| at != now.1) {
            last = Some(now);
        }
        Ok((open >= OPEN && still).then_some(open))
    })
}

fn milliseconds(stage: &mut Stage, what: &str, took: Duration) {
    let ms = took.as_secs_f64() * 1e3;
    stage.say(format!("{what} took {ms:.1} ms"));
    stage.report.check(&format!("{what} returns"), ms, Bound::AtMost(STOP_MAX_MS), "ms");
}
