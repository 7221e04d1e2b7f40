//! A real etcd whose members have a namespace each, so that they can be cut off as well as killed.
//!
//! Clients show a certificate and a password, as they should. It does not know what is kept in it. Questions are asked with Debian's `etcdctl`, from whichever host is to ask.

use super::network::{member_address, member_name, within};
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;
use vmpath_lab::certs::{Authority, HostFiles, Validity};
use vmpath_lab::etcd::Place;

const READY_MAX: Duration = Duration::from_secs(30);
/// Longer than a leader's election.
const ANSWER_MAX: &str = "3s";

#[derive(Debug)]
pub(crate) struct Etcd {
    members: vmpath_lab::etcd::Etcd,
    count: usize,
    /// With which `etcdctl` asks.
    own: HostFiles,
}

/// The daemons' user.
pub(crate) const USER: &str = "vmpath";
/// At first.
pub(crate) const PASSWORD: &str = "not a secret";
const ROOT: &str = "root:nor is this";

impl Etcd {
    /// Starts all members and waits until they have agreed.
    ///
    /// # Errors
    /// etcd is not installed, or they do not agree in time.
    pub(crate) fn start(count: usize, authority: &Authority) -> Result<Self> {
        let place = |member| {
            let (name, address) = (member_name(member), member_address(member).parse()?);
            Ok((Place::in_namespace(&name, address), authority.issue_at(&name, address)?))
        };
        let places = (1..=count).map(place).collect::<Result<Vec<_>>>()?;
        let own = authority.issue("etcdctl", Validity::Now)?;
        let members = vmpath_lab::etcd::Etcd::start_with_tls(&places)?;
        members.wait_ready(READY_MAX)?;
        let etcd = Self { members, count, own };
        etcd.ask_for_passwords()?;
        Ok(etcd)
    }

    /// From now on nobody gets in without, and the daemons' user gets only to what is theirs.
    fn ask_for_passwords(&self) -> Result<()> {
        let host = member_name(1);
        for words in [
            &["user", "add", ROOT][..],
            &["user", "grant-role", "root", "root"],
            &["user", "add", &format!("{USER}:{PASSWORD}")],
            &["role", "add", USER],
            &["role", "grant-permission", USER, "--prefix=true", "readwrite", "/vmpath/"],
            &["user", "grant-role", USER, USER],
            &["auth", "enable"],
        ] {
            self.run(&host, &[], words, "")?;
        }
        Ok(())
    }

    /// Gives the daemons' user another password: those who are in are thrown out.
    ///
    /// # Errors
    /// etcd does not answer.
    pub(crate) fn change_password(&self, host: &str, password: &str) -> Result<()> {
        let words = ["user", "passwd", USER, "--interactive=false"];
        self.run(host, &["--user", ROOT], &words, &format!("{password}\n")).map(drop)
    }

    /// What clients are to be told.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        (1..=self.count).map(|member| format!("https://{}:2379", member_address(member))).collect()
    }

    /// Starts a member with what it has left; one that runs is killed first. Members count from 1.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn restart(&mut self, member: usize) -> Result<()> {
        self.members.restart(member - 1)
    }

    /// Kills a member, if it runs.
    pub(crate) fn kill(&mut self, member: usize) {
        self.members.kill(member - 1);
    }

    /// Runs `etcdctl` in a host's namespace. Its output.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub(crate) fn ask(&self, host: &str, words: &[&str]) -> Result<String> {
        self.run(host, &["--user", ROOT], words, "")
    }

    fn run(&self, host: &str, who: &[&str], words: &[&str], input: &str) -> Result<String> {
        let mut all = within(host);
        all.extend(
            ["etcdctl", "--dial-timeout", ANSWER_MAX, "--command-timeout", ANSWER_MAX].map(str::to_owned),
        );
        let HostFiles { ca, cert, key } = &self.own;
        for (flag, file) in [("--cacert", ca), ("--cert", cert), ("--key", key)] {
            all.extend([flag.to_owned(), file.display().to_string()]);
        }
        all.extend(["--endpoints".to_owned(), self.endpoints().join(",")]);
        all.extend(who.iter().chain(words).map(|word| (*word).to_owned()));
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).env("ETCDCTL_API", "3");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().context("cannot run etcdctl; Debian's etcd-client has it")?;
        // One that has ended already has said why.
        _ = running.stdin.take().context("piped")?.write_all(input.as_bytes());
        let output = running.wait_with_output()?;
        if !output.status.success() {
            bail!("etcdctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
