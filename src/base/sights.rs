//! Which files were looked at, and what they were: so that whoever was made of them can tell when it is out of date.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    digest::sha256,
    files::{Stamp, read_bounded, walk},
};

type Digest = [u8; 32];

/// What was looked at.
#[derive(Debug, Default)]
pub struct Sights(Mutex<BTreeMap<Look, Sight>>);

/// A look at the disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// At a file.
    File(PathBuf),
    /// At the files of a folder with this extension.
    Folder(PathBuf, String),
}

/// What there was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sight {
    /// Of a file, where there is one.
    stamp: Option<Stamp>,
    /// Of the text or the names; zero where it cannot be read.
    digest: Digest,
}

impl Sights {
    pub(super) fn note_file(&self, path: &Path, stamp: Option<Stamp>, read: &io::Result<String>) {
        let digest = read.as_ref().map(|text| sha256(text.as_bytes())).unwrap_or_default();
        self.note(Look::File(path.to_owned()), Sight { stamp, digest });
    }

    pub(super) fn note_folder(&self, path: &Path, extension: &str, found: &io::Result<Vec<PathBuf>>) {
        let digest = digest_of_names(found);
        self.note(Look::Folder(path.to_owned(), extension.to_owned()), Sight { stamp: None, digest });
    }

    fn note(&self, look: Look, sight: Sight) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(look, sight);
    }

    /// Whether `path` is that of something that was looked at, or would be if it were there, whatever links lead to it.
    pub(super) fn include(&self, path: &Path) -> bool {
        let path = real(path);
        let sights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sights.keys().any(|look| match look {
            Look::File(seen) => real(seen) == path,
            Look::Folder(seen, extension) => {
                let seen = real(seen);
                path == seen || path.starts_with(&seen) && path.extension().is_some_and(|it| it == extension.as_str())
            }
        })
    }

    /// Whether what would be found now is anything else. A file is read again only where its stamp is another, or was so
    /// young that it may have changed and kept it.
    pub fn are_stale(&self) -> bool {
        let mut sights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sights.iter_mut().any(|(look, before)| match look {
            Look::Folder(path, extension) => digest_of_names(&walk(path, extension)) != before.digest,
            Look::File(path) => {
                let stamp = Stamp::of(path).ok();
                if stamp == before.stamp && !stamp.as_ref().is_some_and(Stamp::is_young) {
                    return false;
                }
                let digest = read_bounded(path).map(|text| sha256(text.as_bytes())).unwrap_or_default();
                let is_same = digest == before.digest;
                if is_same {
                    before.stamp = stamp;
                }
                !is_same
            }
        })
    }

    /// Names what was seen, whole: 12 hexadecimal digits.
    pub fn revision(&self) -> String {
        let sights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whole = Vec::new();
        for (look, sight) in sights.iter() {
            // A folder's files are seen themselves.
            if let Look::File(path) = look {
                whole.extend(sha256(path.as_os_str().as_encoded_bytes()));
                whole.extend(sight.digest);
            }
        }
        sha256(&whole).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where links lead to: by its folder, where it is not there itself.
fn real(path: &Path) -> PathBuf {
    let beside = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(beside).unwrap_or_else(|| path.to_owned())
}

fn digest_of_names(found: &io::Result<Vec<PathBuf>>) -> Digest {
    let Ok(found) = found else { return Digest::default() };
    let mut whole = Vec::new();
    for path in found {
        whole.extend(sha256(path.as_os_str().as_encoded_bytes()));
    }
    sha256(&whole)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, sync::Arc};

    use super::*;
    use crate::base::files::Files;

    #[test]
    fn every_way_that_a_folder_changes_is_seen_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("config.yaml"), "a").unwrap();
        // As a volume of a ConfigMap is mounted.
        fs::create_dir(at("..1")).unwrap();
        fs::write(at("..1/one.cedar"), "1").unwrap();
        symlink("..1", at("..data")).unwrap();
        fs::create_dir(at("policies")).unwrap();
        symlink("../..data/one.cedar", at("policies/one.cedar")).unwrap();

        let look = || {
            let sights = Arc::new(Sights::default());
            let files = Files::observed(folder.path(), &sights);
            let _ = files.read(Path::new("config.yaml"));
            let _ = files.read(Path::new("policies/links.json"));
            for path in files.list(Path::new("policies"), "cedar").unwrap() {
                let _ = files.read(&path);
            }
            let _ = files.unobserved().read(Path::new("unobserved"));
            sights
        };
        let mut sights = look();
        assert!(!sights.are_stale());
        type Change<'a> = (&'a str, bool, &'a dyn Fn());
        let changes: [Change<'_>; 10] = [
            ("files of no concern", false, &|| {
                fs::write(at("policies/notes.txt"), "1").unwrap();
                fs::write(at("unobserved"), "1").unwrap();
            }),
            ("the same written again", false, &|| fs::write(at("config.yaml"), "a").unwrap()),
            ("as many bytes within the same moment", true, &|| fs::write(at("config.yaml"), "b").unwrap()),
            ("a rename over it", true, &|| {
                fs::write(at("new"), "c").unwrap();
                fs::rename(at("new"), at("config.yaml")).unwrap();
            }),
            ("a file that was not there", true, &|| fs::write(at("policies/links.json"), "[]").unwrap()),
            ("a new file in a new folder", true, &|| {
                fs::create_dir(at("policies/team")).unwrap();
                fs::write(at("policies/team/two.cedar"), "2").unwrap();
            }),
            ("a volume that points elsewhere", true, &|| {
                fs::create_dir(at("..2")).unwrap();
                fs::write(at("..2/one.cedar"), "2").unwrap();
                symlink("..2", at("..data_tmp")).unwrap();
                fs::rename(at("..data_tmp"), at("..data")).unwrap();
            }),
            ("another name", true, &|| {
                fs::rename(at("policies/team/two.cedar"), at("policies/team/too.cedar")).unwrap();
            }),
            ("a file that goes", true, &|| fs::remove_file(at("policies/team/too.cedar")).unwrap()),
            ("everything gone", true, &|| fs::remove_dir_all(at("policies")).unwrap()),
        ];
        for (what, is_change, change) in changes {
            let before = sights.revision();
            change();
            assert_eq!(sights.are_stale(), is_change, "{what}");
            assert_eq!(sights.are_stale(), is_change, "{what}, looked at again");
            if what != "everything gone" {
                sights = look();
                assert_eq!(sights.revision() != before, is_change, "{what}");
                assert!(!sights.are_stale(), "{what}");
            }
        }
    }
}
