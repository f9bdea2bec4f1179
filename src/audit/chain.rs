//! A chain over decision records: each line tells its number, and a digest of itself and all lines before it. Who changes,
//! drops, adds or moves a line has to make every later line anew; signed lines keep him from that.
//!
//! A line is the record's JSON object with two more members at its end, `"seq":N,"hash":"H"`, where H is the SHA-256, in base64url, of the
//! digest before it (32 bytes) and of the line up to `,"hash"`. Beside records there are lines of the chain's own, told by their member
//! `chain`: `opened` begins a file and repeats the digest before it (`prev`); `signed` holds a signature of everything before it
//! (over [`signed_text`]); `torn` stands behind what a crash has left of a line, with its digest; `dropped` counts records that could not be
//! written.

use aws_lc_rs::error::Unspecified;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::base::{
    digest::sha256,
    signing::{PublicKey, SigningKey},
};

/// SHA-256.
pub type Digest = [u8; 32];

/// The end of a chain, to which lines are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The number of the next line.
    pub seq: u64,
    /// The digest of all lines before it.
    pub head: Digest,
}

/// Where a chain begins.
pub const BEGIN: Chain = Chain { seq: 0, head: [0; 32] };

/// What comes before a line's digest.
const HASH: &[u8] = br#","hash":""#;

impl Chain {
    /// Adds `line`, a JSON object without a line break.
    pub fn link(&mut self, line: &mut Vec<u8>) {
        let bare = line.pop();
        debug_assert_eq!(bare, Some(b'}'), "a JSON object");
        let comma = if line.len() > 1 { "," } else { "" };
        line.extend_from_slice(format!("{comma}\"seq\":{}", self.seq).as_bytes());
        self.head = after(&self.head, line);
        self.seq = self.seq.saturating_add(1);
        line.extend_from_slice(HASH);
        line.extend_from_slice(text(&self.head).as_bytes());
        line.extend_from_slice(br#""}"#);
    }

    /// The line that begins a file.
    pub fn opened(&self, time: &str) -> Vec<u8> {
        format!(r#"{{"time":"{time}","chain":"opened","prev":"{}"}}"#, text(&self.head)).into_bytes()
    }

    /// The line that says what a crash has left before it.
    pub fn torn(&self, time: &str, rest: &[u8]) -> Vec<u8> {
        format!(r#"{{"time":"{time}","chain":"torn","rest":"{}"}}"#, text(&sha256(rest))).into_bytes()
    }

    /// The line that says that so many records could not be written.
    pub fn dropped(&self, time: &str, records: u64) -> Vec<u8> {
        format!(r#"{{"time":"{time}","chain":"dropped","records":{records}}}"#).into_bytes()
    }

    /// The line that vouches for everything before it.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn signed(&self, time: &str, signer: &SigningKey) -> Result<Vec<u8>, Unspecified> {
        let signature = signer.sign(signed_text(self).as_bytes())?;
        Ok(format!(r#"{{"time":"{time}","chain":"signed","signature":"{signature}"}}"#).into_bytes())
    }
}

/// What is signed: that a chain is this long, and that this is its digest.
pub fn signed_text(chain: &Chain) -> String {
    format!("portcullis records\n{}\n{}", chain.seq, text(&chain.head))
}

/// What is wrong with a line of a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is no line of a chain.
    #[error("not a line of a chain: it does not end in `\"seq\":…,\"hash\":\"…\"}}`")]
    Unlinked,
    /// It says another digest than it has, or follows another line than the one before it.
    #[error("the line, or one before it, was changed: its digest is not the one that it says")]
    Altered,
    /// A line before it is missing, or was moved or repeated.
    #[error("line {found} of the chain stands where line {expected} belongs")]
    Misplaced {
        /// The number that belongs there.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// A file does not begin as one does.
    #[error("not the beginning of a file: `\"chain\":\"opened\"` is missing")]
    Unopened,
    /// Its signature is not by a key that was given.
    #[error("the signature is not by the key")]
    Unsigned,
    /// Half a line, without the word of it that is written after a crash.
    #[error("half a line, and nothing says that a crash left it")]
    Torn,
}

/// What a chain holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Decision records.
    pub records: u64,
    /// Records that could not be written, by its own word.
    pub dropped: u64,
    /// Signatures.
    pub signatures: u64,
    /// Lines after the last signature, for which nobody vouches yet.
    pub since_signature: u64,
}

/// Reads a chain, line by line, file by file.
#[derive(Debug)]
pub struct Reader<'a> {
    verifier: Option<&'a PublicKey>,
    /// The end of what was read; before the first line unknown.
    chain: Option<Chain>,
    /// Whether the next line begins a file.
    begins: bool,
    /// What is no line, if a crash has left it.
    torn: Option<Digest>,
    account: Account,
}

/// What a line says of the chain.
#[derive(Deserialize)]
struct Said {
    chain: Option<String>,
    prev: Option<String>,
    signature: Option<String>,
    rest: Option<String>,
    records: Option<u64>,
    seq: u64,
}

impl<'a> Reader<'a> {
    /// One that holds signatures to `verifier`, or passes over them where there is none.
    pub fn new(verifier: Option<&'a PublicKey>) -> Self {
        Self { verifier, chain: None, begins: true, torn: None, account: Account::default() }
    }

    /// The next line is the first of another file.
    ///
    /// # Errors
    /// Where the one before ends in half a line.
    pub const fn begin_file(&mut self) -> Result<(), Fault> {
        self.begins = true;
        self.end()
    }

    /// There is no other line.
    ///
    /// # Errors
    /// Where the last one is half a line.
    pub const fn end(&self) -> Result<(), Fault> {
        if self.torn.is_some() { Err(Fault::Torn) } else { Ok(()) }
    }

    /// What was read so far.
    pub const fn account(&self) -> Account {
        self.account
    }

    /// Where what was read ends.
    pub const fn chain(&self) -> Option<Chain> {
        self.chain
    }

    /// Reads a line, without its line break.
    ///
    /// # Errors
    /// The [`Fault`] that it shows.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some((covered, hash)) = taken_apart(line) else {
            // What a crash has left is told of by the very next line.
            if self.begins || self.torn.is_some() {
                return Err(Fault::Unlinked);
            }
            self.torn = Some(sha256(line));
            return Ok(());
        };
        let said: Said = serde_json::from_slice(line).map_err(|_| Fault::Unlinked)?;
        let kind = said.chain.as_deref();
        if std::mem::take(&mut self.begins) {
            let prev =
                said.prev.as_deref().and_then(digest).filter(|_| kind == Some("opened")).ok_or(Fault::Unopened)?;
            let chain = *self.chain.get_or_insert(Chain { seq: said.seq, head: prev });
            if chain.head != prev && chain.seq == said.seq {
                return Err(Fault::Altered);
            }
        }
        let chain = self.chain.ok_or(Fault::Unopened)?;
        if said.seq != chain.seq {
            return Err(Fault::Misplaced { expected: chain.seq, found: said.seq });
        }
        if after(&chain.head, covered) != hash {
            return Err(Fault::Altered);
        }
        match (self.torn.take(), kind) {
            (None, _) => {}
            (Some(torn), Some("torn")) if said.rest.as_deref().and_then(digest) == Some(torn) => {}
            (Some(_), _) => return Err(Fault::Torn),
        }
        self.account.since_signature = self.account.since_signature.saturating_add(1);
        match (kind, self.verifier) {
            (None, _) => self.account.records = self.account.records.saturating_add(1),
            (Some("dropped"), _) => {
                self.account.dropped = self.account.dropped.saturating_add(said.records.unwrap_or(0));
            }
            (Some("signed"), verifier) => {
                let signature = said.signature.unwrap_or_default();
                if verifier.is_some_and(|verifier| !verifier.verifies(signed_text(&chain).as_bytes(), &signature)) {
                    return Err(Fault::Unsigned);
                }
                self.account.signatures = self.account.signatures.saturating_add(1);
                self.account.since_signature = 0;
            }
            _ => {}
        }
        self.chain = Some(Chain { seq: chain.seq.saturating_add(1), head: hash });
        Ok(())
    }
}

/// What a line's digest covers, and that digest.
pub fn taken_apart(line: &[u8]) -> Option<(&[u8], Digest)> {
    let line = line.strip_suffix(br#""}"#)?;
    let start = line.len().checked_sub(43)?;
    let (covered, hash) = line.split_at_checked(start)?;
    Some((covered.strip_suffix(HASH)?, digest(std::str::from_utf8(hash).ok()?)?))
}

fn after(head: &Digest, covered: &[u8]) -> Digest {
    sha256(&[&head[..], covered].concat())
}

fn text(digest: &Digest) -> String {
    URL_SAFE_NO_PAD.encode(digest)
}

fn digest(text: &str) -> Option<Digest> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The keys of RFC 8032 section 7.1.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    const OTHER: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n-----END PUBLIC KEY-----\n";
    const TIME: &str = "2026-11-18T11:08:20.000Z";

    /// Two files of a chain, with a signature every few lines.
    fn files(records: usize, every: usize) -> [Vec<Vec<u8>>; 2] {
        let signer = SigningKey::of(PRIVATE).unwrap();
        let mut chain = BEGIN;
        let add = |chain: &mut Chain, file: &mut Vec<Vec<u8>>, mut line: Vec<u8>| {
            chain.link(&mut line);
            file.push(line);
        };
        [0, 1].map(|number| {
            let mut file = Vec::new();
            let opened = chain.opened(TIME);
            add(&mut chain, &mut file, opened);
            for record in 0..records {
                add(&mut chain, &mut file, format!(r#"{{"file":{number},"record":{record}}}"#).into_bytes());
                if record % every == 0 {
                    let signed = chain.signed(TIME, &signer).unwrap();
                    add(&mut chain, &mut file, signed);
                }
            }
            file
        })
    }

    fn read(files: &[Vec<Vec<u8>>], verifier: Option<&PublicKey>) -> Result<Account, Fault> {
        let mut reader = Reader::new(verifier);
        for file in files {
            reader.begin_file()?;
            file.iter().try_for_each(|line| reader.line(line))?;
        }
        reader.end().map(|()| reader.account())
    }

    #[test]
    fn a_chain_that_nobody_touched_is_whole() {
        let files = files(10, 4);
        let verifier = PublicKey::of(PUBLIC).unwrap();
        let whole = Account { records: 20, dropped: 0, signatures: 6, since_signature: 1 };
        assert_eq!(read(&files, Some(&verifier)), Ok(whole));
        assert_eq!(read(&files, None), Ok(whole));
        // A file says what was before it, so that it can be read without that.
        assert_eq!(read(&files[1..], Some(&verifier)).unwrap().records, 10);
        assert_eq!(read(&files, Some(&PublicKey::of(OTHER).unwrap())), Err(Fault::Unsigned));
        assert_eq!(read(&[files[1].clone(), files[0].clone()], None), Err(Fault::Misplaced { expected: 28, found: 0 }));
    }

    #[test]
    fn each_line_is_json_with_two_members_more() {
        let mut chain = BEGIN;
        for line in ["{}", r#"{"a":"}"}"#] {
            let mut linked = line.as_bytes().to_vec();
            chain.link(&mut linked);
            let json: serde_json::Value = serde_json::from_slice(&linked).unwrap();
            assert_eq!(json["seq"], chain.seq - 1);
            assert_eq!(json["hash"].as_str().map(str::len), Some(43));
        }
    }

    #[test]
    fn what_a_crash_leaves_of_a_line_is_told_of_and_nothing_else_is_let_pass() {
        let [mut file, _] = files(3, 100);
        let mut reader = Reader::new(None);
        reader.begin_file().unwrap();
        file.iter().for_each(|line| reader.line(line).unwrap());
        let mut chain = reader.chain().unwrap();
        let rest = br#"{"record":"ha"#;
        assert_eq!(reader.line(rest), Ok(()));
        assert_eq!(reader.end(), Err(Fault::Torn));
        let mut told = chain.torn(TIME, rest);
        chain.link(&mut told);
        file.extend([rest.to_vec(), told]);
        assert_eq!(read(&[file.clone()], None).unwrap().records, 3);
        let index = file.len() - 2;
        file[index][4] ^= 1;
        assert_eq!(read(&[file.clone()], None), Err(Fault::Torn));
        file.remove(index + 1);
        assert_eq!(read(&[file], None), Err(Fault::Torn));
    }

    #[test]
    fn only_keys_that_sign_records_are_taken() {
        assert!(SigningKey::of(PUBLIC).is_none() && PublicKey::of(PRIVATE).is_none() && SigningKey::of("").is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_one_line_is_found(at in 1_usize..40, byte in any::<usize>(), bit in 0_u32..8, how in 0..6) {
            let good = files(16, 3);
            let mut lines: Vec<_> = good.concat();
            let at = at % (lines.len() - 1);
            match how {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at].clone()),
                2 => lines.swap(at, at + 1),
                3 => {
                    let byte = byte % lines[at].len();
                    lines[at][byte] ^= 1 << bit;
                }
                4 => lines.insert(at, br#"{"record":"forged"}"#.to_vec()),
                // Whoever knows how makes a line that follows from the one before; the next one gives it away.
                _ => {
                    let mut reader = Reader::new(None);
                    reader.begin_file().unwrap();
                    for (index, line) in lines[..at].iter().enumerate() {
                        if index == good[0].len() {
                            reader.begin_file().unwrap();
                        }
                        reader.line(line).unwrap();
                    }
                    let mut chain = reader.chain().unwrap_or(BEGIN);
                    let mut forged = if lines[at].windows(8).any(|it| it == br#""opened""#) { chain.opened("x") } else { b"{}".to_vec() };
                    chain.link(&mut forged);
                    lines[at] = forged;
                }
            }
            // Where files were split does not move.
            let second = lines.iter().skip(1).position(|line| line.windows(8).any(|it| it == br#""opened""#));
            let files = match second {
                Some(second) => vec![lines[..=second].to_vec(), lines[second + 1..].to_vec()],
                None => vec![lines],
            };
            prop_assert!(read(&files, Some(&PublicKey::of(PUBLIC).unwrap())).is_err());
        }
    }
}
