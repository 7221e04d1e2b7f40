//! Storage in a network of its own, with a cable to it for each path: what happens to an interface of this host.
//!
//! Loopback addresses have no cable to pull, and a packet to an address of this host never leaves it: so the server is in a
//! network namespace of its own, which ends with it. It does not know what is served.

use super::isolate::command;
use super::network::now_unix_us;
use super::server::Server;
use super::stage::Stage;
use super::storage::{self, PORT};
use anyhow::Result;
use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

const START_MAX: Duration = Duration::from_secs(10);
/// The cables: this host's end, the storage's end, and the first three numbers of their addresses: .1 here and .2 there.
const CABLES: [(&str, &str, &str); 2] = [("near-a", "far-a", "10.77.1"), ("near-b", "far-b", "10.77.2")];

/// The storage at the other end of the cables.
#[derive(Debug)]
pub(crate) struct Storage {
    server: Server,
}

/// What becomes of the cable of path `a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulled {
    /// This host's interface is switched off.
    Off,
    /// The other end is: this host's interface loses its carrier.
    Carrier,
}

impl Storage {
    /// nbdkit with one export for each unit, at 10.77.1.2 and 10.77.2.2.
    ///
    /// # Errors
    /// It does not start, or this kernel has no veth.
    pub(crate) fn start(stage: &mut Stage, units: &[&str]) -> Result<Self> {
        let folder = storage::units(stage, units)?;
        let mut script = String::from("ip link set lo up\n");
        for (_, far, net) in CABLES {
            script.push_str(&format!(
                "until ip address add {net}.2/24 dev {far} 2>/dev/null; do sleep 0.02; done; ip link set {far} up\n"
            ));
        }
        script.push_str(&format!(
            // Slow enough that there is always something on each path.
            "exec nbdkit --foreground --exit-with-parent --filter=noparallel --filter=delay -p {PORT} file dir={} \
             rdelay=10ms wdelay=10ms",
            folder.display()
        ));
        let mut there = Command::new("unshare");
        there.args(["--net", "--", "sh", "-c", &script]);
        let mut server = Server::start("nbdkit", &mut there, &stage.dir)?;
        let pid = server.id().to_string();
        let here = fs::read_link("/proc/self/ns/net")?;
        stage.wait("the storage's network", START_MAX, |_| {
            server.check_alive()?;
            let theirs = fs::read_link(format!("/proc/{pid}/ns/net"))?;
            Ok((theirs != here).then_some(()))
        })?;
        for (near, far, net) in CABLES {
            ip(&format!("link add {near} type veth peer name {far} netns {pid}"))?;
            ip(&format!("address add {net}.1/24 dev {near}"))?;
            ip(&format!("link set {near} up"))?;
        }
        // One that no path uses.
        ip("link add spare-1 type veth peer name spare-2")?;
        ip("link set spare-1 up")?;
        ip("link set spare-2 up")?;
        stage.wait("nbdkit to listen", START_MAX, |_| {
            server.check_alive()?;
            Ok(TcpStream::connect((format!("{}.2", CABLES[0].2), PORT)).ok())
        })?;
        Ok(Self { server })
    }

    /// Pulls path a's cable. When.
    ///
    /// # Errors
    /// `ip` may not.
    pub(crate) fn pull(&self, how: Pulled) -> Result<u64> {
        let before = now_unix_us();
        self.switch(how, "down")?;
        Ok(before)
    }

    /// When it began to be plugged in again.
    ///
    /// # Errors
    /// `ip` may not.
    pub(crate) fn plug(&self, how: Pulled) -> Result<u64> {
        let before = now_unix_us();
        self.switch(how, "up")?;
        Ok(before)
    }

    fn switch(&self, how: Pulled, word: &str) -> Result<()> {
        let (near, far, _) = CABLES[0];
        match how {
            Pulled::Off => ip(&format!("link set {near} {word}")),
            Pulled::Carrier => {
                let pid = self.server.id().to_string();
                command("nsenter", &["--net", "--target", &pid, "ip", "link", "set", far, word]).map(drop)
            }
        }
    }

    /// Switches the cable that no path uses.
    ///
    /// # Errors
    /// `ip` may not.
    pub(crate) fn switch_spare(&self, word: &str) -> Result<()> {
        ip(&format!("link set spare-1 {word}"))
    }
}

fn ip(words: &str) -> Result<()> {
    command("ip", &words.split(' ').collect::<Vec<_>>()).map(drop)
}
