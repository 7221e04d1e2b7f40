//! The ground of stories with several hosts: one array, three members of etcd, and hosts with a daemon and guests each,
//! on one machine and in networks that can be cut one by one.
//!
//! The array knows by the portal which host a write came from, and at the end every unit's writers are judged: see
//! `vmpath_lab::array::writers`. It does not know what goes wrong, nor what a daemon should do about it.

pub(crate) mod etcd;
pub(crate) mod journey;
pub(crate) mod network;

use super::host::{Host, Place};
use super::server::Server;
use super::stage::Stage;
use super::storage::{PORT, array_at};
use super::vm::{self, Vm};
use anyhow::{Context, Result};
use etcd::{Etcd, PASSWORD, USER};
use network::{Side, host_name, portal_address, portal_name};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::array::writers::{Owned, judge};
use vmpath_lab::certs::{Authority, HostFiles, Validity};
use vmpath_lab::guest::{Arrival, FrontEnd, GuestConfig, GuestDisk, MEMORY_MIB, launch_script};
use vmpath_lab::report::Bound;

/// On which daemons listen for each other.
const PEER_PORT: u16 = 7780;

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) hosts: usize,
    pub(crate) members: usize,
    pub(crate) units: &'a [&'a str],
    /// Of the folder `e2e`, for all hosts: `{host}`, `{path_a}`, `{path_b}`, `{cluster}` and `{dir}` become each host's own.
    pub(crate) config: &'a str,
    /// Whether the hosts know of each other: `{cluster}` becomes the table of that name, or nothing.
    pub(crate) cluster: bool,
    /// Of each portal, such as `,latency=2ms`.
    pub(crate) portals: &'a str,
}

#[derive(Debug)]
pub(crate) struct Hosts {
    /// From 1: see [`Hosts::host`].
    daemons: Vec<Host>,
    pub(crate) etcd: Etcd,
    pub(crate) array: ArrayControl,
    /// Who signs the hosts' certificates.
    pub(crate) authority: Authority,
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
        let authority = authority(stage)?;
        let etcd = Etcd::start(plan.members, &authority)?;
        stage.say(format!("an array of {} portals, etcd of {} members", 2 * plan.hosts, plan.members));
        let mut daemons = Vec::new();
        for host in 1..=plan.hosts {
            let cluster = if plan.cluster { cluster(&etcd, &authority, host)? } else { String::new() };
            daemons.push(Host::begin(stage, place(stage, plan, host, cluster)?)?);
        }
        for daemon in &mut daemons {
            daemon.wait_ready(stage)?;
        }
        Ok(Self { daemons, etcd, array, authority, storage })
    }

    /// Hosts count from 1.
    pub(crate) fn host(&mut self, number: usize) -> &mut Host {
        &mut self.daemons[number - 1]
    }

    /// Runs `vmpath` on a host as an operator would.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn operator(&self, host: usize, words: &[&str]) -> Result<Output> {
        self.daemons[host - 1].operator(words)
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

    /// Process ids of the QEMUs that run there for this guest, whoever has started them.
    ///
    /// # Errors
    /// There is no /proc.
    pub(crate) fn hypervisors(&self, stage: &Stage) -> Result<Vec<i32>> {
        let socket = format!("path={}", self.dir(stage).join(self.vm).join("agent.sock").display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            // Of one that has ended meanwhile there is nothing to read.
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&words).contains(&socket) {
                found.push(pid);
            }
        }
        Ok(found)
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

/// Who signs the hosts' certificates.
fn authority(stage: &Stage) -> Result<Authority> {
    let dir = stage.dir.join("certificates");
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Authority::make(&dir)
}

/// The `[cluster]` of a host's configuration.
fn cluster(etcd: &Etcd, authority: &Authority, host: usize) -> Result<String> {
    let endpoints: Vec<String> = etcd.endpoints().iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    let files = authority.issue(&host_name(host), Validity::Now)?;
    // Another one for etcd, so that a story can spoil either.
    let of_etcd = authority.issue(&format!("{}-at-etcd", host_name(host)), Validity::Now)?;
    let password = password_file(authority, host);
    fs::write(&password, format!("{PASSWORD}\n"))?;
    Ok(cluster_table(&endpoints.join(", "), &network::host_address(host), [&files, &of_etcd], &password))
}

/// Where a host has its password for etcd.
pub(crate) fn password_file(authority: &Authority, host: usize) -> PathBuf {
    authority.files(&host_name(host)).key.with_extension("password")
}

fn cluster_table(endpoints: &str, address: &str, files: [&HostFiles; 2], password: &Path) -> String {
    let words =
        |files: &HostFiles| [&files.ca, &files.cert, &files.key].map(|file| file.display().to_string());
    let [[ca, cert, key], [etcd_ca, etcd_cert, etcd_key]] = files.map(words);
    let password = password.display();
    format!(
        "[cluster]\netcd = [{endpoints}]\netcd_ca = \"{etcd_ca}\"\netcd_cert = \"{etcd_cert}\"\netcd_key = \"{etcd_key}\"\nuser = \
         \"{USER}\"\npassword_file = \"{password}\"\npeer_listen = \"{address}:{PEER_PORT}\"\npeer_ca = \"{ca}\"\npeer_cert = \
         \"{cert}\"\npeer_key = \"{key}\"\nmigrate_address = \"{address}\"\n"
    )
}

/// A host's folder, configuration and namespace.
fn place(stage: &Stage, plan: &Plan<'_>, host: usize, cluster: String) -> Result<Place> {
    let name = host_name(host);
    let dir = stage.dir.join(&name);
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let own = [
        ("{host}", name.clone()),
        ("{path_a}", portal_address(host, Side::A)),
        ("{path_b}", portal_address(host, Side::B)),
        ("{cluster}", cluster),
    ];
    let config = stage.config_at(plan.config, &dir, &own)?;
    Ok(Place { name: name.clone(), dir, config, within: network::within(&name) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmpath_core::spec::{Source, parse};

    #[test]
    fn the_hosts_configuration_is_one_with_and_without_others() {
        let files = HostFiles { ca: "/c/ca.pem".into(), cert: "/c/h1.pem".into(), key: "/c/h1.key".into() };
        let table =
            cluster_table("\"https://10.99.0.21:2379\"", "10.99.0.11", [&files, &files], Path::new("/c/p"));
        let (hosts, migrate) =
            (include_str!("../../../../../e2e/hosts.toml"), include_str!("../../../../../e2e/migrate.toml"));
        let (three, takeover) =
            (include_str!("../../../../../e2e/three.toml"), include_str!("../../../../../e2e/takeover.toml"));
        for (text, cluster, known) in [hosts, migrate, three, takeover]
            .map(|text| (text, table.as_str(), true))
            .into_iter()
            .chain([(hosts, "", false)])
        {
            let mut text = text.replace("{front_end}", "vhost_user");
            let paths = [("{path_a}", "10.88.11.2"), ("{path_b}", "10.88.12.2")];
            for (place, word) in
                [("{host}", "h1"), ("{dir}", "/d"), ("{cluster}", cluster)].into_iter().chain(paths)
            {
                text = text.replace(place, word);
            }
            let parsed = parse(&[Source { name: "hosts.toml", text: &text }]).expect("a configuration");
            assert_eq!(parsed.spec.cluster.is_some(), known);
        }
    }
}
