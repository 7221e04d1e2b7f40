//! From a checked [`RawCluster`] to a [`ClusterSpec`].

use super::super::fault::At;
use super::raw::{RawCluster, RawIdentity, Scheme};
use super::{ClusterSpec, EtcdSpec, EtcdTls, EtcdUser, Identity, MigrationSpec, PeerSpec};
use crate::time::Duration;
use std::ops::RangeInclusive;

/// The ports that IANA leaves to everybody begin there, and other managers of QEMU use the same ones.
pub(super) const MIGRATE_PORTS_DEFAULT: RangeInclusive<u16> = 49_152..=49_215;
/// Two streams fill a network that storage shares.
pub(super) const MIGRATIONS_DEFAULT: u16 = 2;
const PREFIX_DEFAULT: &str = "/vmpath";
/// A few elections of etcd's fit in.
const LEASE_DEFAULT: Duration = Duration::from_secs(10);
const SETTLE_DEFAULT: Duration = Duration::from_secs(1);

/// Nothing if something is missing, which has been reported.
pub(in crate::spec) fn cluster(raw: &RawCluster) -> Option<ClusterSpec> {
    let listen = raw.peer_listen.as_ref()?.it;
    let address = raw.peer_address.as_ref().map_or(listen, |address| address.it);
    Some(ClusterSpec {
        etcd: etcd(raw)?,
        peer: PeerSpec { listen, address, ca: raw.peer_ca.clone()?, identity: identity(&raw.peer_identity)? },
        migration: MigrationSpec {
            address: raw.migrate_address.as_ref().map_or(address.ip(), |address| address.it),
            ports: raw.migrate_ports.as_ref().map_or(MIGRATE_PORTS_DEFAULT, |ports| ports.it.clone()),
            max: raw.migrations_max.as_ref().map_or(MIGRATIONS_DEFAULT, |max| max.it),
            settle: raw.settle.unwrap_or(SETTLE_DEFAULT),
        },
    })
}

fn etcd(raw: &RawCluster) -> Option<EtcdSpec> {
    let scheme = raw.endpoints().next()?.it.scheme;
    let ca = raw.etcd_ca.as_ref().filter(|_| scheme == Scheme::Https);
    let user = raw.user.as_ref().zip(raw.password_file.as_ref());
    Some(EtcdSpec {
        endpoints: raw.endpoints().map(|At { it, .. }| it.endpoint.clone()).collect(),
        prefix: raw.prefix.clone().unwrap_or_else(|| PREFIX_DEFAULT.to_owned()),
        user: user.map(|(name, file)| EtcdUser { name: name.it.clone(), password_file: file.it.clone() }),
        tls: ca.map(|ca| EtcdTls { ca: ca.it.clone(), identity: identity(&raw.etcd_identity) }),
        lease: raw.lease.unwrap_or(LEASE_DEFAULT),
    })
}

fn identity(raw: &RawIdentity) -> Option<Identity> {
    Some(Identity { cert: raw.cert.as_ref()?.it.clone(), key: raw.key.as_ref()?.it.clone() })
}
