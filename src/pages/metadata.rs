//! Protected resource metadata (RFC 9728): which issuers' tokens the gate takes, and how they must be presented, told to
//! clients that know no more of it than its address.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::{Page, path};
use crate::base::{
    fetch::Transport,
    problem::{Problem, Problems},
    spanned::Spanned,
};

/// The section `resource_metadata`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceMetadataConfig {
    /// What clients know the gate by, and ask tokens for: an https URL, without query.
    pub resource: Spanned<String>,
    /// The authorization servers whose tokens are taken. Default: the configured issuers.
    pub authorization_servers: Option<Spanned<Vec<Spanned<String>>>>,
    /// The scopes that clients may ask for. Default: those that routes and policies require.
    pub scopes_supported: Option<Vec<Spanned<String>>>,
    /// A name to show to users.
    pub resource_name: Option<Spanned<String>>,
    /// A page for developers.
    pub resource_documentation: Option<Spanned<String>>,
    /// A page on what clients may do with data.
    pub resource_policy_uri: Option<Spanned<String>>,
    /// A page with terms of service.
    pub resource_tos_uri: Option<Spanned<String>>,
}

/// What the rest of the configuration says of tokens.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// Whose they are.
    pub issuers: BTreeSet<&'a str>,
    /// Scopes that something requires.
    pub scopes: BTreeSet<&'a str>,
    /// What a proof may be signed with, where some may be bound to a key.
    pub proof_algorithms: &'static [&'static str],
    /// Whether all must be.
    pub requires_proofs: bool,
    /// Whether some may be bound to a client certificate.
    pub takes_certificates: bool,
}

/// The document, and where it is.
#[derive(Clone, Debug)]
pub struct ResourceMetadata {
    /// The document.
    pub page: Page,
    /// Its address, for challenges (RFC 9728 section 5.1).
    pub url: String,
}

/// What records call an answer with it.
pub const METADATA: &str = "metadata";

/// What stands between host and path of a resource (RFC 9728 section 3).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 256;

impl ResourceMetadataConfig {
    /// What clients know the gate by.
    ///
    /// # Errors
    /// A [`Problem`] where that is no such URL.
    pub fn resource(&self) -> Result<Url, Problem> {
        let written = &self.resource.value;
        let url = url(&self.resource)?;
        // Clients compare it as a string (RFC 9728 section 3.3): it has one spelling.
        let is_written_so =
            url.as_str() == written || url.path() == "/" && url.as_str().strip_suffix('/') == Some(written);
        if url.query().is_some() || !is_written_so {
            return Err(Problem::at(&self.resource, format!("`{written}` is not what clients can know a resource by"))
                .fix(format!("write it without query, and as clients do: `{}`", without_query(url))));
        }
        Ok(url)
    }

    /// Compiles the section.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(&self, known: &Known<'_>) -> Result<ResourceMetadata, Problems> {
        let mut problems = Problems::default();
        let place = problems.keep(self.resource()).and_then(|url| {
            let path = problems.keep(path(&self.resource, &well_known(&url)))?;
            Some((format!("{}{path}", url.origin().ascii_serialization()), path))
        });
        let mut document = Map::new();
        let mut say = |name: &str, value: Value| drop(document.insert(name.to_owned(), value));
        say("resource", self.resource.value.as_str().into());
        let servers = problems.keep(self.servers(known)).unwrap_or_default();
        if !servers.is_empty() {
            say("authorization_servers", servers.into());
        }
        let scopes = problems.keep(self.scopes(known)).unwrap_or_default();
        if !scopes.is_empty() {
            say("scopes_supported", scopes.into());
        }
        say("bearer_methods_supported", vec!["header"].into());
        if !known.proof_algorithms.is_empty() {
            say("dpop_signing_alg_values_supported", known.proof_algorithms.to_vec().into());
            say("dpop_bound_access_tokens_required", known.requires_proofs.into());
        }
        if known.takes_certificates {
            say("tls_client_certificate_bound_access_tokens", true.into());
        }
        if let Some(name) = &self.resource_name {
            if name.value.trim().is_empty()
                || name.value.len() > NAME_BYTES_MAX
                || name.value.contains(char::is_control)
            {
                problems.push(Problem::at(name, "not a name").fix("write 1 to 256 bytes, without control characters"));
            }
            say("resource_name", name.value.as_str().into());
        }
        for (name, page) in [
            ("resource_documentation", &self.resource_documentation),
            ("resource_policy_uri", &self.resource_policy_uri),
            ("resource_tos_uri", &self.resource_tos_uri),
        ] {
            if let Some(page) = page {
                problems.keep(url(page));
                say(name, page.value.as_str().into());
            }
        }
        let document = Value::Object(document);
        let made = place.map(|(url, path)| ResourceMetadata { page: Page::json(path, METADATA, &document), url });
        problems.into_result(made)
    }

    fn servers(&self, known: &Known<'_>) -> Result<Vec<String>, Problems> {
        let Some(named) = &self.authorization_servers else {
            // An issuer's name need not be an address, and then says nothing to whoever looks for one.
            let is_address = |name: &&&str| Url::parse(name).is_ok_and(|url| Transport::Trustworthy.admits(&url));
            return Ok(known.issuers.iter().filter(is_address).map(|name| (*name).to_owned()).collect());
        };
        let mut problems = Problems::default();
        for server in &named.value {
            problems.keep(url(server));
            if !known.issuers.contains(server.value.as_str()) {
                let message = format!("tokens of `{}` are not taken", server.value);
                problems.push(Problem::at(server, message).fix("name one of `issuers`, as it stands there"));
            }
        }
        problems.into_result(Some(named.value.iter().map(|server| server.value.clone()).collect()))
    }

    fn scopes(&self, known: &Known<'_>) -> Result<Vec<String>, Problems> {
        let Some(named) = &self.scopes_supported else {
            return Ok(known.scopes.iter().map(|scope| (*scope).to_owned()).collect());
        };
        let mut problems = Problems::default();
        for scope in named {
            let is_scope = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            if scope.value.is_empty() || !scope.value.bytes().all(is_scope) {
                problems.push(Problem::at(scope, "not a scope").fix("write one scope, without blanks or quotes"));
            }
        }
        problems.into_result(Some(named.iter().map(|scope| scope.value.clone()).collect()))
    }
}

/// Where the metadata of `resource` is (RFC 9728 section 3.1).
fn well_known(resource: &Url) -> String {
    let path = if resource.path() == "/" { "" } else { resource.path() };
    format!("{WELL_KNOWN}{path}")
}

fn without_query(mut url: Url) -> Url {
    url.set_query(None);
    url
}

fn url(text: &Spanned<String>) -> Result<Url, Problem> {
    let is_plain = |url: &Url| url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    let url = Url::parse(&text.value).ok().filter(|url| Transport::Trustworthy.admits(url) && is_plain(url));
    let message = || Problem::at(text, format!("`{}` is not the https URL of a place", text.value));
    url.ok_or_else(|| message().fix("write `https://host/path` without fragment; http is for loopback addresses only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ResourceMetadataConfig {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn the_document_is_between_host_and_path_of_the_resource() {
        for (resource, at) in [
            ("https://api.example", "https://api.example/.well-known/oauth-protected-resource"),
            ("https://api.example/", "https://api.example/.well-known/oauth-protected-resource"),
            ("https://api.example/mcp", "https://api.example/.well-known/oauth-protected-resource/mcp"),
            ("https://api.example:8443/a/b", "https://api.example:8443/.well-known/oauth-protected-resource/a/b"),
            ("https://api.example/mcp/", "https://api.example/.well-known/oauth-protected-resource/mcp/"),
            ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/.well-known/oauth-protected-resource/x"),
        ] {
            let made = config(&format!("resource: '{resource}'")).compile(&Known::default()).unwrap();
            assert_eq!(made.url, at);
            assert!(at.ends_with(made.page.path()));
            let document: Value = serde_json::from_str(made.page.body()).unwrap();
            assert_eq!(document, serde_json::json!({ "resource": resource, "bearer_methods_supported": ["header"] }));
        }
    }

    #[test]
    fn a_resource_has_one_spelling() {
        for bad in [
            "",
            "api.example",
            "http://api.example",
            "https://api.example#a",
            "https://api.example/?a",
            "https://user@api.example",
            "https://API.example",
            "https://api.example:443",
            "https://api.example/a/../b",
            "https://api.example/a//b",
            "https://api.example/{a}",
            "https://api.example/%61",
            "https://api.example/caf%C3%A9",
            "urn:api",
            "file:///a",
        ] {
            assert!(config(&format!("resource: '{bad}'")).compile(&Known::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_says_what_the_configuration_does() {
        let known = Known {
            issuers: ["https://b.example", "https://a.example/x", "urn:c"].into(),
            scopes: ["b", "a"].into(),
            proof_algorithms: &["ES256"],
            requires_proofs: true,
            takes_certificates: true,
        };
        let text =
            "{ resource: 'https://api.example', resource_name: Data, resource_documentation: 'https://a.example/doc' }";
        let made = config(text).compile(&known).unwrap();
        let document: Value = serde_json::from_str(made.page.body()).unwrap();
        let expected = serde_json::json!({
            "resource": "https://api.example",
            "authorization_servers": ["https://a.example/x", "https://b.example"],
            "scopes_supported": ["a", "b"],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": ["ES256"],
            "dpop_bound_access_tokens_required": true,
            "tls_client_certificate_bound_access_tokens": true,
            "resource_name": "Data",
            "resource_documentation": "https://a.example/doc",
        });
        assert_eq!(document, expected);
        let named =
            "{ resource: 'https://api.example', authorization_servers: ['https://b.example'], scopes_supported: [c] }";
        let document: Value = serde_json::from_str(config(named).compile(&known).unwrap().page.body()).unwrap();
        assert_eq!(document["authorization_servers"], serde_json::json!(["https://b.example"]));
        assert_eq!(document["scopes_supported"], serde_json::json!(["c"]));
        for bad in [
            "authorization_servers: ['https://d.example']",
            "authorization_servers: ['urn:c']",
            "scopes_supported: ['a b']",
            "resource_name: ''",
            "resource_documentation: 'http://a.example'",
            "resource_policy_uri: a",
        ] {
            assert!(config(&format!("{{ resource: 'https://api.example', {bad} }}")).compile(&known).is_err(), "{bad}");
        }
    }
}
