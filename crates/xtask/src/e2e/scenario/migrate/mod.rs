//! Guests that move to another host, or do not, each for its reason.
//!
//! Two hosts with a daemon each, three members of etcd, one array. Guests verify every block all the way, the array says who wrote, and
//! QEMU says when it stood still. It does not know how a daemon moves a guest.

pub(super) mod loss;
pub(super) mod machines;
pub(super) mod midway;
pub(super) mod operator;
pub(super) mod refused;
pub(super) mod skew;
pub(super) mod takeover;
pub(super) mod three;

use crate::e2e::hosts::journey::Journey;
use crate::e2e::hosts::network::host_name;
use crate::e2e::hosts::{Hosts, Plan, Seat};
use crate::e2e::network::now_unix_us;
use crate::e2e::stage::Stage;
use crate::e2e::vm::Vm;
use anyhow::{Context, Result};
use std::time::Duration;
use vmpath_lab::array::writers::Owned;
use vmpath_lab::report::Truth;

const MEMBERS: usize = 3;
const PLAN: Plan<'_> = Plan {
    hosts: 2,
    members: MEMBERS,
    units: &["gold", "silver"],
    config: "migrate.toml",
    cluster: true,
    // Slow enough that there is always something on its way.
    portals: ",latency=5ms",
};
/// Small requests of 16 threads at a rate that leaves an emulated guest's processor idle most of the time: QEMU was seen to spoil the
/// memory of guests that are moved while they copy it all the time.
const LOAD: &str = "--device /dev/vda --size 32MiB --sizes 4KiB:4,16KiB:2,64KiB:1 --slots 16 --zero 5 --rate 4MiB/s \
                    --sample-every 100ms";
const OPEN: u64 = 16;
const TAKEN_MAX: Duration = Duration::from_secs(30);
/// A host that others have just left, one that has not been heard of again, one that is not done with the move before; etcd, likewise.
const NOT_YET: [&str; 4] =
    ["no host will do", "is heard of", "it comes to h2 already", "etcd does not answer"];
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// One guest at host 1, and all that it needs to go to host 2.
struct Story {
    hosts: Hosts,
    gold: Vm,
}

impl Story {
    fn begin(stage: &mut Stage) -> Result<Self> {
        let hosts = Hosts::start(stage, &PLAN)?;
        let seat = Seat { host: 1, vm: "gold", front_end: stage.front_end };
        let gold = hosts.boot(stage, &[seat], LOAD)?.pop().context("a guest")?;
        Ok(Self { hosts, gold })
    }

    /// The owners were host 1 and these, one after another.
    fn finish(mut self, stage: &mut Stage, others: &[usize]) -> Result<()> {
        self.gold.finish(stage)?;
        let owners = [1].iter().chain(others).map(|host| Owned::sometime(&host_name(*host))).collect();
        self.hosts.check_writers(stage, &[("gold", owners)])?;
        tell_migrations(stage, &self.hosts, PLAN.hosts)?;
        self.hosts.finish(stage)
    }

    /// Asks as an operator would, until a host takes it, and waits for the end. When it began, whether it was done, and what was said.
    ///
    /// What hosts say of themselves is a moment old.
    fn insist(&mut self, stage: &mut Stage, host: usize, words: &[&str]) -> Result<(u64, bool, String)> {
        stage.wait("a host to take the guest", TAKEN_MAX, |stage| {
            let began = now_unix_us();
            let (done, text) = self.ask(stage, host, words)?;
            let is_taken = done || NOT_YET.iter().all(|words| !text.contains(words));
            if !is_taken {
                stage.watch(ASK_AGAIN, |_| Ok(()))?;
            }
            Ok(is_taken.then_some((began, done, text)))
        })
    }

    fn command(&mut self, stage: &mut Stage, journey: &Journey<'_>) -> Result<()> {
        let to = host_name(journey.to);
        let (done, text) = self.ask(stage, journey.from, &["vm", "migrate", journey.vm, "--to", &to])?;
        stage.report.check_that("a move that is asked for begins", Truth::from(done), text);
        Ok(())
    }

    /// Whether a host's daemon does what it is asked for, and its words.
    fn ask(&mut self, stage: &Stage, host: usize, words: &[&str]) -> Result<(bool, String)> {
        let answer = self.hosts.operator(host, words)?;
        let text = [answer.stdout, answer.stderr].concat();
        let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
        stage.say(format!("vmpath {}: {text}", words.join(" ")));
        Ok((answer.status.success(), text))
    }
}

fn gold_to_2(stage: &Stage) -> Journey<'static> {
    Journey { vm: "gold", from: 1, to: 2, front_end: stage.front_end }
}

/// What each daemon says of its moves goes into the report.
fn tell_migrations(stage: &mut Stage, hosts: &Hosts, count: usize) -> Result<()> {
    for number in 1..=count {
        let answer = hosts.operator(number, &["show", "migrations", "-o", "json"])?;
        let told: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        let name = format!("h{number} shows its migrations");
        stage.report.check_that(&name, Truth::from(answer.status.success() && !told.is_null()), "");
        stage.report.attach(&format!("migrations-h{number}"), &told);
    }
    Ok(())
}
