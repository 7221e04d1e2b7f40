//! A writer of the `newc` archive that Linux takes as initramfs (Linux, `Documentation/driver-api/early-userspace/
//! buffer-format.rst`). Folders that a file needs are made by themselves, once.
//!
//! It does not know what is in the files.

use std::collections::BTreeSet;

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// An executable or plain file; `path` is absolute.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, FILE | 0o755, content, (0, 0));
    }

    pub(super) fn folder(&mut self, path: &str) {
        self.parents(path);
        if self.folders.insert(path.to_owned()) {
            self.entry(path, FOLDER | 0o755, &[], (0, 0));
        }
    }

    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.entry(path, LINK | 0o777, to.as_bytes(), (0, 0));
    }

    pub(super) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, DEVICE | 0o600, &[], (major, minor));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("/TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).collect();
        for at in slashes {
            self.folder(&path[..at]);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        let name = path.trim_start_matches('/');
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.entries += 1;
        let fields = [
            self.entries, // inode
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time of change
            length(content.len()),
            0, // device that holds it
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0, // no checksum
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and contents, read back by the format's own rules.
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let head = &bytes[at + 6..at + 110];
            let field = |n: usize| {
                let text = std::str::from_utf8(&head[n * 8..n * 8 + 8]).expect("hex digits");
                usize::from_str_radix(text, 16).expect("hex digits")
            };
            let name_at = at + 110;
            let name = String::from_utf8(bytes[name_at..name_at + field(11) - 1].to_vec()).expect("a name");
            let content_at = (name_at + field(11)).next_multiple_of(4);
            let content = bytes[content_at..content_at + field(6)].to_vec();
            at = (content_at + field(6)).next_multiple_of(4);
            found.push((name, u32::try_from(field(1)).expect("a mode"), content));
        }
        found
    }

    #[test]
    fn an_archive_reads_back_with_its_folders_first_and_once() {
        let mut archive = Archive::default();
        archive.file("/a/b/one", b"hello");
        archive.file("/a/b/two", b"");
        archive.link("/a/l", "b/one");
        archive.character_device("/dev/console", 5, 1);
        let found = read(&archive.finish());
        let names: Vec<&str> = found.iter().map(|(name, _, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two", "a/l", "dev", "dev/console", "TRAILER!!!"]);
        assert_eq!((found[2].1, found[2].2.as_slice()), (0o100_755, &b"hello"[..]));
        assert_eq!(found[4].2, b"b/one");
    }
}
