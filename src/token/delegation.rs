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

impl Delegation {
    /// The delegation in `claims`. `{}`, a missing or unusable `sub`, or another shape count as none: issuers do
    /// sign tokens with an empty delegation.
    pub(super) fn of(claims: &Map<String, Value>) -> Option<Self> {
        let attributes = claims.get(CLAIM)?.as_object()?;
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

    fn user_in(value: Value) -> Option<String> {
        let claims = Map::from_iter([(CLAIM.to_owned(), value)]);
        Delegation::of(&claims).map(|delegation| delegation.user().as_str().to_owned())
    }

    #[test]
    fn only_a_whole_delegation_is_one() {
        assert_eq!(user_in(json!({"sub": "user-1", "groups": []})), Some("user-1".into()));
        for none in [
            json!({}),
            json!(null),
            json!("user-1"),
            json!(["user-1"]),
            json!({"username": "a"}),
            json!({"sub": ""}),
            json!({"sub": null}),
            json!({"sub": 1}),
            json!({"sub": " user-1"}),
            json!({"sub": "user-1\n"}),
            json!({"sub": "user\u{0}-1"}),
            json!({"sub": {"__entity": {"type": "User", "id": "victim"}}}),
        ] {
            assert_eq!(user_in(none.clone()), None, "{none}");
        }
        assert_eq!(Delegation::of(&Map::new()), None);
    }
}
