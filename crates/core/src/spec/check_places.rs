//! Whether sockets, ports and exports are used once: what would meet itself or somebody else at run time.
//!
//! Invariant: one export of one server is one unit, reached once per path; each front end listens on a place of its own.
//! Rejected: leaving this to `bind` and to luck; two names for one export would be two writers that no lock sees.
//! It does not know whether two addresses lead to one server; the identity check at connect does.

use super::build::API_SOCKET_DEFAULT;
use super::fault::{At, Place, Problem, Report};
use super::raw::{RawConfig, RawDisk, RawTarget, RawVm};
use super::types::PathUrl;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

pub(super) fn all(report: &mut Report<'_>, config: &RawConfig) {
    let mut endpoints = Endpoints::new();
    for target in &config.targets {
        exports(report, config, target, &mut endpoints);
    }
    sockets(report, config);
    ports(report, config);
}

/// What a URL leads to, and the export asked for there.
type Endpoint<'c> = (Server<'c>, String);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Server<'c> {
    Address(SocketAddr),
    Socket(&'c Path),
    /// It is the unit itself: nothing is asked for.
    Device(&'c Path),
}

struct Reached<'c> {
    target: &'c RawTarget,
    unit: &'c str,
    path: &'c str,
    url_at: Place,
}

type Endpoints<'c> = BTreeMap<Endpoint<'c>, Reached<'c>>;

/// The target's units, listed or used by a disk, with the first place that names each.
fn units_of<'c>(config: &'c RawConfig, target: &'c RawTarget) -> BTreeMap<&'c str, Place> {
    let used = config.vms.iter().flat_map(|v| &v.disks).filter_map(|d| d.unit.as_ref());
    let used = used.filter(|u| u.it.target == target.label()).map(|u| (u.it.name.as_str(), u.at));
    let listed = target.units.iter().filter_map(|u| u.name.as_ref()).map(|n| (n.it.as_str(), n.at));
    let mut units = BTreeMap::new();
    for (name, at) in listed.chain(used) {
        units.entry(name).or_insert(at);
    }
    units
}

fn exports<'c>(
    report: &mut Report<'_>,
    config: &'c RawConfig,
    target: &'c RawTarget,
    endpoints: &mut Endpoints<'c>,
) {
    let units = units_of(config, target);
    let mut said = BTreeSet::new();
    for path in &target.paths {
        let Some(url) = &path.url else { continue };
        let (server, url_export) = match &url.it {
            PathUrl::Nbd { address, export } => (Server::Address(*address), export.as_deref()),
            PathUrl::NbdUnix { socket, export } => (Server::Socket(socket), export.as_deref()),
            PathUrl::Block { device } => (Server::Device(device), Some("")),
        };
        if let Some(export) = url_export.filter(|_| units.len() > 1) {
            report.fault(url.at, one_unit_only(server, export, (target, units.len())));
            continue;
        }
        let path_name = path.name.as_ref().map_or("?", |n| n.it.as_str());
        for (unit, export) in asked_for(target, &units, url_export) {
            let here = Reached { target, unit, path: path_name, url_at: url.at };
            match endpoints.get(&(server, export.clone())) {
                Some(first) => met(report, first, &here, units.get(unit), &mut said),
                None => drop(endpoints.insert((server, export), here)),
            }
        }
    }
}

/// A URL that leads to one unit, of a target that has several.
fn one_unit_only(server: Server<'_>, export: &str, of: (&RawTarget, usize)) -> Problem {
    let (target, units) = (of.0.label(), of.1);
    match server {
        Server::Address(_) | Server::Socket(_) => Problem::new(format!(
            "url: it names the export {export:?}, but target {target} has {units} units"
        ))
        .hint("leave the export out: each unit asks for its own (its name, or its `export`)"),
        Server::Device(device) => {
            let device = device.display();
            Problem::new(format!("url: {device} is one unit, but target {target} has {units} units"))
                .hint("a device is a target of its own, with a path for each way to it")
        }
    }
}

/// Each unit and the export by which a path asks for it. A target without units gets a name that no export can have.
fn asked_for<'c>(
    target: &RawTarget,
    units: &BTreeMap<&'c str, Place>,
    url_export: Option<&str>,
) -> Vec<(&'c str, String)> {
    if units.is_empty() {
        let nobody =
            format!("\0{}:{}\0{}", target.at.source, target.at.offset, url_export.unwrap_or_default());
        return vec![("", nobody)];
    }
    let option = |unit: &str| {
        let listed = target.units.iter().find(|u| u.name.as_ref().is_some_and(|n| n.it == unit));
        listed.and_then(|u| u.export.as_deref())
    };
    let export = |unit| url_export.or_else(|| option(unit)).unwrap_or(unit).to_owned();
    units.keys().map(|unit| (*unit, export(unit))).collect()
}

/// Two paths or units meet at one export.
fn met(
    report: &mut Report<'_>,
    first: &Reached<'_>,
    here: &Reached<'_>,
    unit_at: Option<&Place>,
    said: &mut BTreeSet<Place>,
) {
    let same_target = first.target.at == here.target.at;
    let same_unit = same_target && first.unit == here.unit;
    let at = if same_target && !same_unit { *unit_at.unwrap_or(&here.url_at) } else { here.url_at };
    if !said.insert(at) {
        return;
    }
    let place = report.refer(first.url_at, at);
    let target = here.target.label();
    let problem = if same_unit {
        Problem::new(format!("url: path {} leads to the same place; first at {place}", first.path))
            .hint("two paths differ in what can fail: another address of the target")
    } else if same_target {
        Problem::new(format!("units {} and {} of target {target} are the same export", first.unit, here.unit))
            .hint("a unit has one writer: two names for one export would hide a second one")
    } else {
        let other = first.target.label();
        Problem::new(format!(
            "url: unit {target}/{} is the same export as unit {other}/{}; first at {place}",
            here.unit, first.unit
        ))
        .hint("a unit has one writer: two names for one export would hide a second one")
    };
    report.fault(at, problem);
}

fn disk_label(vm: &RawVm, disk: &RawDisk) -> String {
    format!("disk {}/{}", vm.label(), disk.name.as_ref().map_or("?", |n| n.it.as_str()))
}

fn disks(config: &RawConfig) -> impl Iterator<Item = (&RawVm, &RawDisk)> {
    config.vms.iter().flat_map(|vm| vm.disks.iter().map(move |disk| (vm, disk)))
}

/// Who uses a unix socket, under which key.
struct Claim<'c> {
    key: &'static str,
    what: String,
    socket: &'c Path,
    at: Option<Place>,
}

/// Every unix socket has one owner. Only paths may share one with each other: each unit asks for its own export there.
fn sockets(report: &mut Report<'_>, config: &RawConfig) {
    let mut owners: BTreeMap<&Path, &Claim<'_>> = BTreeMap::new();
    let claims = socket_claims(config);
    for claim in &claims {
        let Some(owner) = owners.get(claim.socket) else {
            owners.insert(claim.socket, claim);
            continue;
        };
        let Some(at) = claim.at.filter(|_| !(claim.key == "url" && owner.key == "url")) else { continue };
        let first =
            owner.at.map(|first| format!("; first at {}", report.refer(first, at))).unwrap_or_default();
        let (key, socket) = (claim.key, claim.socket.display());
        let message = format!("{key}: {socket} is already the socket of {}{first}", owner.what);
        report.fault(at, Problem::new(message));
    }
}

fn socket_claims(config: &RawConfig) -> Vec<Claim<'_>> {
    let api = config.host.as_ref().and_then(|h| h.api_socket.as_ref());
    let mut claims = vec![Claim {
        key: "api_socket",
        what: "the API".to_owned(),
        socket: api.map_or(Path::new(API_SOCKET_DEFAULT), |a| a.it.as_path()),
        at: api.map(|a| a.at),
    }];
    for vm in &config.vms {
        let claim = |qmp| socket_claim("qmp", format!("vm {}'s QMP", vm.label()), qmp);
        claims.extend(vm.qmp.as_ref().map(claim));
    }
    for target in &config.targets {
        for url in target.paths.iter().filter_map(|p| p.url.as_ref()) {
            if let PathUrl::NbdUnix { socket, .. } = &url.it {
                let what = format!("a path of target {}", target.label());
                claims.push(Claim { key: "url", what, socket, at: Some(url.at) });
            }
        }
    }
    for (vm, disk) in disks(config) {
        claims.extend(disk.nbd.as_ref().map(|nbd| socket_claim("nbd", disk_label(vm, disk), nbd)));
        let vhost_user = disk.vhost_user.as_ref();
        claims.extend(vhost_user.map(|socket| socket_claim("vhost_user", disk_label(vm, disk), socket)));
    }
    claims
}

fn socket_claim<'c>(key: &'static str, what: String, socket: &'c At<PathBuf>) -> Claim<'c> {
    Claim { key, what, socket: &socket.it, at: Some(socket.at) }
}

/// TCP front ends: each its own address, none of them a path's target, and a word about those that others can reach.
fn ports(report: &mut Report<'_>, config: &RawConfig) {
    let mut taken: BTreeMap<u16, Vec<(&At<SocketAddr>, String)>> = BTreeMap::new();
    for (vm, disk) in disks(config) {
        let Some(listen) = &disk.nbd_tcp else { continue };
        let same_port = taken.entry(listen.it.port()).or_default();
        if let Some((first, owner)) =
            same_port.iter().find(|(first, _)| overlap(first.it.ip(), listen.it.ip()))
        {
            let place = report.refer(first.at, listen.at);
            let message = format!("nbd_tcp: {} is already taken by {owner}; first at {place}", listen.it);
            report.fault(listen.at, Problem::new(message));
        }
        same_port.push((listen, disk_label(vm, disk)));
        if !listen.it.ip().is_loopback() {
            let message = format!(
                "nbd_tcp: NBD on {} is without TLS: anyone who reaches that address reads and writes this disk",
                listen.it
            );
            report
                .warn(listen.at, Problem::new(message).hint("use nbd, a unix socket, or a port on loopback"));
        }
    }
    for url in config.targets.iter().flat_map(|t| &t.paths).filter_map(|p| p.url.as_ref()) {
        let PathUrl::Nbd { address, .. } = &url.it else { continue };
        let listeners = taken.get(&address.port()).into_iter().flatten();
        let own = |listen: IpAddr| {
            listen == address.ip() || (listen.is_unspecified() && address.ip().is_loopback())
        };
        if let Some((first, owner)) = listeners.into_iter().find(|(listen, _)| own(listen.it.ip())) {
            let place = report.refer(first.at, url.at);
            let message = format!("url: this leads back to {owner} of this host; first at {place}");
            report.fault(url.at, Problem::new(message));
        }
    }
}

/// Whether two listeners on one port would meet. `::` also takes the IPv4 side.
pub(super) fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    a == b || covers(a, b) || covers(b, a)
}
