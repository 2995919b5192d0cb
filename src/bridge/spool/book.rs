//! The spool's file: two tables by the time a record was kept.
//!
//! It holds what people said, so only we may read it. A file belongs to one process at a time; several that share a
//! directory have one file each, and whoever starts takes over what files without a process hold.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

/// What is not in PostgreSQL yet, as JSON.
const WAITING: TableDefinition<u64, &[u8]> = TableDefinition::new("waiting");
/// What PostgreSQL will never take, or what came too late for it, with the reason first: kept for people to look at.
const REFUSED: TableDefinition<u64, &[u8]> = TableDefinition::new("refused");
/// Of those the latest are kept.
const MOST_REFUSED: u64 = 1_000;
/// And none for longer: time enough to look at them, and they hold what people said.
const REFUSED_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Processes that can share a directory.
const MOST_FILES: u32 = 64;
/// The library would take a gigabyte.
const CACHE_BYTES: usize = 1024 * 1024;

/// An open file.
#[derive(Debug)]
pub(super) struct Book {
    database: Database,
    /// Records that wait.
    pub(super) rows: u64,
    /// What they take, without the file's own structure.
    pub(super) bytes: u64,
    /// When the oldest of them was kept, as its key.
    pub(super) oldest: Option<u64>,
    refused: u64,
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) keep: Vec<(u64, Vec<u8>)>,
    pub(super) forget: Vec<u64>,
    /// To be set aside, with the reason.
    pub(super) refuse: Vec<(u64, String)>,
    /// Set aside, and not to be looked at any more.
    pub(super) forget_refused: Vec<u64>,
}

impl Page {
    pub(super) const fn is_empty(&self) -> bool {
        self.keep.is_empty()
            && self.forget.is_empty()
            && self.refuse.is_empty()
            && self.forget_refused.is_empty()
    }
}

impl Book {
    /// Opens the first file in `dir` that no other process has open, and moves into it what waits in files that nobody
    /// has open. A file that cannot be used stays where it is, and another is taken. Blocks.
    pub(super) fn open(dir: &Path) -> Result<(Self, PathBuf), BookError> {
        let io_error = |source| BookError::Io { path: dir.to_owned(), source };
        if !dir.is_dir() {
            // Others may have to get to what is beside it.
            dir.parent().map_or(Ok(()), fs::create_dir_all).map_err(io_error)?;
            DirBuilder::new().mode(0o700).create(dir).map_err(io_error)?;
            dir.parent().map_or(Ok(()), sync).map_err(io_error)?;
        }
        let mut own: Option<(Self, PathBuf)> = None;
        let mut unusable = Vec::new();
        for number in 0..MOST_FILES {
            let path = dir.join(format!("spool-{number}.redb"));
            match &mut own {
                None => match open_file(&path) {
                    Ok(database) => own = database.map(|book| (book, path)),
                    Err(error) => unusable.push(error),
                },
                // Nobody's, or somebody else's.
                Some((book, _)) if path.exists() => match open_file(&path) {
                    Ok(Some(other)) => unusable.extend(book.take_over(other, &path)?),
                    Ok(None) => {}
                    Err(error) => unusable.push(error),
                },
                Some(_) => {}
            }
        }
        let Some(own) = own else {
            let first = unusable.into_iter().next();
            return Err(first.unwrap_or_else(|| BookError::AllTaken { dir: dir.to_owned() }));
        };
        sync(dir).map_err(io_error)?; // Or a file that is new might be gone when the machine is.
        for error in unusable {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a file of the spool cannot be used; it is left as it is"
            );
        }
        Ok(own)
    }

    fn of(database: Database, path: &Path) -> Result<Self, BookError> {
        let mut book = Self { database, rows: 0, bytes: 0, oldest: None, refused: 0 };
        book.count().map_err(BookError::at(path))?;
        Ok(book)
    }

    fn count(&mut self) -> Result<(), redb::Error> {
        // Tables exist once they were opened for writing.
        let transaction = self.database.begin_write()?;
        {
            let waiting = transaction.open_table(WAITING)?;
            (self.rows, self.bytes, self.oldest) = (0, 0, None);
            for row in waiting.iter()? {
                let (key, value) = row?;
                self.rows += 1;
                self.bytes += value.value().len() as u64;
                self.oldest.get_or_insert(key.value());
            }
            let mut refused = transaction.open_table(REFUSED)?;
            refused.retain_in(..too_old(), |_, _| false)?;
            self.refused = redb::ReadableTableMetadata::len(&refused)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Moves what waits in a file of a process that is gone. Returns what is wrong with that file; an error is our own.
    fn take_over(&mut self, mut other: Self, path: &Path) -> Result<Option<BookError>, BookError> {
        let found = match other.waiting().map_err(BookError::at(path)) {
            Ok(found) => found,
            Err(error) => return Ok(Some(error)),
        };
        if found.is_empty() {
            return Ok(None);
        }
        tracing::warn!(records = found.len(), path = %path.display(), "records of a process that is gone are taken over");
        let forget = found.iter().map(|(key, _)| *key).collect();
        let page = Page { keep: self.with_free_keys(found).map_err(BookError::at(path))?, ..Page::default() };
        self.write(&page).map_err(BookError::at(path))?;
        Ok(other.write(&Page { forget, ..Page::default() }).map_err(BookError::at(path)).err())
    }

    /// Two processes may have kept something in the same microsecond.
    fn with_free_keys(&self, mut rows: Vec<(u64, Vec<u8>)>) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let reading = self.database.begin_read()?;
        let waiting = reading.open_table(WAITING)?;
        let mut last = 0;
        for (key, _) in &mut rows {
            *key = (*key).max(last + 1);
            while waiting.get(*key)?.is_some() {
                *key += 1;
            }
            last = *key;
        }
        Ok(rows)
    }

    /// Everything that waits, oldest first.
    fn waiting(&self) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let reading = self.database.begin_read()?;
        let rows = reading.open_table(WAITING)?;
        rows.iter()?
            .map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).map_err(Into::into))
            .collect()
    }

    /// The keys of what waits, oldest first.
    pub(super) fn keys(&self) -> Result<Vec<u64>, redb::Error> {
        let reading = self.database.begin_read()?;
        let rows = reading.open_table(WAITING)?;
        rows.iter()?.map(|row| row.map(|(key, _)| key.value()).map_err(Into::into)).collect()
    }

    /// What waits under these keys, as far as it does.
    pub(super) fn read(&self, keys: &[u64]) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let reading = self.database.begin_read()?;
        let rows = reading.open_table(WAITING)?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = rows.get(*key)? {
                found.push((*key, value.value().to_vec()));
            }
        }
        Ok(found)
    }

    /// All of it or nothing, and durable when this returns.
    pub(super) fn write(&mut self, page: &Page) -> Result<(), redb::Error> {
        let (mut rows, mut bytes, mut set_aside) = (self.rows, self.bytes, self.refused);
        let oldest;
        let transaction = self.database.begin_write()?; // Durable at once, which is the default.
        {
            let mut waiting = transaction.open_table(WAITING)?;
            let taken_away = |old: Option<u64>, rows: &mut u64, bytes: &mut u64| {
                if let Some(length) = old {
                    *rows -= 1;
                    *bytes -= length;
                }
            };
            for (key, value) in &page.keep {
                let old = waiting.insert(key, value.as_slice())?.map(|old| old.value().len() as u64);
                taken_away(old, &mut rows, &mut bytes);
                rows += 1;
                bytes += value.len() as u64;
            }
            for key in &page.forget {
                let old = waiting.remove(key)?.map(|old| old.value().len() as u64);
                taken_away(old, &mut rows, &mut bytes);
            }
            if !page.refuse.is_empty() || !page.forget_refused.is_empty() {
                let mut refused = transaction.open_table(REFUSED)?;
                for (key, why) in &page.refuse {
                    let Some(old) = waiting.remove(key)?.map(|old| old.value().to_vec()) else { continue };
                    taken_away(Some(old.len() as u64), &mut rows, &mut bytes);
                    let row = [why.as_bytes(), b"\n", &old].concat();
                    set_aside += u64::from(refused.insert(key, row.as_slice())?.is_none());
                }
                for key in &page.forget_refused {
                    set_aside -= u64::from(refused.remove(key)?.is_some());
                }
                while set_aside > MOST_REFUSED && refused.pop_first()?.is_some() {
                    set_aside -= 1;
                }
            }
            oldest = waiting.first()?.map(|(key, _)| key.value());
        }
        transaction.commit()?;
        (self.rows, self.bytes, self.oldest, self.refused) = (rows, bytes, oldest, set_aside);
        Ok(())
    }

    /// What is set aside, without the reasons, oldest first. What has been for too long is forgotten.
    pub(super) fn set_aside(&mut self) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        if self.refused == 0 {
            return Ok(Vec::new());
        }
        let (mut found, mut old, too_old) = (Vec::new(), Vec::new(), too_old());
        for row in self.database.begin_read()?.open_table(REFUSED)?.iter()? {
            let (key, value) = row?;
            if key.value() < too_old {
                old.push(key.value());
                continue;
            }
            // A reason may have several lines, a record has one.
            let record = value.value().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            found.push((key.value(), record.to_vec()));
        }
        if !old.is_empty() {
            self.write(&Page { forget_refused: old, ..Page::default() })?;
        }
        Ok(found)
    }

    /// What was set aside, for tests.
    #[cfg(test)]
    pub(super) fn refused(&self) -> Vec<String> {
        let reading = self.database.begin_read().unwrap();
        let rows = reading.open_table(REFUSED).unwrap();
        rows.iter().unwrap().map(|row| String::from_utf8_lossy(row.unwrap().1.value()).into_owned()).collect()
    }
}

/// What was kept before, by its key.
fn too_old() -> u64 {
    u64::try_from((Timestamp::now() - REFUSED_FOR).as_microsecond()).unwrap_or_default()
}

/// The file, made if there is none; `None` when another process has it open. One that cannot be read as a spool is moved
/// out of the way, because calls need a spool more than we need to know what broke it.
fn open_file(path: &Path) -> Result<Option<Book>, BookError> {
    for _ in 0..2 {
        let file = private_file(path).map_err(|source| BookError::Io { path: path.to_owned(), source })?;
        // Looks at every checksum: a file that was damaged is refused, instead of trusted.
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let opened = FileBackend::new(file).and_then(|file| builder.create_with_backend(file));
        match opened {
            Ok(database) => return Book::of(database, path).map(Some),
            Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) => return Ok(None),
            Err(error) if is_damage(&error) => {
                let aside = path.with_extension(format!("damaged-{}", Timestamp::now().as_second()));
                tracing::error!(%error, path = %path.display(), aside = %aside.display(),
                    "THE SPOOL IS DAMAGED: it is kept aside, and a new one is begun");
                fs::rename(path, &aside).map_err(|source| BookError::Io { path: path.to_owned(), source })?;
            }
            Err(error) => return Err(BookError::at(path)(error.into())),
        }
    }
    Err(BookError::AllTaken { dir: path.to_owned() })
}

/// Makes durable which files there are in a directory.
fn sync(dir: &Path) -> io::Result<()> {
    // A path of one part has the current directory for a parent, which is spelled as nothing.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Not so if another version of us has written it: that is whole, and can be read by what wrote it.
fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(redb::StorageError::Corrupted(_)) | DatabaseError::RepairAborted => true,
        DatabaseError::Storage(redb::StorageError::Io(error)) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Why there is no file to write to.
#[derive(Debug, thiserror::Error)]
pub(super) enum BookError {
    /// The file system failed.
    #[error("{path} cannot be used")]
    Io { path: PathBuf, source: io::Error },
    /// The file failed.
    #[error("{path} cannot be used")]
    File { path: PathBuf, source: Box<redb::Error> },
    /// Each of our files is open in another process.
    #[error("all files in {dir} are in use by other processes")]
    AllTaken { dir: PathBuf },
}

impl BookError {
    pub(super) fn at(path: &Path) -> impl FnOnce(redb::Error) -> Self {
        let path = path.to_owned();
        |source| Self::File { path, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn keep(rows: impl IntoIterator<Item = (u64, &'static str)>) -> Page {
        let keep = rows.into_iter().map(|(key, value)| (key, value.as_bytes().to_vec())).collect();
        Page { keep, ..Page::default() }
    }

    fn all(book: &Book) -> Vec<(u64, String)> {
        let rows = book.waiting().unwrap();
        rows.into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn what_is_kept_is_there_after_the_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, path) = Book::open(dir.path()).unwrap();
        book.write(&keep([(3, "three"), (1, "one"), (2, "two")])).unwrap();
        book.write(&Page { forget: vec![2, 9], ..Page::default() }).unwrap();
        drop(book);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "nobody else reads it");
        let (book, _) = Book::open(dir.path()).unwrap();
        assert_eq!(all(&book), [(1, "one".into()), (3, "three".into())]);
        assert_eq!((book.rows, book.bytes, book.oldest), (2, 8, Some(1)));
        assert_eq!((book.keys().unwrap(), book.read(&[3, 2]).unwrap().len()), (vec![1, 3], 1));
    }

    #[test]
    fn what_is_refused_is_kept_apart_with_its_reason_and_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, _) = Book::open(dir.path()).unwrap();
        book.write(&keep([(1, "one"), (2, "two")])).unwrap();
        book.write(&Page {
            refuse: vec![(1, "no such thing".into()), (7, "unknown".into())],
            ..Page::default()
        })
        .unwrap();
        assert_eq!(all(&book), [(2, "two".into())]);
        assert_eq!((book.rows, book.bytes, book.refused()), (1, 3, vec!["no such thing\none".to_owned()]));
        for begin in 0..3 {
            let keys: Vec<u64> = (10 + 500 * begin..10 + 500 * (begin + 1)).collect();
            book.write(&keep(keys.iter().map(|key| (*key, "x")))).unwrap();
            let refuse = keys.iter().map(|key| (*key, "no".to_owned())).collect();
            book.write(&Page { refuse, ..Page::default() }).unwrap();
        }
        assert_eq!((book.refused().len() as u64, book.rows), (MOST_REFUSED, 1));
    }

    #[test]
    fn processes_that_share_a_directory_have_a_file_each_and_the_next_takes_over_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, one) = Book::open(dir.path()).unwrap();
        let (mut second, other) = Book::open(dir.path()).unwrap();
        assert_ne!(one, other);
        first.write(&keep([(1, "first"), (5, "also first")])).unwrap();
        second.write(&keep([(1, "second"), (2, "also second")])).unwrap();
        drop(second);
        let (third, again) = Book::open(dir.path()).unwrap();
        assert_eq!((again, third.rows), (other, 2), "what is open elsewhere is left alone");
        drop((first, third));
        let (fourth, all_in_one) = Book::open(dir.path()).unwrap();
        assert_eq!(all_in_one, one);
        let expected = [(1, "first"), (2, "second"), (3, "also second"), (5, "also first")];
        assert_eq!(all(&fourth), expected.map(|(key, value)| (key, value.to_owned())));
        drop(fourth);
        assert_eq!(Book::open(dir.path()).unwrap().0.rows, 4, "moved, not copied");
    }

    #[test]
    fn what_is_set_aside_is_kept_for_thirty_days() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, _) = Book::open(dir.path()).unwrap();
        let hours_ago = |hours| {
            let at = Timestamp::now() - SignedDuration::from_hours(hours);
            u64::try_from(at.as_microsecond()).unwrap()
        };
        let (old, young, today) = (hours_ago(30 * 24 + 1), hours_ago(30 * 24 - 1), hours_ago(0));
        let set_aside = |book: &mut Book| {
            book.write(&keep([(old, "old"), (young, "young"), (today, "today")])).unwrap();
            let refuse = [old, young, today].map(|key| (key, "two\nlines".to_owned()));
            book.write(&Page { refuse: refuse.into(), ..Page::default() }).unwrap();
            assert_eq!(book.refused().len(), 3);
        };
        set_aside(&mut book);
        let left = [(young, b"young".to_vec()), (today, b"today".to_vec())];
        assert_eq!(book.set_aside().unwrap(), left);
        assert_eq!((book.refused().len(), book.refused), (2, 2), "while it is open");
        set_aside(&mut book);
        drop(book);
        let (mut book, _) = Book::open(dir.path()).unwrap();
        assert_eq!((book.refused().len(), book.refused), (2, 2), "when it is opened");
        book.write(&Page { forget_refused: vec![today, 7], ..Page::default() }).unwrap();
        assert_eq!((book.refused(), book.refused), (vec!["two\nlines\nyoung".to_owned()], 1));
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("spool-0.redb"), b"not a spool at all").unwrap();
        let (mut book, _) = Book::open(dir.path()).unwrap();
        book.write(&keep([(1, "one")])).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_left_alone_and_costs_nobody_the_spool() {
        let dir = tempfile::tempdir().unwrap();
        let file = |number: u32| dir.path().join(format!("spool-{number}.redb"));
        fs::create_dir(file(0)).unwrap();
        let not_ours: TableDefinition<&str, &str> = TableDefinition::new("waiting");
        let foreign = Database::create(file(2)).unwrap();
        let transaction = foreign.begin_write().unwrap();
        transaction.open_table(not_ours).unwrap().insert("a", "b").unwrap();
        transaction.commit().unwrap();
        drop(foreign);
        for rows in [0, 1] {
            let (mut book, path) = Book::open(dir.path()).unwrap();
            assert_eq!((path, book.rows), (file(1), rows));
            book.write(&keep([(1, "one")])).unwrap();
        }
        assert!(file(0).is_dir() && file(2).is_file());
        assert!(!is_damage(&DatabaseError::UpgradeRequired(2)), "what wrote it can read it");
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(Book::open(&file.join("spool")), Err(BookError::Io { .. })));
    }
}
