//! What a launch command and its hypervisor print: in a file, so that they need nobody who reads.
//!
//! A pipe to the daemon would break when the daemon ends, and a guest with it. So the file is cut from outside: its bound
//! is soft, by what is printed between two looks.

use super::notes::Notes;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// Longer, and only the end is kept.
const BYTES_MAX: u64 = 1 << 20;
const KEPT_BYTES: u64 = 64 << 10;
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// In a message: so many last lines, of at most so many characters together.
const LINES_SHOWN: usize = 6;
const CHARS_SHOWN: usize = 700;

#[derive(Clone, Debug)]
pub(super) struct Log(PathBuf);

impl Log {
    pub(super) fn of(notes: &Notes, vm: &str) -> Self {
        Self(notes.file(vm, "log"))
    }

    /// A new one. Appended to, so that whoever writes goes on at the end when it was cut.
    pub(super) fn create(&self) -> io::Result<File> {
        // What an earlier launch has printed.
        let _ = fs::remove_file(&self.0);
        let file = File::options().create(true).append(true).open(&self.0)?;
        file.set_permissions(Permissions::from_mode(0o640))?;
        Ok(file)
    }

    /// Its last lines, as words that go on a sentence.
    pub(super) fn end(&self) -> String {
        let Ok(bytes) = tail(&self.0, KEPT_BYTES) else { return String::new() };
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join(" | ");
        let seen: String = shown.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let from = seen.char_indices().rev().nth(CHARS_SHOWN).map_or(0, |(at, _)| at);
        if seen.is_empty() {
            return format!("; it has printed nothing (log: {})", self.0.display());
        }
        format!("; it has printed: {} (log: {})", &seen[from..], self.0.display())
    }
}

fn tail(file: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Cuts each log of the folder that has grown too long, for ever: also those of guests that were kept long ago.
pub(super) async fn keep_short(dir: PathBuf) {
    loop {
        sleep(LOOK_EVERY).await;
        let dir = dir.clone();
        // A folder that cannot be read has no logs that could grow.
        let _ = tokio::task::spawn_blocking(move || cut_all(&dir)).await;
    }
}

fn cut_all(dir: &Path) {
    let Ok(files) = fs::read_dir(dir) else { return };
    for file in files.filter_map(|entry| Some(entry.ok()?.path())) {
        if file.extension().is_some_and(|end| end == "log")
            && let Err(error) = cut(&file)
        {
            tracing::warn!("{} cannot be cut: {error}", file.display());
        }
    }
}

/// Empties it and puts its end back. What is printed in between may stand in front, or be lost: it is a log.
fn cut(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.len() <= BYTES_MAX {
        return Ok(());
    }
    let kept = tail(path, KEPT_BYTES)?;
    let mut file = File::options().append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(b"... (cut)\n")?;
    file.write_all(&kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_keeps_its_end_and_its_writer_goes_on_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::open(dir.path()).unwrap();
        let log = Log::of(&notes, "vm1");
        let mut writer = log.create().unwrap();
        assert!(log.end().contains("printed nothing"));
        let line = "a line of words and words\n".repeat(1000);
        for _ in 0..60 {
            writer.write_all(line.as_bytes()).unwrap();
        }
        writer.write_all(b"the \x1b[31mlast\n").unwrap();
        cut_all(dir.path());
        let file = notes.file("vm1", "log");
        assert!(fs::metadata(&file).unwrap().len() < KEPT_BYTES + 100);
        writer.write_all(b"more\n").unwrap();
        assert!(fs::read_to_string(&file).unwrap().ends_with("last\nmore\n"));
        assert!(log.end().contains("the  [31mlast | more (log: "), "{}", log.end());
        let before = fs::metadata(&file).unwrap().len();
        cut_all(dir.path());
        assert_eq!(fs::metadata(&file).unwrap().len(), before, "short enough");
    }
}
