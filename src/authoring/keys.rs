//! Signing keys made on the spot, for issuers that live as long as a demo or a test.

use aws_lc_rs::{
    error::Unspecified,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A private key under a name.
#[derive(Debug)]
pub struct SigningKey {
    kid: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rs256(Box<RsaKeyPair>),
    Es256(Box<EcdsaKeyPair>),
}

impl SigningKey {
    /// A new RSA key of 2048 bits, for RS256.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn rs256(kid: impl Into<String>) -> Result<Self, Unspecified> {
        Ok(Self { kid: kid.into(), pair: Pair::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048)?)) })
    }

    /// A new P-256 key, for ES256.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn es256(kid: impl Into<String>) -> Result<Self, Unspecified> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self { kid: kid.into(), pair: Pair::Es256(Box::new(pair)) })
    }

    /// The public half as a JWK.
    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rs256(pair) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid,
                    "n": base64url(n.big_endian_without_leading_zero()), "e": base64url(e.big_endian_without_leading_zero()) })
            }
            Pair::Es256(pair) => {
                // An uncompressed point: 4, x, y.
                let (x, y) =
                    pair.public_key().as_ref().get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
                json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
                    "x": base64url(x), "y": base64url(y) })
            }
        }
    }

    /// The header of a token that this key signs, as Cognito writes it: `kid` and `alg`, no `typ`.
    pub fn header(&self) -> Value {
        let algorithm = match &self.pair {
            Pair::Rs256(_) => "RS256",
            Pair::Es256(_) => "ES256",
        };
        json!({ "kid": self.kid, "alg": algorithm })
    }

    /// A token of `claims`.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, Unspecified> {
        self.sign_text(&self.header().to_string(), &claims.to_string())
    }

    /// A token of exactly this header and payload, be they JSON or not.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn sign_text(&self, header: &str, payload: &str) -> Result<String, Unspecified> {
        let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)?;
                signature
            }
            Pair::Es256(pair) => pair.sign(&random, signed.as_bytes())?.as_ref().to_vec(),
        };
        Ok(format!("{signed}.{}", base64url(&signature)))
    }
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
