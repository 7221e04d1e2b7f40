//! Who this host is to other hosts: its key, its certificate, and the authority whose certificates it takes.
//!
//! Invariant: a certificate counts only for the exact host names that it lists, so that one host's key opens nothing in
//! another's name; wildcards are names of nobody. Sessions are never resumed, so each connection checks the dates anew.
//! Rejected: the system's authorities. Whoever may sign for the whole world must not be able to sign for a hypervisor.
//! It does not know when the files change ([`super::renewal`]), nor what a peer may ask.

use super::words::{date, refused_certificate};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The one protocol inside the encryption.
const PROTOCOL: &[u8] = b"h2";

/// Later than any certificate's end: year 9999 is the last that one can name.
const FAR: Duration = Duration::from_secs(300_000_000_000);

/// Where the files are, and whose they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `host.name`: what the certificate must name.
    pub host: String,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The span in which a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dates {
    pub from: u64,
    pub to: u64,
}

/// Files that were read and fit together.
#[derive(Clone, Debug)]
pub struct Identity {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
    pub dates: Dates,
    /// What is wrong with it now, in words, though others may come to see it otherwise: its dates.
    pub trouble: Option<String>,
}

impl Identity {
    /// Reads the files. Blocks on the file system.
    ///
    /// # Errors
    /// In words, with the file: it cannot be read, is no PEM, does not fit the others, or is not for this host.
    pub fn load(files: &Files, time: &Arc<dyn TimeProvider>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(&files.ca)?);
        let chain = certificates(&files.cert)?;
        let dates = dates(files, &provider, &roots, &chain)?;
        let client = client(files, &provider, &roots, &chain, time)?;
        let server = server(files, &provider, roots, chain, time)?;
        let trouble = dates.trouble(time.current_time().map_or(0, |now| now.as_secs()));
        Ok(Self { server: Arc::new(server), client: Arc::new(client), dates, trouble })
    }
}

impl Dates {
    /// What is wrong with them at `now` (seconds since 1970), in words.
    fn trouble(self, now: u64) -> Option<String> {
        let clock = date(now);
        if now < self.from {
            return Some(format!(
                "this host's own certificate is good only from {}; its clock says {clock}: is the clock right?",
                date(self.from)
            ));
        }
        (now > self.to).then(|| {
            format!(
                "this host's own certificate has expired on {}; its clock says {clock}: renew it (docs/cluster.md)",
                date(self.to)
            )
        })
    }
}

/// Whether a certificate that was verified lists exactly this host.
///
/// # Errors
/// In words: for whom it is.
pub fn names_host(certificate: &CertificateDer<'_>, host: &str) -> Result<(), String> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    if parsed.valid_dns_names().any(|name| name == host) {
        return Ok(());
    }
    let names: Vec<&str> = parsed.valid_dns_names().take(NAMES_SHOWN).collect();
    Err(if names.is_empty() { "for no host name at all".to_owned() } else { names.join(", ") })
}

/// In a message.
const NAMES_SHOWN: usize = 4;

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |error| format!("cannot read certificates in {}: {error}", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<_, _>>).map_err(cannot)?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate in PEM", file.display()));
    }
    Ok(found)
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{} is no certificate of an authority: {error}", file.display()))?;
    }
    Ok(roots)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file)
        .map_err(|error| format!("cannot read a private key in {}: {error}", file.display()))
}

/// Finds the span by asking the verifier at both ends of time: it names the date that it misses. What else is wrong with
/// the certificate comes out at a moment inside.
fn dates(
    files: &Files,
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
) -> Result<Dates, String> {
    let cert = files.cert.display();
    let name = ServerName::try_from(files.host.clone()).map_err(|_| {
        format!("host.name {:?} cannot stand in a certificate: it must be a DNS name", files.host)
    })?;
    let (own, between) = chain.split_first().ok_or_else(|| format!("{cert} holds no certificate"))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|error| format!("{}: {error}", files.ca.display()))?;
    let at = |since: Duration| {
        verifier.verify_server_cert(own, between, &name, &[], UnixTime::since_unix_epoch(since)).err()
    };
    let in_words = |error: Option<Error>| match error {
        Some(Error::InvalidCertificate(why)) => format!("{cert}: {}", refused_certificate(&why, &files.host)),
        Some(error) => format!("{cert}: {error}"),
        None => format!("{cert} has no dates"),
    };
    let from = match at(Duration::ZERO) {
        Some(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            not_before
        }
        other => return Err(in_words(other)),
    };
    let to = match at(FAR) {
        Some(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => not_after,
        other => return Err(in_words(other)),
    };
    match at(Duration::from_secs(from.as_secs())) {
        None => names_host(own, &files.host).map_err(|whose| {
            format!("{cert} is for {whose}, and must list this host, {}, itself", files.host)
        })?,
        other => return Err(in_words(other)),
    }
    Ok(Dates { from: from.as_secs(), to: to.as_secs() })
}

fn client(
    files: &Files,
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    time: &Arc<dyn TimeProvider>,
) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider), Arc::clone(time))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain.to_vec(), key(&files.key)?)
        .map_err(|error| unfit(files, &error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn server(
    files: &Files,
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    time: &Arc<dyn TimeProvider>,
) -> Result<ServerConfig, String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error| format!("{}: {error}", files.ca.display()))?;
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(time))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key(&files.key)?)
        .map_err(|error| unfit(files, &error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn unfit(files: &Files, error: &Error) -> String {
    let (cert, key) = (files.cert.display(), files.key.display());
    match error {
        Error::InconsistentKeys(_) => {
            format!("{key} is not the key of the certificate in {cert}: were both replaced?")
        }
        other => format!("{cert} with {key}: {other}"),
    }
}
