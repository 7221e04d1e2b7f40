//! Whether two paths lead to one unit: the verdict on what was read over both.
//!
//! NBD tells nothing of a unit but name and size, so blocks are compared, read while writes to them are held. A difference
//! proves another unit; a block that one of the two cannot read proves nothing, or a medium error behind one path would lock
//! out the others; blank blocks prove nothing either, because all blank units look alike. It does not know how blocks are
//! chosen, nor how they are read.

use crate::mutant::{self, Mutant};

/// What units without content are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blank {
    ProvesNothing,
    /// Another connection over the same path, or `assume_same = true`.
    IsFine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// The blocks with this index differ.
    Differs {
        at: usize,
    },
    /// The new path could not read one of the blocks that the known one reads.
    Unreadable,
    Blank,
}

/// `samples`: the same blocks over the new and over the known path; none where one could not be read.
pub fn judge<'a>(
    samples: impl IntoIterator<Item = (Option<&'a [u8]>, Option<&'a [u8]>)>,
    blank: Blank,
) -> Verdict {
    if mutant::active(Mutant::IdentityUnchecked) {
        return Verdict::Same;
    }
    let (mut compared, mut has_content, mut new_fails) = (false, false, false);
    for (at, sample) in samples.into_iter().enumerate() {
        match sample {
            (Some(new), Some(known)) if new != known => return Verdict::Differs { at },
            (Some(new), Some(_)) => {
                compared = true;
                has_content |= new.iter().any(|byte| *byte != 0);
            }
            (None, _) => new_fails = true,
            (Some(_), None) => {}
        }
    }
    match (compared, has_content, blank) {
        (true, true, _) | (true, false, Blank::IsFine) => Verdict::Same,
        (true, false, Blank::ProvesNothing) => Verdict::Blank,
        (false, _, _) if new_fails => Verdict::Unreadable,
        // It is the known one that reads nothing: there is nothing to compare with.
        (false, _, _) => Verdict::Same,
    }
}

/// Whether what is announced may be the unit at all.
#[must_use]
pub fn same_size(known: u64, new: u64) -> bool {
    known == new || mutant::active(Mutant::IdentityUnchecked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<&[u8]> = Some(&[1; 4]);
    const B: Option<&[u8]> = Some(&[2; 4]);
    const ZERO: Option<&[u8]> = Some(&[0; 4]);

    #[test]
    fn the_whole_table() {
        let rows = [
            (vec![(A, A), (B, B)], Verdict::Same),
            (vec![(A, A), (B, A)], Verdict::Differs { at: 1 }),
            (vec![(A, A), (None, A)], Verdict::Same),
            (vec![(None, A), (None, A)], Verdict::Unreadable),
            (vec![(A, None), (A, None)], Verdict::Same),
            (vec![(ZERO, ZERO)], Verdict::Blank),
            (vec![(ZERO, ZERO), (A, A)], Verdict::Same),
            (vec![], Verdict::Same),
        ];
        for (samples, expected) in rows {
            assert_eq!(judge(samples.clone(), Blank::ProvesNothing), expected, "{samples:?}");
        }
        assert_eq!(judge([(ZERO, ZERO)], Blank::IsFine), Verdict::Same);
        assert!(same_size(4096, 4096) && !same_size(4096, 8192));
    }
}
