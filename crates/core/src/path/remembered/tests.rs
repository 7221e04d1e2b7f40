//! A model unit whose every byte is known: the right one is never refused, and a difference where something is remembered
//! always is.

use super::*;
use proptest::prelude::*;

const LENGTH: u64 = 8;
const SIZE: u64 = 64 * LENGTH;

#[derive(Clone, Debug)]
enum Step {
    /// A write is dispatched: blocks, and the byte that it writes.
    Write(u64, u64, u8),
    Trim(u64, u64),
    /// The write that has been open the longest ends.
    Answer,
    Fail,
    Ask,
    /// The read that was asked for the longest ago is served and answered.
    Serve,
    Pass(u64),
    Compare,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..64u64, 1..12u64);
    let step = prop_oneof![
        3 => (range(), 1..4u8).prop_map(|((at, count), byte)| Step::Write(at, count, byte)),
        1 => range().prop_map(|(at, count)| Step::Trim(at, count)),
        4 => Just(Step::Answer),
        1 => Just(Step::Fail),
        8 => Just(Step::Ask),
        8 => Just(Step::Serve),
        6 => (0..4000u64).prop_map(Step::Pass),
        4 => Just(Step::Compare),
    ];
    prop::collection::vec(step, 1..300)
}

struct Bench {
    samples: Samples,
    disk: Vec<u8>,
    now: Instant,
    /// Open writes; none for a discard.
    open: Vec<(Extent, Option<u8>)>,
    asked: Vec<(Ticket, Extent)>,
    compared: u32,
}

fn slice<'a>(disk: &'a [u8], range: &Extent) -> &'a [u8] {
    &disk[range.start as usize..range.end as usize]
}

impl Bench {
    fn new() -> Self {
        let mut samples = Samples::default();
        samples.lay_out(SIZE, LENGTH);
        let disk = (0..SIZE).map(|i| (i % 251) as u8 + 1).collect();
        Self { samples, disk, now: Instant::ZERO, open: vec![], asked: vec![], compared: 0 }
    }

    fn dispatch(&mut self, at: u64, count: u64, byte: Option<u8>) {
        // Half a place too far, so that some are covered in part.
        let range = at * LENGTH + LENGTH / 2..((at + count) * LENGTH).min(SIZE);
        if range.is_empty() {
            return;
        }
        let change = if byte.is_some() { Change::Written } else { Change::Undefined };
        self.samples.changed(&range, change, self.now);
        self.open.push((range, byte));
    }

    fn apply(&mut self, range: &Extent, byte: u8) {
        self.disk[range.start as usize..range.end as usize].fill(byte);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(at, count, byte) => self.dispatch(at, count, Some(byte)),
            Step::Trim(at, count) => self.dispatch(at, count, None),
            Step::Answer if !self.open.is_empty() => {
                let (range, byte) = self.open.remove(0);
                if let Some(byte) = byte {
                    self.apply(&range, byte);
                }
            }
            Step::Fail if !self.open.is_empty() => {
                let (range, _) = self.open.remove(0);
                self.samples.changed(&range, Change::Undefined, self.now);
            }
            Step::Answer | Step::Fail => {}
            Step::Ask => {
                let open = &self.open;
                let settled = |r: &Extent| !open.iter().any(|(o, _)| o.start < r.end && r.start < o.end);
                self.asked.extend(self.samples.due(self.now, settled));
            }
            Step::Serve => {
                if !self.asked.is_empty() {
                    let (ticket, range) = self.asked.remove(0);
                    self.samples.read(ticket, Some(slice(&self.disk, &range)), self.now);
                }
            }
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
            Step::Compare => self.compare(),
        }
    }

    fn judge(&self, disk: &[u8]) -> Verdict {
        let ranges = self.samples.remembered();
        self.samples.judge(ranges.iter().map(|range| (range, Some(slice(disk, range)))))
    }

    fn compare(&mut self) {
        let ranges = self.samples.remembered();
        assert!(ranges.len() <= COMPARED_MAX);
        let expected = if ranges.is_empty() { Verdict::Blank } else { Verdict::Same };
        assert_eq!(self.judge(&self.disk), expected, "the unit itself");
        for (at, range) in ranges.iter().enumerate() {
            let mut other = self.disk.clone();
            other[range.end as usize - 1] ^= 1;
            assert_eq!(self.judge(&other), Verdict::Differs { at });
            self.compared += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_unit_is_known_again_and_no_other_is_taken_for_it(steps in steps()) {
        let mut bench = Bench::new();
        for step in &steps {
            bench.step(step);
        }
        bench.compare();
    }
}

/// Reads everything that is due.
fn fill(bench: &mut Bench) {
    bench.step(&Step::Pass(1000));
    for _ in 0..64 {
        bench.step(&Step::Ask);
        bench.step(&Step::Serve);
    }
}

#[test]
fn a_guest_that_writes_all_over_leaves_something_as_soon_as_it_rests() {
    let mut bench = Bench::new();
    fill(&mut bench);
    assert_eq!(bench.samples.remembered().len(), COMPARED_MAX);
    assert_eq!(bench.samples.known(), SPREAD as usize);
    bench.samples.changed(&(0..SIZE), Change::Written, bench.now);
    assert_eq!((bench.samples.remembered(), bench.samples.known()), (vec![], 0));
    fill(&mut bench);
    assert_eq!(bench.samples.remembered().len(), COMPARED_MAX);
}

#[test]
fn a_read_that_a_write_has_overtaken_counts_for_nothing() {
    let mut bench = Bench::new();
    bench.step(&Step::Pass(1000));
    let (ticket, range) = bench.samples.due(bench.now, |_| true).unwrap();
    bench.samples.changed(&range, Change::Written, bench.now);
    bench.samples.read(ticket, Some(&[7; LENGTH as usize]), bench.now);
    assert_eq!(bench.samples.remembered(), []);
}

#[test]
fn clones_are_told_apart_by_what_was_written_lately() {
    let mut bench = Bench::new();
    let clone = bench.disk.clone();
    // Between the places that are spread over the unit.
    bench.now += FOLLOW_EVERY;
    bench.samples.changed(&(2 * LENGTH..3 * LENGTH), Change::Written, bench.now);
    bench.apply(&(2 * LENGTH..3 * LENGTH), 0xee);
    fill(&mut bench);
    assert_eq!(bench.samples.remembered()[0], 2 * LENGTH..3 * LENGTH);
    assert!(matches!(bench.judge(&clone), Verdict::Differs { .. }));
}

#[test]
fn what_cannot_be_told_apart_is_said_to_be_so() {
    let mut bench = Bench::new();
    assert_eq!(bench.judge(&bench.disk), Verdict::Blank, "nothing is remembered");
    bench.disk.fill(0);
    fill(&mut bench);
    assert_eq!(bench.judge(&bench.disk), Verdict::Blank, "nothing but zeroes");
    let ranges = bench.samples.remembered();
    assert_eq!(bench.samples.judge(ranges.iter().map(|r| (r, None))), Verdict::Unreadable);
    let one_broken = |(i, r)| (r, (i != 0).then(|| slice(&[9; SIZE as usize], r)));
    assert!(matches!(
        bench.samples.judge(ranges.iter().enumerate().map(one_broken)),
        Verdict::Differs { at: 1 }
    ));
    bench.samples.forget();
    assert_eq!(bench.samples.remembered(), []);
}

#[test]
fn places_lie_in_the_unit_and_apart() {
    for (size, length) in [(0, 8), (7, 8), (8, 8), (100, 8), (31 * 8, 8), (33 * 8, 8), (1 << 44, 2048)] {
        let mut samples = Samples::default();
        samples.lay_out(size, length);
        let ranges: Vec<_> = samples.places().map(|p| p.range.clone()).collect();
        assert!(ranges.iter().all(|r| r.end <= size && r.start % length == 0), "{ranges:?}");
        assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start), "{ranges:?}");
        assert_eq!(ranges.is_empty(), size < length);
    }
}

#[test]
fn the_digest_is_the_published_one() {
    assert_eq!(digest(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    assert_eq!(digest(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
}
