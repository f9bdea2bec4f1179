//! Records as messages of syslog (RFC 5424): who collects them, and what stands before each.

use std::{net::Ipv6Addr, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

/// Who collects messages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", inline)]
pub enum Collector {
    /// Whoever reads from this socket, each message a datagram.
    Unix(PathBuf),
    /// Whoever is at this host and port, each message a datagram (RFC 5426).
    Udp(String),
    /// Whoever is at this host and port, by a connection on which messages are counted (RFC 6587, section 3.4.1).
    Tcp(String),
}

impl TryFrom<String> for Collector {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let unix = |text: &str| text.strip_prefix("unix:").map(PathBuf::from).filter(|path| path.is_absolute());
        let place = |text: &str| is_place(text).then(|| text.to_owned());
        let udp = |text: &str| text.strip_prefix("udp://").and_then(place).map(Self::Udp);
        let tcp = |text: &str| text.strip_prefix("tcp://").and_then(place).map(Self::Tcp);
        let known = unix(&text).map(Self::Unix).or_else(|| udp(&text)).or_else(|| tcp(&text));
        known.ok_or_else(|| {
            format!("`{text}` collects nothing: write `unix:/dev/log`, `udp://host:514` or `tcp://host:601`")
        })
    }
}

/// Whether `text` is host and port.
fn is_place(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = || !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    in_brackets.map_or_else(is_name, |host| host.parse::<Ipv6Addr>().is_ok())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Who speaks, as syslog sorts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are named as in RFC 5424 and its implementations")]
pub enum Facility {
    User,
    Daemon,
    Auth,
    #[default]
    Authpriv,
    Local0,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}

impl Facility {
    const fn code(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Daemon => 3,
            Self::Auth => 4,
            Self::Authpriv => 10,
            Self::Local0 => 16,
            Self::Local1 => 17,
            Self::Local2 => 18,
            Self::Local3 => 19,
            Self::Local4 => 20,
            Self::Local5 => 21,
            Self::Local6 => 22,
            Self::Local7 => 23,
        }
    }
}

/// How records are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogSettings {
    /// Where to.
    pub to: Collector,
    /// As whose.
    pub facility: Facility,
    /// By what name.
    pub app_name: String,
    /// Bytes of a message at most.
    pub message_bytes_max: usize,
}

/// What stands before each record.
#[derive(Clone, Debug)]
pub struct Header {
    before_time: String,
    after_time: String,
}

/// Bytes of a time: RFC 3339, UTC, milliseconds.
const TIME_BYTES: usize = 24;

/// The severity "informational".
const INFORMATIONAL: u8 = 6;

impl Header {
    /// Of messages from the `host` and the process.
    pub fn new(settings: &SyslogSettings, host: &str, process: u32) -> Self {
        let priority = settings.facility.code().saturating_mul(8).saturating_add(INFORMATIONAL);
        let is_name = (1..=255).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic());
        let (host, name) = (if is_name { host } else { "-" }, &settings.app_name);
        Self { before_time: format!("<{priority}>1 "), after_time: format!(" {host} {name} {process} decision - ") }
    }

    /// Its length, in bytes.
    pub const fn bytes(&self) -> usize {
        self.before_time.len().saturating_add(self.after_time.len()).saturating_add(TIME_BYTES)
    }

    /// The message that a record is sent as. JSON is what it is, with no mark of UTF-8 before it (`MSG-ANY`).
    pub fn message(&self, time: &str, record: &[u8]) -> Vec<u8> {
        [self.before_time.as_bytes(), time.as_bytes(), self.after_time.as_bytes(), record].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_sockets_or_hosts_with_ports() {
        let parse = |text: &str| Collector::try_from(text.to_owned());
        assert_eq!(parse("unix:/dev/log"), Ok(Collector::Unix("/dev/log".into())));
        assert_eq!(parse("udp://logs.example:514"), Ok(Collector::Udp("logs.example:514".into())));
        assert_eq!(parse("tcp://[::1]:601"), Ok(Collector::Tcp("[::1]:601".into())));
        for text in [
            "",
            "/dev/log",
            "unix:dev/log",
            "udp://",
            "tcp://host",
            "tcp://host:0",
            "tcp://:1",
            "tcp://a/b:1",
            "tcp://a@b:1",
            "tls://host:1",
            "tcp://[::1:1",
            "tcp://host:65536",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_is_what_the_rfc_says() {
        let to = Collector::Unix("/dev/log".into());
        let settings =
            SyslogSettings { to, facility: Facility::Local3, app_name: "gate".into(), message_bytes_max: 8192 };
        let header = Header::new(&settings, "host.example", 7);
        let message = header.message("2026-01-31T12:00:00.000Z", b"{}");
        assert_eq!(message, b"<158>1 2026-01-31T12:00:00.000Z host.example gate 7 decision - {}");
        assert_eq!(header.bytes(), message.len() - 2);
        let nameless = Header::new(&settings, "a host\n", 7);
        assert!(nameless.message("t", b"").starts_with(b"<158>1 t - gate 7 decision - "));
    }

    #[test]
    fn each_facility_has_its_number() {
        use Facility::{Auth, Authpriv, Daemon, Local0, Local1, Local2, Local3, Local4, Local5, Local6, Local7, User};
        let all = [User, Daemon, Auth, Authpriv, Local0, Local1, Local2, Local3, Local4, Local5, Local6, Local7];
        // RFC 5424, table 1.
        assert_eq!(all.map(Facility::code), [1, 3, 4, 10, 16, 17, 18, 19, 20, 21, 22, 23]);
    }
}
