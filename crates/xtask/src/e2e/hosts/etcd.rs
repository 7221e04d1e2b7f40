//! A real etcd of several members, each in a namespace of its own, for as long as its value lives.
//!
//! It does not know what is kept in it; questions are asked with Debian's `etcdctl`, from whichever host is to ask.

use super::network::{member_address, member_name, within};
use crate::e2e::server::Server;
use crate::e2e::stage::Stage;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const READY_MAX: Duration = Duration::from_secs(30);
/// Longer than a leader's election.
const ANSWER_MAX: &str = "3s";

#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Option<Server>>,
    data: PathBuf,
    logs: PathBuf,
}

impl Etcd {
    /// Starts all members and waits until they have agreed.
    ///
    /// # Errors
    /// etcd is not installed, or they do not agree in time.
    pub(crate) fn start(stage: &mut Stage, members: usize, data: &Path) -> Result<Self> {
        let members = (0..members).map(|_| None).collect();
        let mut etcd = Self { members, data: data.to_owned(), logs: stage.dir.clone() };
        for member in 1..=etcd.members.len() {
            etcd.restart(member)?;
        }
        stage.wait("etcd to agree", READY_MAX, |_| {
            for member in etcd.members.iter_mut().flatten() {
                member.check_alive()?;
            }
            Ok(etcd.ask(None, &["endpoint", "health"]).ok().map(drop))
        })?;
        Ok(etcd)
    }

    /// What clients are to be told.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        (1..=self.members.len()).map(|member| format!("http://{}:2379", member_address(member))).collect()
    }

    /// Starts a member with what it has left; one that runs is killed first. Members count from 1.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn restart(&mut self, member: usize) -> Result<()> {
        self.kill(member);
        let peer = |member: usize| format!("http://{}:2380", member_address(member));
        let all: Vec<String> =
            (1..=self.members.len()).map(|m| format!("{}={}", member_name(m), peer(m))).collect();
        let client = format!("http://{}:2379", member_address(member));
        let words = within(&member_name(member));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("etcd").arg("--data-dir").arg(self.data.join(member_name(member)));
        for (name, value) in [
            ("--name", member_name(member).as_str()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer(member)),
            ("--initial-advertise-peer-urls", &peer(member)),
            ("--initial-cluster", &all.join(",")),
            ("--log-outputs", "stderr"),
            ("--logger", "zap"),
        ] {
            command.args([name, value]);
        }
        self.members[member - 1] = Some(Server::start(&member_name(member), &mut command, &self.logs)?);
        Ok(())
    }

    /// Kills a member, if it runs.
    pub(crate) fn kill(&mut self, member: usize) {
        self.members[member - 1] = None;
    }

    /// Runs `etcdctl` in a host's namespace, or in the run's own. Its output.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub(crate) fn ask(&self, host: Option<&str>, words: &[&str]) -> Result<String> {
        let mut all = host.map(within).unwrap_or_default();
        let endpoints = self.endpoints().join(",");
        all.extend(
            ["etcdctl", "--dial-timeout", ANSWER_MAX, "--command-timeout", ANSWER_MAX].map(str::to_owned),
        );
        all.extend(["--endpoints".to_owned(), endpoints]);
        all.extend(words.iter().map(|word| (*word).to_owned()));
        let output = Command::new(&all[0]).args(&all[1..]).env("ETCDCTL_API", "3").output();
        let output = output.context("cannot run etcdctl; Debian's etcd-client has it")?;
        if !output.status.success() {
            bail!("etcdctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
