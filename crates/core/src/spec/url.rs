//! A path's URL: which server, and perhaps which export, this path leads to.
//!
//! Invariant: a URL's text reads back as the same [`PathUrl`]. The address is literal. Rejected: host names; a path that
//! needs a name server is lost together with it, and two names may be one address, which no check here would see.
//! It does not know whether anything answers there.

use super::fault::{Problem, did_you_mean, shown};
use super::types::PathUrl;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// IANA's port of NBD.
const NBD_PORT: u16 = 10809;
/// The NBD protocol's bound on strings.
const EXPORT_BYTES_MAX: usize = 4096;
/// The kernel's bound on a path, less its final NUL.
const PATH_BYTES_MAX: usize = 4095;
/// `sun_path` of a unix socket address, less its final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const FORMS: &str =
    "the forms are nbd://ADDRESS:PORT[/EXPORT], nbd+unix:///[EXPORT]?socket=/PATH and block:///PATH";

pub(super) fn parse(text: &str) -> Result<PathUrl, Problem> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Problem::new(format!("{} is not a URL", shown(text))).hint(FORMS));
    };
    if rest.contains('#') {
        return Err(Problem::new("a '#' has no meaning in a path's URL")
            .hint("write it as %23 if it is part of a name"));
    }
    match scheme {
        "nbd" => nbd(rest),
        "nbd+unix" => nbd_unix(rest),
        "nbds" | "nbds+unix" => Err(Problem::new("NBD over TLS is not available yet").hint(FORMS)),
        "block" => block(rest),
        "nvme-tcp" | "nvme+tcp" | "nvme" | "iscsi" => {
            Err(Problem::new(format!("{scheme}:// is not available yet")).hint(FORMS))
        }
        _ => Err(Problem::new(format!("{} is not a scheme that vmpath knows", shown(scheme)))
            .hint(did_you_mean(scheme, ["nbd", "nbd+unix", "block"]).unwrap_or_else(|| FORMS.to_owned()))),
    }
}

fn nbd(rest: &str) -> Result<PathUrl, Problem> {
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    if query.is_some() {
        return Err(Problem::new("nbd:// takes nothing after a '?'").hint("a socket belongs to nbd+unix://"));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(PathUrl::Nbd { address: server(authority)?, export: export(path)? })
}

fn nbd_unix(rest: &str) -> Result<PathUrl, Problem> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    if !authority.is_empty() {
        return Err(Problem::new(format!(
            "nbd+unix:// takes no address, and {} stands there",
            shown(authority)
        ))
        .hint("write three slashes: nbd+unix:///EXPORT?socket=/PATH"));
    }
    let mut socket = None;
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        match parameter.split_once('=') {
            Some(("socket", _)) if socket.is_some() => {
                return Err(Problem::new("socket= stands there twice"));
            }
            Some(("socket", value)) => socket = Some(socket_path(&percent_decoded(value)?)?),
            _ => {
                let name = parameter.split('=').next().unwrap_or(parameter);
                return Err(Problem::new(format!("nbd+unix:// knows no parameter {}", shown(name)))
                    .hint("the only one is socket=/PATH"));
            }
        }
    }
    let socket = socket
        .ok_or_else(|| Problem::new("the socket is missing").hint("write nbd+unix:///EXPORT?socket=/PATH"))?;
    Ok(PathUrl::NbdUnix { socket, export: export(path)? })
}

fn block(rest: &str) -> Result<PathUrl, Problem> {
    if rest.contains('?') {
        return Err(Problem::new("block:// takes nothing after a '?'")
            .hint("a '?' that is part of a name is written %3F"));
    }
    if !rest.starts_with('/') {
        let host = rest.split('/').next().unwrap_or_default();
        return Err(Problem::new(format!("block:// takes no address, and {} stands there", shown(host)))
            .hint("write three slashes: block:///dev/sdb"));
    }
    let text = percent_decoded(rest)?;
    if text.ends_with('/') {
        return Err(Problem::new(format!("{} cannot be a device or a file", shown(&text))));
    }
    Ok(PathUrl::Block { device: absolute_path(&text)? })
}

/// `ADDRESS[:PORT]` of a server.
fn server(authority: &str) -> Result<SocketAddr, Problem> {
    if authority.contains('@') {
        return Err(Problem::new("NBD knows no user: nothing may stand before an '@'"));
    }
    let address = socket_address(authority, Some(NBD_PORT))?;
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err(Problem::new(format!("{ip} is not the address of one server")));
    }
    Ok(address)
}

/// Reads `V4:PORT` or `[V6]:PORT`, literal; the port may be left out if there is a default.
pub(super) fn socket_address(text: &str, default_port: Option<u16>) -> Result<SocketAddr, Problem> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let unclosed = || Problem::new(format!("{}: the ']' is missing", shown(text)));
            let (host, after) = rest.split_once(']').ok_or_else(unclosed)?;
            let stray = || Problem::new(format!("{}: only :PORT may follow the ']'", shown(text)));
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(stray)?) };
            (host, port)
        }
        None if text.matches(':').count() > 1 => {
            return Err(Problem::new(format!("{}: an IPv6 address needs brackets", shown(text)))
                .hint("write it like [fd00::5]:10809"));
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let ip = literal_ip(host)?;
    if ip.is_ipv6() != text.starts_with('[') {
        return Err(Problem::new(format!("{}: brackets are for IPv6 addresses", shown(text))));
    }
    let port = match (port, default_port) {
        (Some(port), _) => port_number(port)?,
        (None, Some(default)) => default,
        (None, None) => return Err(Problem::new(format!("{}: the :PORT is missing", shown(text)))),
    };
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

fn literal_ip(host: &str) -> Result<IpAddr, Problem> {
    if host.is_empty() {
        return Err(
            Problem::new("the address is missing").hint("write it like 10.0.1.5:10809 or [fd00::5]:10809")
        );
    }
    if host.contains('%') {
        return Err(Problem::new(format!("{}: an address with a zone is not supported", shown(host)))
            .hint("use an address that is not link-local"));
    }
    host.parse().map_err(|_| {
        if host.chars().all(|c| c.is_ascii_digit() || c == '.') {
            Problem::new(format!("{} is not an IPv4 address", shown(host))).hint("write it like 10.0.1.5")
        } else if host.contains(':') {
            Problem::new(format!("{} is not an IPv6 address", shown(host))).hint("write it like [fd00::5]")
        } else {
            Problem::new(format!("{} is a host name, not an address", shown(host)))
                .hint("write the address: a path must not depend on a name server, which may fail with it")
        }
    })
}

fn port_number(text: &str) -> Result<u16, Problem> {
    let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    number.filter(|port| *port != 0).ok_or_else(|| {
        Problem::new(format!("{} is not a port", shown(text))).hint("a port is a number from 1 to 65535")
    })
}

/// The URL's path, without its slash. Empty means that the URL names no export.
fn export(path: &str) -> Result<Option<String>, Problem> {
    let name = percent_decoded(path)?;
    export_name(&name)?;
    Ok(Some(name).filter(|name| !name.is_empty()))
}

/// Checks the name of an NBD export; the empty one is the server's default export.
pub(super) fn export_name(name: &str) -> Result<String, Problem> {
    if name.contains('\0') {
        return Err(Problem::new("an export's name cannot hold a NUL"));
    }
    if name.len() > EXPORT_BYTES_MAX {
        return Err(Problem::new(format!("an export's name has at most {EXPORT_BYTES_MAX} bytes")));
    }
    Ok(name.to_owned())
}

/// Checks the path of a file or directory: absolute, and one that the kernel takes.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Problem> {
    if !text.starts_with('/') {
        return Err(Problem::new(format!("{} is not absolute", shown(text))).hint("a path begins with '/'"));
    }
    if text.contains('\0') {
        return Err(Problem::new("a path cannot hold a NUL"));
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(Problem::new(format!("a path has at most {PATH_BYTES_MAX} bytes")));
    }
    Ok(PathBuf::from(text))
}

/// Checks the path of a unix socket: absolute, and short enough for the kernel.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, Problem> {
    if text.is_empty() {
        return Err(Problem::new("the socket's path is empty"));
    }
    if !text.starts_with('/') {
        return Err(
            Problem::new(format!("{} is not absolute", shown(text))).hint("a socket's path begins with '/'")
        );
    }
    if text.contains('\0') || text.ends_with('/') {
        return Err(Problem::new(format!("{} cannot be the path of a socket", shown(text))));
    }
    if text.len() > SOCKET_PATH_BYTES_MAX {
        return Err(Problem::new(format!(
            "the socket's path has {} bytes, and the kernel takes at most {SOCKET_PATH_BYTES_MAX}",
            text.len()
        )));
    }
    Ok(PathBuf::from(text))
}

fn percent_decoded(text: &str) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let code = after.get(..2).filter(|code| code.iter().all(u8::is_ascii_hexdigit));
        let byte =
            code.and_then(|c| std::str::from_utf8(c).ok()).and_then(|c| u8::from_str_radix(c, 16).ok());
        bytes.push(byte.ok_or_else(|| {
            Problem::new(format!("{}: two hexadecimal digits must follow a '%'", shown(text)))
                .hint("a '%' that is part of a name is written %25")
        })?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| Problem::new(format!("{} does not decode to UTF-8", shown(text))))
}

struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

fn encoded(path: &Path) -> String {
    Encoded(&path.to_string_lossy()).to_string()
}

/// As the configuration would write it, with the port.
impl fmt::Display for PathUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd { address, export: None } => write!(f, "nbd://{address}"),
            Self::Nbd { address, export: Some(export) } => write!(f, "nbd://{address}/{}", Encoded(export)),
            Self::NbdUnix { socket, export } => {
                let export = export.as_deref().unwrap_or_default();
                write!(f, "nbd+unix:///{}?socket={}", Encoded(export), encoded(socket))
            }
            Self::Block { device } => write!(f, "block://{}", encoded(device)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_forms_are_read() {
        let nbd = |at: &str, export: Option<&str>| PathUrl::Nbd {
            address: address(at),
            export: export.map(str::to_owned),
        };
        let unix = |socket: &str, export: Option<&str>| PathUrl::NbdUnix {
            socket: socket.into(),
            export: export.map(str::to_owned),
        };
        assert_eq!(parse("nbd://10.0.1.5:10810"), Ok(nbd("10.0.1.5:10810", None)));
        assert_eq!(parse("nbd://10.0.1.5"), Ok(nbd("10.0.1.5:10809", None)));
        assert_eq!(parse("nbd://10.0.1.5/"), Ok(nbd("10.0.1.5:10809", None)));
        assert_eq!(parse("nbd://[fd00::5]/a/b%20c"), Ok(nbd("[fd00::5]:10809", Some("a/b c"))));
        assert_eq!(parse("nbd://[::ffff:10.0.1.5]:1"), Ok(nbd("10.0.1.5:1", None)));
        assert_eq!(parse("nbd+unix:///?socket=/run/x.sock"), Ok(unix("/run/x.sock", None)));
        assert_eq!(parse("nbd+unix:///disk?socket=/run/%25.sock"), Ok(unix("/run/%.sock", Some("disk"))));
        let block = |device: &str| PathUrl::Block { device: device.into() };
        assert_eq!(parse("block:///dev/disk/by-id/wwn-0x5"), Ok(block("/dev/disk/by-id/wwn-0x5")));
        assert_eq!(parse("block:///srv/a%20%3F"), Ok(block("/srv/a ?")));
    }

    #[test]
    fn each_part_of_a_bad_url_is_explained() {
        let bad = [
            ("10.0.1.5:10809", "is not a URL"),
            ("ndb://10.0.1.5", "did you mean \"nbd\"?"),
            ("http://10.0.1.5", "not a scheme that vmpath knows (the forms are"),
            ("iscsi://10.0.1.5", "iscsi:// is not available yet"),
            ("nvme-tcp://10.0.1.5", "nvme-tcp:// is not available yet"),
            ("block://sdb", "block:// takes no address, and \"sdb\" stands there"),
            ("block:", "is not a URL"),
            ("block://", "takes no address"),
            ("block:///", "cannot be a device or a file"),
            ("block:///dev/", "cannot be a device or a file"),
            ("block:///dev/sdb?x=1", "nothing after a '?'"),
            ("block:///dev/%00", "cannot hold a NUL"),
            ("blok:///dev/sdb", "did you mean \"block\"?"),
            ("nbds://10.0.1.5", "TLS is not available yet"),
            ("nbd://", "the address is missing"),
            ("nbd://storage1:10809", "is a host name, not an address (write the address: a path must not"),
            ("nbd://10.0.1", "is not an IPv4 address"),
            ("nbd://10.0.1.256", "is not an IPv4 address"),
            ("nbd://fd00::5", "needs brackets"),
            ("nbd://[fd00::5", "the ']' is missing"),
            ("nbd://[fd00::zz]", "is not an IPv6 address"),
            ("nbd://[fd00::5]10809", "only :PORT may follow"),
            ("nbd://[10.0.1.5]:1", "brackets are for IPv6"),
            ("nbd://[fe80::1%eth0]", "with a zone"),
            ("nbd://10.0.1.5:", "is not a port"),
            ("nbd://10.0.1.5:0", "is not a port"),
            ("nbd://10.0.1.5:+80", "is not a port"),
            ("nbd://10.0.1.5:70000", "is not a port"),
            ("nbd://root@10.0.1.5", "NBD knows no user"),
            ("nbd://0.0.0.0", "is not the address of one server"),
            ("nbd://224.0.0.1", "is not the address of one server"),
            ("nbd://10.0.1.5/x?socket=/y", "nothing after a '?'"),
            ("nbd://10.0.1.5/x#y", "a '#' has no meaning"),
            ("nbd://10.0.1.5/%4", "two hexadecimal digits"),
            ("nbd://10.0.1.5/%+1", "two hexadecimal digits"),
            ("nbd://10.0.1.5/%ff", "does not decode to UTF-8"),
            ("nbd://10.0.1.5/%00", "cannot hold a NUL"),
            ("nbd+unix://run/x.sock", "takes no address"),
            ("nbd+unix:///disk", "the socket is missing"),
            ("nbd+unix:///?sock=/x", "knows no parameter \"sock\""),
            ("nbd+unix:///?socket=x", "is not absolute"),
            ("nbd+unix:///?socket=", "path is empty"),
            ("nbd+unix:///?socket=/x&socket=/y", "twice"),
            ("nbd+unix:///?socket=/x/", "cannot be the path of a socket"),
        ];
        for (text, expected) in bad {
            let said = parse(text).expect_err(text).to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
        let long = format!("block:///{}", "x".repeat(4095));
        assert!(parse(&long).unwrap_err().message.contains("at most 4095 bytes"));
        let long = format!("nbd+unix:///?socket=/{}", "x".repeat(107));
        assert!(parse(&long).unwrap_err().message.contains("108 bytes"));
    }

    proptest! {
        #[test]
        fn urls_round_trip(export in "[^\\x00]{0,12}", socket in "/[^\\x00/]{1,20}", v6 in any::<u128>(), port in 1_u16..) {
            let export = Some(export).filter(|e| !e.is_empty());
            let block = PathUrl::Block { device: socket.clone().into() };
            prop_assert_eq!(parse(&block.to_string()), Ok(block));
            let unix = PathUrl::NbdUnix { socket: socket.into(), export: export.clone() };
            prop_assert_eq!(parse(&unix.to_string()), Ok(unix));
            let ip = IpAddr::from((v6 >> 8).to_be_bytes()).to_canonical();
            prop_assume!(!ip.is_unspecified() && !ip.is_multicast());
            let nbd = PathUrl::Nbd { address: SocketAddr::new(ip, port), export };
            prop_assert_eq!(parse(&nbd.to_string()), Ok(nbd));
        }

        #[test]
        fn no_url_panics(text in "(nbd|nbd\\+unix|block)://\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
