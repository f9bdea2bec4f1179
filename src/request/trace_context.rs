//! The trace that a request belongs to, as W3C Trace Context has it: read to the letter, or not at all.

use http::{HeaderMap, HeaderName};

/// Where it is said.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Where tracing systems say what is theirs of it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where callers add to it what is theirs (W3C Baggage).
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Bytes of `tracestate` that are passed on, as many as everybody has to (section 3.3.1.5).
const STATE_BYTES_MAX: usize = 512;

/// Members of `tracestate`.
const STATE_MEMBERS_MAX: usize = 32;

/// Bytes of a key, or a value, of `tracestate`.
const STATE_PART_BYTES_MAX: usize = 256;

/// Bytes of `traceparent` in version 00, with which later versions begin too.
const PARENT_BYTES: usize = 55;

/// A caller's trace, and the place in it from which the request was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Names the trace; not zero.
    pub trace: u128,
    /// Names the caller's span; not zero.
    pub span: u64,
    /// Whether the caller may have recorded it.
    pub sampled: bool,
    /// What tracing systems say; empty where that is nothing.
    pub state: String,
}

impl TraceContext {
    /// That of a request with these `headers`; none where they do not say it, or not well. What is said badly of tracing
    /// systems is left out alone (section 3.3).
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (trace, span, sampled) = parent(value.to_str().ok()?)?;
        Some(Self { trace, span, sampled, state: state(headers).unwrap_or_default() })
    }
}

/// A trace, a span of it, and whether it is recorded, in version 00.
pub fn traceparent(trace: u128, span: u64, sampled: bool) -> String {
    format!("00-{trace:032x}-{span:016x}-0{}", u8::from(sampled))
}

fn parent(text: &str) -> Option<(u128, u64, bool)> {
    let (known, more) = text.split_at_checked(PARENT_BYTES)?;
    let mut parts = known.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let fits = parts.next().is_none() && more.is_empty() | (version != "00" && more.starts_with('-'));
    let version = hex(version, 2)?;
    let (trace, span, flags) = (hex(trace, 32)?, hex(span, 16)?, hex(flags, 2)?);
    let is_valid = fits && version != 0xff && trace != 0 && span != 0;
    is_valid.then_some((trace, u64::try_from(span).ok()?, flags & 1 == 1))
}

/// A number in so many hexadecimal digits, in lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn state(headers: &HeaderMap) -> Option<String> {
    let mut members: Vec<(&str, &str)> = Vec::new();
    let mut text = String::new();
    for value in headers.get_all(TRACESTATE) {
        for member in value.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            let twice = members.iter().any(|(other, _)| *other == key);
            let separator = if text.is_empty() { "" } else { "," };
            let length = text.len().saturating_add(separator.len()).saturating_add(member.len());
            if !is_key(key)
                || !is_value(value)
                || twice
                || members.len() == STATE_MEMBERS_MAX
                || length > STATE_BYTES_MAX
            {
                return None;
            }
            members.push((key, value));
            text.extend([separator, member]);
        }
    }
    Some(text)
}

fn is_key(key: &str) -> bool {
    let is_letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=STATE_PART_BYTES_MAX).contains(&key.len())
        && key.bytes().next().is_some_and(is_letter)
        && key.bytes().all(|c| is_letter(c) || matches!(c, b'_' | b'-' | b'*' | b'/' | b'@'))
}

fn is_value(value: &str) -> bool {
    (1..=STATE_PART_BYTES_MAX).contains(&value.len()) && value.bytes().all(|c| matches!(c, 0x20..=0x7e) && c != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn of(parents: &[&str], states: &[&str]) -> Option<TraceContext> {
        let parents = parents.iter().map(|value| (TRACEPARENT, value.parse().unwrap()));
        TraceContext::of(&parents.chain(states.iter().map(|value| (TRACESTATE, value.parse().unwrap()))).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        ))
    }

    #[test]
    fn a_trace_is_read_to_the_letter() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let read = of(&[&good], &[]).unwrap();
        assert_eq!(traceparent(read.trace, read.span, read.sampled), good);
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            assert_eq!(of(&[&format!("00-{TRACE}-{SPAN}-{flags}")], &[]).unwrap().sampled, sampled, "{flags}");
        }
        for later in [format!("cc-{TRACE}-{SPAN}-01"), format!("01-{TRACE}-{SPAN}-01-what-comes")] {
            assert_eq!(of(&[&later], &[]), Some(read.clone()), "{later}");
        }
        for bad in [
            String::new(),
            TRACE.into(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}0{SPAN}-01"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("0é{}", &good[3..]),
            format!(" {good}"),
            format!("00-{}-{SPAN}{}-01", &TRACE[1..], 0),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, http::HeaderValue::from_bytes(bad.as_bytes()).unwrap());
            assert_eq!(TraceContext::of(&headers), None, "{bad}");
        }
        assert_eq!(of(&[], &[]), None);
        assert_eq!(of(&[&good, &good], &[]), None, "said twice");
    }

    #[test]
    fn what_is_said_badly_of_tracing_systems_is_left_out_and_the_trace_goes_on() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let state = |states: &[&str]| of(&[&good], states).unwrap().state;
        assert_eq!(state(&["a=1, b@c=2 x", "", " ,d/e=3"]), "a=1,b@c=2 x,d/e=3");
        let many = |members: usize| (0..members).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&[&many(32)]), many(32));
        for bad in [
            "a",
            "=1",
            "a=",
            "A=1",
            "a=1=2",
            "a=1,a=2",
            "a b=1",
            "_a=1",
            "a=\t1\t2",
            &many(33),
            &format!("a={}", "v".repeat(257)),
            &format!("{}=v", "k".repeat(257)),
            &format!("a={0},b={0},c={0}", "v".repeat(200)),
        ] {
            assert_eq!(state(&["z=0", bad]), "", "{bad}");
        }
    }
}
