//! What goes wrong between two hosts, in words for whoever is woken by it.
//!
//! Invariant: each sentence names both sides: which file or clock of which host to look at. It does not know sockets, and
//! reads no clock: dates are told.

use super::identity::Dates;
use rustls::{AlertDescription, CertificateError, Error};
use std::io;
use std::time::Duration;

/// A moment in seconds since 1970 as `2026-11-23 07:05:09 UTC` (the civil calendar, proleptic Gregorian).
#[must_use]
pub fn date(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Years that begin in March, so that the day which may be missing is the last one.
    let era_days = days + 719_468;
    let (era, of_era) = (era_days / 146_097, era_days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The other end of a connection, as this host knows it.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    pub host: &'a str,
    pub address: &'a str,
}

/// Why a certificate is not taken; `whose` is its host.
#[must_use]
pub fn refused_certificate(why: &CertificateError, whose: &str) -> String {
    match why {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the certificate of {whose} has expired on {}, and this host's clock says {}: renew it, or set the clock that \
             is wrong",
            date(not_after.as_secs()),
            date(time.as_secs())
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the certificate of {whose} is good only from {}, and this host's clock says {}: is this host's clock behind?",
            date(not_before.as_secs()),
            date(time.as_secs())
        ),
        CertificateError::Expired => format!("the certificate of {whose} has expired"),
        CertificateError::NotValidYet => format!("the certificate of {whose} is not good yet"),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("the certificate of {whose} was not made by the authority in this host's peer_ca")
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!("the certificate is for {}, not for {whose}", presented_names(presented))
        }
        CertificateError::NotValidForName => format!("the certificate is not for {whose}"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => format!(
            "the certificate of {whose} is not for both ends of a connection: make it with extendedKeyUsage = serverAuth, \
             clientAuth"
        ),
        other => format!("the certificate of {whose} is refused: {other}"),
    }
}

/// rustls writes names as `DnsName("a")`.
fn presented_names(presented: &[String]) -> String {
    let plain = |name: &String| name.trim_start_matches("DnsName(").trim_end_matches(')').replace('"', "");
    if presented.is_empty() {
        return "nobody's name".to_owned();
    }
    presented.iter().take(4).map(plain).collect::<Vec<_>>().join(", ")
}

/// Why the encryption with `other`, which this host has dialled, failed. `own` are this host's dates, `now` its clock.
#[must_use]
pub fn refused_by_tls(error: &Error, other: Other<'_>, own: Dates, now: u64) -> String {
    let Other { host, address } = other;
    match error {
        Error::InvalidCertificate(why) => format!("{address}: {}", refused_certificate(why, host)),
        Error::AlertReceived(AlertDescription::CertificateExpired) => refused_dates(other, own, now),
        // An authority of the same name and another key is found out by the signature.
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => format!(
            "{host} does not take this host's certificate: the two were made by different authorities; compare peer_ca \
             on both"
        ),
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            format!("{host} does not take this host's certificate; its log says why")
        }
        Error::AlertReceived(alert) => {
            format!("{host} at {address} refuses the encryption ({alert:?}); its log says why")
        }
        Error::InvalidMessage(_) | Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            format!(
                "what answers at {address} does not speak as vmpath does: is this the peer_listen of {host}?"
            )
        }
        other => format!("the encryption with {host} at {address} failed: {other}"),
    }
}

/// The other host holds our certificate's dates against its clock, which it cannot tell us: what can be concluded is told.
fn refused_dates(other: Other<'_>, own: Dates, now: u64) -> String {
    let (from, to, clock) = (date(own.from), date(own.to), date(now));
    let host = other.host;
    let span = format!("it is good from {from} to {to}, and this host's clock says {clock}");
    if now > own.to {
        return format!("{host} refuses this host's certificate as expired: {span}; renew it");
    }
    if now < own.from {
        return format!(
            "{host} refuses this host's certificate as not good yet: {span}: is this host's clock behind?"
        );
    }
    let (behind, ahead) = (Duration::from_secs(now - own.from), Duration::from_secs(own.to - now));
    format!(
        "{host} refuses this host's certificate for its dates: {span}; so one of the two clocks is wrong: that of {host} \
         is behind by {} or more, or ahead by {} or more, or this host's is",
        rough(behind),
        rough(ahead)
    )
}

/// To the largest unit that is not zero.
fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let found = units.into_iter().find(|(unit, _)| seconds >= *unit);
    found.map_or(format!("{seconds} s"), |(unit, word)| format!("{} {word}", seconds / unit))
}

/// Why nobody could be reached at all.
#[must_use]
pub fn unreachable(error: &io::Error, other: Other<'_>) -> String {
    let Other { host, address } = other;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens at {address}: does vmpath run on {host}, and is this its peer_listen?")
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("there is no way to {host} at {address} ({error})")
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
            format!("{host} at {address} closed the connection at once; its log says why")
        }
        io::ErrorKind::TimedOut => silent(other),
        _ => format!("cannot reach {host} at {address}: {error}"),
    }
}

#[must_use]
pub fn silent(other: Other<'_>) -> String {
    format!(
        "no answer from {} at {}: is the host up, and does a firewall let its peer_listen through?",
        other.host, other.address
    )
}

/// Two daemons of different versions.
#[must_use]
pub fn other_version(other: &str, its: &str, ours: &str) -> String {
    format!(
        "{other} runs vmpath {its}, this host runs {ours}: bring both to the same version before a VM moves"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_are_of_the_civil_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(date(1_795_417_509), "2026-11-23 07:05:09 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    proptest! {
        /// As text they sort as they do as numbers, and a day later another day is shown.
        #[test]
        fn dates_keep_their_order(a in 0u64..200_000_000_000, b in 0u64..200_000_000_000) {
            prop_assert_eq!(a.cmp(&b), date(a).cmp(&date(b)));
            prop_assert_ne!(&date(a)[..10], &date(a + 86_400)[..10]);
        }
    }

    fn told(now: u64) -> String {
        let own = Dates { from: 1_000_000_000, to: 1_000_864_000 };
        let error = Error::AlertReceived(AlertDescription::CertificateExpired);
        refused_by_tls(&error, Other { host: "kvm2", address: "[::1]:7000" }, own, now)
    }

    #[test]
    fn a_refusal_for_dates_says_whose_clock_may_be_wrong_and_by_how_much() {
        let inside = told(1_000_086_400);
        assert!(inside.contains("behind by 1 d or more, or ahead by 9 d or more"), "{inside}");
        assert!(told(1_000_864_001).contains("renew it"));
        assert!(told(999_999_999).contains("is this host's clock behind?"));
    }
}
