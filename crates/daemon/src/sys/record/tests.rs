use super::format::{self, ROW_BYTES, ROWS_STEP, WRITE};
use super::{BootId, ROWS_FIRST, Record, Remains, read_in};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vmpath_core::time::Instant;

const BOOT: BootId = BootId::from_bytes([7; 16]);

fn units() -> Vec<String> {
    ["san0/gold", "san0/silver", "san1/bronze"].map(str::to_owned).to_vec()
}

fn fresh() -> (tempfile::TempDir, PathBuf, Record) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record-0");
    let record = Record::create(&path, &BOOT, &units()).unwrap();
    (dir, path, record)
}

fn remains(path: &Path) -> Remains {
    read_in(path, &BOOT).unwrap().expect("a record of this boot")
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_remembered_is_read_and_what_is_forgotten_is_not() {
    let (_dir, path, mut record) = fresh();
    assert_eq!(remains(&path), Remains::default());
    let until = Some(Instant::from_millis(5000));
    record.remember(3, 1, 4096..8192, None);
    record.remember(9, 2, 0..512, until);
    record.remember(10, 0, 0..512, None);
    record.forget(10);
    record.forget(4_000_000);
    let (local, peer) = (address("10.0.0.1:40000"), address("10.0.1.5:10809"));
    let (local6, peer6) = (address("[fe80::1%3]:40000"), address("[2001:db8::5]:10809"));
    record.connected(0, local, peer);
    record.connected(1, local6, peer6);
    record.connected(2, local, peer);
    record.disconnected(2);
    let writes = vec![("san0/silver".into(), 4096..8192, None), ("san1/bronze".into(), 0..512, until)];
    assert_eq!(remains(&path), Remains { writes, connections: vec![(local, peer), (local6, peer6)] });
    // Its connection has died.
    record.remember(3, 1, 4096..8192, until);
    assert_eq!(remains(&path).writes[0].2, until);
}

#[test]
fn it_grows_and_loses_nothing() {
    let (_dir, path, mut record) = fresh();
    let slots: Vec<_> = (0..40).map(|n| n * 97).collect();
    assert!(slots.last().is_some_and(|slot| *slot as usize > 2 * ROWS_FIRST));
    for slot in &slots {
        record.remember(*slot, 0, u64::from(*slot)..u64::from(*slot) + 1, None);
        record.connected(*slot, address("127.0.0.1:1"), address("127.0.0.1:2"));
    }
    let remains = remains(&path);
    let starts: Vec<_> = remains.writes.iter().map(|(_, range, _)| range.start as u32).collect();
    assert_eq!(starts, slots);
    assert_eq!(remains.connections.len(), slots.len());
}

#[test]
fn a_record_that_could_not_grow_says_so() {
    let (_dir, path, mut record) = fresh();
    record.remember(0, 0, 0..1, None);
    record.remember(u32::MAX, 0, 0..1, None);
    record.forget(u32::MAX);
    let error = read_in(&path, &BOOT).unwrap_err().to_string();
    assert!(error.contains("incomplete"), "{error}");
}

#[test]
fn no_record_and_one_of_another_boot_leave_nothing() {
    let (dir, path, mut record) = fresh();
    record.remember(0, 0, 0..1, None);
    assert_eq!(read_in(&path, &BootId::from_bytes([8; 16])).unwrap(), None);
    assert_eq!(read_in(&dir.path().join("absent"), &BOOT).unwrap(), None);
}

#[test]
fn a_fresh_record_replaces_the_old_one_whole() {
    let (_dir, path, mut old) = fresh();
    old.remember(0, 0, 0..1, None);
    let _new = Record::create(&path, &BOOT, &units()).unwrap();
    old.remember(1, 0, 0..1, None);
    assert_eq!(remains(&path), Remains::default());
}

#[test]
fn what_is_no_record_is_refused_with_a_sentence() {
    let (_dir, path, mut record) = fresh();
    record.remember(5, 0, 0..4096, None);
    let good = fs::read(&path).unwrap();
    let header = good.len() - ROWS_FIRST * ROW_BYTES;
    let check = |change: &dyn Fn(&mut Vec<u8>), words: &str| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let error = read_in(&path, &BOOT).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("record-0"), "{error}");
    };
    check(&|bytes| bytes.clear(), "too few");
    check(&|bytes| bytes[0] ^= 1, "begins with something else");
    check(&|bytes| bytes[8] = 9, "version 9");
    check(&|bytes| bytes[24] = 2, "checksum");
    check(&|bytes| bytes[24] = 255, "");
    check(&|bytes| bytes[66] ^= 1, "checksum");
    check(&|bytes| bytes.truncate(100), "cut off in its header");
    check(&|bytes| bytes.truncate(bytes.len() - 1), "cut off");
    check(&|bytes| bytes.truncate(header + 8), "cut off");
    let slot = header + 5 * ROW_BYTES;
    check(&|bytes| bytes[slot + 8] ^= 1, "slot 5 holds something else than a write");
    check(&|bytes| bytes.copy_within(slot..slot + 32, slot + ROW_BYTES), "slot 6");
    check(&|bytes| bytes[slot + 32] = 1, "slot 5 holds something else than a connection");
    fs::write(&path, &good).unwrap();
    assert_eq!(remains(&path).writes.len(), 1);
}

/// Whichever of the stores is the last one before the end, the slot holds what it held, what it shall hold, or nothing.
#[test]
fn a_slot_is_never_a_mixture() {
    let old = (1u16, 4096..8192u64, Some(Instant::from_millis(9)));
    let changes = [
        (1u16, 4096..8192u64, None),
        (1, 4096..8192, Some(Instant::from_millis(10))),
        (2, 4096..8192, None),
        (1, 4096..12288, Some(Instant::from_millis(10))),
        (0, 0..512, None),
    ];
    let row = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    for (unit, range, until) in changes {
        let header = format::header(&BOOT, &units()).unwrap();
        let mut words = vec![0u64; ROWS_STEP * ROW_BYTES / 8];
        for (word, value) in format::write(0, old.0, &old.1, old.2, [0; 3]) {
            words[WRITE + word] = value;
        }
        let stores = format::write(0, unit, &range, until, [words[0], words[1], words[2]]);
        for done in 0..=stores.len() {
            let mut now = words.clone();
            for (word, value) in &stores[..done] {
                now[WRITE + word] = *value;
            }
            let bytes: Vec<u8> = header.iter().copied().chain(row(&now)).collect();
            let seen = format::parse(&bytes, &BOOT).unwrap().unwrap().writes;
            let names = units();
            let before = (names[usize::from(old.0)].clone(), old.1.clone(), old.2);
            let after = (names[usize::from(unit)].clone(), range.clone(), until);
            let same = before.0 == after.0 && before.1 == after.1;
            match seen.as_slice() {
                [one] => assert!(*one == before || *one == after, "{one:?} after {done} stores"),
                [] => assert!(!same && done > 0 && done < stores.len(), "lost after {done} stores"),
                more => panic!("{more:?}"),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Remember(u32, u16, u64, u64, Option<u64>),
    Forget(u32),
    Connected(u32, SocketAddr, SocketAddr),
    Disconnected(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let slot = prop_oneof![0..20u32, 0..3000u32];
    let until = prop_oneof![Just(None), (1..u64::MAX).prop_map(Some)];
    prop_oneof![
        (slot.clone(), 0..3u16, any::<u32>(), any::<u32>(), until).prop_map(|(s, u, start, len, t)| {
            Op::Remember(s, u, start.into(), u64::from(start) + u64::from(len), t)
        }),
        slot.clone().prop_map(Op::Forget),
        (slot.clone(), any::<SocketAddr>(), any::<SocketAddr>()).prop_map(|(s, a, b)| Op::Connected(
            s,
            plain(a),
            plain(b)
        )),
        slot.prop_map(Op::Disconnected),
    ]
}

/// Flow labels are no part of a connection's address.
fn plain(mut address: SocketAddr) -> SocketAddr {
    if let SocketAddr::V6(v6) = &mut address {
        v6.set_flowinfo(0);
    }
    address
}

proptest! {
    #[test]
    fn it_says_what_was_said_last(ops in prop::collection::vec(op(), 0..200)) {
        let (_dir, path, mut record) = fresh();
        let (mut writes, mut connections) = (BTreeMap::new(), BTreeMap::new());
        for op in ops {
            match op {
                Op::Remember(slot, unit, start, end, until) => {
                    let until = until.map(Instant::from_nanos);
                    record.remember(slot, unit, start..end, until);
                    writes.insert(slot, (units()[usize::from(unit)].clone(), start..end, until));
                }
                Op::Forget(slot) => {
                    record.forget(slot);
                    writes.remove(&slot);
                }
                Op::Connected(slot, local, peer) => {
                    record.connected(slot, local, peer);
                    connections.insert(slot, (local, peer));
                }
                Op::Disconnected(slot) => {
                    record.disconnected(slot);
                    connections.remove(&slot);
                }
            }
        }
        let remains = remains(&path);
        prop_assert_eq!(remains.writes, writes.into_values().collect::<Vec<_>>());
        prop_assert_eq!(remains.connections, connections.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn foreign_bytes_are_an_error_and_never_a_panic(
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let header = format::header(&BOOT, &units()).unwrap();
        let mut bytes = header.clone();
        bytes.resize(header.len() + ROWS_STEP * ROW_BYTES, 0);
        for (index, value) in at {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(Some(remains)) = format::parse(&bytes, &BOOT) {
            prop_assert!(remains.writes.is_empty() && remains.connections.is_empty());
        }
    }
}

const CHILD_WRITES: &str = "VMPATH_TEST_RECORD";

/// The `n`th write of the child: from any one of its words the others follow.
fn nth(n: u64) -> (u16, std::ops::Range<u64>, Option<Instant>) {
    let until = n.is_multiple_of(3).then(|| Instant::from_nanos(n * 4096 + 1));
    ((n % 3) as u16, n * 4096..n * 4096 + 512 * (1 + n % 7), until)
}

/// Not a test of its own: what the next test starts, and kills.
#[test]
fn a_child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD_WRITES) else { return };
    let mut record = Record::create(Path::new(&path), &BOOT, &units()).unwrap();
    for n in 1u64.. {
        let slot = (n % 61) as u32;
        let (unit, range, until) = nth(n);
        record.remember(slot, unit, range, until);
        if n.is_multiple_of(5) {
            record.forget(slot);
        }
        if n.is_multiple_of(1000) {
            writeln!(std::io::stdout(), "at {n}").unwrap();
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_no_wrong_range() {
    let dir = tempfile::tempdir().unwrap();
    let mut found = 0;
    for round in 0..20 {
        let path = dir.path().join(format!("record-{round}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::record::tests::a_child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD_WRITES, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = lines.map_while(Result::ok).filter(|line| line.starts_with("at ")).nth(round);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen.is_some(), "the child has ended by itself");
        let remains = remains(&path);
        found += remains.writes.len();
        for (unit, range, until) in remains.writes {
            let n = range.start / 4096;
            let (expected_unit, expected, expected_until) = nth(n);
            assert_eq!(
                (unit, range, until),
                (units()[usize::from(expected_unit)].clone(), expected, expected_until)
            );
        }
    }
    assert!(found > 20 * 30, "only {found} writes were found");
}
