//! The ground of stories with several hosts: one array, three members of etcd, and hosts with a daemon and guests each,
//! on one machine and in networks that can be cut one by one.
//!
//! The array knows by the portal which host a write came from, and at the end every unit's writers are judged: see
//! `vmpath_lab::array::writers`. It does not know what goes wrong, nor what a daemon should do about it.

pub(crate) mod etcd;
pub(crate) mod network;

use super::host::{Host, Place};
use super::server::Server;
use super::stage::Stage;
use super::storage::{PORT, array_at};
use super::vm::{self, Vm};
use anyhow::{Context, Result};
use etcd::Etcd;
use network::{Side, host_name, portal_address, portal_name};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::array::writers::{Owned, judge};
use vmpath_lab::guest::{Arrival, FrontEnd, GuestConfig, GuestDisk, MEMORY_MIB, launch_script};
use vmpath_lab::report::Bound;

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) hosts: usize,
    pub(crate) members: usize,
    pub(crate) units: &'a [&'a str],
    /// Of the folder `e2e`, for all hosts: `{host}`, `{address}`, `{path_a}`, `{path_b}`, `{etcd}` and `{dir}` become each host's own.
    pub(crate) config: &'a str,
    /// Of each portal, such as `,latency=2ms`.
    pub(crate) portals: &'a str,
}

#[derive(Debug)]
pub(crate) struct Hosts {
    /// From 1: see [`Hosts::host`].
    daemons: Vec<Host>,
    pub(crate) etcd: Etcd,
    pub(crate) array: ArrayControl,
    storage: Server,
}

/// A guest's place on a host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat<'a> {
    pub(crate) host: usize,
    pub(crate) vm: &'a str,
    pub(crate) front_end: FrontEnd,
}

impl Hosts {
    /// Builds the networks and starts all that runs in them; returns when every path of every host leads to every unit.
    ///
    /// # Errors
    /// Something does not start.
    pub(crate) fn start(stage: &mut Stage, plan: &Plan<'_>) -> Result<Self> {
        network::build(plan.hosts, plan.members)?;
        let (storage, array) = array(stage, plan)?;
        let memory = stage.memory_folder()?;
        let etcd = Etcd::start(stage, plan.members, &memory)?;
        stage.say(format!("an array of {} portals, etcd of {} members", 2 * plan.hosts, plan.members));
        let mut daemons = Vec::new();
        for host in 1..=plan.hosts {
            daemons.push(Host::begin(stage, place(stage, plan, &etcd, host)?)?);
        }
        for daemon in &mut daemons {
            daemon.wait_ready(stage)?;
        }
        Ok(Self { daemons, etcd, array, storage })
    }

    /// Hosts count from 1.
    pub(crate) fn host(&mut self, number: usize) -> &mut Host {
        &mut self.daemons[number - 1]
    }

    /// Boots guests together, and puts them under load.
    ///
    /// # Errors
    /// One does not boot, or its load does not get going.
    pub(crate) fn boot(&self, stage: &mut Stage, seats: &[Seat<'_>], load: &str) -> Result<Vec<Vm>> {
        let configs = seats.iter().map(|seat| seat.config(stage)).collect::<Result<Vec<_>>>()?;
        vm::boot_guests(stage, &configs, load)
    }

    /// Prepares a seat for a guest that comes from another host: writes the `launch` command of its configuration, and listens
    /// for the QEMU that it starts. Then [`Vm::follow`] goes on with the guest there.
    ///
    /// # Errors
    /// The guest's folder cannot be written.
    pub(crate) fn expect(&self, stage: &Stage, seat: Seat<'_>) -> Result<Arrival> {
        let config = seat.config(stage)?;
        let script = launch_command(stage, seat);
        fs::write(&script, launch_script(&stage.image()?, &config))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Arrival::expect(&config)
    }

    /// Judges the writers of units whose owners were these, one after another; of all other units: nobody's.
    ///
    /// # Errors
    /// The array does not answer.
    pub(crate) fn check_writers(&mut self, stage: &mut Stage, owners: &[(&str, Vec<Owned>)]) -> Result<()> {
        let owners: BTreeMap<&str, &Vec<Owned>> = owners.iter().map(|(unit, owned)| (*unit, owned)).collect();
        let all = self.array.writers()?;
        for seen in &all {
            let owned = owners.get(seen.unit.as_str()).map_or(&[][..], |owned| owned.as_slice());
            let faults = judge(seen, owned);
            let name = format!("{}: writes by a host that did not own it", seen.unit);
            stage.report.check(&name, faults.len() as f64, Bound::Equal(0.0), "").note = faults.join("; ");
        }
        stage.report.attach("writers", &all);
        Ok(())
    }

    /// Ends all daemons by SIGTERM, gives their journals to the report, and takes the networks away.
    ///
    /// # Errors
    /// One has died before, or does not end.
    pub(crate) fn finish(mut self, stage: &mut Stage) -> Result<()> {
        for daemon in std::mem::take(&mut self.daemons) {
            daemon.finish(stage)?;
        }
        self.storage.check_alive()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.daemons.clear();
        _ = network::remove(); // what is left of it ends with the run
    }
}

impl Seat<'_> {
    fn dir(&self, stage: &Stage) -> PathBuf {
        stage.dir.join(host_name(self.host))
    }

    fn config(&self, stage: &Stage) -> Result<GuestConfig> {
        let dir = self.dir(stage).join(self.vm);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for left in ["agent.sock", "monitor.qmp"] {
            _ = fs::remove_file(dir.join(left)); // of a QEMU that was here before
        }
        let socket = self.dir(stage).join(format!("{}.sock", self.vm));
        Ok(GuestConfig {
            name: self.vm.to_owned(),
            disks: vec![GuestDisk { front_end: self.front_end, socket }],
            qmp: self.dir(stage).join(format!("{}.qmp", self.vm)),
            memory_mib: MEMORY_MIB,
            within: network::within(&host_name(self.host)),
            dir,
        })
    }
}

/// The file that a seat's `launch` names.
pub(crate) fn launch_command(stage: &Stage, seat: Seat<'_>) -> PathBuf {
    seat.dir(stage).join(format!("{}.launch", seat.vm))
}

fn array(stage: &mut Stage, plan: &Plan<'_>) -> Result<(Server, ArrayControl)> {
    let ways = (1..=plan.hosts).flat_map(|host| Side::BOTH.map(|side| (host, side)));
    let portal = |(host, side)| {
        let (name, address) = (portal_name(host, side), portal_address(host, side));
        format!("{name}={address}:{PORT}{},host={}", plan.portals, host_name(host))
    };
    array_at(stage, &ways.map(portal).collect::<Vec<_>>(), plan.units)
}

/// A host's folder, configuration and namespace.
fn place(stage: &Stage, plan: &Plan<'_>, etcd: &Etcd, host: usize) -> Result<Place> {
    let name = host_name(host);
    let dir = stage.dir.join(&name);
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let endpoints: Vec<String> = etcd.endpoints().iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    let own = [
        ("{host}", name.clone()),
        ("{address}", network::host_address(host)),
        ("{path_a}", portal_address(host, Side::A)),
        ("{path_b}", portal_address(host, Side::B)),
        ("{etcd}", endpoints.join(", ")),
    ];
    let config = stage.config_at(plan.config, &dir, &own)?;
    Ok(Place { name: name.clone(), dir, config, within: network::within(&name) })
}
