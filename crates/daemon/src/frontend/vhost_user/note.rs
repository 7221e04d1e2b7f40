//! What a front end has said of its guest's memory, in a small file for the next process.
//!
//! QEMU 7.2 goes on after a restart of its back end as if nothing had happened, if its guest did not run meanwhile: no handshake, and no
//! memory, for it has told all of that to the process that is gone. Invariant: only memory of the process that the note is about is ever
//! mapped: the peer's pid by the kernel's word, its start time, and each file's device and inode must be those of the note.
//! Rejected: keeping the descriptors elsewhere (nobody outlives the daemon); see docs/decisions. It does not know rings or messages.

use crate::sys::boot::BootId;
use crate::sys::guest::{FileId, GuestMemory, Place, REGIONS_MAX};
use crate::sys::socket;
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use thiserror::Error;

/// The first line; a note of another form is not believed.
const FORM: &str = "vmpath guest memory 1";
/// Bytes of the longest note: its head, and a line of six numbers of up to 20 digits per region.
const BYTES_MAX: u64 = 256 + REGIONS_MAX as u64 * 140;

/// Why a guest's memory cannot be found again.
#[derive(Debug, Error)]
pub(crate) enum Forgotten {
    #[error("no former process has left a note of it")]
    NoNote,
    #[error("the note of it cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("the note of it is damaged")]
    Damaged,
    #[error("the note of it is about process {noted}, and this front end is process {found}")]
    AnotherProcess { noted: u32, found: u32 },
    #[error("the note of it is about a process that has ended")]
    Ended,
    #[error("the front end's process is not to be seen from here: {0}")]
    Hidden(io::Error),
    #[error(
        "process {pid} has no descriptor of its file any more that may be opened (device {device}, inode {inode})"
    )]
    NoFile { pid: u32, device: u64, inode: u64 },
    #[error("its file is not what it was: {0}")]
    Unfit(io::Error),
}

/// A process of this boot: a pid is given again, a start time with it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// In clock ticks since boot (proc(5), /proc/pid/stat, field 22).
    started: u64,
    boot: BootId,
}

impl Process {
    /// The one that has made this connection.
    fn behind(socket: impl AsFd) -> io::Result<Self> {
        let foreign = || io::Error::new(io::ErrorKind::NotFound, "it belongs to another pid namespace");
        Self::running(socket::peer_pid(socket)?.ok_or_else(foreign)?)
    }

    fn running(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
        let started = start_time(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time"))
        })?;
        Ok(Self { pid, started, boot: BootId::current()? })
    }
}

/// Field 22. The second is a name in parentheses, of any characters.
fn start_time(stat: &[u8]) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A disk's note, for as long as this front end is connected.
#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
    connection: Rc<OwnedFd>,
}

impl Note {
    pub(super) fn new(path: PathBuf, connection: &Rc<OwnedFd>) -> Self {
        Self { path, connection: Rc::clone(connection) }
    }

    /// Writes down where the guest's memory is; none, if the front end has yet to tell.
    ///
    /// # Errors
    /// The system's; there is no note then, rather than an old one.
    pub(super) fn write(&self, memory: &GuestMemory) -> io::Result<()> {
        let written = Process::behind(&self.connection).and_then(|process| {
            let mut beside = self.path.clone().into_os_string();
            beside.push(".new");
            let mode = Mode::RUSR | Mode::WUSR;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::open(&beside, flags, mode)?);
            io::Write::write_all(&mut file, text(process, memory.regions()).as_bytes())?;
            std::fs::rename(&beside, &self.path)
        });
        if written.is_err() {
            // What it says does not hold any more.
            let _ = std::fs::remove_file(&self.path);
        }
        written
    }

    /// Finds the guest's memory again.
    ///
    /// # Errors
    /// [`Forgotten`].
    pub(super) fn recall(&self) -> Result<GuestMemory, Forgotten> {
        let (noted, regions) = read(&self.path)?;
        let found = Process::behind(&self.connection).map_err(Forgotten::Hidden)?;
        if noted.pid != found.pid {
            return Err(Forgotten::AnotherProcess { noted: noted.pid, found: found.pid });
        }
        if noted != found {
            return Err(Forgotten::Ended);
        }
        let open = files_of(found.pid).map_err(Forgotten::Hidden)?;
        let mut memory = GuestMemory::default();
        for (place, id) in regions {
            let FileId { device, inode } = id;
            let missing = Forgotten::NoFile { pid: found.pid, device, inode };
            let file = open.get(&(device, inode)).and_then(|path| reopen(path, id)).ok_or(missing)?;
            memory.add(place, file).map_err(Forgotten::Unfit)?;
        }
        Ok(memory)
    }
}

/// A process's open files, by device and inode.
fn files_of(pid: u32) -> io::Result<HashMap<(u64, u64), PathBuf>> {
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // It may have been closed meanwhile.
        if let Ok(stat) = rustix::fs::stat(&path) {
            files.insert((stat.st_dev, stat.st_ino), path);
        }
    }
    Ok(files)
}

/// The descriptor's number may lead to something else by now.
fn reopen(path: &Path, id: FileId) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    (FileId::of(&file).ok()? == id).then_some(file)
}

fn text(process: Process, regions: impl Iterator<Item = (Place, FileId)>) -> String {
    let Process { pid, started, boot } = process;
    let mut text = format!("{FORM}\nboot {boot}\nfront-end {pid} {started}\n");
    for (Place { gpa, user, bytes, offset }, FileId { device, inode }) in regions {
        let _ = writeln!(text, "region {gpa} {bytes} {user} {offset} {device} {inode}");
    }
    text
}

type Noted = (Process, Vec<(Place, FileId)>);

fn read(path: &Path) -> Result<Noted, Forgotten> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Forgotten::NoNote),
        Err(error) => return Err(Forgotten::Unreadable(error)),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, BYTES_MAX), &mut text)
        .map_err(Forgotten::Unreadable)?;
    parse(&text).ok_or(Forgotten::Damaged)
}

fn parse(text: &str) -> Option<Noted> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != FORM {
        return None;
    }
    let boot = BootId::parse(lines.next()?.strip_prefix("boot ")?)?;
    let [pid, started] = numbers(lines.next()?, "front-end ")?;
    let process = Process { pid: u32::try_from(pid).ok()?, started, boot };
    let region = |line| {
        let [gpa, bytes, user, offset, device, inode] = numbers(line, "region ")?;
        Some((Place { gpa, user, bytes, offset }, FileId { device, inode }))
    };
    Some((process, lines.map(region).collect::<Option<_>>()?))
}

fn numbers<const N: usize>(line: &str, head: &str) -> Option<[u64; N]> {
    let parsed = line.strip_prefix(head)?.split(' ').map(|number| number.parse().ok());
    parsed.collect::<Option<Vec<u64>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn process(boot: [u8; 16], pid: u32, started: u64) -> Process {
        Process { pid, started, boot: BootId::from_bytes(boot) }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_shorter(
            boot: [u8; 16], pid: u32, started: u64,
            regions in prop::collection::vec(any::<[u64; 6]>(), 0..9),
            cut: prop::sample::Index,
        ) {
            let of = |[gpa, user, bytes, offset, device, inode]: [u64; 6]| {
                (Place { gpa, user, bytes, offset }, FileId { device, inode })
            };
            let regions: Vec<_> = regions.into_iter().map(of).collect();
            let whole = text(process(boot, pid, started), regions.iter().copied());
            prop_assert!(whole.len() as u64 <= BYTES_MAX);
            prop_assert_eq!(parse(&whole), Some((process(boot, pid, started), regions.clone())));
            let part = parse(&whole[..cut.index(whole.len())]);
            prop_assert!(part.is_none_or(|(_, some)| some.len() < regions.len()));
        }

        #[test]
        fn any_bytes_are_a_note_or_none(text in ".{0,200}") {
            let _ = parse(&text);
            let _ = start_time(text.as_bytes());
        }
    }

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_move_the_start_time() {
        let fields = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_time(format!("7 (a) b (c) {fields}\n").as_bytes()), Some(22));
        assert_eq!(start_time(b"7 (a) S 1 2"), None);
        let own = Process::running(std::process::id()).unwrap();
        assert_eq!(own, Process::running(std::process::id()).unwrap());
    }
}
