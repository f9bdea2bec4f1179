//! Nonces for DPoP proofs (RFC 9449 section 9), made of the time and a secret: nothing is kept of them, and every gate
//! that holds the secret knows them.

use aws_lc_rs::{
    error::Unspecified,
    hmac::{self, HMAC_SHA256},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::base::clock::Timestamp;

/// Seconds that a nonce is the present one; for as long again it is still taken.
const LIFETIME_S: u64 = 300;

/// A nonce: 24 bytes in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// No nonce of anybody's.
    pub const NONE: Self = Self([b'0'; 32]);

    /// As the header `DPoP-Nonce` holds it.
    pub fn as_str(&self) -> &str {
        // INVARIANT: base64url is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What nonces are made of.
#[derive(Clone)]
pub(super) struct Nonces(hmac::Key);

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces")
    }
}

impl Nonces {
    /// Nonces of `secret`; without one, of a secret that no other process knows.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub(super) fn new(secret: Option<&[u8]>) -> Result<Self, Unspecified> {
        let mut random = [0; 32];
        if secret.is_none() {
            rand::fill(&mut random)?;
        }
        Ok(Self(hmac::Key::new(HMAC_SHA256, secret.unwrap_or(&random))))
    }

    /// The present nonce.
    pub(super) fn present(&self, now: Timestamp) -> Nonce {
        self.of(now.seconds() / LIFETIME_S)
    }

    /// Whether `nonce` is the present one, or the one before.
    pub(super) fn holds(&self, nonce: &str, now: Timestamp) -> bool {
        let period = now.seconds() / LIFETIME_S;
        [period, period.saturating_sub(1)].iter().any(|period| self.of(*period).as_str() == nonce)
    }

    fn of(&self, period: u64) -> Nonce {
        let tag = hmac::sign(&self.0, &period.to_be_bytes());
        let mut text = [0; 32];
        let bytes = tag.as_ref().get(..24).unwrap_or_default();
        // INVARIANT: 24 bytes are 32 digits of base64url.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        Nonce(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_lives_for_its_period_and_the_next_and_is_known_by_its_secret() {
        let nonces = Nonces::new(Some(b"secret")).unwrap();
        let at = |seconds: u64| Timestamp::from_seconds(3_000_000 + seconds);
        let nonce = nonces.present(at(0));
        assert_eq!(nonce.as_str().len(), 32);
        assert!(!nonce.as_str().contains('\0'));
        for (later, taken) in [(0, true), (299, true), (300, true), (599, true), (600, false)] {
            assert_eq!(nonces.holds(nonce.as_str(), at(later)), taken, "{later}");
        }
        assert_ne!(nonces.present(at(300)), nonce);
        assert!(Nonces::new(Some(b"secret")).unwrap().holds(nonce.as_str(), at(1)));
        assert!(!Nonces::new(Some(b"other")).unwrap().holds(nonce.as_str(), at(1)));
        assert!(!Nonces::new(None).unwrap().holds(nonce.as_str(), at(1)));
        assert!(!nonces.holds("", at(0)));
    }
}
