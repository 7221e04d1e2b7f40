//! One request at a time, waited for: what tests and preparations need.
//!
//! Invariant: nothing else is open on the disk, so nobody's completion is swallowed. Rejected: a second client for it.
//! It does not know: load.

use super::VhostError;
use super::block::{BlockRequest, ID, Operation, Status};
use super::client::Client;
use std::time::{Duration, Instant};

impl Client {
    /// Reads `into`, from a byte offset that is a multiple of the sector, as are all lengths here.
    ///
    /// # Errors
    /// If the device answers with one, not within `limit`, or something else is open; as all that follow.
    pub fn read_at(&mut self, offset: u64, into: &mut [u8], limit: Duration) -> Result<(), VhostError> {
        let request = BlockRequest::new(Operation::Read, offset, into.len() as u32);
        self.transact(request, &[], into, limit).and_then(good)
    }

    /// # Errors
    /// As [`Client::read_at`].
    pub fn write_at(&mut self, offset: u64, data: &[u8], limit: Duration) -> Result<(), VhostError> {
        let request = BlockRequest::new(Operation::Write, offset, data.len() as u32);
        self.transact(request, data, &mut [], limit).and_then(good)
    }

    /// # Errors
    /// As [`Client::read_at`].
    pub fn flush(&mut self, limit: Duration) -> Result<(), VhostError> {
        self.transact(BlockRequest::new(Operation::Flush, 0, 0), &[], &mut [], limit).and_then(good)
    }

    /// # Errors
    /// As [`Client::read_at`].
    pub fn discard(&mut self, offset: u64, len: u32, limit: Duration) -> Result<(), VhostError> {
        let request = BlockRequest::new(Operation::Discard, offset, len);
        self.transact(request, &[], &mut [], limit).and_then(good)
    }

    /// Without leave to unmap.
    ///
    /// # Errors
    /// As [`Client::read_at`].
    pub fn write_zeroes(&mut self, offset: u64, len: u32, limit: Duration) -> Result<(), VhostError> {
        let request = BlockRequest::new(Operation::WriteZeroes { unmap: false }, offset, len);
        self.transact(request, &[], &mut [], limit).and_then(good)
    }

    /// The disk's name for itself (GET_ID), without the padding.
    ///
    /// # Errors
    /// As [`Client::read_at`].
    pub fn id(&mut self, limit: Duration) -> Result<String, VhostError> {
        let mut id = [0; ID];
        self.transact(BlockRequest::new(Operation::GetId, 0, 0), &[], &mut id, limit).and_then(good)?;
        let end = id.iter().position(|byte| *byte == 0).unwrap_or(ID);
        Ok(String::from_utf8_lossy(&id[..end]).into_owned())
    }

    /// Sends any request on the first queue, with `data` as its payload, and waits for it; the payload is copied to
    /// `into` whatever the status.
    ///
    /// # Errors
    /// If it is not answered within `limit`, or something else is open.
    pub fn transact(
        &mut self,
        request: BlockRequest,
        data: &[u8],
        into: &mut [u8],
        limit: Duration,
    ) -> Result<Status, VhostError> {
        let busy = || VhostError::Unfit("something is open on the disk".to_owned());
        if self.open() > 0 {
            return Err(busy());
        }
        let slot = self.acquire(0).ok_or_else(busy)?;
        self.write_data(slot, data);
        self.submit(slot, request);
        self.publish(0);
        let (end, mut done) = (Instant::now() + limit, Vec::new());
        while done.is_empty() {
            if Instant::now() >= end || !self.is_connected() {
                return Err(VhostError::NoAnswer { what: "a request", patience: limit });
            }
            self.wait(end.saturating_duration_since(Instant::now()), &mut done)?;
        }
        self.read_data(slot, into);
        self.release(slot);
        Ok(done[0].status)
    }
}

fn good(status: Status) -> Result<(), VhostError> {
    match status {
        Status::Ok => Ok(()),
        Status::IoError | Status::Unsupported | Status::Unknown(_) => {
            Err(VhostError::Unfit(format!("the device answered: {status}")))
        }
    }
}
