//! Two hosts whose clocks differ by minutes. Guests move all the same: no time goes from one host to the other, only durations. What
//! minds is a certificate whose dates fit one clock and not the other.
//!
//! It does not know which of the two is right, and neither do they.

use super::{Story, gold_to_2};
use crate::e2e::hosts::journey::Shape;
use crate::e2e::stage::Stage;
use anyhow::Result;
use std::time::Duration;
use vmpath_lab::certs::Validity;
use vmpath_lab::report::Truth;

const AHEAD: &str = "+10m";
/// By then a host that has begun again has told of itself, and been told of the others.
const KNOWN: Duration = Duration::from_secs(2);

pub(in super::super) fn skew(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let out = gold_to_2(stage);
    let arrival = story.hosts.expect(stage, out.seat())?;
    story.hosts.host(1).set_clock(AHEAD)?;
    story.hosts.authority.issue("h1", Validity::Soon)?;
    story.hosts.host(1).restart(stage)?;
    story.hosts.host(1).wait_ready(stage)?;
    stage.say("host 1 is ten minutes ahead, and so is its certificate by five");
    stage.watch(KNOWN, |_| Ok(()))?;
    story.gold.take_gap()?;
    story.is_refused(
        stage,
        "a certificate that is not good yet by the other's clock",
        "h2",
        "clocks is wrong",
    )?;

    story.hosts.authority.issue("h1", Validity::Now)?;
    story.hosts.host(1).restart(stage)?;
    story.hosts.host(1).wait_ready(stage)?;
    stage.watch(KNOWN, |_| Ok(()))?;
    story.gold.take_gap()?;
    let words = ["vm", "migrate", "gold", "--to", "h2", "--wait=30"];
    let (began, done, text) = story.insist(stage, 1, &words)?;
    stage.report.check_that("clocks that differ keep nobody from moving", Truth::from(done), text);
    let log = story.hosts.host(1).log();
    let told = log.lines().find(|line| line.contains("the clock of h2 says"));
    let name = "the log tells both clocks";
    stage.report.check_that(name, Truth::from(told.is_some()), told.unwrap_or_default());
    out.complete(stage, &mut story.hosts, &mut story.gold, (arrival, began, Shape::Hurt))?;
    story.finish(stage, &[2])
}
