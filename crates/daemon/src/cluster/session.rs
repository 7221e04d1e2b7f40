//! One session with one member of etcd: a lease, everything read once, and a watch of what follows.
//!
//! Invariant: the watch begins right after the revision of what was read, so nothing is missed; when it cannot go on (compaction, a
//! member without a leader), the session ends and the next one reads again. Rejected: mending a session from within; its end is the
//! one way out, and is exercised by every hiccup. It does not know what anybody does with what it hears.

use super::call::{self, Fault, LIST_BYTES_MAX, bounded};
use super::connect;
use super::keys::{Key, Keys};
use super::name;
use super::past::{Past, Present, Revisions};
use super::process::Process;
use super::record::Record;
use super::view::{Fact, View};
use super::{Revision, UNITS_MAX};
use crate::sys::clock;
use etcd_client::{
    Client, EventType, KeyValue, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper, TxnOpResponse,
    WatchOptions, WatchResponse, WatchStream,
};
use std::sync::Arc;
use vmpath_core::spec::{Endpoint, EtcdSpec};
use vmpath_core::time::{Duration, Instant};

/// The most that an answer to a sign of life may take.
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);

/// What every session of this host is made from.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) host: String,
    pub(super) process: Process,
    pub(super) etcd: EtcdSpec,
    pub(super) keys: Keys,
    pub(super) targets: Vec<String>,
    /// `target/unit` of this host's disks.
    pub(super) units: Vec<String>,
}

pub(super) struct Session {
    pub(super) client: Client,
    pub(super) lease: i64,
    pub(super) watch: WatchStream,
    pub(super) beats: LeaseKeepAliveStream,
    keeper: LeaseKeeper,
    every: Duration,
    next_beat: Instant,
    /// A sign of life that is not answered yet.
    asked: Option<Instant>,
}

/// A session, and what was read at its beginning.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) facts: Vec<OwnedFact>,
    pub(super) present: Present,
    pub(super) revisions: Revisions,
    /// Nothing of this host is under its lease yet.
    pub(super) new_lease: bool,
}

pub(super) struct OwnedFact {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    revision: Revision,
}

impl OwnedFact {
    pub(super) fn as_fact(&self) -> Fact<'_> {
        Fact { key: &self.key, value: self.value.as_deref(), revision: self.revision }
    }
}

/// Connects to one member. `lease` is that of the session before, `past` what was heard until now.
///
/// # Errors
/// Why not, in words.
pub(super) async fn open(
    ground: Arc<Ground>,
    endpoint: Endpoint,
    lease: Option<i64>,
    past: Past,
) -> Result<Opened, String> {
    let mut client = connect::client(&ground.etcd, &endpoint).await?;
    call::be_known(&client, ground.keys.machine(&ground.host), ground.process.machine.clone()).await?;
    let alive = ground.keys.alive(&ground.host);
    let seen = name::look(&client, &alive, &ground.process).await?;
    let (facts, present) = everything(&client, &ground).await.map_err(Fault::words)?;
    let revisions = past.compare(&present, &ground.keys)?;
    let (lease, new_lease, keeper, beats) = keep(&mut client, &ground.etcd, lease).await?;
    name::take(&client, &alive, &ground.process, (lease, seen)).await?;
    let watch = watch(&client, &ground, present.revision + 1).await.map_err(Fault::words)?;
    let (every, now) = (ground.etcd.lease / 3, clock::now());
    let session = Session { client, lease, watch, beats, keeper, every, next_beat: now + every, asked: None };
    Ok(Opened { session, facts, present, revisions, new_lease })
}

type Kept = (i64, bool, LeaseKeeper, LeaseKeepAliveStream);

/// Keeps the lease of before, if it still is one, or a new one.
async fn keep(client: &mut Client, etcd: &EtcdSpec, lease: Option<i64>) -> Result<Kept, String> {
    if let Some(lease) = lease
        && let Ok((keeper, beats)) = bounded(client.lease_keep_alive(lease)).await
    {
        return Ok((lease, false, keeper, beats));
    }
    let seconds = i64::try_from(etcd.lease.as_secs()).unwrap_or(i64::MAX);
    let lease = bounded(client.lease_grant(seconds, None)).await.map_err(Fault::words)?.id();
    let (keeper, beats) = bounded(client.lease_keep_alive(lease)).await.map_err(Fault::words)?;
    Ok((lease, true, keeper, beats))
}

/// Owners of this host's units, and all hosts and rooms of its targets, as of one revision or later each; and the earliest.
async fn everything(client: &Client, ground: &Ground) -> Result<(Vec<OwnedFact>, Present), Fault> {
    let (mut facts, mut earliest, mut cluster) = (vec![], Revision::MAX, 0);
    for units in ground.units.chunks(UNITS_MAX) {
        let response = call::look(client, &ground.keys, units).await?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        earliest = earliest.min(revision);
        for (unit, response) in units.iter().zip(response.op_responses()) {
            let TxnOpResponse::Get(get) = response else { continue };
            let kv = get.kvs().first();
            facts.push(OwnedFact {
                key: ground.keys.owner(unit).into_bytes(),
                value: kv.map(|kv| kv.value().to_vec()),
                // What is not there is so as of this reading.
                revision: kv.map_or(revision, KeyValue::mod_revision),
            });
        }
    }
    for prefix in
        ground.targets.iter().flat_map(|target| [ground.keys.hosts(target), ground.keys.rooms(target)])
    {
        let (revision, list) = call::list(client, prefix).await?;
        earliest = earliest.min(revision);
        cluster = list.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
        facts.extend(list.kvs().iter().map(|kv| OwnedFact {
            key: kv.key().to_vec(),
            value: Some(kv.value().to_vec()),
            revision: kv.mod_revision(),
        }));
    }
    if earliest == Revision::MAX {
        // A host without targets: it still has a lease, and is still told when etcd is away.
        let (revision, list) = call::list(client, ground.keys.machine(&ground.host)).await?;
        (earliest, cluster) = (revision, list.header().map_or(0, etcd_client::ResponseHeader::cluster_id));
    }
    let owners = facts.iter().filter_map(|fact| owner(fact, &ground.keys)).collect();
    Ok((facts, Present { cluster, revision: earliest, owners }))
}

/// What cannot be read is passed over, as ever.
fn owner(fact: &OwnedFact, keys: &Keys) -> Option<(String, Record, Revision)> {
    let Key::Owner { unit } = keys.parse(&fact.key)? else { return None };
    let record = fact.value.as_deref().map_or(Ok(Record::ABSENT), Record::read).ok()?;
    Some((unit.to_owned(), record, fact.revision))
}

/// One stream for all that is watched.
async fn watch(client: &Client, ground: &Ground, from: Revision) -> Result<WatchStream, Fault> {
    let prefixes =
        |target: &String| [ground.keys.owners(target), ground.keys.hosts(target), ground.keys.rooms(target)];
    let mut prefixes = ground.targets.iter().flat_map(prefixes);
    let options = || WatchOptions::new().with_prefix().with_start_revision(from).with_fragment();
    let first = prefixes.next().unwrap_or_else(|| ground.keys.machine(&ground.host));
    let mut watches = client.watch_client().max_decoding_message_size(LIST_BYTES_MAX);
    let mut stream = bounded(watches.watch(first, Some(options()))).await?;
    for prefix in prefixes {
        bounded(stream.watch(prefix, Some(options()))).await?;
    }
    Ok(stream)
}

impl Session {
    /// When [`Self::beat`] has something to do.
    pub(super) fn due(&self) -> Instant {
        self.asked.map_or(self.next_beat, |asked| asked + self.patience())
    }

    fn patience(&self) -> Duration {
        BEAT_TIMEOUT.min(self.every)
    }

    /// Says that this host lives, when it is time.
    ///
    /// # Errors
    /// The session is over; in words, why.
    pub(super) async fn beat(&mut self, now: Instant) -> Result<(), String> {
        if let Some(asked) = self.asked {
            let overdue = now >= asked + self.patience();
            let why = || format!("etcd has not answered for {} ms", self.patience().as_millis());
            return if overdue { Err(why()) } else { Ok(()) };
        }
        if now >= self.next_beat {
            (self.asked, self.next_beat) = (Some(now), now + self.every);
            bounded(self.keeper.keep_alive()).await.map_err(Fault::words)?;
        }
        Ok(())
    }

    /// An answer to a sign of life.
    ///
    /// # Errors
    /// The session is over; in words, why.
    pub(super) fn heard(
        &mut self,
        answer: Result<Option<LeaseKeepAliveResponse>, etcd_client::Error>,
    ) -> Result<(), String> {
        match answer {
            Ok(Some(answer)) if answer.ttl() > 0 => {
                self.asked = None;
                Ok(())
            }
            Ok(Some(_)) => Err("this host's lease has run out".into()),
            Ok(None) => Err("etcd has closed the connection".into()),
            Err(error) => Err(connect::words(&error)),
        }
    }
}

/// Takes in what a watch says. Returns what of it is to be told.
///
/// # Errors
/// The session is over; in words, why.
pub(super) fn watched(
    view: &mut View,
    answer: Result<Option<WatchResponse>, etcd_client::Error>,
) -> Result<Vec<super::view::Change>, String> {
    let response = match answer {
        Ok(Some(response)) => response,
        Ok(None) => return Err("etcd has closed the connection".into()),
        Err(error) => return Err(connect::words(&error)),
    };
    if response.canceled() {
        let compacted = response.compact_revision();
        return Err(match response.cancel_reason() {
            _ if compacted != 0 => {
                format!("etcd has forgotten what was before revision {compacted}: all is read again")
            }
            "" => "etcd has ended the watch".into(),
            reason => reason.to_owned(),
        });
    }
    let mut changes = vec![];
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let value = match event.event_type() {
            EventType::Put => Some(kv.value()),
            EventType::Delete => None,
        };
        changes.extend(view.learn(Fact { key: kv.key(), value, revision: kv.mod_revision() }));
    }
    Ok(changes)
}
