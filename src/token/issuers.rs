//! The issuers whose tokens are believed, at work: each with its keys, or with an address to ask at.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use super::{
    RawToken, TokenError, VerifiedToken,
    binding::Binding,
    denied::Denied,
    deny_list::{Denials, DenyFile},
    dpop::{ProofSettings, Proofs},
    evidence::Evidence,
    introspection::{IntrospectionState, Introspector},
    jwks::KeySet,
    jws::Jws,
    keys::{Held, KeyError, KeyRing, RingState},
    rules::{Rules, Signed},
    turns::Turns,
};
use crate::base::{clock::Timestamp, outside::Outside, problem::Problems};

/// Whom the gate trusts, and how far; compiled.
#[derive(Clone, Debug)]
pub struct Trust {
    /// What each issuer's tokens must say.
    pub rules: Vec<Rules>,
    /// How clients show to hold what a token is bound to.
    pub proofs: ProofSettings,
    /// What is refused all the same, and the file that says so.
    pub denied: Option<(Denials, DenyFile)>,
}

impl Trust {
    /// Trust in issuers whose tokens are bound to nothing, with no deny-list.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn plain(rules: Vec<Rules>) -> Result<Self, Problems> {
        Ok(Self { rules, proofs: ProofSettings::default()?, denied: None })
    }
}

/// The issuers whose tokens are believed.
#[derive(Debug)]
pub struct Issuers {
    /// Those that sign, by `iss`.
    signing: HashMap<String, Signing>,
    /// Those that are asked.
    asked: Vec<Arc<Introspector>>,
    pub(super) proofs: Proofs,
    pub(super) denied: Arc<Denied>,
    turns: Turns,
}

#[derive(Debug)]
struct Signing {
    rules: Arc<Rules>,
    keys: Arc<KeyRing>,
}

impl Issuers {
    /// Starts a key ring for each issuer that signs. What those `before` know of the same issuers is taken over: keys,
    /// answers, proofs that were seen. Must be called on a tokio runtime.
    pub fn start(trust: Trust, outside: &Outside, before: Option<&Self>) -> Self {
        let now = outside.clock.now();
        let proofs = Proofs::new(trust.proofs, &trust.rules, before.map(|before| &before.proofs), now);
        let denied = Denied::start(trust.denied, before.map(|before| &before.denied));
        let (mut signing, mut asked) = (HashMap::new(), Vec::new());
        for rules in trust.rules {
            match &rules.evidence {
                Evidence::Signature { source, ring, .. } => {
                    let known = before.and_then(|before| before.signing.get(&rules.issuer));
                    let had = known.map(|known| &known.keys);
                    let same = had.filter(|keys| keys.keeps(source, ring)).cloned();
                    let keys = same.unwrap_or_else(|| {
                        let (name, source, ring) = (rules.issuer.clone(), source.clone(), ring.clone());
                        Arc::new(KeyRing::start(name, source, outside.clone(), ring, had.map(|keys| &**keys)))
                    });
                    // Tokens are remembered by the very rules that they were checked by.
                    let same = known.map(|known| &known.rules).filter(|known| known.checks_like(&rules)).cloned();
                    let rules = same.unwrap_or_else(|| Arc::new(rules));
                    signing.insert(rules.issuer.clone(), Signing { keys, rules });
                }
                Evidence::Introspection(how) => {
                    let known = before.and_then(|before| before.asked.iter().find(|it| *it.rules == rules)).cloned();
                    let how = how.clone();
                    let start = || Arc::new(Introspector::new(Arc::new(rules), how, outside.fetch.clone()));
                    asked.push(known.unwrap_or_else(start));
                }
            }
        }
        Self { signing, asked, proofs, denied, turns: Turns::of_this_runtime() }
    }

    /// Verifies a token. An unknown issuer costs no network traffic.
    ///
    /// # Errors
    /// [`TokenError`], the first that applies.
    pub async fn verify(&self, token: RawToken<'_>, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        match self.introspector(token) {
            Some(introspector) => introspector.verify(token, now).await,
            None => self.verify_signed(token, now).await,
        }
    }

    /// Who is to be asked about `token`: whose prefix it has, or who takes whatever has none and is no JWT.
    fn introspector(&self, token: RawToken<'_>) -> Option<&Introspector> {
        let marked = self.asked.iter().filter_map(|it| Some((it.claims_by(token)?, &**it)));
        let (marked, introspector) = marked.max_by_key(|(marked, _)| *marked)?;
        (marked > 0 || !token.is_jwt_like()).then_some(introspector)
    }

    async fn verify_signed(&self, token: RawToken<'_>, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        let mut turn = self.turns.take().await;
        let jws = Jws::parse(token)?;
        let claims = jws.claims()?;
        let named = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::IssuerUnknown)?;
        let issuer = self.signing.get(named).ok_or(TokenError::IssuerUnknown)?;
        if !issuer.rules.may_sign_with(jws.algorithm) {
            return Err(TokenError::AlgorithmRefused);
        }
        let (kid, name) = (jws.kid.as_deref(), jws.kid.as_deref().unwrap_or_default());
        let wanted = |keys: &KeySet| keys.find(kid, jws.algorithm).next().is_some();
        let held = match issuer.keys.at_once(name, wanted) {
            Ok(held) => held,
            Err(_) => {
                // Others go on while keys are fetched.
                drop(turn);
                let held = issuer.keys.keys_with(name, wanted).await;
                turn = self.turns.take().await;
                held
            }
        };
        let Held { keys, generation } = held.map_err(|error| match error {
            KeyError::Unknown => TokenError::KeyUnknown,
            KeyError::Unavailable => TokenError::KeysUnavailable,
        })?;
        let key = jws.signed_by(&keys).ok_or(TokenError::SignatureInvalid)?.thumbprint();
        drop(turn);
        let signed = Signed { claims, key: Some(key), generation, until: None };
        issuer.rules.check(signed, jws.media_type.as_deref(), now)
    }

    /// Whether what was verified earlier would still be: not expired, by an issuer of ours, and under the same keys.
    pub fn still_holds(&self, token: &VerifiedToken, now: Timestamp) -> bool {
        token.expires > now && self.vouch(token, |keys| keys.generation() == token.generation)
    }

    /// How much longer what was begun with `token` may go on. Its issuer is not asked again.
    ///
    /// # Errors
    /// Why no longer.
    pub fn holds_for(&self, token: &VerifiedToken, now: Timestamp) -> Result<Duration, TokenError> {
        if self.denied.denies(token, now) {
            return Err(TokenError::Revoked);
        }
        // Others of its issuer's keys may come and go.
        let holds = |keys: &KeyRing| token.key.is_some_and(|key| keys.holds(key));
        if !self.vouch(token, |keys| keys.generation() == token.generation || holds(keys)) {
            return Err(TokenError::KeyUnknown);
        }
        if token.ends <= now { Err(TokenError::Expired) } else { Ok(token.ends.since(now)) }
    }

    fn vouch(&self, token: &VerifiedToken, by: impl Fn(&KeyRing) -> bool) -> bool {
        let same_rules = |rules: &Arc<Rules>| Arc::ptr_eq(rules, &token.rules);
        let signed = self.signing.get(token.issuer());
        signed.is_some_and(|it| same_rules(&it.rules) && by(&it.keys))
            || self.asked.iter().any(|it| same_rules(&it.rules))
    }

    /// What is refused although everything about it is right.
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Whether some tokens must come with a DPoP proof.
    pub fn asks_for_proofs(&self) -> bool {
        let mut rules = self.signing.values().map(|it| &it.rules).chain(self.asked.iter().map(|it| &it.rules));
        rules.any(|rules| rules.binding.key != Binding::Off)
    }

    /// The issuers that have no keys to verify with.
    pub fn without_keys(&self) -> Vec<&str> {
        self.rings().filter(|(_, ring)| ring.age.is_none()).map(|(name, _)| name).collect()
    }

    /// How each issuer's key ring fares.
    pub fn rings(&self) -> impl Iterator<Item = (&str, RingState)> {
        self.signing.iter().map(|(name, issuer)| (name.as_str(), issuer.keys.state()))
    }

    /// The keys that each issuer's tokens are verified by now.
    pub fn keys(&self) -> impl Iterator<Item = (&str, Option<Arc<KeySet>>)> {
        self.signing.iter().map(|(name, issuer)| (name.as_str(), issuer.keys.keys()))
    }

    /// How each issuer that is asked answers, whatever the tokens begin with.
    pub fn introspections(&self) -> BTreeMap<&str, IntrospectionState> {
        let mut sums: BTreeMap<&str, IntrospectionState> = BTreeMap::new();
        for introspector in &self.asked {
            let sum = sums.entry(introspector.rules.issuer.as_str()).or_default();
            *sum = sum.plus(introspector.state());
        }
        sums
    }

    /// Waits until every issuer's keys were fetched once, well or badly.
    pub async fn first_attempts(&self) {
        for issuer in self.signing.values() {
            issuer.keys.first_attempt().await;
        }
    }
}
