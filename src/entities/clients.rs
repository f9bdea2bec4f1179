//! What the operator says of each client, whatever its issuer lets it have: the apps that may call it, the scopes it may
//! use, and attributes of the agent that policies can read.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{MappingError, Types, value::expression};
use crate::{
    base::{
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    token::{
        VerifiedToken,
        claims::{Identifier, is_scope},
    },
};

/// An entry of `clients`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// The client, as it stands in the token.
    pub client_id: Spanned<String>,
    /// Its issuer. Default: the only one.
    pub issuer: Option<Spanned<String>>,
    /// The apps that may call it (`callerApp`). Default: any, or none.
    pub caller_apps: Option<Spanned<Vec<String>>>,
    /// The scopes it may use; others in its tokens do not count. Default: all that its tokens hold.
    pub scopes: Option<Spanned<Vec<String>>>,
    /// Attributes of the agent, in place of the claims of the same names.
    #[serde(default)]
    pub attributes: BTreeMap<String, Spanned<Value>>,
}

/// The clients that the configuration speaks of. When it speaks of any, no other comes in.
#[derive(Debug, Default)]
pub(super) struct Clients(HashMap<(String, String), Client>);

#[derive(Debug)]
struct Client {
    caller_apps: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
    attributes: Map<String, Value>,
}

/// What a token amounts to once the operator's word on its client is counted in.
pub(super) struct Limited<'a> {
    pub(super) scopes: Vec<String>,
    /// In place of claims of the same names.
    pub(super) attributes: Option<&'a Map<String, Value>>,
}

impl Clients {
    /// Compiles `clients`; `issuers` are the configured ones.
    pub(super) fn compile(clients: &[ClientConfig], issuers: &[&str], types: &Types) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut known = HashMap::new();
        for client in clients {
            let Some((issuer, compiled)) = problems.keep(client.compile(issuers, types)) else { continue };
            if known.insert((issuer, client.client_id.value.clone()), compiled).is_some() {
                let message = format!("client `{}` stands twice", client.client_id.value);
                problems.push(Problem::at(&client.client_id, message).fix("merge the two entries"));
            }
        }
        problems.into_result(Some(Self(known)))
    }

    /// The scopes that clients may use, where each of them is limited.
    pub(super) fn scopes(&self) -> Option<Vec<&str>> {
        let limits: Option<Vec<_>> = self.0.values().map(|client| client.scopes.as_ref()).collect();
        let limits = limits.filter(|limits| !limits.is_empty())?;
        Some(limits.into_iter().flatten().map(String::as_str).collect())
    }

    /// What `token` amounts to.
    ///
    /// # Errors
    /// `ClientUnlisted` or `AppRefused`.
    pub(super) fn limit(&self, token: &VerifiedToken) -> Result<Limited<'_>, MappingError> {
        let held = token.scopes();
        if self.0.is_empty() {
            return Ok(Limited { scopes: held.to_vec(), attributes: None });
        }
        let named = (token.issuer().to_owned(), token.client().as_str().to_owned());
        let client = self.0.get(&named).ok_or(MappingError::ClientUnlisted)?;
        if let Some(apps) = &client.caller_apps
            && !token.caller_app().is_some_and(|app| apps.iter().any(|known| known == app.as_str()))
        {
            return Err(MappingError::AppRefused);
        }
        let may_use = |scope: &&String| client.scopes.as_ref().is_none_or(|allowed| allowed.contains(scope));
        let scopes = held.iter().filter(may_use).cloned().collect();
        Ok(Limited { scopes, attributes: Some(&client.attributes) })
    }
}

impl ClientConfig {
    fn compile(&self, issuers: &[&str], types: &Types) -> Result<(String, Client), Problems> {
        let mut problems = Problems::default();
        let issuer = problems.keep(self.issuer(issuers));
        if Identifier::parse(&self.client_id.value).is_none() {
            problems.push(
                Problem::at(&self.client_id, "a client id that no token can carry").fix("write it as the issuer does"),
            );
        }
        if let Some(apps) =
            self.caller_apps.as_ref().filter(|apps| apps.value.iter().any(|app| Identifier::parse(app).is_none()))
        {
            problems.push(
                Problem::at(apps, "an app that no token can name").fix("write the apps as `callerApp` names them"),
            );
        }
        if let Some(scopes) = self.scopes.as_ref().filter(|scopes| !scopes.value.iter().all(|scope| is_scope(scope))) {
            problems.push(Problem::at(scopes, "not scopes").fix("write each without blanks or quotes"));
        }
        for (name, value) in &self.attributes {
            let known = types.schema.entity(&types.agent).and_then(|shape| shape.get(name));
            let message = match known {
                None => format!("the schema gives `{}` no attribute `{name}`", types.agent),
                Some(attribute) if expression(&attribute.ty, &value.value).is_none() => {
                    format!("`{name}` is of another type in the schema")
                }
                Some(_) => continue,
            };
            problems.push(Problem::at(value, message).fix("attributes are those that the schema gives to agents"));
        }
        let attributes = self.attributes.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect();
        let list = |list: &Option<Spanned<Vec<String>>>| list.as_ref().map(|list| list.value.clone());
        let client = Client { caller_apps: list(&self.caller_apps), scopes: list(&self.scopes), attributes };
        problems.into_result(issuer.map(|issuer| (issuer, client)))
    }

    fn issuer(&self, issuers: &[&str]) -> Result<String, Problem> {
        match (&self.issuer, issuers) {
            (Some(named), _) if issuers.contains(&named.value.as_str()) => Ok(named.value.clone()),
            (Some(named), _) => Err(Problem::at(named, format!("`{}` is none of the issuers", named.value))
                .fix("write it as under `issuers`")),
            (None, [only]) => Ok((*only).to_owned()),
            (None, _) => Err(Problem::at(&self.client_id, "with several issuers, one client id could be two clients")
                .fix("say whose it is: `issuer`")),
        }
    }
}
