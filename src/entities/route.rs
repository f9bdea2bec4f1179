//! From an entry of `routes` to what the house does with its requests.

use std::collections::BTreeMap;

use cedar_policy::EntityUid;
use http::Method;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Side, Types,
    attribute::AttributeTemplate,
    consent::{Purpose, PurposeConfig},
    context::{self, Added, ContextPlan},
    plan::{Input, Requests, RoutePlan},
    schema::Action,
    template::EntityTemplate,
};
use crate::{
    base::{
        names::is_host,
        origin::Origin,
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    request::{
        body_bytes_max,
        cors::{Cors, CorsConfig},
        rewrite::Rewrite,
        route::{METHODS, PathTemplate},
    },
    token::claims::is_scope,
};

/// An entry of `routes`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The hosts that clients address it by. Default: any.
    #[serde(default)]
    pub hosts: Vec<Spanned<String>>,
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
    /// Members of `context.input`: text with holes, of the types that the schema gives them. Default: none.
    #[serde(default)]
    pub input: BTreeMap<String, Spanned<String>>,
    /// The store whose policies decide. Default: that of the host, or else `default`.
    pub store: Option<Spanned<String>>,
    /// The upstream that allowed requests go to, one of `upstreams`. Default: `upstream`.
    pub upstream: Option<Spanned<String>>,
    /// Bytes of a request body. Default: as `limits` says.
    pub body_bytes_max: Option<Spanned<u64>>,
    /// Literal segments that the path begins with and that the upstream does not get. Default: none.
    pub strip_prefix: Option<Spanned<String>>,
    /// Literal segments that the upstream's path begins with, before what is left. Default: none.
    pub add_prefix: Option<Spanned<String>>,
    /// Which web pages may call it. Default: what the upstream says of that.
    pub cors: Option<CorsConfig>,
}

/// Whether an agent must act for a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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
            let body_bytes_max = problems.keep(body_bytes_max(self.body_bytes_max.as_ref()));
            let context = problems.keep(self.context(action, types, contexts));
            let input = problems.keep(self.input(action, parameters));
            let attributes = problems.keep(self.attributes(&resource, parameters, types));
            let cors = problems.keep(self.cors.as_ref().map(Cors::compile).transpose());
            let template = template.as_ref()?;
            let rewrite =
                problems.keep(Rewrite::compile(self.strip_prefix.as_ref(), self.add_prefix.as_ref(), template));
            Some(RoutePlan {
                number: 0,
                name: self.name().into(),
                action_name: uid.to_string().into(),
                action_groups: types.schema.action_groups(&uid).to_vec(),
                action: uid,
                resource,
                attributes: attributes?,
                input: input?,
                scope: self.scope.as_ref().map(|scope| scope.value.clone()),
                delegation: self.delegation,
                principals: principals?,
                purpose: purpose?,
                store: self.store.as_ref().map(|store| store.value.clone()),
                upstream: self.upstream.as_ref().map(|upstream| upstream.value.as_str().into()),
                body_bytes_max: body_bytes_max?,
                rewrite: rewrite?,
                cors: cors?,
                context: context?,
            })
        })();
        let hosts = problems.keep(self.hosts());
        let requests = methods.zip(template).zip(hosts);
        let requests = requests.map(|((methods, template), hosts)| Requests { hosts, methods, template });
        problems.into_result(requests.zip(plan))
    }

    fn name(&self) -> String {
        let methods: Vec<_> = self.methods.value.iter().map(|method| method.value.as_str()).collect();
        let hosts: Vec<_> = self.hosts.iter().map(|host| host.value.as_str()).collect();
        format!("{} {}{}", methods.join(","), hosts.join(","), self.path.value)
    }

    fn hosts(&self) -> Result<Vec<String>, Problems> {
        let mut problems = Problems::default();
        let mut hosts: Vec<String> = Vec::new();
        for host in &self.hosts {
            if !is_host(&host.value) || hosts.contains(&host.value) {
                problems.push(
                    Problem::at(host, "not a host, or one that stands twice")
                        .fix("write it in lower case, without port and without a dot at its end"),
                );
            }
            hosts.push(host.value.clone());
        }
        problems.into_result(Some(hosts))
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
                Side::Agent => Some(&types.agent),
                Side::User => types.user.as_ref(),
            };
            let Some(kind) = kind else {
                let problem = Problem::at(&self.action, "users are asked about, and nothing says what they are");
                problems.push(problem.fix("name their type: `entities: { user: … }`"));
                continue;
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
        for of in types.subjects().chain([&resource.type_name]) {
            if let Some(unsupplied) = types.unsupplied(of) {
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
        let added = Added { consent: self.purpose.is_some(), input: !self.input.is_empty() };
        let compiled = ContextPlan::compile(action, types, added).map_err(|messages| {
            let fix = "the context may hold `token`, `onBehalfOf?`, `delegation?`, `consent?`, `input` and `request`, as docs/configuration.md says";
            Problems(messages.into_iter().map(|message| Problem::at(&self.action, message).fix(fix)).collect())
        })?;
        Ok(contexts.iter().position(|known| known.ty == compiled.ty).unwrap_or_else(|| {
            contexts.push(compiled);
            contexts.len().saturating_sub(1)
        }))
    }

    /// What `context.input` is made of.
    fn input(&self, action: &Action, parameters: &[String]) -> Result<Option<Input>, Problems> {
        let mut problems = Problems::default();
        let Some(known) = context::record(&action.context, "input") else {
            let unknown = self.input.values().map(|text| {
                Problem::at(text, "the schema gives the action no `context.input`").fix("declare it, or remove `input`")
            });
            problems.0.extend(unknown);
            return problems.into_result(Some(None));
        };
        let mut members = Vec::new();
        for (name, text) in &self.input {
            let template = match known.get(name) {
                Some(attribute) => AttributeTemplate::parse(&text.value, &attribute.ty, parameters)
                    .map(|template| (template.origin("input", name), template, attribute.required)),
                None => Err("the schema does not know it".to_owned()),
            };
            let template = template.map_err(|message| Problem::at(text, format!("`{name}`: {message}")));
            members.extend(problems.keep(template));
        }
        // One that the route leaves out would be there for no policy.
        for name in known.keys().filter(|name| !self.input.is_empty() && !self.input.contains_key(*name)) {
            let message =
                format!("the schema gives `context.input` a member `{name}`, which the route does not supply");
            problems.push(Problem::at(&self.action, message).fix(format!("add `input: {{ {name}: … }}`")));
        }
        problems.into_result(Some((!self.input.is_empty()).then_some(members)))
    }

    fn attributes(
        &self,
        resource: &EntityTemplate,
        parameters: &[String],
        types: &Types,
    ) -> Result<Vec<(String, AttributeTemplate, Origin)>, Problems> {
        let mut problems = Problems::default();
        let Some(shape) = types.schema.entity(&resource.type_name) else {
            let message = format!("the schema has no entity type `{}`", resource.type_name);
            return Err(Problem::at(&self.resource, message).fix("declare it: `entity Name = { … };`").into());
        };
        if types.subjects().any(|subject| *subject == resource.type_name) {
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
            attributes.extend(problems.keep(template).map(|template| {
                let origin = template.origin("resource", name);
                (name.clone(), template, origin)
            }));
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
