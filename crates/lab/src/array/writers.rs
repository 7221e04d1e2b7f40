//! Who writes a unit, and whether two hosts ever do at once.
//!
//! Writes come from *hosts* (a portal belongs to one). In the order in which they were taken off the wire they make
//! *turns*: one host's writes until another host's. A turn is in order if the disk's owner changed for it ([`judge`]).
//! A write that was taken in during an earlier turn and is executed in a later one is *late*: it may change nothing
//! that was written since. Invariant: a write is judged and executed under one lock, so no other comes between.
//! Rejected: comparing the times of writes with those of commits seen in the store: whoever watches sees them late.
//! It does not know: owners, epochs, why a write is late.

use super::unit::Unit;
use crate::clock::unix_micros;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are looked at together; a write of less is compared byte by byte all the same.
const BLOCK: u64 = 4096;
/// Kept of a unit. A run with as many changes of host has failed anyway.
const TURNS_MAX: usize = 1000;
const VIOLATIONS_MAX: usize = 100;

/// One host's writes to a unit, until another host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub host: String,
    /// Wall clock when its first and its last write were taken off the wire.
    pub first_unix_us: u64,
    pub last_unix_us: u64,
    /// Lowest and highest byte that it was to change, the latter excluded.
    pub range: (u64, u64),
    pub writes: u64,
    /// Those that were executed after another host's turn had begun.
    pub late: u64,
}

/// A late write that changed what another host had written since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    pub at_unix_us: u64,
    pub offset: u64,
    pub len: u64,
    /// Whose late write it was.
    pub by: String,
    /// Whose bytes are lost.
    pub over: String,
}

/// All that is known of a unit's writers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitWriters {
    pub unit: String,
    /// The first of them, at most 1000.
    pub turns: Vec<Turn>,
    pub turns_total: u64,
    /// The first of them, at most 100.
    pub violations: Vec<Violation>,
    pub violations_total: u64,
}

/// In whose turn a write was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64);

/// One unit's log. Empty, and costs nothing, until a portal with a host writes.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    seen: UnitWriters,
    /// By block, the last turn that wrote there; 0 for none, as turns count from 1.
    blocks: Vec<u64>,
}

impl Writers {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write to `[offset, offset + len)` by `host` was taken off the wire.
    pub(super) fn received(&self, host: &str, offset: u64, len: u64) -> Stamp {
        let now = unix_micros();
        let mut log = self.log();
        let seen = &mut log.seen;
        let (end, kept) = (offset.saturating_add(len), seen.turns.len() as u64);
        match seen.turns.last_mut() {
            Some(turn) if turn.host == host && seen.turns_total == kept => {
                turn.last_unix_us = now;
                turn.range = (turn.range.0.min(offset), turn.range.1.max(end));
                turn.writes += 1;
            }
            _ => {
                seen.turns_total += 1;
                if seen.turns.len() < TURNS_MAX {
                    let (host, range) = (host.to_owned(), (offset, end));
                    let (first_unix_us, last_unix_us) = (now, now);
                    seen.turns.push(Turn { host, first_unix_us, last_unix_us, range, writes: 1, late: 0 });
                }
            }
        }
        Stamp(seen.turns_total)
    }

    /// Executes a write that was `received`: `change` makes it, `data` are its bytes, or none where it writes zeroes.
    ///
    /// # Errors
    /// Those of `change`, and of reading what is there.
    pub(super) fn execute(
        &self,
        unit: &Unit,
        write: &Write<'_>,
        change: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut log = self.log();
        log.judge(unit, write)?;
        let Stamp(turn) = write.stamp;
        let blocks = block_range(write.offset, write.len);
        if log.blocks.len() < blocks.end {
            log.blocks.resize(blocks.end, 0);
        }
        for last in &mut log.blocks[blocks] {
            *last = turn.max(*last);
        }
        change()
    }

    pub(super) fn seen(&self, unit: &str) -> UnitWriters {
        UnitWriters { unit: unit.to_owned(), ..self.log().seen.clone() }
    }
}

/// A write that is to be executed.
#[derive(Debug)]
pub(super) struct Write<'a> {
    pub stamp: Stamp,
    pub offset: u64,
    pub len: u64,
    /// Empty where zeroes are written.
    pub data: &'a [u8],
}

impl Log {
    fn judge(&mut self, unit: &Unit, write: &Write<'_>) -> io::Result<()> {
        let Stamp(turn) = write.stamp;
        if turn == self.seen.turns_total {
            return Ok(());
        }
        let by = self.host(turn);
        if let Some(turn) = self.seen.turns.get_mut(turn as usize - 1) {
            turn.late += 1;
        }
        for block in block_range(write.offset, write.len) {
            let newer = self.blocks.get(block).copied().unwrap_or(0);
            if newer <= turn {
                continue;
            }
            let start = write.offset.max(block as u64 * BLOCK);
            let end = (write.offset + write.len).min((block as u64 + 1) * BLOCK);
            let mut there = vec![0; (end - start) as usize];
            unit.read(start, &mut there)?;
            let within = (start - write.offset) as usize..(end - write.offset) as usize;
            let same = match write.data.get(within) {
                Some(data) if !write.data.is_empty() => data == there,
                _ => there.iter().all(|byte| *byte == 0),
            };
            if !same {
                self.violated(Violation {
                    at_unix_us: unix_micros(),
                    offset: start,
                    len: end - start,
                    by: by.clone(),
                    over: self.host(newer),
                });
            }
        }
        Ok(())
    }

    fn host(&self, turn: u64) -> String {
        self.seen.turns.get(turn as usize - 1).map_or_else(String::new, |turn| turn.host.clone())
    }

    fn violated(&mut self, violation: Violation) {
        self.seen.violations_total += 1;
        if self.seen.violations.len() < VIOLATIONS_MAX {
            self.seen.violations.push(violation);
        }
    }
}

fn block_range(offset: u64, len: u64) -> std::ops::Range<usize> {
    (offset / BLOCK) as usize..(offset + len).div_ceil(BLOCK) as usize
}

/// A time in which a host owned a unit, as far as an observer can bound it. Wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub host: String,
    /// When the observer last saw another owner: this one was none before.
    pub from_unix_us: u64,
    /// When the observer first saw the next owner: this one was none any more.
    pub until_unix_us: u64,
}

impl Owned {
    /// Of an owner whose times nobody has observed: only the order counts.
    #[must_use]
    pub fn sometime(host: &str) -> Self {
        Self { host: host.to_owned(), from_unix_us: 0, until_unix_us: u64::MAX }
    }

    fn covers(&self, turn: &Turn) -> bool {
        self.host == turn.host
            && self.from_unix_us <= turn.first_unix_us
            && turn.last_unix_us <= self.until_unix_us
    }
}

/// What is wrong with a unit's writers, in words, if its owners were these, one after another. A host that owned it and
/// wrote nothing is no fault; one that wrote without having become the owner for it is, and so is every late write that
/// destroyed something.
#[must_use]
pub fn judge(seen: &UnitWriters, owners: &[Owned]) -> Vec<String> {
    let unit = &seen.unit;
    let mut faults = Vec::new();
    // Begins with the present owner: a turn out of order takes nothing from it, so that one fault is told once.
    let mut owned = owners;
    let mut before = "nobody";
    for turn in &seen.turns {
        let place = owned.iter().position(|owned| owned.covers(turn));
        let untimely = || owned.iter().position(|owned| owned.host == turn.host);
        if let Some(place) = place.or_else(untimely) {
            owned = &owned[place..];
        }
        if place.is_none() {
            let Turn { host, writes, first_unix_us, last_unix_us, .. } = turn;
            faults.push(format!(
                "{unit}: {writes} write(s) of {host} from {first_unix_us} to {last_unix_us} us, after {before}'s, that \
                 it did not own the unit for"
            ));
        }
        before = &turn.host;
    }
    if seen.turns_total > seen.turns.len() as u64 {
        faults.push(format!("{unit}: its writers have changed {} times", seen.turns_total));
    }
    faults.extend(seen.violations.iter().map(|found| {
        format!(
            "{unit}: a late write of {} changed {} bytes at {} that {} had written since",
            found.by, found.len, found.offset, found.over
        )
    }));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn world() -> (Unit, Writers) {
        (Unit::open(&"u=1MiB".parse().expect("a unit")).expect("memory"), Writers::default())
    }

    fn execute(world: &(Unit, Writers), stamp: Stamp, offset: u64, fill: u8) {
        let (unit, writers) = world;
        let data = [fill; 512];
        let write = Write { stamp, offset, len: 512, data: &data };
        writers.execute(unit, &write, || unit.write(offset, &data)).expect("memory");
    }

    fn write(world: &(Unit, Writers), host: &str, offset: u64, fill: u8) {
        let stamp = world.1.received(host, offset, 512);
        execute(world, stamp, offset, fill);
    }

    fn faults(world: &(Unit, Writers), owners: &[&str]) -> usize {
        let owners: Vec<Owned> = owners.iter().copied().map(Owned::sometime).collect();
        judge(&world.1.seen("u"), &owners).len()
    }

    #[test]
    fn turns_must_be_those_of_the_owners() {
        let world = world();
        for host in ["h1", "h1", "h2", "h2", "h1"] {
            write(&world, host, 0, 1);
        }
        let seen = world.1.seen("u");
        let turns: Vec<_> = seen.turns.iter().map(|turn| (turn.host.as_str(), turn.writes)).collect();
        assert_eq!(turns, [("h1", 2), ("h2", 2), ("h1", 1)]);
        assert_eq!(faults(&world, &["h1", "h2", "h1"]), 0);
        assert_eq!(faults(&world, &["h3", "h1", "h1", "h2", "h3", "h1", "h2"]), 0, "not all that own write");
        assert_eq!(faults(&world, &["h1", "h2"]), 1, "h1 has written again");
        assert_eq!(faults(&world, &["h1"]), 1, "nobody gave it to h2, and h1 only went on: told once");
        assert_eq!(faults(&world, &["h2", "h1"]), 1, "h2 came out of its turn");
        assert_eq!(faults(&world, &[]), 3);
    }

    #[test]
    fn a_host_writes_only_while_it_may_be_the_owner() {
        let turn = |host: &str, first_unix_us, last_unix_us| {
            let (host, range) = (host.to_owned(), (0, 512));
            Turn { host, first_unix_us, last_unix_us, range, writes: 2, late: 0 }
        };
        let seen = |turns: Vec<Turn>| UnitWriters {
            unit: "u".into(),
            turns_total: turns.len() as u64,
            turns,
            ..UnitWriters::default()
        };
        let owned = |host: &str, from_unix_us, until_unix_us| Owned {
            host: host.to_owned(),
            from_unix_us,
            until_unix_us,
        };
        // The change was seen to happen between 100 and 110, and back between 200 and 205.
        let owners = [owned("h1", 0, 110), owned("h2", 100, 205), owned("h1", 200, u64::MAX)];
        let faults = |turns| judge(&seen(turns), &owners).len();
        assert_eq!(faults(vec![turn("h1", 5, 105), turn("h2", 106, 202), turn("h1", 203, 300)]), 0);
        assert_eq!(faults(vec![turn("h1", 203, 300)]), 0);
        assert_eq!(faults(vec![turn("h1", 5, 120)]), 1, "it wrote on, though the other has not begun");
        assert_eq!(faults(vec![turn("h1", 5, 50), turn("h2", 90, 150)]), 1, "it did not wait for its turn");
        assert_eq!(faults(vec![turn("h2", 106, 300), turn("h1", 301, 302)]), 1);
    }

    #[test]
    fn a_late_write_may_only_repeat_what_is_there() {
        let world = world();
        let [same, other, elsewhere] = [0, 4096, 8192].map(|at| world.1.received("h1", at, 512));
        write(&world, "h2", 0, 7);
        write(&world, "h2", 4096, 7);
        execute(&world, same, 0, 7);
        execute(&world, elsewhere, 8192, 1);
        assert_eq!(faults(&world, &["h1", "h2"]), 0, "a ghost whose range was kept in quarantine");
        execute(&world, other, 4096, 1);
        let seen = world.1.seen("u");
        assert_eq!((seen.turns[0].late, seen.violations_total), (3, 1));
        assert_eq!((seen.violations[0].by.as_str(), seen.violations[0].offset), ("h1", 4096));
        assert_eq!(faults(&world, &["h1", "h2"]), 1);
    }

    #[test]
    fn zeroes_are_compared_as_bytes() {
        let (unit, writers) = world();
        let late = writers.received("h1", 0, 4096);
        let zero = |stamp| {
            let write = Write { stamp, offset: 0, len: 4096, data: &[] };
            writers.execute(&unit, &write, || unit.zero(0, 4096)).expect("memory");
        };
        zero(writers.received("h2", 0, 4096));
        zero(late);
        assert_eq!(writers.seen("u").violations_total, 0);
        let late = writers.received("h2", 0, 4096);
        let stamp = writers.received("h3", 0, 512);
        let data = [9; 512];
        let write = Write { stamp, offset: 0, len: 512, data: &data };
        writers.execute(&unit, &write, || unit.write(0, &data)).expect("memory");
        zero(late);
        assert_eq!(writers.seen("u").violations_total, 1);
    }

    proptest! {
        /// Whoever takes turns as the owner is never accused; of a host that writes once out of turn it is told.
        #[test]
        fn owners_are_never_accused_and_others_always(
            owners in prop::collection::vec((0_usize..3, 0_usize..4), 1..12), intruder in any::<prop::sample::Index>(),
        ) {
            const HOSTS: [&str; 4] = ["h1", "h2", "h3", "thief"];
            let world = world();
            let writes: Vec<usize> = owners.iter().flat_map(|(host, count)| vec![*host; *count]).collect();
            let names: Vec<&str> = owners.iter().map(|(host, _)| HOSTS[*host]).collect();
            for host in &writes {
                write(&world, HOSTS[*host], 0, 1);
            }
            prop_assert_eq!(faults(&world, &names), 0);
            let mixed = self::world();
            let place = intruder.index(writes.len() + 1);
            for (number, host) in writes.iter().chain([&3]).enumerate() {
                if number == place {
                    write(&mixed, "thief", 0, 2);
                }
                if *host != 3 {
                    write(&mixed, HOSTS[*host], 0, 1);
                }
            }
            prop_assert!(faults(&mixed, &names) > 0);
        }
    }
}
