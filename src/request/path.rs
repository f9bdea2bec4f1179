//! A request target with one reading (RFC 3986, RFC 9112 section 3.2.1 origin-form).
//!
//! Whatever two servers on the way could read differently is refused: dot segments, empty segments, backslashes,
//! path parameters (`;`), and percent-encoded spellings of bytes that could stand plain or that delimit.

use std::borrow::Cow;

/// Path and query of a request, byte for byte as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    whole: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// The target in its one reading, or `None` if there is no such thing.
    pub fn parse(target: &'a [u8]) -> Option<Self> {
        let whole = std::str::from_utf8(target).ok()?;
        let (path, query) = match whole.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (whole, None),
        };
        let inside = path.strip_prefix('/')?;
        let segments = inside.strip_suffix('/').unwrap_or(inside);
        let sound = inside.is_empty() || segments.split('/').all(is_sound_segment);
        (sound && query.is_none_or(is_sound_query)).then_some(Self { whole, path, query })
    }

    /// Path and query.
    pub const fn as_str(&self) -> &'a str {
        self.whole
    }
    /// The path: starts with `/`, no empty segment but perhaps the last.
    pub const fn path(&self) -> &'a str {
        self.path
    }
    /// What follows the first `?`.
    pub const fn query(&self) -> Option<&'a str> {
        self.query
    }
}

/// A [`Target`]'s path, or a segment of it, with percent-encodings decoded. They are known to decode to UTF-8, and to
/// nothing that delimits.
pub fn decode_segment(segment: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy()
}

fn is_sound_segment(segment: &str) -> bool {
    if matches!(segment, "" | "." | "..") {
        return false;
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let sound = match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => may_be_encoded(high << 4 | low),
                _ => false,
            },
            _ => is_plain(byte),
        };
        if !sound {
            return false;
        }
    }
    !segment.contains('%')
        || percent_encoding::percent_decode_str(segment).decode_utf8().is_ok_and(|it| has_no_twin(&it))
}

/// pchar (RFC 3986 section 3.3) without `%` and `;`.
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Encoded, an unreserved byte is a second spelling, and a delimiter or control byte changes meaning once decoded.
const fn may_be_encoded(byte: u8) -> bool {
    !(is_unreserved(byte) || byte.is_ascii_control() || matches!(byte, b'%' | b'/' | b'\\' | b';' | b'?' | b'#'))
}

/// Characters outside ASCII that some servers fold into ASCII, by Unicode's normalisation (full-width and small forms, those
/// for vertical text, one-dot leader, account of) or by their looks (fraction and division slash), would be a second spelling
/// of a delimiter. The Greek question mark is a `;` in every normal form.
fn has_no_twin(decoded: &str) -> bool {
    !decoded.chars().any(|c| {
        c.is_control()
            || matches!(c,
                '\u{37e}' | '\u{200b}'..='\u{200f}' | '\u{2024}'..='\u{2026}' | '\u{202a}'..='\u{202e}' | '\u{2044}' | '\u{2047}'..='\u{2049}'
                | '\u{2100}' | '\u{2101}' | '\u{2105}' | '\u{2106}' | '\u{2215}' | '\u{2216}' | '\u{29f8}' | '\u{29f9}'
                | '\u{fe10}'..='\u{fe19}' | '\u{fe30}' | '\u{fe50}'..='\u{fe6f}' | '\u{feff}' | '\u{ff01}'..='\u{ff5e}')
    })
}

fn is_sound_query(query: &str) -> bool {
    let mut bytes = query.bytes();
    while let Some(byte) = bytes.next() {
        let sound = match byte {
            b'%' => bytes.next().and_then(hex).is_some() && bytes.next().and_then(hex).is_some(),
            b'#' | b'\\' | b'"' | b'<' | b'>' | b'`' => false,
            _ => byte.is_ascii_graphic(),
        };
        if !sound {
            return false;
        }
    }
    true
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit ^ b'0'),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a' - 10)),
        b'A'..=b'F' => Some(digit.wrapping_sub(b'A' - 10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_targets_are_read_as_they_stand() {
        for whole in ["/", "/a", "/a/", "/users/u%20ser@x/data?a=b&c=%2f..//", "/a:b/*/(c)", "/%C3%A9"] {
            let target = Target::parse(whole.as_bytes()).unwrap_or_else(|| panic!("{whole}"));
            assert_eq!(target.as_str(), whole);
            assert_eq!(target.path(), whole.split('?').next().unwrap());
        }
        assert_eq!(decode_segment("u%20ser%C3%A9"), "u seré");
    }

    #[test]
    fn every_second_reading_is_refused() {
        for whole in [
            "",
            "a",
            "*",
            "http://h/a",
            "//",
            "//h/a",
            "/a//b",
            "/a//",
            "/./a",
            "/a/.",
            "/a/..",
            "/../a",
            "/a/../b",
            "/%2e/a",
            "/%2E%2e/a",
            "/.%2e/a",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/a%25",
            "/a%252fb",
            "/a;b",
            "/a%3bb",
            "/a%3Fb",
            "/a%23",
            "/a#b",
            "/a?b#c",
            "/a b",
            "/a\tb",
            "/a%",
            "/a%4",
            "/a%zz",
            "/%61",
            "/%2d",
            "/a%c0%af",
            "/a%e0%80%af",
            "/a%ff",
            "/é",
            "/a?é",
            "/a?b c",
            "/a?%",
            "/a?\\",
            "/a?\"",
            "/a?<",
            "/a?>",
            "/a?`",
            "/%ef%bc%8f",
            "/%e2%80%a4%e2%80%a4/",
            "/a%c2%80",
            "/a%cd%be",
            "/%ef%b8%b0/b",
            "/a%e2%84%80",
            "/a%ef%b9%94",
            "/a%e2%81%87",
            "/a%ef%b9%9f",
        ] {
            assert_eq!(Target::parse(whole.as_bytes()), None, "{whole}");
        }
        assert_eq!(Target::parse(b"/a\xff"), None);
    }

    #[test]
    fn no_character_becomes_a_delimiter_by_normalisation() {
        use unicode_normalization::UnicodeNormalization;
        for twin in '\u{80}'..=char::MAX {
            let folded: String = std::iter::once(twin).nfkc().collect();
            let delimits = folded.contains(['/', '\\', ';', '?', '#', '%']) || folded.chars().all(|c| c == '.');
            assert!(!delimits || !has_no_twin(&twin.to_string()), "{twin:?} is {folded}");
        }
    }

    proptest::proptest! {
        /// What is accepted is kept byte for byte, and a server that normalises it as browsers do, or decodes it once
        /// more and normalises then, sees the same segments.
        #[test]
        fn an_accepted_target_has_one_reading(target in "(/|//|\\PC|[a-c./;%\\\\#? ]|%2[eEfF5]|%5c|%25|\\.\\.|%c0%af|é){0,12}") {
            if let Some(parsed) = Target::parse(target.as_bytes()) {
                proptest::prop_assert_eq!(parsed.as_str(), &target);
                let whatwg = url::Url::parse(&format!("http://h{target}")).unwrap();
                proptest::prop_assert_eq!(whatwg.path(), parsed.path());
                for segment in parsed.path().split('/') {
                    let decoded = decode_segment(segment);
                    proptest::prop_assert!(!decoded.contains(['/', '\\', '?', '#', ';', '%', '\0']), "{}", decoded);
                    proptest::prop_assert!(decoded != "." && decoded != "..");
                }
            }
        }
    }
}
