//! What a Cedar schema says of types, in a form that values can be built by.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid};
use serde_json::{Map, Value};

/// A Cedar type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `String`
    String,
    /// `Long`
    Long,
    /// `Bool`
    Bool,
    /// `Set<…>`
    Set(Box<Self>),
    /// `{ … }`
    Record(Record),
    /// An entity of this type.
    Entity(EntityTypeName),
    /// An extension type.
    Extension(Extension),
}

impl Type {
    /// Whether it is `Set<String>`.
    pub fn is_set_of_text(&self) -> bool {
        matches!(self, Self::Set(element) if **element == Self::String)
    }

    /// Whether a value of it may name an entity of a type that is `meant`.
    pub fn names(&self, meant: &impl Fn(&EntityTypeName) -> bool) -> bool {
        match self {
            Self::Entity(kind) => meant(kind),
            Self::Set(element) => element.names(meant),
            Self::Record(record) => record.values().any(|attribute| attribute.ty.names(meant)),
            Self::String | Self::Long | Self::Bool | Self::Extension(_) => false,
        }
    }
}

/// Cedar's extension types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// `ipaddr`
    Ip,
    /// `decimal`
    Decimal,
    /// `datetime`
    Datetime,
    /// `duration`
    Duration,
}

/// The attributes of a record or an entity.
pub type Record = BTreeMap<String, Attribute>;

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its type.
    pub ty: Type,
    /// Whether it must be there.
    pub required: bool,
}

/// What an action applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Principal types.
    pub principals: Vec<EntityTypeName>,
    /// Resource types.
    pub resources: Vec<EntityTypeName>,
    /// The context.
    pub context: Record,
}

/// The types of a schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaTypes {
    entities: HashMap<EntityTypeName, EntityType>,
    actions: HashMap<EntityUid, Action>,
    action_groups: HashMap<EntityUid, Vec<Entity>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct EntityType {
    attributes: Record,
    /// What its entities may be in.
    parents: Vec<EntityTypeName>,
    /// What its tags are, if it has any.
    tags: Option<Type>,
}

impl SchemaTypes {
    /// Reads the JSON form of a schema that Cedar has parsed and whose names it has resolved.
    ///
    /// # Errors
    /// What in it is not understood, for an operator.
    pub fn from_resolved_json(schema: &Value) -> Result<Self, String> {
        let namespaces = schema.as_object().ok_or("the schema is not an object")?;
        let mut common = HashMap::new();
        for (namespace, definition) in namespaces {
            for (name, ty) in members(definition, "commonTypes") {
                common.insert(qualified(namespace, name), ty);
            }
        }
        let reader = Reader { common };
        let mut types = Self::default();
        for (namespace, definition) in namespaces {
            for (name, entity) in members(definition, "entityTypes") {
                let shape = entity.get("shape").map_or_else(|| Ok(Record::new()), |shape| reader.record(shape))?;
                let tags = entity.get("tags").filter(|tags| !tags.is_null()).map(|tags| reader.ty(tags)).transpose()?;
                let parents = type_names(entity, "memberOfTypes")?;
                let entity = EntityType { attributes: shape, parents, tags };
                types.entities.insert(type_name(&qualified(namespace, name))?, entity);
            }
            for (name, action) in members(definition, "actions") {
                let Some(applies) = action.get("appliesTo").filter(|applies| applies.is_object()) else { continue };
                let context = applies.get("context").map_or_else(|| Ok(Record::new()), |ty| reader.record(ty))?;
                let action = Action {
                    principals: type_names(applies, "principalTypes")?,
                    resources: type_names(applies, "resourceTypes")?,
                    context,
                };
                if action.principals.is_empty() || action.resources.is_empty() {
                    continue;
                }
                let kind = type_name(&qualified(namespace, "Action"))?;
                types.actions.insert(EntityUid::from_type_name_and_id(kind, EntityId::new(name)), action);
            }
        }
        Ok(types)
    }

    /// The attributes of an entity type, if the schema has it.
    pub fn entity(&self, name: &EntityTypeName) -> Option<&Record> {
        self.entities.get(name).map(|entity| &entity.attributes)
    }

    /// What the tags of entities of a type are, if they have any.
    pub fn tags(&self, name: &EntityTypeName) -> Option<&Type> {
        self.entities.get(name)?.tags.as_ref()
    }

    /// Whether entities of a type may be in others.
    pub fn has_parents(&self, name: &EntityTypeName) -> bool {
        self.entities.get(name).is_some_and(|entity| !entity.parents.is_empty())
    }

    /// What entities of a type may be in.
    pub fn parents(&self, name: &EntityTypeName) -> &[EntityTypeName] {
        self.entities.get(name).map_or(&[], |entity| &entity.parents)
    }

    /// Whether entities of type `name` may be in one of type `parent`.
    pub fn may_be_in(&self, name: &EntityTypeName, parent: &EntityTypeName) -> bool {
        self.entities.get(name).is_some_and(|entity| entity.parents.contains(parent))
    }

    /// The same, knowing which groups actions are in.
    pub fn with_action_groups(mut self, store: &Entities) -> Self {
        for action in self.actions.keys() {
            let groups: Vec<_> =
                store.ancestors(action).into_iter().flatten().filter_map(|uid| store.get(uid)).collect();
            if let (false, Some(action_entity)) = (groups.is_empty(), store.get(action)) {
                let entities = std::iter::once(action_entity).chain(groups).cloned().collect();
                self.action_groups.insert(action.clone(), entities);
            }
        }
        self
    }

    /// An action in groups, with them: what `action in Action::"group"` looks at.
    pub fn action_groups(&self, action: &EntityUid) -> &[Entity] {
        self.action_groups.get(action).map_or(&[], Vec::as_slice)
    }

    /// What an action applies to, if the schema has it and it applies to anything.
    pub fn action(&self, action: &EntityUid) -> Option<&Action> {
        self.actions.get(action)
    }

    /// The names of all actions, in order.
    pub fn action_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.actions.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }
}

struct Reader<'a> {
    common: HashMap<String, &'a Value>,
}

impl Reader<'_> {
    fn ty(&self, ty: &Value) -> Result<Type, String> {
        let name = ty.get("type").and_then(Value::as_str).ok_or("a type without a name")?;
        if let Some(definition) = self.common.get(name) {
            return self.ty(definition);
        }
        match name.strip_prefix("__cedar::").unwrap_or(name) {
            "String" => Ok(Type::String),
            "Long" => Ok(Type::Long),
            "Boolean" | "Bool" => Ok(Type::Bool),
            "Set" => Ok(Type::Set(Box::new(self.ty(ty.get("element").ok_or("a set without elements")?)?))),
            "Record" => self.attributes(ty).map(Type::Record),
            "Entity" => type_name(named(ty)?).map(Type::Entity),
            "Extension" => extension(named(ty)?),
            "EntityOrCommon" => self.ty(&serde_json::json!({ "type": named(ty)? })),
            other => extension(other),
        }
    }

    fn record(&self, ty: &Value) -> Result<Record, String> {
        match self.ty(ty)? {
            Type::Record(record) => Ok(record),
            _ => Err("attributes that are not a record".into()),
        }
    }

    fn attributes(&self, record: &Value) -> Result<Record, String> {
        members(record, "attributes")
            .map(|(name, ty)| {
                let required = ty.get("required").is_none_or(|required| required != &Value::Bool(false));
                Ok((name.clone(), Attribute { ty: self.ty(ty)?, required }))
            })
            .collect()
    }
}

fn extension(name: &str) -> Result<Type, String> {
    Ok(Type::Extension(match name {
        "ipaddr" => Extension::Ip,
        "decimal" => Extension::Decimal,
        "datetime" => Extension::Datetime,
        "duration" => Extension::Duration,
        other => return Err(format!("type `{other}` is not supported")),
    }))
}

fn members<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(name).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn named(ty: &Value) -> Result<&str, String> {
    ty.get("name").and_then(Value::as_str).ok_or_else(|| "a reference without a name".into())
}

fn qualified(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}::{name}") }
}

fn type_name(name: &str) -> Result<EntityTypeName, String> {
    name.parse().map_err(|_| format!("`{name}` is not a type name"))
}

fn type_names(holder: &Value, kind: &str) -> Result<Vec<EntityTypeName>, String> {
    let names = holder.get(kind).and_then(Value::as_array).into_iter().flatten();
    names.map(|name| type_name(name.as_str().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> SchemaTypes {
        let (json, _) = cedar_policy::schema_str_to_json_with_resolved_types(text).unwrap();
        SchemaTypes::from_resolved_json(&json).unwrap()
    }

    const BODY: &str = "
        entity User enum [\"a\"];
        entity Agent in [User] = { id: String, since?: datetime } tags String;
        entity Data = { owner: User, size: Long, tags: Set<String>, ok: Bool };
        type Token = { scope: Set<String>, from: { ip: ipaddr, ratio?: decimal, ttl?: duration } };
        action read, write appliesTo { principal: [Agent], resource: [Data], context: { token: Token, for?: User } };
        action group;";

    #[test]
    fn every_kind_of_type_is_read_with_and_without_namespace() {
        for (prefix, text) in [("", BODY.to_owned()), ("App::", format!("namespace App {{ {BODY} }}"))] {
            let types = types(&text);
            let user: EntityTypeName = format!("{prefix}User").parse().unwrap();
            let data = types.entity(&format!("{prefix}Data").parse().unwrap()).unwrap();
            assert_eq!(data["owner"].ty, Type::Entity(user.clone()));
            assert_eq!(data["size"].ty, Type::Long);
            assert_eq!(data["ok"].ty, Type::Bool);
            assert_eq!(data["tags"].ty, Type::Set(Box::new(Type::String)));
            assert_eq!(types.entity(&user), Some(&Record::new()));
            let action = types.action(&format!("{prefix}Action::\"write\"").parse().unwrap()).unwrap();
            assert_eq!(action.resources, [format!("{prefix}Data").parse().unwrap()]);
            assert!(!action.context["for"].required);
            let Type::Record(token) = &action.context["token"].ty else { panic!("{action:?}") };
            let Type::Record(from) = &token["from"].ty else { panic!("{token:?}") };
            assert_eq!(from["ip"].ty, Type::Extension(Extension::Ip));
            assert_eq!(types.action_names().len(), 2);
            let agent = format!("{prefix}Agent").parse().unwrap();
            assert_eq!((types.has_parents(&agent), types.tags(&agent)), (true, Some(&Type::String)));
            assert_eq!((types.has_parents(&user), types.tags(&user)), (false, None));
        }
    }
}
