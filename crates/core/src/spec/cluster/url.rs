//! Addresses that `[cluster]` names: etcd's members, QEMU's address and ports.
//!
//! Invariant: nothing that stands before an '@' is ever repeated in a message. It does not know whether anything answers.

use super::super::fault::{Problem, did_you_mean, shown};
use super::super::url::socket_address;
use super::Endpoint;
use super::raw::{RawEndpoint, Scheme};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// IANA's port of etcd's clients.
const ETCD_PORT: u16 = 2379;
const FORM: &str = "write it like \"https://10.0.0.1:2379\"";
/// RFC 1035, 2.3.4.
const HOST_BYTES_MAX: usize = 253;

pub(super) fn endpoint(text: &str) -> Result<RawEndpoint, Problem> {
    if text.contains('@') {
        return Err(Problem::new("a URL of etcd holds no user and no password")
            .hint("write user = \"…\" and password_file = \"/PATH\""));
    }
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| Problem::new(format!("{} is not a URL", shown(text))).hint(FORM))?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => {
            let hint = did_you_mean(scheme, ["http", "https"]).unwrap_or_else(|| FORM.to_owned());
            return Err(Problem::new(format!("{} is neither http nor https", shown(scheme))).hint(hint));
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(Problem::new(format!(
            "{}: a member of etcd has an address and a port only",
            shown(text)
        ))
        .hint(FORM));
    }
    Ok(RawEndpoint { scheme, endpoint: authority_of(authority)? })
}

fn authority_of(authority: &str) -> Result<Endpoint, Problem> {
    let name = authority.split(':').next().unwrap_or_default();
    let is_name = !authority.starts_with('[') && name.contains(|c: char| c.is_ascii_alphabetic());
    if !is_name || authority.matches(':').count() > 1 {
        let address = socket_address(authority, Some(ETCD_PORT))?;
        one_host(address.ip())?;
        let host = match address.ip() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        return Ok(Endpoint { host, port: address.port() });
    }
    if let Some(c) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"-.".contains(*c)) {
        return Err(Problem::new(format!("{}: {c:?} cannot be part of a host's name", shown(name))));
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(Problem::new(format!("a host's name has at most {HOST_BYTES_MAX} characters")));
    }
    // The port is checked by those who know ports; the address is only there to carry it.
    let stand_in = authority.replacen(name, "10.0.0.1", 1);
    let port = socket_address(&stand_in, Some(ETCD_PORT))?.port();
    Ok(Endpoint { host: name.to_owned(), port })
}

fn one_host(ip: IpAddr) -> Result<(), Problem> {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err(Problem::new(format!("{ip} is not the address of one host")));
    }
    Ok(())
}

/// `ADDRESS:PORT`, one that others can dial.
pub(super) fn dialled(text: &str) -> Result<SocketAddr, Problem> {
    let address = socket_address(text, None)?;
    one_host(address.ip())?;
    Ok(address)
}

pub(super) fn listened(text: &str) -> Result<SocketAddr, Problem> {
    socket_address(text, None)
}

/// An address without a port; IPv6 with or without brackets.
pub(super) fn address(text: &str) -> Result<IpAddr, Problem> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => text.parse::<IpAddr>().ok(),
    };
    let ip = ip.ok_or_else(|| {
        let message = format!("{} is not an address", shown(text));
        Problem::new(message).hint("write it like \"10.0.0.1\", without a port: migrate_ports has those")
    })?;
    one_host(ip)?;
    Ok(ip.to_canonical())
}

/// `FIRST-LAST`, or one port.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, Problem> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |word: &str| {
        let word = word.trim();
        let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| word.parse::<u16>().ok()).flatten().filter(|port| *port != 0)
    };
    let (Some(low), Some(high)) = (number(first), number(last)) else {
        return Err(Problem::new(format!("{} is not a range of ports, each from 1 to 65535", shown(text)))
            .hint("write it like \"49152-49215\""));
    };
    if high < low {
        return Err(Problem::new(format!("{}: it ends before it begins", shown(text)))
            .hint(format!("write \"{high}-{low}\"")));
    }
    Ok(low..=high)
}
