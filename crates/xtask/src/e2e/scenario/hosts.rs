//! Three hosts on one array: what one of them loses, the others do not even notice; and who writes is known.
//!
//! Nothing moves here. It proves the ground that stories of moves stand on: networks that are cut one by one, etcd within
//! reach of every host, and a checker of writers that accuses nobody without cause and finds two at once.

use super::loss::{failed_over, repaired};
use crate::e2e::host::{Event, Wanted};
use crate::e2e::hosts::network::{Cable, Cut, Side, cut, host_name, mend};
use crate::e2e::hosts::{Hosts, Plan, Seat};
use crate::e2e::rawclient::{RawClient, Request};
use crate::e2e::stage::Stage;
use crate::e2e::vm::LOAD;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use vmpath_lab::array::writers::{Owned, judge};
use vmpath_lab::guest::FrontEnd;
use vmpath_lab::report::{Bound, Truth};

const HOSTS: usize = 3;
const PLAN: Plan<'_> = Plan {
    hosts: HOSTS,
    members: 3,
    units: &["gold", "silver", "bronze"],
    config: "hosts.toml",
    cluster: false,
    // Slow enough that there is always something on each path.
    portals: ",latency=20ms",
};
/// An emulated guest's own time is in it.
const FAILED_OVER_MS: f64 = 500.0;
const RETURN_MAX: Duration = Duration::from_secs(10);

pub(super) fn hosts(stage: &mut Stage) -> Result<()> {
    let mut hosts = Hosts::start(stage, &PLAN)?;
    etcd(stage, &mut hosts)?;
    let seats = [
        Seat { host: 1, vm: "gold", front_end: FrontEnd::VhostUser },
        Seat { host: 2, vm: "silver", front_end: FrontEnd::Nbd },
    ];
    let mut guests = hosts.boot(stage, &seats, LOAD)?;
    for guest in &mut guests {
        guest.take_gap()?;
    }
    let cable = Cable::San(1, Side::A);
    let cut_at = cut(cable, Cut::Carrier)?;
    stage.say("path a of host 1 is cut");
    failed_over(stage, hosts.host(1), cut_at, FAILED_OVER_MS)?;
    for guest in &mut guests {
        guest.wait_progress(stage)?;
    }
    mend(cable, Cut::Carrier)?;
    let wanted = Wanted { kind: "path-up", subject: "san0/a", since_unix_us: cut_at, bound: RETURN_MAX };
    hosts.host(1).wait_event(stage, &wanted)?;
    repaired(stage, hosts.host(1), cut_at)?;
    others(stage, &mut hosts, cut_at)?;
    for guest in guests {
        guest.finish(stage)?;
    }
    let owned = |host: usize| vec![Owned::sometime(&host_name(host))];
    hosts.check_writers(stage, &[("gold", owned(1)), ("silver", owned(2))])?;
    two_writers(stage, &mut hosts)?;
    hosts.finish(stage)
}

/// Every host reaches it; a member that has died is missed by nobody for long; without a majority it takes nothing.
fn etcd(stage: &mut Stage, hosts: &mut Hosts) -> Result<()> {
    let put = |hosts: &Hosts, host: usize| {
        let answer = hosts.etcd.ask(&host_name(host), &["put", "/try", "1"]);
        Ok(answer.is_ok().then_some(()))
    };
    for host in 1..=HOSTS {
        ensure!(put(hosts, host)?.is_some(), "host {host} does not reach etcd");
    }
    hosts.etcd.kill(1);
    stage.wait("etcd to go on with two of three", RETURN_MAX, |_| put(hosts, 1))?;
    cut(Cable::Member(2), Cut::Blackhole)?;
    let taken = put(hosts, 1)?.is_some();
    stage.report.check_that("etcd takes nothing without a majority", Truth::from(!taken), "");
    mend(Cable::Member(2), Cut::Blackhole)?;
    stage.wait("etcd to have its majority again", RETURN_MAX, |_| put(hosts, 3))?;
    hosts.etcd.restart(1)
}

/// Nothing happened to the other hosts.
fn others(stage: &mut Stage, hosts: &mut Hosts, since_unix_us: u64) -> Result<()> {
    for number in 2..=HOSTS {
        let host = hosts.host(number);
        let of_paths = |e: &&Event| {
            e.at_unix_us >= since_unix_us
                && ["path-", "link-", "failed-over", "failback", "vm-"]
                    .iter()
                    .any(|kind| e.kind.starts_with(kind))
                // A guest's monitor is greeted whenever it answers first.
                && e.kind != "vm-managed"
        };
        let seen: Vec<String> = host.events()?.iter().filter(of_paths).map(|e| e.kind.clone()).collect();
        let name = format!("host {number}: events of a path that is host 1's");
        stage.report.check(&name, seen.len() as f64, Bound::Equal(0.0), "events").note = seen.join(", ");
    }
    Ok(())
}

/// Nobody owns a disk here, so two daemons let two clients write one unit: the array must have noticed.
fn two_writers(stage: &mut Stage, hosts: &mut Hosts) -> Result<()> {
    for host in [1, 2, 1] {
        let socket = stage.dir.join(host_name(host)).join("bronze.sock");
        let mut client = RawClient::open(&socket, "")?;
        client.send(&[Request::Write { offset: 0, data: &[host as u8; 4096] }])?;
        let reply = client.reply()?.context("the daemon closes")?;
        ensure!(reply.error == 0, "host {host} answers error {}", reply.error);
        client.send(&[Request::Disconnect])?;
    }
    let seen = hosts.array.writers()?.into_iter().find(|seen| seen.unit == "bronze").context("no bronze")?;
    let faults = |owners: &[&str]| {
        let owners: Vec<Owned> = owners.iter().copied().map(Owned::sometime).collect();
        judge(&seen, &owners)
    };
    let name = "two hosts that write one unit by turns are found";
    let found = faults(&["h1"]);
    stage.report.check_that(name, Truth::from(found.len() == 1), found.join("; "));
    let found = faults(&["h1", "h2"]);
    stage.report.check_that(
        "so is one that writes after it gave it away",
        Truth::from(found.len() == 1),
        found.join("; "),
    );
    let found = faults(&["h1", "h2", "h1"]);
    stage.report.check_that("and owners are not accused", Truth::from(found.is_empty()), found.join("; "));
    Ok(())
}
