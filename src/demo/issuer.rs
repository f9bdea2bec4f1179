//! An issuer shaped like Amazon Cognito: a users' pool and an agents' pool with keys of their own, sign-in, and
//! `/oauth2/token` with `client_credentials`, whose trigger verifies the user's token and adds `onBehalfOf` and
//! `callerApp` to the agent's. As in the reference, an agent without a user's token gets a token all the same, with an
//! empty delegation.

use std::{collections::HashMap, io, sync::Arc};

use aws_lc_rs::error::Unspecified;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use ulid::Ulid;

use crate::authoring::keys::SigningKey;
use crate::{
    base::clock::{Clock, SystemClock},
    config::Config,
    server::http1::{Http1Server, answer, json as json_answer},
    token::{
        Issuers, RawToken, Trust,
        issuer::{IssuerConfig, Rules},
    },
};

/// `iss` of the users' pool.
pub const USERS_ISSUER: &str = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_users";

/// The app that users sign in to.
pub const APP_CLIENT: &str = "3app3example3client3";

/// A client that the agents' pool knows and the gate does not let in.
pub const STRANGER: &str = "2stranger2example2";

/// Scopes that the agents' pool grants.
pub const SCOPES: [&str; 3] = ["crossDomainService/read", "crossDomainService/write", "userData/read"];

/// Seconds that tokens live.
const TOKEN_LIFETIME_S: u64 = 3600;

/// The largest form that is read, in bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// An OAuth client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// Its secret, made anew for each run.
    pub secret: String,
}

/// Someone who can sign in.
#[derive(Clone, Debug)]
pub struct User {
    /// The name.
    pub name: &'static str,
    /// `sub`.
    pub sub: &'static str,
    /// The password, made anew for each run.
    pub password: String,
}

/// Everything the issuer knows.
#[derive(Debug)]
pub struct Realm {
    agents_issuer: String,
    agents_key: SigningKey,
    users_key: SigningKey,
    clients: [Client; 2],
    users: [User; 2],
    verifier: Issuers,
}

/// The issuer at work.
#[derive(Debug)]
pub struct Issuer {
    realm: Arc<Realm>,
    server: Http1Server,
}

/// Why the issuer does not do what it is asked (RFC 6749 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct OAuthError(&'static str);

impl Realm {
    /// Pools, clients and users that fit `config`: its first issuer is the agents' pool, its first client the agent.
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When `config` names no issuer or client, or the machine gives no randomness.
    pub fn new(config: &Config) -> Result<Self, super::Failure> {
        let settings = config.issuers.value.first().ok_or("the configuration names no issuer")?.settings();
        let agent = settings.client_ids.as_ref().and_then(|ids| ids.value.first());
        let agent = agent.ok_or("the configuration lets no client in")?;
        let secret = || Ulid::generate().to_string();
        let users_key = SigningKey::rs256(STANDARD.encode(b"users' pool, access tokens ?>"))?;
        Ok(Self {
            agents_issuer: settings.issuer.value.clone(),
            agents_key: SigningKey::rs256(STANDARD.encode(b"agents' pool, access tokens ?>"))?,
            verifier: verifier(&users_key)?,
            users_key,
            clients: [agent, STRANGER].map(|id| Client { id: id.into(), secret: secret() }),
            users: [
                User { name: "alice", sub: "user-identity-4e4c-example-7cede8e609a2", password: secret() },
                User { name: "bob", sub: "user-identity-9b1d-example-55aa01c3e7f4", password: secret() },
            ],
        })
    }

    /// Signs in.
    fn user_token(&self, name: &str, password: &str) -> Result<String, OAuthError> {
        let user = self.users.iter().find(|user| user.name == name && user.password == password);
        let user = user.ok_or(OAuthError("invalid_grant"))?;
        let claims = json!({
            "sub": user.sub, "iss": USERS_ISSUER, "client_id": APP_CLIENT, "username": user.name,
            "token_use": "access", "scope": "aws.cognito.signin.user.admin", "cognito:groups": ["readaccess"],
        });
        self.users_key.sign(&timed(claims, SystemClock.now().seconds())).map_err(|_| OAuthError("server_error"))
    }

    /// The token endpoint (RFC 6749 section 4.4) with its trigger.
    async fn agent_token(&self, basic: Option<&str>, form: &HashMap<String, String>) -> Result<String, OAuthError> {
        let client = self.client(basic).ok_or(OAuthError("invalid_client"))?;
        if form.get("grant_type").map(String::as_str) != Some("client_credentials") {
            return Err(OAuthError("unsupported_grant_type"));
        }
        let scope = form.get("scope").cloned().unwrap_or_else(|| SCOPES.join(" "));
        if !scope.split(' ').all(|word| SCOPES.contains(&word)) {
            return Err(OAuthError("invalid_scope"));
        }
        let metadata = form.get("aws_client_metadata").map_or("{}", String::as_str);
        let metadata =
            crate::base::json::parse_object(metadata.as_bytes()).map_err(|_| OAuthError("invalid_request"))?;
        let mut claims = json!({
            "sub": client.id, "iss": self.agents_issuer, "client_id": client.id, "version": 2,
            "token_use": "access", "scope": scope,
        });
        if let Some(claims) = claims.as_object_mut() {
            claims.extend(self.trigger(&metadata).await?);
        }
        self.agents_key.sign(&timed(claims, SystemClock.now().seconds())).map_err(|_| OAuthError("server_error"))
    }

    fn client(&self, basic: Option<&str>) -> Option<&Client> {
        let pair = STANDARD.decode(basic?.strip_prefix("Basic ")?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (id, secret) = pair.split_once(':')?;
        self.clients.iter().find(|client| client.id == id && client.secret == secret)
    }

    /// The pre token generation trigger: verifies the user's token and says on whose behalf the agent acts.
    async fn trigger(&self, metadata: &Map<String, Value>) -> Result<Map<String, Value>, OAuthError> {
        let on_behalf_of = match metadata.get("onBehalfOfToken").and_then(Value::as_str) {
            None => json!({}),
            Some(token) => {
                let token = RawToken::parse(token.as_bytes()).ok_or(OAuthError("access_denied"))?;
                let verified =
                    self.verifier.verify(token, SystemClock.now()).await.map_err(|_| OAuthError("access_denied"))?;
                let claim = |name: &str| verified.claims().get(name).cloned().unwrap_or_default();
                json!({ "sub": claim("sub"), "username": claim("username"), "groups": claim("cognito:groups") })
            }
        };
        let app = metadata.get("callerApp").and_then(Value::as_str).unwrap_or_default();
        Ok(Map::from_iter([("onBehalfOf".into(), on_behalf_of), ("callerApp".into(), app.into())]))
    }
}

/// The gate's own verifier, for the users' pool.
fn verifier(key: &SigningKey) -> Result<Issuers, super::Failure> {
    let files =
        crate::base::files::Files::memory([("users.json", json!({ "keys": [key.jwk()] }).to_string().as_str())]);
    let config: IssuerConfig = serde_json::from_value(json!({ "cognito_access": {
        "issuer": USERS_ISSUER, "jwks_file": "users.json", "client_ids": [APP_CLIENT], "scope_prefix": "aws.cognito.",
    }}))?;
    let rules = Rules::compile(&config, &files)?;
    let fetch = Arc::new(crate::server::fetch::HttpFetch::new()?);
    let outside = crate::base::outside::Outside::without_databases(Arc::new(SystemClock), fetch, files);
    Ok(Issuers::start(Trust::plain(vec![rules])?, &outside, None))
}

/// `claims`, issued at `now`.
fn timed(mut claims: Value, now: u64) -> Value {
    let times = json!({ "auth_time": now, "iat": now, "exp": now.saturating_add(TOKEN_LIFETIME_S), "jti": Ulid::generate().to_string() });
    if let (Some(claims), Value::Object(times)) = (claims.as_object_mut(), times) {
        claims.extend(times);
    }
    claims
}

impl Issuer {
    /// Serves `realm` on `listener`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(listener: TcpListener, realm: Realm) -> io::Result<Self> {
        let realm = Arc::new(realm);
        let shared = realm.clone();
        let server = Http1Server::start(listener, move |request| respond(shared.clone(), request))?;
        Ok(Self { realm, server })
    }

    /// Its origin.
    pub fn origin(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Where it listens.
    pub const fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// Where the agents' pool shows its keys.
    pub fn agents_jwks_uri(&self) -> String {
        format!("{}{}", self.origin(), jwks_path(&self.realm.agents_issuer))
    }

    /// The agent that the gate lets in, and the stranger that it does not.
    pub fn clients(&self) -> &[Client; 2] {
        &self.realm.clients
    }

    /// Who can sign in: alice and bob.
    pub fn users(&self) -> &[User; 2] {
        &self.realm.users
    }

    /// A token of the agents' pool as it was issued `ago_s` seconds ago.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn past_agent_token(&self, ago_s: u64) -> Result<String, Unspecified> {
        let realm = &self.realm;
        let [agent, _] = &realm.clients;
        let [alice, _] = &realm.users;
        let claims = json!({
            "sub": agent.id, "iss": realm.agents_issuer, "client_id": agent.id, "version": 2, "token_use": "access",
            "scope": "crossDomainService/read userData/read", "callerApp": "ExampleChatApplication",
            "onBehalfOf": { "sub": alice.sub, "username": alice.name, "groups": ["readaccess"] },
        });
        realm.agents_key.sign(&timed(claims, SystemClock.now().seconds().saturating_sub(ago_s)))
    }
}

fn jwks_path(issuer: &str) -> String {
    let path = url::Url::parse(issuer).map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default();
    format!("{path}/.well-known/jwks.json")
}

async fn respond(realm: Arc<Realm>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if head.method == Method::GET {
        let key = [(realm.agents_issuer.as_str(), &realm.agents_key), (USERS_ISSUER, &realm.users_key)]
            .into_iter()
            .find(|(issuer, _)| jwks_path(issuer) == path);
        return match key {
            Some((_, key)) => json_answer(StatusCode::OK, &json!({ "keys": [key.jwk()] })),
            None => answer(StatusCode::NOT_FOUND, "text/plain", "no such page\n"),
        };
    }
    let Ok(body) = Limited::new(body, FORM_BYTES_MAX).collect().await else {
        return answer(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "the form is too large\n");
    };
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body.to_bytes()).into_owned().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let basic = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = match path {
        "/sign-in" => realm.user_token(field("username"), field("password")),
        "/oauth2/token" => realm.agent_token(basic, &form).await,
        _ => return answer(StatusCode::NOT_FOUND, "text/plain", "no such page\n"),
    };
    match token {
        Ok(token) => json_answer(
            StatusCode::OK,
            &json!({ "access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME_S }),
        ),
        Err(OAuthError("invalid_client")) => {
            json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_client" }))
        }
        Err(OAuthError(error)) => json_answer(StatusCode::BAD_REQUEST, &json!({ "error": error })),
    }
}
