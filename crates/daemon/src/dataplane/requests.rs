//! A guest's request while vmpath has it: who asked, and the bytes.

use std::rc::Rc;
use vmpath_core::router::RequestKey;
use vmpath_protocol::nbd::Command;

/// The worker's side of a request; its index is the router's `token`.
#[derive(Debug)]
pub(crate) struct FrontRequest {
    /// The front-end connection to answer; none if the client has gone.
    pub(crate) client: Option<usize>,
    pub(crate) key: RequestKey,
    /// The client's own cookie.
    pub(crate) cookie: u64,
    pub(crate) command: Command,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) payload: Payload,
}

/// A request's bytes. What is being written is shared with sends and never changes; so a resend carries the same bytes.
#[derive(Debug)]
pub(crate) enum Payload {
    None,
    /// A read's, while it is filled.
    Filling(Vec<u8>),
    Shared(Rc<Vec<u8>>),
}

impl FrontRequest {
    /// Bytes of memory that it holds.
    pub(crate) fn payload_bytes(&self) -> usize {
        match &self.payload {
            Payload::None => 0,
            Payload::Filling(data) => data.len(),
            Payload::Shared(data) => data.len(),
        }
    }
}
