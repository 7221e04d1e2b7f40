//! The verifier must pass whatever an honest disk does, and fail for each way in which a disk can lie.

use super::*;
use proptest::prelude::*;

const WHO: Identity = Identity { run: 5, disk: 1 };

fn at(first: u64) -> Extent {
    Extent { first, count: 1 }
}

/// A disk of eight blocks that does what it is told, and its model.
struct World {
    model: Model,
    disk: Vec<u8>,
}

impl World {
    fn new() -> Self {
        Self { model: Model::new(WHO, 8), disk: vec![0; 8 * BLOCK] }
    }

    fn begin(&mut self, extent: Extent, kind: WriteKind) -> Vec<u8> {
        let mut data = vec![0; extent.len()];
        self.model.begin_write(extent, kind, &mut data);
        data
    }

    fn apply(&mut self, extent: Extent, data: &[u8]) {
        self.disk[extent.offset() as usize..][..data.len()].copy_from_slice(data);
    }

    fn write(&mut self, extent: Extent) -> Vec<u8> {
        let data = self.begin(extent, WriteKind::Data);
        self.apply(extent, &data);
        self.model.end_write(extent, WriteEnd::Done);
        data
    }

    fn read(&mut self, extent: Extent) -> Vec<String> {
        let ticket = self.model.begin_read(extent);
        self.finish(&ticket)
    }

    fn finish(&mut self, ticket: &ReadTicket) -> Vec<String> {
        let mut faults = Vec::new();
        let extent = ticket.extent();
        self.model.end_read(ticket, &self.disk[extent.offset() as usize..][..extent.len()], &mut faults);
        faults.into_iter().map(|f| f.found).collect()
    }
}

#[test]
fn a_lost_write_is_caught() {
    let mut w = World::new();
    w.write(at(3));
    w.begin(at(3), WriteKind::Data);
    w.model.end_write(at(3), WriteEnd::Done);
    assert_eq!(w.read(at(3)), ["stale: generation 2"]);
    w.begin(at(4), WriteKind::Data);
    w.model.end_write(at(4), WriteEnd::Done);
    assert_eq!(w.read(at(4)), ["zeroes"]);
}

#[test]
fn a_ghost_of_an_older_write_is_caught() {
    let mut w = World::new();
    let ghost = w.write(at(3));
    w.write(at(3));
    assert!(w.read(at(3)).is_empty());
    w.apply(at(3), &ghost);
    assert_eq!(w.read(at(3)), ["stale: generation 2"]);
}

#[test]
fn swapped_blocks_are_caught() {
    let mut w = World::new();
    let (third, fourth) = (w.write(at(3)), w.write(at(4)));
    w.apply(at(3), &fourth);
    w.apply(at(4), &third);
    assert_eq!(w.read(at(3)), ["belongs elsewhere: disk 1, block 4, generation 2"]);
    assert_eq!(w.read(at(4)), ["belongs elsewhere: disk 1, block 3, generation 2"]);
}

#[test]
fn a_write_to_a_block_that_was_never_written_is_caught() {
    let mut w = World::new();
    let data = w.write(at(3));
    w.apply(at(5), &data);
    assert_eq!(w.read(at(5)).len(), 1);
}

#[test]
fn a_torn_block_is_caught() {
    let mut w = World::new();
    let old = w.write(at(3));
    w.write(at(3));
    w.disk[3 * BLOCK + 512..4 * BLOCK].copy_from_slice(&old[512..]);
    assert_eq!(w.read(at(3)), ["torn: header of generation 4, body of something else"]);
}

#[test]
fn what_was_seen_once_may_not_vanish_again() {
    let mut w = World::new();
    let old = w.write(at(3));
    let new = w.begin(at(3), WriteKind::Data);
    assert!(w.read(at(3)).is_empty(), "the open write has not landed");
    w.apply(at(3), &new);
    assert!(w.read(at(3)).is_empty(), "it has");
    w.apply(at(3), &old);
    assert_eq!(w.read(at(3)), ["stale: generation 2"]);
}

#[test]
fn a_write_in_doubt_may_have_either_value_until_the_next() {
    let mut w = World::new();
    w.write(at(3));
    let doubtful = w.begin(at(3), WriteKind::Data);
    w.model.end_write(at(3), WriteEnd::InDoubt);
    assert!(w.read(at(3)).is_empty());
    w.apply(at(3), &doubtful);
    assert!(w.read(at(3)).is_empty());
    w.write(at(3));
    assert!(w.read(at(3)).is_empty());
    w.apply(at(3), &doubtful);
    assert_eq!(w.read(at(3)), ["stale: generation 4"]);
}

#[test]
fn zeroes_are_a_value_like_any_other() {
    let mut w = World::new();
    let data = w.write(at(3));
    let zeroes = w.begin(at(3), WriteKind::Zeroes);
    w.apply(at(3), &zeroes);
    w.model.end_write(at(3), WriteEnd::Done);
    assert!(w.read(at(3)).is_empty());
    w.apply(at(3), &data);
    assert_eq!(w.read(at(3)), ["stale: generation 2"]);
}

#[test]
fn zeroes_under_an_open_write_of_data_are_caught() {
    let mut w = World::new();
    w.write(at(3));
    w.begin(at(3), WriteKind::Data);
    w.apply(at(3), &[0; BLOCK]);
    assert_eq!(w.read(at(3)), ["zeroes"]);
}

#[test]
fn a_long_read_may_bring_anything_from_its_start_to_its_end() {
    let mut w = World::new();
    w.write(at(3));
    let before = w.model.begin_read(at(3));
    w.write(at(3));
    w.write(at(3));
    assert!(w.finish(&before).is_empty());
}

/// One step of a random history on an honest disk.
#[derive(Clone, Debug)]
enum Step {
    Begin(u64, u32, bool),
    /// Apply and close the oldest open write, or leave it in doubt, applied or not.
    End(u8),
    BeginRead(u64, u32),
    EndRead,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u64..6, 1u32..3, any::<bool>()).prop_map(|(first, count, zero)| Step::Begin(first, count, zero)),
        (0u8..6).prop_map(Step::End),
        (0u64..6, 1u32..3).prop_map(|(first, count)| Step::BeginRead(first, count)),
        Just(Step::EndRead),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    /// A disk that executes each write once, between its begin and its end, is never blamed.
    #[test]
    fn an_honest_disk_is_never_blamed(steps in steps()) {
        let mut w = World::new();
        let mut writes: Vec<(Extent, Vec<u8>)> = Vec::new();
        let mut reads: Vec<(ReadTicket, Vec<u8>)> = Vec::new();
        for step in steps {
            match step {
                Step::Begin(first, count, zero) => {
                    let extent = Extent { first, count };
                    if !w.model.is_busy(extent) {
                        let data = w.begin(extent, if zero { WriteKind::Zeroes } else { WriteKind::Data });
                        writes.push((extent, data));
                    }
                }
                Step::End(how) if !writes.is_empty() => {
                    let (extent, data) = writes.remove(0);
                    if how != 0 {
                        w.apply(extent, &data);
                    }
                    w.model.end_write(extent, if how < 2 { WriteEnd::InDoubt } else { WriteEnd::Done });
                }
                Step::BeginRead(first, count) => {
                    let ticket = w.model.begin_read(Extent { first, count });
                    let extent = ticket.extent();
                    let now = w.disk[extent.offset() as usize..][..extent.len()].to_vec();
                    reads.push((ticket, now));
                }
                Step::EndRead if !reads.is_empty() => {
                    let (ticket, data) = reads.remove(0);
                    let mut faults = Vec::new();
                    w.model.end_read(&ticket, &data, &mut faults);
                    prop_assert_eq!(faults, vec![]);
                }
                Step::End(_) | Step::EndRead => {}
            }
        }
    }

    /// Bring back any older value of a block that has been overwritten and acknowledged: it is caught.
    #[test]
    fn an_old_value_is_always_caught(writes in 2usize..12, which in 0usize..11) {
        let mut w = World::new();
        let values: Vec<_> = (0..writes).map(|_| w.write(at(3))).collect();
        w.apply(at(3), &values[which % (writes - 1)]);
        prop_assert_eq!(w.read(at(3)).len(), 1);
    }
}
