//! Disk as an argument: what is read and written goes through [`Files`], a folder or memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A place that configuration files are read from. Relative paths start at its root.
#[derive(Clone, Debug)]
pub enum Files {
    /// The file system, below this folder.
    Disk(PathBuf),
    /// Text by path: the demo's built-in example, and tests.
    Memory(BTreeMap<PathBuf, String>),
}

/// Which version of a file there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    /// Whether the file changed so lately that it may change again and keep its stamp.
    pub fn is_young(&self) -> bool {
        self.modified.elapsed().is_ok_and(|age| age < Duration::from_secs(2))
    }
}

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl Files {
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
            Self::Disk(root) => read_bounded(&root.join(path)),
            Self::Memory(files) => files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    /// Which version of `path` there is.
    ///
    /// # Errors
    /// What the file system says; files in memory never change and have none.
    pub fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        let Self::Disk(root) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        let found = std::fs::metadata(root.join(path))?;
        Ok(Stamp { modified: found.modified()?, bytes: found.len(), inode: found.ino() })
    }

    /// Puts `text` in the place of `path`, whole or not at all. A file that was there keeps its permissions; a new one is for
    /// its owner alone.
    ///
    /// # Errors
    /// What the file system says; files in memory are not written.
    pub fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let path = self.real(path)?;
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", ulid::Ulid::generate()));
        let new = folder.join(name);
        // A name that nobody can have put there, so that nothing is written through a link.
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = (|| {
            if let Ok(before) = std::fs::metadata(&path) {
                file.set_permissions(before.permissions())?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written?;
        File::open(folder)?.sync_all()
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

    /// Where `path` is on disk; a link, as in a mounted volume, stays a link.
    fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let Self::Disk(root) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        let path = root.join(path);
        Ok(path.canonicalize().unwrap_or(path))
    }

    /// The paths of the files in folder `path` that end in `.extension`, in order of name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn list(&self, path: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
        let wanted = |file: &Path| file.extension().is_some_and(|found| found == extension);
        let mut found = match self {
            Self::Disk(root) => std::fs::read_dir(root.join(path))?
                .map(|entry| entry.map(|entry| path.join(entry.file_name())))
                .filter(|file| file.as_ref().map_or(true, |file| wanted(file)))
                .collect::<io::Result<Vec<_>>>()?,
            Self::Memory(files) => {
                files.keys().filter(|file| file.parent() == Some(path) && wanted(file)).cloned().collect()
            }
        };
        found.sort();
        Ok(found)
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_BYTES_MAX.saturating_add(1)).read_to_string(&mut text)?;
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
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        let texts = [("policies/b.cedar", "2"), ("policies/a.cedar", "1"), ("policies/s.txt", "3")];
        for (name, text) in texts {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        for files in [Files::Disk(folder.path().into()), Files::memory(texts)] {
            let listed = files.list(Path::new("policies"), "cedar").unwrap();
            assert_eq!(listed, [Path::new("policies/a.cedar"), Path::new("policies/b.cedar")]);
            assert_eq!(files.read(&listed[0]).unwrap(), "1");
            assert!(files.read(Path::new("nowhere")).is_err());
        }
    }
}
