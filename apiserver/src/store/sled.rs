//! A store on this machine's disk: the log in one sled tree, under the records' revisions.
//!
//! sled's `flush` writes its buffers and ends in `sync_file_range`, which is no promise: it flushes neither the file's metadata nor the disk's
//! cache. So an append flushes and then syncs the data of the file itself. Nothing runs on a timer.
//!
//! Keys grow, so writes go to the tree's right edge. sled writes the whole leaf they go to now and then, some four times what is put into it,
//! so values are [packed](super::packing) first. They are cut into pieces: a leaf of the tree holds up to 17 items, and one that outgrows
//! a segment would be moved to a file of its own, which sled does not sync. sled locks the file, so a directory has one store at a time.

use super::embedded::{self, Options};
use super::log::{Append, Log, LogError, Record};
use super::packing::Packing;
use super::{LeaseId, Revision, Store, StoreResult};
use bytes::Bytes;
use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use sled::IVec;
use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// sled's cache of tree pages. The watch cache serves what is read, so this only has to hold the pages that are written to.
const CACHE_BYTES: u64 = 4 << 20;
/// The size of a piece of a value: 17 of them stay below a segment of 512 KiB.
const PIECE: usize = 24 << 10;
/// How large a segment of sled's file is.
const SEGMENT: usize = 512 << 10;

/// How long to wait for another store in the same directory to end.
const LOCK_WAIT: Duration = Duration::from_secs(1);

const COMPACTED: &[u8] = b"compacted";
const FORMAT: &[u8] = b"format";
/// The version of the layout described here.
const FORMAT_VERSION: &[u8] = b"2";
/// One that is read as well: it had no packed values.
const UNPACKED_VERSION: &[u8] = b"1";
/// Records lie under this byte, their revision (big-endian) and the number of the piece (big-endian, two bytes).
const RECORD: u8 = b'r';

/// Opens the store in a directory, which is made if need be.
pub fn open(directory: &Path, options: Options) -> StoreResult<Arc<dyn Store>> {
    // Reading everything once fills sled's page cache far beyond its capacity, since it evicts by counting accesses; the file is opened
    // again to let go of that.
    let log = SledLog::open(directory)?;
    let index = embedded::read_index(&log)?;
    log.open_again()?;
    embedded::open(log, index, options)
}

struct SledLog {
    directory: PathBuf,
    /// `None` while, or because, it could not be opened again.
    opened: RwLock<Option<Opened>>,
    packing: Packing,
}

struct Opened {
    db: sled::Db,
    file: File,
}

impl From<sled::Error> for LogError {
    fn from(error: sled::Error) -> Self {
        LogError(error.to_string())
    }
}

impl From<std::io::Error> for LogError {
    fn from(error: std::io::Error) -> Self {
        LogError(error.to_string())
    }
}

impl SledLog {
    fn open(directory: &Path) -> Result<SledLog, LogError> {
        Ok(SledLog { opened: RwLock::new(Some(Opened::at(directory)?)), directory: directory.to_owned(), packing: Packing::new()? })
    }

    fn open_again(&self) -> Result<(), LogError> {
        let mut opened = self.opened.write();
        // First, since sled locks its file.
        *opened = None;
        *opened = Some(Opened::at(&self.directory)?);
        Ok(())
    }

    fn opened(&self) -> Result<MappedRwLockReadGuard<'_, Opened>, LogError> {
        RwLockReadGuard::try_map(self.opened.read(), Option::as_ref).map_err(|_| LogError("the store's files are closed".into()))
    }
}

impl Opened {
    fn at(directory: &Path) -> Result<Opened, LogError> {
        std::fs::create_dir_all(directory)?;
        let config = sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).segment_size(SEGMENT).flush_every_ms(None);
        let db = open_when_unlocked(&config)?;
        let opened = Opened { file: File::open(directory.join("db"))?, db };
        match opened.db.get(FORMAT)? {
            None => {
                opened.set_format()?;
                // The names of new files are durable only with their directory.
                File::open(directory)?.sync_all()?;
            }
            Some(version) if version == FORMAT_VERSION => {}
            Some(version) if version == UNPACKED_VERSION => opened.set_format()?,
            Some(version) => {
                return Err(LogError(format!("the store has format {:?}, not 2", String::from_utf8_lossy(&version))));
            }
        }
        Ok(opened)
    }

    fn set_format(&self) -> Result<(), LogError> {
        self.db.insert(FORMAT, FORMAT_VERSION)?;
        self.sync()
    }

    fn sync(&self) -> Result<(), LogError> {
        self.db.flush()?;
        self.file.sync_data()?;
        Ok(())
    }

    /// The rest of a record of which the first piece was read; `None` where it was removed meanwhile.
    fn complete(&self, revision: Revision, first: &[u8], packing: &Packing) -> Result<Option<Record>, LogError> {
        let stored = Stored::parse(first).ok_or_else(|| damaged(revision))?;
        let mut value = Cow::Borrowed(stored.value);
        for piece in 1..stored.pieces {
            let Some(more) = self.db.get(key(revision, piece))? else { return Ok(None) };
            value.to_mut().extend_from_slice(&more);
        }
        let value = match stored.form {
            Form::None => None,
            Form::Plain => Some(value.into_owned()),
            Form::Packed => Some(packing.unpack(&value).ok_or_else(|| damaged(revision))?),
        };
        Ok(Some(Record { key: stored.key.to_owned(), value: value.map(Bytes::from), created: stored.created, lease: stored.lease }))
    }
}

/// Opens the database, waiting a little for whoever has just closed it: a process that is ending, or sled's own threads after a drop.
fn open_when_unlocked(config: &sled::Config) -> Result<sled::Db, LogError> {
    let start = Instant::now();
    loop {
        match config.open() {
            Err(error) if error.to_string().contains("could not acquire lock") && start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return Ok(opened?),
        }
    }
}

fn key(revision: Revision, piece: u16) -> [u8; 11] {
    let mut key = [RECORD; 11];
    key[1..9].copy_from_slice(&revision.to_be_bytes());
    key[9..].copy_from_slice(&piece.to_be_bytes());
    key
}

fn position(key: &[u8]) -> Option<(Revision, u16)> {
    let (revision, piece) = key.strip_prefix(&[RECORD])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*revision), u16::from_be_bytes(piece.try_into().ok()?)))
}

/// How many pieces a value of this length has.
fn pieces(length: usize) -> usize {
    length.div_ceil(PIECE).max(1)
}

/// How a record's value is stored. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Form {
    None = 0,
    Plain = 1,
    Packed = 2,
}

/// A record as it is stored: the first piece holds the head, the key and the beginning of the value.
struct Stored<'a> {
    key: &'a str,
    created: Revision,
    lease: LeaseId,
    form: Form,
    /// How many there are, with the first.
    pieces: u16,
    /// The whole value when it is written, the first piece's part of it when it is read.
    value: &'a [u8],
}

impl<'a> Stored<'a> {
    /// How a first piece begins: `created`, `lease`, the number of pieces, the key's length, the form.
    const HEAD: usize = 8 + 8 + 2 + 2 + 1;

    /// What is stored of a record, whose value may have been packed.
    fn of(record: &'a Record, packed: Option<&'a [u8]>) -> Stored<'a> {
        let (form, value) = match (packed, record.value.as_deref()) {
            (Some(packed), _) => (Form::Packed, packed),
            (None, Some(plain)) => (Form::Plain, plain),
            (None, None) => (Form::None, &[][..]),
        };
        Stored { key: &record.key, created: record.created, lease: record.lease, form, pieces: pieces(value.len()) as u16, value }
    }

    /// The tree's items for it.
    fn items(&self, revision: Revision) -> impl Iterator<Item = ([u8; 11], IVec)> {
        let (first, rest) = self.value.split_at(self.value.len().min(PIECE));
        let mut piece = Vec::with_capacity(Self::HEAD + self.key.len() + first.len());
        piece.extend_from_slice(&self.created.to_be_bytes());
        piece.extend_from_slice(&self.lease.to_be_bytes());
        piece.extend_from_slice(&self.pieces.to_be_bytes());
        piece.extend_from_slice(&(self.key.len() as u16).to_be_bytes());
        piece.push(self.form as u8);
        piece.extend_from_slice(self.key.as_bytes());
        piece.extend_from_slice(first);
        let pieces = std::iter::once(IVec::from(piece)).chain(rest.chunks(PIECE).map(IVec::from));
        (0..).zip(pieces).map(move |(number, piece)| (key(revision, number), piece))
    }

    /// A first piece, taken apart.
    fn parse(first: &'a [u8]) -> Option<Stored<'a>> {
        let (created, rest) = first.split_first_chunk::<8>()?;
        let (lease, rest) = rest.split_first_chunk::<8>()?;
        let (pieces, rest) = rest.split_first_chunk::<2>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (form, rest) = rest.split_first()?;
        let (key, value) = rest.split_at_checked(u16::from_be_bytes(*length) as usize)?;
        Some(Stored {
            key: std::str::from_utf8(key).ok()?,
            created: u64::from_be_bytes(*created),
            lease: i64::from_be_bytes(*lease),
            form: [Form::None, Form::Plain, Form::Packed].into_iter().find(|known| *known as u8 == *form)?,
            pieces: u16::from_be_bytes(*pieces),
            value,
        })
    }
}

fn damaged(revision: Revision) -> LogError {
    LogError(format!("the record of revision {revision} is damaged"))
}

impl Log for SledLog {
    fn append(&self, append: &Append) -> Result<(), LogError> {
        let opened = self.opened()?;
        let mut items = Vec::with_capacity(append.writes.len());
        for (revision, record) in &append.writes {
            let packed = record.value.as_deref().and_then(|value| self.packing.pack(value));
            items.extend(Stored::of(record, packed.as_deref()).items(*revision));
        }
        // One item needs no batch, whose head sled writes and syncs before the rest. An idle cluster's leases are written like this.
        if let ([(key, value)], [], None) = (&items[..], &append.removed[..], append.compacted) {
            opened.db.insert(key, value)?;
            return opened.sync();
        }
        let mut batch = sled::Batch::default();
        for (key, value) in items {
            batch.insert(&key, value);
        }
        for (revision, size) in &append.removed {
            // Of one that was packed there may be fewer.
            for piece in 0..pieces(*size as usize) {
                batch.remove(&key(*revision, piece as u16));
            }
        }
        if let Some(compacted) = append.compacted {
            batch.insert(COMPACTED, &compacted.to_be_bytes());
        }
        opened.db.apply_batch(batch)?;
        opened.sync()
    }

    fn reopen(&self) -> Result<(), LogError> {
        // sled may write while it opens, and what it cannot write then, it may not be able to read later.
        let scratch = self.directory.join("room");
        std::fs::write(&scratch, [0; SEGMENT])?;
        std::fs::remove_file(&scratch)?;
        self.open_again()
    }

    fn read(&self, revision: Revision) -> Result<Option<Record>, LogError> {
        let opened = self.opened()?;
        let Some(first) = opened.db.get(key(revision, 0))? else { return Ok(None) };
        opened.complete(revision, &first, &self.packing)
    }

    fn scan(&self, after: Revision, visit: &mut dyn FnMut(Revision, Record) -> bool) -> Result<(), LogError> {
        let end = [RECORD + 1];
        let opened = self.opened()?;
        for entry in opened.db.range(key(after.saturating_add(1), 0).as_slice()..end.as_slice()) {
            let (at, first) = entry?;
            let Some((revision, 0)) = position(&at) else { continue };
            if let Some(record) = opened.complete(revision, &first, &self.packing)?
                && !visit(revision, record)
            {
                break;
            }
        }
        Ok(())
    }

    fn compacted(&self) -> Result<Revision, LogError> {
        match self.opened()?.db.get(COMPACTED)? {
            None => Ok(0),
            Some(bytes) => match bytes.as_ref().try_into() {
                Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
                Err(_) => Err(LogError("the revision of the last compaction is damaged".into())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    async fn fresh() -> Option<(Arc<dyn Store>, tempfile::TempDir)> {
        let directory = tempfile::tempdir().unwrap();
        Some((open(directory.path(), Options::default()).unwrap(), directory))
    }

    crate::store::suite::suite!(fresh);

    #[test]
    fn records_of_any_size_come_back_whole() {
        let directory = tempfile::tempdir().unwrap();
        let log = SledLog::open(directory.path()).unwrap();
        let sizes = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5, 1_500_000];
        let record = |size: usize| {
            // Noise, which cannot be packed.
            let mut value = vec![0; size];
            StdRng::seed_from_u64(size as u64).fill(&mut value[..]);
            Record { key: format!("/registry/x/{size}"), value: Some(Bytes::from(value)), created: 3, lease: -7 }
        };
        let mut writes: Vec<(Revision, Record)> = sizes.iter().enumerate().map(|(i, size)| (i as u64 + 2, record(*size))).collect();
        writes.push((100, Record { key: "/registry/gone".into(), value: None, created: 0, lease: 0 }));
        log.append(&Append { writes: writes.clone(), ..Default::default() }).unwrap();
        for (revision, record) in &writes {
            assert_eq!(log.read(*revision).unwrap().as_ref(), Some(record));
        }
        let mut scanned = Vec::new();
        log.scan(1, &mut |revision, record| {
            scanned.push((revision, record));
            true
        })
        .unwrap();
        assert_eq!(scanned, writes);
        log.append(&Append { writes: vec![], removed: (2..9).zip(sizes.map(|s| s as u32)).collect(), compacted: Some(8) }).unwrap();
        assert_eq!(
            (log.opened().unwrap().db.len(), log.compacted().unwrap()),
            (3, 8),
            "the deletion's record, the format and the compaction are left"
        );
    }

    #[test]
    fn a_directory_has_one_store_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = SledLog::open(directory.path()).unwrap();
        assert!(SledLog::open(directory.path()).is_err());
        drop(first);
        SledLog::open(directory.path()).unwrap();
    }

    #[test]
    fn another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let log = SledLog::open(directory.path()).unwrap();
        log.opened().unwrap().db.insert(FORMAT, b"3").unwrap();
        drop(log);
        let error = SledLog::open(directory.path()).err().unwrap();
        assert_eq!(error.0, "the store has format \"3\", not 2");
    }

    /// The first format had no packed values.
    #[test]
    fn the_format_before_is_read_and_written_on() {
        let directory = tempfile::tempdir().unwrap();
        let log = SledLog::open(directory.path()).unwrap();
        let record = |value: &'static str| Record { key: "/registry/x".into(), value: Some(value.into()), created: 2, lease: 0 };
        let (before, after) = (record(r#"{"kind":"Pod","apiVersion":"v1"}"#), record(r#"{"kind":"Pod","apiVersion":"v1","metadata":{}}"#));
        {
            let opened = log.opened().unwrap();
            for (key, value) in Stored::of(&before, None).items(2) {
                opened.db.insert(key, value).unwrap();
            }
            opened.db.insert(FORMAT, UNPACKED_VERSION).unwrap();
        }
        drop(log);
        let log = SledLog::open(directory.path()).unwrap();
        log.append(&Append { writes: vec![(3, after.clone())], ..Default::default() }).unwrap();
        assert_eq!([2, 3].map(|revision| log.read(revision).unwrap()), [Some(before), Some(after)]);
        let opened = log.opened().unwrap();
        assert_eq!(opened.db.get(FORMAT).unwrap().unwrap(), FORMAT_VERSION);
        let stored = opened.db.get(key(3, 0)).unwrap().unwrap();
        assert_eq!(Stored::parse(&stored).unwrap().form, Form::Packed);
    }

    /// A full disk keeps a log that failed closed, and a server from starting it does not: what is stored can be read.
    #[test]
    fn only_what_failed_waits_for_room() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("room")).unwrap();
        let log = SledLog::open(directory.path()).unwrap();
        log.open_again().unwrap();
        assert!(log.reopen().is_err());
        assert_eq!(log.compacted().unwrap(), 0, "it reads on");
        std::fs::remove_dir(directory.path().join("room")).unwrap();
        log.reopen().unwrap();
    }
}
