//! A JSON Web Key Set (RFC 7517), key by key: what can verify is kept, what cannot is skipped with a reason, and one
//! odd key never voids the set.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, KeyShape};
use crate::base::{digest::sha256, json};

/// How many keys of a set are looked at.
pub const KEYS_MAX: usize = 100;

/// Bits of an RSA modulus: RFC 7518 section 3.3 asks for at least 2048; beyond 8192 verifying is a burden.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The usable keys of one set.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<String>,
}

/// Why a document is no key set.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Not strict JSON.
    #[error("no key set: {0}")]
    NotJson(#[from] serde_json::Error),
    /// No array `keys`.
    #[error("no key set: `keys` is not an array")]
    NoKeys,
    /// More than [`KEYS_MAX`] keys.
    #[error("no key set: more than {KEYS_MAX} keys")]
    TooMany,
    /// Nothing in it can verify a token.
    #[error("no usable key{}", .0.iter().map(|reason| format!("; {reason}")).collect::<String>())]
    NoneUsable(Vec<String>),
}

/// A public key and the one thing it may be used for.
pub struct Key {
    kid: Option<String>,
    thumbprint: [u8; 32],
    shape: KeyShape,
    algorithm: Option<Algorithm>,
    material: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl KeySet {
    /// Parses a key set.
    ///
    /// # Errors
    /// [`JwksError`] when the document is none, or no key in it is usable.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        let object = json::parse_object(document)?;
        let keys = object.get("keys").and_then(Value::as_array).ok_or(JwksError::NoKeys)?;
        if keys.len() > KEYS_MAX {
            return Err(JwksError::TooMany);
        }
        let mut set = Self::default();
        for (index, jwk) in keys.iter().enumerate() {
            match jwk.as_object().ok_or("not an object").and_then(Key::parse) {
                Ok(key) => set.keys.push(key),
                Err(reason) => set.skipped.push(format!("key {index}: {reason}")),
            }
        }
        if set.keys.is_empty() {
            return Err(JwksError::NoneUsable(set.skipped));
        }
        Ok(set)
    }

    /// Each key by its name and what it is for, and why others were left out.
    pub fn told(&self) -> serde_json::Value {
        let keys = self.keys.iter().map(|key| {
            let algorithm = key.algorithm.map(|algorithm| format!("{algorithm:?}"));
            serde_json::json!({ "kid": key.kid, "alg": algorithm, "thumbprint": URL_SAFE_NO_PAD.encode(key.thumbprint) })
        });
        serde_json::json!({ "keys": keys.collect::<Vec<_>>(), "skipped": self.skipped })
    }

    /// The keys a token with this `kid` and algorithm may be signed with. Without `kid`, only the set's only key.
    pub(super) fn find<'a>(&'a self, kid: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        let only = self.keys.len() == 1;
        self.keys.iter().filter(move |key| match kid {
            Some(kid) => key.kid.as_deref() == Some(kid) && key.fits(algorithm),
            None => only && key.fits(algorithm),
        })
    }

    /// Whether the key of this thumbprint is one of them.
    pub(super) fn holds(&self, thumbprint: [u8; 32]) -> bool {
        self.keys.iter().any(|key| key.thumbprint == thumbprint)
    }

    /// Whether both hold the same keys, in whatever order, for the same uses.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let uses = |set: &Self| -> HashSet<_> {
            set.keys.iter().map(|key| (key.kid.clone(), key.thumbprint, key.algorithm)).collect()
        };
        uses(self) == uses(other)
    }

    /// How many keys are usable.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never true of a parsed set.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that are not usable, with the reason.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

impl Key {
    /// Parses a public key; the error says why it is none that may verify.
    pub(super) fn parse(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        if ["d", "k", "p", "q"].iter().any(|name| jwk.contains_key(*name)) {
            return Err("holds a secret or private key");
        }
        if text(jwk, "use")?.is_some_and(|usage| usage != "sig") {
            return Err("`use` is not `sig`");
        }
        let may_verify = match jwk.get("key_ops") {
            None => true,
            Some(ops) => ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")),
        };
        if !may_verify {
            return Err("`key_ops` does not hold `verify`");
        }
        let (shape, material) = match text(jwk, "kty")? {
            Some("RSA") => (KeyShape::Rsa, rsa(jwk)?),
            Some("EC") => elliptic(jwk)?,
            Some("OKP") => (KeyShape::Ed25519, edwards(jwk)?),
            _ => return Err("`kty` is not RSA, EC or OKP"),
        };
        let algorithm = match text(jwk, "alg")? {
            None => None,
            Some(name) => Some(Algorithm::from_name(name).ok_or("`alg` is not supported")?),
        };
        if algorithm.is_some_and(|algorithm| algorithm.needs().0 != shape) {
            return Err("`alg` does not fit the key");
        }
        let thumbprint = thumbprint(jwk, shape)?;
        Ok(Self { kid: text(jwk, "kid")?.map(str::to_owned), thumbprint, shape, algorithm, material })
    }

    /// SHA-256 of what makes the key (RFC 7638).
    pub(super) const fn thumbprint(&self) -> [u8; 32] {
        self.thumbprint
    }

    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        algorithm.needs().0 == self.shape && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// Whether `signature` (base64url) over `signed` was made with this key's private half.
    pub(super) fn verifies(&self, signed: &str, signature: &str, algorithm: Algorithm) -> bool {
        let (_, backend) = algorithm.needs();
        jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.material, backend).unwrap_or(false)
    }
}

fn thumbprint(jwk: &Map<String, Value>, shape: KeyShape) -> Result<[u8; 32], &'static str> {
    let members: &[&str] = match shape {
        KeyShape::Rsa => &["e", "kty", "n"],
        KeyShape::P256 | KeyShape::P384 => &["crv", "kty", "x", "y"],
        KeyShape::Ed25519 => &["crv", "kty", "x"],
    };
    let mut canonical = Vec::with_capacity(members.len());
    for name in members {
        // INVARIANT: base64url, or one of the names above: nothing in it needs escaping.
        canonical.push(format!("\"{name}\":\"{}\"", text(jwk, name)?.unwrap_or_default()));
    }
    Ok(sha256(format!("{{{}}}", canonical.join(",")).as_bytes()))
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, &'static str> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("a text parameter is not a string"),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let encoded = text(jwk, name)?.ok_or("a parameter of the key is missing")?;
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| "a parameter of the key is not base64url")
}

fn rsa(jwk: &Map<String, Value>) -> Result<DecodingKey, &'static str> {
    let (modulus, exponent) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let significant = modulus.iter().position(|byte| *byte != 0).and_then(|start| modulus.get(start..)).unwrap_or(&[]);
    let leading = significant.first().map_or(0, |byte| byte.leading_zeros());
    let bits = significant.len().saturating_mul(8).saturating_sub(usize::try_from(leading).unwrap_or(0));
    if !RSA_BITS.contains(&bits) {
        return Err("RSA modulus is not between 2048 and 8192 bits");
    }
    Ok(DecodingKey::from_rsa_raw_components(significant, &exponent))
}

fn elliptic(jwk: &Map<String, Value>) -> Result<(KeyShape, DecodingKey), &'static str> {
    let (shape, length) = match text(jwk, "crv")? {
        Some("P-256") => (KeyShape::P256, 32),
        Some("P-384") => (KeyShape::P384, 48),
        _ => return Err("`crv` is not P-256 or P-384"),
    };
    if bytes(jwk, "x")?.len() != length || bytes(jwk, "y")?.len() != length {
        return Err("a coordinate has the wrong length");
    }
    let (x, y) = (text(jwk, "x")?.unwrap_or_default(), text(jwk, "y")?.unwrap_or_default());
    DecodingKey::from_ec_components(x, y).map(|key| (shape, key)).map_err(|_| "not a point")
}

fn edwards(jwk: &Map<String, Value>) -> Result<DecodingKey, &'static str> {
    if text(jwk, "crv")? != Some("Ed25519") {
        return Err("`crv` is not Ed25519");
    }
    if bytes(jwk, "x")?.len() != 32 {
        return Err("a coordinate has the wrong length");
    }
    DecodingKey::from_ed_components(text(jwk, "x")?.unwrap_or_default()).map_err(|_| "not a point")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "kid": "a/+=", "use": "sig", "alg": "ES256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
    }

    fn parse(keys: impl Into<Value>) -> Result<KeySet, JwksError> {
        let keys = keys.into();
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_key_is_found_by_its_kid_and_algorithm() {
        let set = parse(json!([ec()])).unwrap();
        assert_eq!(set.find(Some("a/+="), Algorithm::ES256).count(), 1);
        assert_eq!(set.find(None, Algorithm::ES256).count(), 1);
        assert_eq!(set.find(Some("A/+="), Algorithm::ES256).count(), 0);
        assert_eq!(set.find(Some("a/+="), Algorithm::RS256).count(), 0);
        let mut other = ec();
        other["kid"] = json!("b");
        assert_eq!(parse(json!([ec(), other])).unwrap().find(None, Algorithm::ES256).count(), 0);
    }

    #[test]
    fn an_unusable_key_is_skipped_with_its_reason_and_voids_nothing() {
        let twist = |name: &str, value: Value| {
            let mut key = ec();
            key[name] = value;
            key
        };
        let odd = [
            json!(null),
            json!(5),
            json!({}),
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            twist("kid", json!(5)),
            twist("use", json!("enc")),
            twist("key_ops", json!(["sign"])),
            twist("alg", json!("RS256")),
            twist("alg", json!("HS256")),
            twist("crv", json!("P-521")),
            twist("crv", json!("P-384")),
            twist("x", json!("AA")),
            twist("y", json!("!")),
            twist("d", json!("AA")),
        ];
        for key in &odd {
            assert!(matches!(parse(json!([key])), Err(JwksError::NoneUsable(_))), "{key}");
        }
        let mut keys = odd.to_vec();
        keys.push(ec());
        let set = parse(json!(keys)).unwrap();
        assert_eq!((set.len(), set.skipped().len()), (1, odd.len()));
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let key = json!({"kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB", "n":
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3\
             oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA\
             ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-\
             kEgU8awapJzKnqDKgw"});
        let thumbprint = Key::parse(key.as_object().unwrap()).unwrap().thumbprint();
        assert_eq!(URL_SAFE_NO_PAD.encode(thumbprint), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn what_is_no_key_set_is_an_error() {
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
            assert!(KeySet::parse(document.as_bytes()).is_err(), "{document}");
        }
        assert!(matches!(parse(json!(vec![ec(); KEYS_MAX + 1])), Err(JwksError::TooMany)));
    }
}
