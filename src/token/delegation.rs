//! On whose behalf an agent acts, in one shape whatever the token's: `onBehalfOf` as an object or as JSON text, a flat
//! claim that the configuration names, or `act` of RFC 8693 section 4.1, in which the *token's* subject is the user and
//! the actors stand in `act`, the latest outermost.

use serde_json::{Map, Value};

use super::{
    TokenError,
    claims::{ClaimPath, Identifier},
};
use crate::base::json;

/// The claim that names the user.
const CLAIM: &str = "onBehalfOf";

/// How many actors may stand inside each other.
const ACTORS_MAX: usize = 8;

/// A complete delegation: there is no such value for an empty or partial one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    user: Identifier,
    attributes: Map<String, Value>,
    actors: Vec<Identifier>,
}

/// What a token says of a delegation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegated {
    /// Nothing, or `{}`: issuers do sign tokens with an empty delegation.
    Nobody,
    /// A whole one.
    User(Delegation),
    /// Something that names no user. It never stands for a user, and never for none where that matters.
    Unclear,
}

impl Delegated {
    /// What `claims` of `issuer` say; of the user by `user_claim`, where there is one, in place of `onBehalfOf`, which speaks
    /// of users of `user_issuer`.
    ///
    /// # Errors
    /// `DelegationConflict` when two claims name different users, or the user or an actor is another issuer's.
    pub(super) fn of(
        claims: &Map<String, Value>,
        user_claim: Option<&ClaimPath>,
        user_issuer: &str,
        issuer: &str,
    ) -> Result<Self, TokenError> {
        let stated = match user_claim {
            None => Self::on_behalf_of(claims.get(CLAIM)).checked(user_issuer)?,
            // Beside a claim that is no member of another stands the `iss` of the token itself.
            Some(claim) if !claim.is_nested() => Self::flat(claim.find(claims)),
            Some(claim) => Self::flat(claim.find(claims)).checked(user_issuer)?,
        };
        match (stated, Self::acting(claims, issuer)?) {
            (stated, Self::Nobody) => Ok(stated),
            (Self::Nobody, acting) => Ok(acting),
            (Self::User(stated), Self::User(acting)) if stated.user == acting.user => {
                Ok(Self::User(Delegation { actors: acting.actors, ..stated }))
            }
            _ => Err(TokenError::DelegationConflict),
        }
    }

    /// The same, unless it names an issuer of the user, and another than `user_issuer`.
    fn checked(self, user_issuer: &str) -> Result<Self, TokenError> {
        let named = self.user().and_then(|delegation| delegation.attributes.get("iss"));
        if is_of(named, user_issuer) { Ok(self) } else { Err(TokenError::DelegationConflict) }
    }

    /// Checks `may_act` (RFC 8693 section 4.4): where it stands beside a delegation, the one who acts must be the one who
    /// may, and both are of `issuer`. Alone it is no delegation.
    ///
    /// # Errors
    /// `DelegationConflict` when another acts.
    pub(super) fn check_actor(
        &self,
        claims: &Map<String, Value>,
        client: &Identifier,
        issuer: &str,
    ) -> Result<(), TokenError> {
        let (Some(may_act), Some(delegation)) = (claims.get("may_act"), self.user()) else { return Ok(()) };
        let acting = delegation.actors.first().unwrap_or(client);
        let may = may_act.get("sub").and_then(Value::as_str);
        let is_who_may = may == Some(acting.as_str()) && is_of(may_act.get("iss"), issuer);
        if is_who_may { Ok(()) } else { Err(TokenError::DelegationConflict) }
    }

    fn on_behalf_of(claim: Option<&Value>) -> Self {
        match claim {
            None | Some(Value::Null) => Self::Nobody,
            Some(Value::Object(members)) => Self::members(members),
            Some(Value::String(text)) if text.is_empty() => Self::Nobody,
            Some(Value::String(text)) => {
                json::parse_object(text.as_bytes()).map_or(Self::Unclear, |it| Self::members(&it))
            }
            Some(_) => Self::Unclear,
        }
    }

    fn members(members: &Map<String, Value>) -> Self {
        if members.is_empty() {
            return Self::Nobody;
        }
        Self::naming(members.get("sub"), members, Vec::new())
    }

    fn flat(found: Option<(&Value, &Map<String, Value>)>) -> Self {
        match found {
            None | Some((Value::Null, _)) => Self::Nobody,
            Some((Value::String(text), _)) if text.is_empty() => Self::Nobody,
            Some((user, beside)) => Self::naming(Some(user), beside, Vec::new()),
        }
    }

    /// An actor is known by its bare name, so that it must be one of `issuer`, whatever its `iss` may say (section 4.1).
    fn acting(claims: &Map<String, Value>, issuer: &str) -> Result<Self, TokenError> {
        let mut actors = Vec::new();
        let mut next = claims.get("act").filter(|act| !act.is_null());
        while let Some(actor) = next {
            let named = actor.get("sub").and_then(Value::as_str).and_then(Identifier::parse);
            match named {
                Some(named) if actors.len() < ACTORS_MAX => actors.push(named),
                _ => return Ok(Self::Unclear),
            }
            if !is_of(actor.get("iss"), issuer) {
                return Err(TokenError::DelegationConflict);
            }
            next = actor.get("act").filter(|act| !act.is_null());
        }
        Ok(if actors.is_empty() { Self::Nobody } else { Self::naming(claims.get("sub"), &Map::new(), actors) })
    }

    fn naming(user: Option<&Value>, attributes: &Map<String, Value>, actors: Vec<Identifier>) -> Self {
        let user = user.and_then(Value::as_str).and_then(Identifier::parse);
        user.map_or(Self::Unclear, |user| Self::User(Delegation { user, attributes: attributes.clone(), actors }))
    }

    /// The whole delegation, if it is one.
    pub const fn user(&self) -> Option<&Delegation> {
        match self {
            Self::User(delegation) => Some(delegation),
            Self::Nobody | Self::Unclear => None,
        }
    }
}

impl Delegation {
    /// The user acted for: `sub` in the user's own issuer.
    pub const fn user(&self) -> &Identifier {
        &self.user
    }

    /// What else the issuer says of the user.
    pub const fn attributes(&self) -> &Map<String, Value> {
        &self.attributes
    }

    /// Who acts, the latest first, where the token has `act`: bare names of the token's issuer.
    pub fn actors(&self) -> &[Identifier] {
        &self.actors
    }
}

/// Whether who stands beside `named`, an `iss` if there is one, is of `issuer`.
fn is_of(named: Option<&Value>, issuer: &str) -> bool {
    named.is_none_or(|named| named.as_str() == Some(issuer))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://agents.example";

    fn of(claims: impl Into<Value>) -> Result<Delegated, TokenError> {
        Delegated::of(claims.into().as_object().unwrap(), None, "https://users.example", ISSUER)
    }

    fn user_in(claims: Value) -> Option<String> {
        of(claims).unwrap().user().map(|delegation| delegation.user().as_str().to_owned())
    }

    #[test]
    fn only_a_whole_delegation_is_one() {
        assert_eq!(user_in(json!({ "onBehalfOf": { "sub": "user-1", "groups": [] } })), Some("user-1".into()));
        for nobody in [json!({}), json!(null), json!(""), json!("{}")] {
            assert_eq!(of(json!({ "onBehalfOf": nobody })), Ok(Delegated::Nobody), "{nobody}");
        }
        assert_eq!(of(json!({})), Ok(Delegated::Nobody));
        for unclear in [
            json!("user-1"),
            json!("{\"sub\":\"a\",\"sub\":\"b\"}"),
            json!("[\"user-1\"]"),
            json!(["user-1"]),
            json!(1),
            json!({ "username": "a" }),
            json!({ "sub": "" }),
            json!({ "sub": null }),
            json!({ "sub": 1 }),
            json!({ "sub": " user-1" }),
            json!({ "sub": "user-1\n" }),
            json!({ "sub": "user\u{0}-1" }),
            json!({ "sub": { "__entity": { "type": "User", "id": "victim" } } }),
        ] {
            assert_eq!(of(json!({ "onBehalfOf": unclear })), Ok(Delegated::Unclear), "{unclear}");
        }
    }

    #[test]
    fn json_text_says_the_same_as_an_object() {
        let object = json!({ "sub": "user-1", "username": "a" });
        assert_eq!(of(json!({ "onBehalfOf": object.to_string() })), of(json!({ "onBehalfOf": object })));
    }

    #[test]
    fn in_act_the_subject_is_the_user_and_the_outermost_actor_the_latest() {
        let chain = json!({ "sub": "user-1", "act": { "sub": "agent-2", "act": { "sub": "agent-1" } } });
        let delegated = of(chain).unwrap();
        let delegation = delegated.user().unwrap();
        let actors: Vec<_> = delegation.actors().iter().map(Identifier::as_str).collect();
        assert_eq!((delegation.user().as_str(), actors), ("user-1", vec!["agent-2", "agent-1"]));
        let deep = |depth| (0..depth).fold(json!({ "sub": "a" }), |act, _| json!({ "sub": "a", "act": act }));
        assert!(of(json!({ "sub": "u", "act": deep(ACTORS_MAX - 1) })).unwrap().user().is_some());
        for act in [json!({}), json!("a"), json!([]), json!({ "sub": "" }), deep(ACTORS_MAX)] {
            assert_eq!(of(json!({ "sub": "u", "act": act })), Ok(Delegated::Unclear), "{act}");
        }
        assert_eq!(of(json!({ "act": { "sub": "a" } })), Ok(Delegated::Unclear));
    }

    #[test]
    fn two_claims_that_name_different_users_are_refused() {
        let both =
            |user: Value, subject: &str| of(json!({ "onBehalfOf": user, "sub": subject, "act": { "sub": "agent" } }));
        let agreed = both(json!({ "sub": "user-1", "username": "a" }), "user-1").unwrap();
        assert_eq!((agreed.user().unwrap().actors().len(), agreed.user().unwrap().attributes().len()), (1, 2));
        assert!(both(json!({}), "user-1").unwrap().user().is_some());
        for (user, subject) in
            [(json!({ "sub": "user-2" }), "user-1"), (json!("x"), "user-1"), (json!({ "sub": "user-1" }), "")]
        {
            assert_eq!(both(user, subject), Err(TokenError::DelegationConflict));
        }
    }

    #[test]
    fn a_user_of_another_issuer_is_refused() {
        let of_issuer = |issuer: Value| of(json!({ "onBehalfOf": { "sub": "user-1", "iss": issuer } }));
        assert!(of_issuer(json!("https://users.example")).unwrap().user().is_some());
        for other in [json!("https://agents.example"), json!(""), json!(null), json!(["https://users.example"])] {
            assert_eq!(of_issuer(other.clone()), Err(TokenError::DelegationConflict), "{other}");
        }
    }

    #[test]
    fn an_actor_of_another_issuer_is_refused() {
        let acting = |act: Value| of(json!({ "sub": "user-1", "act": act }));
        let ours = json!({ "sub": "agent-2", "iss": ISSUER, "act": { "sub": "agent-1", "iss": ISSUER } });
        assert_eq!(acting(ours).unwrap().user().unwrap().actors().len(), 2);
        for other in [json!("https://users.example"), json!(""), json!(null), json!([ISSUER])] {
            let actor = json!({ "sub": "agent-1", "iss": other });
            assert_eq!(acting(actor.clone()), Err(TokenError::DelegationConflict), "{other}");
            let chain = json!({ "sub": "agent-2", "act": actor });
            assert_eq!(acting(chain), Err(TokenError::DelegationConflict), "{other}");
        }
    }

    #[test]
    fn who_acts_is_who_may() {
        let client = Identifier::parse("agent").unwrap();
        let check =
            |claims: Value| of(claims.clone()).unwrap().check_actor(claims.as_object().unwrap(), &client, ISSUER);
        let user = json!({ "sub": "user-1" });
        assert_eq!(check(json!({ "onBehalfOf": user, "may_act": { "sub": "agent" } })), Ok(()));
        assert_eq!(check(json!({ "may_act": { "sub": "other" } })), Ok(()));
        let chain = json!({ "sub": "other", "act": { "sub": "agent" } });
        assert_eq!(check(json!({ "sub": "u", "act": chain, "may_act": { "sub": "other" } })), Ok(()));
        assert_eq!(check(json!({ "onBehalfOf": user, "may_act": { "sub": "agent", "iss": ISSUER } })), Ok(()));
        for may in [
            json!({ "sub": "other" }),
            json!({}),
            json!(null),
            json!("agent"),
            json!({ "sub": ["agent"] }),
            json!({ "sub": "agent", "iss": "https://users.example" }),
            json!({ "sub": "agent", "iss": null }),
        ] {
            assert_eq!(
                check(json!({ "onBehalfOf": user, "may_act": may })),
                Err(TokenError::DelegationConflict),
                "{may}"
            );
        }
        assert!(check(json!({ "sub": "u", "act": chain, "may_act": { "sub": "agent" } })).is_err());
    }

    #[test]
    fn a_flat_claim_names_the_user_where_configured() {
        let of = |path: &str, claims: Value| {
            Delegated::of(claims.as_object().unwrap(), ClaimPath::parse(path).as_ref(), "", ISSUER).unwrap()
        };
        let flat = of("user_id", json!({ "user_id": "u", "department": "d", "onBehalfOf": { "sub": "other" } }));
        assert_eq!(
            flat.user().map(|it| (it.user().as_str(), it.attributes()["department"].as_str())),
            Some(("u", Some("d")))
        );
        assert_eq!(of("a.b", json!({ "a": { "b": "u" } })).user().unwrap().user().as_str(), "u");
        assert_eq!(of("a.b", json!({ "a": "u" })), Delegated::Nobody);
        assert_eq!(of("user_id", json!({ "user_id": "" })), Delegated::Nobody);
        assert_eq!(of("user_id", json!({ "user_id": 5 })), Delegated::Unclear);
        assert_eq!(ClaimPath::parse("a..b"), None);
    }

    #[test]
    fn a_configured_claim_names_no_user_of_another_issuer() {
        let of = |path: &str, claims: Value| {
            let (claims, path) = (claims.as_object().unwrap(), ClaimPath::parse(path));
            Delegated::of(claims, path.as_ref(), "https://users.example", ISSUER)
        };
        let nested = |issuer: &str| json!({ "onBehalfOf": { "username": "jane", "iss": issuer } });
        assert!(of("onBehalfOf.username", nested("https://users.example")).unwrap().user().is_some());
        let other = of("onBehalfOf.username", nested("https://agents.example"));
        assert_eq!(other, Err(TokenError::DelegationConflict));
        // Here it is the token's own.
        assert!(of("user_id", json!({ "user_id": "u", "iss": "https://agents.example" })).unwrap().user().is_some());
    }
}
