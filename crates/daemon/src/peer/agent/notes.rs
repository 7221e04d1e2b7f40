//! What the next daemon must know of a hypervisor that waits for a VM: one small file each, in a folder that does not
//! outlive the boot.
//!
//! Invariant: a note is there from just after the process began until it was kept or ended, and is whole (it gets its name
//! by a rename). It does not know what a move's state is.

use crate::sys::child::Group;
use std::fs;
use std::path::{Path, PathBuf};
use vmpath_core::migration::MoveId;

/// One hypervisor that waits.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) move_id: MoveId,
    pub(super) vm: String,
    pub(super) incoming: String,
    pub(super) group: Group,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Notes(PathBuf);

impl Notes {
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        Ok(Self(dir.to_owned()))
    }

    pub(super) fn file(&self, vm: &str, end: &str) -> PathBuf {
        self.0.join(format!("{vm}.{end}"))
    }

    pub(super) fn write(&self, note: &Note) -> Result<(), String> {
        let (new, file) = (self.file(&note.vm, "new"), self.file(&note.vm, "note"));
        let text = format!("{}\n{}\n{}\n{}\n", note.move_id, note.vm, note.incoming, note.group.words());
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|error| format!("{}: {error}", file.display()))
    }

    pub(super) fn remove(&self, vm: &str) {
        // Not there is as good.
        let _ = fs::remove_file(self.file(vm, "note"));
    }

    /// Those whose process is still there; the others' are removed.
    pub(super) fn all(&self) -> Vec<Note> {
        let Ok(files) = fs::read_dir(&self.0) else { return Vec::new() };
        let notes = files.filter_map(|entry| Some(entry.ok()?.path()));
        let notes = notes.filter(|file| file.extension().is_some_and(|end| end == "note"));
        notes.filter_map(|file| Self::read(&file)).collect()
    }

    fn read(file: &Path) -> Option<Note> {
        let text = fs::read_to_string(file).unwrap_or_default();
        let note = parse(&text);
        if note.is_none() {
            // Its process has ended, or it is none of ours.
            let _ = fs::remove_file(file);
        }
        note
    }
}

fn parse(text: &str) -> Option<Note> {
    let mut lines = text.lines();
    let (id, vm, incoming, group) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?);
    usable(vm).ok()?;
    Some(Note {
        move_id: MoveId::parse(id)?,
        vm: vm.to_owned(),
        incoming: incoming.to_owned(),
        group: Group::find(group)?,
    })
}

/// Whether a VM's name can name a file; the configuration sees to it, and this looks again.
pub(super) fn usable(vm: &str) -> Result<(), String> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if vm.is_empty() || vm.starts_with('.') || !vm.chars().all(fine) {
        return Err(format!("VM {vm:?} cannot be launched: its name cannot name a file"));
    }
    Ok(())
}
