//! An NBD client that may misbehave: just enough of the protocol to send what no kept client would.
//!
//! (NBD protocol, `doc/proto.md`: fixed newstyle, `NBD_OPT_EXPORT_NAME`, simple replies.)

use anyhow::{Context, Result, bail};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const EINVAL: u32 = 22;

const ANSWER_MAX: Duration = Duration::from_secs(10);
const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const EXPORT_NAME: u32 = 1;
/// Fixed newstyle, no zeroes.
const CLIENT_FLAGS: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u16 = 0;
const COOKIE: u64 = 0x1122_3344_5566_7788;

#[derive(Debug)]
pub(crate) struct RawClient {
    stream: UnixStream,
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

impl RawClient {
    /// # Errors
    /// Nobody listens, or what listens is no NBD server with this export.
    pub(crate) fn open(socket: &Path, export: &str) -> Result<Self> {
        let mut stream = connect(socket)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).context("no greeting")?;
        if &greeting[..8] != b"NBDMAGIC" || &greeting[8..16] != OPTION_MAGIC {
            bail!("the greeting is not NBD's");
        }
        let mut message = CLIENT_FLAGS.to_be_bytes().to_vec();
        message.extend_from_slice(OPTION_MAGIC);
        message.extend_from_slice(&EXPORT_NAME.to_be_bytes());
        message.extend_from_slice(&u32::try_from(export.len())?.to_be_bytes());
        message.extend_from_slice(export.as_bytes());
        stream.write_all(&message)?;
        let mut size_and_flags = [0; 10];
        stream.read_exact(&mut size_and_flags).with_context(|| format!("no export {export}"))?;
        Ok(Self { stream })
    }

    /// Reads and throws away the data. The error of the reply (0 is none), or none if the connection was closed.
    ///
    /// # Errors
    /// The reply is not one.
    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Result<Option<u32>> {
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend_from_slice(&0_u16.to_be_bytes());
        request.extend_from_slice(&READ.to_be_bytes());
        request.extend_from_slice(&COOKIE.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        self.stream.write_all(&request)?;
        let mut reply = [0; 16];
        match self.stream.read_exact(&mut reply) {
            Err(why)
                if why.kind() == io::ErrorKind::UnexpectedEof
                    || why.kind() == io::ErrorKind::ConnectionReset =>
            {
                return Ok(None);
            }
            other => other.context("no reply")?,
        }
        if reply[..4] != REPLY_MAGIC.to_be_bytes() || reply[8..] != COOKIE.to_be_bytes() {
            bail!("not a simple reply to this request");
        }
        let error = u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]]);
        if error == 0 {
            io::copy(&mut (&mut self.stream).take(u64::from(length)), &mut io::sink())?;
        }
        Ok(Some(error))
    }

    /// # Errors
    /// The connection is closed.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Whether the server closes the connection.
    pub(crate) fn is_closed(&mut self) -> Result<bool> {
        Ok(closes(&mut self.stream))
    }
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
