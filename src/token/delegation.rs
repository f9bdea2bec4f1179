//! On whose behalf an agent acts, in one shape whatever the token's.

use serde_json::{Map, Value};

use super::claims::Identifier;

/// The claim that names the user.
const CLAIM: &str = "onBehalfOf";

/// A complete delegation: there is no such value for an empty or partial one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    user: Identifier,
    attributes: Map<String, Value>,
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
    pub(super) fn of(claims: &Map<String, Value>) -> Self {
        match claims.get(CLAIM) {
            None | Some(Value::Null) => Self::Nobody,
            Some(Value::Object(members)) if members.is_empty() => Self::Nobody,
            Some(claim) => Delegation::parse(claim).map_or(Self::Unclear, Self::User),
        }
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
    fn parse(claim: &Value) -> Option<Self> {
        let attributes = claim.as_object()?;
        let user = Identifier::parse(attributes.get("sub")?.as_str()?)?;
        Some(Self { user, attributes: attributes.clone() })
    }

    /// The user acted for: `sub` in the user's own issuer.
    pub const fn user(&self) -> &Identifier {
        &self.user
    }

    /// What else the issuer says of the user.
    pub const fn attributes(&self) -> &Map<String, Value> {
        &self.attributes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn delegated(value: Value) -> Delegated {
        Delegated::of(&Map::from_iter([(CLAIM.to_owned(), value)]))
    }

    #[test]
    fn only_a_whole_delegation_is_one() {
        let whole = delegated(json!({ "sub": "user-1", "groups": [] }));
        assert_eq!(whole.user().map(|delegation| delegation.user().as_str()), Some("user-1"));
        for nobody in [json!({}), json!(null)] {
            assert_eq!(delegated(nobody.clone()), Delegated::Nobody, "{nobody}");
        }
        assert_eq!(Delegated::of(&Map::new()), Delegated::Nobody);
        for unclear in [
            json!("user-1"),
            json!(["user-1"]),
            json!({ "username": "a" }),
            json!({ "sub": "" }),
            json!({ "sub": null }),
            json!({ "sub": 1 }),
            json!({ "sub": " user-1" }),
            json!({ "sub": "user-1\n" }),
            json!({ "sub": "user\u{0}-1" }),
            json!({ "sub": { "__entity": { "type": "User", "id": "victim" } } }),
        ] {
            assert_eq!(delegated(unclear.clone()), Delegated::Unclear, "{unclear}");
        }
    }
}
