//! Text with holes: `Type::"…{path.name}…"`. Compiled once; a hole can only be filled from where it says, and never with more
//! than one reading. Who asks is made by no template: that comes from the token alone.

use std::borrow::Cow;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use http::{HeaderName, header};
use serde_json::Value;

use super::{MappingError, subject::Subject};
use crate::{
    request::{
        Inbound,
        headers::{Unclear, forwarded},
        query,
        route::Parameters,
    },
    token::claims::ClaimPath,
};

/// Literal text and holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Hole(Hole),
}

/// Where a hole is filled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hole {
    /// A segment of the path.
    Path(String),
    /// A claim of the token.
    Token(ClaimPath),
    /// The agent's Cedar id.
    Agent,
    /// The Cedar id of the user acted for.
    User,
    /// What the token says of that user.
    UserMember(ClaimPath),
    /// A query parameter that stands once.
    Query(String),
    /// A header field that stands once.
    Header(HeaderName),
    /// The peer's address.
    Peer,
    /// The host that the client addresses.
    Host,
    /// The method.
    Method,
}

/// What holes are filled from.
#[derive(Clone, Copy)]
pub(super) struct Filling<'a> {
    pub(super) parameters: &'a Parameters<'a, 'a>,
    pub(super) subject: &'a Subject,
    pub(super) inbound: &'a Inbound<'a>,
}

impl Hole {
    fn parse(text: &str, parameters: &[String]) -> Result<Self, String> {
        let claim = |path: &str| ClaimPath::parse(path).ok_or_else(|| format!("`{{{text}}}` names nothing"));
        let hole = match text.split_once('.') {
            None if text == "agent" => Self::Agent,
            None if text == "user" => Self::User,
            None if text == "peer" => Self::Peer,
            None if text == "host" => Self::Host,
            None if text == "method" => Self::Method,
            Some((_, "")) => return Err(format!("`{{{text}}}` names nothing")),
            Some(("path", name)) if parameters.iter().any(|known| known == name) => Self::Path(name.to_owned()),
            Some(("path", name)) => return Err(format!("the path has no parameter `{name}`")),
            Some(("token", path)) => Self::Token(claim(path)?),
            Some(("user", path)) => Self::UserMember(claim(path)?),
            Some(("query", name)) => Self::Query(name.to_owned()),
            Some(("header", name)) => match name.parse::<HeaderName>() {
                Ok(name) if name == header::AUTHORIZATION || name == header::COOKIE => {
                    return Err(format!("`{{{text}}}`: what shows who asks is no attribute"));
                }
                Ok(name) if name == header::HOST => return Err("write `{host}`".into()),
                Ok(name) => Self::Header(name),
                Err(_) => return Err(format!("`{name}` is not the name of a header")),
            },
            _ => {
                let known = "path.…, token.…, user, user.…, agent, query.…, header.…, peer, host, method";
                return Err(format!("`{{{text}}}` is none of {known}"));
            }
        };
        Ok(hole)
    }

    /// Whether the one who sends the request fills it, and nobody but the upstream could tell what with.
    const fn is_said_by_client(&self) -> bool {
        matches!(self, Self::Query(_) | Self::Header(_) | Self::Peer | Self::Host | Self::Method)
    }

    /// Whether the same fills it for each request of one token, method and path.
    const fn is_settled(&self) -> bool {
        match self {
            Self::Path(_) | Self::Token(_) | Self::Agent | Self::User | Self::UserMember(_) | Self::Method => true,
            Self::Query(_) | Self::Header(_) | Self::Peer | Self::Host => false,
        }
    }

    /// What fills it, as records say.
    const fn source(&self) -> &'static str {
        match self {
            Self::Path(_) => "path",
            Self::Token(_) | Self::Agent | Self::User | Self::UserMember(_) => "token",
            Self::Query(_) => "query",
            Self::Header(_) => "header",
            Self::Peer | Self::Host | Self::Method => "request",
        }
    }

    /// As the configuration has it.
    fn name(&self) -> String {
        match self {
            Self::Path(name) => format!("path.{name}"),
            Self::Token(path) => format!("token.{path}"),
            Self::Agent => "agent".into(),
            Self::User => "user".into(),
            Self::UserMember(path) => format!("user.{path}"),
            Self::Query(name) => format!("query.{name}"),
            Self::Header(name) => format!("header.{name}"),
            Self::Peer => "peer".into(),
            Self::Host => "host".into(),
            Self::Method => "method".into(),
        }
    }

    /// The claim that it stands for, as it is in the token.
    pub(super) fn claim<'a>(&self, subject: &'a Subject) -> Option<&'a Value> {
        let found = match self {
            Self::Token(path) => path.find(subject.claims()),
            Self::UserMember(path) => path.find(subject.token().delegation()?.attributes()),
            _ => None,
        };
        found.map(|(claim, _)| claim).filter(|claim| !claim.is_null())
    }

    /// What fills it, if anything does.
    ///
    /// # Errors
    /// `ClaimMissing` where that is no text, or not one.
    fn fill(&self, from: Filling<'_>) -> Result<Option<String>, MappingError> {
        let unclear = || MappingError::ClaimMissing(self.name());
        let text = match self {
            Self::Path(name) => from.parameters.get(name).map(Cow::into_owned),
            Self::Token(_) | Self::UserMember(_) => match self.claim(from.subject) {
                None => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Number(number)) if number.is_i64() => Some(number.to_string()),
                Some(_) => return Err(unclear()),
            },
            Self::Agent => Some(from.subject.names().agent.to_string()),
            Self::User => from.subject.names().user.as_ref().map(ToString::to_string),
            Self::Query(name) => {
                let mut values = query::values(from.inbound.target().query(), name).map_err(|Unclear| unclear())?;
                let value = values.pop().map(Cow::into_owned);
                if values.is_empty() { value } else { return Err(unclear()) }
            }
            Self::Header(name) => {
                let mut values = forwarded(from.inbound.headers(), name).map_err(|Unclear| unclear())?;
                let value = values.pop().map(|value| value.to_str().map(str::to_owned).map_err(|_| unclear()));
                if values.is_empty() { value.transpose()? } else { return Err(unclear()) }
            }
            Self::Peer => from.inbound.peer().map(|peer| peer.to_canonical().to_string()),
            Self::Host => from.inbound.host(),
            Self::Method => Some(from.inbound.method().to_string()),
        };
        match text {
            Some(text) if text.is_empty() => Err(unclear()),
            text => Ok(text),
        }
    }
}

impl TextTemplate {
    /// Parses text with holes; `parameters` are those of the path.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub fn parse(text: &str, parameters: &[String]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (hole, after) = after.split_once('}').ok_or("`{` without `}`")?;
            parts.extend([Part::Literal(literal.to_owned()), Part::Hole(Hole::parse(hole, parameters)?)]);
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        if !holes_are_apart(&parts) {
            return Err("between two holes there must be a `/`, else two requests could name one id".into());
        }
        let stray = parts.iter().any(|part| matches!(part, Part::Literal(text) if text.contains('}')));
        if stray { Err("`}` without `{`".into()) } else { Ok(Self(parts)) }
    }

    fn holes(&self) -> impl Iterator<Item = &Hole> {
        self.0.iter().filter_map(|part| match part {
            Part::Hole(hole) => Some(hole),
            Part::Literal(_) => None,
        })
    }

    /// The hole that is the whole of it, if one is.
    pub(super) fn sole(&self) -> Option<&Hole> {
        match self.0.as_slice() {
            [Part::Hole(hole)] => Some(hole),
            _ => None,
        }
    }

    /// The header fields that it is filled from.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.holes().filter_map(|hole| match hole {
            Hole::Header(name) => Some(name),
            _ => None,
        })
    }

    /// Whether the host that the client addresses is in it.
    pub(super) fn names_host(&self) -> bool {
        self.holes().any(|hole| *hole == Hole::Host)
    }

    /// The first hole that whoever sends a request fills as it likes.
    pub(super) fn said_by_client(&self) -> Option<String> {
        self.holes().find(|hole| hole.is_said_by_client()).map(Hole::name)
    }

    /// Whether it is the same for each request of one token, method and path.
    pub(super) fn is_settled(&self) -> bool {
        self.holes().all(Hole::is_settled)
    }

    /// Where records say that it comes from: everything that it is made of.
    pub(super) fn source(&self) -> String {
        let mut sources: Vec<_> = self.holes().map(Hole::source).collect();
        sources.dedup();
        if sources.is_empty() { "config".into() } else { sources.join("+") }
    }

    /// The claims that it is filled from, by the outermost name.
    pub(super) fn claims(&self) -> impl Iterator<Item = &str> {
        self.holes().filter_map(|hole| match hole {
            Hole::Token(path) => Some(path.outermost()),
            _ => None,
        })
    }

    /// The text with its holes filled; none where nothing is there to fill one.
    ///
    /// # Errors
    /// `ClaimMissing` with the name of a hole that is filled with what is no text, or not one, or, beside other holes, with
    /// a text that holds a `/`.
    pub(super) fn fill(&self, from: Filling<'_>) -> Result<Option<String>, MappingError> {
        let several = self.holes().nth(1).is_some();
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Hole(hole) => match hole.fill(from)? {
                    Some(filled) if several && filled.contains('/') => {
                        return Err(MappingError::ClaimMissing(hole.name()));
                    }
                    Some(filled) => text.push_str(&filled),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(text))
    }

    /// The first hole that nothing fills, or whatever it is made of.
    pub(super) fn name_of_open(&self, from: Filling<'_>) -> String {
        let open = self.holes().find(|hole| !matches!(hole.fill(from), Ok(Some(_))));
        open.or_else(|| self.holes().next()).map(Hole::name).unwrap_or_default()
    }
}

/// Whether a `/`, which nothing that fills one of several holes can hold, stands between any two.
fn holes_are_apart(parts: &[Part]) -> bool {
    let mut apart = true;
    parts.iter().all(|part| match part {
        Part::Literal(text) => {
            apart |= text.contains('/');
            true
        }
        Part::Hole(_) => std::mem::take(&mut apart),
    })
}

/// Whether holes, of one character at least each, can be filled so that the parts make `text`.
fn can_fill(parts: &[Part], text: &str) -> bool {
    match parts.split_first() {
        None => text.is_empty(),
        Some((Part::Literal(literal), rest)) => text.strip_prefix(&**literal).is_some_and(|text| can_fill(rest, text)),
        Some((Part::Hole(_), rest)) => {
            let ends = text.char_indices().map(|(at, c)| at.saturating_add(c.len_utf8()));
            ends.filter_map(|end| text.get(end..)).any(|text| can_fill(rest, text))
        }
    }
}

/// An entity whose id is made from a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTemplate {
    /// The entity's type.
    pub type_name: EntityTypeName,
    pub(super) id: TextTemplate,
}

impl EntityTemplate {
    /// The type of what it names.
    pub const fn type_name(&self) -> &EntityTypeName {
        &self.type_name
    }

    /// Whether it can name an entity with this id.
    pub fn can_be(&self, id: &str) -> bool {
        can_fill(&self.id.0, id)
    }

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

    /// The entity that a request names, if it does.
    ///
    /// # Errors
    /// As [`TextTemplate::fill`].
    pub(super) fn fill(&self, from: Filling<'_>) -> Result<Option<EntityUid>, MappingError> {
        let uid = |id| EntityUid::from_type_name_and_id(self.type_name.clone(), EntityId::new(id));
        Ok(self.id.fill(from)?.map(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_cannot_be_filled_is_refused() {
        let parameters = ["id".to_owned(), "doc".to_owned()];
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
            "Doc::\"{token}\"",
            "Doc::\"{token.}\"",
            "Doc::\"{token.a..b}\"",
            "Doc::\"{user.}\"",
            "Doc::\"{query.}\"",
            "Doc::\"{header.a b}\"",
            "Doc::\"{header.authorization}\"",
            "Doc::\"{header.Cookie}\"",
            "Doc::\"{header.host}\"",
            "Doc::\"{peer.port}\"",
            "Doc::\"{env.HOME}\"",
            "Doc::\"a\\nb\"",
            "Doc::\"{path.id}:{path.doc}\"",
            "Doc::\"{path.id}{path.doc}\"",
            "Doc::\"{path.id}:{token.sub}\"",
            "Doc::\"a\"b\"",
        ] {
            assert!(EntityTemplate::parse(template, &parameters).is_err(), "{template}");
        }
        for template in [
            "all",
            "{path.id}/{path.doc}",
            "p|{user}",
            "{token.a.b}/{user.a}/{query.q}/{header.x-y}",
            "{peer}",
            "{host}/{method}",
        ] {
            assert!(EntityTemplate::parse(&format!("Doc::\"{template}\""), &parameters).is_ok(), "{template}");
        }
    }
}
