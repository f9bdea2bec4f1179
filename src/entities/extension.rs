//! Values of Cedar's extension types in one form each: `1.5` and `1.50` are one decimal, `10.0.0.1` and `10.0.0.1/32` one
//! range of addresses.

use std::net::IpAddr;

use chrono::{DateTime, NaiveDate};

/// The functions that make values of extension types.
pub const FUNCTIONS: [&str; 4] = ["ip", "decimal", "datetime", "duration"];

/// The one form of what `function` makes of `argument`; as it is where it makes nothing of it.
pub(super) fn normal(function: &str, argument: &str) -> String {
    let normal = match function {
        "ip" => address(argument),
        "decimal" => decimal(argument),
        "datetime" => moment(argument),
        "duration" => duration(argument),
        _ => None,
    };
    normal.unwrap_or_else(|| argument.to_owned())
}

/// The address and how many bits of it count.
fn address(text: &str) -> Option<String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits: u8 = bits.map_or(Ok(all), str::parse).ok()?;
    Some(format!("{address}/{bits}"))
}

/// With the four places that Cedar keeps.
fn decimal(text: &str) -> Option<String> {
    let (whole, part) = text.split_once('.')?;
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let zero = whole == "0" && part.bytes().all(|digit| digit == b'0');
    Some(format!("{}{whole}.{part:0<4}", if zero { "" } else { sign }))
}

/// Milliseconds since 1970.
fn moment(text: &str) -> Option<String> {
    let midnight = || Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)?.and_utc());
    let with_offset = || {
        let text = text.strip_suffix('Z').map_or_else(|| text.to_owned(), |text| format!("{text}+0000"));
        Some(DateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f%z").ok()?.to_utc())
    };
    Some(midnight().or_else(with_offset)?.timestamp_millis().to_string())
}

/// Milliseconds.
fn duration(text: &str) -> Option<String> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1_i128, text), |rest| (-1, rest));
    let mut sum = 0_i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let units = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (unit, milliseconds) = units.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        sum = sum.checked_add(number.parse::<i128>().ok()?.checked_mul(milliseconds)?)?;
        rest = after.strip_prefix(unit)?;
    }
    Some(sum.checked_mul(sign)?.to_string())
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use cedar_policy::{Context, Entities, EvalResult, Expression, Request, eval_expression};
    use proptest::prelude::*;

    use super::*;

    /// What Cedar says of two texts.
    fn equal(function: &str, one: &str, other: &str) -> Option<bool> {
        let text = format!("{function}(\"{one}\") == {function}(\"{other}\")");
        let uid = || "A::\"a\"".parse().unwrap();
        let request = Request::new(uid(), "Action::\"a\"".parse().unwrap(), uid(), Context::empty(), None).unwrap();
        match eval_expression(&request, &Entities::empty(), &Expression::from_str(&text).ok()?) {
            Ok(EvalResult::Bool(is)) => Some(is),
            _ => None,
        }
    }

    fn texts(function: &str) -> &'static [&'static str] {
        match function {
            "ip" => &[
                "10.0.0.1",
                "10.0.0.1/32",
                "10.0.0.0/8",
                "10.0.0.1/8",
                "::1",
                "0:0:0:0:0:0:0:1",
                "::1/128",
                "fd00::/8",
            ],
            "decimal" => &["1.5", "1.50", "1.5000", "01.5", "-1.5", "0.0", "-0.0", "-0.1", "00.1000", "10.05"],
            "datetime" => &[
                "2026-01-01",
                "2026-01-01T00:00:00Z",
                "2026-01-01T00:00:00.000Z",
                "2026-01-01T01:00:00+0100",
                "2026-01-01T01:00:00.001+0100",
                "2025-12-31T23:00:00-0100",
            ],
            _ => &["1d", "24h", "23h60m", "86400s", "86400000ms", "-1d", "-24h", "1s1ms", "1001ms", "1m", "60s"],
        }
    }

    #[test]
    fn two_texts_have_one_form_where_cedar_takes_them_for_equal() {
        for function in FUNCTIONS {
            for one in texts(function) {
                for other in texts(function) {
                    let equal = equal(function, one, other).expect(one);
                    assert_eq!(normal(function, one) == normal(function, other), equal, "{function} {one} {other}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn decimals_and_durations_have_one_form_too(a in "-?[0-9]{1,3}\\.[0-9]{1,4}", b in "-?[0-9]{1,3}\\.[0-9]{1,4}",
            c in "-?([0-9]{1,2}h)?([0-9]{1,3}m)?[0-9]{1,4}s", d in "-?([0-9]{1,2}h)?([0-9]{1,3}m)?[0-9]{1,4}s") {
            for (function, one, other) in [("decimal", &a, &b), ("duration", &c, &d)] {
                if let Some(equal) = equal(function, one, other) {
                    prop_assert_eq!(normal(function, one) == normal(function, other), equal, "{} {}", one, other);
                }
            }
        }
    }
}
