//! A real etcd for tests: members on loopback or where they are told, killed, frozen and started again by number.
//!
//! Invariant: no member outlives its [`Etcd`], and each kill is a SIGKILL, so that what is back is what was on its disk (a tmpfs).
//! Rejected: a stand-in for etcd; the tests are about what a real one does when it loses its leader.
//! It does not know what is kept in it.

mod proxy;

pub use proxy::Proxy;

use crate::certs::HostFiles;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An answer that takes longer is none. Above etcd's own bound for a write without quorum, 7 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at something that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where a member runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where clients and the other members reach it.
    pub client: SocketAddr,
    pub peer: SocketAddr,
    /// Words before etcd's own: `["ip", "netns", "exec", "etcd1"]`.
    pub within: Vec<String>,
}

impl Place {
    /// Two free ports of this machine.
    ///
    /// # Errors
    /// If there are none.
    pub fn on_loopback() -> Result<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        // Both are bound at the same time, so that they differ.
        let (client, peer) = (free()?, free()?);
        Ok(Self { client: client.local_addr()?, peer: peer.local_addr()?, within: vec![] })
    }

    /// etcd's usual ports on an address inside a network namespace.
    #[must_use]
    pub fn in_namespace(name: &str, address: IpAddr) -> Self {
        let within = ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
        Self { client: SocketAddr::new(address, 2379), peer: SocketAddr::new(address, 2380), within }
    }

    /// Where it tells how it is without TLS.
    fn metrics(&self) -> Result<SocketAddr> {
        if self.within.is_empty() {
            return Ok(Self::on_loopback()?.client);
        }
        Ok(SocketAddr::new(self.client.ip(), 2381))
    }
}

#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    place: Place,
    tls: Option<HostFiles>,
    /// Where it says, without TLS, how it is.
    health: SocketAddr,
    process: Option<Child>,
}

impl Etcd {
    /// Whether this machine has it (Debian: `etcd-server`).
    #[must_use]
    pub fn is_installed() -> bool {
        let version =
            Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    }

    /// That many members on this machine, with a leader.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn on_loopback(members: usize) -> Result<Self> {
        let places: Vec<Place> = (0..members).map(|_| Place::on_loopback()).collect::<Result<_>>()?;
        let etcd = Self::start(&places)?;
        etcd.wait_ready(Duration::from_secs(60))?;
        Ok(etcd)
    }

    /// One member on this machine that asks clients for a certificate of the same authority. `files` are its own, for `localhost`. There is
    /// no JSON side of its API then.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn on_loopback_with_tls(files: &HostFiles) -> Result<Self> {
        let etcd = Self::start_with_tls(&[(Place::on_loopback()?, files.clone())])?;
        etcd.wait_ready(Duration::from_secs(60))?;
        Ok(etcd)
    }

    /// A member in each place, all of one cluster. They may have no leader yet.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub fn start(places: &[Place]) -> Result<Self> {
        Self::run(places.iter().map(|place| (place.clone(), None)).collect())
    }

    /// The same, and all ask clients for a certificate of the authority that has made their own; to each other they speak without TLS.
    /// There is no JSON side of their API then.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_tls(places: &[(Place, HostFiles)]) -> Result<Self> {
        Self::run(places.iter().map(|(place, files)| (place.clone(), Some(files.clone()))).collect())
    }

    fn run(places: Vec<(Place, Option<HostFiles>)>) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("vmpath-etcd");
        let dir = if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? };
        let member = |(place, tls): (Place, Option<HostFiles>)| -> Result<Member> {
            let health = if tls.is_some() { place.metrics()? } else { place.client };
            Ok(Member { place, tls, health, process: None })
        };
        let members = places.into_iter().map(member).collect::<Result<_>>()?;
        let mut etcd = Self { members, dir };
        for at in 0..etcd.members.len() {
            etcd.restart(at)?;
        }
        Ok(etcd)
    }

    /// Where clients reach each member.
    #[must_use]
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.place.client).collect()
    }

    /// Kills a member, if it runs.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            _ = process.kill();
            _ = process.wait();
        }
    }

    /// Starts a member with what it left on its disk; one that runs is killed first.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        self.kill(at);
        let mut words = self.members[at].place.within.clone();
        words.push("etcd".into());
        words.extend(self.arguments(at));
        let log =
            File::options().create(true).append(true).open(self.dir.path().join(format!("m{at}.log")))?;
        let process = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", words[0]))?;
        self.members[at].process = Some(process);
        Ok(())
    }

    fn arguments(&self, at: usize) -> Vec<String> {
        let name = |at: usize| format!("m{at}");
        let member = |(at, member): (usize, &Member)| format!("{}=http://{}", name(at), member.place.peer);
        let all: Vec<String> = self.members.iter().enumerate().map(member).collect();
        let Member { place: Place { client, peer, .. }, tls, health, .. } = &self.members[at];
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (client, peer) = (format!("{scheme}://{client}"), format!("http://{peer}"));
        let data = self.dir.path().join(name(at)).display().to_string();
        let pairs = [
            ("--name", name(at)),
            ("--data-dir", data),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", all.join(",")),
            ("--initial-cluster-state", "new".to_owned()),
            ("--logger", "zap".to_owned()),
            ("--log-outputs", "stderr".to_owned()),
        ];
        let mut words: Vec<String> =
            pairs.into_iter().flat_map(|(key, value)| [key.to_owned(), value]).collect();
        if let Some(HostFiles { ca, cert, key }) = tls {
            words.push("--client-cert-auth".to_owned());
            words.push(format!("--listen-metrics-urls=http://{}", health));
            for (flag, file) in [("--trusted-ca-file", ca), ("--cert-file", cert), ("--key-file", key)] {
                words.push(format!("{flag}={}", file.display()));
            }
        }
        words
    }

    /// Stops a member as a sick machine does: its connections stay open, and nothing answers.
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze(&self, at: usize) -> Result<()> {
        self.signal(at, Signal::STOP)
    }

    /// # Errors
    /// If it does not run.
    pub fn thaw(&self, at: usize) -> Result<()> {
        self.signal(at, Signal::CONT)
    }

    fn signal(&self, at: usize, signal: Signal) -> Result<()> {
        let process = self.members[at].process.as_ref().context("the member does not run")?;
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// The number of the member that leads, as the first that answers says.
    ///
    /// # Errors
    /// If nobody leads.
    pub fn leader(&self) -> Result<usize> {
        let status = |member: &Member| post(member.place.client, "/v3/maintenance/status", &json!({})).ok();
        let statuses: Vec<Option<Value>> = self.members.iter().map(status).collect();
        let leader = statuses.iter().flatten().find_map(|status| status["leader"].as_str());
        let leader = leader.filter(|leader| *leader != "0").context("no member knows a leader")?;
        let is = |status: &Option<Value>| {
            status.as_ref().is_some_and(|status| status["header"]["member_id"].as_str() == Some(leader))
        };
        statuses.iter().position(is).context("the leader does not answer")
    }

    /// Returns when every running member serves reads that the majority agrees to.
    ///
    /// # Errors
    /// If that takes longer than `bound`; with the end of a log.
    pub fn wait_ready(&self, bound: Duration) -> Result<()> {
        let end = Instant::now() + bound;
        for (at, member) in self.members.iter().enumerate().filter(|(_, member)| member.process.is_some()) {
            while !is_healthy(member.health) {
                if Instant::now() > end {
                    let log = std::fs::read_to_string(self.dir.path().join(format!("m{at}.log")))
                        .unwrap_or_default();
                    let last: Vec<&str> = log.lines().rev().take(5).collect();
                    bail!(
                        "member {at} of etcd is not ready after {} s:\n{}",
                        bound.as_secs(),
                        last.join("\n")
                    );
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// Asks the first member, by the JSON side of its API. Keys and values in it are base64.
    ///
    /// # Errors
    /// If it does not answer, or declines.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        post(self.members[0].place.client, path, body)
    }

    /// Everything below a prefix, deleted.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub fn delete_prefix(&self, prefix: &str) -> Result<()> {
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let body = json!({ "key": base64(prefix.as_bytes()), "range_end": base64(&end) });
        self.post("/v3/kv/deleterange", &body).map(drop)
    }

    /// # Errors
    /// As [`Self::post`].
    pub fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.post("/v3/kv/put", &json!({ "key": base64(key.as_bytes()), "value": base64(value) })).map(drop)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
    }
}

fn is_healthy(member: SocketAddr) -> bool {
    http(member, "GET /health HTTP/1.0\r\n\r\n").is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

fn post(member: SocketAddr, path: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let request = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = http(member, &request)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    if !head.contains(" 200 ") {
        bail!("etcd declines {path}: {body}");
    }
    serde_json::from_str(body).with_context(|| format!("etcd's answer to {path}"))
}

fn http(member: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&member, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let sextet = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    /// RFC 4648, section 10.
    #[test]
    fn keys_are_written_as_the_json_side_reads_them() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
