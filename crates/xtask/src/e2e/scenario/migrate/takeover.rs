//! A host is cut off from the others, writes on, and is fenced; then its disks are another's.
//!
//! Each refusal on the way is checked, because each is what stands between an operator's haste and two writers. In the end the dead
//! host comes back and wants to write. It does not know how etcd tells that a host is silent.

use super::{LOAD, PLAN};
use crate::e2e::host::Wanted;
use crate::e2e::hosts::network::{Cable, Cut, cut, host_name, mend};
use crate::e2e::hosts::{Hosts, Plan, Seat};
use crate::e2e::network::now_unix_us;
use crate::e2e::rawclient::{RawClient, Request};
use crate::e2e::stage::Stage;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;
use vmpath_lab::array::writers::Owned;
use vmpath_lab::guest::FrontEnd;
use vmpath_lab::report::{Bound, Truth};

const TWO: Plan<'_> = Plan { members: 1, units: &["gold", "bronze"], config: "takeover.toml", ..PLAN };
const SILENT_MAX: Duration = Duration::from_secs(20);
const TAKEN_MAX: Duration = Duration::from_secs(20);
/// As in the configuration.
const QUIESCE_MS: f64 = 3000.0;
/// What may be written is written in milliseconds.
const HELD: Duration = Duration::from_secs(2);
const GUEST: &str = "gold/vda";
const BY_HAND: &str = "bronze/vda";

pub(in super::super) fn takeover(stage: &mut Stage) -> Result<()> {
    let mut hosts = Hosts::start(stage, &TWO)?;
    let seat = Seat { host: 1, vm: "gold", front_end: FrontEnd::VhostUser };
    let mut gold = hosts.boot(stage, &[seat], LOAD)?.pop().context("a guest")?;
    ensure!(writes(&mut by_hand(stage, 1, "bronze")?)?, "host 1 does not write bronze");
    let confirmed = ["--confirmed-dead", "h1"];
    refused(stage, &hosts, "a host that lives", (GUEST, &confirmed), "h1")?;

    cut(Cable::Management(1), Cut::Blackhole)?;
    stage.say("host 1 is cut off from all others, and not from the array");
    stage.wait("host 1 not to be heard any more", SILENT_MAX, |_| {
        let shown = hosts.operator(2, &["show", "hosts", "-o", "json"])?;
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        let rows = shown["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok((!rows.is_empty() && rows.iter().all(|row| row["name"] != "h1")).then_some(()))
    })?;
    gold.wait_progress(stage)?;
    stage.say("its guest writes on");
    refused(stage, &hosts, "a host that is only silent", (GUEST, &[]), "fence_command")?;
    refused(
        stage,
        &hosts,
        "another host that is confirmed dead",
        (GUEST, &["--confirmed-dead", "h2"]),
        "h1",
    )?;
    let fence = stage.dir.join("fence");
    fence_fails(stage, &mut hosts, &fence)?;
    gold.wait_progress(stage)?;

    let pids = seat.hypervisors(stage)?.into_iter().map(|pid| pid.to_string());
    let pids: Vec<String> = pids.chain([hosts.host(1).pid().to_string()]).collect();
    fs::write(&fence, format!("[ \"$VMPATH_HOST\" = h1 ] && exec kill -9 {}\n", pids.join(" ")))?;
    take_both(stage, &mut hosts)?;
    drop(gold);
    let fresh = Seat { host: 2, ..seat };
    let mut gold = hosts.boot(stage, &[fresh], LOAD)?.pop().context("a guest")?;
    let mut client = by_hand(stage, 2, "bronze")?;
    let name = "what was taken over by the operator's word is written, too";
    stage.report.check_that(name, Truth::from(writes(&mut client)?), "");
    check_owners(stage, &hosts)?;
    comes_back(stage, &mut hosts)?;
    check_owners(stage, &hosts)?;
    drop(client);
    gold.wait_progress(stage)?;
    gold.finish(stage)?;
    let owners = || [1, 2].map(|host| Owned::sometime(&host_name(host))).to_vec();
    hosts.check_writers(stage, &[("gold", owners()), ("bronze", owners())])?;
    hosts.finish(stage)
}

/// Nothing is done, and it is said what to do.
fn refused(
    stage: &mut Stage,
    hosts: &Hosts,
    what: &str,
    (disk, more): (&str, &[&str]),
    expect: &str,
) -> Result<()> {
    let (done, text) = take(stage, hosts, disk, more)?;
    let told = !done && text.contains(expect);
    stage.report.check_that(&format!("{what}: its disk is not taken over"), Truth::from(told), text);
    Ok(())
}

fn take(stage: &Stage, hosts: &Hosts, disk: &str, more: &[&str]) -> Result<(bool, String)> {
    let words = [&["disk", "takeover", disk, "--from", "h1"], more].concat();
    let answer = hosts.operator(2, &words)?;
    let text = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().replace('\n', "; ");
    stage.say(format!("vmpath {}: {text}", words.join(" ")));
    Ok((answer.status.success(), text))
}

fn fence_fails(stage: &mut Stage, hosts: &mut Hosts, fence: &Path) -> Result<()> {
    fs::write(fence, "echo the switch does not answer >&2; exit 1\n")?;
    let line = format!("name = \"h2\"\nfence_command = \"/bin/sh {}\"", fence.display());
    hosts.host(2).edit("name = \"h2\"", &line)?;
    ensure!(hosts.operator(2, &["reload"])?.status.success(), "the configuration is not taken");
    let before = hosts.owner_by(2, "san0/gold")?;
    let since = now_unix_us();
    let (begun, text) = take(stage, hosts, GUEST, &[])?;
    ensure!(begun, "the fence is not even asked: {text}");
    let told = told(stage, hosts, "san0/gold", since, "not taken over")?;
    let kept = told.contains("the switch does not answer") && hosts.owner_by(2, "san0/gold")? == before;
    let name = "a fence that fails takes nothing over, and its words are told";
    stage.report.check_that(name, Truth::from(kept), told);
    Ok(())
}

/// What is told of a unit that is being taken over.
fn told(stage: &mut Stage, hosts: &mut Hosts, unit: &str, since: u64, part: &str) -> Result<String> {
    stage.wait(&format!("{unit}: {part}"), TAKEN_MAX, |_| {
        let events = hosts.host(2).events()?.into_iter().filter(|e| e.at_unix_us >= since);
        let mut events = events.filter(|e| e.kind == "disk-takeover" && e.subject == unit);
        Ok(events.find(|e| e.reason.contains(part)).map(|e| e.reason))
    })
}

/// One by the fence, the other by the operator's word.
fn take_both(stage: &mut Stage, hosts: &mut Hosts) -> Result<()> {
    let since = now_unix_us();
    for (disk, more) in [(GUEST, &[][..]), (BY_HAND, &["--confirmed-dead", "h1"])] {
        let (begun, text) = take(stage, hosts, disk, more)?;
        stage.report.check_that(&format!("{disk}: its takeover begins"), Truth::from(begun), text);
    }
    for unit in ["san0/gold", "san0/bronze"] {
        told(stage, hosts, unit, since, "it is this host's now")?;
        let wanted = Wanted { kind: "disk-takeover", subject: unit, since_unix_us: since, bound: TAKEN_MAX };
        let began = hosts.host(2).wait_event(stage, &wanted)?.at_unix_us;
        let took = now_unix_us().saturating_sub(began) as f64 / 1e3;
        let name = format!("{unit}: from its takeover to its new owner");
        stage.report.check(&name, took, Bound::AtLeast(QUIESCE_MS), "ms");
        // While it has no guest nobody needs it.
        let (owner, epoch) = hosts.owner_by(2, unit)?;
        let name = format!("{unit}: it is not host 1's any more");
        stage.report.check_that(&name, Truth::from(owner != "h1"), format!("{owner}, epoch {epoch}"));
    }
    Ok(())
}

/// Both are used at host 2.
fn check_owners(stage: &mut Stage, hosts: &Hosts) -> Result<()> {
    for unit in ["san0/gold", "san0/bronze"] {
        let (owner, epoch) = hosts.owner_by(2, unit)?;
        let name = format!("{unit}: etcd names host 2");
        stage.report.check_that(&name, Truth::from(owner == "h2"), format!("{owner}, epoch {epoch}"));
    }
    Ok(())
}

/// The dead host is repaired, and somebody there wants to write what was its own.
fn comes_back(stage: &mut Stage, hosts: &mut Hosts) -> Result<()> {
    mend(Cable::Management(1), Cut::Blackhole)?;
    hosts.host(1).begin_again(stage)?;
    hosts.host(1).wait_ready(stage)?;
    for vm in ["gold-by-hand", "bronze"] {
        let mut client = by_hand(stage, 1, vm)?;
        client.set_patience(HELD)?;
        let written = writes(&mut client).unwrap_or(false);
        let name = format!("{vm}: a host that comes back does not write it");
        stage.report.check_that(&name, Truth::from(!written), "");
    }
    let shown = hosts.operator(1, &["show", "disks"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let name = "and it knows whose they are";
    stage.report.check_that(name, Truth::from(shown.matches("h2").count() >= 2), shown);
    Ok(())
}

fn by_hand(stage: &Stage, host: usize, socket: &str) -> Result<RawClient> {
    RawClient::open(&stage.dir.join(host_name(host)).join(format!("{socket}.sock")), "")
}

/// Whether a write of its is taken.
fn writes(client: &mut RawClient) -> Result<bool> {
    client.send(&[Request::Write { offset: 0, data: &[7; 4096] }])?;
    Ok(client.reply()?.is_some_and(|reply| reply.error == 0))
}
