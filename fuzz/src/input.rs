//! Choices that are taken from the input, and streams cut at places that the input chose.

/// What is left of the input. At its end every choice is 0.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A stream in pieces of 1 to 32 bytes; the lengths follow from `seed`.
#[derive(Debug)]
pub struct Pieces<'a> {
    stream: &'a [u8],
    state: u32,
}

impl<'a> Pieces<'a> {
    pub fn new(stream: &'a [u8], seed: u8) -> Self {
        Self { stream, state: u32::from(seed) | 0x9e37_0000 }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.stream.is_empty() {
            return None;
        }
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = ((self.state >> 24) as usize % 32 + 1).min(self.stream.len());
        let (piece, rest) = self.stream.split_at(len);
        self.stream = rest;
        Some(piece)
    }
}
