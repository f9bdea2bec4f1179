//! What the request itself adds to the context, under `context.request`: exactly the members that the schema names, each
//! of the one type it has. Nothing in it says who asks: that comes from the token alone.

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cedar_policy::RestrictedExpression;
use http::{HeaderName, header};

use super::{
    MappingError,
    schema::{Extension, Record, Type},
};
use crate::{
    base::clock::Timestamp,
    request::{
        Inbound,
        certificate::Certificate,
        headers::{Unclear, forwarded},
        query,
    },
};

/// The request's part of a context type, compiled.
#[derive(Clone, Debug, Default)]
pub(super) struct Circumstances(Vec<(String, Member)>);

#[derive(Clone, Debug)]
enum Member {
    Method,
    Path,
    Host { required: bool },
    Peer { required: bool },
    Certificate { members: Vec<(String, Shown)>, required: bool },
    Time,
    Headers(Vec<(String, HeaderName, bool)>),
    Query(Vec<(String, bool)>),
}

/// What is told of a client's certificate.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Thumbprint,
    Subject { required: bool },
    DnsNames { required: bool },
    Uris { required: bool },
}

impl Circumstances {
    /// Reads `context.request` of a schema.
    ///
    /// # Errors
    /// What in it nothing supplies.
    pub(super) fn compile(request: &Record) -> Result<Self, String> {
        let mut members = Vec::with_capacity(request.len());
        for (name, attribute) in request {
            let required = attribute.required;
            let member = match (name.as_str(), &attribute.ty) {
                ("method", Type::String) => Member::Method,
                ("path", Type::String) => Member::Path,
                ("host", Type::String) => Member::Host { required },
                ("peer", Type::Extension(Extension::Ip)) => Member::Peer { required },
                ("certificate", Type::Record(fields)) => Member::Certificate { members: shown(fields)?, required },
                ("time", Type::Extension(Extension::Datetime)) => Member::Time,
                ("headers", Type::Record(fields)) => Member::Headers(headers(fields)?),
                ("query", Type::Record(fields)) => Member::Query(sets(fields)?),
                _ => return Err(format!("nothing supplies `context.request.{name}` of that type")),
            };
            members.push((name.clone(), member));
        }
        Ok(Self(members))
    }

    /// Whether it holds the host that the client addresses.
    pub(super) fn names_host(&self) -> bool {
        self.0.iter().any(|(_, member)| matches!(member, Member::Host { .. }))
    }

    /// The members that may be another for each request of one token, method and path; none where one of them may refuse
    /// the one request and not the other.
    pub(super) fn varying(&self) -> Option<Vec<&str>> {
        let mut varying = Vec::new();
        for (name, member) in &self.0 {
            match member {
                Member::Method | Member::Path => {}
                Member::Time | Member::Host { required: false } | Member::Peer { required: false } => {
                    varying.push(name.as_str());
                }
                Member::Host { required: true }
                | Member::Peer { required: true }
                | Member::Certificate { .. }
                | Member::Headers(_)
                | Member::Query(_) => return None,
            }
        }
        Some(varying)
    }

    /// The header fields that it holds.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let wanted = self.0.iter().flat_map(|(_, member)| match member {
            Member::Headers(wanted) => wanted.as_slice(),
            _ => &[],
        });
        wanted.map(|(_, header, _)| header)
    }

    /// The record for one request.
    ///
    /// # Errors
    /// [`MappingError::ClaimMissing`] where the request does not hold what the schema requires, or holds what has no text.
    pub(super) fn record(&self, inbound: &Inbound<'_>, now: Timestamp) -> Result<RestrictedExpression, MappingError> {
        let mut fields = Vec::with_capacity(self.0.len());
        for (name, member) in &self.0 {
            let missing = || MappingError::ClaimMissing(format!("request.{name}"));
            let (value, required) = match member {
                Member::Method => (Some(text(inbound.method().as_str())), true),
                Member::Path => (Some(text(inbound.target().path())), true),
                Member::Host { required } => (inbound.host().as_deref().map(text), *required),
                Member::Peer { required } => (inbound.peer().map(address), *required),
                Member::Certificate { members, required } => {
                    let record = inbound.certificate().map(|certificate| certificate_record(members, certificate));
                    (record.transpose()?, *required)
                }
                Member::Time => (Some(RestrictedExpression::new_datetime(now.rfc3339())), true),
                Member::Headers(wanted) => (Some(header_record(wanted, inbound)?), true),
                Member::Query(wanted) => (Some(query_record(wanted, inbound)?), true),
            };
            match value {
                Some(value) => fields.push((name.clone(), value)),
                None if !required => {}
                None => return Err(missing()),
            }
        }
        RestrictedExpression::new_record(fields).map_err(|_| MappingError::ClaimMissing("request".into()))
    }
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn address(peer: IpAddr) -> RestrictedExpression {
    RestrictedExpression::new_ip(peer.to_canonical().to_string())
}

fn shown(fields: &Record) -> Result<Vec<(String, Shown)>, String> {
    fields
        .iter()
        .map(|(name, attribute)| {
            let required = attribute.required;
            let shown = match (name.as_str(), &attribute.ty) {
                ("thumbprint", Type::String) => Shown::Thumbprint,
                ("subject", Type::String) => Shown::Subject { required },
                ("dnsNames", ty) if ty.is_set_of_text() => Shown::DnsNames { required },
                ("uris", ty) if ty.is_set_of_text() => Shown::Uris { required },
                _ => return Err(format!("nothing supplies `context.request.certificate.{name}` of that type")),
            };
            Ok((name.clone(), shown))
        })
        .collect()
}

/// What is told of a certificate; beside its thumbprint nothing, where nobody vouches for what it says.
fn certificate_record(
    members: &[(String, Shown)],
    certificate: &Certificate,
) -> Result<RestrictedExpression, MappingError> {
    let set = |values: &[String]| RestrictedExpression::new_set(values.iter().map(|value| text(value)));
    let vouched = certificate.vouched.as_ref();
    let mut fields = Vec::with_capacity(members.len());
    for (name, shown) in members {
        let (value, required) = match *shown {
            Shown::Thumbprint => (Some(text(&URL_SAFE_NO_PAD.encode(certificate.thumbprint))), true),
            Shown::Subject { required } => (vouched.map(|said| text(&said.subject)), required),
            Shown::DnsNames { required } => (vouched.map(|said| set(&said.dns_names)), required),
            Shown::Uris { required } => (vouched.map(|said| set(&said.uris)), required),
        };
        match value {
            Some(value) => fields.push((name.clone(), value)),
            None if !required => {}
            None => return Err(MappingError::ClaimMissing(format!("request.certificate.{name}"))),
        }
    }
    RestrictedExpression::new_record(fields).map_err(|_| MappingError::ClaimMissing("request.certificate".into()))
}

fn sets(fields: &Record) -> Result<Vec<(String, bool)>, String> {
    fields
        .iter()
        .map(|(name, attribute)| match attribute.ty.is_set_of_text() {
            true => Ok((name.clone(), attribute.required)),
            false => Err(format!("`{name}` of `context.request` may stand several times: make it `Set<String>`")),
        })
        .collect()
}

fn headers(fields: &Record) -> Result<Vec<(String, HeaderName, bool)>, String> {
    let named = |(name, required): (String, bool)| match name.parse::<HeaderName>() {
        Ok(header) if header == header::AUTHORIZATION || header == "dpop" => {
            Err(format!("`context.request.headers` may not hold `{name}`: a token is no context"))
        }
        Ok(header) if header == header::HOST => Err("the host is `context.request.host`".to_owned()),
        Ok(header) => Ok((name, header, required)),
        Err(_) => Err(format!("`{name}` in `context.request.headers` is not the name of a header")),
    };
    sets(fields)?.into_iter().map(named).collect()
}

/// Every value of each header that is asked for. One that is not visible ASCII is no text that a policy could be asked about.
fn header_record(
    wanted: &[(String, HeaderName, bool)],
    inbound: &Inbound<'_>,
) -> Result<RestrictedExpression, MappingError> {
    let mut fields = Vec::with_capacity(wanted.len());
    for (name, header, required) in wanted {
        let missing = || MappingError::ClaimMissing(format!("request.headers.{name}"));
        let values = forwarded(inbound.headers(), header).map_err(|Unclear| missing())?;
        let values = values.into_iter().map(|value| value.to_str().map(text).map_err(|_| missing()));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        fields.extend(set(name, values, *required));
    }
    RestrictedExpression::new_record(fields).map_err(|_| MappingError::ClaimMissing("request.headers".into()))
}

/// Every value of each query parameter that is asked for.
fn query_record(wanted: &[(String, bool)], inbound: &Inbound<'_>) -> Result<RestrictedExpression, MappingError> {
    let mut fields = Vec::with_capacity(wanted.len());
    for (name, required) in wanted {
        let values = query::values(inbound.target().query(), name);
        let values = values.map_err(|Unclear| MappingError::ClaimMissing(format!("request.query.{name}")))?;
        fields.extend(set(name, values.iter().map(|value| text(value)).collect(), *required));
    }
    RestrictedExpression::new_record(fields).map_err(|_| MappingError::ClaimMissing("request.query".into()))
}

/// A set that is required is there, be it empty.
fn set(name: &str, values: Vec<RestrictedExpression>, required: bool) -> Option<(String, RestrictedExpression)> {
    (required || !values.is_empty()).then(|| (name.to_owned(), RestrictedExpression::new_set(values)))
}
