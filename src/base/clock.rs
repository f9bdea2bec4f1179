//! Time as an argument: nothing in the house reads the clock but through [`Clock`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A moment, as the time since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The latest moment a NumericDate may name: the last second of the year 9999.
    pub const MAX: Self = Self(Duration::from_secs(253_402_300_799));

    /// The moment that lies `duration` before, or the epoch.
    pub const fn earlier(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }

    /// `seconds` after the Unix epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A NumericDate (RFC 7519 section 2), integer or fraction; `None` when it is negative, not finite or
    /// later than [`Timestamp::MAX`].
    pub fn from_numeric_date(seconds: f64) -> Option<Self> {
        let since_epoch = Duration::try_from_secs_f64(seconds).ok()?;
        Some(Self(since_epoch)).filter(|at| *at <= Self::MAX)
    }

    /// This moment, `by` later; never past the representable range.
    pub const fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// How long after `earlier` this is; nothing when it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since the Unix epoch.
    pub const fn seconds(self) -> u64 {
        self.0.as_secs()
    }

    /// Nanoseconds since the Unix epoch.
    pub fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A moment in RFC 3339, with whatever offset.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        let milliseconds = u64::try_from(at.timestamp_millis()).ok()?;
        Some(Self(Duration::from_millis(milliseconds))).filter(|at| *at <= Self::MAX)
    }

    /// As RFC 3339 in UTC with milliseconds, for records.
    pub fn rfc3339(self) -> String {
        i64::try_from(self.0.as_millis())
            .ok()
            .and_then(chrono::DateTime::from_timestamp_millis)
            .map_or_else(String::new, |at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = || D::Error::custom(format!("`{text}` is no moment in RFC 3339, as in `2026-11-22T10:00:00Z`"));
        Self::parse_rfc3339(&text).ok_or_else(expected)
    }
}

/// Where the present comes from.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the argument comes from")]
    fn now(&self) -> Timestamp {
        Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_dates_outside_the_calendar_are_not_moments() {
        for absurd in [-1.0, f64::NAN, f64::INFINITY, 1e300, 253_402_300_800.0] {
            assert_eq!(Timestamp::from_numeric_date(absurd), None, "{absurd}");
        }
        assert_eq!(Timestamp::from_numeric_date(1.9).map(Timestamp::seconds), Some(1));
    }

    #[test]
    fn a_moment_is_read_with_whatever_offset() {
        let at = |text| Timestamp::parse_rfc3339(text).map(Timestamp::seconds);
        assert_eq!(at("2026-11-18T11:06:40Z"), Some(1_795_000_000));
        assert_eq!(at("2026-11-18T12:06:40.5+01:00"), Some(1_795_000_000));
        for none in ["", "2026-11-18", "1795000000", "1969-12-31T23:59:59Z", "+10000-01-01T00:00:00Z"] {
            assert_eq!(at(none), None, "{none}");
        }
    }

    #[test]
    fn a_moment_is_written_in_utc_with_milliseconds() {
        assert_eq!(Timestamp::from_seconds(1_795_000_000).rfc3339(), "2026-11-18T11:06:40.000Z");
    }
}
