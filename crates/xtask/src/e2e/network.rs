//! What happens to a path: firewall rules on the address of its portal, in the run's own network namespace.
//!
//! Packets are lost where they arrive, not where they leave: a drop on the way out is told to the sender as an error
//! and is no blackhole. It does not know what listens there.

use super::isolate::command;
use anyhow::Result;
use std::time::{SystemTime, UNIX_EPOCH};

/// The address of path `a`'s portal and of path `b`'s: one server behind both.
pub(crate) const ADDRESS_A: &str = "127.0.0.2";
pub(crate) const ADDRESS_B: &str = "127.0.0.3";

/// Of the local port: which of two members a flow leads over.
const MEMBER_BIT: u16 = 2;

/// Whether [`Loss::Member`] swallows what comes from this port.
pub(crate) const fn over_dead_member(local_port: u16) -> bool {
    local_port & MEMBER_BIT == MEMBER_BIT
}

const TABLE: &str = "vmpath_e2e";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Requests are answered by a TCP reset, and so are new connections. Bare acknowledgements pass: else a connection
    /// could be reset when it carries nothing, and there would be no failover to measure.
    Reset,
    /// Nothing passes, in either direction.
    Blackhole,
    /// What comes from half of the local ports is swallowed: those whose flows lead over one member of the network's two.
    Member,
    /// Requests arrive; replies and acknowledgements are lost.
    BlackholeReplies,
}

/// Makes the paths to `addresses` fail, all at one moment.
///
/// # Errors
/// nft is not installed, or may not.
pub(crate) fn lose(addresses: &[&str], loss: Loss) -> Result<u64> {
    let mut rules = String::new();
    for address in addresses {
        rules.push_str(&match loss {
            Loss::Reset => format!(
                "ip daddr {address} tcp flags & (psh | rst) == psh reject with tcp reset\n\
                 ip daddr {address} tcp flags & (syn | rst) == syn reject with tcp reset\n"
            ),
            Loss::Blackhole => format!("ip daddr {address} drop\nip saddr {address} drop\n"),
            // Not by the lowest bit: Linux gives connections even ports.
            Loss::Member => format!("ip daddr {address} tcp sport & {MEMBER_BIT} == {MEMBER_BIT} drop\n"),
            Loss::BlackholeReplies => format!("ip saddr {address} drop\n"),
        });
    }
    let table = format!(
        "table inet {TABLE} {{\nchain arriving {{\ntype filter hook input priority 0; policy accept;\n{rules}}}\n}}\n"
    );
    let before = now_unix_us();
    command("nft", &[&table])?;
    Ok(before)
}

/// Everything passes again. When.
///
/// # Errors
/// nft may not.
pub(crate) fn heal() -> Result<u64> {
    command("nft", &[&format!("delete table inet {TABLE}")])?;
    Ok(now_unix_us())
}

/// Everything passes again, if anything did not.
///
/// # Errors
/// nft may not.
pub(crate) fn heal_if_lost() -> Result<()> {
    let tables = command("nft", &["list tables"])?;
    if tables.contains(TABLE) { heal().map(drop) } else { Ok(()) }
}

/// Wall clock, as the journal has it.
pub(crate) fn now_unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
