//! An operator moves a healthy guest under load, and back: how long it takes.

use super::{Story, gold_to_2};
use crate::e2e::hosts::journey::Shape;
use crate::e2e::network::now_unix_us;
use crate::e2e::stage::Stage;
use anyhow::{Result, ensure};
use vmpath_lab::report::{Bound, Truth};

/// The whole command, with its own pauses between looks.
const COMMAND_S: f64 = 4.0;

pub(in super::super) fn by_command(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    for host in [1, 2] {
        // It goes home when it is told to.
        story.hosts.host(host).edit("return = true", "return = false")?;
        let (done, text) = story.ask(stage, host, &["reload"])?;
        ensure!(done, "the configuration is not taken: {text}");
    }
    let out = gold_to_2(stage);
    let ways: [(_, &[&str]); 2] = [
        (out, &["vm", "migrate", "gold", "--to", "h2", "--wait=30"]),
        (out.back(), &["vm", "return", "gold", "--wait=30"]),
    ];
    for (way, words) in ways {
        let arrival = story.hosts.expect(stage, way.seat())?;
        story.gold.take_gap()?;
        let (began, done, text) = story.insist(stage, way.from, words)?;
        let took = now_unix_us().saturating_sub(began) as f64 / 1e6;
        let name = format!("vmpath {}", words.join(" "));
        stage.report.check_that(&name, Truth::from(done), text);
        stage.report.check(&format!("{name} takes"), took, Bound::AtMost(COMMAND_S), "s");
        way.complete(stage, &mut story.hosts, &mut story.gold, (arrival, began, Shape::Timed))?;
    }
    story.finish(stage, &[2, 1])
}
