//! What a 4 KiB block of a verified disk holds: who wrote it, where it belongs, which generation it is.
//!
//! Every byte follows from (run, disk, block, generation), so a block is checked against all of its 4096 bytes
//! without keeping a copy. Invariant: two blocks that differ in any of the four differ in the header's seal and in
//! nearly every word of the body. Rejected: a checksum over random data, slower to make and to check, and unable to
//! say *which* older value came back.
//! It does not know: which generations are allowed; `model` does.

use std::ops::Range;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
const MAGIC: u64 = u64::from_be_bytes(*b"vmpathLB");
const HEADER_WORDS: usize = 5;
const WORDS: usize = BLOCK / 8;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whose blocks they are. `run` differs for every run, so that leftovers of another run cannot pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub run: u64,
    pub disk: u32,
}

/// What a block was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// This run's, this disk's, this block's, and whole.
    Generation(u32),
    /// All bytes are zero.
    Zero,
    /// Written by this run, but for another block or disk.
    Misplaced { disk: u32, block: u64, generation: u32 },
    /// The header is this run's, the body is not what it announces.
    Torn { generation: u32 },
    /// Not written by this run.
    Foreign,
}

/// Fills `out` (one block) with generation `generation` of `block`.
///
/// # Panics
/// If `out` is not one block long.
pub fn fill(who: Identity, block: u64, generation: u32, out: &mut [u8]) {
    assert_eq!(out.len(), BLOCK, "a block is {BLOCK} bytes");
    let header = header(who, block, generation);
    let (words, _) = out.as_chunks_mut::<8>();
    for (word, value) in words.iter_mut().zip(header) {
        *word = value.to_le_bytes();
    }
    let mut value = header[HEADER_WORDS - 1];
    for word in &mut words[HEADER_WORDS..] {
        value = value.wrapping_add(STEP);
        *word = value.to_le_bytes();
    }
}

/// Says what `data` (one block) is, for the one who expects `block` of `who`.
///
/// # Panics
/// If `data` is not one block long.
#[must_use]
pub fn inspect(who: Identity, block: u64, data: &[u8]) -> Content {
    assert_eq!(data.len(), BLOCK, "a block is {BLOCK} bytes");
    let (words, _) = data.as_chunks::<8>();
    let word = |i: usize| u64::from_le_bytes(words[i]);
    if word(0) == 0 && data.iter().all(|byte| *byte == 0) {
        return Content::Zero;
    }
    let [magic, run, place, found_block, seal] = std::array::from_fn(word);
    let (disk, generation) = ((place >> 32) as u32, place as u32);
    let header = [magic, run, place, found_block];
    if magic != MAGIC || run != who.run {
        return Content::Foreign;
    }
    if seal != self::seal(header) || !body_follows(&words[HEADER_WORDS..], seal) {
        return Content::Torn { generation };
    }
    if disk != who.disk || found_block != block {
        return Content::Misplaced { disk, block: found_block, generation };
    }
    Content::Generation(generation)
}

/// The whole blocks of a byte range that starts and ends on block borders.
#[must_use]
pub fn blocks_of(offset: u64, len: usize) -> Range<u64> {
    let first = offset / BLOCK as u64;
    first..first + (len / BLOCK) as u64
}

fn header(who: Identity, block: u64, generation: u32) -> [u64; HEADER_WORDS] {
    let place = u64::from(who.disk) << 32 | u64::from(generation);
    let open = [MAGIC, who.run, place, block];
    [open[0], open[1], open[2], open[3], seal(open)]
}

fn seal(header: [u64; 4]) -> u64 {
    header.iter().fold(STEP, |sum, word| mix(sum ^ word))
}

/// No early exit, so that the compiler makes vector code of it: almost every block is good.
fn body_follows(body: &[[u8; 8]], seal: u64) -> bool {
    let mut value = seal;
    let mut difference = 0;
    for word in body {
        value = value.wrapping_add(STEP);
        difference |= u64::from_le_bytes(*word) ^ value;
    }
    difference == 0 && body.len() == WORDS - HEADER_WORDS
}

/// A 64-bit finaliser (the one of splitmix64): every input bit reaches every output bit.
#[must_use]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Identity = Identity { run: 77, disk: 2 };

    fn block(who: Identity, number: u64, generation: u32) -> Vec<u8> {
        let mut data = vec![0; BLOCK];
        fill(who, number, generation, &mut data);
        data
    }

    #[test]
    fn a_block_is_known_again() {
        assert_eq!(inspect(WHO, 9, &block(WHO, 9, 4)), Content::Generation(4));
        assert_eq!(inspect(WHO, 9, &[0; BLOCK]), Content::Zero);
        assert_eq!(inspect(WHO, 9, &[7; BLOCK]), Content::Foreign);
        assert_eq!(inspect(WHO, 9, &block(Identity { run: 78, ..WHO }, 9, 4)), Content::Foreign);
    }

    #[test]
    fn a_block_in_the_wrong_place_is_named() {
        let found = inspect(WHO, 9, &block(Identity { disk: 3, ..WHO }, 8, 4));
        assert_eq!(found, Content::Misplaced { disk: 3, block: 8, generation: 4 });
    }

    #[test]
    fn any_changed_byte_is_seen() {
        let good = block(WHO, 9, 4);
        for at in 0..BLOCK {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_ne!(inspect(WHO, 9, &bad), Content::Generation(4), "byte {at}");
        }
    }

    #[test]
    fn halves_of_two_generations_are_torn() {
        let mut mixed = block(WHO, 9, 5);
        mixed[512..].copy_from_slice(&block(WHO, 9, 4)[512..]);
        assert_eq!(inspect(WHO, 9, &mixed), Content::Torn { generation: 5 });
    }
}
