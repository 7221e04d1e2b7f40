//! Certificates for tests: an authority and hosts' certificates by it, made by openssl as docs/cluster.md tells an operator.
//!
//! Dates are given, so that an expired certificate needs no waiting and no false clock.
//! Rejected: a crate that makes certificates, because then the commands of the documentation would be run by nobody.

use anyhow::{Context, Result, bail};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From 2020 to 2099.
    Now,
    /// From 2020 to 2021.
    Expired,
    /// From 2090 to 2099.
    NotYet,
    /// From five minutes ahead to 2099.
    Soon,
}

impl Validity {
    /// # Errors
    /// There is no `date`.
    fn dates(self) -> Result<(String, &'static str)> {
        Ok(match self {
            Self::Now => ("20200101000000Z".into(), "20990101000000Z"),
            Self::Expired => ("20200101000000Z".into(), "20210101000000Z"),
            Self::NotYet => ("20900101000000Z".into(), "20990101000000Z"),
            Self::Soon => {
                let words = ["-u", "-d", "5 minutes", "+%Y%m%d%H%M%SZ"];
                let told = Command::new("date").args(words).output().context("cannot run date")?;
                (String::from_utf8(told.stdout)?.trim().to_owned(), "20990101000000Z")
            }
        })
    }
}

/// What a host's configuration names as `peer_ca`, `peer_cert` and `peer_key`.
#[derive(Clone, Debug)]
pub struct HostFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A certificate authority in a folder.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes an authority in an existing, empty folder.
    ///
    /// # Errors
    /// openssl is not installed or refuses (its words are in the error), or the folder cannot be written.
    pub fn make(dir: &Path) -> Result<Self> {
        let made = Self { dir: dir.to_owned() };
        fs::write(made.file("index"), "")?;
        fs::write(made.file("serial"), "01\n")?;
        fs::write(made.file("openssl.cnf"), config(dir))?;
        let [key, cert] = ["ca.key", "ca.pem"].map(|name| made.text(name));
        let words =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=vmpath-peers";
        let extensions = ["-addext", "keyUsage=critical,keyCertSign", "-keyout", &key, "-out", &cert];
        openssl(words, &extensions)?;
        Ok(made)
    }

    /// A key and a certificate that names `host`, as `HOST.key` and `HOST.pem`; what was there is replaced.
    ///
    /// # Errors
    /// As [`Authority::make`].
    pub fn issue(&self, host: &str, validity: Validity) -> Result<HostFiles> {
        self.issue_for(host, &format!("DNS:{host}"), validity)
    }

    /// The same for somebody who is dialled by an address.
    ///
    /// # Errors
    /// As [`Authority::make`].
    pub fn issue_at(&self, host: &str, address: IpAddr) -> Result<HostFiles> {
        self.issue_for(host, &format!("DNS:{host},IP:{address}"), Validity::Now)
    }

    fn issue_for(&self, host: &str, names: &str, validity: Validity) -> Result<HostFiles> {
        let [key, request, cert, extensions] =
            ["key", "csr", "pem", "ext"].map(|end| self.text(&format!("{host}.{end}")));
        let config = self.text("openssl.cnf");
        fs::write(&extensions, format!("subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n"))?;
        let subject = format!("/CN={host}");
        let words = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(words, &["-subj", &subject, "-keyout", &key, "-out", &request])?;
        let (from, to) = validity.dates()?;
        let files = ["-config", &config, "-extfile", &extensions, "-in", &request, "-out", &cert];
        openssl("ca -batch -notext", &[&["-startdate", &from, "-enddate", to], &files[..]].concat())?;
        Ok(self.files(host))
    }

    /// Where [`Authority::issue`] puts a host's.
    #[must_use]
    pub fn files(&self, host: &str) -> HostFiles {
        let [cert, key] = ["pem", "key"].map(|end| self.file(&format!("{host}.{end}")));
        HostFiles { ca: self.file("ca.pem"), cert, key }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }
}

/// For `openssl ca`, the one command that takes dates.
fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[ca]\ndefault_ca = peers\n[peers]\ndatabase = {dir}/index\nserial = {dir}/serial\nnew_certs_dir = {dir}\n\
         certificate = {dir}/ca.pem\nprivate_key = {dir}/ca.key\ndefault_md = sha256\npolicy = names\n\
         unique_subject = no\n[names]\ncommonName = supplied\n"
    )
}

fn openssl(words: &str, more: &[&str]) -> Result<()> {
    let done = Command::new("openssl").args(words.split(' ')).args(more).output();
    let done = done.context("cannot run openssl; `apt-get install openssl` gives it")?;
    if !done.status.success() {
        bail!("openssl {words} refuses: {}", String::from_utf8_lossy(&done.stderr).trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(cert: &Path, what: &str) -> String {
        let words = ["x509", "-noout", what, "-in"];
        let done = Command::new("openssl").args(words).arg(cert).output().expect("openssl runs");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    #[test]
    fn a_certificate_is_by_its_authority_and_has_the_dates_asked_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::make(dir.path()).expect("an authority");
        let good = authority.issue("host1", Validity::Now).expect("a certificate");
        let old = authority.issue("host2", Validity::Expired).expect("a certificate");
        assert!(says(&old.cert, "-enddate").contains("Jan  1 00:00:00 2021"));
        let verify = |cert: &Path| {
            let ca = dir.path().join("ca.pem");
            Command::new("openssl")
                .arg("verify")
                .arg("-CAfile")
                .arg(ca)
                .arg(cert)
                .output()
                .expect("openssl runs")
        };
        assert!(verify(&good.cert).status.success());
        assert!(!verify(&old.cert).status.success());
    }
}
