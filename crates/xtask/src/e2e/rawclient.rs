//! An NBD client that may misbehave: just enough of the protocol to send what no kept client would.
//!
//! (NBD protocol, `doc/proto.md`: fixed newstyle, `NBD_OPT_EXPORT_NAME`, simple replies.)

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const EINVAL: u32 = 22;

const ANSWER_MAX: Duration = Duration::from_secs(10);
const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const EXPORT_NAME: u32 = 1;
const GO: u32 = 7;
/// Fixed newstyle, no zeroes.
const CLIENT_FLAGS: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FIRST_COOKIE: u64 = 0x1122_3344_5566_7788;

#[derive(Debug)]
pub(crate) struct RawClient {
    stream: UnixStream,
    next_cookie: u64,
    /// Cookies of requests without a reply, and the bytes of data that come with it if all is well.
    open: BTreeMap<u64, u32>,
}

/// What may be asked of an export.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request<'a> {
    Read {
        offset: u64,
        length: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
    },
    /// Has no reply.
    Disconnect,
}

/// A reply's error (0 is none), and what was read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) error: u32,
    pub(crate) data: Vec<u8>,
}

/// Sends bytes instead of a handshake. True if the server closes the connection.
///
/// # Errors
/// Nobody listens.
pub(crate) fn speak(socket: &Path, bytes: &[u8]) -> Result<bool> {
    let mut stream = connect(socket)?;
    _ = stream.write_all(bytes); // it may be closed before all is sent
    Ok(closes(&mut stream))
}

/// Waits for the greeting, then sends each of `segments` at once. True if the server closes the connection.
///
/// # Errors
/// Nobody listens, or no NBD server.
pub(crate) fn converse(socket: &Path, segments: &[Vec<u8>]) -> Result<bool> {
    let mut stream = greeted(socket)?;
    for segment in segments {
        _ = stream.write_all(segment); // it may be closed before all is sent
    }
    Ok(closes(&mut stream))
}

/// What a client sends first after the greeting.
pub(crate) fn flags() -> Vec<u8> {
    CLIENT_FLAGS.to_be_bytes().to_vec()
}

/// The option that opens an export without a way to refuse it.
pub(crate) fn export_name(export: &str) -> Vec<u8> {
    option(EXPORT_NAME, export.as_bytes())
}

/// The option that opens an export.
pub(crate) fn go(export: &str) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(export.as_bytes());
    data.extend_from_slice(&0_u16.to_be_bytes()); // nothing in particular is asked about it
    option(GO, &data)
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

impl Request<'_> {
    pub(crate) fn encode(self, cookie: u64) -> Vec<u8> {
        let (command, offset, length, data): (u16, _, _, &[u8]) = match self {
            Request::Read { offset, length } => (0, offset, length, &[]),
            Request::Write { offset, data } => (1, offset, data.len() as u32, data),
            Request::Disconnect => (2, 0, 0, &[]),
        };
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&0_u16.to_be_bytes());
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    }
}

impl RawClient {
    /// # Errors
    /// Nobody listens, or what listens is no NBD server with this export.
    pub(crate) fn open(socket: &Path, export: &str) -> Result<Self> {
        let mut stream = greeted(socket)?;
        stream.write_all(&[flags(), export_name(export)].concat())?;
        let mut size_and_flags = [0; 10];
        stream.read_exact(&mut size_and_flags).with_context(|| format!("no export {export}"))?;
        Ok(Self { stream, next_cookie: FIRST_COOKIE, open: BTreeMap::new() })
    }

    /// Sends all of them in one piece.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) fn send(&mut self, requests: &[Request<'_>]) -> Result<()> {
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend(request.encode(self.next_cookie));
            match request {
                Request::Read { length, .. } => _ = self.open.insert(self.next_cookie, *length),
                Request::Write { .. } => _ = self.open.insert(self.next_cookie, 0),
                Request::Disconnect => {}
            }
            self.next_cookie += 1;
        }
        self.write(&bytes)
    }

    /// The next reply, to whichever request; none if the connection was closed.
    ///
    /// # Errors
    /// There is none in time, or it is not one.
    pub(crate) fn reply(&mut self) -> Result<Option<Reply>> {
        let mut head = [0; 16];
        match self.stream.read_exact(&mut head) {
            Err(why)
                if why.kind() == io::ErrorKind::UnexpectedEof
                    || why.kind() == io::ErrorKind::ConnectionReset =>
            {
                return Ok(None);
            }
            other => other.context("no reply")?,
        }
        let [m0, m1, m2, m3, e0, e1, e2, e3, cookie @ ..] = head;
        let length = self.open.remove(&u64::from_be_bytes(cookie));
        let (Some(length), REPLY_MAGIC) = (length, u32::from_be_bytes([m0, m1, m2, m3])) else {
            bail!("not a simple reply to a request");
        };
        let error = u32::from_be_bytes([e0, e1, e2, e3]);
        let mut data = Vec::new();
        if error == 0 {
            (&mut self.stream).take(u64::from(length)).read_to_end(&mut data).context("no whole reply")?;
        }
        Ok(Some(Reply { error, data }))
    }

    /// Requests without a reply.
    pub(crate) fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// Reads and throws away the data. The error of the reply (0 is none), or none if the connection was closed.
    ///
    /// # Errors
    /// The reply is not one.
    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Result<Option<u32>> {
        self.send(&[Request::Read { offset, length }])?;
        Ok(self.reply()?.map(|reply| reply.error))
    }

    /// Bytes that need not be a request.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// How long a reply is waited for from now on.
    ///
    /// # Errors
    /// It is no time at all.
    pub(crate) fn set_patience(&mut self, bound: Duration) -> Result<()> {
        Ok(self.stream.set_read_timeout(Some(bound))?)
    }

    /// Whether the server closes the connection.
    pub(crate) fn is_closed(&mut self) -> Result<bool> {
        Ok(closes(&mut self.stream))
    }
}

fn greeted(socket: &Path) -> Result<UnixStream> {
    let mut stream = connect(socket)?;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).context("no greeting")?;
    if &greeting[..8] != b"NBDMAGIC" || &greeting[8..16] != OPTION_MAGIC {
        bail!("the greeting is not NBD's");
    }
    Ok(stream)
}

fn connect(socket: &Path) -> Result<UnixStream> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("nobody listens on {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// Reads until the end; a server that goes on talking or waiting has not closed.
fn closes(stream: &mut UnixStream) -> bool {
    match io::copy(&mut stream.take(1 << 20), &mut io::sink()) {
        Ok(_) => true,
        Err(why) => why.kind() == io::ErrorKind::ConnectionReset,
    }
}
