//! Consent: what a user has agreed that an agent may do, through which app, for which purpose and until when. A route that
//! names a purpose lets nobody in without; policies see what was found as `context.consent`.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use cedar_policy::RestrictedExpression;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{
    MappingError,
    lookup::{
        Keeps, Lookup,
        plan::{LookupConfig, LookupPlan},
        size_of,
    },
    schema::{Extension, Record, Type},
    subject::Subject,
};
use crate::{
    base::{
        clock::Timestamp,
        files::Files,
        json,
        origin::Origin,
        outside::Outside,
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    token::claims::{ClaimPath, Identifier},
};

/// What consent is known by.
const KEYS: [&str; 2] = ["user", "agent"];

/// The section `consents`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsentsConfig {
    /// Files of consents: JSON arrays. Default none.
    pub files: Vec<Spanned<PathBuf>>,
    /// Who is asked for those of a user and an agent that no file has. Default nobody.
    pub lookup: Option<LookupConfig>,
    /// Where users give consent; told to a client that lacks it.
    pub uri: Option<Spanned<String>>,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PurposeConfig {
    /// Always this.
    Is(String),
    /// What this claim says: `claim`, or `outer.inner`.
    Claim(String),
    /// The member `purpose` of the token's authorization details of this type (RFC 9396); there must be one alone.
    AuthorizationDetail(String),
}

/// A consent, as it stands in a file, an answer or a row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Consent {
    /// The user's Cedar id.
    user: String,
    /// The agent's Cedar id.
    agent: String,
    /// The app, as `callerApp` names it; `null` for whichever.
    #[serde(deserialize_with = "Option::deserialize")]
    caller_app: Option<String>,
    /// What for.
    purpose: String,
    /// The ids of the Cedar actions.
    actions: Vec<String>,
    /// Until when: RFC 3339, or seconds since 1970.
    expires: Expiry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
struct Expiry(Timestamp);

impl TryFrom<Value> for Expiry {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let moment = match &value {
            Value::String(text) => Timestamp::parse_rfc3339(text),
            // Beyond the calendar these are no seconds but, for one, milliseconds: that would hardly ever end.
            Value::Number(seconds) => {
                seconds.as_u64().map(Timestamp::from_seconds).filter(|moment| *moment <= Timestamp::MAX)
            }
            _ => None,
        };
        moment.map(Self).ok_or("neither a moment (RFC 3339) nor seconds since 1970")
    }
}

impl Consent {
    /// Reads a consent. In SQL a list is an array, or a text in JSON.
    fn read(mut value: Value) -> Result<Self, String> {
        if let Some(Value::String(text)) = value.get("actions") {
            let list = json::parse(text.as_bytes()).map_err(|error| error.to_string())?;
            if let Some(actions) = value.get_mut("actions") {
                *actions = list;
            }
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn covers(&self, question: &Question<'_>, now: Timestamp) -> bool {
        self.user == question.user
            && self.agent == question.agent
            && self.purpose == question.purpose
            && self.caller_app.as_deref().is_none_or(|app| question.app == Some(app))
            && self.actions.iter().any(|action| action == question.action)
            && self.expires.0 > now
    }

    /// `context.consent`.
    fn record(&self, ty: &Record) -> Option<RestrictedExpression> {
        let text = |text: &String| RestrictedExpression::new_string(text.clone());
        let fields = ty.keys().filter_map(|name| {
            let value = match name.as_str() {
                "purpose" => text(&self.purpose),
                "actions" => RestrictedExpression::new_set(self.actions.iter().map(text)),
                "expires" => RestrictedExpression::new_datetime(self.expires.0.rfc3339()),
                "callerApp" => text(self.caller_app.as_ref()?),
                _ => return None,
            };
            Some((name.clone(), value))
        });
        RestrictedExpression::new_record(fields).ok()
    }
}

/// Whether this is a member of `context.consent`, of the type that it has.
pub(super) fn is_consent(name: &str, ty: &Type, required: bool) -> bool {
    match name {
        "purpose" => *ty == Type::String,
        "actions" => ty.is_set_of_text(),
        "expires" => *ty == Type::Extension(Extension::Datetime),
        // Some consents are for whichever app.
        "callerApp" => *ty == Type::String && !required,
        _ => false,
    }
}

/// Keeps the consents of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answered;

impl Keeps for Answered {
    type Kept = Vec<Arc<Consent>>;

    fn keep(&self, rows: Vec<Value>) -> Result<(Self::Kept, usize), String> {
        let bytes = size_of(&rows);
        let read = rows.into_iter().map(|row| Consent::read(row).map(Arc::new));
        let consents = read.collect::<Result<_, _>>().map_err(|error| format!("an item is no consent: {error}"))?;
        Ok((consents, bytes))
    }

    fn is_absent(kept: &Self::Kept) -> bool {
        kept.is_empty()
    }
}

/// The section, compiled.
#[derive(Clone, Debug, Default)]
pub(super) struct ConsentPlan {
    written: Written,
    lookup: Option<LookupPlan>,
    uri: Option<Arc<str>>,
}

/// Consents in files, by user and agent.
type Written = Arc<HashMap<(String, String), Vec<Arc<Consent>>>>;

impl ConsentsConfig {
    pub(super) fn compile(&self, files: &Files) -> Result<ConsentPlan, Problems> {
        let mut problems = Problems::default();
        let mut written: HashMap<_, Vec<_>> = HashMap::new();
        for path in &self.files {
            for consent in problems.keep(read(path, files)).unwrap_or_default() {
                written.entry((consent.user.clone(), consent.agent.clone())).or_default().push(Arc::new(consent));
            }
        }
        let lookup = problems.keep(self.lookup.as_ref().map(|lookup| lookup.compile(&KEYS, files)).transpose());
        if let Some(uri) = self.uri.as_ref().filter(|uri| url::Url::parse(&uri.value).is_err()) {
            problems.push(Problem::at(uri, "not a URI").fix("write it as in `https://consent.example/`"));
        }
        let uri = self.uri.as_ref().map(|uri| uri.value.as_str().into());
        problems.into_result(lookup.map(|lookup| ConsentPlan { written: Arc::new(written), lookup, uri }))
    }
}

impl ConsentPlan {
    /// Whether nobody could have given consent.
    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.lookup.is_none()
    }
}

fn read(path: &Spanned<PathBuf>, files: &Files) -> Result<Vec<Consent>, Problem> {
    let shown = path.value.display();
    let text = files.read(&path.value).map_err(|error| Problem::unreadable(path, &error))?;
    let Ok(Value::Array(items)) = json::parse(text.as_bytes()) else {
        return Err(Problem::at(path, format!("`{shown}` is not a JSON array of consents"))
            .fix("write `[{ \"user\", \"agent\", \"caller_app\", \"purpose\", \"actions\": [], \"expires\" }]`"));
    };
    let read = items.into_iter().enumerate().map(|(index, item)| {
        let known = ["user", "agent", "caller_app", "purpose", "actions", "expires"];
        let stray = item.as_object().and_then(|it| it.keys().find(|name| !known.contains(&name.as_str())).cloned());
        let consent = match stray {
            Some(name) => Err(format!("unknown member `{name}`")),
            None => Consent::read(item),
        };
        consent.map_err(|reason| Problem::at(path, format!("consent {index} of `{shown}`: {reason}")))
    });
    read.collect()
}

/// What a route says of purpose, compiled.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Is(Arc<str>),
    Claim(ClaimPath),
    AuthorizationDetail(String),
}

impl PurposeConfig {
    pub(super) fn compile(&self) -> Result<Purpose, &'static str> {
        match self {
            Self::Is(text) if Identifier::parse(text).is_some() => Ok(Purpose::Is(text.as_str().into())),
            Self::Is(_) => Err("not a purpose"),
            Self::Claim(path) => ClaimPath::parse(path).map(Purpose::Claim).ok_or("not the name of a claim"),
            Self::AuthorizationDetail(kind) if kind.is_empty() => Err("not a type of authorization details"),
            Self::AuthorizationDetail(kind) => Ok(Purpose::AuthorizationDetail(kind.clone())),
        }
    }
}

impl Purpose {
    /// The claim that says it, by its outermost name.
    pub(super) fn claim(&self) -> Option<&str> {
        match self {
            Self::Is(_) => None,
            Self::Claim(path) => Some(path.outermost()),
            Self::AuthorizationDetail(_) => Some("authorization_details"),
        }
    }

    /// What a request with this token is for, if that is clear.
    fn of<'a>(&'a self, subject: &'a Subject) -> Option<&'a str> {
        let claims = subject.claims();
        match self {
            Self::Is(text) => Some(text),
            Self::Claim(path) => path.find(claims)?.0.as_str(),
            Self::AuthorizationDetail(kind) => {
                let details = claims.get("authorization_details")?.as_array()?;
                let is_one = |detail: &&Value| detail.get("type").and_then(Value::as_str) == Some(kind);
                let mut meant = details.iter().filter(is_one);
                let detail = meant.next().filter(|_| meant.next().is_none())?;
                detail.get("purpose")?.as_str()
            }
        }
    }
}

/// What consent is needed for.
struct Question<'a> {
    user: &'a str,
    agent: &'a str,
    app: Option<&'a str>,
    purpose: &'a str,
    action: &'a str,
}

/// Consents at work.
#[derive(Debug, Default)]
pub(super) struct Consents {
    plan: ConsentPlan,
    lookup: Option<Arc<Lookup<Answered>>>,
}

/// A consent that covers a request, as policies see it.
pub(super) struct Given {
    pub(super) record: Option<RestrictedExpression>,
    pub(super) origin: Origin,
}

impl Consents {
    pub(super) fn start(plan: &ConsentPlan, outside: &Outside, before: Option<&Self>) -> Self {
        let known = before.and_then(|before| before.lookup.as_ref());
        let lookup = plan.lookup.as_ref().map(|plan| Lookup::resume(plan, &Answered, outside, known));
        Self { plan: plan.clone(), lookup }
    }

    /// The source, by name and state, if one is asked.
    pub(super) fn state(&self) -> Option<(&str, super::lookup::LookupState)> {
        self.lookup.as_ref().map(|lookup| (&*lookup.plan().name, lookup.state()))
    }

    /// The consent that covers what `subject` wants to do for `purpose`.
    ///
    /// # Errors
    /// `ConsentMissing`; `SourceUnavailable` and `SourceTimedOut`.
    pub(super) async fn find(
        &self,
        purpose: &Purpose,
        subject: &Subject,
        action: &str,
        ty: Option<&Record>,
        now: Timestamp,
    ) -> Result<Given, MappingError> {
        let missing = || MappingError::ConsentMissing(self.plan.uri.clone());
        let names = subject.names();
        let (Some(purpose), Some(user)) = (purpose.of(subject), &names.user) else { return Err(missing()) };
        let (agent, app) = (&*names.agent, names.app.as_deref());
        let question = Question { user, agent, app, purpose, action };
        let named = (user.to_string(), agent.to_owned());
        let written = self.plan.written.get(&named).into_iter().flatten();
        if let Some(consent) = written.into_iter().find(|it| it.covers(&question, now)) {
            return Ok(given(consent, ty, "file".into(), None));
        }
        let lookup = self.lookup.as_ref().ok_or_else(missing)?;
        let answer = lookup.ask(&[user, agent]).await.map_err(|error| error.of(&lookup.plan().name))?;
        let consent = answer.kept.iter().find(|it| it.covers(&question, now)).ok_or_else(missing)?;
        Ok(given(consent, ty, lookup.plan().name.clone(), Some(answer.age.as_secs())))
    }
}

fn given(consent: &Consent, ty: Option<&Record>, source: Arc<str>, age_s: Option<u64>) -> Given {
    let origin = Origin { of: "consent", name: consent.purpose.as_str().into(), source, age_s };
    Given { record: ty.and_then(|ty| consent.record(ty)), origin }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_consent_says_all_that_it_must() {
        let whole = json!({ "user": "u", "agent": "a", "caller_app": null, "purpose": "p", "actions": ["read"],
            "expires": "2027-01-01T00:00:00Z" });
        let consent = Consent::read(whole.clone()).unwrap();
        let later = Timestamp::parse_rfc3339("2026-12-31T23:59:59Z").unwrap();
        let question = |app, purpose, action| Question { user: "u", agent: "a", app, purpose, action };
        assert!(consent.covers(&question(None, "p", "read"), later));
        assert!(consent.covers(&question(Some("x"), "p", "read"), later));
        assert!(!consent.covers(&question(None, "p", "read"), later.later(std::time::Duration::from_secs(1))));
        assert!(!consent.covers(&question(None, "q", "read"), later));
        assert!(!consent.covers(&question(None, "p", "write"), later));
        assert!(!consent.covers(&Question { user: "v", ..question(None, "p", "read") }, later));
        assert!(!consent.covers(&Question { agent: "b", ..question(None, "p", "read") }, later));
        for name in whole.as_object().unwrap().keys() {
            let mut less = whole.clone();
            less.as_object_mut().unwrap().remove(name);
            assert!(Consent::read(less).is_err(), "without {name}");
        }
        for (name, value) in [
            ("actions", json!("read")),
            ("expires", json!("soon")),
            ("expires", json!(-1)),
            ("expires", json!(1_798_761_600_000_u64)),
            ("user", json!(1)),
        ] {
            let mut other = whole.clone();
            other[name] = value;
            assert!(Consent::read(other).is_err(), "{name}");
        }
        let mut sql = whole;
        (sql["actions"], sql["expires"], sql["caller_app"]) = (json!("[\"read\"]"), json!(1_798_761_600), json!("x"));
        let consent = Consent::read(sql).unwrap();
        assert!(consent.covers(&question(Some("x"), "p", "read"), later));
        assert!(!consent.covers(&question(Some("y"), "p", "read"), later));
        assert!(!consent.covers(&question(None, "p", "read"), later));
    }
}
