//! The section `records`: what decision records hold.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::otlp::{OtlpConfig, OtlpSettings};
use crate::{
    audit::{
        file::{ChainSettings, FileSettings},
        syslog::{Collector, Facility, SyslogSettings},
    },
    base::{
        files::Files,
        problem::{Problem, Problems, bounded},
        pseudonym::{KEY_BYTES_MIN, Pseudonyms},
        secret::SecretSource,
        signing::SigningKey,
        spanned::Spanned,
    },
    entities::hiding::Recording,
    snapshot::Records,
    token::claims::ClaimPath,
};

/// Names in a list of what records hold.
const NAMES_MAX: usize = 16;

/// The section `records`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecordsConfig {
    /// Whether records hold the questions put to the policies, so that `replay` and `explain` can put them again.
    /// Default false.
    pub questions: bool,
    /// Annotations of the policies that decided which records hold. Default none.
    pub annotations: Vec<Spanned<String>>,
    /// Claims of believed tokens that records hold: `claim` or `outer.inner`. Default none.
    pub claims: Vec<Spanned<String>>,
    /// Pseudonyms in place of whoever is named. Default none.
    pub pseudonyms: Option<PseudonymsConfig>,
    /// Whether records are written to stdout. Default true.
    pub stdout: Option<Spanned<bool>>,
    /// The file that records are written to. Default none.
    pub file: Option<RecordFileConfig>,
    /// To whom records are sent. Default nobody.
    pub otlp: Option<OtlpConfig>,
    /// The collector of syslog that records are sent to. Default none.
    pub syslog: Option<SyslogConfig>,
    /// What becomes of requests while records cannot be taken. Default accept_unrecorded.
    pub when_full: WhenFull,
}

/// What becomes of requests while records cannot be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// They are decided as ever; records are dropped and counted.
    #[default]
    AcceptUnrecorded,
    /// They are refused.
    Refuse,
}

/// The section `records.file`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordFileConfig {
    /// Where. Older files stand beside it, with `.1`, `.2` and so on behind the name, the youngest first.
    pub path: Spanned<PathBuf>,
    /// Bytes after which another file is begun. Default 104857600.
    pub bytes_max: Option<Spanned<u64>>,
    /// Seconds after which another file is begun. Default: none is for its age.
    pub age_max_s: Option<Spanned<u64>>,
    /// Older files that are kept. Default 10.
    pub keep: Option<Spanned<usize>>,
    /// Whether records are on the disk before they count as written. Default false.
    #[serde(default)]
    pub sync: bool,
    /// Whether records are linked to a chain, which `portcullis audit` verifies. Default false.
    #[serde(default)]
    pub chain: bool,
    /// The private key that signs the chain, in PEM: Ed25519 or P-256. Default: it is not signed.
    pub signing_key: Option<Spanned<SecretSource>>,
    /// Seconds between two signatures, while there are new records. Default 60.
    pub sign_every_s: Option<Spanned<u64>>,
}

/// The section `records.syslog`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyslogConfig {
    /// Who collects them: `unix:/dev/log`, `udp://host:514` or `tcp://host:601`.
    pub to: Spanned<Collector>,
    /// The facility of messages. Default authpriv.
    #[serde(default)]
    pub facility: Facility,
    /// The name that messages come from. Default portcullis.
    pub app_name: Option<Spanned<String>>,
    /// Bytes of a message; a record that would be longer is sent without its longest fields. Default 8192.
    pub message_bytes_max: Option<Spanned<usize>>,
}

/// Where records are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSinks {
    /// Whether to stdout.
    pub stdout: bool,
    /// And to which file.
    pub file: Option<FileSettings>,
    /// And to whom.
    pub otlp: Option<OtlpSettings>,
    /// And to which collector of syslog.
    pub syslog: Option<SyslogSettings>,
}

/// The section `records.pseudonyms`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PseudonymsConfig {
    /// The key that they are made with.
    pub key: Spanned<SecretSource>,
    /// What questions hold as it is: `context.a.b` or `Type.attribute`, with everything below. Default nothing.
    #[serde(default)]
    pub clear: Vec<Spanned<String>>,
}

impl RecordsConfig {
    pub(super) fn sinks(&self, files: &Files) -> Result<RecordSinks, Problems> {
        let stdout = self.stdout.as_ref().is_none_or(|it| it.value);
        let others = self.file.is_some() || self.syslog.is_some() || self.otlp.is_some();
        if let (false, false, Some(setting)) = (stdout, others, &self.stdout) {
            let problem = Problem::at(setting, "records would be written nowhere")
                .fix("add `file`, `syslog` or `otlp`, or remove `stdout`");
            return Err(problem.into());
        }
        let mut problems = Problems::default();
        let file = problems.keep(self.file.as_ref().map(|file| file.compile(files)).transpose());
        let syslog = problems.keep(self.syslog.as_ref().map(SyslogConfig::compile).transpose());
        let otlp = problems.keep(self.otlp.as_ref().map(|otlp| otlp.compile(files)).transpose());
        let sinks = file.zip(syslog).zip(otlp);
        problems.into_result(sinks.map(|((file, syslog), otlp)| RecordSinks { stdout, file, syslog, otlp }))
    }

    pub(super) fn compile(&self, files: &Files) -> Result<Records, Problems> {
        let mut problems = Problems::default();
        let bare = problems.keep(self.bare());
        let Some(config) = &self.pseudonyms else { return problems.into_result(bare) };
        if let Some(claim) = self.claims.first() {
            problems.push(
                Problem::at(claim, "a claim would name in the clear whom pseudonyms are to hide")
                    .fix("remove `claims`, or `pseudonyms`"),
            );
        }
        let key = problems.keep(config.key.value.read(files));
        let pseudonyms = key.and_then(|key| {
            let made = Pseudonyms::new(&key).ok_or_else(|| {
                Problem::at(&config.key, format!("the key is shorter than {KEY_BYTES_MIN} bytes"))
                    .fix("make one: `openssl rand -hex 32`")
            });
            problems.keep(made)
        });
        let mut clear = Vec::new();
        for text in &config.clear {
            let path: Vec<String> = text.value.split('.').map(str::to_owned).collect();
            if path.len() < 2 || path.iter().any(String::is_empty) {
                problems.push(
                    Problem::at(text, "not the place of a value").fix("write `context.token.email` or `UserData.size`"),
                );
            }
            clear.push(path);
        }
        if let (false, Some(first)) = (self.questions, config.clear.first()) {
            problems.push(
                Problem::at(first, "`records.pseudonyms.clear` is about questions, and records hold none")
                    .fix("set `questions: true`, or remove `clear`"),
            );
        }
        let recording = pseudonyms.map(|pseudonyms| Recording { pseudonyms: Some(pseudonyms), clear });
        problems.into_result(recording.zip(bare).map(|(recording, bare)| Records { recording, ..bare }))
    }

    /// But for pseudonyms.
    fn bare(&self) -> Result<Records, Problems> {
        let mut problems = Problems::default();
        for (names, what) in [(&self.annotations, "annotations"), (&self.claims, "claims")] {
            for (index, name) in names.iter().enumerate() {
                if names.iter().take(index).any(|earlier| earlier.value == name.value) {
                    problems.push(Problem::at(name, "this stands twice").fix("remove one"));
                }
            }
            if let Some(beyond) = names.get(NAMES_MAX) {
                problems.push(Problem::at(beyond, format!("more than {NAMES_MAX} {what}")).fix("record fewer"));
            }
        }
        for name in &self.annotations {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.value.is_empty() || !name.value.chars().all(is_name) {
                problems.push(Problem::at(name, "not the name of an annotation").fix("write `owner` for `@owner(…)`"));
            }
        }
        let claims = self.claims.iter().filter_map(|claim| {
            let none = || Problem::at(claim, "not a claim").fix("write `claim` or `outer.inner`");
            let path = problems.keep(ClaimPath::parse(&claim.value).ok_or_else(none))?;
            Some((claim.value.clone(), path))
        });
        let claims = claims.collect();
        problems.into_result(Some(Records {
            questions: self.questions,
            required: self.when_full == WhenFull::Refuse,
            recording: Recording::default(),
            annotations: self.annotations.iter().map(|name| name.value.clone()).collect(),
            claims,
        }))
    }
}

impl RecordFileConfig {
    fn compile(&self, files: &Files) -> Result<FileSettings, Problems> {
        let mut problems = Problems::default();
        let path = problems.keep(files.path(&self.path.value).map_err(|error| Problem::unreadable(&self.path, &error)));
        let bytes_max =
            problems.keep(bounded(self.bytes_max.as_ref(), "bytes_max", 104_857_600, 65_536..=1_099_511_627_776));
        let age = self.age_max_s.as_ref();
        let age = problems.keep(age.map(|_| bounded(age, "age_max_s", 1, 1..=31_536_000)).transpose());
        let keep = problems.keep(bounded(self.keep.as_ref(), "keep", 10, 0..=10_000));
        let every = problems.keep(bounded(self.sign_every_s.as_ref(), "sign_every_s", 60, 1..=86_400));
        if let (false, Some(key)) = (self.chain, &self.signing_key) {
            problems.push(Problem::at(key, "a key for a chain that is not made").fix("add `chain: true`"));
        }
        if let (None, Some(every)) = (&self.signing_key, &self.sign_every_s) {
            problems.push(Problem::at(every, "how often is signed what is not").fix("add `signing_key`"));
        }
        let key = self.signing_key.as_ref().and_then(|source| {
            let key = problems.keep(source.value.read(files))?;
            if SigningKey::of(key.expose()).is_none() {
                problems.push(
                    Problem::at(source, "not a private key of Ed25519 or P-256 in PEM (PKCS#8)")
                        .fix("make one: `openssl genpkey -algorithm ed25519`"),
                );
            }
            Some(key)
        });
        let settings = (|| {
            let sign_every = Duration::from_secs(every?);
            Some(FileSettings {
                path: path?,
                bytes_max: bytes_max?,
                age_max: age?.map(Duration::from_secs),
                keep: keep?,
                sync: self.sync,
                chain: self.chain.then_some(ChainSettings { key, sign_every }),
            })
        })();
        problems.into_result(settings)
    }
}

/// Bytes of the longest message that is a datagram.
const DATAGRAM_BYTES_MAX: usize = 65_000;

/// Bytes of the name that messages come from (RFC 5424, section 6.2.5).
const APP_NAME_BYTES_MAX: usize = 48;

impl SyslogConfig {
    fn compile(&self) -> Result<SyslogSettings, Problems> {
        let mut problems = Problems::default();
        let longest = match self.to.value {
            Collector::Unix(_) | Collector::Udp(_) => DATAGRAM_BYTES_MAX,
            Collector::Tcp(_) => 4_194_304,
        };
        let max = self.message_bytes_max.as_ref();
        let message_bytes_max = problems.keep(bounded(max, "message_bytes_max", 8192, 2048..=longest));
        if let Some(name) = &self.app_name {
            let is_name = (1..=APP_NAME_BYTES_MAX).contains(&name.value.len());
            if !is_name || !name.value.bytes().all(|byte| byte.is_ascii_graphic()) {
                problems.push(
                    Problem::at(name, format!("not a name of 1 to {APP_NAME_BYTES_MAX} visible characters of ASCII"))
                        .fix("write `portcullis`"),
                );
            }
        }
        let app_name = self.app_name.as_ref().map_or_else(|| "portcullis".to_owned(), |name| name.value.clone());
        let (to, facility) = (self.to.value.clone(), self.facility);
        problems.into_result(message_bytes_max.map(|max| SyslogSettings {
            to,
            facility,
            app_name,
            message_bytes_max: max,
        }))
    }
}
