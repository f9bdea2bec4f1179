//! What a route makes an attribute of the resource of: text, an entity or a claim, as the schema types it.

use cedar_policy::RestrictedExpression;

use super::{
    MappingError,
    schema::Type,
    template::{EntityTemplate, Filling, Hole, TextTemplate},
    value::{expression, expression_of_text},
};
use crate::base::origin::Origin;

/// What an attribute of the resource is made of.
#[derive(Clone, Debug)]
pub(super) enum AttributeTemplate {
    /// Text, read as a value of this type.
    Text(TextTemplate, Type),
    /// An entity.
    Entity(EntityTemplate),
    /// A claim of the token, whatever it is.
    Claim(TextTemplate, Type),
}

impl AttributeTemplate {
    /// Parses what makes an attribute of type `ty`.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub(super) fn parse(text: &str, ty: &Type, parameters: &[String]) -> Result<Self, String> {
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

    /// Its text, or that of its id.
    pub(super) const fn text(&self) -> &TextTemplate {
        match self {
            Self::Text(text, _) | Self::Claim(text, _) => text,
            Self::Entity(entity) => &entity.id,
        }
    }

    /// Where records say that it comes from.
    pub(super) fn origin(&self, of: &'static str, name: &str) -> Origin {
        Origin { of, name: name.into(), source: self.text().source().into(), age_s: None }
    }

    /// The value; none where nothing is there to make it of.
    ///
    /// # Errors
    /// `ClaimMissing`, with `name`, where what is there is no value of that type; else as [`TextTemplate::fill`].
    pub(super) fn fill(
        &self,
        name: impl FnOnce() -> String,
        from: Filling<'_>,
    ) -> Result<Option<RestrictedExpression>, MappingError> {
        let fits =
            |value: Option<RestrictedExpression>| value.map(Some).ok_or_else(|| MappingError::ClaimMissing(name()));
        match self {
            Self::Text(text, ty) => match text.fill(from)? {
                Some(text) => fits(expression_of_text(ty, text)),
                None => Ok(None),
            },
            Self::Entity(entity) => Ok(entity.fill(from)?.map(RestrictedExpression::new_entity_uid)),
            Self::Claim(text, ty) => match text.sole().and_then(|hole| hole.claim(from.subject)) {
                Some(claim) => fits(expression(ty, claim)),
                None => Ok(None),
            },
        }
    }
}
