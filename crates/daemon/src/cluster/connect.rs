//! From `[cluster]` to a client of one member of etcd.
//!
//! Invariant: one member at a time, so that it is known whom a call went to and whether it answers at all. Files are read at each
//! connect, so that a renewed certificate or password needs no restart, and away from the control threads: the disk they lie on may
//! be sick. Rejected: a balancer over all members; it hands calls to dead ones and calls their refusal the cluster's.
//! It does not know which member is good.

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use vmpath_core::spec::{Endpoint, EtcdSpec};
use vmpath_core::time::Duration;

/// A member that does not even take a connection for so long is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// etcd closes connections that are pinged more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Of a file's mode: what everybody may do.
const OTHERS: u32 = 0o007;

/// # Errors
/// In words, without any password.
pub(super) async fn client(etcd: &EtcdSpec, endpoint: &Endpoint) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_EVERY, PING_TIMEOUT)
        .with_auto_token_refresh(true)
        .with_require_leader(true);
    let scheme = if etcd.tls.is_some() { "https" } else { "http" };
    if let Some(tls) = &etcd.tls {
        let mut config = TlsOptions::new()
            .domain_name(endpoint.host.trim_matches(['[', ']']))
            .ca_certificate(Certificate::from_pem(file(&tls.ca).await?));
        if let Some(identity) = &tls.identity {
            config =
                config.identity(Identity::from_pem(file(&identity.cert).await?, file(&identity.key).await?));
        }
        options = options.with_tls(config);
    }
    if let Some(user) = &etcd.user {
        let text = file(&user.password_file).await?;
        warn_of_readers(&user.password_file).await;
        let text =
            String::from_utf8(text).map_err(|_| format!("{} is no text", user.password_file.display()))?;
        options = options.with_user(&user.name, text.lines().next().unwrap_or_default());
    }
    let url = format!("{scheme}://{endpoint}");
    Client::connect([url], Some(options)).await.map_err(|error| words(&error))
}

async fn file(path: &Path) -> Result<Vec<u8>, String> {
    let (path, name) = (PathBuf::from(path), path.display().to_string());
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    read.map_err(|error| error.to_string())?.map_err(|error| format!("cannot read {name}: {error}"))
}

/// Once: it is read at each connect.
async fn warn_of_readers(path: &Path) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let of = path.to_owned();
    let read = tokio::task::spawn_blocking(move || is_everybodys(&of)).await;
    if read.unwrap_or(false) && !TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "{} can be read by other users, who can then give disks away: chmod 600",
            path.display()
        );
    }
}

fn is_everybodys(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.mode() & OTHERS != 0)
}

/// The innermost reason is the one that helps.
pub(super) fn words(error: &Error) -> String {
    let Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut inner: &dyn std::error::Error = status;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let (told, reason) = (status.message(), inner.to_string());
    let told = if told.is_empty() { status.code().description() } else { told };
    if inner.source().is_none() && std::ptr::addr_eq(inner, status) || told.contains(&reason) {
        told.to_owned()
    } else {
        format!("{told}: {reason}")
    }
}
