//! Disk as an argument: what is read and written goes through [`Files`], a folder or memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::sights::Sights;

/// A place that configuration files are read from. Relative paths start at its root.
#[derive(Clone, Debug)]
pub enum Files {
    /// The file system.
    Disk {
        /// The folder that relative paths start at.
        root: PathBuf,
        /// Where each look is noted.
        sights: Option<Arc<Sights>>,
    },
    /// Text by path: the demo's built-in example, and tests.
    Memory(BTreeMap<PathBuf, String>),
}

/// Which version of a file there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    /// When the file was last made another, whatever it says of its age: seconds and nanoseconds.
    changed: (i64, i64),
    bytes: u64,
    device: u64,
    inode: u64,
}

impl Stamp {
    /// That of the file at `path`, wherever links lead to.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        let changed = (found.ctime(), found.ctime_nsec());
        let (modified, bytes) = (found.modified()?, found.len());
        Ok(Self { modified, changed, bytes, device: found.dev(), inode: found.ino() })
    }

    /// Whether the file changed so lately that it may change again and keep its stamp.
    pub fn is_young(&self) -> bool {
        self.modified.elapsed().is_ok_and(|age| age < Duration::from_secs(2))
    }
}

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Folders inside each other that are looked through.
const DEPTH_MAX: usize = 16;

impl Files {
    /// Files on disk below `root`.
    pub fn disk(root: impl Into<PathBuf>) -> Self {
        Self::Disk { root: root.into(), sights: None }
    }

    /// Files on disk below `root`, with every look noted in `sights`.
    pub fn observed(root: impl Into<PathBuf>, sights: &Arc<Sights>) -> Self {
        Self::Disk { root: root.into(), sights: Some(sights.clone()) }
    }

    /// The same files, with no look noted.
    pub fn unobserved(&self) -> Self {
        match self {
            Self::Disk { root, .. } => Self::Disk { root: root.clone(), sights: None },
            Self::Memory(_) => self.clone(),
        }
    }

    /// Files in memory, from pairs of path and text.
    pub fn memory<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::Memory(files.into_iter().map(|(path, text)| (path.into(), text.into())).collect())
    }

    /// The text of `path`.
    ///
    /// # Errors
    /// What the file system says; a file over [`FILE_BYTES_MAX`] or not UTF-8 is `InvalidData`.
    pub fn read(&self, path: &Path) -> io::Result<String> {
        match self {
            Self::Disk { root, sights } => {
                let path = root.join(path);
                // Before it is read, so that a change meanwhile is noticed.
                let stamp = sights.as_ref().and_then(|_| Stamp::of(&path).ok());
                let read = read_bounded(&path);
                if let Some(sights) = sights {
                    sights.note_file(&path, stamp, &read);
                }
                read
            }
            Self::Memory(files) => files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether `path` was looked at, be it as one of a folder's, where looks are noted.
    pub fn has_seen(&self, path: &Path) -> bool {
        match self {
            Self::Disk { root, sights } => sights.as_ref().is_some_and(|sights| sights.include(&root.join(path))),
            Self::Memory(files) => files.contains_key(path),
        }
    }

    /// Which version of `path` there is.
    ///
    /// # Errors
    /// What the file system says; files in memory never change and have none.
    pub fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        Stamp::of(&self.path(path)?)
    }

    /// Puts `text` in the place of `path`, whole or not at all. A file that was there keeps its permissions; a new one is for
    /// its owner alone.
    ///
    /// # Errors
    /// What the file system says; files in memory are not written.
    pub fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        self.put(path, text, |_| Ok(true)).map(drop)
    }

    /// The same, unless the file is no longer the one that was `seen` once all is written but the name; whether it was done.
    ///
    /// # Errors
    /// What the file system says; files in memory are not written.
    pub fn replace_unless_changed(&self, path: &Path, seen: &Stamp, text: &str) -> io::Result<bool> {
        self.put(path, text, |path| Ok(Stamp::of(path)? == *seen))
    }

    /// Puts `text` in the place of `path` if it still may; whether it might.
    fn put(&self, path: &Path, text: &str, may: impl FnOnce(&Path) -> io::Result<bool>) -> io::Result<bool> {
        let path = self.real(path)?;
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", ulid::Ulid::generate()));
        let new = folder.join(name);
        // A name that nobody can have put there, so that nothing is written through a link.
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        let put = (|| -> io::Result<bool> {
            if let Ok(before) = std::fs::metadata(&path) {
                file.set_permissions(before.permissions())?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            if !may(&path)? {
                return Ok(false);
            }
            std::fs::rename(&new, &path).map(|()| true)
        })();
        if !matches!(put, Ok(true)) {
            let _ = std::fs::remove_file(&new);
            return put;
        }
        File::open(folder)?.sync_all().map(|()| true)
    }

    /// Does `work` while nobody else, in this process or another, does work on `path`.
    ///
    /// # Errors
    /// What the file system says; files in memory are not locked.
    pub fn locked<T>(&self, path: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
        let path = self.real(path)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let lock =
            File::options().write(true).create(true).truncate(false).mode(0o600).open(path.with_file_name(name))?;
        lock.lock()?;
        Ok(work())
    }

    /// Where `path` is to be found, whatever links lead there later.
    ///
    /// # Errors
    /// Files in memory are nowhere.
    pub fn path(&self, path: &Path) -> io::Result<PathBuf> {
        let Self::Disk { root, .. } = self else { return Err(io::ErrorKind::Unsupported.into()) };
        Ok(root.join(path))
    }

    /// Where `path` is on disk; a link, as in a mounted volume, stays a link.
    ///
    /// # Errors
    /// Files in memory are nowhere.
    pub fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let path = self.path(path)?;
        Ok(path.canonicalize().unwrap_or(path))
    }

    /// The paths of the files in folder `path` and those below it that end in `.extension`, in order. Names that begin
    /// with a dot are passed over: editors and mounted volumes keep their own there.
    ///
    /// # Errors
    /// What the file system says; folders more than 16 deep are `InvalidData`.
    pub fn list(&self, path: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
        match self {
            Self::Disk { root, sights } => {
                let folder = root.join(path);
                let found = walk(&folder, extension);
                if let Some(sights) = sights {
                    sights.note_folder(&folder, extension, &found);
                }
                // As they were asked for: below `path`, not below the root of all.
                let relative = |file: PathBuf| file.strip_prefix(&folder).map(|file| path.join(file)).unwrap_or(file);
                Ok(found?.into_iter().map(relative).collect())
            }
            Self::Memory(files) => {
                let wanted = |file: &&PathBuf| file.starts_with(path) && is_wanted(file, extension);
                Ok(files.keys().filter(wanted).cloned().collect())
            }
        }
    }
}

fn is_wanted(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|found| found == extension)
}

/// The files below `folder` that end in `.extension`, in order.
pub(super) fn walk(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_owned(), 0_usize)]);
    while let Some((folder, depth)) = folders.pop() {
        if depth > DEPTH_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("folders more than {DEPTH_MAX} deep")));
        }
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (path, kind) = (entry.path(), entry.file_type()?);
            // A link counts as what it leads to.
            if kind.is_dir() || kind.is_symlink() && path.is_dir() {
                folders.push((path, depth.saturating_add(1)));
            } else if is_wanted(&path, extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(FILE_BYTES_MAX.saturating_add(1));
    let read = file.read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => io::Error::new(error.kind(), "it is not UTF-8"),
        _ => error,
    })?;
    if u64::try_from(read).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_and_memory_list_the_same_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("policies/team")).unwrap();
        let texts = [
            ("policies/b.cedar", "2"),
            ("policies/a.cedar", "1"),
            ("policies/s.txt", "3"),
            ("policies/team/c.cedar", "4"),
        ];
        for (name, text) in texts {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        for files in [Files::disk(folder.path()), Files::memory(texts)] {
            let listed = files.list(Path::new("policies"), "cedar").unwrap();
            assert_eq!(listed, ["policies/a.cedar", "policies/b.cedar", "policies/team/c.cedar"].map(Path::new));
            assert_eq!(files.read(&listed[0]).unwrap(), "1");
            assert!(files.read(Path::new("nowhere")).is_err());
        }
    }

    #[test]
    fn a_file_that_has_changed_since_it_was_seen_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (files, name) = (Files::disk(folder.path()), Path::new("list"));
        std::fs::write(folder.path().join(name), "one\n").unwrap();
        let seen = files.stamp(name).unwrap();
        std::fs::write(folder.path().join(name), "one\ntwo\n").unwrap();
        assert!(!files.replace_unless_changed(name, &seen, "three\n").unwrap());
        assert_eq!(files.read(name).unwrap(), "one\ntwo\n");
        let seen = files.stamp(name).unwrap();
        assert!(files.replace_unless_changed(name, &seen, "three\n").unwrap());
        assert_eq!(files.read(name).unwrap(), "three\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left lying about");
    }

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.yaml"), b"listen: \xff\n").unwrap();
        let error = Files::disk(folder.path()).read(Path::new("config.yaml")).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidData, "it is not UTF-8"));
    }
}
