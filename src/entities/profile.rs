//! How a token becomes a principal, by profile: our own, and those that policies in the field are written against.

use std::collections::HashMap;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    EntitiesConfig, MappingError,
    schema::{SchemaTypes, Type},
};
use crate::{
    base::{
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    token::{VerifiedToken, claims::Identifier},
};

/// Whose conventions policies are written by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProfileConfig {
    /// Ours: the principal is the agent by its client id, the user stands in the context.
    #[default]
    Portcullis,
    /// Amazon Verified Permissions, for access tokens: the principal is `<prefix>|<sub>`, its groups are its parents.
    Avp,
    /// Bedrock AgentCore Gateway: the principal is the bare `sub`, and every claim is a tag of it.
    Agentcore,
}

/// The section `entities.groups`: what the principal is in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupsConfig {
    /// The claim with their names: a list of texts, or one text.
    pub claim: Spanned<String>,
    /// Their Cedar type.
    pub r#type: Spanned<String>,
}

/// How a token becomes a principal; compiled.
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    /// The claim that names the principal, where it is not the client.
    claim: Option<String>,
    groups: Option<(String, EntityTypeName)>,
    /// Whether claims are tags.
    tags: bool,
}

impl ProfileConfig {
    /// Whether there must be a type for users.
    pub(super) fn speaks_of_users(self) -> bool {
        self == Self::Portcullis
    }
}

impl Profile {
    /// Compiles what `config` says of principals, which are of type `agent`.
    pub(super) fn compile(
        config: &EntitiesConfig,
        agent: &EntityTypeName,
        user: Option<&EntityTypeName>,
        schema: &SchemaTypes,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let profile = config.profile;
        let claim = match (&config.principal_claim, profile) {
            (Some(claim), ProfileConfig::Portcullis) => {
                problems.push(
                    Problem::at(claim, "`principal_claim`, but the principal is the client")
                        .fix("remove it, or choose `profile: avp`"),
                );
                None
            }
            (Some(claim), _) => Some(claim.value.clone()),
            (None, ProfileConfig::Portcullis) => None,
            (None, _) => Some("sub".to_owned()),
        };
        let groups = config.groups.as_ref().map(|groups| {
            let kind: Option<EntityTypeName> = groups.r#type.value.parse().ok();
            // A claim that names agents or users would let an issuer name another's.
            let kind = kind.filter(|kind| schema.may_be_in(agent, kind) && kind != agent && user != Some(kind));
            let kind = kind.ok_or_else(|| {
                Problem::at(
                    &groups.r#type,
                    format!("the schema has no groups `{}` that a `{agent}` may be in", groups.r#type.value),
                )
                .fix("declare it: `entity … in [Group]`")
            });
            kind.map(|kind| (groups.claim.value.clone(), kind))
        });
        let groups = problems.keep(groups.transpose());
        let tags = profile == ProfileConfig::Agentcore;
        if let Some(ty) = schema.tags(agent).filter(|ty| tags && **ty != Type::String) {
            problems.push(Problem::new(format!("tags of `{agent}` are claims, which are text, and not {ty:?}")));
        }
        problems.into_result(groups.map(|groups| Self { claim, groups, tags }))
    }

    /// The type of the groups that principals are in.
    pub(super) const fn group_type(&self) -> Option<&EntityTypeName> {
        match &self.groups {
            Some((_, kind)) => Some(kind),
            None => None,
        }
    }

    /// Whether principals have parents.
    pub(super) const fn gives_parents(&self) -> bool {
        self.groups.is_some()
    }

    /// Whether the principal is named by its client id.
    pub(super) const fn names_by_client(&self) -> bool {
        self.claim.is_none()
    }

    /// Whether principals have tags.
    pub(super) const fn gives_tags(&self) -> bool {
        self.tags
    }

    /// Whether policies can read this claim of a principal by what the profile does.
    pub(super) fn reads(&self, claim: &str) -> bool {
        self.tags
            || self.claim.as_deref() == Some(claim)
            || self.groups.as_ref().is_some_and(|(groups, _)| groups == claim)
    }

    /// The principal's Cedar id.
    ///
    /// # Errors
    /// `ClaimMissing`; `DelegationForbidden` where the principal is not who acts.
    pub(super) fn id(&self, token: &VerifiedToken) -> Result<String, MappingError> {
        let Some(claim) = &self.claim else { return Ok(token.agent_id()) };
        // By `act` (RFC 8693) another acts as the `sub`, which these conventions cannot tell.
        if token.delegation().is_some_and(|delegation| !delegation.actors().is_empty()) {
            return Err(MappingError::DelegationForbidden);
        }
        let named = token.claims().get(claim).and_then(Value::as_str).and_then(Identifier::parse);
        named.map(|named| token.agents_id(&named)).ok_or_else(|| MappingError::ClaimMissing(claim.clone()))
    }

    /// Attributes that the profile gives the principal: `id`, where claims are tags.
    pub(super) fn attributes(&self, token: &VerifiedToken) -> Map<String, Value> {
        let id = self.claim.as_ref().filter(|_| self.tags).and_then(|claim| token.claims().get(claim));
        id.map(|id| ("id".to_owned(), id.clone())).into_iter().collect()
    }

    /// What the principal is in by `claims`, which are those of the token that count.
    ///
    /// # Errors
    /// `ClaimMissing`, where the claim is there and names none.
    pub(super) fn parents(
        &self,
        token: &VerifiedToken,
        claims: &Map<String, Value>,
    ) -> Result<Vec<EntityUid>, MappingError> {
        let Some((claim, kind)) = &self.groups else { return Ok(Vec::new()) };
        let named = match claims.get(claim) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(names)) => names.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let group = |name: &Value| {
            let name = name.as_str().and_then(Identifier::parse);
            let name = name.ok_or_else(|| MappingError::ClaimMissing(claim.clone()))?;
            Ok(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(token.agents_id(&name))))
        };
        named.iter().map(group).collect()
    }

    /// The principal's tags: text as it is, everything else as JSON; what is `null` is not there.
    pub(super) fn tags(&self, claims: &Map<String, Value>) -> HashMap<String, RestrictedExpression> {
        let claims = claims.iter().filter(|(_, value)| self.tags && !value.is_null());
        let tag = |(name, value): (&String, &Value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.clone(), RestrictedExpression::new_string(text))
        };
        claims.map(tag).collect()
    }
}
