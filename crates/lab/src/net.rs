//! Sockets of both kinds under one type, and the two buffers that a sans-I/O session needs.
//!
//! Everything is nonblocking and driven by one task a connection: try to read, try to write, wait for readiness.
//! Invariant: a [`Stream`] that is `reset` sends RST and discards what has not left. Rejected: a reader task and a
//! writer task with a channel between them: twice the wake-ups, and two owners of one connection's death.
//! It does not know: NBD, QMP.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Where to listen or to connect: `ADDR:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("{text:?} is no address: write 127.0.0.1:10809 (port 0 for any) or unix:/path/to/socket")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// The NBD URL of an export there; "" is the default export.
    #[must_use]
    pub fn nbd_url(&self, export: &str) -> String {
        match self {
            Self::Tcp(address) => format!("nbd://{address}/{export}"),
            Self::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
        }
    }
}

/// Takes `nbd://ADDR:PORT[/EXPORT]` or `nbd+unix:///[EXPORT]?socket=PATH` apart.
///
/// # Errors
/// In words, with what is accepted.
pub fn parse_nbd_url(url: &str) -> Result<(Address, String), String> {
    let parsed = if let Some(rest) = url.strip_prefix("nbd://") {
        let (address, export) = rest.split_once('/').unwrap_or((rest, ""));
        address.parse().ok().map(|address| (Address::Tcp(address), export.to_owned()))
    } else if let Some(rest) = url.strip_prefix("nbd+unix:///") {
        let (export, socket) = rest.split_once("?socket=").unwrap_or((rest, ""));
        (!socket.is_empty()).then(|| (Address::Unix(PathBuf::from(socket)), export.to_owned()))
    } else {
        None
    };
    parsed.ok_or_else(|| {
        format!(
            "{url:?} is no NBD URL: write nbd://127.0.0.1:10809/EXPORT or nbd+unix:///EXPORT?socket=/path"
        )
    })
}

/// A listening socket. A Unix one removes its file when it is dropped.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens, and says where: with port 0 the system chooses.
    ///
    /// # Errors
    /// If the address is taken or not ours.
    pub async fn bind(address: &Address) -> io::Result<(Self, Address)> {
        match address {
            Address::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted).await?;
                let bound = listener.local_addr()?;
                Ok((Self::Tcp(listener), Address::Tcp(bound)))
            }
            Address::Unix(path) => {
                remove_stale_socket(path)?;
                Ok((Self::Unix(UnixListener::bind(path)?, path.clone()), address.clone()))
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// Of the system; the listener stays usable.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that a killed process has left, and nothing else.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// # Errors
    /// Of the system.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// Waits until it is worth trying again.
    ///
    /// # Errors
    /// Of the system.
    pub async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await.map(drop),
            Self::Unix(stream) => stream.ready(interest).await.map(drop),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(pieces),
            Self::Unix(stream) => stream.try_write_vectored(pieces),
        }
    }

    /// Reads into `buffer`, which is not empty.
    ///
    /// # Errors
    /// Of the system, without "would block".
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        match self.try_read(buffer) {
            Ok(0) => Ok(Received::End),
            Ok(bytes) => Ok(Received::Bytes(bytes)),
            Err(why) if why.kind() == ErrorKind::WouldBlock => Ok(Received::Dry),
            Err(why) => Err(why),
        }
    }

    /// Breaks the connection: RST on TCP, where nothing that is still queued is sent. A Unix socket is only closed.
    pub fn reset(self) {
        if let Self::Tcp(stream) = &self {
            let _ = stream.set_zero_linger();
        }
    }
}

/// What one attempt to read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Bytes(usize),
    /// Nothing now.
    Dry,
    /// Nothing ever again.
    End,
}

/// Bytes that have come and are not yet parsed. Small, so that payloads mostly bypass it.
#[derive(Debug)]
pub struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { buffer: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    /// Moves what is there into `target`, as much as fits; says how much.
    pub fn take_into(&mut self, target: &mut [u8]) -> usize {
        let bytes = target.len().min(self.end - self.start);
        target[..bytes].copy_from_slice(&self.bytes()[..bytes]);
        self.consume(bytes);
        bytes
    }

    /// Reads more, if all that was there has been consumed or room is left behind it.
    ///
    /// # Errors
    /// Of the system.
    pub fn fill(&mut self, stream: &Stream) -> io::Result<Received> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let received = stream.receive(&mut self.buffer[self.end..])?;
        if let Received::Bytes(bytes) = received {
            self.end += bytes;
        }
        Ok(received)
    }
}

/// Bytes that wait to be sent, in order, in pieces of any type.
#[derive(Debug)]
pub struct Outbox<P> {
    pieces: VecDeque<P>,
    /// How much of the first piece has gone.
    sent: usize,
    bytes: usize,
}

/// Pieces handed to the system in one call; beyond this nothing is gained.
const PIECES_PER_CALL: usize = 32;

impl<P: AsRef<[u8]>> Outbox<P> {
    #[must_use]
    pub fn new() -> Self {
        Self { pieces: VecDeque::new(), sent: 0, bytes: 0 }
    }

    pub fn push(&mut self, piece: P) {
        self.bytes += piece.as_ref().len();
        self.pieces.push_back(piece);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes not yet sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Sends as much as the socket takes now; says whether anything went.
    ///
    /// # Errors
    /// Of the system.
    pub fn flush(&mut self, stream: &Stream) -> io::Result<bool> {
        let mut moved = false;
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_PER_CALL];
            let mut count = 0;
            for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
                let skipped = if count == 0 { self.sent } else { 0 };
                *slot = IoSlice::new(&piece.as_ref()[skipped..]);
                count += 1;
            }
            match stream.try_write_vectored(&slices[..count]) {
                Ok(sent) => self.advance(sent),
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => return Err(why),
            }
            moved = true;
        }
        Ok(moved)
    }

    fn advance(&mut self, sent: usize) {
        self.bytes -= sent;
        self.sent += sent;
        while let Some(first) = self.pieces.front().map(|p| p.as_ref().len()).filter(|len| *len <= self.sent)
        {
            self.sent -= first;
            self.pieces.pop_front();
        }
    }
}

impl<P: AsRef<[u8]>> Default for Outbox<P> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_urls() {
        let tcp: Address = "127.0.0.1:10809".parse().unwrap();
        assert_eq!(tcp.nbd_url("u"), "nbd://127.0.0.1:10809/u");
        assert_eq!(parse_nbd_url("nbd://127.0.0.1:10809/u"), Ok((tcp, "u".to_owned())));
        let unix: Address = "unix:/tmp/s".parse().unwrap();
        assert_eq!(parse_nbd_url(&unix.nbd_url("")), Ok((unix, String::new())));
        assert!(parse_nbd_url("http://x").unwrap_err().contains("nbd+unix:///EXPORT?socket=/path"));
        assert!("localhost".parse::<Address>().unwrap_err().contains("unix:"));
    }

    #[tokio::test]
    async fn an_outbox_survives_partial_writes() {
        let (near, far) = UnixStream::pair().unwrap();
        let (near, far) = (Stream::Unix(near), Stream::Unix(far));
        let mut outbox = Outbox::new();
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
        sent.chunks(70_001).for_each(|piece| outbox.push(piece.to_vec()));
        let (mut got, mut inbox) = (Vec::new(), Inbox::new(4096));
        while got.len() < sent.len() {
            outbox.flush(&near).unwrap();
            tokio::select! {
                ready = far.ready(Interest::READABLE) => ready.unwrap(),
                ready = near.ready(Interest::WRITABLE), if !outbox.is_empty() => ready.unwrap(),
            }
            inbox.fill(&far).unwrap();
            got.extend_from_slice(inbox.bytes());
            inbox.consume(inbox.bytes().len());
        }
        assert!(outbox.is_empty() && got == sent);
    }
}
