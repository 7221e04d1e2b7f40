//! What comes back is not what went: another unit under the same name, another size, a controller without its cache.
//!
//! A wrong unit is refused while a path that is up says what is right, and a VM without any path is not resumed onto a unit
//! of another size, nor onto one with other content where the guest has not written since. It does not look at a daemon that
//! has only just started: that one remembers nothing.

use crate::e2e::host::{Host, Wanted};
use crate::e2e::stage::Stage;
use crate::e2e::standin::StandIn;
use crate::e2e::storage::{self, ArrayPlan};
use anyhow::{Context, Result};
use std::time::Duration;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::report::{Bound, Truth};

const LOAD: &str = "--sizes 4KiB:4,16KiB:1 --slots 16 --zero 2 --flush-every 16 --sample-every 100ms";
const SEEN_MAX: Duration = Duration::from_secs(10);
const UP_MAX: Duration = Duration::from_secs(30);
/// Longer than any repair takes to be acted on.
const STAYS: Duration = Duration::from_secs(4);
/// As `LOAD`, and slow enough that most places stay for seconds what they were read as.
const GENTLE_LOAD: &str =
    "--sizes 4KiB:4,16KiB:1 --slots 16 --zero 2 --flush-every 16 --sample-every 100ms --rate 4MiB/s";
/// So many places are known again, of 40.
const REMEMBERED_LEAST: u64 = 8;
const REMEMBERED_MAX: Duration = Duration::from_secs(30);
/// As in the configurations.
const QUIESCE: Duration = Duration::from_millis(500);
const REFUSED: &str = "not this unit";
const CACHES_LOST: usize = 4;
/// Requests are on all paths.
const SETTLED: Duration = Duration::from_millis(500);

pub(super) fn identity(stage: &mut Stage) -> Result<()> {
    let (_storage, mut array) = storage::array(stage, &["gold", "another"])?;
    let mut host = Host::start(stage, "identity.toml")?;
    let mut gold = StandIn::start(stage, "gold", GENTLE_LOAD)?;
    for fault in ["reset other-unit", "reset announce-size 32MiB"] {
        one_path(stage, &mut host, &mut array, fault)?;
        gold.wait_progress()?;
    }
    for fault in ["reset announce-size 32MiB", "reset other-unit"] {
        let places = stage.wait("places to be remembered", REMEMBERED_MAX, |_| {
            let places = host.remembered_places("san0/gold")?;
            Ok((places >= REMEMBERED_LEAST).then_some(places))
        })?;
        stage.say(format!("what {places} places of the unit hold is remembered"));
        all_paths(stage, &mut host, &mut array, fault)?;
        gold.wait_progress()?;
    }
    gold.end(QUIESCE)?.check(stage);
    host.finish(stage)
}

/// Path a comes back as something else: it stays out, for that reason, and nobody notices.
fn one_path(stage: &mut Stage, host: &mut Host, array: &mut ArrayControl, fault: &str) -> Result<()> {
    let since_unix_us = array.fault("a", fault)?;
    stage.say(format!("portal a: {fault}"));
    let wanted = Wanted { kind: "path-down", subject: "san0/a", since_unix_us, bound: SEEN_MAX };
    host.wait_event(stage, &wanted)?;
    refused(stage, host, "san0/a", fault)?;
    let mut stayed = true;
    stage.watch(STAYS / 2, |_| {
        stayed &= host.path("san0/a")?["health"] != "up" && host.path("san0/b")?["health"] == "up";
        Ok(())
    })?;
    stage.report.check_that(&format!("{fault}: it stays out, the other path up"), Truth::from(stayed), "");
    array.clear("a")?;
    host.wait_all_up(stage, UP_MAX)
}

/// The reason may first be what broke the connection; it is what keeps the path out that must be told.
fn refused(stage: &mut Stage, host: &mut Host, path: &str, fault: &str) -> Result<()> {
    let mut last = String::new();
    let found = stage.wait("the reason", SEEN_MAX, |_| {
        last = host.path(path)?["reason"].as_str().unwrap_or_default().to_owned();
        Ok(last.contains(REFUSED).then_some(()))
    });
    let name = format!("{fault}: {path} is refused for that reason");
    stage.report.check_that(&name, Truth::from(found.is_ok()), last);
    Ok(())
}

/// All paths come back with something else: nothing is up to compare with.
fn all_paths(stage: &mut Stage, host: &mut Host, array: &mut ArrayControl, fault: &str) -> Result<()> {
    let since_unix_us = array.fault("all", fault)?;
    stage.say(format!("both portals: {fault}"));
    host.wait_vm(stage, "gold", "suspended", SEEN_MAX)?;
    for path in ["san0/a", "san0/b"] {
        refused(stage, host, path, &format!("both paths, {fault}"))?;
    }
    let mut stayed = true;
    stage.watch(STAYS, |_| {
        stayed &= host.vm_state("gold")? == "suspended";
        Ok(())
    })?;
    let name = |what: &str| format!("both paths, {fault}: {what}");
    stage.report.check_that(&name("the VM is not resumed onto it"), Truth::from(stayed), "");
    let said =
        host.events()?.into_iter().find(|e| e.at_unix_us >= since_unix_us && e.reason.contains(REFUSED));
    let told = said.as_ref().is_some_and(|e| e.incident.is_some());
    let words = said.map_or_else(String::new, |e| e.reason);
    stage.report.check_that(&name("the incident says why"), Truth::from(told), words);
    let explained = host.operator(&["explain", "vm", "gold"])?;
    let words = String::from_utf8_lossy(&explained.stdout).into_owned();
    stage.say(words.trim());
    stage.report.check_that(&name("so does the explanation"), Truth::from(words.contains(REFUSED)), words);

    array.clear("all")?;
    stage.say("both portals show the unit again");
    host.wait_vm(stage, "gold", "running", UP_MAX)?;
    host.wait_all_up(stage, UP_MAX)
}

/// Portals die with their caches: nothing acknowledged is lost, if the configuration says what they are.
pub(super) fn lost_cache(stage: &mut Stage) -> Result<()> {
    let portals = [("a", "127.0.0.2"), ("b", "127.0.0.3"), ("c", "127.0.0.4"), ("d", "127.0.0.5")];
    let units = ["gold=4MiB", "silver=4MiB"];
    let plan = ArrayPlan { portals: &portals, options: ",latency=1ms,cache=volatile", units: &units };
    let (_storage, mut array) = storage::array_with(stage, &plan)?;
    let mut host = Host::start(stage, "lost-cache.toml")?;
    let mut gold = StandIn::start(stage, "gold", LOAD)?;
    let mut silver = StandIn::start(stage, "silver", LOAD)?;
    for turn in 0..CACHES_LOST {
        stage.watch(SETTLED, |_| Ok(()))?;
        let lost = [[0, 2], [1, 3]][turn % 2].map(|n: usize| portals[n].0);
        for portal in lost {
            array.fault(portal, "reset refuse drop-cache")?;
        }
        stage.say(format!("portals {lost:?} are lost with their caches"));
        gold.wait_progress()?;
        silver.wait_progress()?;
        array.clear("all")?;
        host.wait_all_up(stage, UP_MAX)?;
    }
    let lost_of = |array: &mut ArrayControl, portals: [usize; 2]| -> Result<f64> {
        let status = array.status()?;
        let lost =
            |n: usize| status["portals"][n]["sectors_lost"].as_f64().context("no count of lost sectors");
        portals.into_iter().map(lost).sum::<Result<f64>>()
    };
    let (seen, control) = (gold.end(QUIESCE)?, silver.end(QUIESCE)?);
    let (known, unknown) = (lost_of(&mut array, [0, 1])?, lost_of(&mut array, [2, 3])?);
    stage.report.check("sectors lost that the guest relied on", known, Bound::Equal(0.0), "sectors");
    seen.check(stage);
    stage.report.check(
        "sectors lost of the target that is not what it is said to be",
        unknown,
        Bound::AtLeast(1.0),
        "sectors",
    );
    let wrong = control.wrong_blocks() as f64;
    stage.report.check("wrong blocks that its guest read", wrong, Bound::AtLeast(1.0), "blocks").note =
        control.first_wrong();
    host.finish(stage)
}
