//! A storage unit: bytes in memory or in a file, with a name.
//!
//! Invariant: an access that lies inside one 4 KiB block is atomic; a longer one may be seen half done, as on any disk.
//! Memory is taken when it is first written. Rejected: one lock around the unit, which would make the portals wait
//! for each other's copies; mmap, which needs `unsafe`.
//! It does not know: who reads or writes, ranges beyond its end (callers check; see the request parser).

use super::cache::{CacheId, SECTOR, Unflushed};
use super::writers::Writers;
use crate::workload::block::mix;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes under one lock: large enough that a 128 KiB request takes one or two.
const CHUNK: usize = 256 << 10;
const ZEROES: [u8; 4096] = [0; 4096];

/// What `--unit NAME=SIZE[:FILE]` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitArg {
    pub name: String,
    /// Bytes, a multiple of 4096.
    pub size: u64,
    pub file: Option<PathBuf>,
}

impl std::str::FromStr for UnitArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!("{text:?} is no unit: write NAME=SIZE or NAME=SIZE:FILE, as in root=64MiB:/tmp/root.img")
        };
        let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(usage)?;
        let (size, file) =
            rest.split_once(':').map_or((rest, None), |(size, file)| (size, Some(PathBuf::from(file))));
        let size = crate::units::parse_size(size)?;
        if size == 0 || !size.is_multiple_of(4096) {
            return Err(format!("unit {name}: {size} bytes is no multiple of 4096"));
        }
        Ok(Self { name: name.to_owned(), size, file })
    }
}

/// A unit that can be read and written from any thread.
#[derive(Debug)]
pub struct Unit {
    pub name: String,
    pub size: u64,
    store: Store,
    /// Held while a cached write changes the store, so that what is noted as durable was.
    /// None without volatile caches: then writes need not wait for each other.
    unflushed: Option<Mutex<Unflushed>>,
    pub(super) writers: Writers,
}

/// What becomes of a range.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    Bytes(&'a [u8]),
    /// That many, in bytes.
    Zeroes(u64),
}

#[derive(Debug)]
enum Store {
    Memory(Vec<Mutex<Option<Box<[u8]>>>>),
    File(File),
}

impl Unit {
    /// Creates the file if it does not exist, and never shortens it.
    ///
    /// # Errors
    /// If the file cannot be opened; the error names it.
    pub fn open(arg: &UnitArg) -> anyhow::Result<Self> {
        let store = match &arg.file {
            None => {
                let chunks = usize::try_from(arg.size.div_ceil(CHUNK as u64))?;
                Store::Memory((0..chunks).map(|_| Mutex::new(None)).collect())
            }
            Some(path) => {
                let open = || -> io::Result<File> {
                    let file =
                        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
                    if file.metadata()?.len() < arg.size {
                        file.set_len(arg.size)?;
                    }
                    Ok(file)
                };
                let named = |why| anyhow::anyhow!("unit {}: cannot use {}: {why}", arg.name, path.display());
                Store::File(open().map_err(named)?)
            }
        };
        Ok(Self {
            name: arg.name.clone(),
            size: arg.size,
            store,
            unflushed: None,
            writers: Writers::default(),
        })
    }

    /// The same, behind volatile caches.
    #[must_use]
    pub fn with_caches(self) -> Self {
        Self { unflushed: Some(Mutex::default()), ..self }
    }

    fn caches(&self) -> Option<MutexGuard<'_, Unflushed>> {
        Some(self.unflushed.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// # Errors
    /// Of the file; memory never fails.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &self.store {
            Store::File(file) => file.read_exact_at(out, offset),
            Store::Memory(chunks) => {
                for_each_piece(offset, out.len(), |chunk, within, range| {
                    let held = chunks[chunk].lock().unwrap_or_else(PoisonError::into_inner);
                    match held.as_deref() {
                        Some(bytes) => out[range].copy_from_slice(&bytes[within]),
                        None => out[range].fill(0),
                    }
                });
                Ok(())
            }
        }
    }

    /// # Errors
    /// Of the file; memory never fails.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &self.store {
            Store::File(file) => file.write_all_at(data, offset),
            Store::Memory(chunks) => {
                for_each_piece(offset, data.len(), |chunk, within, range| {
                    let mut held = chunks[chunk].lock().unwrap_or_else(PoisonError::into_inner);
                    let bytes = held.get_or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
                    bytes[within].copy_from_slice(&data[range]);
                });
                Ok(())
            }
        }
    }

    /// # Errors
    /// Of the file; memory never fails.
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut at = offset;
        while at < offset + len {
            let piece = (offset + len - at).min(ZEROES.len() as u64);
            self.write(at, &ZEROES[..piece as usize])?;
            at += piece;
        }
        Ok(())
    }

    /// Changes a range, whose bytes are then held by `cache` until it flushes; without one they are durable in any cache.
    /// Whole sectors of 512 bytes: the array announces no smaller block.
    ///
    /// # Errors
    /// Of the file; memory never fails.
    pub(super) fn change(&self, cache: Option<CacheId>, offset: u64, change: Change<'_>) -> io::Result<()> {
        let len = match change {
            Change::Bytes(data) => data.len() as u64,
            Change::Zeroes(len) => len,
        };
        let sectors = offset / SECTOR as u64..(offset + len).div_ceil(SECTOR as u64);
        let mut caches = self.caches();
        match (cache, &mut caches) {
            (_, None) => {}
            (None, Some(unflushed)) => unflushed.written_through(sectors),
            (Some(cache), Some(unflushed)) => {
                let mut content = [0; SECTOR];
                for sector in sectors {
                    self.read(sector * SECTOR as u64, &mut content)?;
                    unflushed.hold(cache, sector, &content);
                }
            }
        }
        match change {
            Change::Bytes(data) => self.write(offset, data),
            Change::Zeroes(len) => self.zero(offset, len),
        }
    }

    /// Makes what `cache` holds durable, or everything if there are no caches.
    ///
    /// # Errors
    /// Of the file; memory never fails.
    pub(super) fn flush(&self, cache: Option<CacheId>) -> io::Result<()> {
        if let (Some(cache), Some(mut unflushed)) = (cache, self.caches()) {
            unflushed.flushed(cache);
        }
        self.sync()
    }

    /// Loses what `cache` holds. How many sectors.
    ///
    /// # Errors
    /// Of the file; memory never fails.
    pub(super) fn lose(&self, cache: CacheId) -> io::Result<u64> {
        let Some(mut unflushed) = self.caches() else { return Ok(0) };
        let lost = unflushed.lose(cache);
        for (sector, durable) in &lost {
            self.write(sector * SECTOR as u64, durable.as_slice())?;
        }
        Ok(lost.len() as u64)
    }

    /// Makes everything written durable, as far as the store can.
    ///
    /// # Errors
    /// Of the file; memory never fails.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.store {
            Store::Memory(_) => Ok(()),
            Store::File(file) => file.sync_data(),
        }
    }

    /// Fills the unit with bytes that differ from unit to unit, so that units can be told apart and reads touch memory.
    ///
    /// # Errors
    /// Of the file.
    pub fn prefill(&self) -> io::Result<()> {
        let seed = self.name.bytes().fold(self.size, |sum, byte| mix(sum ^ u64::from(byte)));
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        while at < self.size {
            let piece = (self.size - at).min(CHUNK as u64) as usize;
            for (i, word) in chunk.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                *word = mix(seed ^ (at + 8 * i as u64)).to_le_bytes();
            }
            self.write(at, &chunk[..piece])?;
            at += piece as u64;
        }
        Ok(())
    }
}

type Range = std::ops::Range<usize>;

/// Cuts a range at chunk borders: `(chunk, range in the chunk, range in the caller's buffer)`.
fn for_each_piece(offset: u64, len: usize, mut act: impl FnMut(usize, Range, Range)) {
    let mut done = 0;
    while done < len {
        let at = offset as usize + done;
        let (chunk, start) = (at / CHUNK, at % CHUNK);
        let piece = (CHUNK - start).min(len - done);
        act(chunk, start..start + piece, done..done + piece);
        done += piece;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise(unit: &Unit) {
        let data: Vec<u8> = (0..CHUNK).map(|i| (i % 251) as u8).collect();
        unit.write(CHUNK as u64 - 4096, &data).unwrap();
        let mut out = vec![1; CHUNK];
        unit.read(CHUNK as u64 - 4096, &mut out).unwrap();
        assert!(out == data);
        unit.zero(CHUNK as u64, 8192).unwrap();
        unit.read(CHUNK as u64 - 4096, &mut out).unwrap();
        assert!(
            out[..4096] == data[..4096] && out[4096..12288] == [0; 8192] && out[12288..] == data[12288..]
        );
        unit.flush(None).unwrap();
    }

    #[test]
    fn a_lost_cache_takes_what_was_not_flushed_with_it() {
        let unit = Unit::open(&"u=1MiB".parse().unwrap()).unwrap().with_caches();
        let read = |at| {
            let mut out = [0; 4096];
            unit.read(at, &mut out).unwrap();
            out[100]
        };
        let write = |cache, at, fill: u8| unit.change(cache, at, Change::Bytes(&[fill; 4096])).unwrap();
        write(Some(0), 0, 1);
        unit.flush(Some(0)).unwrap();
        write(Some(0), 0, 2);
        write(Some(0), 4096, 3);
        write(None, 8192, 4);
        write(Some(1), 12288, 5);
        unit.change(Some(0), 8192, Change::Zeroes(4096)).unwrap();
        assert_eq!([0, 4096, 8192, 12288].map(read), [2, 3, 0, 5]);
        assert_eq!(unit.lose(0).unwrap(), 24);
        assert_eq!([0, 4096, 8192, 12288].map(read), [1, 0, 4, 5]);
    }

    #[test]
    fn memory_and_file_behave_alike() {
        let dir = tempfile::tempdir().unwrap();
        exercise(&Unit::open(&"m=1MiB".parse().unwrap()).unwrap());
        let file = format!("f=1MiB:{}", dir.path().join("f").display());
        exercise(&Unit::open(&file.parse().unwrap()).unwrap());
    }

    #[test]
    fn prefilled_units_differ() {
        let read = |name: &str| {
            let unit = Unit::open(&format!("{name}=1MiB").parse().unwrap()).unwrap();
            unit.prefill().unwrap();
            let mut out = vec![0; 4096];
            unit.read(512 << 10, &mut out).unwrap();
            out
        };
        assert!(read("a") == read("a") && read("a") != read("b"));
    }

    #[test]
    fn a_wrong_unit_is_told_the_right_form() {
        assert!("root".parse::<UnitArg>().unwrap_err().contains("NAME=SIZE"));
        assert!("root=5000".parse::<UnitArg>().unwrap_err().contains("4096"));
    }
}
