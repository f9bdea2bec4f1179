//! ROOM 3: from a token and a request to the question put to Cedar (XACML's context handler). Values are made by
//! constructors under the schema's direction, never by parsing claims as Cedar.

mod attribute;
mod beside;
mod circumstances;
pub mod clients;
pub mod consent;
mod context;
mod extension;
pub mod hiding;
mod lately;
pub mod lookup;
pub mod plan;
pub mod profile;
pub mod recorded;
mod requirements;
pub mod route;
pub mod schema;
pub mod sources;
mod store;
pub mod subject;
pub mod supply;
pub mod template;
mod types;
pub mod value;

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use cedar_policy::{Entities, EntityUid, Request};
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{
    circumstances::Circumstances,
    clients::{ClientConfig, Clients},
    context::ContextPlan,
    hiding::Recording,
    plan::Requests,
    profile::{GroupsConfig, ProfileConfig},
    sources::{SourceConfig, Sources},
    template::Filling,
};
pub use self::{
    lately::Lately,
    plan::RoutePlan,
    route::{DelegationRule, RouteConfig},
    subject::{Names, Subject},
    types::Types,
};
use crate::{
    base::{clock::Timestamp, origin::Origin, outside::Outside, problem::Problems, pseudonym::Kind, spanned::Spanned},
    request::{Inbound, route::Match},
    token::{VerifiedToken, binding::Possession},
};

/// The section `entities`: the schema's names for those who ask, and what is written down of entities.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EntitiesConfig {
    /// Whose conventions policies are written by. Default `portcullis`.
    pub profile: ProfileConfig,
    /// The claim that names the principal, where that is not the client. Default `sub`.
    pub principal_claim: Option<Spanned<String>>,
    /// What the principal is in. Default nothing.
    pub groups: Option<GroupsConfig>,
    /// Type of agents. Default `Agent`.
    pub agent: Option<Spanned<String>>,
    /// Type of users. Default `User`.
    pub user: Option<Spanned<String>>,
    /// For whom a question is put, where a route does not say. Default the agent.
    pub principals: Option<Spanned<Vec<Side>>>,
    /// Files of entities, in Cedar's JSON. Default none.
    pub files: Vec<Spanned<PathBuf>>,
    /// Who is asked, in this order, what neither tokens nor paths nor files say. Default nobody.
    pub sources: Vec<SourceConfig>,
}

/// Why no question could be put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The route asks for a scope that the token does not hold.
    #[error("scope `{0}` is missing")]
    ScopeMissing(String),
    /// The route asks for a user, and the agent acts for none.
    #[error("the agent acts for no user")]
    DelegationMissing,
    /// The token's delegation names no user but is not empty, so that nobody can say whether there is one.
    #[error("the delegation is neither empty nor names a user")]
    DelegationUnclear,
    /// The route is for agents on their own, and this one acts for a user.
    #[error("the agent acts for a user where it must not")]
    DelegationForbidden,
    /// The configuration speaks of clients, and not of this one.
    #[error("the client is not listed")]
    ClientUnlisted,
    /// More written-down entities could be reached than may stand beside a question.
    #[error("too many entities can be reached")]
    EntitiesTooMany,
    /// The client may not be called by this app.
    #[error("the client may not be called by this app")]
    AppRefused,
    /// The user has not consented to this; where that could be done.
    #[error("the user has not consented")]
    ConsentMissing(Option<Arc<str>>),
    /// A source of attributes, by name, cannot be asked, or does not answer well.
    #[error("source `{0}` cannot be asked")]
    SourceUnavailable(String),
    /// A source of attributes, by name, did not answer in time.
    #[error("source `{0}` did not answer in time")]
    SourceTimedOut(String),
    /// The schema requires a claim that is absent or does not fit its type.
    #[error("claim `{0}` is missing or does not fit the schema")]
    ClaimMissing(String),
}

/// A principal that a question is put for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The agent.
    Agent,
    /// The user it acts for.
    User,
}

impl Side {
    /// As the configuration and records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::User => "user",
        }
    }
}

/// A question for Cedar: may this principal do this to that, under these circumstances? Put for one principal, or for
/// several, each of whom must be allowed.
#[derive(Debug)]
pub struct DecisionRequest {
    /// Principal, action, resource and context; one at least.
    pub(crate) requests: Vec<(Side, Request)>,
    /// The entities that policies may look at.
    pub(crate) entities: Entities,
    /// Where the attributes of agent, user and resource come from.
    pub(crate) origins: Vec<Origin>,
}

impl DecisionRequest {
    /// What it is about.
    pub fn about(&self) -> Option<&EntityUid> {
        self.requests.first()?.1.resource()
    }

    /// The resource, for records.
    pub fn resource(&self, recording: &Recording) -> Option<String> {
        let resource = self.about()?;
        Some(match &recording.pseudonyms {
            None => resource.to_string(),
            Some(pseudonyms) => {
                format!("{}::\"{}\"", resource.type_name(), pseudonyms.of(Kind::Id, resource.id().unescaped()))
            }
        })
    }
}

/// How tokens and requests become questions.
#[derive(Debug)]
pub struct Mapping {
    types: Types,
    clients: Clients,
    contexts: Vec<ContextPlan>,
    /// Claims that somebody reads.
    claims: HashSet<String>,
}

/// Claims that are read when a token is verified.
const VERIFIED: [&str; 22] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "cnf",
    "act",
    "may_act",
    "onBehalfOf",
    "token_use",
    "token_type",
    "active",
    "client_id",
    "azp",
    "cid",
    "appid",
    "scope",
    "scp",
    "callerApp",
    "typ",
];

impl Mapping {
    /// Compiles the mapping of `routes`, and what is said of `clients` of these `issuers`.
    ///
    /// # Errors
    /// Every problem of every route.
    pub fn compile(
        types: Types,
        routes: &[RouteConfig],
        clients: &[ClientConfig],
        issuers: &[&str],
    ) -> Result<(Self, Vec<(Requests, RoutePlan)>), Problems> {
        let mut problems = Problems::default();
        let clients = problems.keep(Clients::compile(clients, issuers, &types));
        let mut contexts = Vec::new();
        let mut plans: Vec<_> =
            routes.iter().filter_map(|route| problems.keep(route.compile(&types, &mut contexts))).collect();
        plans.iter_mut().enumerate().for_each(|(number, (_, plan))| plan.number = number);
        let asked = types.subjects().chain(plans.iter().map(|(_, plan)| plan.resource_type())).collect();
        for source in &types.sources {
            problems.keep(source.check(&asked));
        }
        let in_contexts = contexts.iter().filter_map(|context| context.record("token")).flat_map(|token| token.keys());
        let in_agent = types.schema.entity(&types.agent).into_iter().flat_map(|shape| shape.keys());
        let in_plans = plans.iter().flat_map(|(_, plan): &(_, RoutePlan)| plan.claims()).map(str::to_owned);
        let claims = in_contexts.chain(in_agent).cloned().chain(in_plans).chain(VERIFIED.map(str::to_owned)).collect();
        problems.into_result(clients.map(|clients| (Self { types, clients, contexts, claims }, plans)))
    }

    /// The names in a token, as records speak of them.
    ///
    /// # Errors
    /// `ClaimMissing`, where it names no principal.
    pub fn names(&self, token: &VerifiedToken) -> Result<Names, MappingError> {
        Ok(Names::of(token, self.types.profile.id(token)?))
    }

    /// How many claims of a token nobody reads.
    pub fn unread(&self, token: &VerifiedToken) -> usize {
        let is_read = |claim: &&String| {
            self.claims.contains(*claim) || self.types.profile.reads(claim) || token.names_user_by(claim)
        };
        token.claims().keys().filter(|claim| !is_read(claim)).count()
    }

    /// What Cedar needs of a token: once per token.
    ///
    /// # Errors
    /// `ClientUnlisted`, `AppRefused` or `ClaimMissing`.
    pub fn subject(&self, token: Arc<VerifiedToken>, names: Names) -> Result<Subject, MappingError> {
        let limited = self.clients.limit(&token)?;
        let (scopes, attributes) = (limited.scopes, limited.attributes);
        Subject::new(token, names, scopes, attributes, &self.types, self.contexts.len())
    }

    /// The header fields that policies can read.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.contexts.iter().filter_map(|context| context.circumstances.as_ref()).flat_map(Circumstances::headers)
    }

    /// Whether policies can read the host that the client addresses.
    pub fn names_host(&self) -> bool {
        self.contexts.iter().filter_map(|context| context.circumstances.as_ref()).any(Circumstances::names_host)
    }

    /// The members of `context.request` that may be another for each request of one token, method and path, where nothing
    /// else of the question is, and neither is whether there is one. `None` where something else may be: what a source or a
    /// consent says, what the route makes of other parts of the request, or what a request may lack.
    pub fn varying(&self, plan: &RoutePlan) -> Option<Vec<&str>> {
        let mut asked = self.types.subjects().chain([plan.resource_type()]);
        if !plan.is_settled() || asked.any(|kind| self.types.has_source(kind)) {
            return None;
        }
        match &self.contexts.get(plan.context)?.circumstances {
            Some(circumstances) => circumstances.varying(),
            None => Some(Vec::new()),
        }
    }

    /// Puts the sources to work, that are asked for attributes; what those `before` have heard is taken over.
    pub fn sources(&self, outside: &Outside, before: Option<&Sources>) -> Sources {
        Sources::start(&self.types.sources, &self.types.consents, outside, before)
    }

    /// The question that a request puts, whose sender may use the subject's token.
    ///
    /// # Errors
    /// [`MappingError`] when the token does not hold what the route asks for, or a source cannot be asked.
    pub async fn question(
        &self,
        sources: &Sources,
        found: &Match<'_, '_, RoutePlan>,
        subject: &Subject,
        _: &Possession,
        inbound: &Inbound<'_>,
        now: Timestamp,
    ) -> Result<DecisionRequest, MappingError> {
        let plan = found.route;
        requirements::check(plan, subject)?;
        let missing = |name: &str| MappingError::ClaimMissing(name.to_owned());
        let kind = self.contexts.get(plan.context).ok_or_else(|| missing("context"))?;
        let mut added = Vec::new();
        if let Some(circumstances) = &kind.circumstances {
            added.push(("request".to_owned(), circumstances.record(inbound, now)?));
        }
        let filling = Filling { parameters: &found.parameters, subject, inbound };
        let mut origins = subject.origins().to_vec();
        if let Some(input) = plan.input(filling, &mut origins)? {
            added.push(("input".to_owned(), input));
        }
        if let Some(purpose) = plan.purpose() {
            let action = plan.action().id().unescaped();
            let ty = kind.record("consent");
            let given = sources.consents.find(purpose, subject, action, ty, now).await?;
            origins.push(given.origin);
            added.extend(given.record.map(|consent| ("consent".to_owned(), consent)));
        }
        let context = subject.context(plan.context, &kind.ty, added)?;
        let (schema, store) = (&self.types.schema, &self.types.store);
        let mut resource = plan.resource(filling, &mut origins)?;
        let about = resource.uid.clone();
        // Who asks may be what is asked about: that is one entity, of which the token has the word.
        let resource = match *subject.agent() == about || subject.user() == Some(&about) {
            true => None,
            false => {
                store.fill(&mut resource, "resource", &mut origins);
                sources.fill(&mut resource, "resource", schema, &mut origins).await?;
                Some(resource.finish(schema)?)
            }
        };
        let known = subject.entities()?;
        let of = |uid| known.get(uid).ok_or_else(|| missing("entities"));
        let agent = self.complete(subject, of(subject.agent())?, Side::Agent, sources, &mut origins).await?;
        let user = match subject.user() {
            Some(user) => Some(self.complete(subject, of(user)?, Side::User, sources, &mut origins).await?),
            None => None,
        };
        let mut requests = Vec::with_capacity(plan.principals().len());
        for side in plan.principals() {
            let principal = match side {
                Side::Agent => &*agent,
                Side::User => user.as_deref().ok_or(MappingError::DelegationMissing)?,
            };
            let request = Request::new(principal.uid(), plan.action().clone(), about.clone(), context.clone(), None);
            requests.push((*side, request.map_err(|_| missing("request"))?));
        }
        let named = kind.named_in(&context);
        let entities = self.together(known, [Some(&agent), user.as_ref()], resource, named, plan)?;
        Ok(DecisionRequest { requests, entities, origins })
    }
}

#[cfg(all(test, feature = "doors"))]
mod tests {
    use cedar_policy::Entity;
    use http::{HeaderMap, Method, header};
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::{consent::ConsentsConfig, *};
    use crate::{
        authoring::keys::SigningKey,
        base::files::Files,
        config,
        policy::PolicyFiles,
        request::{Head, Limits, path::Target, route::RouteTable},
        server::fetch::HttpFetch,
        token::{Issuers, Presented, Trust, issuer::Rules},
    };

    const CONFIG: &str = "
listen: 127.0.0.1:1
upstream: { url: 'http://127.0.0.1:1' }
issuers: [oidc_generic: { issuer: 'https://a.example', audiences: [api], jwks_file: keys.json }]
routes:
  - { methods: [GET], path: '/{id}', action: read, resource: 'Doc::\"{path.id}\"', delegation: optional,
      attributes: { owner: 'User::\"{path.id}\"', title: '{path.id}' } }
";
    const SCHEMA: &str = "
        entity User = { a?: String, b?: Long, c?: Set<String> };
        entity Agent = { a?: String, d?: Bool };
        entity Doc = { owner: User, title: String };
        type Token = { scope: Set<String>, a?: String, b?: Long, c?: Set<String>, d?: Bool, e?: ipaddr, f?: datetime,
                       g?: Doc, h?: { a: String, b?: Set<Long> } };
        action read appliesTo { principal: [Agent], resource: [Doc], context: { token: Token, onBehalfOf?: User,
            request: { method: String, time: datetime, peer?: ipaddr, host?: String, headers: { x?: Set<String>, authority: Set<String> },
                query: { q: Set<String> } }, delegation?: { depth: Long, actors: Set<String>, actor?: String } } };";

    /// Any JSON that a claim may be, with a liking for what fits somewhere or looks like Cedar.
    fn claim() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z ]{0,6}".prop_map(Value::from),
            Just(json!("10.0.0.1")),
            Just(json!("2026-01-01")),
            Just(json!({ "__entity": { "type": "User", "id": "victim" } })),
            Just(json!({ "__extn": { "fn": "ip", "arg": "::1" } })),
        ];
        leaf.prop_recursive(2, 8, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c]", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn claims() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::hash_map("[a-h]", claim(), 0..6).prop_map(|members| members.into_iter().collect())
    }

    proptest! {
        /// Against the plain way, all at once: entities of which each may be in each other, or in later ones alone.
        #[test]
        fn what_is_put_together_in_two_steps_is_what_is_put_together_in_one(
            within in prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.3), 7), 7),
            known in prop::collection::vec(any::<bool>(), 7), is_circular in prop::bool::weighted(0.2)
        ) {
            let uid = |number: usize| -> EntityUid { format!("E::\"{number}\"").parse().unwrap() };
            let all: Vec<_> = within.iter().enumerate().map(|(from, row)| {
                let parents = row.iter().enumerate().filter(|(to, is)| **is && (is_circular || *to > from));
                Entity::new_no_attrs(uid(from), parents.map(|(to, _)| uid(to)).collect())
            }).collect();
            let of = |wanted: bool| all.iter().zip(&known).filter(move |(_, is)| **is == wanted).map(|(it, _)| it.clone());
            let added = match Entities::from_entities(of(true), None) {
                Ok(known) => known.add_entities(of(false), None),
                circular => circular,
            };
            match (added, Entities::from_entities(all.clone(), None)) {
                (Ok(added), Ok(whole)) => prop_assert!(added.deep_eq(&whole)),
                (added, whole) => prop_assert!(is_circular && added.is_err() && whole.is_err()),
            }
        }
    }

    #[test]
    fn whatever_a_token_claims_the_question_is_valid_under_the_schema() {
        let key = SigningKey::es256("k").unwrap();
        let files = Files::memory([
            ("keys.json", json!({ "keys": [key.jwk()] }).to_string().as_str()),
            ("policies/schema.cedarschema", SCHEMA),
            ("policies/a.cedar", "@id(\"a\") permit (principal, action, resource);"),
        ]);
        let loaded = config::parse("config.yaml".into(), CONFIG.into(), files.clone()).unwrap();
        let types = PolicyFiles::new(&files, &PathBuf::from("policies")).load(&[], None).unwrap().types;
        let types = Types::compile(&EntitiesConfig::default(), &ConsentsConfig::default(), types, &files).unwrap();
        let (mapping, plans) = Mapping::compile(types, &loaded.config.routes.value, &[], &[]).unwrap();
        let mut routes = RouteTable::default();
        for (requests, plan) in plans {
            routes.insert(&[], &requests.methods, &requests.template, plan).unwrap();
        }
        let (schema, _) = cedar_policy::Schema::from_cedarschema_str(SCHEMA).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let rules = Rules::compile(&loaded.config.issuers.value[0], &files).unwrap();
        let clock = Arc::new(crate::base::clock::SystemClock);
        let outside = Outside::without_databases(clock, Arc::new(HttpFetch::new().unwrap()), files);
        let issuers = Issuers::start(Trust::plain(vec![rules]).unwrap(), &outside, None);
        drop(inside);
        let asked = std::cell::Cell::new(0);
        let mut runner = proptest::test_runner::TestRunner::default();
        let checked = runner.run(&(claims(), prop::option::of(claims())), |(claims, user)| {
            let mut token =
                json!({ "iss": "https://a.example", "aud": "api", "client_id": "c", "exp": 9, "scope": "x y" });
            token.as_object_mut().unwrap().extend(claims);
            if let Some(mut user) = user {
                user.insert("sub".into(), "u".into());
                token["onBehalfOf"] = user.into();
            }
            let text = key.sign(&token).unwrap();
            let bearer = HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {text}").parse().unwrap())]);
            let (method, target) = (&Method::GET, b"/d".as_slice());
            let head = Head { method, target, headers: &bearer, wire: None, peer: None, certificate: None };
            let inbound = Inbound::parse(&head, &Limits::default()).unwrap();
            let presented = Presented::of(&inbound).unwrap();
            let now = Timestamp::from_seconds(1);
            // Some claims stand twice or are not numbers that JSON can carry: then there is no token.
            let Ok(verified) = runtime.block_on(issuers.verify(presented.token, now)) else { return Ok(()) };
            let names = mapping.names(&verified).unwrap();
            let Ok(subject) = mapping.subject(Arc::new(verified), names) else { return Ok(()) };
            let found = routes.find(None, &Method::GET, Target::parse(b"/d").unwrap()).unwrap().unwrap();
            let possession = issuers.possession(subject.token(), &presented, &inbound, now).unwrap();
            let sources = Sources::default();
            let question = mapping.question(&sources, &found, &subject, &possession, &inbound, now);
            let Ok(question) = runtime.block_on(question) else { return Ok(()) };
            let (_, request) = &question.requests[0];
            let valid = Request::new(
                request.principal().unwrap().clone(),
                request.action().unwrap().clone(),
                request.resource().unwrap().clone(),
                request.context().unwrap().clone(),
                Some(&schema),
            );
            prop_assert!(valid.is_ok(), "{token}: {:?}", valid.err());
            let entities = Entities::from_entities(question.entities.iter().cloned(), Some(&schema));
            prop_assert!(entities.is_ok(), "{token}: {:?}", entities.err());
            let mut subjects = [Some(subject.agent()), subject.user()].into_iter().flatten();
            prop_assert!(subjects.all(|uid| question.entities.get(uid).is_some()), "{token}");
            let plain = Entities::from_entities(question.entities.iter().cloned(), None);
            prop_assert!(plain.is_ok_and(|plain| plain.deep_eq(&question.entities)), "{token}");
            asked.set(asked.get() + 1);
            Ok(())
        });
        checked.unwrap();
        assert!(asked.get() > 20, "only {} questions were put", asked.get());
    }
}
