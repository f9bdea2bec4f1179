//! Where a request comes from when proxies stand in front of the gate: what they say of it is believed of those alone that
//! the operator names, and of nobody by default.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::RequestError;
use crate::base::{
    problem::{Problem, Problems},
    spanned::Spanned,
};

/// Proxies that one request may have passed.
const PASSED_MAX: usize = 32;

/// The section `trusted_proxies`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedProxiesConfig {
    /// Addresses and networks (`10.0.0.0/8`) of the proxies.
    pub addresses: Spanned<Vec<Spanned<String>>>,
    /// Where they say whom they got a request from. Default `x_forwarded_for`.
    #[serde(default)]
    pub header: Told,
}

/// The header by which proxies say whom they got a request from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// `X-Forwarded-For`
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
}

/// The proxies that are believed; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    told: Told,
}

impl TrustedProxies {
    /// Compiles the section.
    ///
    /// # Errors
    /// A [`Problem`] for each address that cannot be believed.
    pub fn compile(config: Option<&TrustedProxiesConfig>) -> Result<Self, Problems> {
        let Some(config) = config else { return Ok(Self::default()) };
        let mut problems = Problems::default();
        if config.addresses.value.is_empty() {
            problems
                .push(Problem::at(&config.addresses, "no address of a proxy").fix("name one, or remove the section"));
        }
        let network = |text: &Spanned<String>| {
            let parsed = text.value.parse().or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
            let network = parsed.map_err(|_| {
                Problem::at(text, format!("`{}` is not an address or a network", text.value)).fix("write `10.0.0.0/8`")
            })?;
            match network.prefix_len() {
                0 => Err(Problem::at(text, "everybody would be believed").fix("name the addresses of your proxies")),
                _ => Ok(network.trunc()),
            }
        };
        let networks = config.addresses.value.iter().filter_map(|text| problems.keep(network(text))).collect();
        problems.into_result(Some(Self { networks, told: config.header }))
    }

    /// The address that a request comes from, which came to us from `peer`: the last that no trusted proxy has.
    ///
    /// # Errors
    /// [`RequestError::ForwardedInvalid`], where a trusted proxy says what is no address, or there is no end to them.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, RequestError> {
        let peer = peer.to_canonical();
        if !self.has(peer) {
            return Ok(peer);
        }
        let name = match self.told {
            Told::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Told::Forwarded => header::FORWARDED,
        };
        let mut client = peer;
        let values = headers.get_all(name).iter().rev();
        let mut passed = 0_usize;
        for value in values {
            let value = value.to_str().map_err(|_| RequestError::ForwardedInvalid)?;
            for element in elements(value).into_iter().rev() {
                passed = passed.saturating_add(1);
                let address = match self.told {
                    Told::XForwardedFor => address(element.trim()),
                    Told::Forwarded => forwarded_for(element),
                };
                client = address.filter(|_| passed <= PASSED_MAX).ok_or(RequestError::ForwardedInvalid)?;
                if !self.has(client) {
                    return Ok(client);
                }
            }
        }
        Ok(client)
    }

    /// Whether this is the address of one of them.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// The elements of a list (RFC 9110 section 5.6.1): a `,` inside quotes ends none.
fn elements(value: &str) -> Vec<&str> {
    let mut quoted = false;
    value
        .split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
        .collect()
}

/// `for` of an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut named = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, node) = named.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    match node.strip_prefix('"') {
        Some(quoted) => address(quoted.strip_suffix('"')?),
        None => address(node),
    }
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse::<IpAddr>().ok();
    let address = bare().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(told: Told) -> TrustedProxies {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
        TrustedProxies { networks: networks.into(), told }
    }

    fn client(told: Told, peer: &str, values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            let name = if told == Told::Forwarded { "forwarded" } else { "x-forwarded-for" };
            headers.append(name, value.parse().unwrap());
        }
        proxies(told).client(peer.parse().unwrap(), &headers).ok().map(|ip| ip.to_string())
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        for (peer, values, is) in [
            ("192.0.2.1", &["203.0.113.9"][..], Some("192.0.2.1")),
            ("10.0.0.1", &[], Some("10.0.0.1")),
            ("10.0.0.1", &["203.0.113.9"], Some("203.0.113.9")),
            ("::ffff:10.0.0.1", &["203.0.113.9"], Some("203.0.113.9")),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"], Some("203.0.113.9")),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9", "10.0.0.2"], Some("203.0.113.9")),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            ("10.0.0.1", &["<script>, 203.0.113.9"], Some("203.0.113.9")),
            ("10.0.0.1", &["203.0.113.9:4711"], Some("203.0.113.9")),
            ("fd00::1", &["[2001:db8::1]:4711"], Some("2001:db8::1")),
            ("fd00::1", &["2001:db8::1"], Some("2001:db8::1")),
            ("10.0.0.1", &["203.0.113.9, "], None),
            ("10.0.0.1", &["unknown"], None),
            ("10.0.0.1", &["203.0.113.9, 10.0.0.2, evil"], None),
        ] {
            assert_eq!(client(Told::XForwardedFor, peer, values).as_deref(), is, "{peer} {values:?}");
        }
        let endless = vec!["10.0.0.2"; PASSED_MAX + 1].join(",");
        assert_eq!(client(Told::XForwardedFor, "10.0.0.1", &[&endless]), None);
        for (values, is) in [
            (&["for=203.0.113.9;proto=https"][..], Some("203.0.113.9")),
            (&["by=x;For=\"[2001:db8::1]:80\""], Some("2001:db8::1")),
            (&["for=6.6.6.6, for=\"203.0.113.9\", for=10.0.0.2"], Some("203.0.113.9")),
            (&["for=\"6.6.6.6, for=1.1.1.1\", for=203.0.113.9"], Some("203.0.113.9")),
            (&["for=unknown"], None),
            (&["for=_hidden"], None),
            (&["proto=https"], None),
            (&["for=\"203.0.113.9"], None),
        ] {
            assert_eq!(client(Told::Forwarded, "10.0.0.1", values).as_deref(), is, "{values:?}");
        }
    }
}
