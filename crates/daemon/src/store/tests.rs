use super::codec::known_moves;
use super::file::FILE;

use super::{Left, NO_INSTANCE, OpenError, SCHEMA, Store};
use crate::control::journal::{Line, SubjectType};
use crate::sys::boot::BootId;
use crate::sys::clock;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use vmpath_core::effect::JournalKind;
use vmpath_core::migration::destination::WAIT_MAX;
use vmpath_core::saved::{Saved, SavedMoves};
use vmpath_core::time::Instant;

const BOOT: BootId = BootId::from_bytes([7; 16]);
const NEXT_BOOT: BootId = BootId::from_bytes([8; 16]);
const WAIT: Duration = Duration::from_secs(10);

fn line(seq: u64) -> Arc<Line> {
    Arc::new(Line {
        seq,
        at_unix_us: 1000 + seq,
        incident: None,
        kind: JournalKind::PathDown,
        subject: SubjectType::Path,
        subject_name: "san0/a".into(),
        reason: format!("because of {seq}"),
        until: None,
    })
}

fn numbered(last_incident: u64) -> Saved {
    Saved { last_incident, ..Saved::default() }
}

fn open(dir: &Path) -> (Store, Left) {
    Store::open(dir, &BOOT).unwrap()
}

#[test]
fn that_it_ran_is_known_however_soon_it_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let next = |boot: &BootId| super::file::StateFile::open(dir.path(), boot).unwrap().1;
    let left = next(&BOOT);
    assert_eq!((left.boot, left.ran), (None, None), "the first one ever");
    let left = next(&BOOT);
    assert_eq!((left.boot, left.ran), (None, Some(BOOT)), "it has written no state");
    assert_eq!(next(&NEXT_BOOT).ran, Some(BOOT));
    assert_eq!(next(&BOOT).ran, Some(NEXT_BOOT));
}

#[test]
fn what_was_handed_over_is_there_after_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, left) = open(&dir.path().join("made/here"));
    assert_eq!((left.boot, left.clean, left.lines.len()), (None, false, 0));
    store.append(&line(1), 1, Instant::ZERO);
    store.save(numbered(4), known_moves(), Instant::ZERO);
    store.append(&line(2), 1, Instant::ZERO);
    assert!(store.close(WAIT));
    let (mut store, left) = open(&dir.path().join("made/here"));
    assert_eq!((left.boot, left.clean, left.unreadable), (Some(BOOT), true, None));
    assert_eq!((left.lines, left.saved), (vec![(*line(1)).clone(), (*line(2)).clone()], numbered(4)));
    assert_eq!(left.moves, known_moves());
    // The same state again is nothing to write.
    let ticket = store.ticket();
    store.save(numbered(4), known_moves(), Instant::ZERO);
    assert_eq!(store.ticket(), ticket);
    drop(store);
}

#[test]
fn one_ticket_is_for_both_parts_of_a_state_and_not_for_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.save(numbered(1), SavedMoves::default(), Instant::ZERO);
    assert_eq!((store.ticket(), store.state_ticket()), (1, 1));
    store.append(&line(1), 1, Instant::ZERO);
    assert_eq!((store.ticket(), store.state_ticket()), (2, 1));
    for (saved, moves, ticket) in [(1, known_moves(), 3), (2, known_moves(), 4), (2, known_moves(), 4)] {
        store.save(numbered(saved), moves, Instant::ZERO);
        assert_eq!((store.ticket(), store.state_ticket()), (ticket, ticket));
    }
    assert!(store.close(WAIT));
    let (_store, left) = open(dir.path());
    assert_eq!((left.saved, left.moves), (numbered(2), known_moves()));
}

#[test]
fn moves_of_another_boot_are_given_back_and_their_times_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.save(numbered(4), known_moves(), Instant::ZERO);
    assert!(store.close(WAIT));
    let before = clock::now();
    // As if it was killed before it had kept anything, and then another.
    for _ in 0..2 {
        let (store, left) = Store::open(dir.path(), &NEXT_BOOT).unwrap();
        assert_eq!((left.boot, left.saved), (Some(BOOT), numbered(4)));
        let now = left.moves.leaving[0].machine.began;
        assert!(before <= now && now <= clock::now());
        let mut expected = known_moves();
        expected.leaving[0].machine.began = now;
        expected.leaving[0].machine.plan.instance = NO_INSTANCE;
        expected.arriving[0].began = now;
        expected.travels[0].arrived = Some(now);
        expected.discards[0].until = now + WAIT_MAX;
        assert_eq!(left.moves, expected);
        assert!(store.close(WAIT));
    }
    // What is written from then on is of the new boot, also if it is the same.
    let (mut store, left) = Store::open(dir.path(), &NEXT_BOOT).unwrap();
    store.save(left.saved, left.moves.clone(), Instant::ZERO);
    assert!(store.close(WAIT));
    let (_store, again) = Store::open(dir.path(), &NEXT_BOOT).unwrap();
    assert_eq!((again.boot, again.moves), (Some(NEXT_BOOT), left.moves));
}

#[test]
fn an_end_that_nobody_marked_is_a_death() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.save(numbered(1), SavedMoves::default(), Instant::ZERO);
    assert!(store.close(WAIT));
    // Opened by a process that says nothing more: the thread goes with the handle.
    let (file, left) = super::file::StateFile::open(dir.path(), &BOOT).unwrap();
    assert!(left.clean);
    drop(file);
    let (_store, left) = open(dir.path());
    assert_eq!((left.boot, left.clean), (Some(BOOT), false));
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    match Store::open(dir.path(), &BOOT) {
        Err(OpenError::Refused(why)) => assert!(why.contains("another vmpath daemon uses"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(store.close(WAIT));
}

#[test]
fn what_left_the_journal_leaves_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for seq in 1..=5000 {
        store.append(&line(seq), seq.saturating_sub(99), Instant::ZERO);
    }
    assert!(store.close(WAIT));
    let kept = |left: Left| left.lines.iter().map(|line| line.seq).collect::<Vec<_>>();
    let (mut store, left) = open(dir.path());
    assert_eq!(kept(left), (4901..=5000).collect::<Vec<_>>());
    // Tighter bounds, and a batch of its own.
    store.append(&line(5001), 5000, Instant::ZERO);
    assert!(store.close(WAIT));
    assert_eq!(kept(open(dir.path()).1), [5000, 5001]);
}

#[test]
fn what_cannot_be_read_is_kept_elsewhere_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    for (round, content) in [&b"something else, of some length"[..], &[0xa5; 65536]].into_iter().enumerate() {
        fs::write(&file, content).unwrap();
        let (store, left) = open(dir.path());
        let told = left.unreadable.expect("a sentence");
        let aside = dir.path().join(format!("{FILE}.unreadable-{}", round + 1));
        assert!(told.contains(aside.to_str().unwrap()) && told.contains("stopped-by-other"), "{told}");
        assert_eq!(fs::read(&aside).unwrap(), content);
        assert!(left.boot.is_none() && left.lines.is_empty());
        assert!(store.close(WAIT));
    }
    assert!(open(dir.path()).1.clean, "the new file works");
}

#[test]
fn a_state_that_is_not_ours_inside_a_whole_file_is_kept_elsewhere_too() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open(dir.path()).0.close(WAIT));
    for row in ["controller", "moves"] {
        put(dir.path(), "state", row, b"?");
        let (store, left) = open(dir.path());
        assert!(left.unreadable.is_some_and(|told| told.contains("not what this version")), "{row}");
        assert!(store.close(WAIT));
    }
}

#[test]
fn a_newer_schema_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open(dir.path()).0.close(WAIT));
    put(dir.path(), "meta", "schema", &(SCHEMA + 1).to_le_bytes());
    match Store::open(dir.path(), &BOOT) {
        Err(OpenError::Refused(why)) => {
            assert!(why.contains(&format!("newer vmpath (schema {}", SCHEMA + 1)), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_of_the_first_schema_is_taken_over_also_when_that_is_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open(dir.path()).0.close(WAIT));
    let (bytes, known) = super::codec::of_the_first_schema();
    put(dir.path(), "state", "controller", &bytes);
    put(dir.path(), "meta", "schema", &1u64.to_le_bytes());
    for _ in 0..2 {
        // Nothing of the state is handed over to be written: as if it was killed.
        let (store, left) = open(dir.path());
        assert_eq!((left.unreadable, left.saved), (None, known.clone()));
        assert!(store.close(WAIT));
    }
}

fn put(dir: &Path, table: &str, key: &str, value: &[u8]) {
    let database = redb::Database::create(dir.join(FILE)).unwrap();
    let writing = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new(table);
    writing.open_table(table).unwrap().insert(key, value).unwrap();
    writing.commit().unwrap();
}

#[test]
fn a_directory_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    match Store::open(&file, &BOOT) {
        Err(OpenError::Refused(why)) => assert!(why.contains("state_dir"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_store_nothing_is_waited_for() {
    let mut store = Store::none();
    store.append(&line(1), 1, Instant::ZERO);
    store.save(numbered(1), SavedMoves::default(), Instant::ZERO);
    store.look(Instant::from_millis(60_000));
    assert!(store.committed() >= store.ticket() && !store.is_late());
    assert!(store.close(WAIT));
}

#[test]
fn a_disk_that_hangs_is_told_once_and_no_longer_waited_for() {
    let (commits, committed) = tokio::sync::watch::channel(0);
    let mut store = Store { committed, ticket: 1, waiting_since: Some(Instant::ZERO), ..Store::none() };
    store.look(Instant::from_millis(4_999));
    assert!(!store.is_late());
    store.look(Instant::from_millis(5_000));
    assert!(store.is_late());
    commits.send_replace(1);
    store.look(Instant::from_millis(5_001));
    assert!(!store.is_late() && store.waiting_since.is_none());
}

const CHILD_COMMITS: &str = "VMPATH_TEST_STORE";

/// Not a test of its own: what the next test starts, and kills.
#[test]
fn a_child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_COMMITS) else { return };
    let (mut store, left) = open(Path::new(&dir));
    let first = left.lines.last().map_or(0, |line| line.seq) + 1;
    for seq in first.. {
        store.save(numbered(seq), SavedMoves::default(), Instant::ZERO);
        store.append(&line(seq), 1, Instant::ZERO);
        if seq.is_multiple_of(5) {
            let ticket = store.ticket();
            while store.committed() < ticket {
                std::thread::yield_now();
            }
            writeln!(std::io::stdout(), "at {seq}").unwrap();
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_commits_loses_nothing_that_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::a_child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD_COMMITS, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("at ")?.parse::<u64>().ok());
        let committed = seen.nth(5 + round).expect("the child has not ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let (store, left) = open(dir.path());
        assert_eq!((left.boot, left.clean, left.unreadable), (Some(BOOT), false, None));
        let seqs: Vec<_> = left.lines.iter().map(|line| line.seq).collect();
        let newest = *seqs.last().unwrap();
        assert!(newest >= committed && committed > last, "{newest} of {committed}");
        assert_eq!(seqs, (1..=newest).collect::<Vec<_>>());
        // Handed over before its line, so never older than it.
        assert!(left.saved.last_incident >= newest, "{} before {newest}", left.saved.last_incident);
        last = newest;
        assert!(store.close(WAIT));
    }
}

#[test]
fn what_left_before_its_state_was_on_the_disk_is_known_to_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let (run, at) = (dir.path().join("run"), Instant::from_millis);
    // A process that dies before it has kept anything.
    let next = |boot| {
        let (_file, left) = super::file::StateFile::open(dir.path(), &boot).unwrap();
        Store::none().noting(&run, boot, left).1
    };
    // The disk has state 1, and 2 is noted.
    let mut store = open(dir.path()).0;
    store.save(numbered(1), SavedMoves::default(), at(10));
    let mut late = Store::none().noting(&run, BOOT, Left::default()).0;
    assert!(store.close(WAIT));
    late.save(numbered(2), known_moves(), at(20));
    late.note(late.state_ticket());
    drop(late);
    for _ in 0..2 {
        let left = next(BOOT);
        assert_eq!((left.boot, left.clean, left.saved), (Some(BOOT), false, numbered(2)));
        assert_eq!(left.moves, known_moves());
    }
    assert_eq!(next(NEXT_BOOT).saved, numbered(1), "a note of another boot counts for nothing");
    assert!(!run.join("state-note").exists());
}

#[test]
fn a_note_is_gone_when_the_disk_has_caught_up_and_never_beats_what_is_newer() {
    let dir = tempfile::tempdir().unwrap();
    let (run, at) = (dir.path().join("run"), Instant::from_millis);
    let is_there = || run.join("state-note").exists();
    let (store, left) = open(dir.path());
    let mut store = store.noting(&run, BOOT, left).0;
    store.save(numbered(1), SavedMoves::default(), at(10));
    let (told, committed) = tokio::sync::watch::channel(0);
    let real = std::mem::replace(&mut store.committed, committed);
    store.note(store.state_ticket());
    assert!(is_there());
    let kept = fs::read(run.join("state-note")).unwrap();
    store.look(at(11));
    assert!(is_there(), "the disk has nothing yet");
    told.send_replace(1);
    store.look(at(12));
    assert!(!is_there());
    store.note(1);
    assert!(!is_there(), "what is on the disk needs no note");
    store.committed = real;
    store.save(numbered(2), SavedMoves::default(), at(20));
    assert!(store.close(WAIT));
    // As if the process had been killed between the commit and that.
    fs::write(run.join("state-note"), kept).unwrap();
    let (store, left) = open(dir.path());
    let (_store, left) = store.noting(&run, BOOT, left);
    assert_eq!((left.saved, is_there()), (numbered(2), false));
}

#[test]
fn without_a_disk_everything_that_matters_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut store = Store::none().noting(&run, BOOT, Left::default()).0;
    store.save(numbered(3), SavedMoves::default(), Instant::from_millis(10));
    store.note(store.state_ticket());
    store.look(Instant::from_millis(20));
    drop(store);
    let (_, left) = Store::none().noting(&run, BOOT, Left::default());
    assert_eq!((left.boot, left.saved), (Some(BOOT), numbered(3)));
}
