//! Signature algorithms (RFC 7518, RFC 8037) that an issuer may be allowed to use, and the key each one needs.
//! There is no variant for `none` or HMAC: they cannot be configured and cannot be parsed from a header.

use jsonwebtoken::Algorithm as Backend;
use schemars::JsonSchema;
use serde::{Deserialize, de::IntoDeserializer};

/// A signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 and say it")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// What a key must be for an algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyShape {
    /// `kty` RSA.
    Rsa,
    /// `kty` EC, `crv` P-256.
    P256,
    /// `kty` EC, `crv` P-384.
    P384,
    /// `kty` OKP, `crv` Ed25519.
    Ed25519,
}

/// The name of each.
pub const NAMES: [&str; 9] = ["ES256", "ES384", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

impl Algorithm {
    /// The algorithm of that exact name; `None` for every other spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::deserialize(name.into_deserializer()).map_err(|_: serde::de::value::Error| ()).ok()
    }

    /// The key it needs and the backend's name for it.
    pub(super) const fn needs(self) -> (KeyShape, Backend) {
        match self {
            Self::RS256 => (KeyShape::Rsa, Backend::RS256),
            Self::RS384 => (KeyShape::Rsa, Backend::RS384),
            Self::RS512 => (KeyShape::Rsa, Backend::RS512),
            Self::PS256 => (KeyShape::Rsa, Backend::PS256),
            Self::PS384 => (KeyShape::Rsa, Backend::PS384),
            Self::PS512 => (KeyShape::Rsa, Backend::PS512),
            Self::ES256 => (KeyShape::P256, Backend::ES256),
            Self::ES384 => (KeyShape::P384, Backend::ES384),
            Self::EdDSA => (KeyShape::Ed25519, Backend::EdDSA),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        assert_eq!(Algorithm::from_name("RS256"), Some(Algorithm::RS256));
        assert!(NAMES.iter().all(|name| Algorithm::from_name(name).is_some()));
        for other in ["none", "None", "HS256", "rs256", "RS256 ", "", "ES512"] {
            assert_eq!(Algorithm::from_name(other), None, "{other:?}");
        }
    }
}
