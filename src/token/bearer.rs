//! Where a token may stand: once, in `Authorization`, as RFC 6750 section 2.1 and RFC 9449 section 7.1 say. Never in a
//! query or body.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header;

use super::TokenError;
use crate::{
    base::digest::sha256,
    request::{Inbound, headers::only},
};

/// The longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// SHA-256 of a whole token, to know it again without keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// A token nobody has checked yet.
#[derive(Clone, Copy)]
pub struct RawToken<'a>(&'a str);

/// How a token is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `Bearer`: whoever has it may use it.
    Bearer,
    /// `DPoP`: with a proof beside it.
    Dpop,
}

/// A request's token, as it was presented.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The token.
    pub token: RawToken<'a>,
    /// How it was presented.
    pub scheme: Scheme,
    /// The token's digest.
    pub fingerprint: Fingerprint,
}

impl std::fmt::Debug for RawToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawToken(…)")
    }
}

impl<'a> Presented<'a> {
    /// The request's one token.
    ///
    /// # Errors
    /// `Missing` without a token, `Several` with more than one or one in the query too, `Malformed` when it
    /// is too long or not visible ASCII.
    pub fn of(inbound: &Inbound<'a>) -> Result<Self, TokenError> {
        let field = only(inbound.headers(), &header::AUTHORIZATION).map_err(|_| TokenError::Several)?;
        let in_query = inbound
            .target()
            .query()
            .is_some_and(|query| url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "access_token"));
        let Some(field) = field else {
            return Err(if in_query { TokenError::Several } else { TokenError::Missing });
        };
        let (scheme, token) = Scheme::split(field.as_bytes()).ok_or(TokenError::Missing)?;
        if in_query {
            return Err(TokenError::Several);
        }
        let token = RawToken::parse(token).ok_or(TokenError::Malformed)?;
        Ok(Self { token, scheme, fingerprint: token.fingerprint() })
    }
}

impl Scheme {
    /// The scheme that `field` begins with, and what follows its one blank.
    fn split(field: &[u8]) -> Option<(Self, &[u8])> {
        let known = [("Bearer ", Self::Bearer), ("DPoP ", Self::Dpop)];
        known.into_iter().find_map(|(name, scheme)| {
            let (start, rest) = field.split_at_checked(name.len())?;
            start.eq_ignore_ascii_case(name.as_bytes()).then_some((scheme, rest))
        })
    }
}

impl<'a> RawToken<'a> {
    /// A token that somebody else took from where it stood; `None` when it is too long or not visible ASCII.
    pub fn parse(token: &'a [u8]) -> Option<Self> {
        // Each byte is looked at, whatever the one before it is, so that many are at once.
        let sound =
            token.len() <= TOKEN_BYTES_MAX && token.iter().fold(true, |sound, byte| sound & byte.is_ascii_graphic());
        std::str::from_utf8(token).ok().filter(|token| sound && !token.is_empty()).map(Self)
    }

    /// Its digest.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(sha256(self.0.as_bytes()))
    }

    /// Whether it has the three parts of a JWT, and the first decodes to what begins as a JSON object does.
    pub(super) fn is_jwt_like(&self) -> bool {
        let mut parts = self.0.split('.');
        let header = parts.next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
        let begins = header.is_some_and(|header| header.trim_ascii_start().starts_with(b"{"));
        begins && parts.count() == 2
    }

    pub(super) const fn as_str(&self) -> &'a str {
        self.0
    }
}

impl Fingerprint {
    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::request::{Head, Limits};

    fn token_in(target: &str, fields: &[&'static str]) -> Result<String, TokenError> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(field));
        }
        let head = Head {
            method: &Method::GET,
            target: target.as_bytes(),
            headers: &headers,
            wire: None,
            peer: None,
            certificate: None,
        };
        let inbound = Inbound::parse(&head, &Limits::default()).unwrap();
        Presented::of(&inbound).map(|presented| format!("{:?} {}", presented.scheme, presented.token.as_str()))
    }

    #[test]
    fn a_token_stands_once_in_authorization() {
        assert_eq!(token_in("/", &["Bearer a.b.c"]), Ok("Bearer a.b.c".into()));
        assert_eq!(token_in("/", &["bEARER a.b.c"]), Ok("Bearer a.b.c".into()));
        assert_eq!(token_in("/", &["dpop a.b.c"]), Ok("Dpop a.b.c".into()));
        assert_eq!(token_in("/", &["DPoPa.b.c"]), Err(TokenError::Missing));
        assert_eq!(token_in("/", &["DPoP a.b.c", "Bearer a.b.c"]), Err(TokenError::Several));
        assert_eq!(token_in("/", &[]), Err(TokenError::Missing));
        assert_eq!(token_in("/", &["Basic YTpi"]), Err(TokenError::Missing));
        assert_eq!(token_in("/", &["Bearer"]), Err(TokenError::Missing));
        assert_eq!(token_in("/", &["Bearer a", "Bearer a"]), Err(TokenError::Several));
        assert_eq!(token_in("/?access_token=a", &[]), Err(TokenError::Several));
        assert_eq!(token_in("/?a=b&access%5ftoken=a", &["Bearer a"]), Err(TokenError::Several));
        assert_eq!(token_in("/?x=1&access_token=a", &["Bearer a"]), Err(TokenError::Several));
        assert_eq!(token_in("/", &["Bearer a b"]), Err(TokenError::Malformed));
        assert_eq!(token_in("/", &["Bearer  a"]), Err(TokenError::Malformed));
    }

    #[test]
    fn debug_output_holds_no_token() {
        assert_eq!(format!("{:?}", RawToken("secret")), "RawToken(…)");
    }
}
