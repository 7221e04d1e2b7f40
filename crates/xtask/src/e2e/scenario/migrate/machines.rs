//! What happens to the two QEMUs of a move: one cannot load what it is sent, or the other is gone in the middle of it.
//!
//! After each, a healthy move shows that nothing of it is left. It does not know what the daemons tell each other.

use super::{LOAD, Story, gold_to_2};
use crate::e2e::hosts::journey::Shape;
use crate::e2e::hosts::launch_command;
use crate::e2e::hosts::network::hurry;
use crate::e2e::network::now_unix_us;
use crate::e2e::stage::Stage;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fs;
use std::time::Duration;
use vmpath_lab::report::Truth;

const GIVEN_BACK_MAX: Duration = Duration::from_secs(20);
/// An owner that nobody needs gives its units up after ten seconds.
const RELEASED_MAX: Duration = Duration::from_secs(25);
/// A device that the guest at the source has, and knows: its state is among the last that is sent.
const DEVICE: &str = "'-serial' 'chardev:agent'";

/// A wrong `launch` is found out when the memory is there and the units have been given over.
pub(in super::super) fn cannot_load(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    let script = launch_command(stage, out.seat());
    let good = fs::read_to_string(&script)?;
    ensure!(good.contains(DEVICE), "the script does not tell the device as it did");
    fs::write(&script, good.replace(DEVICE, ""))?;
    let began = now_unix_us();
    story.command(stage, &out)?;
    let why = out.stays(stage, &mut story.hosts, &mut story.gold, (began, GIVEN_BACK_MAX))?;
    let given_back = why.contains("has given it back");
    stage.report.check_that("what cannot be loaded there is given back", Truth::from(given_back), why);
    out.wait_nothing_there(stage)?;
    drop(arrival);
    story.moves_after_all(stage)
}

/// The guest is gone with it, as if there had been no move; so are the move, and the owner.
pub(in super::super) fn source_gone(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    let began = story.midway(stage, &out)?;
    super::midway::signal_all(stage, out.back().seat(), Signal::KILL)?;
    stage.say("the QEMU at host 1 is killed");
    let Story { mut hosts, gold } = story;
    let why = stage.wait("host 1 to be done with the move", GIVEN_BACK_MAX, |_| {
        let told = hosts.host(1).events()?.into_iter().find(|event| {
            let is_end = event.reason.contains("it stays, and is not moved");
            event.kind == "migration-cancelled" && event.at_unix_us >= began && is_end
        });
        Ok(told.map(|event| event.reason))
    })?;
    let known = why.contains("its hypervisor process has ended");
    stage.report.check_that("a move without a source ends, and it is told why", Truth::from(known), why);
    out.wait_nothing_there(stage)?;
    drop((gold, arrival));
    hurry(out.to)?;
    stage.wait("its unit to be free", RELEASED_MAX, |_| {
        Ok((hosts.owner("san0/gold")?.0 == "nobody").then_some(()))
    })?;

    let gold = hosts.boot(stage, &[out.seat()], LOAD)?.pop().context("a guest")?;
    let mut story = Story { hosts, gold };
    let home = out.back();
    let arrival = story.hosts.expect(stage, home.seat())?;
    let words = ["vm", "migrate", "gold", "--to", "h1", "--wait=30"];
    let (began, done, text) = story.insist(stage, 2, &words)?;
    stage.report.check_that("host 1 takes guests again", Truth::from(done), text);
    home.complete(stage, &mut story.hosts, &mut story.gold, (arrival, began, Shape::Healthy))?;
    story.finish(stage, &[2, 1])
}
