//! Whether what `[cluster]` says fits together, and with the rest.
//!
//! Invariant: TLS is for all members of etcd or for none; a password and a private key have their other half; no two
//! listeners meet. Rejected: a cluster without TLS between the hosts; whoever reached that port could take a disk.
//! It does not know whether a file is there, and never looks into one.

use super::super::check_places::overlap;
use super::super::fault::{At, Problem, Report};
use super::super::limits::OWNED_TOGETHER_MAX;
use super::super::raw::RawConfig;
use super::super::types::Failback;
use super::build::{MIGRATE_PORTS_DEFAULT, MIGRATIONS_DEFAULT};
use super::raw::{RawCluster, RawEndpoint, RawIdentity, Scheme};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub(in crate::spec) fn all(report: &mut Report<'_>, config: &RawConfig) {
    let Some(cluster) = &config.cluster else {
        without_effect(report, config);
        return;
    };
    if config.host.as_ref().is_none_or(|host| host.name.is_none()) {
        let message = "[cluster]: this host has no name, and all hosts without one would be one host";
        report.fault(cluster.at, Problem::new(message).hint("write name = \"kvm1\" in [host]"));
    }
    members(report, cluster);
    disks(report, config);
    tls(report, cluster);
    user(report, cluster);
    identity(report, &cluster.etcd_identity);
    addresses(report, cluster);
    ports(report, cluster);
    listeners(report, config, cluster);
}

fn members(report: &mut Report<'_>, cluster: &RawCluster) {
    let mut seen: Vec<&At<RawEndpoint>> = Vec::new();
    for member in cluster.endpoints() {
        if seen.iter().any(|first| first.it.endpoint == member.it.endpoint) {
            let message = format!("etcd: {} stands there twice", member.it.endpoint);
            report.fault(member.at, Problem::new(message));
        } else if seen.first().is_some_and(|first| first.it.scheme != member.it.scheme) {
            let message = "etcd: some members have http and some https";
            let hint = "the members of one etcd are reached in one way: write https for all";
            report.fault(member.at, Problem::new(message).hint(hint));
        }
        seen.push(member);
    }
}

/// All disks of a VM change their owner in one step, which etcd bounds.
fn disks(report: &mut Report<'_>, config: &RawConfig) {
    for over in config.vms.iter().filter_map(|vm| vm.disks.get(OWNED_TOGETHER_MAX)) {
        let message = format!(
            "[cluster]: this is one disk of its vm too many: {OWNED_TOGETHER_MAX} change hosts together"
        );
        report.fault(over.at, Problem::new(message));
    }
}

fn tls(report: &mut Report<'_>, cluster: &RawCluster) {
    let Some(first) = cluster.endpoints().next() else { return };
    let identity = [("etcd_cert", &cluster.etcd_identity.cert), ("etcd_key", &cluster.etcd_identity.key)];
    match (first.it.scheme, &cluster.etcd_ca) {
        (Scheme::Https, None) => {
            let message = "etcd: https needs etcd_ca, who signed the members' certificates";
            report.fault(first.at, Problem::new(message).hint("write etcd_ca = \"/etc/vmpath/etcd-ca.pem\""));
        }
        (Scheme::Https, Some(_)) => {}
        (Scheme::Http, ca) => {
            let files = [("etcd_ca", ca)].into_iter().chain(identity);
            for (key, at) in files.filter_map(|(key, file)| Some((key, file.as_ref()?.at))) {
                let message = format!("{key}: etcd is reached by http, which has no TLS: this has no effect");
                report.warn(at, Problem::new(message));
            }
            if let Some(member) = cluster.endpoints().find(|member| !is_loopback(&member.it)) {
                let reads = if cluster.user.is_some() { " reads the password, and" } else { "" };
                let message = format!(
                    "etcd: {} is without TLS: anyone on the way to it{reads} can give a disk to another host",
                    member.it.endpoint
                );
                report.warn(member.at, Problem::new(message).hint("use https, with etcd_ca"));
            }
        }
    }
}

fn is_loopback(member: &RawEndpoint) -> bool {
    let host = member.endpoint.host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn user(report: &mut Report<'_>, cluster: &RawCluster) {
    match (&cluster.user, &cluster.password_file) {
        (Some(user), None) => {
            let problem = Problem::new("user: password_file is missing, the file that holds the password");
            report.fault(user.at, problem.hint("write password_file = \"/etc/vmpath/etcd.password\""));
        }
        (None, Some(file)) => {
            report.fault(file.at, Problem::new("password_file: user is missing, whose password this is"));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// Of `peer_*` both are required, and have been asked for where the keys are read.
fn identity(report: &mut Report<'_>, etcd: &RawIdentity) {
    let lone = |report: &mut Report<'_>, found: &At<PathBuf>, key: &str, other: &str| {
        let message = format!("{key}: {other} is missing: one is no use without the other");
        report.fault(found.at, Problem::new(message));
    };
    match (&etcd.cert, &etcd.key) {
        (Some(cert), None) => lone(report, cert, "etcd_cert", "etcd_key"),
        (None, Some(key)) => lone(report, key, "etcd_key", "etcd_cert"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// What others dial must be one host, whatever this one listens on.
fn addresses(report: &mut Report<'_>, cluster: &RawCluster) {
    let Some(listen) = cluster.peer_listen.as_ref().filter(|listen| listen.it.ip().is_unspecified()) else {
        return;
    };
    if cluster.peer_address.is_none() {
        let message =
            format!("peer_listen: {} is every address of this host, and others need one", listen.it);
        report.fault(listen.at, Problem::new(message).hint("write peer_address = \"ADDRESS:PORT\" too"));
    }
}

fn ports(report: &mut Report<'_>, cluster: &RawCluster) {
    let ports = cluster.migrate_ports.as_ref().map_or(MIGRATE_PORTS_DEFAULT, |ports| ports.it.clone());
    let max = cluster.migrations_max.as_ref().map_or(MIGRATIONS_DEFAULT, |max| max.it);
    let (first, last) = (*ports.start(), *ports.end());
    let at = cluster.migrate_ports.as_ref().map(|p| p.at).or(cluster.migrations_max.as_ref().map(|m| m.at));
    let Some(at) = at else { return };
    if ports.len() < usize::from(max) {
        let message =
            format!("migrate_ports: {first}-{last} is {} ports, and migrations_max is {max}", ports.len());
        report.fault(at, Problem::new(message).hint("each incoming VM needs a port of its own"));
    }
}

/// Ports of this host that would meet: peers', QEMU's, NBD front ends'.
fn listeners(report: &mut Report<'_>, config: &RawConfig, cluster: &RawCluster) {
    let Some(peer) = &cluster.peer_listen else { return };
    let incoming = cluster.migrate_address.as_ref().map(|a| a.it);
    let incoming = incoming.or(cluster.peer_address.as_ref().map(|a| a.it.ip())).unwrap_or(peer.it.ip());
    let ports = cluster.migrate_ports.as_ref().map_or(MIGRATE_PORTS_DEFAULT, |ports| ports.it.clone());
    if ports.contains(&peer.it.port()) && overlap(incoming, peer.it.ip()) {
        let message = format!(
            "peer_listen: port {} is one of migrate_ports, {}-{}",
            peer.it.port(),
            ports.start(),
            ports.end()
        );
        report.fault(peer.at, Problem::new(message).hint("take a port outside them"));
    }
    for disk in config.vms.iter().flat_map(|vm| &vm.disks) {
        let Some(nbd) = &disk.nbd_tcp else { continue };
        if meet(nbd.it, peer.it) {
            let place = report.refer(nbd.at, peer.at);
            let message = format!("peer_listen: {} is already taken by a disk; first at {place}", peer.it);
            report.fault(peer.at, Problem::new(message));
        }
    }
}

fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && overlap(a.ip(), b.ip())
}

/// What is for several hosts, on a host that is alone.
fn without_effect(report: &mut Report<'_>, config: &RawConfig) {
    const ALONE: &str = "no other host is configured: this has no effect";
    let fence = config.host.as_ref().and_then(|host| host.fence_command.as_ref());
    let mut said: Vec<_> = fence.map(|fence| ("fence_command", fence.at)).into_iter().collect();
    for vm in &config.vms {
        said.extend(vm.launch.as_ref().map(|launch| ("launch", launch.at)));
        said.extend(vm.returns.as_ref().map(|returns| ("return", returns.at)));
        said.extend(vm.move_dwell.as_ref().map(|dwell| ("move_dwell", dwell.at)));
    }
    for (key, at) in said {
        report.warn(at, Problem::new(format!("{key}: {ALONE}")));
    }
    for failback in config.targets.iter().filter_map(|target| target.failback.as_ref()) {
        if failback.it == Failback::Followover {
            let message = "failback: no other host is configured: followover is immediate";
            report.warn(failback.at, Problem::new(message));
        }
    }
}
