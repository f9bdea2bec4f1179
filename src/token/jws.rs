//! A JWT in JWS compact serialisation (RFC 7515 section 7.1), taken apart and trusted by nobody.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{RawToken, TokenError, algorithm::Algorithm};
use crate::base::json;

/// Header parameters that change what a signature covers or how the payload is read.
const REFUSED_PARAMETERS: [&str; 4] = ["crit", "b64", "zip", "enc"];

/// A token taken apart. Nothing in it is believed until its signature is verified.
pub(super) struct Jws<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// `typ`, lower case, without `application/` (RFC 7515 section 4.1.9).
    pub(super) media_type: Option<String>,
    pub(super) claims: Map<String, Value>,
    /// What the signature covers.
    pub(super) signed: &'a str,
    /// The signature as it stands in the token: canonical base64url.
    pub(super) signature: &'a str,
}

impl<'a> Jws<'a> {
    /// Takes `token` apart.
    ///
    /// # Errors
    /// `Malformed`, `HeaderRefused` or `AlgorithmRefused`.
    pub(super) fn parse(token: RawToken<'a>) -> Result<Self, TokenError> {
        let (signed, signature) = token.as_str().rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(TokenError::Malformed);
        }
        let header = decode(header)?;
        if REFUSED_PARAMETERS.iter().any(|name| header.contains_key(*name)) {
            return Err(TokenError::HeaderRefused);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name);
        let kid = optional_text(&header, "kid")?;
        let media_type = optional_text(&header, "typ")?.map(|typ| {
            let typ = typ.to_ascii_lowercase();
            typ.strip_prefix("application/").map_or_else(|| typ.clone(), str::to_owned)
        });
        Ok(Self {
            algorithm: algorithm.ok_or(TokenError::AlgorithmRefused)?,
            kid,
            media_type,
            claims: decode(payload)?,
            signed,
            signature,
        })
    }
}

/// A part holds one JSON object. A dot in it (a fourth part) is no base64url either.
fn decode(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    json::parse_object(&bytes).map_err(|_| TokenError::Malformed)
}

fn optional_text(header: &Map<String, Value>, name: &str) -> Result<Option<String>, TokenError> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Malformed),
    }
}
