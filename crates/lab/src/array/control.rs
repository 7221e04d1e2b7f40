//! The array's control socket: one JSON object a line, one answer a line.
//!
//! ```text
//! {"command": "fault", "portal": "a", "faults": "reset refuse ghost 1500"}   ->  {"ok": true, "at_unix_us": N}
//! {"command": "clear", "portal": "a"}          "portal": "all" means each, one after another
//! {"command": "status"}                        ->  {"ok": true, "at_unix_us": N, "portals": […], "units": […]}
//! {"command": "writers"}                       ->  {"ok": true, "at_unix_us": N, "units": [{"unit", "turns", …}]}
//! ```
//! Invariant: `at_unix_us` is the wall clock when it took effect (of the first portal, with "all"). Rejected: signals
//! and files, which answer nothing. It does not know: what a fault does.

use super::fault::Fault;
use super::portal::{Order, PortalHandle};
use super::unit::Unit;
use super::writers::UnitWriters;
use crate::clock::unix_micros;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The longest line that is accepted: far above any command.
const LINE_MAX: u64 = 64 << 10;
/// An array answers within its own bound for resets (1 s); after this it is taken for dead.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    Fault { portal: String, faults: String },
    Clear { portal: String },
    Status,
    Writers,
}

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Controlled {
    pub portals: Vec<PortalHandle>,
    pub units: Arc<Vec<Arc<Unit>>>,
}

/// Answers on the socket until the runtime ends.
pub async fn serve(listener: UnixListener, array: Arc<Controlled>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, Arc::clone(&array)))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(stream: UnixStream, array: Arc<Controlled>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(tokio::io::AsyncReadExt::take(read, LINE_MAX)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(ask) => array.answer(ask).await,
            Err(why) => Err(format!("not a command: {why}")),
        };
        let mut text = answer.unwrap_or_else(|why| json!({ "ok": false, "error": why })).to_string();
        text.push('\n');
        write.write_all(text.as_bytes()).await?;
        lines.get_mut().get_mut().set_limit(LINE_MAX);
    }
    Ok(())
}

impl Controlled {
    async fn answer(&self, ask: Ask) -> Result<Value, String> {
        match ask {
            Ask::Fault { portal, faults } => {
                self.order(&portal, &Order::Fault(Fault::parse_list(&faults)?)).await
            }
            Ask::Clear { portal } => self.order(&portal, &Order::Clear).await,
            Ask::Writers => {
                let units: Vec<_> = self.units.iter().map(|unit| unit.writers.seen(&unit.name)).collect();
                Ok(json!({ "ok": true, "at_unix_us": unix_micros(), "units": units }))
            }
            Ask::Status => {
                let portals: Vec<_> = self.portals.iter().map(|p| p.portal.status()).collect();
                let units: Vec<_> =
                    self.units.iter().map(|u| json!({ "name": u.name, "size": u.size })).collect();
                Ok(json!({ "ok": true, "at_unix_us": unix_micros(), "portals": portals, "units": units }))
            }
        }
    }

    async fn order(&self, name: &str, order: &Order) -> Result<Value, String> {
        let mut first = None;
        for handle in self.portals.iter().filter(|handle| name == "all" || handle.portal.name == name) {
            let at = handle.order(order.clone()).await?;
            first.get_or_insert(at);
        }
        let names = || self.portals.iter().map(|p| p.portal.name.as_str()).collect::<Vec<_>>().join(", ");
        let at =
            first.ok_or_else(|| format!("there is no portal {name:?}; there are: {}, and all", names()))?;
        Ok(json!({ "ok": true, "at_unix_us": at }))
    }
}

/// A client of the control socket, for tests and for `lab ctl`. Blocking.
#[derive(Debug)]
pub struct ArrayControl {
    stream: BufReader<BlockingStream>,
}

impl ArrayControl {
    /// # Errors
    /// If nobody listens there; the error names the socket.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = BlockingStream::connect(socket).map_err(|why| {
            anyhow::anyhow!(
                "cannot reach an array at {}: {why}; is `vmpath lab array --control` running?",
                socket.display()
            )
        })?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Switches faults on at one moment: `"reset refuse ghost 1500"`. Returns the wall-clock microsecond at which they
    /// took effect.
    ///
    /// # Errors
    /// In the array's words.
    pub fn fault(&mut self, portal: &str, faults: &str) -> anyhow::Result<u64> {
        at(&self.ask(&Ask::Fault { portal: portal.to_owned(), faults: faults.to_owned() })?)
    }

    /// Switches every fault of the portal off. Returns the wall-clock microsecond at which that took effect.
    ///
    /// # Errors
    /// In the array's words.
    pub fn clear(&mut self, portal: &str) -> anyhow::Result<u64> {
        at(&self.ask(&Ask::Clear { portal: portal.to_owned() })?)
    }

    /// The array's counters, as the socket gives them.
    ///
    /// # Errors
    /// In the array's words.
    pub fn status(&mut self) -> anyhow::Result<Value> {
        self.ask(&Ask::Status)
    }

    /// Which hosts have written each unit, to be given to [`super::writers::judge`].
    ///
    /// # Errors
    /// In the array's words.
    pub fn writers(&mut self) -> anyhow::Result<Vec<UnitWriters>> {
        Ok(serde_json::from_value(self.ask(&Ask::Writers)?["units"].take())?)
    }

    /// Asks anything.
    ///
    /// # Errors
    /// In the array's words.
    pub fn ask(&mut self, ask: &Ask) -> anyhow::Result<Value> {
        let mut line = serde_json::to_string(ask)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        anyhow::ensure!(!answer.is_empty(), "the array closed its control socket; it has probably ended");
        let answer: Value = serde_json::from_str(&answer)?;
        match answer["ok"].as_bool() {
            Some(true) => Ok(answer),
            _ => {
                anyhow::bail!("the array refuses: {}", answer["error"].as_str().unwrap_or("without a reason"))
            }
        }
    }
}

fn at(answer: &Value) -> anyhow::Result<u64> {
    answer["at_unix_us"].as_u64().ok_or_else(|| anyhow::anyhow!("the array's answer has no time: {answer}"))
}
