//! Whether sockets, ports and exports are used once: what would meet itself or somebody else at run time.
//!
//! Invariant: one export of one server is one unit, reached once per path; each front end listens on a place of its own.
//! Rejected: leaving this to `bind` and to luck; two names for one export would be two writers that no lock sees.
//! It does not know whether two addresses lead to one server; the identity check at connect does.

use super::build::API_SOCKET_DEFAULT;
use super::fault::{At, Place, Problem, Report};
use super::raw::{NamePair, RawConfig, RawDisk, RawTarget, RawVm};
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

/// A server's address or socket, and the export asked for.
type Endpoint<'c> = (Result<SocketAddr, &'c Path>, String);

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
            PathUrl::Nbd { address, export } => (Ok(*address), export),
            PathUrl::NbdUnix { socket, export } => (Err(socket.as_path()), export),
        };
        if let Some(export) = url_export.as_ref().filter(|_| units.len() > 1) {
            let message = format!(
                "url: it names the export {export:?}, but target {} has {} units",
                target.label(),
                units.len()
            );
            let hint = "leave the export out: each unit asks for its own (its name, or its `export`)";
            report.fault(url.at, Problem::new(message).hint(hint));
            continue;
        }
        let path_name = path.name.as_ref().map_or("?", |n| n.it.as_str());
        for (unit, export) in asked_for(target, &units, url_export.as_deref()) {
            let here = Reached { target, unit, path: path_name, url_at: url.at };
            match endpoints.get(&(server, export.clone())) {
                Some(first) => met(report, first, &here, units.get(unit), &mut said),
                None => drop(endpoints.insert((server, export), here)),
            }
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
        let nobody = format!("\0{}:{}\0{}", target.at.source, target.at.offset, url_export.unwrap_or_default());
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

/// Who uses a unix socket. The sockets of paths may be shared among paths; each unit asks for its own export there.
struct Owner {
    what: String,
    at: Option<Place>,
}

fn sockets(report: &mut Report<'_>, config: &RawConfig) {
    let api = config.host.as_ref().and_then(|h| h.api_socket.as_ref());
    let api_path = api.map_or(Path::new(API_SOCKET_DEFAULT), |a| a.it.as_path());
    let mut owners: BTreeMap<&Path, Owner> = BTreeMap::new();
    owners.insert(api_path, Owner { what: "the API".to_owned(), at: api.map(|a| a.at) });
    let mut claim = |what: String, socket: &'_ At<PathBuf>, key: &'static str| match owners.get(socket.it.as_path()) {
        Some(owner) => {
            let first = owner.at.map(|at| format!("; first at {}", report.refer(at, socket.at)));
            let (socket_path, first) = (socket.it.display(), first.unwrap_or_default());
            let message = format!("{key}: {socket_path} is already the socket of {}{first}", owner.what);
            report.fault(socket.at, Problem::new(message));
            None
        }
        None => Some(Owner { what, at: Some(socket.at) }),
    };
    let mut claimed: Vec<(&Path, Owner)> = Vec::new();
    let _ = (&mut claim, &mut claimed);
    todo!()
}
