//! A move from the order to its end: what it does, and how it ends.
//!
//! Invariant: it ends when the move ends, also if the daemon was restarted meanwhile and knows nothing of the move any more; then
//! the VM's own state is the answer. A daemon that does not answer for a while is waited for.
//! Rejected: to wait for the VM's state alone. A move that was refused at once would look like one that has not begun.

use super::text::{bytes, plural, span_us};
use crate::api::client::{CallError, Client, segment};
use crate::api::wire;
use crate::sys::clock;
use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;
use vmpath_core::time::Instant;

/// How often it is looked at. A healthy move takes a second or two.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A host is found, or none is, within 2 s of the order.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// A daemon that was killed is restarted, and has read what it knew.
const SILENT_MAX: Duration = Duration::from_secs(30);

/// What was so before the order was given.
#[derive(Debug)]
pub(super) struct Follow {
    vm: String,
    /// Moves of this VM by then.
    known: BTreeSet<String>,
    last_event: u64,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stand {
    /// One word for the state, and all of it in a line.
    UnderWay {
        state: String,
        line: String,
    },
    Moved(String),
    Stayed(String),
    /// No such move is known to the daemon.
    Unknown,
}

impl Follow {
    /// To be called before the order is given.
    pub(super) fn before(client: &Client, vm: &str) -> Result<Self, CallError> {
        let moves: wire::Migrations = client.get("/v1/migrations")?;
        let host: wire::Host = client.get("/v1/host")?;
        let known = moves.migrations.into_iter().filter(|row| row.vm == vm).map(|row| row.id).collect();
        Ok(Self { vm: vm.into(), known, last_event: host.last_event_seq })
    }

    /// Comes back with a sentence when the VM is at the other host.
    ///
    /// # Errors
    /// It stays, why; or the time is over; or the daemon does not answer.
    pub(super) fn until_over(&self, client: &Client, bound: Option<Duration>) -> anyhow::Result<String> {
        let began = clock::now();
        let mut teller = Teller::new();
        let (mut heard, mut is_begun) = (began, false);
        let said = loop {
            let now = clock::now();
            match self.look(client, is_begun) {
                Ok(Stand::Moved(said)) => break said,
                Ok(Stand::Stayed(why)) => {
                    teller.end();
                    anyhow::bail!("{} stays: {why}", self.vm);
                }
                Ok(Stand::UnderWay { state, line }) => {
                    (heard, is_begun) = (now, true);
                    teller.tell(&state, &line);
                }
                Ok(Stand::Unknown) => {
                    heard = now;
                    self.must_have_begun(now.since(began))?;
                }
                Err(error @ (CallError::Refused(_) | CallError::Garbled(_))) => return Err(error.into()),
                Err(error) if now.since(heard) > SILENT_MAX => return Err(error.into()),
                Err(_) => teller.tell("silent", &format!("{}: the daemon does not answer just now", self.vm)),
            }
            self.must_be_in_time(bound, began, now, &mut teller)?;
            std::thread::sleep(LOOK_EVERY);
        };
        teller.end();
        Ok(said)
    }

    fn must_have_begun(&self, waited: Duration) -> anyhow::Result<()> {
        if waited > BEGINS_WITHIN {
            anyhow::bail!(
                "nothing has begun: {} stays\n  help: `vmpath explain vm {}` tells why, or who has cancelled it",
                self.vm,
                self.vm
            );
        }
        Ok(())
    }

    fn must_be_in_time(
        &self,
        bound: Option<Duration>,
        began: Instant,
        now: Instant,
        teller: &mut Teller,
    ) -> anyhow::Result<()> {
        if bound.is_some_and(|bound| now.since(began) >= bound) {
            teller.end();
            let seconds = plural(usize::try_from(now.since(began).as_secs()).unwrap_or(usize::MAX), "second");
            anyhow::bail!(
                "{} is still on its way after {seconds}; that goes on\n  help: `vmpath show migrations` tells how, \
                 `vmpath vm migrate {} --cancel` ends it",
                self.vm,
                self.vm
            );
        }
        Ok(())
    }

    fn look(&self, client: &Client, is_begun: bool) -> Result<Stand, CallError> {
        let found = self.stand(&client.get("/v1/migrations")?);
        if found != Stand::Unknown {
            return Ok(found);
        }
        let vm = segment(&self.vm);
        if is_begun {
            let reply: wire::OneVm = client.get(&format!("/v1/vms/{vm}"))?;
            return Ok(after_a_restart(&reply.vm));
        }
        let after = self.last_event;
        let at = format!("/v1/events?after={after}&limit=1000&vm={vm}&kind=migration-cancelled");
        Ok(self.not_begun(&client.get(&at)?))
    }

    /// The row of the move, if there is one.
    fn stand(&self, moves: &wire::Migrations) -> Stand {
        let ours = |row: &&wire::Migration| {
            row.vm == self.vm && row.side == "source" && !self.known.contains(&row.id)
        };
        let Some(row) = moves.migrations.iter().find(ours) else { return Stand::Unknown };
        match (row.ended_unix_us, &row.why) {
            (None, _) => Stand::UnderWay { state: row.state.clone(), line: line(row) },
            (Some(_), Some(why)) => Stand::Stayed(why.clone()),
            (Some(_), None) => Stand::Moved(moved(row)),
        }
    }

    /// No host would have it: that is in the journal alone.
    fn not_begun(&self, events: &wire::Events) -> Stand {
        let its = |event: &&wire::Event| event.subject.kind == "vm" && event.subject.name == self.vm;
        let Some(event) = events.events.iter().rfind(its) else { return Stand::Unknown };
        let why = event.reason.strip_prefix("it stays: ").unwrap_or(&event.reason);
        Stand::Stayed(why.to_owned())
    }
}

/// The daemon knew of the move once, and does not any more.
fn after_a_restart(vm: &wire::Vm) -> Stand {
    let other = vm.other_host.as_deref().unwrap_or("another host");
    match vm.state.as_str() {
        "elsewhere" => Stand::Moved(format!("{} is at {other}", vm.name)),
        "migrating" => {
            let line = format!("{} is on its way; the other end is {other}", vm.name);
            Stand::UnderWay { state: "migrating".into(), line }
        }
        state => Stand::Stayed(format!(
            "it is {state} here; vmpath was restarted meanwhile, `vmpath show events --vm {}` tells more",
            vm.name
        )),
    }
}

fn line(row: &wire::Migration) -> String {
    let memory = match (row.sent_bytes, row.left_bytes) {
        (Some(sent), Some(left)) => format!(", {} sent, {} left", bytes(sent), bytes(left)),
        _ => String::new(),
    };
    format!("{} to {}: {}{memory}, {}", row.vm, row.to, row.state, span_us(row.took_us))
}

fn moved(row: &wire::Migration) -> String {
    let downtime = match row.downtime_us {
        Some(time) => format!("; its guest stood still for {}", span_us(time)),
        None => String::new(),
    };
    format!("{} is at {}: moved in {}{downtime}", row.vm, row.to, span_us(row.took_us))
}

/// On a terminal one line that changes; else a line for each new state.
#[derive(Debug)]
struct Teller {
    is_terminal: bool,
    told: String,
}

impl Teller {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), told: String::new() }
    }

    fn tell(&mut self, state: &str, line: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
        } else if self.told != state {
            eprintln!("{line}");
        }
        state.clone_into(&mut self.told);
    }

    /// What follows stands on a line of its own.
    fn end(&mut self) {
        if self.is_terminal && !self.told.is_empty() {
            eprintln!();
        }
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    fn follow() -> Follow {
        Follow { vm: "db1".into(), known: BTreeSet::from(["kvm1.1.1".to_owned()]), last_event: 7 }
    }

    fn stand(rows: Vec<wire::Migration>) -> Stand {
        follow().stand(&testing::migrations(rows))
    }

    #[test]
    fn only_the_move_that_was_asked_for_counts() {
        let old = testing::migration("kvm1.1.1", "db1");
        let other = testing::migration("kvm1.1.2", "db2");
        let coming = wire::Migration { side: "destination".into(), ..testing::migration("kvm2.1.1", "db1") };
        assert_eq!(stand(vec![old.clone(), other, coming]), Stand::Unknown);
        let ours = testing::migration("kvm1.1.3", "db1");
        let line = "db1 to kvm2: transferring, 120.0 MiB sent, 30.0 MiB left, 2.3 s".to_owned();
        assert_eq!(stand(vec![ours, old]), Stand::UnderWay { state: "transferring".into(), line });
    }

    #[test]
    fn an_end_is_moved_with_its_downtime_or_stayed_with_the_reason() {
        let ended = wire::Migration {
            ended_unix_us: Some(9),
            downtime_us: Some(41_000),
            ..testing::migration("kvm1.1.3", "db1")
        };
        let said = "db1 is at kvm2: moved in 2.3 s; its guest stood still for 41.0 ms".to_owned();
        assert_eq!(stand(vec![ended.clone()]), Stand::Moved(said));
        let stayed = wire::Migration { why: Some("kvm2 refuses it".into()), downtime_us: None, ..ended };
        assert_eq!(stand(vec![stayed]), Stand::Stayed("kvm2 refuses it".into()));
    }

    #[test]
    fn no_host_for_it_is_told_by_the_journal() {
        let event = |name: &str, reason: &str| wire::Event {
            seq: 8,
            at_unix_us: 0,
            incident: None,
            kind: "migration-cancelled".into(),
            subject: wire::Subject { kind: "vm".into(), name: name.into() },
            reason: reason.into(),
            until: None,
        };
        let events = |events| wire::Events {
            daemon_started_unix_us: 0,
            first_seq: 1,
            last_seq: 8,
            next_after: 8,
            events,
        };
        let told = events(vec![event("db1", "it stays: kvm2: no room"), event("db2", "it stays: x")]);
        assert_eq!(follow().not_begun(&told), Stand::Stayed("kvm2: no room".into()));
        assert_eq!(follow().not_begun(&events(vec![event("db2", "it stays: x")])), Stand::Unknown);
    }

    #[test]
    fn what_a_restarted_daemon_has_forgotten_the_vm_tells() {
        let vm = |state: &str, host: Option<&str>| {
            let mut vm = testing::vm("db1", 1);
            (vm.state, vm.other_host) = (state.into(), host.map(str::to_owned));
            after_a_restart(&vm)
        };
        assert_eq!(vm("elsewhere", Some("kvm2")), Stand::Moved("db1 is at kvm2".into()));
        assert!(matches!(vm("migrating", Some("kvm2")), Stand::UnderWay { .. }));
        assert!(matches!(vm("running", None), Stand::Stayed(_)));
    }
}
