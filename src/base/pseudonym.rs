//! Keyed pseudonyms: equal values of one kind have equal ones, and only who holds the key can tell whose one is.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::secret::Secret;

/// What a pseudonym begins with.
const MARK: char = '~';

/// Bytes of the HMAC-SHA256 that are kept.
const BYTES: usize = 16;

/// Bytes of a pseudonym as text: the mark, and 16 bytes in base64url.
const LENGTH: usize = 23;

/// Least bytes of a key.
pub const KEY_BYTES_MIN: usize = 16;

/// What a pseudonym stands for. The same text of two kinds has two pseudonyms, so that what anybody can have recorded (a
/// segment of a path, an address) says nothing of whose an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The id of an entity, or a name that becomes one.
    Id,
    /// A text.
    Text,
    /// A number.
    Number,
    /// A value of an extension type, which this function makes.
    Extension(&'a str),
    /// A segment of a path.
    Segment,
    /// Where a connection comes from.
    Peer,
}

/// Makes pseudonyms under one key.
#[derive(Clone)]
pub struct Pseudonyms(hmac::Key);

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pseudonyms")
    }
}

impl Pseudonyms {
    /// Under `key`, of [`KEY_BYTES_MIN`] bytes at least.
    pub fn new(key: &Secret) -> Option<Self> {
        let key = key.expose().as_bytes();
        (key.len() >= KEY_BYTES_MIN).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// That of `text`, which is of this kind.
    pub fn of(&self, kind: Kind<'_>, text: &str) -> String {
        let label = match kind {
            Kind::Id => "id",
            Kind::Text => "text",
            Kind::Number => "number",
            Kind::Extension(function) => function,
            Kind::Segment => "segment",
            Kind::Peer => "peer",
        };
        self.labelled(label, text)
    }

    /// Names the key, and says nothing else of it.
    pub fn key_id(&self) -> String {
        self.labelled("key", "")
    }

    fn labelled(&self, label: &str, text: &str) -> String {
        let mut signing = hmac::Context::with_key(&self.0);
        // INVARIANT: no label holds a zero byte, so that label and text are told apart.
        [label.as_bytes(), &[0], text.as_bytes()].iter().for_each(|part| signing.update(part));
        let tag = signing.sign();
        let kept = tag.as_ref().get(..BYTES).unwrap_or_default();
        format!("{MARK}{}", URL_SAFE_NO_PAD.encode(kept))
    }
}

/// Whether `text` has the form of one.
pub fn is_pseudonym(text: &str) -> bool {
    text.len() == LENGTH && text.starts_with(MARK)
}

/// 8 bytes of a pseudonym, for values that are no text.
pub fn bits(pseudonym: &str) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(pseudonym.strip_prefix(MARK)?).ok()?;
    Some(u64::from_be_bytes(bytes.first_chunk().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_of_one_kind_have_equal_pseudonyms_under_one_key_alone() {
        let under = |key: &str| Pseudonyms::new(&Secret::from(key.to_owned())).unwrap();
        let (one, other) = (under("one key of length 16"), under("another key of length"));
        assert_eq!(one.of(Kind::Id, "user-1"), one.of(Kind::Id, "user-1"));
        assert_ne!(one.of(Kind::Id, "user-1"), one.of(Kind::Id, "user-2"));
        assert_ne!(one.of(Kind::Id, "user-1"), other.of(Kind::Id, "user-1"));
        assert_ne!(one.key_id(), other.key_id());
        let kinds = [Kind::Id, Kind::Text, Kind::Number, Kind::Extension("ip"), Kind::Segment, Kind::Peer];
        let all: std::collections::BTreeSet<_> = kinds.iter().map(|kind| one.of(*kind, "7")).collect();
        assert_eq!(all.len(), kinds.len());
        assert!(is_pseudonym(&one.of(Kind::Id, "")) && bits(&one.of(Kind::Id, "")).is_some());
        assert!(!is_pseudonym("~user-1") && !is_pseudonym(&"a".repeat(23)));
        assert!(Pseudonyms::new(&Secret::from("too short".to_owned())).is_none());
    }
}
