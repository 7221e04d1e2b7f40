//! What another host has handed over of one disk, in a file until its rings have taken it.
//!
//! Invariant: a file is whole or is not there (written beside, and renamed), and its name says whether a ring may have begun with
//! it. On tmpfs: it outlives the daemon, and not the host, whose guests do not either. It does not know rings.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use vmpath_core::migration::{DiskHandOver, MoveId, Open, OpenRequest, QuarantineHandOver, QueueHandOver};
use vmpath_core::time::Duration;

/// The first line; another form is not believed.
const FORM: &str = "vmpath hand-over 1";

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) move_id: MoveId,
    pub(super) vm: String,
    pub(super) disk: DiskHandOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Stored,
    /// A ring may have taken some of it.
    Released,
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn released(path: &Path) -> PathBuf {
    beside(path, ".released")
}

/// Writes it as stored, in the place of any other.
pub(super) fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let new = beside(path, ".new");
    fs::write(&new, text(kept))?;
    match fs::remove_file(released(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::rename(&new, path)
}

/// From now on a ring may begin with it. Does nothing if that is so, or if there is no file.
pub(super) fn release(path: &Path) -> io::Result<()> {
    match fs::rename(path, released(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Does nothing if it is not there.
pub(super) fn remove(path: &Path) {
    for path in [path.to_owned(), released(path), beside(path, ".new")] {
        let _ = fs::remove_file(path);
    }
}

/// None if there is none.
///
/// # Errors
/// The system's, or what is wrong with it in words.
pub(super) fn read(path: &Path) -> Result<Option<(Kept, Stage)>, String> {
    for (path, stage) in [(released(path), Stage::Released), (path.to_owned(), Stage::Stored)] {
        match fs::read_to_string(&path) {
            Ok(text) => {
                let kept = parse(&text).ok_or("it is damaged")?;
                return Ok(Some((kept, stage)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(None)
}

/// One line for each thing; names hold no white space. The last line counts those before it.
fn text(kept: &Kept) -> String {
    let Kept { move_id, vm, disk } = kept;
    let mut text =
        format!("{FORM}\nmove {move_id}\nvm {vm}\ndisk {} {} {}\n", disk.disk, disk.unit, disk.epoch);
    for queue in &disk.queues {
        let _ = writeln!(text, "queue {} {}", queue.queue, queue.base);
        for open in &queue.open {
            let _ = match open.state {
                Open::Unsent => writeln!(text, "open {} unsent", open.head),
                Open::Unknown => writeln!(text, "open {} unknown", open.head),
                Open::Done(status) => writeln!(text, "open {} done {status}", open.head),
            };
        }
    }
    for q in &disk.quarantine {
        let _ = writeln!(text, "quarantine {} {} {}", q.offset, q.length, q.remaining.as_nanos());
    }
    let lines = text.lines().count();
    let _ = writeln!(text, "end {lines}");
    text
}

fn parse(text: &str) -> Option<Kept> {
    let mut lines: Vec<&str> = text.lines().collect();
    let end = format!("end {}", lines.len().checked_sub(1)?);
    if !text.ends_with('\n') || lines.pop() != Some(end.as_str()) {
        return None;
    }
    let mut lines = lines.into_iter();
    if lines.next() != Some(FORM) {
        return None;
    }
    let move_id = MoveId::parse(lines.next()?.strip_prefix("move ")?)?;
    let vm = lines.next()?.strip_prefix("vm ")?.to_owned();
    let mut disk = match lines.next()?.split(' ').collect::<Vec<_>>()[..] {
        ["disk", name, unit, epoch] => DiskHandOver {
            disk: name.to_owned(),
            unit: unit.to_owned(),
            epoch: epoch.parse().ok()?,
            queues: Vec::new(),
            quarantine: Vec::new(),
        },
        _ => return None,
    };
    for line in lines {
        parse_line(line, &mut disk)?;
    }
    Some(Kept { move_id, vm, disk })
}

fn parse_line(line: &str, disk: &mut DiskHandOver) -> Option<()> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["queue", queue, base] => {
            let (queue, base) = (queue.parse().ok()?, base.parse().ok()?);
            disk.queues.push(QueueHandOver { queue, base, open: Vec::new() });
        }
        ["open", head, ref state @ ..] => {
            let state = match state {
                ["unsent"] => Open::Unsent,
                ["unknown"] => Open::Unknown,
                ["done", status] => Open::Done(status.parse().ok()?),
                _ => return None,
            };
            disk.queues.last_mut()?.open.push(OpenRequest { head: head.parse().ok()?, state });
        }
        ["quarantine", offset, length, remaining] => disk.quarantine.push(QuarantineHandOver {
            offset: offset.parse().ok()?,
            length: length.parse().ok()?,
            remaining: Duration::from_nanos(remaining.parse().ok()?),
        }),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open() -> impl Strategy<Value = OpenRequest> {
        let state = prop_oneof![Just(Open::Unsent), Just(Open::Unknown), any::<u8>().prop_map(Open::Done)];
        (any::<u16>(), state).prop_map(|(head, state)| OpenRequest { head, state })
    }

    fn kept() -> impl Strategy<Value = Kept> {
        let queue = (any::<u16>(), any::<u16>(), prop::collection::vec(open(), 0..20))
            .prop_map(|(queue, base, open)| QueueHandOver { queue, base, open });
        let range = (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(offset, length, nanos)| {
            QuarantineHandOver { offset, length, remaining: Duration::from_nanos(nanos) }
        });
        let (queues, ranges) = (prop::collection::vec(queue, 0..4), prop::collection::vec(range, 0..4));
        ("[a-z0-9.-]{1,9}", any::<u64>(), any::<u64>(), queues, ranges).prop_map(
            |(name, number, epoch, queues, quarantine)| Kept {
                move_id: MoveId { host: name.clone(), nonce: number, number: epoch },
                vm: name.clone(),
                disk: DiskHandOver {
                    disk: name.clone(),
                    unit: format!("t/{name}"),
                    epoch,
                    queues,
                    quarantine,
                },
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_a_part_of_it_is_not(kept in kept(), cut: prop::sample::Index) {
            let text = text(&kept);
            prop_assert_eq!(parse(&text), Some(kept));
            prop_assert_eq!(parse(&text[..cut.index(text.len())]), None);
        }
    }

    #[test]
    fn a_file_says_whether_a_ring_may_have_begun_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover-v:d");
        let disk = DiskHandOver {
            disk: "d".into(),
            unit: "t/u".into(),
            epoch: 3,
            queues: vec![],
            quarantine: vec![],
        };
        let kept = Kept { move_id: MoveId { host: "a".into(), nonce: 1, number: 2 }, vm: "v".into(), disk };
        assert_eq!(read(&path), Ok(None));
        release(&path).unwrap();
        write(&path, &kept).unwrap();
        assert_eq!(read(&path), Ok(Some((kept.clone(), Stage::Stored))));
        release(&path).unwrap();
        release(&path).unwrap();
        assert_eq!(read(&path), Ok(Some((kept.clone(), Stage::Released))));
        write(&path, &kept).unwrap();
        assert_eq!(read(&path), Ok(Some((kept, Stage::Stored))), "another move's");
        fs::write(&path, "vmpath hand-over 2\n").unwrap();
        assert!(read(&path).is_err());
        remove(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
