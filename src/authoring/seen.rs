//! What the policies could see of one question: entities and context, each value with where it came from.

use serde::Serialize;
use serde_json::Value;

use super::recorded::{RecordLine, RecordedOrigin};
use crate::{
    base::pseudonym::is_pseudonym,
    entities::{
        Side,
        recorded::{RecordedQuestion, is_action},
    },
};

/// An entity.
#[derive(Debug, Serialize)]
pub struct SeenEntity {
    /// `Type::"id"`.
    pub uid: String,
    /// Which of `agent`, `user` and `resource` it is; one may be several.
    pub roles: Vec<&'static str>,
    /// What it is in.
    pub parents: Vec<String>,
    /// Its attributes and tags.
    pub attributes: Vec<SeenValue>,
}

/// A value.
#[derive(Debug, Serialize)]
pub struct SeenValue {
    /// Where it stands.
    pub name: String,
    /// It, as Cedar.
    pub value: String,
    /// Where it came from, if that is known.
    pub source: Option<String>,
}

/// Who is who in a question.
struct Roles<'a> {
    agent: Option<&'a Value>,
    user: Option<&'a Value>,
    resource: &'a Value,
    record: &'a RecordLine,
}

impl<'a> Roles<'a> {
    fn of(question: &'a RecordedQuestion, record: &'a RecordLine) -> Self {
        // The agent stands beside every question, and so does a user whose attributes came from somewhere: an id that only
        // one entity has is theirs.
        let only = |id: &Option<String>| {
            let uids = question.entities().iter().filter_map(|entity| entity.get("uid"));
            let mut found = uids.filter(|uid| id.is_some() && self::id(uid) == id.as_deref() && !of_action(uid));
            found.next().filter(|_| found.next().is_none())
        };
        let agent = question.principal(Side::Agent).or_else(|| only(&record.agent));
        let named = question.context().pointer("/onBehalfOf/__entity");
        let user = question.principal(Side::User).or(named);
        let stands = record.attributes.iter().any(|it| it.of == "user");
        Self {
            agent,
            user: user.or_else(|| only(&record.user).filter(|_| stands)),
            resource: question.resource(),
            record,
        }
    }

    /// What `uid` is. Who asks goes first: where it is the resource too, it is seen as who asks.
    fn of_uid(&self, uid: &Value) -> Vec<&'static str> {
        let each = [("agent", self.agent), ("user", self.user), ("resource", Some(self.resource))];
        each.into_iter().filter(|(_, it)| *it == Some(uid)).map(|(role, _)| role).collect()
    }

    /// Whether `uid` may be the agent or the user, although it cannot be told.
    fn may_ask(&self, uid: &Value) -> bool {
        let may = |known: Option<&Value>, named: &Option<String>| {
            let (id, named) = (id(uid).unwrap_or_default(), named.as_deref());
            // A pseudonym and what is none cannot be compared.
            known.is_none() && named.is_none_or(|named| id == named || is_pseudonym(id) != is_pseudonym(named))
        };
        let acts_for_user = self.record.user.is_some() || self.record.attributes.iter().any(|it| it.of == "user");
        may(self.agent, &self.record.agent) || (acts_for_user && may(self.user, &self.record.user))
    }

    /// Where the attribute or tag `name` of `uid` came from.
    fn source(&self, uid: &Value, kind: &str, name: &str) -> Option<String> {
        let roles = self.of_uid(uid);
        match (roles.is_empty(), kind) {
            // What nobody names can be reached from what somebody names, by files alone.
            (true, _) => (!self.may_ask(uid)).then(|| "file".to_owned()),
            (false, "tags") => roles.contains(&"agent").then(|| "token".to_owned()),
            (false, _) => roles.iter().find_map(|role| source(&self.record.attributes, role, name)),
        }
    }
}

/// The entities of `question` but for actions: those that it names first.
pub(super) fn entities(question: &RecordedQuestion, record: &RecordLine) -> Vec<SeenEntity> {
    let roles = Roles::of(question, record);
    let uids = question.entities().iter().map(|entity| (entity, entity.get("uid").unwrap_or(&Value::Null)));
    let seen = uids.filter(|(_, uid)| !of_action(uid)).map(|(entity, uid)| {
        let members = |kind: &'static str| {
            let members = entity.get(kind).and_then(Value::as_object).into_iter().flatten();
            members.map(move |(name, value)| (kind, name, value))
        };
        let attributes = members("attrs").chain(members("tags")).map(|(kind, name, value)| SeenValue {
            name: name.clone(),
            value: as_cedar(value),
            source: roles.source(uid, kind, name),
        });
        SeenEntity {
            uid: uid_text(uid),
            roles: roles.of_uid(uid),
            parents: entity.get("parents").and_then(Value::as_array).into_iter().flatten().map(uid_text).collect(),
            attributes: attributes.collect(),
        }
    });
    let mut seen: Vec<_> = seen.collect();
    let rank = |it: &SeenEntity| ROLES.iter().position(|role| it.roles.first() == Some(role)).unwrap_or(ROLES.len());
    seen.sort_by(|a, b| (rank(a), &a.uid).cmp(&(rank(b), &b.uid)));
    seen
}

/// The entities that a question names, in the order in which they are told.
const ROLES: [&str; 3] = ["agent", "user", "resource"];

fn id(uid: &Value) -> Option<&str> {
    uid.get("id").and_then(Value::as_str)
}

fn of_action(uid: &Value) -> bool {
    uid.get("type").and_then(Value::as_str).is_some_and(is_action)
}

/// The context of a question.
pub(super) fn context(question: &RecordedQuestion, origins: &[RecordedOrigin]) -> Vec<SeenValue> {
    let mut seen = Vec::new();
    for (member, value) in question.context().as_object().into_iter().flatten() {
        let inner = value.as_object().filter(|inner| !inner.keys().any(|name| name.starts_with("__")));
        let Some(inner) = inner else {
            let source = Some("token".to_owned());
            seen.push(SeenValue { name: format!("context.{member}"), value: as_cedar(value), source });
            continue;
        };
        seen.extend(inner.iter().map(|(name, value)| SeenValue {
            name: format!("context.{member}.{name}"),
            value: as_cedar(value),
            source: match member.as_str() {
                "consent" => origins.iter().find(|it| it.of == "consent").map(told_source),
                "input" => source(origins, "input", name),
                "request" => Some("request".to_owned()),
                _ => Some("token".to_owned()),
            },
        }));
    }
    seen
}

fn source(origins: &[RecordedOrigin], of: &str, name: &str) -> Option<String> {
    origins.iter().find(|it| it.of == of && it.name == name).map(told_source)
}

fn told_source(origin: &RecordedOrigin) -> String {
    match origin.age_s {
        Some(age) => format!("{}, {age} s ago", origin.source),
        None => origin.source.clone(),
    }
}

fn uid_text(uid: &Value) -> String {
    let member = |name: &str| uid.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{}::{:?}", member("type"), member("id"))
}

/// A value of Cedar's JSON as Cedar writes it.
fn as_cedar(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", list(items.iter().map(as_cedar).collect())),
        Value::Object(members) => {
            if let Some(uid) = members.get("__entity") {
                return uid_text(uid);
            }
            if let Some(call) = members.get("__extn") {
                let member = |name: &str| call.get(name).cloned().unwrap_or_default();
                return format!("{}({})", member("fn").as_str().unwrap_or_default(), member("arg"));
            }
            let members = members.iter().map(|(name, value)| format!("{name}: {}", as_cedar(value)));
            format!("{{{}}}", list(members.collect()))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// An entity with its roles, and each of its values with where it came from.
    type Row = (String, Vec<&'static str>, Vec<(String, Option<String>)>);

    fn told(record: &Value) -> Vec<Row> {
        let record: RecordLine = serde_json::from_value(record.clone()).unwrap();
        let seen = entities(record.question.as_ref().unwrap(), &record);
        let sources = |it: &SeenEntity| it.attributes.iter().map(|it| (it.name.clone(), it.source.clone())).collect();
        seen.iter().map(|it| (it.uid.clone(), it.roles.clone(), sources(it))).collect()
    }

    fn uid(kind: &str, id: &str) -> Value {
        json!({ "type": kind, "id": id })
    }

    fn entity(kind: &str, id: &str, name: &str) -> Value {
        json!({ "uid": uid(kind, id), "attrs": { name: "x" }, "parents": [] })
    }

    fn record(principals: &Value, resource: &Value, context: &Value, entities: &Value, origins: &Value) -> Value {
        json!({ "decision_id": "1", "decision": "deny", "code": "access_denied", "agent": "a1", "user": "d1",
            "attributes": origins, "question": { "principals": principals, "action": uid("Action", "read"),
            "resource": resource, "context": context, "entities": entities } })
    }

    fn row(uid: &str, roles: &[&'static str], name: &str, source: Option<&str>) -> Row {
        (uid.into(), roles.to_vec(), vec![(name.into(), source.map(Into::into))])
    }

    #[test]
    fn an_entity_is_known_by_its_type_too() {
        let entities = json!([
            entity("Team", "d1", "lead"),
            entity("User", "d1", "name"),
            entity("Agent", "a1", "kind"),
            entity("Doc", "1", "owner"),
            entity("UserAction", "1", "what"),
            entity("Action", "read", "no"),
            entity("Shop::Action", "read", "no")
        ]);
        let origins = json!([{ "of": "user", "name": "name", "source": "token" },
            { "of": "agent", "name": "kind", "source": "clients" },
            { "of": "resource", "name": "owner", "source": "http a.example", "age_s": 3 }]);
        let behalf = json!({ "onBehalfOf": { "__entity": uid("User", "d1") } });
        let all = |user_roles: &[&'static str], user: Option<&str>, team: Option<&str>| {
            let mut rows = vec![
                row("Agent::\"a1\"", &["agent"], "kind", Some("clients")),
                row("User::\"d1\"", user_roles, "name", user),
                row("Doc::\"1\"", &["resource"], "owner", Some("http a.example, 3 s ago")),
                row("Team::\"d1\"", &[], "lead", team),
                row("UserAction::\"1\"", &[], "what", Some("file")),
            ];
            rows.sort_by_key(|(uid, roles, _)| {
                (ROLES.iter().position(|role| roles.first() == Some(role)).unwrap_or(3), uid.clone())
            });
            rows
        };
        let known = all(&["user"], Some("token"), Some("file"));
        let agent = json!([["agent", uid("Agent", "a1")]]);
        let user = json!([["user", uid("User", "d1")]]);
        assert_eq!(told(&record(&agent, &uid("Doc", "1"), &behalf, &entities, &origins)), known);
        // Put for the user alone: the agent is the one entity of its id.
        assert_eq!(told(&record(&user, &uid("Doc", "1"), &json!({}), &entities, &origins)), known);
        // Nothing says which of the two is the user.
        assert_eq!(told(&record(&agent, &uid("Doc", "1"), &json!({}), &entities, &origins)), all(&[], None, None));
    }

    #[test]
    fn who_asks_may_be_what_is_asked_for() {
        let entities = json!([entity("User", "d1", "name"), entity("Agent", "a1", "kind")]);
        let origins = json!([{ "of": "resource", "name": "name", "source": "path" },
            { "of": "user", "name": "name", "source": "token" }]);
        let context = json!({ "onBehalfOf": { "__entity": uid("User", "d1") } });
        let agent = json!([["agent", uid("Agent", "a1")]]);
        let seen = told(&record(&agent, &uid("User", "d1"), &context, &entities, &origins));
        assert_eq!(seen[1], row("User::\"d1\"", &["user", "resource"], "name", Some("token")));
    }

    #[test]
    fn claims_that_are_tags_come_from_the_token() {
        let mut agent = entity("Agent", "a1", "id");
        agent["tags"] = json!({ "department": "x" });
        let mut photo = entity("Photo", "1", "owner");
        photo["tags"] = json!({ "state": "x" });
        let entities = json!([agent, photo, entity("Doc", "1", "owner")]);
        let origins = json!([{ "of": "agent", "name": "id", "source": "token" }]);
        let mut record =
            record(&json!([["agent", uid("Agent", "a1")]]), &uid("Doc", "1"), &json!({}), &entities, &origins);
        record["user"] = Value::Null;
        let token = || Some("token".to_owned());
        let file = || Some("file".to_owned());
        let seen = told(&record);
        assert_eq!(seen[0].2, [("id".to_owned(), token()), ("department".to_owned(), token())]);
        assert_eq!(seen[2].2, [("owner".to_owned(), file()), ("state".to_owned(), file())]);
    }

    #[test]
    fn under_pseudonyms_nothing_is_said_to_come_from_a_file_that_may_not() {
        let (hidden, other) = ("~AAAAAAAAAAAAAAAAAAAAAA", "~BBBBBBBBBBBBBBBBBBBBBB");
        let entities = json!([entity("User", hidden, "name"), entity("Agent", other, "kind")]);
        let origins = json!([{ "of": "user", "name": "name", "source": "token" }]);
        let agent = json!([["agent", uid("Agent", other)]]);
        let named = json!({ "onBehalfOf": { "__entity": uid("User", hidden) } });
        let seen = told(&record(&agent, &uid("Doc", "1"), &named, &entities, &origins));
        assert_eq!(seen[1], row(&format!("User::\"{hidden}\""), &["user"], "name", Some("token")));
        let mut nameless = record(&agent, &uid("Doc", "1"), &json!({}), &entities, &origins);
        nameless["user"] = Value::Null;
        let seen = told(&nameless);
        assert_eq!(seen[1], row(&format!("User::\"{hidden}\""), &[], "name", None));
    }
}
