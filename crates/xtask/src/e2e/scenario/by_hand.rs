//! A resting guest is moved to another host by hand, as an operator would without us: the ground that moves stand on.
//!
//! No daemon knows that anything moves; nothing is open, so nothing needs to be handed over. First its way to the
//! destination is cut while memory is being sent: QEMU would go on for ever, is cancelled, and the guest runs on.

use crate::e2e::hosts::network::{Cable, Cut, cut, host_address, host_name, mend, within};
use crate::e2e::hosts::{Hosts, Plan, Seat, launch_command};
use crate::e2e::network::now_unix_us;
use crate::e2e::server::Server;
use crate::e2e::stage::Stage;
use crate::e2e::vm::{LOAD, Vm};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use vmpath_lab::array::writers::Owned;
use vmpath_lab::guest::FrontEnd;
use vmpath_lab::report::{Bound, Truth};

const PLAN: Plan<'_> =
    Plan { hosts: 2, members: 1, units: &["gold", "silver", "bronze"], config: "hosts.toml", portals: "" };
const HERE: Seat<'_> = Seat { host: 1, vm: "gold", front_end: FrontEnd::VhostUser };
const THERE: Seat<'_> = Seat { host: 2, ..HERE };
const PORT: u16 = 49152;
const READY_MAX: Duration = Duration::from_secs(20);
const STATE_MAX: Duration = Duration::from_secs(20);
/// A QEMU whose destination is gone tells nothing for as long as anybody waits; this is long enough to have told.
const STUCK: Duration = Duration::from_secs(2);
const CANCEL_MS: f64 = 1000.0;
/// Under TCG, on a busy machine; QEMU's own downtime is in it.
const PAUSE_MS: f64 = 2000.0;

pub(super) fn by_hand(stage: &mut Stage) -> Result<()> {
    let mut hosts = Hosts::start(stage, &PLAN)?;
    let mut guests = hosts.boot(stage, &[HERE], LOAD)?;
    let mut gold = guests.pop().context("a guest")?;
    stuck(stage, &hosts, &mut gold)?;
    gold.wait_progress(stage)?;
    gold.pause(stage)?;
    let arrival = hosts.expect(stage, THERE)?;
    let mut incoming = incoming(stage)?;
    let began = Instant::now();
    migrate(&mut gold, 1 << 30)?;
    let waits = wait_state(stage, &mut gold, "pre-switchover")?;
    let left = waits["ram"]["remaining"].as_f64();
    let name = "memory that is left to send when the guest stands still";
    stage.report.check(name, left.map(|bytes| bytes / 1e6), Bound::AtMost(64.0), "MB");
    let seen = gold.run_state()?;
    stage.report.check_that("QEMU waits for the switch-over", Truth::from(seen == "finish-migrate"), seen);
    gold.qmp("migrate-continue", &json!({ "state": "pre-switchover" }))?;
    let done = wait_state(stage, &mut gold, "completed")?;
    stage.report.check(
        "the guest's pause, by QEMU",
        done["downtime"].as_f64(),
        Bound::AtMost(PAUSE_MS),
        "ms",
    );
    stage.say(format!("moved in {:.1} s", began.elapsed().as_secs_f64()));
    let given_at = now_unix_us();
    incoming.check_alive()?;
    gold.follow(arrival)?;
    stage.wait(
        "the guest to run there",
        STATE_MAX,
        |_| Ok((gold.run_state()? == "running").then_some(())),
    )?;
    gold.go()?;
    gold.wait_progress(stage)?;
    gold.finish(stage)?;
    let owners = vec![
        Owned { until_unix_us: given_at, ..Owned::sometime(&host_name(1)) },
        Owned { from_unix_us: given_at, ..Owned::sometime(&host_name(2)) },
    ];
    hosts.check_writers(stage, &[("gold", owners)])?;
    drop(incoming);
    hosts.finish(stage)
}

/// The destination's network is swallowed midway.
fn stuck(stage: &mut Stage, hosts: &Hosts, gold: &mut Vm) -> Result<()> {
    let arrival = hosts.expect(stage, THERE)?;
    let incoming = incoming(stage)?;
    migrate(gold, 8 << 20)?;
    wait_state(stage, gold, "active")?;
    cut(Cable::Management(2), Cut::Blackhole)?;
    stage.watch(STUCK, |_| Ok(()))?;
    let status = gold.qmp("query-migrate", &Value::Null)?["status"].to_string();
    stage.report.check_that("QEMU does not give up by itself", Truth::from(status == "\"active\""), status);
    let began = Instant::now();
    gold.qmp("migrate_cancel", &Value::Null)?;
    wait_state(stage, gold, "cancelled")?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    stage.report.check("a migration that is stuck is cancelled within", took, Bound::AtMost(CANCEL_MS), "ms");
    mend(Cable::Management(2), Cut::Blackhole)?;
    drop((incoming, arrival));
    Ok(())
}

/// Starts the QEMU of the other seat as that host's daemon would: by its `launch` command.
fn incoming(stage: &mut Stage) -> Result<Server> {
    let words = within(&host_name(THERE.host));
    let qmp = stage.dir.join(host_name(THERE.host)).join("gold.qmp");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(launch_command(stage, THERE));
    command.env("VMPATH_VM", THERE.vm).env("VMPATH_INCOMING", address(PORT)).env("VMPATH_QMP", &qmp);
    _ = std::fs::remove_file(&qmp); // of one before
    let mut server = Server::start("incoming", &mut command, &stage.dir)?;
    stage.wait("QEMU to wait for the guest", READY_MAX, |_| {
        server.check_alive()?;
        Ok(qmp.exists().then_some(()))
    })?;
    Ok(server)
}

fn address(port: u16) -> String {
    format!("tcp:{}:{port}", host_address(THERE.host))
}

fn migrate(gold: &mut Vm, bandwidth: u64) -> Result<()> {
    let capability = json!({ "capability": "pause-before-switchover", "state": true });
    gold.qmp("migrate-set-capabilities", &json!({ "capabilities": [capability] }))?;
    gold.qmp("migrate-set-parameters", &json!({ "downtime-limit": 50, "max-bandwidth": bandwidth }))?;
    gold.qmp("migrate", &json!({ "uri": address(PORT) })).map(drop)
}

/// Waits for a state of the migration; what QEMU says of it then.
fn wait_state(stage: &mut Stage, gold: &mut Vm, state: &str) -> Result<Value> {
    stage.wait(&format!("the migration to be {state}"), STATE_MAX, |_| {
        let seen = gold.qmp("query-migrate", &Value::Null)?;
        anyhow::ensure!(seen["status"] != "failed" || state == "failed", "it has failed: {seen}");
        Ok((seen["status"] == state).then_some(seen))
    })
}
