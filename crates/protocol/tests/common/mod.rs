//! Helpers of the protocol tests: streams cut at random places, and owners that keep the machines' contract.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;

use vmpath_protocol::nbd::{
    Command, NbdError, Outstanding, ReplyEvent, ReplyParser, RequestEvent, RequestParser, SessionError,
};

/// A stream that arrives in pieces of the given lengths (each at least 1; the rest at once).
pub(crate) struct Pieces<'a> {
    bytes: &'a [u8],
    cuts: std::iter::Copied<std::slice::Iter<'a, usize>>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(bytes: &'a [u8], cuts: &'a [usize]) -> Pieces<'a> {
        Pieces { bytes, cuts: cuts.iter().copied() }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.bytes.is_empty() {
            return None;
        }
        let len = self.cuts.next().unwrap_or(self.bytes.len()).clamp(1, self.bytes.len());
        let (piece, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        Some(piece)
    }
}

/// An owner of a reply stream: buffers per cookie, filled as the events say.
#[derive(Default)]
pub(crate) struct ClientOwner {
    pub(crate) outstanding: BTreeMap<u64, Outstanding>,
    pub(crate) buffers: BTreeMap<u64, Vec<u8>>,
    pub(crate) done: BTreeMap<u64, Result<(), NbdError>>,
    target: Option<(u64, usize)>,
}

impl ClientOwner {
    pub(crate) fn ask(&mut self, cookie: u64, command: Command, offset: u64, len: u32) {
        self.outstanding.insert(cookie, Outstanding { command, offset, len });
        if command == Command::Read {
            self.buffers.insert(cookie, vec![0xee; len as usize]);
        }
    }

    /// Feeds one piece to its end; panics if the parser breaks the contract.
    pub(crate) fn receive(&mut self, parser: &mut ReplyParser, mut piece: &[u8]) -> Result<(), SessionError> {
        loop {
            let pending = parser.payload_pending() as usize;
            if let Some((cookie, at)) = self.target.filter(|_| pending > 0) {
                let n = pending.min(piece.len());
                self.buffers.get_mut(&cookie).unwrap()[at..at + n].copy_from_slice(&piece[..n]);
                self.target = Some((cookie, at + n));
                parser.payload_taken(n as u32)?;
                piece = &piece[n..];
                if n < pending {
                    return Ok(());
                }
            }
            let fed = parser.feed(piece, |cookie| self.outstanding.get(&cookie).copied())?;
            assert!(fed.consumed <= piece.len(), "consumed more than was given");
            piece = &piece[fed.consumed..];
            match fed.event {
                None => {
                    assert!(piece.is_empty(), "bytes left although nothing is pending");
                    return Ok(());
                }
                Some(ReplyEvent::Payload { cookie, buf_offset, len }) => {
                    assert_eq!(parser.payload_pending(), len);
                    self.target = Some((cookie, buf_offset as usize));
                }
                Some(ReplyEvent::Hole { cookie, buf_offset, len }) => {
                    let at = buf_offset as usize;
                    self.buffers.get_mut(&cookie).unwrap()[at..at + len as usize].fill(0);
                }
                Some(ReplyEvent::Done { cookie, result }) => {
                    assert!(self.outstanding.remove(&cookie).is_some(), "completed twice");
                    assert!(self.done.insert(cookie, result).is_none());
                }
            }
        }
    }
}

/// An owner of a request stream: the events in order, each with the payload that followed it.
#[derive(Default)]
pub(crate) struct ServerOwner {
    pub(crate) events: Vec<(RequestEvent, Vec<u8>)>,
}

impl ServerOwner {
    pub(crate) fn receive(
        &mut self,
        parser: &mut RequestParser,
        mut piece: &[u8],
    ) -> Result<(), vmpath_protocol::nbd::RequestError> {
        loop {
            let n = (parser.payload_pending() as usize).min(piece.len());
            if n > 0 {
                self.events.last_mut().unwrap().1.extend_from_slice(&piece[..n]);
                parser.payload_taken(n as u32)?;
                piece = &piece[n..];
            }
            let fed = parser.feed(piece)?;
            assert!(fed.consumed <= piece.len(), "consumed more than was given");
            piece = &piece[fed.consumed..];
            match fed.event {
                None => return Ok(()),
                Some(event) => self.events.push((event, Vec::new())),
            }
        }
    }
}
