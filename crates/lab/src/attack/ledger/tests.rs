//! What a process knows of lost writes: its own by name, those before it by the record's ranges.

use super::*;
use vmpath_core::time::Duration;

const NOW: Instant = Instant::from_millis(1000);

struct Case {
    ledger: Ledger,
}

impl Case {
    fn new() -> Self {
        Self { ledger: Ledger::new(1, 16) }
    }

    /// An open write of blocks, and the token under which a process has it.
    fn write(&mut self, first: usize, count: usize) -> u32 {
        self.ledger.submitted(Op::new((0, 0, 0), Operation::Write, (first, count)))
    }

    fn sends(&mut self, op: u32, origin: Origin, now: Instant) -> u32 {
        let token = self.ledger.token(op, origin);
        let attempt = Attempt {
            op,
            token,
            conn: 0,
            cookie: 0,
            operation: Operation::Write,
            fua: false,
            progress: Progress::Unsent,
            values: [0; BLOCKS_PER_REQUEST_MAX],
        };
        self.ledger.dispatched(attempt, now)
    }

    /// Sent, and lost with its connection for the next ten seconds.
    fn loses(&mut self, op: u32) {
        let attempt = self.sends(op, Origin::New, NOW);
        self.ledger.lost(attempt, Some(NOW + Duration::from_secs(10)));
    }

    /// A process starts a second later, with what the record calls open.
    fn starts(&mut self, open: &[Range<usize>]) {
        let open = open.iter().map(|blocks| (0, blocks.clone())).collect();
        let now = NOW + Duration::from_secs(1);
        self.ledger.restored(&[now + Duration::from_secs(10)], open, now);
    }

    fn is_resent_rightly(&mut self, op: u32) -> bool {
        self.sends(op, Origin::Replayed, NOW + Duration::from_secs(2));
        self.ledger.violation().is_none()
    }
}

#[test]
fn an_unsent_write_that_the_record_calls_open_may_be_resent_before_a_lost_one() {
    for (record, rightly) in [(&[0..4, 2..6][..], true), (&[0..4][..], false)] {
        let mut case = Case::new();
        let (lost, unsent) = (case.write(0, 4), case.write(2, 4));
        case.loses(lost);
        case.starts(record);
        assert_eq!(case.is_resent_rightly(unsent), rightly, "{record:?}");
    }
}

#[test]
fn of_two_open_writes_of_one_range_either_is_taken_for_the_lost_one() {
    let mut case = Case::new();
    let (lost, other) = (case.write(0, 4), case.write(0, 4));
    case.loses(lost);
    case.starts(&[0..4]);
    assert!(case.is_resent_rightly(other));
    let third = case.write(0, 4);
    assert!(!case.is_resent_rightly(third), "it has been decided which one goes");
}

#[test]
fn what_this_process_has_lost_is_nobody_elses() {
    let mut case = Case::new();
    let (lost, other) = (case.write(0, 4), case.write(0, 4));
    case.starts(&[]);
    case.loses(lost);
    assert!(!case.is_resent_rightly(other), "the record did not hold it when the process started");
}
