//! Keys that sign in our name, and by which that is verified: Ed25519 and P-256, in PEM.

use std::fmt;

use aws_lc_rs::{
    error::Unspecified,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        ParsedPublicKey, VerificationAlgorithm,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::{Value, json};

use super::digest::sha256;

/// A private key.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<EcdsaKeyPair>),
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    curve: Curve,
    /// Of Ed25519 the key, of P-256 the point: 4, x, y.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    Ed25519,
    P256,
}

impl SigningKey {
    /// A private key in PEM (PKCS#8).
    pub fn of(pem: &str) -> Option<Self> {
        let ed = EncodingKey::from_ed_pem(pem.as_bytes()).ok();
        if let Some(pair) = ed.and_then(|key| Ed25519KeyPair::from_pkcs8(key.as_bytes()).ok()) {
            let public = PublicKey { curve: Curve::Ed25519, bytes: pair.public_key().as_ref().to_vec() };
            return Some(Self { pair: Pair::Ed25519(Box::new(pair)), public });
        }
        let ec = EncodingKey::from_ec_pem(pem.as_bytes()).ok()?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_bytes()).ok()?;
        let public = PublicKey { curve: Curve::P256, bytes: pair.public_key().as_ref().to_vec() };
        Some(Self { pair: Pair::P256(Box::new(pair)), public })
    }

    /// Its public half.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signature of `message` as JWS writes it (RFC 7515): in base64url, for P-256 two numbers of 32 bytes.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<String, Unspecified> {
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message),
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), message)?,
        };
        Ok(URL_SAFE_NO_PAD.encode(signature))
    }
}

impl PublicKey {
    /// A public key in PEM (SubjectPublicKeyInfo).
    pub fn of(pem: &str) -> Option<Self> {
        let keys = [
            (Curve::Ed25519, DecodingKey::from_ed_pem(pem.as_bytes())),
            (Curve::P256, DecodingKey::from_ec_pem(pem.as_bytes())),
        ];
        keys.into_iter().find_map(|(curve, key)| {
            let found = Self { curve, bytes: key.ok()?.try_get_as_bytes().ok()?.to_vec() };
            found.parsed().map(|_| found)
        })
    }

    /// The name of what it verifies (RFC 7518, RFC 8037).
    pub const fn algorithm(&self) -> &'static str {
        match self.curve {
            Curve::Ed25519 => "EdDSA",
            Curve::P256 => "ES256",
        }
    }

    /// Its thumbprint (RFC 7638).
    pub fn thumbprint(&self) -> String {
        // RFC 7638 section 3.2: the required members alone, in this order.
        URL_SAFE_NO_PAD.encode(sha256(self.members().to_string().as_bytes()))
    }

    /// As a JWK (RFC 7517), named by its thumbprint.
    pub fn jwk(&self) -> Value {
        let mut jwk = self.members();
        if let Some(members) = jwk.as_object_mut() {
            let named = [("use", "sig"), ("alg", self.algorithm()), ("kid", &self.thumbprint())];
            members.extend(named.map(|(name, value)| (name.to_owned(), value.into())));
        }
        jwk
    }

    /// Whether it verifies `signature`, in base64url, of `message`.
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let signature = URL_SAFE_NO_PAD.decode(signature);
        signature.is_ok_and(|it| self.parsed().is_some_and(|key| key.verify_sig(message, &it).is_ok()))
    }

    /// The key, where it is one: a point on its curve.
    fn parsed(&self) -> Option<ParsedPublicKey> {
        let algorithm: &'static dyn VerificationAlgorithm = match self.curve {
            Curve::Ed25519 => &ED25519,
            Curve::P256 => &ECDSA_P256_SHA256_FIXED,
        };
        ParsedPublicKey::new(algorithm, &self.bytes).ok()
    }

    fn members(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.curve {
            Curve::Ed25519 => json!({ "crv": "Ed25519", "kty": "OKP", "x": text(&self.bytes) }),
            Curve::P256 => {
                let (x, y) = self.bytes.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
                json!({ "crv": "P-256", "kty": "EC", "x": text(x), "y": text(y) })
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of RFC 8032 section 7.1.
    const ED_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    /// Made by `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
    const EC_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBGJWGJxEahTU93yx\nebun55d4U7epvKellcAGu9hEw7ihRANCAARodJXCy+NiFRWm8sjMdwQk9Yntsq/H\ntsy4tX310+DbhXX31tRfZJlzDKmI0maWcf8/JoXbWVC68U4Op9och4S1\n-----END PRIVATE KEY-----\n";
    const EC_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaHSVwsvjYhUVpvLIzHcEJPWJ7bKv\nx7bMuLV99dPg24V199bUX2SZcwypiNJmlnH/PyaF21lQuvFODqfaHIeEtQ==\n-----END PUBLIC KEY-----\n";
    const P384_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDCAFon/0VCc4i6Kw2ff\nNp5xIEy9UajCt31/itXMlMFX0RSuDZbnGMAgkUUtl0MIkn+hZANiAATt0VIFDzd6\nXKw58F4WT1IMoiv1NmWr7CPHUCcWDiw3DKGBr74pj9HaIOilCJPJfqLIBzb5kQe/\niAahK4MbhJ+HAr5Zo0zvpFlsQq6y+/2HUqyfSeDeE6/3TJ0GujIebLA=\n-----END PRIVATE KEY-----\n";
    const P384_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE7dFSBQ83elysOfBeFk9SDKIr9TZlq+wj\nx1AnFg4sNwyhga++KY/R2iDopQiTyX6iyAc2+ZEHv4gGoSuDG4SfhwK+WaNM76RZ\nbEKusvv9h1Ksn0ng3hOv90ydBroyHmyw\n-----END PUBLIC KEY-----\n";

    #[test]
    fn what_a_key_signs_its_public_half_verifies() {
        for (private, public, algorithm) in [(ED_PRIVATE, ED_PUBLIC, "EdDSA"), (EC_PRIVATE, EC_PUBLIC, "ES256")] {
            let (private, public) = (SigningKey::of(private).unwrap(), PublicKey::of(public).unwrap());
            assert_eq!((private.public(), public.algorithm()), (&public, algorithm));
            let signature = private.sign(b"message").unwrap();
            // 64 bytes: never the DER of OpenSSL.
            assert_eq!(signature.len(), 86);
            assert!(public.verifies(b"message", &signature) && !public.verifies(b"massage", &signature));
            let others = [ED_PUBLIC, EC_PUBLIC].map(|it| PublicKey::of(it).unwrap());
            assert_eq!(others.iter().filter(|other| other.verifies(b"message", &signature)).count(), 1);
            // As another library has it.
            let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(public.jwk()).unwrap();
            let same = DecodingKey::from_jwk(&jwk).unwrap();
            let backend =
                if algorithm == "EdDSA" { jsonwebtoken::Algorithm::EdDSA } else { jsonwebtoken::Algorithm::ES256 };
            assert!(jsonwebtoken::crypto::verify(&signature, b"message", &same, backend).unwrap());
            let thumbprint = jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
            assert_eq!((&public.thumbprint(), public.jwk()["kid"].as_str().unwrap()), (&thumbprint, &*thumbprint));
        }
    }

    #[test]
    fn other_keys_and_other_forms_are_none() {
        for other in
            ["", ED_PUBLIC, EC_PUBLIC, P384_PRIVATE, "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"]
        {
            assert!(SigningKey::of(other).is_none(), "{other}");
        }
        for other in ["", ED_PRIVATE, EC_PRIVATE, P384_PUBLIC] {
            assert!(PublicKey::of(other).is_none(), "{other}");
        }
        // A point beside the curve.
        let mut beside = PublicKey::of(EC_PUBLIC).unwrap();
        *beside.bytes.last_mut().unwrap() ^= 1;
        assert!(beside.parsed().is_none());
    }

    #[test]
    fn the_thumbprint_of_rfc_8037_is_right() {
        // RFC 8037 appendix A.3: the same key.
        assert_eq!(PublicKey::of(ED_PUBLIC).unwrap().thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
