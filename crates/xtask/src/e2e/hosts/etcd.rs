//! A real etcd whose members have a namespace each, so that they can be cut off as well as killed.
//!
//! It does not know what is kept in it. Questions are asked with Debian's `etcdctl`, from whichever host is to ask.

use super::network::{member_address, member_name, within};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Duration;
use vmpath_lab::etcd::Place;

const READY_MAX: Duration = Duration::from_secs(30);
/// Longer than a leader's election.
const ANSWER_MAX: &str = "3s";

#[derive(Debug)]
pub(crate) struct Etcd {
    members: vmpath_lab::etcd::Etcd,
    count: usize,
}

impl Etcd {
    /// Starts all members and waits until they have agreed.
    ///
    /// # Errors
    /// etcd is not installed, or they do not agree in time.
    pub(crate) fn start(count: usize) -> Result<Self> {
        let place = |member| Ok(Place::in_namespace(&member_name(member), member_address(member).parse()?));
        let places = (1..=count).map(place).collect::<Result<Vec<_>>>()?;
        let members = vmpath_lab::etcd::Etcd::start(&places)?;
        members.wait_ready(READY_MAX)?;
        Ok(Self { members, count })
    }

    /// What clients are to be told.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        (1..=self.count).map(|member| format!("http://{}:2379", member_address(member))).collect()
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
        let mut all = within(host);
        all.extend(
            ["etcdctl", "--dial-timeout", ANSWER_MAX, "--command-timeout", ANSWER_MAX].map(str::to_owned),
        );
        all.extend(["--endpoints".to_owned(), self.endpoints().join(",")]);
        all.extend(words.iter().map(|word| (*word).to_owned()));
        let output = Command::new(&all[0]).args(&all[1..]).env("ETCDCTL_API", "3").output();
        let output = output.context("cannot run etcdctl; Debian's etcd-client has it")?;
        if !output.status.success() {
            bail!("etcdctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
