//! The array that all hosts share: what its units hold, and the checker that knows each writer by its host.
//!
//! Invariant: it is told who owns a unit by the store alone, never by a host; each execution is judged at its moment.
//! It does not know why anything is written.

use super::scene::BLOCKS;
use vmpath_core::time::Instant;

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) vm: usize,
    pub(super) unit: usize,
    pub(super) block: usize,
    pub(super) write: bool,
    /// By whom it was executed as what it is, not as a ghost.
    pub(super) executed_by: Option<usize>,
    pub(super) made: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flight {
    Flying,
    /// Its answer is on the way.
    Executed,
    /// The connection that carried it is dead; until the fence it may still be executed.
    Lost,
    Over,
}

/// A request on its way from one process of a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) request: u32,
    pub(super) host: usize,
    pub(super) life: u32,
    pub(super) path: usize,
    pub(super) flight: Flight,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// The request whose bytes it holds; 0: none yet.
    holds: u32,
    /// The latest write that was answered to a guest.
    acknowledged: u32,
    /// The latest write that was sent by anybody.
    newest: u32,
}

#[derive(Debug)]
pub(super) struct Array {
    blocks: Vec<[Block; BLOCKS]>,
    /// The first one is nobody's, so that 0 is none.
    pub(super) requests: Vec<Request>,
    pub(super) attempts: Vec<Attempt>,
}

impl Array {
    pub(super) fn new(units: usize) -> Self {
        let nobody =
            Request { vm: 0, unit: 0, block: 0, write: false, executed_by: None, made: Instant::ZERO };
        Self { blocks: vec![[Block::default(); BLOCKS]; units], requests: vec![nobody], attempts: vec![] }
    }

    pub(super) fn request_of(&self, attempt: u32) -> Request {
        self.requests[self.attempts[attempt as usize].request as usize]
    }

    /// A request leaves its host.
    pub(super) fn sent(&mut self, attempt: Attempt) -> u32 {
        let request = self.requests[attempt.request as usize];
        if request.write {
            let block = &mut self.blocks[request.unit][request.block];
            block.newest = block.newest.max(attempt.request);
        }
        self.attempts.push(attempt);
        self.attempts.len() as u32 - 1
    }

    /// It takes effect. What that breaks, in words with the rule.
    pub(super) fn execute(&mut self, attempt: u32) -> Result<(), (&'static str, String)> {
        let Attempt { request: number, host, flight, .. } = self.attempts[attempt as usize];
        let request = &mut self.requests[number as usize];
        let is_ghost = flight == Flight::Lost;
        let block = &mut self.blocks[request.unit][request.block];
        if !request.write {
            let holds = block.holds;
            // Of an open write either; a later request than what is acknowledged is open.
            if holds < block.acknowledged {
                let text = format!(
                    "request {number} of kvm{} reads block {} of unit {} as {holds} has left it, after {} was answered",
                    host + 1,
                    request.block,
                    request.unit,
                    block.acknowledged
                );
                return Err(("stale-read", text));
            }
            return Ok(());
        }
        if number < block.newest {
            let text = format!(
                "write {number} of kvm{} takes effect on block {} of unit {} after write {} was sent there",
                host + 1,
                request.block,
                request.unit,
                block.newest
            );
            return Err(("ghost", text));
        }
        block.holds = number;
        if is_ghost {
            return Ok(());
        }
        match request.executed_by {
            Some(other) if other != host => {
                let text = format!("write {number} is executed by kvm{} after kvm{}", host + 1, other + 1);
                Err(("executed-twice", text))
            }
            Some(_) | None => {
                request.executed_by = Some(host);
                Ok(())
            }
        }
    }

    /// Its guest is told that it has succeeded.
    pub(super) fn acknowledged(&mut self, number: u32) -> Result<(), (&'static str, String)> {
        let request = self.requests[number as usize];
        if !request.write {
            return Ok(());
        }
        let block = &mut self.blocks[request.unit][request.block];
        if block.holds != number {
            let text =
                format!("write {number} is answered, and block {} holds {}", request.block, block.holds);
            return Err(("executed", text));
        }
        block.acknowledged = number;
        Ok(())
    }

    /// A guest has died with its open writes: what they leave is not judged.
    pub(super) fn forgets(&mut self, number: u32) {
        let request = self.requests[number as usize];
        if request.write {
            let block = &mut self.blocks[request.unit][request.block];
            block.acknowledged = block.acknowledged.min(block.holds);
        }
    }

    /// What was answered is there.
    pub(super) fn check_final(&self) -> Result<(), (&'static str, String)> {
        for (unit, blocks) in self.blocks.iter().enumerate() {
            for (at, block) in blocks.iter().enumerate() {
                if block.holds < block.acknowledged {
                    let text = format!(
                        "block {at} of unit {unit} holds {} in the end, and {} was answered",
                        block.holds, block.acknowledged
                    );
                    return Err(("lost-write", text));
                }
            }
        }
        Ok(())
    }
}
