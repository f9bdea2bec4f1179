//! Records in a file: begun anew when it is large or old, linked to a chain where that is wished, and on the disk before they
//! count as written where that is.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    chain::{BEGIN, Chain, Reader},
    lines::Out,
};
use crate::base::{
    clock::{Clock, SystemClock},
    secret::Secret,
    signing::SigningKey,
};

/// How records are kept in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// Where. Older ones stand beside it, with `.1`, `.2` and so on behind the name, the youngest first.
    pub path: PathBuf,
    /// Bytes after which another file is begun.
    pub bytes_max: u64,
    /// Age after which another file is begun.
    pub age_max: Option<Duration>,
    /// Older files that are kept.
    pub keep: usize,
    /// Whether records are on the disk before they count as written.
    pub sync: bool,
    /// Whether they are linked, and what signs them.
    pub chain: Option<ChainSettings>,
}

/// How records are linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSettings {
    /// The private key that signs them, in PEM.
    pub key: Option<Secret>,
    /// How often that is due, while there are new ones.
    pub sign_every: Duration,
}

/// A file of records.
pub struct RecordFile {
    settings: FileSettings,
    signer: Option<SigningKey>,
    file: File,
    bytes: u64,
    opened: Instant,
    chain: Chain,
    signed: Instant,
    /// Whether there are lines since the last signature.
    unsigned: bool,
    /// Records that were lost and are not told of yet.
    dropped: u64,
}

impl Out for RecordFile {
    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
        let outcome = self.add_all(lines);
        if let Err((lost, _)) = &outcome {
            self.dropped = self.dropped.saturating_add(u64::try_from(*lost).unwrap_or(u64::MAX));
        }
        outcome
    }

    fn rest(&mut self, ends: bool) -> io::Result<bool> {
        self.follow()?;
        if ends && self.dropped > 0 {
            self.tell_dropped()?;
            self.finish()?;
        }
        self.sign(ends)?;
        Ok(false)
    }
}

impl std::fmt::Debug for RecordFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordFile").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A key that cannot sign.
#[derive(Debug, thiserror::Error)]
#[error("the key cannot sign")]
struct NoKey;

/// The longest line that is read back, in bytes.
pub(super) const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl RecordFile {
    /// Opens the file that is there, to go on where it ends, or begins one.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidData`] where a file that is to be gone on with is not what it should be.
    pub fn open(settings: FileSettings) -> io::Result<Self> {
        let mut file = append(&settings.path)?;
        let (chain, torn) = end(&mut file, &settings)?;
        let bytes = file.metadata()?.len();
        let signer = signer(&settings)?;
        let now = Instant::now();
        let mut this =
            Self { settings, signer, file, bytes, opened: now, chain, signed: now, unsigned: false, dropped: 0 };
        if this.settings.chain.is_some() {
            match torn {
                Some(rest) => {
                    this.put(b"\n")?;
                    let told = this.chain.torn(&time(), &rest);
                    this.add(told)?;
                }
                None if bytes == 0 => this.begin()?,
                None => {}
            }
        } else if bytes > 0 && !ends_in_break(&mut this.file)? {
            this.put(b"\n")?;
        }
        this.finish()?;
        Ok(this)
    }

    /// Sees that it could be opened, and gone on with where it ends now, whoever writes to it.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn check(settings: &FileSettings) -> io::Result<()> {
        signer(settings)?;
        let mut file = appendable(&settings.path)?;
        end(&mut file, settings).map(drop)
    }

    /// Adds records until one cannot be. Returns how many were not, and why.
    fn add_all(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
        let all = lines.len();
        let mut prepare = || {
            self.follow()?;
            self.tell_dropped()
        };
        prepare().map_err(|error| (all, error))?;
        let mut outcome = Ok(());
        for (index, line) in lines.into_iter().enumerate() {
            let added = if self.is_due() { self.rotate().and_then(|()| self.add(line)) } else { self.add(line) };
            if let Err(error) = added {
                outcome = Err((all.saturating_sub(index), error));
                break;
            }
        }
        // What is not on the disk is not written, wherever the others are.
        self.finish().map_err(|error| (all, error))?;
        outcome
    }

    /// Vouches for what was written, where that is due; always, where it `ends`.
    fn sign(&mut self, ends: bool) -> io::Result<()> {
        let (Some(signer), Some(chain)) = (&self.signer, &self.settings.chain) else { return Ok(()) };
        if !self.unsigned || (!ends && self.signed.elapsed() < chain.sign_every) {
            return Ok(());
        }
        let line = self.chain.signed(&time(), signer).map_err(io::Error::other)?;
        self.add(line)?;
        (self.unsigned, self.signed) = (false, Instant::now());
        self.finish()
    }

    /// Says how many records could not be written, where lines are linked.
    fn tell_dropped(&mut self) -> io::Result<()> {
        if self.dropped > 0 && self.settings.chain.is_some() {
            let line = self.chain.dropped(&time(), self.dropped);
            self.add(line)?;
        }
        self.dropped = 0;
        Ok(())
    }

    fn add(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        let before = self.chain;
        if self.settings.chain.is_some() {
            self.chain.link(&mut line);
        }
        line.push(b'\n');
        let written = self.put(&line);
        match written {
            Ok(()) => self.unsigned = true,
            // Nobody will read it: the next one follows from the one before.
            Err(_) => self.chain = before,
        }
        written
    }

    /// Writes all of `bytes`, or leaves the file as it was.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        match written {
            Ok(()) => self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Err(_) => self.file.set_len(self.bytes)?,
        }
        written
    }

    fn finish(&self) -> io::Result<()> {
        if self.settings.sync { self.file.sync_data() } else { Ok(()) }
    }

    /// Whoever moves the file away gets no more in it. One that could not be begun, since the disk was full, is before anything stands in it.
    fn follow(&mut self) -> io::Result<()> {
        match is_at(&self.file, &self.settings.path)? {
            false => self.begin_file(),
            true if self.bytes == 0 => self.begin(),
            true => Ok(()),
        }
    }

    fn is_due(&self) -> bool {
        let old = self.settings.age_max.is_some_and(|max| self.opened.elapsed() >= max);
        self.bytes >= self.settings.bytes_max || (old && self.bytes > 0)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sign(true)?;
        self.finish()?;
        let numbered = |number: usize| {
            let mut name = self.settings.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..=self.settings.keep).rev() {
            let from = if number == 1 { self.settings.path.clone() } else { numbered(number.saturating_sub(1)) };
            match fs::rename(&from, numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.settings.keep == 0 {
            fs::remove_file(&self.settings.path)?;
        }
        self.begin_file()
    }

    fn begin_file(&mut self) -> io::Result<()> {
        self.file = append(&self.settings.path)?;
        (self.bytes, self.opened) = (self.file.metadata()?.len(), Instant::now());
        self.begin()
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.settings.chain.is_some() {
            let line = self.chain.opened(&time());
            self.add(line)?;
        }
        Ok(())
    }
}

fn signer(settings: &FileSettings) -> io::Result<Option<SigningKey>> {
    let key = settings.chain.as_ref().and_then(|chain| chain.key.as_ref());
    key.map(|key| SigningKey::of(key.expose()).ok_or_else(|| invalid(NoKey))).transpose()
}

/// The file at `path`, for as long as it is open for this gate alone.
fn append(path: &Path) -> io::Result<File> {
    let file = appendable(path)?;
    match file.try_lock() {
        Ok(()) if is_at(&file, path)? => Ok(file),
        // Whoever had it has moved it away meanwhile.
        Ok(()) => Err(io::ErrorKind::ResourceBusy.into()),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::ResourceBusy, "another gate writes to it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn appendable(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

/// Whether that is the file at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    Ok(fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
}

fn time() -> String {
    SystemClock.now().rfc3339()
}

fn ends_in_break(file: &mut File) -> io::Result<bool> {
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Where the chain ends that is to be gone on with, if any is, and what a crash has left behind its last whole line.
fn end(file: &mut File, settings: &FileSettings) -> io::Result<(Chain, Option<Vec<u8>>)> {
    match &settings.chain {
        Some(_) if file.metadata()?.len() > 0 => end_of(file),
        Some(_) => Ok((before(&settings.path)?, None)),
        None => Ok((BEGIN, None)),
    }
}

/// Where the chain in `file` ends, and what a crash has left behind its last whole line.
fn end_of(file: &mut File) -> io::Result<(Chain, Option<Vec<u8>>)> {
    file.seek(SeekFrom::Start(0))?;
    let (mut reader, mut lines, mut line) = (Reader::new(None), BufReader::new(&*file), Vec::new());
    reader.begin_file().map_err(invalid)?;
    loop {
        line.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        let whole = line.last() == Some(&b'\n');
        if read == 0 || !whole {
            let chain = reader.chain().unwrap_or(BEGIN);
            let torn = (read > 0).then(|| line.clone());
            return Ok((chain, torn));
        }
        line.pop();
        reader.line(&line).map_err(invalid)?;
    }
}

/// Where the chain of the file before this one ends, if that is still there.
fn before(path: &Path) -> io::Result<Chain> {
    let mut name = path.to_owned().into_os_string();
    name.push(".1");
    match File::open(name) {
        Ok(mut file) if file.metadata()?.len() > 0 => Ok(end_of(&mut file)?.0),
        Ok(_) => Ok(BEGIN),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BEGIN),
        Err(error) => Err(error),
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::audit::chain::Account;
    use crate::base::signing::PublicKey;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

    fn settings(folder: &TempDir, chained: bool) -> FileSettings {
        let chain = ChainSettings { key: Some(KEY.to_owned().into()), sign_every: Duration::from_secs(3600) };
        FileSettings {
            path: folder.path().join("records.jsonl"),
            bytes_max: 2_000,
            age_max: None,
            keep: 3,
            sync: true,
            chain: chained.then_some(chain),
        }
    }

    fn records(from: usize, count: usize) -> Vec<Vec<u8>> {
        (from..from + count).map(|number| format!(r#"{{"record":{number}}}"#).into_bytes()).collect()
    }

    /// The files that there are, the oldest first.
    fn files(folder: &TempDir) -> Vec<String> {
        let name =
            |number: usize| if number == 0 { "records.jsonl".to_owned() } else { format!("records.jsonl.{number}") };
        let there = (0..100).rev().map(|number| folder.path().join(name(number)));
        there.filter_map(|path| fs::read_to_string(path).ok()).collect()
    }

    fn verified(folder: &TempDir) -> Account {
        let verifier = PublicKey::of(PUBLIC).unwrap();
        let mut reader = Reader::new(Some(&verifier));
        for text in files(folder) {
            reader.begin_file().unwrap();
            text.split_terminator('\n').for_each(|line| reader.line(line.as_bytes()).unwrap());
        }
        reader.end().unwrap();
        reader.account()
    }

    #[test]
    fn large_files_make_room_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RecordFile::open(settings(&folder, false)).unwrap();
        for round in 0..10 {
            file.write(records(round * 100, 100)).unwrap();
        }
        let files = files(&folder);
        assert_eq!(files.len(), 4);
        let kept: Vec<_> =
            files.concat().lines().map(|line| line[10..line.len() - 1].parse::<usize>().unwrap()).collect();
        assert!(kept.windows(2).all(|two| two[0] + 1 == two[1]) && kept.last() == Some(&999), "{kept:?}");
        assert!(files.iter().all(|text| text.len() <= 2_020));
    }

    #[test]
    fn a_chain_goes_on_over_files_and_restarts() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..4 {
            let mut file = RecordFile::open(settings(&folder, true)).unwrap();
            file.write(records(round * 10, 10)).unwrap();
            file.rest(true).unwrap();
        }
        let account = verified(&folder);
        assert_eq!((account.records, account.since_signature, account.dropped), (40, 0, 0));
        assert!(files(&folder).len() > 1);
    }

    #[test]
    fn what_a_crash_leaves_is_told_of_and_gone_on_from() {
        for rest in ["", "{", r#"{"record":99,"seq":99"#, "no json"] {
            let folder = tempfile::tempdir().unwrap();
            for round in 0..2 {
                let mut file = RecordFile::open(settings(&folder, true)).unwrap();
                file.write(records(round * 2, 2)).unwrap();
                drop(file);
                append(&folder.path().join("records.jsonl")).unwrap().write_all(rest.as_bytes()).unwrap();
            }
            RecordFile::open(settings(&folder, true)).unwrap().rest(true).unwrap();
            assert_eq!(verified(&folder).records, 4, "{rest}");
        }
    }

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        RecordFile::open(settings(&folder, true)).unwrap().write(records(0, 5)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"record\":2", "\"record\":7", 1)).unwrap();
        assert_eq!(RecordFile::open(settings(&folder, true)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::write(&path, "{\"record\":1}\n").unwrap();
        assert_eq!(RecordFile::open(settings(&folder, true)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_file_is_for_one_gate() {
        let folder = tempfile::tempdir().unwrap();
        let first = RecordFile::open(settings(&folder, true)).unwrap();
        assert_eq!(RecordFile::open(settings(&folder, true)).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        assert!(RecordFile::open(settings(&folder, true)).is_ok());
    }

    #[test]
    fn a_file_that_is_moved_away_gets_no_more() {
        for chained in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("records.jsonl");
            let mut file = RecordFile::open(settings(&folder, chained)).unwrap();
            file.write(records(0, 5)).unwrap();
            fs::rename(&path, folder.path().join("records.jsonl.1")).unwrap();
            file.write(records(5, 5)).unwrap();
            file.rest(true).unwrap();
            let counts: Vec<_> = files(&folder).iter().map(|text| text.matches("\"record\"").count()).collect();
            assert_eq!(counts, [5, 5]);
            if chained {
                assert_eq!(verified(&folder).records, 10);
            }
        }
    }

    #[test]
    fn a_file_that_could_not_be_begun_is_before_anything_stands_in_it() {
        for with_a_record in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("records.jsonl");
            let mut file = RecordFile::open(settings(&folder, true)).unwrap();
            file.write(records(0, 2)).unwrap();
            fs::rename(&path, folder.path().join("records.jsonl.1")).unwrap();
            // The disk has room for another file, and for nothing in it.
            fs::write(&path, "").unwrap();
            (file.file, file.bytes) = (File::open(&path).unwrap(), 0);
            assert_eq!(file.write(records(2, 1)).unwrap_err().0, 1);
            file.file = append(&path).unwrap();
            if with_a_record {
                file.write(records(3, 1)).unwrap();
            }
            file.rest(true).unwrap();
            let account = verified(&folder);
            assert_eq!((account.records, account.dropped), (2 + u64::from(with_a_record), 1));
            drop(file);
            assert!(RecordFile::open(settings(&folder, true)).is_ok());
        }
    }

    #[test]
    fn old_files_make_room_too() {
        let folder = tempfile::tempdir().unwrap();
        let aged = FileSettings { age_max: Some(Duration::ZERO), keep: 0, ..settings(&folder, false) };
        let mut file = RecordFile::open(aged).unwrap();
        file.write(records(0, 3)).unwrap();
        assert_eq!(files(&folder), ["{\"record\":2}\n"]);
    }

    #[test]
    fn what_is_not_on_the_disk_is_not_written_even_where_a_later_one_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        // Takes all that is written, and has no disk to put it on.
        std::os::unix::fs::symlink("/dev/null", folder.path().join("records.jsonl")).unwrap();
        let small = FileSettings { bytes_max: 10, sync: false, ..settings(&folder, false) };
        let mut file = RecordFile::open(small).unwrap();
        file.settings.sync = true;
        // The second is for another file, which is not begun before the first is on the disk.
        assert_eq!(file.write(records(0, 3)).unwrap_err().0, 3);
    }

    #[test]
    fn records_that_were_lost_are_counted_in_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RecordFile::open(settings(&folder, true)).unwrap();
        file.write(records(0, 2)).unwrap();
        // The disk takes no more: the file cannot be written to.
        let good = std::mem::replace(&mut file.file, File::open(folder.path().join("records.jsonl")).unwrap());
        let (lost, _) = file.write(records(2, 3)).unwrap_err();
        assert_eq!(lost, 3);
        let bad = std::mem::replace(&mut file.file, good);
        file.write(records(5, 1)).unwrap();
        let good = std::mem::replace(&mut file.file, bad);
        assert!(file.write(records(6, 2)).is_err());
        file.file = good;
        // No further record tells of those.
        file.rest(true).unwrap();
        let account = verified(&folder);
        assert_eq!((account.records, account.dropped, account.since_signature), (3, 5, 0));
    }
}
