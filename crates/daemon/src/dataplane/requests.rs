//! A guest's request while vmpath has it: who asked, and where its bytes lie.

use crate::frontend::{GuestSlot, Guests};
use crate::sys::buffer::Buffer;
use crate::sys::guest::Spill;
use crate::sys::socket::Pieces;
use slab::Slab;
use std::ops::Range;
use vmpath_core::router::{Request, RequestKey};
use vmpath_protocol::nbd::Command;

/// The worker's side of a request; its index is the router's `token`.
#[derive(Debug)]
pub(crate) struct FrontRequest {
    pub(crate) client: Client,
    pub(crate) key: RequestKey,
    pub(crate) payload: Payload,
}

/// Whom to answer.
#[derive(Debug)]
pub(crate) enum Client {
    /// It has gone: the end of the request is heard by nobody.
    Gone,
    Nbd(NbdClient),
    Guest(GuestSlot),
}

/// A request of an NBD client's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NbdClient {
    /// The front-end connection.
    pub(crate) front: usize,
    /// The client's own name of the request.
    pub(crate) cookie: u64,
    pub(crate) command: Command,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A request's bytes. What is being written does not change; so a resend carries the same bytes.
#[derive(Debug)]
pub(crate) enum Payload {
    None,
    Buffer(Buffer),
    /// In the memory of the guest that is its client.
    Guest,
    /// A write whose guest is gone: its bytes, as far as some of them may have been sent.
    Kept(Spill),
    /// A read that nobody waits for: its data is thrown away.
    Discard,
}

impl FrontRequest {
    /// Bytes of our memory that it holds.
    pub(crate) fn payload_bytes(&self) -> usize {
        match &self.payload {
            Payload::Buffer(buffer) => buffer.len(),
            Payload::None | Payload::Guest | Payload::Kept(_) | Payload::Discard => 0,
        }
    }
}

/// All requests of a worker, with the guests in whose memory some of their bytes lie.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) table: Slab<FrontRequest>,
    pub(crate) guests: Guests,
}

impl Requests {
    /// Adds a part of what a write writes to what is sent next.
    pub(crate) fn source<'a>(&'a self, pieces: &mut Pieces<'a>, token: u32, part: Range<usize>) {
        let request = &self.table[token as usize];
        match (&request.payload, &request.client) {
            (Payload::Buffer(buffer), _) => pieces.push_source(&buffer[part]),
            (Payload::Guest, Client::Guest(slot)) => self.guests.data(pieces, *slot, part),
            (Payload::Kept(bytes), _) => bytes.push(pieces, part.start, part.len()),
            (Payload::Guest | Payload::None | Payload::Discard, _) => {}
        }
    }

    /// Whether all bytes of a write are to be had. A guest's session then knows that they may be asked for at any time, and
    /// keeps copies of them when its ring stops.
    #[must_use]
    pub(crate) fn offer(&self, write: &Request) -> bool {
        let mut pieces = Pieces::default();
        let length = write.length as usize;
        self.source(&mut pieces, write.token, 0..length);
        pieces.bytes() == length || pieces.room() == 0
    }

    /// Adds the place of a part of a read's data to where the next bytes are received; if that is `Elsewhere`, they are
    /// to be given to [`Self::fill`].
    pub(crate) fn target<'a>(
        &'a mut self,
        pieces: &mut Pieces<'a>,
        token: u32,
        part: Range<usize>,
    ) -> Target {
        let Some(request) = self.table.get_mut(token as usize) else { return Target::Elsewhere };
        match (&mut request.payload, &request.client) {
            (Payload::Buffer(buffer), _) => pieces.push_target(&mut buffer[part]),
            (Payload::Guest, Client::Guest(slot)) => self.guests.data(pieces, *slot, part),
            (Payload::Guest | Payload::None | Payload::Kept(_) | Payload::Discard, _) => {
                return Target::Elsewhere;
            }
        }
        Target::InPlace
    }

    /// Copies a part of a read's data to where it belongs.
    pub(crate) fn fill(&mut self, token: u32, at: usize, bytes: &[u8]) {
        let Some(request) = self.table.get_mut(token as usize) else { return };
        match (&mut request.payload, &request.client) {
            (Payload::Buffer(buffer), _) => buffer[at..at + bytes.len()].copy_from_slice(bytes),
            (Payload::Guest, Client::Guest(slot)) => self.guests.fill(*slot, at, bytes),
            (Payload::Guest | Payload::None | Payload::Kept(_) | Payload::Discard, _) => {}
        }
    }

    /// Copies what a write writes; `into` is as long as the request. False if its bytes are not to be had.
    #[must_use]
    pub(crate) fn copy_out(&self, token: u32, into: &mut [u8]) -> bool {
        let request = &self.table[token as usize];
        match (&request.payload, &request.client) {
            (Payload::Buffer(buffer), _) => into.copy_from_slice(buffer),
            (Payload::Guest, Client::Guest(slot)) => return self.guests.copy_out(*slot, into),
            (Payload::Kept(bytes), _) => bytes.read(0, into),
            (Payload::Guest | Payload::None | Payload::Discard, _) => return false,
        }
        true
    }
}

/// Where a read's data is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    InPlace,
    Elsewhere,
}
