//! Which keys `[cluster]` has. It does not know defaults, and does not compare one value with another.

use super::super::fault::{At, Problem, Report, shown};
use super::super::limits::{
    ENDPOINTS_MAX, LEASE_MAX, LEASE_MIN, MIGRATIONS_MAX, PREFIX_BYTES_MAX, SETTLE_MAX, SETTLE_MIN,
};
use super::super::table::{Found, Table, in_key};
use super::super::{url as paths, words};
use super::raw::{RawCluster, RawEndpoint, RawIdentity};
use super::url;
use crate::time::Duration;

pub(in crate::spec) fn cluster(report: &mut Report<'_>, found: &Found<'_>) -> RawCluster {
    let mut t = Table::new(report, "[cluster]", found);
    t.require("etcd", "write etcd = [\"https://10.0.0.1:2379\", …], the members of your etcd");
    for (key, hint) in [
        ("peer_listen", "write peer_listen = \"10.0.0.11:7443\", where other hosts reach this daemon"),
        ("peer_ca", "write peer_ca = \"/etc/vmpath/ca.pem\", who signed the hosts' certificates"),
        ("peer_cert", "write peer_cert = \"/etc/vmpath/kvm1.pem\", this host's certificate"),
        ("peer_key", "write peer_key = \"/etc/vmpath/kvm1.key\", the key of peer_cert"),
    ] {
        t.require(key, hint);
    }
    t.renamed("password", "write password_file = \"/PATH\": the configuration holds no password");
    let cluster = RawCluster {
        at: found.at,
        etcd: endpoints(&mut t),
        prefix: plain(t.parsed("prefix", prefix)),
        user: t.parsed("user", user),
        password_file: t.parsed("password_file", paths::absolute_path),
        etcd_ca: t.parsed("etcd_ca", paths::absolute_path),
        etcd_identity: RawIdentity {
            cert: t.parsed("etcd_cert", paths::absolute_path),
            key: t.parsed("etcd_key", paths::absolute_path),
        },
        lease: plain(t.quantity("lease", lease)),
        peer_listen: t.parsed("peer_listen", url::listened),
        peer_address: t.parsed("peer_address", url::dialled),
        peer_ca: plain(t.parsed("peer_ca", paths::absolute_path)),
        peer_identity: RawIdentity {
            cert: t.parsed("peer_cert", paths::absolute_path),
            key: t.parsed("peer_key", paths::absolute_path),
        },
        migrate_address: t.parsed("migrate_address", url::address),
        migrate_ports: t.parsed("migrate_ports", url::ports),
        migrations_max: migrations_max(&mut t),
        settle: plain(t.quantity("settle", |s| words::duration_within(s, SETTLE_MIN, SETTLE_MAX))),
    };
    t.finish();
    cluster
}

/// Nothing if one of them is wrong.
fn endpoints(t: &mut Table<'_, '_, '_>) -> Option<At<Vec<At<RawEndpoint>>>> {
    let texts = t.text_or_texts("etcd")?;
    if texts.it.is_empty() || texts.it.len() > ENDPOINTS_MAX {
        let message = format!("etcd: there are from 1 to {ENDPOINTS_MAX} members");
        t.report.value_fault(texts.at, Problem::new(message));
        return None;
    }
    let (mut endpoints, given) = (Vec::new(), texts.it.len());
    for text in texts.it {
        match url::endpoint(&text.it) {
            Ok(it) => endpoints.push(At { at: text.at, it }),
            Err(problem) => t.report.value_fault(text.at, in_key("etcd", problem)),
        }
    }
    (endpoints.len() == given).then_some(At { at: texts.at, it: endpoints })
}

/// Slashes before names, so that two clusters in one etcd cannot be parts of each other by a slip.
fn prefix(text: &str) -> Result<String, Problem> {
    let names = text.strip_prefix('/').ok_or_else(|| {
        Problem::new(format!("{} does not begin with '/'", shown(text))).hint("write it like \"/vmpath\"")
    })?;
    if text.len() > PREFIX_BYTES_MAX {
        return Err(Problem::new(format!("a prefix has at most {PREFIX_BYTES_MAX} bytes")));
    }
    for name in names.split('/') {
        words::name(name)?;
    }
    Ok(text.to_owned())
}

fn user(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(Problem::new("the user's name is empty").hint("leave the key out if etcd asks for none"));
    }
    Ok(text.to_owned())
}

/// etcd counts a lease in whole seconds.
fn lease(text: &str) -> Result<Duration, Problem> {
    let lease = words::duration_within(text, LEASE_MIN, LEASE_MAX)?;
    if !lease.as_millis().is_multiple_of(1000) {
        return Err(Problem::new(format!("{}: etcd counts a lease in whole seconds", shown(text))));
    }
    Ok(lease)
}

fn migrations_max(t: &mut Table<'_, '_, '_>) -> Option<At<u16>> {
    let At { at, it } = t.integer("migrations_max", 1..=MIGRATIONS_MAX)?;
    Some(At { at, it: u16::try_from(it).ok()? })
}

fn plain<T>(found: Option<At<T>>) -> Option<T> {
    found.map(|f| f.it)
}
