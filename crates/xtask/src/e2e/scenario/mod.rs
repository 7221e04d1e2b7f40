//! The scenarios, by name. Each is one story: what is set up, what goes wrong, what must have been seen.

mod input;
mod loss;
mod policy;
mod sick;
mod tools;

use super::stage::Stage;
use anyhow::Result;
use std::time::Duration;

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) bound: Duration,
    pub(super) run: fn(&mut Stage) -> Result<()>,
}

const fn story(name: &'static str, about: &'static str, run: fn(&mut Stage) -> Result<()>) -> Scenario {
    Scenario { name, about, bound: Duration::from_secs(120), run }
}

pub(super) const ALL: &[Scenario] = &[
    story("reset", "a path is reset under load and refuses until the repair", loss::reset),
    story(
        "blackhole",
        "the network swallows a path, both ways, healed before the quiesce ends",
        loss::blackhole,
    ),
    story("blackhole-replies", "the same, but requests still arrive", loss::blackhole_replies),
    story("hang", "a dead controller behind a live network", loss::hang),
    story(
        "slow-not-dead",
        "a target that stalls for 2 s again and again is not declared dead",
        loss::slow_not_dead,
    ),
    story("no-path", "all paths lost: held, suspended, resumed by the repair", policy::no_path),
    story("shed", "the reservations no longer fit: the lower guest leaves until the repair", policy::shed),
    story(
        "shed-failback",
        "the same until failback: the repair alone does not resume it",
        policy::shed_failback,
    ),
    story("suspend", "on_path_loss = suspend: not routed, though the other path is up", policy::suspend),
    story("bad-input", "wrong configurations, clients and targets", input::bad_input),
    Scenario {
        bound: Duration::from_secs(30),
        ..story(
            "sick-path",
            "paths that are taken out, answer errors or only shake hands; rash clients",
            sick::sick_path,
        )
    },
    story("tools", "other NBD clients on the front ends", tools::tools),
];
