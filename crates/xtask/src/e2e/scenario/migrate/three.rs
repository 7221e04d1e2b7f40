//! Three hosts, two of which could have the guest that must make room: the better one gets it, and when that one fails, too, the other.
//!
//! It does not know how hosts are compared: only which of two has twice as much left, and that its reason must name both.

use super::{LOAD, PLAN, tell_migrations};
use crate::e2e::hosts::journey::{Journey, Shape};
use crate::e2e::hosts::network::{Cable, Cut, Side, cut, host_name, hurry, slow_down};
use crate::e2e::hosts::{Hosts, Plan, Seat};
use crate::e2e::stage::Stage;
use crate::e2e::vm::Vm;
use anyhow::{Context, Result};
use std::time::Duration;
use vmpath_lab::array::writers::Owned;
use vmpath_lab::report::{Bound, Truth};

const THREE: Plan<'_> = Plan { hosts: 3, config: "three.toml", ..PLAN };
const SEEN_MAX: Duration = Duration::from_secs(20);
/// What a host says of itself is at most a second old, and an election's time is in it.
const KNOWN: Duration = Duration::from_secs(2);

pub(in super::super) fn better_then_other(stage: &mut Stage) -> Result<()> {
    let mut hosts = Hosts::start(stage, &THREE)?;
    cut(Cable::San(3, Side::A), Cut::Carrier)?;
    let front_end = stage.front_end;
    let seats = ["gold", "silver"].map(|vm| Seat { host: 1, vm, front_end });
    let mut guests = hosts.boot(stage, &seats, LOAD)?;
    let (mut silver, mut gold) = (guests.pop().context("silver")?, guests.pop().context("gold")?);
    hosts.host(3).wait_path(stage, "san0/a", "down", SEEN_MAX)?;
    stage.watch(KNOWN, |_| Ok(()))?;
    let began = shed(stage, &mut hosts, (&mut gold, &mut silver))?;

    let on = Journey { vm: "silver", from: 2, to: 3, front_end };
    let arrival = hosts.expect(stage, on.seat())?;
    let lost_at = cut(Cable::San(2, Side::A), Cut::Carrier)?.min(cut(Cable::San(2, Side::B), Cut::Carrier)?);
    stage.say("both paths of host 2 are cut");
    on.complete(stage, &mut hosts, &mut silver, (arrival, lost_at, Shape::Hurt))?;
    stays_all_the_way(stage, &mut hosts, &mut gold, began)?;
    for guest in [gold, silver] {
        guest.finish(stage)?;
    }
    let owners = |hosts: &[usize]| hosts.iter().map(|host| Owned::sometime(&host_name(*host))).collect();
    hosts.check_writers(stage, &[("gold", owners(&[1])), ("silver", owners(&[1, 2, 3]))])?;
    tell_migrations(stage, &hosts, THREE.hosts)?;
    hosts.finish(stage)
}

/// A path of host 1 is lost, and what is left carries one of the two. When that was.
fn shed(stage: &mut Stage, hosts: &mut Hosts, (gold, silver): (&mut Vm, &mut Vm)) -> Result<u64> {
    let front_end = stage.front_end;
    let out = Journey { vm: "silver", from: 1, to: 2, front_end };
    let arrival = hosts.expect(stage, out.seat())?;
    // They could as well.
    let not_there = hosts.expect(stage, Seat { host: 3, ..out.seat() })?;
    let not_it = hosts.expect(stage, Seat { vm: "gold", ..out.seat() })?;
    slow_down(out.to)?;
    let lost_at = cut(Cable::San(1, Side::A), Cut::Carrier)?;
    stage.say("path a of host 1 is cut");
    hosts.host(1).wait_vm(stage, "silver", "migrating", SEEN_MAX)?;
    let told = hosts.operator(1, &["explain", "vm", "silver"])?;
    let told = String::from_utf8_lossy(&told.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    let is_told =
        ["shedding", "h2 is the best of 2 hosts", "left at h3"].iter().all(|part| told.contains(part));
    let name = "while it moves, `vmpath explain vm` says why, and why there";
    stage.report.check_that(name, Truth::from(is_told), told);
    hurry(out.to)?;
    out.complete(stage, hosts, silver, (arrival, lost_at, Shape::Hurt))?;
    drop((not_there, not_it));
    stays_all_the_way(stage, hosts, gold, lost_at)?;
    Ok(lost_at)
}

/// The higher guest does not leave, and neither is suspended by anybody.
fn stays_all_the_way(stage: &mut Stage, hosts: &mut Hosts, gold: &mut Vm, since: u64) -> Result<()> {
    gold.wait_progress(stage)?;
    let stays = hosts.host(1).vm_state("gold")? == "running" && gold.run_state()? == "running";
    stage.report.check_that("the higher guest stays, and goes on", Truth::from(stays), "");
    let mut suspended = Vec::new();
    for host in 1..=THREE.hosts {
        let told = hosts.host(host).events()?.into_iter();
        let told = told.filter(|e| e.at_unix_us >= since && e.kind.starts_with("vm-suspend"));
        suspended.extend(told.map(|e| format!("h{host}: {} {}: {}", e.kind, e.subject, e.reason)));
    }
    let name = "nobody is suspended: whoever must make room moves";
    stage.report.check(name, suspended.len() as f64, Bound::Equal(0.0), "").note = suspended.join("; ");
    Ok(())
}
