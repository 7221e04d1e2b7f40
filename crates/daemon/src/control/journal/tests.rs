//! What is kept, what is found, and how the numbers go on.

use super::{Bounds, Filter, Journal, LINES_MAX, Line, OfVm, Query};
use crate::testing;
use std::time::Duration;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::ids::{IncidentId, PathId, VmId};
use vmpath_core::time::Instant;

const HOUR_US: u64 = 3_600_000_000;

const fn bounds(lines: usize) -> Bounds {
    Bounds { lines, bytes: u64::MAX, age: Duration::from_secs(3600) }
}

fn entry(subject: Subject, incident: Option<u64>, kind: JournalKind) -> JournalEntry {
    let incident = incident.map(IncidentId);
    JournalEntry { at: Instant::ZERO, incident, kind, subject, reason: "why".into(), until: None }
}

fn journal(lines: usize, entries: &[(Subject, Option<u64>)]) -> Journal {
    let spec = testing::spec();
    let mut journal = Journal::new(bounds(lines));
    for (at, (subject, incident)) in (1..).zip(entries) {
        journal.append(entry(*subject, *incident, JournalKind::PathDown), &spec, at);
    }
    journal
}

fn seqs(journal: &Journal, after: Option<u64>, limit: usize) -> Vec<u64> {
    found(journal, &Query { after, limit, filter: Filter::default() })
}

fn found(journal: &Journal, query: &Query) -> Vec<u64> {
    journal.read(query).lines.iter().map(|line| line.seq).collect()
}

#[test]
fn the_oldest_make_room_and_numbers_go_on() {
    let journal = journal(4, &[(Subject::Host, None); 6]);
    assert_eq!(seqs(&journal, None, 10), [3, 4, 5, 6]);
    assert_eq!(seqs(&journal, None, 2), [5, 6]);
    assert_eq!(seqs(&journal, Some(0), 2), [3, 4]);
    assert_eq!(seqs(&journal, Some(4), 10), [5, 6]);
    assert_eq!(seqs(&journal, Some(99), 10), [0; 0]);
    let page = journal.read(&Query { limit: 0, ..Query::default() });
    assert_eq!((page.first_seq, page.last_seq), (3, 6));
}

#[test]
fn bytes_and_age_bound_it_too_but_the_newest_stays() {
    let spec = testing::spec();
    let mut journal = Journal::new(Bounds { bytes: 800, ..bounds(100) });
    for at in 1..=5 {
        journal.append(entry(Subject::Host, None, JournalKind::PathUp), &spec, at * HOUR_US / 10);
    }
    // A line weighs 256 and a few: three fit into 800.
    assert_eq!(seqs(&journal, None, 10), [3, 4, 5]);
    journal.forget(HOUR_US * 14 / 10);
    assert_eq!(seqs(&journal, None, 10), [4, 5]);
    journal.forget(HOUR_US * 100);
    assert_eq!(seqs(&journal, None, 10), [5]);
    // A clock that was set back makes nothing old.
    journal.forget(0);
    assert_eq!((journal.first_seq(), journal.last_seq()), (5, 5));
    journal.bound(Bounds { bytes: u64::MAX, ..bounds(100) });
    for _ in 0..9 {
        journal.append(entry(Subject::Host, None, JournalKind::PathUp), &spec, HOUR_US);
    }
    assert_eq!(journal.first_seq(), 5);
}

#[test]
fn a_restored_journal_goes_on_where_it_was() {
    let old = journal(4, &[(Subject::Host, None); 6]);
    let lines: Vec<Line> = old.lines.iter().map(|line| (**line).clone()).collect();
    let mut journal = Journal::restored(bounds(3), lines, 7);
    assert_eq!(seqs(&journal, None, 10), [4, 5, 6]);
    assert_eq!(journal.append(entry(Subject::Host, None, JournalKind::PathUp), &testing::spec(), 7).seq, 7);
    assert_eq!(seqs(&journal, None, 10), [5, 6, 7]);
    assert_eq!(Journal::restored(bounds(3), vec![], 0).last_seq(), 0);
}

#[test]
fn an_empty_journal_says_so() {
    let page = Journal::new(bounds(4)).read(&Query { after: Some(0), limit: 9, filter: Filter::default() });
    assert_eq!((page.first_seq, page.last_seq, page.answered_to, page.lines.len()), (1, 0, 0, 0));
}

const GOLD: Subject = Subject::Vm(VmId(0));
const BRONZE: Subject = Subject::Vm(VmId(1));
const A: Subject = Subject::Path(PathId(0));
const B: Subject = Subject::Path(PathId(1));

/// Two incidents: path a, of which gold has a line, and path b, of which bronze has one.
fn incidents() -> Journal {
    journal(
        9,
        &[
            (A, Some(1)),
            (GOLD, Some(1)),
            (GOLD, None),
            (B, Some(2)),
            (BRONZE, Some(2)),
            (Subject::Host, None),
        ],
    )
}

fn of_vm(name: &str, incident: Option<u64>) -> Filter {
    let vm = OfVm { name: name.into(), incident: incident.map(IncidentId) };
    Filter { vm: Some(vm), ..Filter::default() }
}

#[test]
fn an_event_of_a_vms_incident_is_found_by_either() {
    let journal = incidents();
    let all = |filter| found(&journal, &Query { after: None, limit: 9, filter });
    assert_eq!(all(of_vm("gold", None)), [1, 2, 3]);
    assert_eq!(
        all(of_vm("gold", Some(2))),
        [1, 2, 3, 4, 5],
        "it lost a path of that incident and said nothing"
    );
    assert_eq!(all(of_vm("silver", None)), [0; 0]);
    assert_eq!(all(Filter { incident: Some(IncidentId(2)), ..Filter::default() }), [4, 5]);
    assert_eq!(all(Filter { path: Some("san0/a".into()), ..Filter::default() }), [1]);
    let both = Filter { incident: Some(IncidentId(1)), ..of_vm("bronze", None) };
    assert_eq!(all(both), [0; 0]);
    let kind = |kind| Filter { kinds: vec![kind], ..of_vm("gold", None) };
    assert_eq!(all(kind(JournalKind::PathDown)), [1, 2, 3]);
    assert_eq!(all(kind(JournalKind::PathUp)), [0; 0]);
    assert_eq!(all(Filter { since_unix_us: Some(5), ..Filter::default() }), [5, 6]);
}

#[test]
fn a_page_says_how_far_it_has_looked() {
    let journal = incidents();
    let page = |after, limit| {
        let page = journal.read(&Query { after: Some(after), limit, filter: of_vm("gold", None) });
        (page.lines.iter().map(|line| line.seq).collect::<Vec<_>>(), page.answered_to)
    };
    assert_eq!(page(0, 2), (vec![1, 2], 2));
    assert_eq!(page(2, 2), (vec![3], 6), "what is not about it has been looked at, too");
    assert_eq!(page(6, 2), (vec![], 6));
}

#[test]
fn the_past_of_incidents_is_told_by_their_lines() {
    let spec = testing::spec();
    let mut journal = incidents();
    journal.append(entry(A, Some(3), JournalKind::IncidentOpened), &spec, 70);
    journal.append(entry(A, Some(3), JournalKind::IncidentClosed), &spec, 80);
    let past = journal.incidents(2);
    assert_eq!(past.iter().map(|past| past.incident.0).collect::<Vec<_>>(), [3, 2]);
    assert_eq!((past[0].opened_unix_us, past[0].closed_unix_us, past[0].lines), (Some(70), Some(80), 2));
    assert_eq!((past[1].opened_unix_us, past[1].closed_unix_us), (None, None));
    assert!(past[1].vms.contains("bronze") && past[1].paths.contains("san0/b"));
}

/// What the index answers is what a walk over all lines would.
#[test]
fn the_index_agrees_with_a_walk_also_after_lines_have_left() {
    let subjects = [GOLD, BRONZE, A, B, Subject::Host];
    let mut seed = 9_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let entries: Vec<_> =
        (0..500).map(|_| (subjects[next(5)], Some(next(9) as u64).filter(|id| *id > 3))).collect();
    let journal = journal(100, &entries);
    for (name, subject) in [("gold", GOLD), ("bronze", BRONZE)] {
        let of = |seq: u64| entries[usize::try_from(seq).expect("small") - 1];
        let own: Vec<u64> = (401..=500).filter(|seq| of(*seq).0 == subject).collect();
        let touched: Vec<u64> = own.iter().filter_map(|seq| of(*seq).1).collect();
        let walk: Vec<u64> = (401..=500)
            .filter(|seq| of(*seq).0 == subject || of(*seq).1.is_some_and(|id| touched.contains(&id)))
            .collect();
        let query = Query { after: None, limit: 1000, filter: of_vm(name, None) };
        assert_eq!(found(&journal, &query), walk);
    }
}

/// The newest of what is rare are found among all that a journal can hold.
#[test]
fn a_full_journal_is_asked() {
    let spec = testing::spec();
    let mut journal = Journal::new(bounds(LINES_MAX));
    for seq in 0..LINES_MAX as u64 + 10 {
        let (subject, incident) =
            if seq.is_multiple_of(1000) { (GOLD, Some(seq)) } else { (BRONZE, Some(1)) };
        let line = Line {
            seq: seq + 1,
            at_unix_us: seq,
            incident: incident.map(IncidentId),
            kind: JournalKind::VmHeld,
            subject: super::SubjectType::Vm,
            subject_name: super::name_of(subject, &spec),
            reason: "a reason of some length, as they are".into(),
            until: None,
        };
        journal.last_seq = line.seq;
        journal.push(line.into());
    }
    journal.forget(0);
    assert_eq!(journal.lines.len(), LINES_MAX);
    assert_eq!(found(&journal, &Query { after: None, limit: 3, filter: of_vm("gold", None) }).len(), 3);
}
