//! Sender-constrained tokens: what a token is bound to by `cnf` (RFC 7800), and whether whoever sent it has shown to
//! hold that. A key is shown by a DPoP proof (RFC 9449), a certificate by the TLS connection (RFC 8705).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Issuers, TokenError, VerifiedToken,
    bearer::{Presented, Scheme},
};
use crate::{base::clock::Timestamp, request::Inbound};

/// SHA-256 of a key (RFC 7638) or of a certificate (RFC 8705 section 3.1).
pub(super) type Thumbprint = [u8; 32];

/// Whether an issuer's tokens are bound to something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// Never: a token that is bound is refused, since nothing would check the binding.
    #[default]
    Off,
    /// Some are: the binding is checked where there is one.
    Accepted,
    /// Always: a token that is not bound is refused.
    Required,
}

/// What one issuer's tokens are bound to, and how a proof of it must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BindingRules {
    /// To a key, by `jkt`.
    pub(super) key: Binding,
    /// To a client certificate, by `x5t#S256`.
    pub(super) certificate: Binding,
    /// Whether a proof must hold a nonce of ours.
    pub(super) nonce: bool,
    /// How old a proof may be.
    pub(super) proof_age_max: Duration,
    /// By how much clocks may differ.
    pub(super) leeway: Duration,
}

/// What a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Confirmation {
    pub(super) key: Option<Thumbprint>,
    pub(super) certificate: Option<Thumbprint>,
}

/// Proof that whoever sent a request may use its token: it is not on the deny-list, and it is bound to nothing, or the
/// sender holds what it is bound to. Only [`Issuers::possession`] makes one, for each request anew.
#[derive(Debug)]
pub struct Possession(());

impl Confirmation {
    /// What `claims` bind the token to. A binding that nothing here can check is never taken for none.
    ///
    /// # Errors
    /// `BindingUnchecked` for such a binding, `BindingMissing` where the issuer's tokens must have one.
    pub(super) fn of(claims: &Map<String, Value>, rules: &BindingRules) -> Result<Self, TokenError> {
        let mut bound = Self::default();
        match claims.get("cnf") {
            None => {}
            Some(Value::Object(members)) if !members.is_empty() => {
                for (method, value) in members {
                    let thumbprint = value.as_str().and_then(thumbprint).ok_or(TokenError::BindingUnchecked)?;
                    match (method.as_str(), rules.key, rules.certificate) {
                        ("jkt", Binding::Accepted | Binding::Required, _) => bound.key = Some(thumbprint),
                        ("x5t#S256", _, Binding::Accepted | Binding::Required) => bound.certificate = Some(thumbprint),
                        _ => return Err(TokenError::BindingUnchecked),
                    }
                }
            }
            Some(_) => return Err(TokenError::BindingUnchecked),
        }
        let lacks = |rule, found: Option<Thumbprint>| rule == Binding::Required && found.is_none();
        if lacks(rules.key, bound.key) || lacks(rules.certificate, bound.certificate) {
            return Err(TokenError::BindingMissing);
        }
        Ok(bound)
    }
}

fn thumbprint(text: &str) -> Option<Thumbprint> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl Issuers {
    /// Whether the sender of `inbound` may use `token`, which it presented: it is not on the deny-list, and the sender holds
    /// what it is bound to.
    ///
    /// # Errors
    /// [`TokenError`]: what it did not show.
    pub fn possession(
        &self,
        token: &VerifiedToken,
        presented: &Presented<'_>,
        inbound: &Inbound<'_>,
        now: Timestamp,
    ) -> Result<Possession, TokenError> {
        if self.denied.denies(token, now) {
            return Err(TokenError::Revoked);
        }
        match (presented.scheme, &token.confirmation.key) {
            (Scheme::Bearer, None) => {}
            (Scheme::Bearer, Some(_)) => return Err(TokenError::BindingUnchecked),
            (Scheme::Dpop, None) => return Err(TokenError::BindingMissing),
            (Scheme::Dpop, Some(key)) => {
                self.proofs.check(inbound, &presented.fingerprint, key, token, now)?;
            }
        }
        match token.confirmation.certificate {
            Some(bound) if inbound.certificate().map(|it| it.thumbprint) != Some(bound) => {
                Err(TokenError::CertificateMismatch)
            }
            _ => Ok(Possession(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const THUMBPRINT: &str = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2";

    fn bound(cnf: &Value, key: Binding, certificate: Binding) -> Result<Confirmation, TokenError> {
        let rules = BindingRules { key, certificate, ..BindingRules::default() };
        let claims = if *cnf == json!("absent") { json!({}) } else { json!({ "cnf": cnf }) };
        Confirmation::of(claims.as_object().unwrap(), &rules)
    }

    #[test]
    fn a_binding_that_nothing_checks_is_never_none() {
        let good = URL_SAFE_NO_PAD.encode([7; 32]);
        for cnf in [
            json!(null),
            json!({}),
            json!([]),
            json!("x"),
            json!({ "jkt": 5 }),
            json!({ "jkt": "" }),
            json!({ "jkt": THUMBPRINT }),
            json!({ "jkt": format!("{good}AA") }),
            json!({ "jkt": good, "jwk": {} }),
            json!({ "jwk": { "kty": "RSA" } }),
            json!({ "kid": "a" }),
            json!({ "x5t": good }),
        ] {
            let refused = bound(&cnf, Binding::Accepted, Binding::Accepted);
            assert_eq!(refused, Err(TokenError::BindingUnchecked), "{cnf}");
        }
        for (method, key, certificate) in
            [("jkt", Binding::Off, Binding::Required), ("x5t#S256", Binding::Required, Binding::Off)]
        {
            assert_eq!(bound(&json!({ method: good }), key, certificate), Err(TokenError::BindingUnchecked));
        }
    }

    #[test]
    fn what_must_be_bound_is_refused_without() {
        let (key, both) = (json!({ "jkt": URL_SAFE_NO_PAD.encode([1; 32]) }), [Some([1; 32]), Some([2; 32])]);
        let none = json!("absent");
        assert_eq!(bound(&none, Binding::Accepted, Binding::Accepted), Ok(Confirmation::default()));
        assert_eq!(bound(&none, Binding::Required, Binding::Off), Err(TokenError::BindingMissing));
        assert_eq!(bound(&none, Binding::Off, Binding::Required), Err(TokenError::BindingMissing));
        assert_eq!(bound(&key, Binding::Required, Binding::Required), Err(TokenError::BindingMissing));
        assert_eq!(bound(&key, Binding::Required, Binding::Off).unwrap().key, both[0]);
        let mut two = key;
        two["x5t#S256"] = URL_SAFE_NO_PAD.encode([2; 32]).into();
        let two = bound(&two, Binding::Accepted, Binding::Accepted).unwrap();
        assert_eq!([two.key, two.certificate], both);
    }
}
