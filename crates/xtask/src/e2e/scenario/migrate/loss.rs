//! Paths are lost: who moves, who stays, and who comes back.

use super::{LOAD, OPEN, PLAN, Story, gold_to_2, tell_migrations};
use crate::e2e::host::Wanted;
use crate::e2e::hosts::journey::{Journey, Shape};
use crate::e2e::hosts::network::{Cable, Cut, Side, cut, host_name, mend};
use crate::e2e::hosts::{Hosts, Seat};
use crate::e2e::network::now_unix_us;
use crate::e2e::stage::Stage;
use crate::e2e::vm::Vm;
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;
use vmpath_lab::array::writers::Owned;
use vmpath_lab::guest::FrontEnd;
use vmpath_lab::report::{Bound, Truth};

const SEEN_MAX: Duration = Duration::from_secs(20);
/// From the loss of all paths: seeing it, and deciding.
const DECIDED_MS: f64 = 2500.0;
/// A dead target behind a live network is seen after 5 s, and held for 5 s more.
const SUSPENDED_MAX: Duration = Duration::from_secs(25);
const REPAIR_MAX: Duration = Duration::from_secs(30);
/// In which nobody may move.
const STAYS: Duration = Duration::from_secs(3);

/// Cables pulled, one of each host's two at most.
pub(in super::super) fn one_path(stage: &mut Stage) -> Result<()> {
    let mut hosts = Hosts::start(stage, &PLAN)?;
    let front_end = stage.front_end;
    let seats = ["gold", "silver"].map(|vm| Seat { host: 1, vm, front_end });
    let mut guests = hosts.boot(stage, &seats, LOAD)?;
    let (mut silver, mut gold) = (guests.pop().context("silver")?, guests.pop().context("gold")?);
    let out = Journey { vm: "silver", from: 1, to: 2, front_end };
    let arrival = hosts.expect(stage, out.seat())?;
    // It could go as well.
    let gold_could = hosts.expect(stage, gold_to_2(stage).seat())?;
    let lost_at = cut(Cable::San(1, Side::A), Cut::Carrier)?;
    stage.say("path a of host 1 is cut");
    out.complete(stage, &mut hosts, &mut silver, (arrival, lost_at, Shape::Hurt))?;
    decided(stage, &mut hosts, "silver", lost_at)?;
    higher_stays(stage, &mut hosts, &mut gold, lost_at)?;

    let home = hosts.expect(stage, out.back().seat())?;
    let mended_at = mend(Cable::San(1, Side::A), Cut::Carrier)?;
    stage.say("path a of host 1 is mended");
    out.back().complete(stage, &mut hosts, &mut silver, (home, mended_at, Shape::Hurt))?;
    higher_stays(stage, &mut hosts, &mut gold, lost_at)?;
    drop(gold_could);
    for guest in [gold, silver] {
        guest.finish(stage)?;
    }
    let owners = |hosts: &[usize]| hosts.iter().map(|host| Owned::sometime(&host_name(*host))).collect();
    hosts.check_writers(stage, &[("gold", owners(&[1])), ("silver", owners(&[1, 2, 1]))])?;
    tell_migrations(stage, &hosts, PLAN.hosts)?;
    hosts.finish(stage)
}

fn decided(stage: &mut Stage, hosts: &mut Hosts, vm: &str, lost_at: u64) -> Result<()> {
    let wanted = Wanted { kind: "vm-migrating", subject: vm, since_unix_us: lost_at, bound: SEEN_MAX };
    let begun = hosts.host(1).wait_event(stage, &wanted)?;
    let took = begun.at_unix_us.saturating_sub(lost_at) as f64 / 1e3;
    let name = "from the loss to the decision to move";
    stage.report.check(name, took, Bound::AtMost(DECIDED_MS), "ms").note = begun.reason;
    Ok(())
}

fn higher_stays(stage: &mut Stage, hosts: &mut Hosts, gold: &mut Vm, lost_at: u64) -> Result<()> {
    gold.wait_progress(stage)?;
    let stays = hosts.host(1).vm_state("gold")? == "running"
        && gold.run_state()? == "running"
        && hosts.host(1).find("vm-migrating", "gold", lost_at)?.is_none();
    stage.report.check_that("the higher guest stays, and goes on", Truth::from(stays), "");
    Ok(())
}

/// Writes hang on the wire when nothing leads to the array any more.
pub(in super::super) fn no_path(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let mut arrival = Some(story.hosts.expect(stage, out.seat())?);
    let mut lost_at = u64::MAX;
    for side in Side::BOTH {
        lost_at = lost_at.min(cut(Cable::San(1, side), Cut::Blackhole)?);
    }
    stage.say("both paths of host 1 are swallowed");
    match stage.front_end {
        FrontEnd::VhostUser => {
            let mut open = 0;
            stage.wait("the guest to stand still", SEEN_MAX, |_| {
                // QEMU here is ended when everything is there.
                let (Ok(sample), Ok(seen)) =
                    (story.gold.sample(), story.gold.qmp("query-migrate", &Value::Null))
                else {
                    return Ok(Some(()));
                };
                open = open.max(sample["open"].as_u64().unwrap_or(0));
                Ok((seen["status"] == "completed").then_some(()))
            })?;
            let name = "requests open in the guest when it moves";
            stage.report.check(name, open as f64, Bound::AtLeast(OPEN as f64), "requests");
            let arrival = arrival.take().context("expected")?;
            out.complete(stage, &mut story.hosts, &mut story.gold, (arrival, lost_at, Shape::Hurt))?;
            decided(stage, &mut story.hosts, "gold", lost_at)?;
        }
        FrontEnd::Nbd => {
            story.hosts.host(1).wait_vm(stage, "gold", "suspended", SUSPENDED_MAX)?;
            let events = story.hosts.host(1).events()?;
            let mut whys = events.into_iter().filter(|e| e.at_unix_us >= lost_at && e.subject == "gold");
            let why = whys.find(|e| e.reason.contains("QEMU flushes")).map(|e| e.reason);
            let name = "an NBD guest with requests open is not moved, and it is told why";
            stage.report.check_that(name, Truth::from(why.is_some()), why.unwrap_or_default());
            suspended_stays(stage, &mut story, &out)?;
        }
    }
    for side in Side::BOTH {
        mend(Cable::San(1, side), Cut::Blackhole)?;
    }
    match stage.front_end {
        FrontEnd::VhostUser => story.finish(stage, &[2]),
        FrontEnd::Nbd => {
            story.hosts.host(1).wait_vm(stage, "gold", "running", REPAIR_MAX)?;
            story.gold.wait_progress(stage)?;
            drop(arrival);
            story.finish(stage, &[])
        }
    }
}

/// QEMU flushes an NBD disk before it lets it go, which no path carries: so a guest like that stays, even if it is asked for.
fn suspended_stays(stage: &mut Stage, story: &mut Story, out: &Journey<'_>) -> Result<()> {
    let words = ["vm", "migrate", "gold", "--to", "h2", "--wait=30"];
    let (done, text) = story.ask(stage, out.from, &words)?;
    let name = "an NBD guest without a path stays also when it is suspended";
    stage.report.check_that(name, Truth::from(!done), text);
    let state = story.hosts.host(1).vm_state("gold")?;
    stage.report.check_that("and it stays suspended", Truth::from(state == "suspended"), state);
    out.wait_nothing_there(stage)
}

/// The array's network lives, so every host takes its paths for good until it tries them.
pub(in super::super) fn array_fault(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let arrival = story.hosts.expect(stage, gold_to_2(stage).seat())?;
    let lost_at = story.hosts.array.fault("all", "hang")?;
    stage.say("the array answers nobody");
    story.hosts.host(1).wait_vm(stage, "gold", "suspended", SUSPENDED_MAX)?;
    stage.watch(STAYS, |_| Ok(()))?;
    let moved = now_unix_us();
    let sent = story.gold.qmp("query-migrate", &Value::Null)?;
    let note = format!("QEMU says {sent}");
    stage.report.check_that("nothing of the guest is sent", Truth::from(sent["status"].is_null()), note);
    let left = story.hosts.host(1).find("vm-migrated", "gold", lost_at)?.is_some();
    let there = gold_to_2(stage).seat().hypervisors(stage)?.len();
    let name = "nobody moves when the array fails";
    stage.report.check_that(name, Truth::from(!left && there == 0), format!("{there} QEMU at h2"));
    let told = story.hosts.host(1).events()?.into_iter().rfind(|event| {
        event.subject == "gold" && event.at_unix_us <= moved && event.kind == "migration-cancelled"
    });
    let why = told.map(|event| event.reason).unwrap_or_default();
    stage.report.check_that("it is told why", Truth::from(!why.is_empty()), why);
    story.hosts.array.clear("all")?;
    stage.say("the array answers again");
    story.hosts.host(1).wait_vm(stage, "gold", "running", REPAIR_MAX)?;
    story.gold.wait_progress(stage)?;
    drop(arrival);
    story.finish(stage, &[])
}
