//! Questions as decision records keep them, in Cedar's JSON, so that they can be put again to other policies.

use cedar_policy::{Context, Entities, EntityUid, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use super::extension::FUNCTIONS;
use super::{
    DecisionRequest, Side,
    hiding::{Reading, Recording, is_hidden},
};

/// The longest question that is recorded, in bytes of JSON.
pub const QUESTION_BYTES_MAX: usize = 256 * 1024;

/// A question, written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedQuestion {
    /// For whom it was put, in this order.
    principals: Vec<(Side, Value)>,
    action: Value,
    resource: Value,
    context: Value,
    entities: Value,
    /// Names the key of its pseudonyms, where it holds any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl DecisionRequest {
    /// The question, written down. `None` for values that Cedar cannot write, which no question here has.
    pub fn recorded(&self, recording: &Recording) -> Option<RecordedQuestion> {
        let (_, first) = self.requests.first()?;
        let uid = |uid: &EntityUid| recording.uid(&uid_json(uid));
        let principals = self.requests.iter().map(|(side, request)| Some((*side, uid(request.principal()?))));
        let mut context = first.context()?.to_json_value().ok()?;
        recording.hide(&mut context, &mut vec!["context".into()]);
        let entities: Option<Vec<_>> =
            self.entities.iter().map(|entity| Some(recording.entity(entity.to_json_value().ok()?))).collect();
        Some(RecordedQuestion {
            principals: principals.collect::<Option<_>>()?,
            action: uid_json(first.action()?),
            resource: uid(first.resource()?),
            context,
            entities: entities?.into(),
            key: recording.key_id(),
        })
    }
}

impl RecordedQuestion {
    /// The question, to be put again.
    ///
    /// # Errors
    /// What in it cannot be read.
    pub fn read(&self, reading: &Reading) -> Result<DecisionRequest, String> {
        let uid = |json: &Value| {
            let mut json = json.clone();
            reading.reveal(&mut json);
            EntityUid::from_json(json).map_err(|error| error.to_string())
        };
        let mut context = self.context.clone();
        reading.reveal(&mut context);
        let context = Context::from_json_value(context, None).map_err(|error| error.to_string())?;
        let mut entities = self.entities.clone();
        reading.reveal(&mut entities);
        let entities = Entities::from_json_value(entities, None).map_err(|error| error.to_string())?;
        let mut requests = Vec::with_capacity(self.principals.len());
        for (side, principal) in &self.principals {
            let request =
                Request::new(uid(principal)?, uid(&self.action)?, uid(&self.resource)?, context.clone(), None);
            requests.push((*side, request.map_err(|error| error.to_string())?));
        }
        Ok(DecisionRequest { requests, entities, origins: Vec::new() })
    }

    /// The resource.
    pub const fn resource(&self) -> &Value {
        &self.resource
    }

    /// The principal of this side, if it was put for that.
    pub fn principal(&self, side: Side) -> Option<&Value> {
        self.principals.iter().find(|(of, _)| *of == side).map(|(_, uid)| uid)
    }

    /// The context.
    pub const fn context(&self) -> &Value {
        &self.context
    }

    /// The entities.
    pub fn entities(&self) -> &[Value] {
        self.entities.as_array().map_or(&[], Vec::as_slice)
    }

    /// Whether anything stands in it under a pseudonym.
    pub fn hides_anything(&self) -> bool {
        self.principals.iter().any(|(_, uid)| is_hidden(uid))
            || is_hidden(&self.resource)
            || is_hidden(&self.context)
            || is_hidden(&self.entities)
    }

    /// Whether its pseudonyms, if it holds any, are of the key that `reading` knows.
    pub fn is_of_key(&self, reading: &Reading) -> bool {
        match &self.key {
            Some(key) => reading.key_id() == Some(key.as_str()),
            None => !self.hides_anything(),
        }
    }

    /// What of `place`, a variable and attributes from there, stands in it under a pseudonym: each in the form that leaves it
    /// in the clear, `context.a.b` or `Type.attribute`.
    pub fn hidden_at(&self, place: &[String]) -> Vec<String> {
        let Some((variable, path)) = place.split_first() else { return Vec::new() };
        let starts: Vec<&Value> = match variable.as_str() {
            "principal" => self.principals.iter().map(|(_, uid)| uid).collect(),
            "resource" => vec![&self.resource],
            "context" => vec![&self.context],
            _ => Vec::new(),
        };
        starts.into_iter().filter_map(|start| self.hidden_from(start, vec![variable.clone()], path)).collect()
    }

    fn hidden_from(&self, start: &Value, mut named: Vec<String>, path: &[String]) -> Option<String> {
        let mut value = start;
        for name in path {
            let uid = value.get("__entity").or_else(|| is_uid(value).then_some(value));
            let members = match uid {
                Some(uid) => {
                    named = vec![uid.get("type").and_then(Value::as_str).unwrap_or_default().to_owned()];
                    self.attributes(uid)?
                }
                None => value,
            };
            named.push(name.clone());
            value = members.get(name)?;
        }
        is_hidden(value).then(|| named.join("."))
    }

    fn attributes(&self, uid: &Value) -> Option<&Value> {
        self.entities().iter().find(|entity| entity.get("uid") == Some(uid))?.get("attrs")
    }
}

/// Whether a value is an entity's id as it stands outside values: a type and an id, and nothing else.
fn is_uid(value: &Value) -> bool {
    value.as_object().is_some_and(|members| {
        members.len() == 2
            && members.get("type").is_some_and(Value::is_string)
            && members.get("id").is_some_and(Value::is_string)
    })
}

/// Whether entities of this type are actions, whose names are the schema's.
pub(crate) fn is_action(kind: &str) -> bool {
    kind == "Action" || kind.ends_with("::Action")
}

fn uid_json(uid: &EntityUid) -> Value {
    json!({ "type": uid.type_name().to_string(), "id": uid.id().unescaped() })
}
