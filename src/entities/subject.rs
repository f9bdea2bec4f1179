//! Who asks, as Cedar sees them: built once per token and kept beside it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cedar_policy::{Context, Entities, Entity, EntityId, EntityUid, RestrictedExpression};
use serde_json::{Map, Value};

use super::{
    Lately, MappingError, Side, Types,
    schema::{Record, Type},
    sources::Draft,
    value::{Attributes, attributes, present},
};
use crate::{
    base::{json::Extent, origin::Origin},
    token::{VerifiedToken, cache::Remembered, claims::Identifier, delegation::Delegation},
};

/// A verified token with everything Cedar needs of it.
pub struct Subject {
    token: Arc<VerifiedToken>,
    names: Names,
    /// Those of the token that its client may use.
    scopes: Vec<String>,
    /// The token's claims with no other scopes, where it has others.
    limited: Option<Map<String, Value>>,
    agent: EntityUid,
    user: Option<EntityUid>,
    /// Both, as far as the token and what is written down tell of them.
    entities: Result<Entities, MappingError>,
    /// Where their attributes come from.
    origins: Vec<Origin>,
    /// By context type, built when first asked for.
    contexts: Box<[Said]>,
    lately: Lately,
}

/// What the token says in a context of one type.
#[derive(Default)]
struct Said {
    /// Its members, where a request adds others.
    members: OnceLock<Result<Attributes, MappingError>>,
    /// The whole context, where none does.
    context: OnceLock<Result<Context, MappingError>>,
}

/// What a subject takes without its claims, and what each value of a claim adds.
const SUBJECT_BYTES: usize = 7 * 1024 + 256;
const VALUE_BYTES: usize = 256;

/// The subject's names, as records speak of them.
#[derive(Clone, Debug)]
pub struct Names {
    /// `iss`.
    pub issuer: Arc<str>,
    /// The agent's Cedar id.
    pub agent: Arc<str>,
    /// The user's Cedar id.
    pub user: Option<Arc<str>>,
    /// The issuer of that user.
    pub user_issuer: Option<Arc<str>>,
    /// Who acts for that user, the latest first.
    pub actors: Arc<[String]>,
    /// The calling app.
    pub app: Option<Arc<str>>,
    /// The thumbprint of the key that signed the token, in base64url.
    pub key: Option<Arc<str>>,
}

impl Names {
    /// The names in `token`, of which `agent` is the principal's Cedar id.
    pub(super) fn of(token: &VerifiedToken, agent: String) -> Self {
        Self {
            issuer: token.issuer().into(),
            agent: agent.into(),
            user: token.user_id().map(Arc::from),
            user_issuer: token.user_issuer().map(Arc::from),
            actors: token.actors().iter().map(|actor| actor.as_str().to_owned()).collect(),
            app: token.caller_app().map(|app| app.as_str().into()),
            key: token.key().map(|key| URL_SAFE_NO_PAD.encode(key).into()),
        }
    }
}

impl Remembered for Subject {
    /// No less than what it takes, whatever its claims are, as far as was measured (docs/benchmarks.md).
    fn weight(&self) -> u64 {
        let user = self.token.delegation().map(Delegation::attributes);
        let claims = [Some(self.token.claims()), self.limited.as_ref(), user];
        let mut extent = Extent { values: self.scopes.len(), text: 0 };
        claims.into_iter().flatten().for_each(|claims| extent.add(claims));
        // A value stands in it as JSON, and again as Cedar has it.
        let bytes = extent.values.saturating_mul(VALUE_BYTES).saturating_add(extent.text.saturating_mul(3));
        u64::try_from(bytes.saturating_add(SUBJECT_BYTES)).unwrap_or(u64::MAX)
    }

    fn lifetime(&self) -> Duration {
        self.token.lifetime()
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Subject").field(&self.token).finish()
    }
}

impl Subject {
    pub(super) fn new(
        token: Arc<VerifiedToken>,
        names: Names,
        scopes: Vec<String>,
        said: Option<&Map<String, Value>>,
        types: &Types,
        contexts: usize,
    ) -> Result<Self, MappingError> {
        let mut origins = Vec::new();
        // INVARIANT: the operator's word goes before the token's.
        let agent = uid(&types.agent, &names.agent);
        // INVARIANT: a scope that does not count stands in no claim that anybody reads.
        let limited = (scopes != token.scopes()).then(|| with_scopes(token.claims(), &scopes));
        let claims = limited.as_ref().unwrap_or_else(|| token.claims());
        let own = types.profile.attributes(&token);
        let said = [("clients", said), ("token", Some(&own)), ("token", Some(claims))];
        let profile = &types.profile;
        let (parents, tags) = (profile.parents(&token, claims)?, profile.tags(claims));
        let agent = Draft { uid: agent, attributes: HashMap::new(), parents: parents.into_iter().collect(), tags };
        let agent = entity(agent, types, Side::Agent, &said, &mut origins)?;
        let user = match (&names.user, token.delegation()) {
            (Some(id), Some(delegation)) => {
                let said = [("token", Some(delegation.attributes()))];
                let user = types.user.as_ref().map(|kind| Draft::of(uid(kind, id)));
                user.map(|user| entity(user, types, Side::User, &said, &mut origins)).transpose()?
            }
            _ => None,
        };
        let contexts = (0..contexts).map(|_| Said::default()).collect();
        let lately = Lately::nothing();
        let (agent_uid, user_uid) = (agent.uid(), user.as_ref().map(Entity::uid));
        let entities = Entities::from_entities([agent].into_iter().chain(user), None);
        let entities = entities.map_err(|_| MappingError::ClaimMissing("entities".into()));
        Ok(Self {
            token,
            names,
            scopes,
            limited,
            agent: agent_uid,
            user: user_uid,
            entities,
            origins,
            contexts,
            lately,
        })
    }

    /// Its names.
    pub const fn names(&self) -> &Names {
        &self.names
    }
    /// The token.
    pub const fn token(&self) -> &Arc<VerifiedToken> {
        &self.token
    }
    /// What the token says, with no scopes but those that its client may use.
    pub fn claims(&self) -> &Map<String, Value> {
        self.limited.as_ref().unwrap_or_else(|| self.token.claims())
    }
    /// The scopes that it may use.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }
    /// The agent: the principal.
    pub const fn agent(&self) -> &EntityUid {
        &self.agent
    }
    /// The user acted for.
    pub const fn user(&self) -> Option<&EntityUid> {
        self.user.as_ref()
    }
    /// Both, as far as the token and what is written down tell of them.
    pub(super) fn entities(&self) -> Result<&Entities, MappingError> {
        self.entities.as_ref().map_err(Clone::clone)
    }
    /// What it asked lately.
    pub const fn lately(&self) -> &Lately {
        &self.lately
    }
    /// Where their attributes come from.
    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The context of the given type, with what one request adds.
    pub(super) fn context(&self, index: usize, ty: &Record, more: Attributes) -> Result<Context, MappingError> {
        let missing = |name: &str| MappingError::ClaimMissing(name.to_owned());
        let said = self.contexts.get(index).ok_or_else(|| missing("context"))?;
        let build = |members: Attributes| Context::from_pairs(members).map_err(|_| missing("token"));
        if more.is_empty() {
            return said.context.get_or_init(|| self.members(ty).and_then(build)).clone();
        }
        let members = said.members.get_or_init(|| self.members(ty)).as_ref().map_err(Clone::clone)?;
        Context::from_pairs(members.iter().chain(&more).cloned()).map_err(|_| {
            let wrong = more.into_iter().find(|member| Context::from_pairs([member.clone()]).is_err());
            wrong.map_or_else(|| missing("token"), |(name, _)| missing(&name))
        })
    }

    fn members(&self, ty: &Record) -> Result<Attributes, MappingError> {
        let mut members = Vec::with_capacity(2);
        for (name, attribute) in ty {
            let value = match (name.as_str(), &attribute.ty) {
                ("token", Type::Record(claims)) => Some(self.token_record(claims)?),
                ("delegation", Type::Record(fields)) => self.delegation(fields)?,
                // What the request itself adds is another's.
                ("request" | "consent" | "input", _) => continue,
                ("onBehalfOf", _) => self.user.as_ref().map(|user| RestrictedExpression::new_entity_uid(user.clone())),
                _ => None,
            };
            match value {
                Some(value) => members.push((name.clone(), value)),
                None if !attribute.required => {}
                None => return Err(MappingError::ClaimMissing(name.clone())),
            }
        }
        Ok(members)
    }

    /// `context.delegation`, if there is one: how many act for the user, and who.
    fn delegation(&self, ty: &Record) -> Result<Option<RestrictedExpression>, MappingError> {
        if self.token.delegation().is_none() {
            return Ok(None);
        }
        let actors = self.token.actors();
        let text = |actor: &Identifier| RestrictedExpression::new_string(actor.as_str().to_owned());
        let fields = ty.keys().filter_map(|name| {
            let value = match name.as_str() {
                "depth" => Some(RestrictedExpression::new_long(i64::try_from(actors.len()).unwrap_or(i64::MAX))),
                "actors" => Some(RestrictedExpression::new_set(actors.iter().map(text))),
                "actor" => actors.first().map(text),
                _ => None,
            };
            value.map(|value| (name.clone(), value))
        });
        let record = RestrictedExpression::new_record(fields);
        record.map(Some).map_err(|_| MappingError::ClaimMissing("delegation".into()))
    }

    /// `context.token`: the claims the schema knows, `scope` as a set of words.
    fn token_record(&self, ty: &Record) -> Result<RestrictedExpression, MappingError> {
        let as_words = ty.get("scope").is_some_and(|attribute| attribute.ty.is_set_of_text());
        let mut fields = attributes(ty.iter().filter(|(name, _)| !as_words || *name != "scope"), self.claims())?;
        if as_words {
            let words = self.scopes.iter().cloned().map(RestrictedExpression::new_string);
            fields.push(("scope".into(), RestrictedExpression::new_set(words)));
        }
        RestrictedExpression::new_record(fields).map_err(|_| MappingError::ClaimMissing("token".into()))
    }
}

/// Whether this is a member of `context.delegation`, of the type that it has.
pub(super) fn is_delegation(name: &str, ty: &Type) -> bool {
    match name {
        "depth" => *ty == Type::Long,
        "actor" => *ty == Type::String,
        "actors" => ty.is_set_of_text(),
        _ => false,
    }
}

/// The claims with these scopes in place of theirs, in the forms that they have.
fn with_scopes(claims: &Map<String, Value>, scopes: &[String]) -> Map<String, Value> {
    let mut claims = claims.clone();
    for name in ["scope", "scp"] {
        if let Some(claim) = claims.get_mut(name) {
            *claim = if claim.is_array() { scopes.into() } else { scopes.join(" ").into() };
        }
    }
    claims
}

fn uid(type_name: &cedar_policy::EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id))
}

/// An entity with those attributes of its type that are `said` of it, the earlier word before the later, and with what is
/// written down of it. What a source is to be asked for each time may be open.
fn entity(
    mut draft: Draft,
    types: &Types,
    side: Side,
    said: &[(&'static str, Option<&Map<String, Value>>)],
    origins: &mut Vec<Origin>,
) -> Result<Entity, MappingError> {
    let of = side.name();
    if let Some(shape) = types.schema.entity(draft.uid.type_name()) {
        for (source, values) in said {
            for (name, value) in present(shape, values.unwrap_or(&Map::new()))? {
                if let Entry::Vacant(open) = draft.attributes.entry(name) {
                    origins.push(Origin {
                        of,
                        name: open.key().as_str().into(),
                        source: (*source).into(),
                        age_s: None,
                    });
                    open.insert(value);
                }
            }
        }
    }
    types.store.fill(&mut draft, of, origins);
    if types.has_source(draft.uid.type_name()) { draft.seal() } else { draft.finish(&types.schema) }
}
