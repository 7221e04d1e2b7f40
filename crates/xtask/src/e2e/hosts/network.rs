//! Several hosts on one machine: a network namespace for each, two cables to the array, one to the management network.
//!
//! ```text
//! host N:  san-a 10.88.N1.1 ──── hN-a 10.88.N1.2 : portal hN-a      member M:  mgmt 10.99.0.(20+M) ─┐
//!          san-b 10.88.N2.1 ──── hN-b 10.88.N2.2 : portal hN-b                                      │
//!          mgmt  10.99.0.(10+N) ─────────────────────────────────── bridge 10.99.0.1 ───────────────┘
//! ```
//! The array, and whoever looks on, are in the run's own namespace. The namespaces' names are in a file system of the
//! run's own, and end with it. Invariant: a cable can be cut alone, and what is lost is lost where it arrives.
//! Rejected: rules on the way out, which tell the sender. It does not know what runs in a host.

use crate::e2e::isolate::command;
use crate::e2e::network::now_unix_us;
use anyhow::Result;
use std::fs;

/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";
/// Of this machine's end of the management network.
const BRIDGE: &str = "mgmt";
const TABLE: &str = "vmpath_cut";

/// A host's two ways to the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    /// As paths are named in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    const fn number(self) -> usize {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }
}

/// What can be cut. Hosts and members count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cable {
    San(usize, Side),
    /// A host's to all others and to etcd.
    Management(usize),
    /// A member's of etcd.
    Member(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The far end is switched off: the host's interface loses its carrier.
    Carrier,
    /// Nothing arrives any more, in either direction, and nobody is told.
    Blackhole,
}

pub(crate) fn host_name(host: usize) -> String {
    format!("h{host}")
}

pub(crate) fn member_name(member: usize) -> String {
    format!("etcd{member}")
}

/// Of the array's portal for that path of that host.
pub(crate) fn portal_name(host: usize, side: Side) -> String {
    format!("h{host}-{}", side.name())
}

pub(crate) fn portal_address(host: usize, side: Side) -> String {
    format!("10.88.{host}{}.2", side.number())
}

pub(crate) fn host_address(host: usize) -> String {
    format!("10.99.0.{}", 10 + host)
}

pub(crate) fn member_address(member: usize) -> String {
    format!("10.99.0.{}", 20 + member)
}

/// Words that put a command into a namespace; it keeps the process id.
pub(crate) fn within(name: &str) -> Vec<String> {
    ["ip", "netns", "exec", name].map(str::to_owned).to_vec()
}

/// Makes all of it: at most 9 hosts, and members of etcd. Once in a run; again, it begins anew.
///
/// # Errors
/// `ip` may not, or the kernel lacks veth or bridges.
pub(crate) fn build(hosts: usize, members: usize) -> Result<()> {
    own_names()?;
    ip(&format!("link add {BRIDGE} type bridge"))?;
    ip(&format!("address add 10.99.0.1/24 dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))?;
    for host in 1..=hosts {
        let name = host_name(host);
        place(&name, &format!("{}/24", host_address(host)))?;
        for side in Side::BOTH {
            let (far, near) = (portal_name(host, side), format!("san-{}", side.name()));
            let net = format!("10.88.{host}{}", side.number());
            ip(&format!("link add {far} type veth peer name {near} netns {name}"))?;
            ip(&format!("address add {net}.2/24 dev {far}"))?;
            ip(&format!("link set {far} up"))?;
            ip(&format!("-n {name} address add {net}.1/24 dev {near}"))?;
            ip(&format!("-n {name} link set {near} up"))?;
        }
    }
    for member in 1..=members {
        place(&member_name(member), &format!("{}/24", member_address(member)))?;
    }
    Ok(())
}

/// Takes all of it away, so that another scenario can build its own.
///
/// # Errors
/// `ip` may not.
pub(crate) fn remove() -> Result<()> {
    let names = command("ip", &["netns", "list"])?;
    for name in names.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()) {
        ip(&format!("netns delete {name}"))?; // it lives on while a process there does, without a name and a cable
    }
    for kind in ["veth", "bridge"] {
        // One end takes the other with it.
        for line in command("ip", &["-o", "link", "show", "type", kind])?.lines() {
            if let Some(name) = line.split([' ', '@', ':']).filter(|word| !word.is_empty()).nth(1) {
                _ = ip(&format!("link delete {name}"));
            }
        }
    }
    Ok(())
}

/// Names of namespaces that nobody outside the run sees.
fn own_names() -> Result<()> {
    fs::create_dir_all(NAMES)?;
    if !fs::read_to_string("/proc/self/mounts")?.contains(&format!(" {NAMES} tmpfs ")) {
        command("mount", &["-t", "tmpfs", "tmpfs", NAMES])?;
    }
    remove()
}

/// A namespace with a cable to the management network.
fn place(name: &str, address: &str) -> Result<()> {
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("link add m-{name} type veth peer name mgmt netns {name}"))?;
    ip(&format!("link set m-{name} master {BRIDGE}"))?;
    ip(&format!("link set m-{name} up"))?;
    ip(&format!("-n {name} address add {address} dev mgmt"))?;
    ip(&format!("-n {name} link set mgmt up"))
}

/// Cuts a cable. When it began to be cut.
///
/// # Errors
/// `ip` or `nft` may not.
pub(crate) fn cut(cable: Cable, how: Cut) -> Result<u64> {
    let at = now_unix_us();
    let ends = Ends::of(cable);
    match how {
        Cut::Carrier => ip(&format!("link set {} down", ends.far))?,
        Cut::Blackhole => {
            command("nft", &[&swallow(&ends.far)])?;
            command("ip", &["netns", "exec", &ends.name, "nft", &swallow(&ends.near)])?;
        }
    }
    Ok(at)
}

/// Mends what [`cut`] did in this way. When it began to.
///
/// # Errors
/// It was not cut so.
pub(crate) fn mend(cable: Cable, how: Cut) -> Result<u64> {
    let at = now_unix_us();
    let ends = Ends::of(cable);
    match how {
        Cut::Carrier => ip(&format!("link set {} up", ends.far))?,
        Cut::Blackhole => {
            command("nft", &[&format!("delete table netdev {TABLE}_{}", table_word(&ends.far))])?;
            let there = format!("delete table netdev {TABLE}_{}", table_word(&ends.near));
            command("ip", &["netns", "exec", &ends.name, "nft", &there])?;
        }
    }
    Ok(at)
}

/// What goes to a host over the management network takes its time: about 24 MiB/s, so that something can happen while a guest's
/// memory is on its way. [`hurry`] ends it.
///
/// # Errors
/// `tc` may not, or it is slow already.
pub(crate) fn slow_down(host: usize) -> Result<()> {
    let words = format!("qdisc add dev m-{} root tbf rate 200mbit burst 256kb latency 50ms", host_name(host));
    command("tc", &words.split(' ').collect::<Vec<_>>()).map(drop)
}

/// # Errors
/// It is not slow.
pub(crate) fn hurry(host: usize) -> Result<()> {
    let words = format!("qdisc del dev m-{} root", host_name(host));
    command("tc", &words.split(' ').collect::<Vec<_>>()).map(drop)
}

/// A cable's two ends, and the namespace of the nearer one.
struct Ends {
    far: String,
    near: String,
    name: String,
}

impl Ends {
    fn of(cable: Cable) -> Self {
        let managed = |name: String| Self { far: format!("m-{name}"), near: "mgmt".to_owned(), name };
        match cable {
            Cable::San(host, side) => Self {
                far: portal_name(host, side),
                near: format!("san-{}", side.name()),
                name: host_name(host),
            },
            Cable::Management(host) => managed(host_name(host)),
            Cable::Member(member) => managed(member_name(member)),
        }
    }
}

/// All that arrives at a device is dropped, before anything else sees it.
fn swallow(device: &str) -> String {
    format!(
        "table netdev {TABLE}_{} {{\nchain arriving {{\ntype filter hook ingress device \"{device}\" priority 0; policy \
         drop;\n}}\n}}\n",
        table_word(device)
    )
}

fn table_word(device: &str) -> String {
    device.replace('-', "_")
}

fn ip(words: &str) -> Result<()> {
    command("ip", &words.split(' ').collect::<Vec<_>>()).map(drop)
}
