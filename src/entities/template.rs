//! Text with holes: `Type::"…{path.name}…"`. Compiled once; a hole can only be filled from where it says.

use cedar_policy::{EntityId, EntityTypeName, EntityUid};

use crate::request::route::Parameters;

/// Literal text and path parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Path(String),
}

/// An entity whose id is made from a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTemplate {
    /// The entity's type.
    pub type_name: EntityTypeName,
    id: TextTemplate,
}

impl TextTemplate {
    /// Parses text in which `{path.name}` stands for one of `parameters`.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub fn parse(text: &str, parameters: &[String]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (hole, after) = after.split_once('}').ok_or("`{` without `}`")?;
            let name =
                hole.strip_prefix("path.").ok_or_else(|| format!("`{{{hole}}}` is not of the form `{{path.name}}`"))?;
            if !parameters.iter().any(|known| known == name) {
                return Err(format!("the path has no parameter `{name}`"));
            }
            parts.extend([Part::Literal(literal.to_owned()), Part::Path(name.to_owned())]);
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        if !holes_are_apart(&parts) {
            return Err("between two parameters there must be a `/`, else two requests could name one id".into());
        }
        let stray = parts.iter().any(|part| matches!(part, Part::Literal(text) if text.contains('}')));
        if stray { Err("`}` without `{`".into()) } else { Ok(Self(parts)) }
    }

    /// The text with its holes filled; `None` if a parameter is missing, which a parsed template rules out.
    pub fn fill(&self, parameters: &Parameters<'_, '_>) -> Option<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Path(name) => text.push_str(&parameters.get(name)?),
            }
        }
        Some(text)
    }
}

/// Whether a `/`, which no parameter can hold, stands between any two holes.
fn holes_are_apart(parts: &[Part]) -> bool {
    let mut apart = true;
    parts.iter().all(|part| match part {
        Part::Literal(text) => {
            apart |= text.contains('/');
            true
        }
        Part::Path(_) => std::mem::take(&mut apart),
    })
}

impl EntityTemplate {
    /// Parses `Type::"id"`.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub fn parse(text: &str, parameters: &[String]) -> Result<Self, String> {
        let (type_name, id) = text
            .strip_suffix('"')
            .and_then(|text| text.split_once("::\""))
            .filter(|(_, id)| !id.contains(['"', '\\']))
            .ok_or("not of the form `Type::\"id\"`")?;
        let type_name = type_name.parse().map_err(|_| format!("`{type_name}` is not a type name"))?;
        Ok(Self { type_name, id: TextTemplate::parse(id, parameters)? })
    }

    /// The entity that a request names.
    pub fn fill(&self, parameters: &Parameters<'_, '_>) -> Option<EntityUid> {
        let id = EntityId::new(self.id.fill(parameters)?);
        Some(EntityUid::from_type_name_and_id(self.type_name.clone(), id))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request::{
        path::Target,
        route::{PathTemplate, RouteTable},
    };

    fn filled(template: &str, target: &str) -> Result<String, String> {
        let path = PathTemplate::parse("/users/{id}/{doc}").unwrap();
        let template = EntityTemplate::parse(template, path.parameters())?;
        let mut table = RouteTable::default();
        table.insert(&[Method::GET], &path, ()).unwrap();
        let found = table.find(&Method::GET, Target::parse(target.as_bytes()).unwrap()).unwrap().unwrap();
        Ok(template.fill(&found.parameters).unwrap().to_string())
    }

    #[test]
    fn holes_are_filled_from_the_path() {
        assert_eq!(filled("Doc::\"{path.id}/{path.doc}\"", "/users/u1/d2").unwrap(), "Doc::\"u1/d2\"");
        assert_eq!(filled("App::Doc::\"p|{path.id}\"", "/users/u1/d2").unwrap(), "App::Doc::\"p|u1\"");
        assert_eq!(filled("Doc::\"all\"", "/users/u1/d2").unwrap(), "Doc::\"all\"");
    }

    #[test]
    fn what_fills_a_hole_cannot_leave_it() {
        let uid = filled("Doc::\"{path.id}\"", "/users/x%22%2C%20User%3A%3A%22victim/d").unwrap();
        assert_eq!(uid, "Doc::\"x\\\", User::\\\"victim\"");
        let uid = filled("Doc::\"{path.id}\"", "/users/%7Bpath.doc%7D/d").unwrap();
        assert_eq!(uid, "Doc::\"{path.doc}\"");
    }

    #[test]
    fn a_template_that_cannot_be_filled_is_refused() {
        for template in [
            "Doc",
            "Doc::",
            "Doc::\"a",
            "\"a\"",
            "Do c::\"a\"",
            "Doc::\"{id}\"",
            "Doc::\"{path.}\"",
            "Doc::\"{path.other}\"",
            "Doc::\"{path.id\"",
            "Doc::\"path.id}\"",
            "Doc::\"{token.sub}\"",
            "Doc::\"a\\nb\"",
            "Doc::\"{path.id}:{path.doc}\"",
            "Doc::\"{path.id}{path.doc}\"",
            "Doc::\"a\"b\"",
        ] {
            assert!(filled(template, "/users/u/d").is_err(), "{template}");
        }
    }
}
