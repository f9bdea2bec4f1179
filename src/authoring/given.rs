//! What stands while a scenario is run: what all of a file have in common, and what one gives itself.

use std::net::IpAddr;

use http::header;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{answers::Answer, call::Call, rehearsal::Token};
use crate::{base::clock::Timestamp, entities::recorded::RecordedQuestion, request::certificate::Said};

/// What stands while a scenario is run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Given {
    /// When. Default 2026-01-01T12:00:00Z.
    pub(super) now: Option<Timestamp>,
    /// The address that it comes from.
    pub(super) peer: Option<IpAddr>,
    /// What the client's certificate says.
    pub(super) certificate: Option<Said>,
    /// What the token says, where `null` takes a claim away; `null` for a request without a token.
    #[serde(deserialize_with = "given")]
    claims: Option<Value>,
    /// Further parameters of the token's header.
    header: Option<Map<String, Value>>,
    /// The token itself, verified by the keys that the configuration holds.
    token: Option<String>,
    /// What others would answer.
    pub(super) answers: Option<Vec<Answer>>,
    /// What the policies are asked, as a decision record holds it: then nothing is made of a request.
    pub(super) question: Option<RecordedQuestion>,
    /// The store whose policies are asked that. Default `default`.
    pub(super) store: Option<String>,
}

fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Given {
    /// What is wrong with how it is written, whatever it stands for.
    pub(super) fn malformed(&self) -> Option<String> {
        if !matches!(self.claims, None | Some(Value::Object(_) | Value::Null)) {
            return Some("`claims` is neither a map nor null".into());
        }
        if self.token.is_some() && self.claims.is_some() {
            return Some("either `token` or `claims`".into());
        }
        let answers = self.answers.iter().flatten();
        answers.filter_map(Answer::problem).next().map(|wrong| format!("an answer gives {wrong}"))
    }

    /// Why it cannot stand for the request `when`: nothing that is given goes unheard.
    pub(super) fn wrong(&self, when: &str) -> Option<String> {
        if let Some(wrong) = self.malformed() {
            return Some(wrong);
        }
        if let Some(question) = &self.question {
            return self.wrong_beside(question, when);
        }
        let has_claims = matches!(self.claims, Some(Value::Object(_)));
        if self.store.is_some() {
            return Some("`store` is of a `question`: a request is for the store of its route".into());
        }
        if self.header.is_some() && !has_claims {
            return Some("`header` without `claims`: nothing has that header".into());
        }
        // INVARIANT: what cannot be read here fails when it is run.
        let presents = Call::parse(when, &[]).is_ok_and(|call| call.has(&header::AUTHORIZATION));
        if presents && (has_claims || self.token.is_some()) {
            return Some("`when` has a field `Authorization`, beside `claims` or `token`: keep one of them".into());
        }
        None
    }

    fn wrong_beside(&self, question: &RecordedQuestion, when: &str) -> Option<String> {
        let unheard = [
            ("now", self.now.is_some()),
            ("peer", self.peer.is_some()),
            ("certificate", self.certificate.is_some()),
            ("claims", self.claims.is_some()),
            ("header", self.header.is_some()),
            ("token", self.token.is_some()),
            ("answers", self.answers.is_some()),
        ];
        if let Some((name, _)) = unheard.iter().find(|(_, is_given)| *is_given) {
            return Some(format!("`{name}` beside `question`: nothing is made of a request"));
        }
        if question.hides_anything() {
            return Some("`question` holds pseudonyms: what policies say to those tells nothing".into());
        }
        let is_request = when.trim().split_once(' ').is_some_and(|(_, path)| path.starts_with('/'));
        (!is_request).then(|| "`when` is not a method and a path, as in `GET /path`".into())
    }

    /// These over `others`; claims one by one.
    pub(super) fn over(&self, others: &Self) -> Self {
        let claims = match (&self.claims, &others.claims) {
            (Some(Value::Object(own)), Some(Value::Object(others))) => {
                let mut claims = others.clone();
                claims.extend(own.clone());
                Some(claims.into())
            }
            (None, others) if self.token.is_none() => others.clone(),
            (own, _) => own.clone(),
        };
        // A token that is not made of claims has a header of its own, or is none.
        let has_own = self.token.is_some() || self.claims.as_ref().is_some_and(Value::is_null);
        Self {
            now: self.now.or(others.now),
            peer: self.peer.or(others.peer),
            certificate: self.certificate.clone().or_else(|| others.certificate.clone()),
            claims,
            header: self.header.clone().or_else(|| others.header.clone().filter(|_| !has_own)),
            token: self.token.clone().or_else(|| others.token.clone().filter(|_| self.claims.is_none())),
            answers: self.answers.clone().or_else(|| others.answers.clone()),
            question: self.question.clone().or_else(|| others.question.clone()),
            store: self.store.clone().or_else(|| others.store.clone()),
        }
    }

    /// The request `when` with the token that is given, and the token that is to be made for it.
    pub(super) fn presented(&self, when: &str) -> (String, Token) {
        if let Some(token) = &self.token {
            let (first, rest) = when.trim_end().split_once('\n').unwrap_or((when.trim_end(), ""));
            return (format!("{first}\nauthorization: Bearer {token}\n{rest}"), Token::AsIs);
        }
        let Some(Value::Object(claims)) = self.claims.clone() else { return (when.to_owned(), Token::AsIs) };
        let (without, claims): (Map<_, _>, _) = claims.into_iter().partition(|(_, value)| value.is_null());
        let without = without.into_iter().map(|(name, _)| name).collect();
        (when.to_owned(), Token::Without(claims, self.header.clone().unwrap_or_default(), without))
    }
}
