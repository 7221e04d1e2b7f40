//! The record's bytes, in the machine's own order: a header with the unit names, then rows of two slots.
//!
//! ```text
//! header  magic | version | header bytes | units | incomplete | boot id | checksum of all this | names, padded to pages
//! row     write:      state | start | end | until                      (until: ns, 0 = in flight)
//!         connection: state | local family+port+scope, address | the same of the peer | unused
//! state   0 = empty, else a tag, the unit, and a checksum of the slot's number and the words behind it
//! ```
//! It does not know files or memory.

use super::{BootId, Remains};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use vmpath_core::time::Instant;

/// A word within a slot, and its new value.
pub(super) type Store = (usize, u64);

pub(super) const ROW_WORDS: usize = 12;
pub(super) const ROW_BYTES: usize = ROW_WORDS * 8;
/// Files grow by whole pages: 128 rows are three.
pub(super) const ROWS_STEP: usize = 128;
/// Where a row's slots begin.
pub(super) const WRITE: usize = 0;
pub(super) const CONNECTION: usize = 4;
/// More slots than any host has requests; a larger file is not ours.
pub(super) const BYTES_MAX: usize = 1 << 28;

const MAGIC: u64 = u64::from_le_bytes(*b"vmpqrec\n");
const VERSION: u64 = 1;
const PAGE: usize = 4096;
/// Words of the header before the names.
const HEAD_WORDS: usize = 8;
pub(super) const INCOMPLETE_WORD: usize = 4;
const CHECKSUM_WORD: usize = 7;

const WRITE_TAG: u16 = 0x5752;
const CONNECTION_TAG: u16 = 0x434f;
const FAMILY_V4: u64 = 4;
const FAMILY_V6: u64 = 6;

/// # Errors
/// More units than a unit's number can name, or names that are too long.
pub(super) fn header(boot: &BootId, units: &[String]) -> io::Result<Vec<u8>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    if units.len() > usize::from(u16::MAX) {
        return Err(invalid(format!("{} units are too many for a quarantine record", units.len())));
    }
    let mut names = Vec::new();
    for unit in units {
        let length = u16::try_from(unit.len()).map_err(|_| invalid("a unit's name is too long".into()))?;
        names.extend(length.to_ne_bytes());
        names.extend(unit.as_bytes());
    }
    let bytes = (HEAD_WORDS * 8 + names.len()).next_multiple_of(PAGE);
    let boot = boot.as_bytes();
    let (high, low) = (word(boot, 0), word(boot, 1));
    let mut head = [MAGIC, VERSION, bytes as u64, units.len() as u64, 0, high, low, 0];
    head[CHECKSUM_WORD] = header_sum(&head, &names);
    let mut header: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
    header.extend(names);
    header.resize(bytes, 0);
    Ok(header)
}

/// Of the words that never change, and of the names.
fn header_sum(head: &[u64; HEAD_WORDS], names: &[u8]) -> u64 {
    let fixed = head.iter().enumerate().filter(|(at, _)| ![INCOMPLETE_WORD, CHECKSUM_WORD].contains(at));
    let sum = fixed.fold(0, |sum, (_, word)| mix(sum ^ word));
    names.iter().fold(sum, |sum, byte| mix(sum ^ u64::from(*byte)))
}

/// The stores that make a slot hold a write; `present` are its first three words now. What is the same write stays valid
/// while its time changes.
pub(super) fn write(
    slot: u32,
    unit: u16,
    range: &Range<u64>,
    until: Option<Instant>,
    present: [u64; 3],
) -> [Store; 5] {
    // Zero says that it is in flight; one nanosecond after the boot nothing is.
    let until = until.map_or(0, |at| at.as_nanos().max(1));
    let state = write_state(slot, unit, range.start, range.end);
    let same = present == [state, range.start, range.end];
    let first = if same { state } else { 0 };
    [(0, first), (1, range.start), (2, range.end), (3, until), (0, state)]
}

fn write_state(slot: u32, unit: u16, start: u64, end: u64) -> u64 {
    let sum = mix(mix(mix(u64::from(slot) ^ u64::from(unit) << 32) ^ start) ^ end);
    u64::from(WRITE_TAG) << 48 | u64::from(unit) << 32 | sum >> 32
}

/// The stores that make a slot hold a connection.
pub(super) fn connection(slot: u32, local: SocketAddr, peer: SocketAddr) -> [Store; 8] {
    let ([a, b, c], [d, e, f]) = (address(local), address(peer));
    let state = connection_state(slot, &[a, b, c, d, e, f]);
    [(0, 0), (1, a), (2, b), (3, c), (4, d), (5, e), (6, f), (0, state)]
}

fn connection_state(slot: u32, words: &[u64]) -> u64 {
    let sum = words.iter().fold(mix(u64::from(slot)), |sum, word| mix(sum ^ word));
    u64::from(CONNECTION_TAG) << 48 | sum >> 16
}

fn address(of: SocketAddr) -> [u64; 3] {
    let port = u64::from(of.port()) << 16;
    match of {
        SocketAddr::V4(v4) => [FAMILY_V4 | port, u64::from(u32::from(*v4.ip())), 0],
        SocketAddr::V6(v6) => {
            let bits = u128::from(*v6.ip());
            let scope = u64::from(v6.scope_id()) << 32;
            [FAMILY_V6 | port | scope, (bits >> 64) as u64, bits as u64]
        }
    }
}

fn to_address(words: &[u64]) -> Result<SocketAddr, String> {
    let (family, port, scope) = (words[0] & 0xffff, (words[0] >> 16) as u16, (words[0] >> 32) as u32);
    match family {
        FAMILY_V4 => {
            let bits = u32::try_from(words[1]).map_err(|_| "an address that is none".to_owned())?;
            Ok(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(bits), port)))
        }
        FAMILY_V6 => {
            let bits = u128::from(words[1]) << 64 | u128::from(words[2]);
            Ok(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(bits), port, 0, scope)))
        }
        other => Err(format!("an address of family {other}")),
    }
}

/// # Errors
/// Why these bytes are not a whole record, in words.
pub(super) fn parse(bytes: &[u8], boot: &BootId) -> Result<Option<Remains>, String> {
    let head = head(bytes)?;
    let [_, _, header_bytes, count, incomplete, high, low, sum] = head;
    let header_bytes = usize::try_from(header_bytes).map_err(|_| "a header that is too long")?;
    let rows = bytes.len().checked_sub(header_bytes).ok_or("it is cut off in its header")?;
    if header_bytes < HEAD_WORDS * 8 || header_bytes % PAGE != 0 {
        return Err(format!("a header of {header_bytes} bytes"));
    }
    let (units, names) = names(&bytes[HEAD_WORDS * 8..header_bytes], count)?;
    if header_sum(&head, names) != sum {
        return Err("its header's checksum is wrong".into());
    }
    if [high, low] != [word(boot.as_bytes(), 0), word(boot.as_bytes(), 1)] {
        return Ok(None);
    }
    if !rows.is_multiple_of(ROW_BYTES * ROWS_STEP) {
        return Err(format!("it is cut off: {rows} bytes of rows"));
    }
    if incomplete != 0 {
        return Err("it says of itself that it is incomplete, because it could not grow".into());
    }
    let mut remains = Remains::default();
    for (slot, row) in (0u32..).zip(bytes[header_bytes..].chunks_exact(ROW_BYTES)) {
        let mut words = [0; ROW_WORDS];
        for (at, value) in words.iter_mut().enumerate() {
            *value = word(row, at);
        }
        parse_write(slot, &words[WRITE..CONNECTION], &units, &mut remains)?;
        parse_connection(slot, &words[CONNECTION..], &mut remains)?;
    }
    Ok(Some(remains))
}

fn head(bytes: &[u8]) -> Result<[u64; HEAD_WORDS], String> {
    if bytes.len() < HEAD_WORDS * 8 {
        return Err(format!("{} bytes are too few", bytes.len()));
    }
    let mut head = [0; HEAD_WORDS];
    for (at, value) in head.iter_mut().enumerate() {
        *value = word(bytes, at);
    }
    match (head[0], head[1]) {
        (MAGIC, VERSION) => Ok(head),
        (MAGIC, other) => Err(format!("it is of version {other}, and this vmpath knows version {VERSION}")),
        _ => Err("it begins with something else".into()),
    }
}

/// The unit names, and the bytes that they fill.
fn names(bytes: &[u8], count: u64) -> Result<(Vec<String>, &[u8]), String> {
    let cut = || "its names are cut off".to_owned();
    let mut units = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let length = bytes.get(at..at + 2).ok_or_else(cut)?;
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        let name = bytes.get(at + 2..at + 2 + length).ok_or_else(cut)?;
        units.push(String::from_utf8(name.to_vec()).map_err(|_| "a name that is no text")?);
        at += 2 + length;
    }
    Ok((units, &bytes[..at]))
}

fn parse_write(slot: u32, words: &[u64], units: &[String], into: &mut Remains) -> Result<(), String> {
    let [state, start, end, until] = [words[0], words[1], words[2], words[3]];
    if state == 0 {
        return Ok(());
    }
    let unit = (state >> 32) as u16;
    if state != write_state(slot, unit, start, end) || start > end {
        return Err(format!("slot {slot} holds something else than a write"));
    }
    let name = units.get(usize::from(unit)).ok_or_else(|| format!("slot {slot} names unit {unit}"))?;
    let until = (until != 0).then(|| Instant::from_nanos(until));
    into.writes.push((name.clone(), start..end, until));
    Ok(())
}

fn parse_connection(slot: u32, words: &[u64], into: &mut Remains) -> Result<(), String> {
    if words[0] == 0 {
        return Ok(());
    }
    if words[0] != connection_state(slot, &words[1..7]) {
        return Err(format!("slot {slot} holds something else than a connection"));
    }
    into.connections.push((to_address(&words[1..4])?, to_address(&words[4..7])?));
    Ok(())
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let at = index * 8;
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Spreads every bit over the whole word (a round of SplitMix64).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
