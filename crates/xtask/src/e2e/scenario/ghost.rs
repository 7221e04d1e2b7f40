//! Ghost writes: what a lost path carried is executed late, after the same blocks were written again over another.
//!
//! Each story is played twice: vmpath must keep every block; then the same daemon with its protection taken out by a deliberate
//! fault must be seen to corrupt some, or the story proves nothing. Rejected: counting quarantines, which says that
//! something was done and not that it was needed.

use crate::e2e::host::Host;
use crate::e2e::stage::Stage;
use crate::e2e::standin::{Seen, StandIn};
use crate::e2e::storage::{self, ArrayPlan};
use crate::e2e::vm;
use anyhow::{Context, Result};
use std::time::Duration;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::guest::LoadEnd;
use vmpath_lab::report::Bound;

const PORTALS: [(&str, &str); 2] = [("a", "127.0.0.2"), ("b", "127.0.0.3")];
/// Small enough that each block is written again and read again before and after a ghost.
const UNITS: [&str; 2] = ["gold=2MiB", "silver=1MiB"];
const GUEST_LOAD: &str =
    "--device /dev/vda --size 1MiB --sizes 4KiB:4,16KiB:1 --slots 16 --zero 2 --sample-every 100ms";
const LOAD: &str = "--sizes 4KiB:4,16KiB:1 --slots 16 --zero 2 --sample-every 100ms";
const GHOST: &str = "ghost 2000";
/// All ghosts have been executed, and the quiesce of `ghost.toml` is over.
const GHOSTS_GONE: Duration = Duration::from_millis(2600);
const ROUNDS: usize = 4;
/// A naive build has been seen to corrupt in the first round; a busy machine may spare it some.
const NAIVE_ROUNDS: usize = 10;
/// Writes are in the array's hands.
const FILLED: Duration = Duration::from_millis(300);
/// From the loss to the kill: far less than until the ghosts.
const BEFORE_THE_KILL: Duration = Duration::from_millis(100);
const UP_MAX: Duration = Duration::from_secs(60);

/// What goes wrong in a round, once writes sit in the array.
type Disaster = fn(&mut Stage, &mut Host, &mut ArrayControl) -> Result<()>;

pub(super) fn ghost(stage: &mut Stage) -> Result<()> {
    twice(stage, "no-quarantine", |stage, _, array| lose_a(stage, array))
}

pub(super) fn ghost_crash(stage: &mut Stage) -> Result<()> {
    twice(stage, "record-forgotten", |stage, host, array| {
        lose_a(stage, array)?;
        stage.watch(BEFORE_THE_KILL, |_| Ok(()))?;
        host.crash(stage)?;
        stage.say("the daemon is killed before the fence, and started again");
        host.wait_api(stage)
    })
}

fn lose_a(stage: &mut Stage, array: &mut ArrayControl) -> Result<()> {
    array.fault("a", "reset refuse")?;
    stage.say("path a is reset; the array still has its writes");
    Ok(())
}

fn twice(stage: &mut Stage, mutant: &'static str, disaster: Disaster) -> Result<()> {
    stage.act("vmpath", None)?;
    let (guest, stand_in, executed) = play(stage, ROUNDS, disaster)?;
    stage.report.check("ghosts executed", executed as f64, Bound::AtLeast(ROUNDS as f64), "writes");
    vm::check(stage, "gold", &guest);
    stand_in.check(stage);

    stage.act("naive", Some(mutant))?;
    stage.say(format!("the same once more, by a daemon with the fault {mutant}"));
    let (guest, stand_in, executed) = play(stage, NAIVE_ROUNDS, disaster)?;
    stage.report.check("naive build: ghosts executed", executed as f64, Bound::AtLeast(1.0), "writes");
    let wrong = guest.report["mismatches"].as_u64().map(|n| n as f64);
    let first = guest.report["mismatch_details"][0].to_string();
    stage
        .report
        .check("naive build: wrong blocks that the real guest read", wrong, Bound::AtLeast(1.0), "blocks")
        .note = first;
    let wrong = stand_in.wrong_blocks() as f64;
    stage
        .report
        .check("naive build: wrong blocks that the stand-in read", wrong, Bound::AtLeast(1.0), "blocks")
        .note = stand_in.first_wrong();
    Ok(())
}

/// Rounds of the disaster until there were enough, or both guests have read wrong blocks. What they saw, and how many ghosts
/// there were.
fn play(stage: &mut Stage, rounds: usize, disaster: Disaster) -> Result<(LoadEnd, Seen, u64)> {
    let plan = ArrayPlan { portals: &PORTALS, options: ",latency=1ms", units: &UNITS };
    let (_storage, mut array) = storage::array_with(stage, &plan)?;
    let mut host = Host::start(stage, "ghost.toml")?;
    let [mut guest] = vm::boot_under(stage, ["gold"], GUEST_LOAD)?;
    let mut stand_in = StandIn::start(stage, "silver", LOAD)?;
    for round in 1..=rounds {
        array.fault("all", GHOST)?;
        stage.watch(FILLED, |_| Ok(()))?;
        disaster(stage, &mut host, &mut array)?;
        stage.watch(GHOSTS_GONE, |_| host.check_alive())?;
        guest.wait_progress(stage)?;
        stand_in.wait_progress()?;
        array.clear("all")?;
        host.wait_all_up(stage, UP_MAX)?;
        let wrong = (wrong_so_far(&guest.sample()?), wrong_so_far(&stand_in.sample()?));
        stage.say(format!("round {round}: {} ghosts so far, wrong blocks {wrong:?}", executed(&mut array)?));
        if wrong.0 > 0 && wrong.1 > 0 {
            break;
        }
    }
    let ends = (guest.end()?, stand_in.end(Duration::ZERO)?);
    let ghosts = executed(&mut array)?;
    host.finish(stage)?;
    Ok((ends.0, ends.1, ghosts))
}

fn wrong_so_far(sample: &serde_json::Value) -> u64 {
    sample["mismatches"].as_u64().unwrap_or(0)
}

fn executed(array: &mut ArrayControl) -> Result<u64> {
    let status = array.status()?;
    let portals = status["portals"].as_array().context("the array tells of no portals")?;
    Ok(portals.iter().filter_map(|portal| portal["ghosts_executed"].as_u64()).sum())
}
