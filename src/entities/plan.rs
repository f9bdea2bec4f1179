//! What the house does with a route's requests: the Cedar action and resource they stand for, and what their token
//! must hold.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{Entity, EntityUid, RestrictedExpression};
use http::{HeaderName, Method};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    ContextPlan, MappingError, Side, Types,
    circumstances::Circumstances,
    consent::{Purpose, PurposeConfig, is_consent},
    schema::{Action, Type},
    sources::Draft,
    subject::is_delegation,
    template::{EntityTemplate, Filling, Hole, TextTemplate},
    value::{expression, expression_of_text},
};
use crate::{
    base::{
        origin::Origin,
        problem::{Problem, Problems},
    },
    request::route::{METHODS, PathTemplate},
    token::claims::is_scope,
};

/// An entry of `routes`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// HTTP methods, upper case. `GET` does not stand for `HEAD`.
    pub methods: Spanned<Vec<Spanned<String>>>,
    /// Path template: literal segments and `{parameter}` segments.
    pub path: Spanned<String>,
    /// Cedar action: its id, or `Type::"id"`.
    pub action: Spanned<String>,
    /// Cedar resource, `Type::"…{path.parameter}…"`.
    pub resource: Spanned<String>,
    /// Attributes of the resource: text, or `Type::"…"` for an entity. Default: none.
    #[serde(default)]
    pub attributes: BTreeMap<String, Spanned<String>>,
    /// A scope that the token must hold. Default: none.
    pub scope: Option<Spanned<String>>,
    /// Whether the agent must act for a user. Default: `required`.
    #[serde(default)]
    pub delegation: DelegationRule,
    /// For whom the question is put: each must be allowed. Default: as `entities` says.
    pub principals: Option<Spanned<Vec<Side>>>,
    /// What its requests are for: the user must have consented to that. Default: nothing that needs consent.
    pub purpose: Option<Spanned<PurposeConfig>>,
}

/// Whether an agent must act for a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DelegationRule {
    /// It must.
    #[default]
    Required,
    /// It may.
    Optional,
    /// It must not.
    Forbidden,
}

/// A route, compiled.
#[derive(Clone, Debug)]
pub struct RoutePlan {
    name: Arc<str>,
    action: EntityUid,
    action_name: Arc<str>,
    /// The action with the groups it is in, if any.
    action_groups: Vec<Entity>,
    resource: EntityTemplate,
    attributes: Vec<(String, AttributeTemplate)>,
    /// Where those attributes come from.
    origins: Vec<Origin>,
    scope: Option<String>,
    delegation: DelegationRule,
    principals: Vec<Side>,
    purpose: Option<Purpose>,
    /// Which of the mapping's contexts its action takes.
    pub(super) context: usize,
}

/// What an attribute of the resource is made of.
#[derive(Clone, Debug)]
enum AttributeTemplate {
    /// Text, read as a value of this type.
    Text(TextTemplate, Type),
    /// An entity.
    Entity(EntityTemplate),
    /// A claim of the token, whatever it is.
    Claim(TextTemplate, Type),
}

impl AttributeTemplate {
    /// Parses what makes an attribute of type `ty`.
    fn parse(text: &str, ty: &Type, parameters: &[String]) -> Result<Self, String> {
        if let Type::Entity(wanted) = ty {
            let entity = EntityTemplate::parse(text, parameters)?;
            return match entity.type_name == *wanted {
                true => Ok(Self::Entity(entity)),
                false => Err(format!("it is of type `{wanted}` in the schema")),
            };
        }
        let template = TextTemplate::parse(text, parameters)?;
        match (ty, template.sole()) {
            (Type::Set(_) | Type::Record(_), Some(Hole::Token(_) | Hole::UserMember(_))) => {
                Ok(Self::Claim(template, ty.clone()))
            }
            (Type::Set(_) | Type::Record(_), _) => {
                Err("a set or a record can be made of a claim alone, as in `{token.groups}`".into())
            }
            _ => Ok(Self::Text(template, ty.clone())),
        }
    }

    const fn text(&self) -> &TextTemplate {
        match self {
            Self::Text(text, _) | Self::Claim(text, _) => text,
            Self::Entity(entity) => &entity.id,
        }
    }

    fn fill(&self, from: Filling<'_>) -> Result<Option<RestrictedExpression>, MappingError> {
        match self {
            Self::Text(text, ty) => text.fill(from).map(|text| expression_of_text(ty, text)),
            Self::Entity(entity) => entity.fill(from).map(|uid| Some(RestrictedExpression::new_entity_uid(uid))),
            Self::Claim(text, ty) => {
                let claim = text.sole().and_then(|hole| hole.claim(from.subject));
                Ok(claim.and_then(|claim| expression(ty, claim)))
            }
        }
    }
}

/// A route's requests: methods and paths.
#[derive(Clone, Debug)]
pub struct Requests {
    /// The methods.
    pub methods: Vec<Method>,
    /// The paths.
    pub template: PathTemplate,
}

impl RouteConfig {
    /// Compiles the route. `contexts` collects the context types of all routes' actions.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub(super) fn compile(
        &self,
        types: &Types,
        contexts: &mut Vec<ContextPlan>,
    ) -> Result<(Requests, RoutePlan), Problems> {
        let mut problems = Problems::default();
        let methods = problems.keep(self.methods());
        let template = PathTemplate::parse(&self.path.value).map_err(|error| {
            Problem::at(&self.path, error.to_string())
                .fix("write `/literal/{parameter}`; a parameter is one whole segment")
        });
        let template = problems.keep(template);
        let action = problems.keep(self.action(types));
        let parameters = template.as_ref().map_or(&[][..], PathTemplate::parameters);
        let resource = EntityTemplate::parse(&self.resource.value, parameters).map_err(|message| {
            Problem::at(&self.resource, message)
                .fix("write `Type::\"…{path.parameter}…\"`, as in `UserData::\"{path.userId}\"`")
        });
        let resource = problems.keep(resource);
        if let Some(scope) = self.scope.as_ref().filter(|scope| !is_scope(&scope.value)) {
            problems.push(Problem::at(scope, "not a scope").fix("write one scope, without blanks or quotes"));
        }
        let plan = (|| {
            let (uid, action) = action?;
            let resource = resource?;
            let principals = problems.keep(self.principals(types));
            let purpose = problems.keep(self.purpose(types));
            problems.keep(self.applies(action, principals.as_deref().unwrap_or(&[Side::Agent]), &resource, types));
            let context = problems.keep(self.context(action, types, contexts));
            let attributes = problems.keep(self.attributes(&resource, parameters, types));
            let origin = |(name, template): &(String, AttributeTemplate)| Origin {
                of: "resource",
                name: name.as_str().into(),
                source: template.text().source().into(),
                age_s: None,
            };
            Some(RoutePlan {
                origins: attributes.iter().flatten().map(origin).collect(),
                name: self.name().into(),
                action_name: uid.to_string().into(),
                action_groups: types.schema.action_groups(&uid).to_vec(),
                action: uid,
                resource,
                attributes: attributes?,
                scope: self.scope.as_ref().map(|scope| scope.value.clone()),
                delegation: self.delegation,
                principals: principals?,
                purpose: purpose?,
                context: context?,
            })
        })();
        let requests = methods.zip(template).map(|(methods, template)| Requests { methods, template });
        problems.into_result(requests.zip(plan))
    }

    fn name(&self) -> String {
        let methods: Vec<_> = self.methods.value.iter().map(|method| method.value.as_str()).collect();
        format!("{} {}", methods.join(","), self.path.value)
    }

    fn methods(&self) -> Result<Vec<Method>, Problems> {
        let mut problems = Problems::default();
        let known = |name: &Spanned<String>| {
            METHODS.into_iter().find(|method| method.as_str() == name.value).ok_or_else(|| {
                Problem::at(name, format!("`{}` is not a method that can be routed", name.value))
                    .fix(format!("choose from {}", METHODS.map(|method| method.to_string()).join(", ")))
            })
        };
        let mut methods: Vec<Method> = Vec::new();
        for name in &self.methods.value {
            match problems.keep(known(name)) {
                Some(method) if methods.contains(&method) => {
                    problems.push(Problem::at(name, "this method stands twice"));
                }
                method => methods.extend(method),
            }
        }
        if self.methods.value.is_empty() {
            problems
                .push(Problem::at(&self.methods, "a route without methods").fix("name at least one, as in `[GET]`"));
        }
        problems.into_result(Some(methods))
    }

    fn action<'t>(&self, types: &'t Types) -> Result<(EntityUid, &'t Action), Problem> {
        let uid: Option<EntityUid> = if self.action.value.contains("::\"") {
            self.action.value.parse().ok()
        } else {
            let namespace = types.agent.namespace();
            let kind = if namespace.is_empty() { "Action".into() } else { format!("{namespace}::Action") };
            let kind = kind.parse().ok();
            kind.map(|kind| EntityUid::from_type_name_and_id(kind, cedar_policy::EntityId::new(&self.action.value)))
        };
        uid.and_then(|uid| types.schema.action(&uid).map(|action| (uid, action))).ok_or_else(|| {
            Problem::at(
                &self.action,
                format!("the schema has no action `{}` that applies to anything", self.action.value),
            )
            .fix(format!("it has {}", types.schema.action_names().join(", ")))
        })
    }

    /// For whom the question is put.
    fn principals(&self, types: &Types) -> Result<Vec<Side>, Problem> {
        let Some(named) = self.principals.as_ref().or(types.principals.as_ref()) else { return Ok(vec![Side::Agent]) };
        let twice = named
            .value
            .iter()
            .enumerate()
            .any(|(index, side)| named.value.iter().skip(index.saturating_add(1)).any(|it| it == side));
        if named.value.is_empty() || twice {
            return Err(
                Problem::at(named, "not a list of principals").fix("write `[agent]`, `[user]` or `[agent, user]`")
            );
        }
        if named.value.contains(&Side::User) && self.delegation != DelegationRule::Required {
            return Err(Problem::at(
                named,
                format!("`{}` lets agents in that act for no user, who could not be asked about", self.path.value),
            )
            .fix("make the route `delegation: required`, or give it `principals: [agent]`"));
        }
        Ok(named.value.clone())
    }

    fn purpose(&self, types: &Types) -> Result<Option<Purpose>, Problem> {
        let Some(named) = &self.purpose else { return Ok(None) };
        if self.delegation != DelegationRule::Required {
            return Err(Problem::at(named, "an agent that acts for nobody could have nobody's consent")
                .fix("make the route `delegation: required`"));
        }
        if types.consents.is_empty() {
            return Err(Problem::at(named, "nobody could have consented: every request would be `consent_missing`")
                .fix("say where consents are: `consents: { files: […] }` or `consents: { lookup: … }`"));
        }
        let purpose = named.value.compile();
        purpose.map(Some).map_err(|message| {
            Problem::at(named, message).fix("write `{ is: … }`, `{ claim: … }` or `{ authorization_detail: … }`")
        })
    }

    fn applies(
        &self,
        action: &Action,
        principals: &[Side],
        resource: &EntityTemplate,
        types: &Types,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for side in principals {
            let kind = match side {
                Side::Agent => &types.agent,
                Side::User => &types.user,
            };
            if !action.principals.contains(kind) {
                let message =
                    format!("the schema does not apply `{}` to principals of type `{kind}`", self.action.value);
                problems.push(Problem::at(&self.action, message).fix("add it to `appliesTo { principal: [...] }`"));
            }
        }
        if !action.resources.contains(&resource.type_name) {
            let message = format!(
                "the schema does not apply `{}` to resources of type `{}`",
                self.action.value, resource.type_name
            );
            problems.push(Problem::at(&self.resource, message).fix("add it to `appliesTo { resource: [...] }`"));
        }
        for of in [&types.agent, &types.user, &resource.type_name] {
            let written = |unsupplied: &&str| *unsupplied == "parents" && types.has_parents(of);
            if let Some(unsupplied) = types.schema.unsupplied(of).filter(|unsupplied| !written(unsupplied)) {
                let message = format!(
                    "the schema gives `{of}` {unsupplied}, which nothing supplies: a policy about them would never apply"
                );
                problems.push(Problem::at(&self.resource, message).fix("use attributes instead"));
            }
        }
        problems.into_result(Some(()))
    }

    /// Finds the action's context type among `contexts`, or adds it.
    fn context(&self, action: &Action, types: &Types, contexts: &mut Vec<ContextPlan>) -> Result<usize, Problems> {
        let mut problems = Problems::default();
        let mut circumstances = None;
        for (name, attribute) in &action.context {
            let message = match (name.as_str(), &attribute.ty) {
                ("token", Type::Record(claims)) => match claims.iter().find(|(_, it)| types.names_subject(&it.ty)) {
                    None => continue,
                    Some((claim, _)) => {
                        format!("claim `{claim}` names agents or users, which only the token's subject does")
                    }
                },
                ("onBehalfOf", Type::Entity(user)) if *user == types.user => continue,
                ("delegation", Type::Record(fields)) => {
                    match fields.iter().find(|(name, it)| !is_delegation(name, &it.ty)) {
                        None => continue,
                        Some((field, _)) => format!("nothing supplies `context.delegation.{field}` of that type"),
                    }
                }
                ("consent", Type::Record(fields)) => {
                    match fields.iter().find(|(name, it)| !is_consent(name, &it.ty, it.required)) {
                        None if self.purpose.is_some() || !attribute.required => continue,
                        None => "the schema requires `context.consent`, and the route names no `purpose`".to_owned(),
                        Some((field, _)) => format!("nothing supplies `context.consent.{field}` of that type"),
                    }
                }
                ("request", Type::Record(fields)) => match Circumstances::compile(fields) {
                    Ok(compiled) => {
                        circumstances = Some(compiled);
                        continue;
                    }
                    Err(message) => message,
                },
                ("token" | "delegation" | "request" | "consent", _) => {
                    format!("the schema's `context.{name}` is not a record")
                }
                ("onBehalfOf", _) => format!("the schema's `context.onBehalfOf` is not of type `{}`", types.user),
                _ => format!("nothing supplies `context.{name}`"),
            };
            problems.push(Problem::at(&self.action, message).fix(
                "the context may hold `token`, `onBehalfOf?`, `delegation?`, `consent?` and `request`, as docs/configuration.md says",
            ));
        }
        let index = contexts.iter().position(|known| known.ty == action.context).unwrap_or_else(|| {
            contexts.push(ContextPlan { ty: action.context.clone(), circumstances });
            contexts.len().saturating_sub(1)
        });
        problems.into_result(Some(index))
    }

    fn attributes(
        &self,
        resource: &EntityTemplate,
        parameters: &[String],
        types: &Types,
    ) -> Result<Vec<(String, AttributeTemplate)>, Problems> {
        let mut problems = Problems::default();
        let Some(shape) = types.schema.entity(&resource.type_name) else {
            let message = format!("the schema has no entity type `{}`", resource.type_name);
            return Err(Problem::at(&self.resource, message).fix("declare it: `entity Name = { … };`").into());
        };
        if resource.type_name == types.agent || resource.type_name == types.user {
            // INVARIANT: what is said of the subject is the token's word, never the path's.
            let stated = self.attributes.values().map(|text| {
                Problem::at(text, format!("attributes of `{}` come from the token alone", resource.type_name))
                    .fix("remove them, or give the resource a type of its own")
            });
            problems.0.extend(stated);
        }
        let mut attributes = Vec::new();
        for (name, text) in &self.attributes {
            let template = match shape.get(name).map(|attribute| &attribute.ty) {
                Some(ty) => AttributeTemplate::parse(&text.value, ty, parameters).and_then(|template| {
                    match template.text().said_by_client().filter(|_| types.names_subject(ty)) {
                        // INVARIANT: whose a resource is, is not for its reader to say.
                        Some(hole) => {
                            Err(format!("who `{name}` is, `{{{hole}}}` cannot say: whoever asks fills it in"))
                        }
                        None => Ok(template),
                    }
                }),
                None => Err(format!("the schema gives `{}` no attribute `{name}`", resource.type_name)),
            };
            let template = template.map_err(|message| Problem::at(text, format!("`{name}`: {message}")));
            attributes.extend(problems.keep(template).map(|template| (name.clone(), template)));
        }
        let is_asked = !types.store.is_empty() || types.has_source(&resource.type_name);
        let lacks = |name: &String| !self.attributes.contains_key(name) && !is_asked;
        for (name, _) in shape.iter().filter(|(name, it)| it.required && lacks(name)) {
            let message = format!("the schema requires attribute `{name}` of `{}`", resource.type_name);
            problems.push(Problem::at(&self.resource, message).fix(format!("add `attributes: {{ {name}: … }}`")));
        }
        problems.into_result(Some(attributes))
    }
}

impl RoutePlan {
    /// Methods and path as configured, for records and metrics.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }
    /// The scope a token must hold.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }
    /// Whether the agent must act for a user.
    pub const fn delegation(&self) -> DelegationRule {
        self.delegation
    }
    /// For whom the question is put; one at least.
    pub(super) fn principals(&self) -> &[Side] {
        &self.principals
    }
    /// What its requests are for, where that needs consent.
    pub(super) const fn purpose(&self) -> Option<&Purpose> {
        self.purpose.as_ref()
    }
    /// The Cedar action.
    pub const fn action(&self) -> &EntityUid {
        &self.action
    }
    /// The Cedar action as text.
    pub const fn action_name(&self) -> &Arc<str> {
        &self.action_name
    }

    /// The action with the groups it is in.
    pub(super) fn action_groups(&self) -> &[Entity] {
        &self.action_groups
    }

    /// Where the attributes come from that the route gives the resource.
    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The header fields that the resource and its attributes are made of.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let attributes = self.attributes.iter().map(|(_, attribute)| attribute.text());
        std::iter::once(&self.resource.id).chain(attributes).flat_map(TextTemplate::headers)
    }

    /// The resource that a request names, with the attributes that the route gives it.
    pub(super) fn resource(&self, from: Filling<'_>) -> Result<Draft, MappingError> {
        let uid = self.resource.fill(from)?;
        let mut attributes = HashMap::with_capacity(self.attributes.len());
        for (name, template) in &self.attributes {
            let value = template.fill(from)?.ok_or_else(|| MappingError::ClaimMissing(name.clone()))?;
            attributes.insert(name.clone(), value);
        }
        Ok(Draft { uid, attributes, parents: HashSet::new() })
    }
}
