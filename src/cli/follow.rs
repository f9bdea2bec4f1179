//! A file of records, read as it grows: past its end, and past the day when another one takes its place.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use crate::authoring::recorded::LINE_BYTES_MAX;

/// Bytes at the end of the file that are read to begin with.
const PAST_BYTES: u64 = 1024 * 1024;

/// The file at a path.
pub(super) struct Followed {
    path: PathBuf,
    file: BufReader<File>,
    line: Vec<u8>,
    /// Whether the rest of the line is passed over: its beginning was, or it is too long.
    passing: bool,
}

impl Followed {
    /// What is at `path`, close to its end.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let mut file = File::open(&path)?;
        let past = file.metadata()?.len().saturating_sub(PAST_BYTES);
        file.seek(SeekFrom::Start(past))?;
        Ok(Self { path, file: BufReader::new(file), line: Vec::new(), passing: past > 0 })
    }

    /// The next line that is whole; none where that is not there yet.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            // What is written to the file before it is moved away is read before the one in its place.
            let is_moved = self.is_moved()?;
            if let Some(line) = self.read()? {
                return Ok(Some(line));
            }
            match is_moved.then(|| File::open(&self.path)) {
                None => return Ok(None),
                // It is about to be there.
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Some(opened) => self.file = BufReader::new(opened?),
            }
            (self.line, self.passing) = (Vec::new(), false);
        }
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let held = u64::try_from(self.line.len()).unwrap_or(u64::MAX);
            let room = LINE_BYTES_MAX.saturating_sub(held);
            let read = self.file.by_ref().take(room).read_until(b'\n', &mut self.line)?;
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.passing) {
                    return Ok(Some(line));
                }
            } else if room == 0 {
                self.line.clear();
                self.passing = true;
            } else if read == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether another file is at the path, or the same one from its beginning.
    fn is_moved(&mut self) -> io::Result<bool> {
        let ours = self.file.get_ref().metadata()?;
        let there = match fs::metadata(&self.path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let is_cut = there.len() < self.file.stream_position()?;
        Ok(is_cut || (there.dev(), there.ino()) != (ours.dev(), ours.ino()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(followed: &mut Followed) -> Vec<String> {
        std::iter::from_fn(|| followed.next().unwrap()).map(|line| String::from_utf8(line).unwrap()).collect()
    }

    fn append(path: &std::path::Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn lines_are_read_whole_and_once_whatever_becomes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        append(&path, "one\ntw");
        let mut followed = Followed::open(path.clone()).unwrap();
        assert_eq!(all(&mut followed), ["one\n"]);
        append(&path, "o\n");
        assert_eq!(all(&mut followed), ["two\n"]);
        // Moved away, and written to all the same.
        fs::rename(&path, folder.path().join("records.jsonl.1")).unwrap();
        append(&folder.path().join("records.jsonl.1"), "three\nhal");
        assert_eq!(all(&mut followed), ["three\n"]);
        // Longer than the one before was when it was read: only its name is the same.
        append(&path, &format!("four{}\n", " ".repeat(100)));
        assert_eq!(all(&mut followed).iter().map(|line| line.trim()).collect::<Vec<_>>(), ["four"]);
        // Emptied.
        fs::write(&path, "").unwrap();
        assert_eq!(all(&mut followed), [""; 0]);
        append(&path, "5\n");
        assert_eq!(all(&mut followed), ["5\n"]);
    }

    #[test]
    fn a_long_line_is_passed_over_and_a_long_file_is_read_from_near_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        append(&path, &"a line\n".repeat(300_000));
        let mut followed = Followed::open(path.clone()).unwrap();
        let lines = all(&mut followed);
        assert!((100_000..200_000).contains(&lines.len()) && lines.iter().all(|line| line == "a line\n"));
        append(&path, &"x".repeat(3 * 1024 * 1024));
        append(&path, "\nnext\n");
        assert_eq!(all(&mut followed), ["next\n"]);
    }
}
