//! What names a version of files: 32 hexadecimal digits of a SHA-256, so that nobody makes two versions of one name. They are those that
//! `sha256sum` prints, of one file or of its list of several, so that anybody can find out what a record names.

use std::{path::Path, sync::Arc};

use super::digest::sha256;

/// Digits that name a version.
const DIGITS: usize = 32;

/// Names a text.
pub fn of_text(text: &str) -> Arc<str> {
    let mut digits = digits_of(text);
    digits.truncate(DIGITS);
    digits.into()
}

/// Names several files, given by path and text in any order: that of the list which `sha256sum` prints of them by their paths in order.
pub fn of_files<'a>(files: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Arc<str> {
    let mut files: Vec<_> = files.into_iter().map(|(path, text)| (path.to_string_lossy(), text)).collect();
    files.sort_unstable();
    let lines = files.iter().map(|(path, text)| {
        // Or else a line feed in a name would make one file look like two.
        let escaped = path.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        let mark = if escaped == *path { "" } else { "\\" };
        format!("{mark}{}  {escaped}\n", digits_of(text))
    });
    of_text(&lines.collect::<String>())
}

/// A number that is the same wherever the revision is.
pub fn number(revision: &str) -> i64 {
    // What a metric's floating point holds: 48 bits.
    revision.get(..12).and_then(|digits| i64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

fn digits_of(text: &str) -> String {
    hex::encode(sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_what_sha256sum_says_and_the_order_of_files_is_nothing_to_it() {
        // printf 'one' | sha256sum
        assert_eq!(&*of_text("one"), "7692c3ad3540bb803c020b3aee66cd88");
        assert_eq!(number(&of_text("one")), 0x7692_c3ad_3540);
        let [a, b, odd] = [("a.cedar", "one"), ("team/b.cedar", "two"), ("c\n.cedar", "three")]
            .map(|(path, text)| (Path::new(path), text));
        // sha256sum a.cedar team/b.cedar | sha256sum
        assert_eq!(&*of_files([b, a]), "1355b32e5256ce41470bc078b831948b");
        // sha256sum a.cedar $'c\n.cedar' | sha256sum
        assert_eq!(&*of_files([a, odd]), "ba1df5cce9077337d010338738a37c7f");
        assert_ne!(of_files([a]), of_files([(b.0, a.1)]), "a file was renamed");
    }
}
