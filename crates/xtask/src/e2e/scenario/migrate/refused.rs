//! Hosts and destinations that will not do. Each is refused with its reason, and the guest is not touched: QEMU is not even asked.

use super::{PLAN, Story, gold_to_2};
use crate::e2e::hosts::network::{Cable, Cut, Side, cut, host_name, mend};
use crate::e2e::hosts::{launch_command, password_file};
use crate::e2e::stage::Stage;
use anyhow::{Result, ensure};
use serde_json::Value;
use std::fs;
use std::time::Duration;
use vmpath_lab::certs::Validity;
use vmpath_lab::guest::MEMORY_MIB;
use vmpath_lab::report::{Bound, Truth};

/// By then a host that has begun again has told of itself, and been told of the others.
const KNOWN: Duration = Duration::from_secs(2);
const ANSWER_MAX: Duration = Duration::from_secs(40);
const SEEN_MAX: Duration = Duration::from_secs(20);
/// Nothing stands still for what is refused; an emulated guest's own time is in it.
const GAP_MS: f64 = 500.0;

pub(in super::super) fn refused(stage: &mut Stage) -> Result<()> {
    let mut story = Story::begin(stage)?;
    let seat = gold_to_2(stage).seat();
    let arrival = story.hosts.expect(stage, seat)?;
    story.gold.take_gap()?;

    story.is_refused(stage, "a host that nobody knows", "h9", "h9")?;
    story.is_refused(stage, "the host that it is on", "h1", "already")?;
    other_version(stage, &mut story)?;

    let script = launch_command(stage, seat);
    let good = fs::read_to_string(&script)?;
    let size = |mib: u32| format!("{}k", mib * 1024 + 8);
    ensure!(good.contains(&size(MEMORY_MIB)), "the script does not tell the memory as it did");
    fs::write(&script, good.replace(&size(MEMORY_MIB), &size(MEMORY_MIB - 64)))?;
    story.is_refused(stage, "another size of memory", "h2", "memory")?;
    fs::write(&script, "#!/bin/sh\necho no room for it; exit 3\n")?;
    story.is_refused(stage, "a launch that fails", "h2", "no room for it")?;
    fs::write(&script, &good)?;

    certificates(stage, &mut story)?;
    password(stage, &mut story)?;

    for side in Side::BOTH {
        cut(Cable::San(2, side), Cut::Carrier)?;
    }
    for path in ["san0/a", "san0/b"] {
        story.hosts.host(2).wait_path(stage, path, "down", SEEN_MAX)?;
    }
    story.is_refused(stage, "a host that does not reach the unit", "h2", "san0/gold")?;
    for side in Side::BOTH {
        mend(Cable::San(2, side), Cut::Carrier)?;
    }
    story.hosts.host(2).wait_all_up(stage, SEEN_MAX)?;

    story.hosts.host(2).edit("unit = \"san0/gold\"", "unit = \"san0/other\"")?;
    story.begin_again(stage)?;
    story.is_refused(stage, "a host whose disk is another unit", "h2", "")?;
    drop(arrival);
    story.finish(stage, &[])
}

/// The destination begins with another certificate. (One that runs keeps its own while the new one does not fit.)
fn certificates(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let h2 = host_name(2);
    for (what, name, validity, expect) in [
        ("a certificate that has expired", "h2", Validity::Expired, "expired"),
        ("a certificate of tomorrow", "h2", Validity::NotYet, "good only from"),
        ("a certificate of another host", "h9", Validity::Now, "its log says why"),
    ] {
        let files = story.hosts.authority.issue(name, validity)?;
        if name != h2 {
            let own = story.hosts.authority.files(&h2);
            fs::copy(&files.cert, &own.cert)?;
            fs::copy(&files.key, &own.key)?;
        }
        story.begin_again(stage)?;
        story.is_refused(stage, what, "h2", expect)?;
    }
    story.hosts.authority.issue(&h2, Validity::Now)?;
    story.begin_again(stage)
}

/// What a host of another version would say of itself: all that host 2 does, but for the version.
fn other_version(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let key = |host: &str| format!("/vmpath/host/san0/{host}");
    let said = story.hosts.etcd.ask("h1", &["get", "--print-value-only", &key("h2")])?;
    let mut slice: Value = serde_json::from_str(&said)?;
    ensure!(slice["version"].is_string(), "host 2 does not tell its version: {said}");
    slice["version"] = "0.0.7".into();
    story.hosts.etcd.ask("h1", &["put", &key("h3"), &slice.to_string()])?;
    stage.watch(KNOWN, |_| Ok(()))?;
    story.is_refused(stage, "a host of another version", "h3", "its vmpath is 0.0.7")?;
    story.hosts.etcd.ask("h1", &["del", &key("h3")]).map(drop)
}

/// etcd's password is changed while all hosts are in: they are thrown out, and come in again when it is in their files.
fn password(stage: &mut Stage, story: &mut Story) -> Result<()> {
    story.hosts.etcd.change_password("h1", "another")?;
    stage.say("etcd's password is changed");
    // Whoever has nothing to say does not notice: so each has another priority to tell.
    for host in 1..=PLAN.hosts {
        story.hosts.host(host).edit("priority = 300", "priority = 301")?;
        let (done, text) = story.ask(stage, host, &["reload"])?;
        ensure!(done, "the configuration is not taken: {text}");
    }
    let why = story.wait_store(stage, 1, ("down", "invalid user ID or password"))?;
    stage.report.check_that("a password that is wrong is told as such", Truth::from(!why.is_empty()), why);
    story.is_refused(stage, "a wrong password for etcd", "h2", "etcd does not answer")?;
    for host in 1..=PLAN.hosts {
        fs::write(password_file(&story.hosts.authority, host), "another\n")?;
    }
    for host in 1..=PLAN.hosts {
        story.wait_store(stage, host, ("up", ""))?;
    }
    stage.watch(KNOWN, |_| Ok(()))
}

impl Story {
    /// Waits until a host's daemon says so of etcd, and this as the reason; all of the reason.
    fn wait_store(&self, stage: &mut Stage, host: usize, (state, part): (&str, &str)) -> Result<String> {
        stage.wait(&format!("etcd to be {state} for host {host}"), SEEN_MAX, |_| {
            let shown = self.hosts.operator(host, &["show", "hosts", "-o", "json"])?;
            let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
            let why = shown["why"].as_str().unwrap_or_default().to_owned();
            Ok((shown["cluster"] == state && why.contains(part)).then_some(why))
        })
    }

    fn begin_again(&mut self, stage: &mut Stage) -> Result<()> {
        self.hosts.host(2).restart(stage)?;
        self.hosts.host(2).wait_api(stage)?;
        stage.watch(KNOWN, |_| Ok(()))
    }

    /// The command ends with the reason, and the guest goes on as if nothing had been asked.
    pub(super) fn is_refused(&mut self, stage: &mut Stage, what: &str, to: &str, expect: &str) -> Result<()> {
        let wait = format!("--wait={}", ANSWER_MAX.as_secs());
        let (done, text) = self.ask(stage, 1, &["vm", "migrate", "gold", "--to", to, &wait])?;
        let told = !done && text.contains(expect);
        stage.report.check_that(&format!("{what}: refused with its reason"), Truth::from(told), text);
        let sent = self.gold.qmp("query-migrate", &Value::Null)?;
        let state = self.gold.run_state()?;
        let untouched = sent["status"].is_null() && state == "running";
        let note = format!("QEMU is {state}, migration {sent}");
        stage.report.check_that(&format!("{what}: QEMU is not asked"), Truth::from(untouched), note);
        gold_to_2(stage).wait_nothing_there(stage)?;
        self.gold.wait_progress(stage)?;
        let gap = self.gold.take_gap()?;
        stage.report.check(&format!("{what}: the guest's longest gap"), gap, Bound::AtMost(GAP_MS), "ms");
        Ok(())
    }
}
