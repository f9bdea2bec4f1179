//! The walk: each step asks the gate something, shows what it answered and why, and knows what it should have been.

use std::{io::Write, net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    Failure,
    issuer::{Client, Issuer, User},
    service::Service,
};
use crate::{
    audit::{Record, Sink},
    base::address::Address,
    config::Loaded,
    server::probe::send,
};

/// Where the demo's gate puts its records.
#[derive(Debug)]
pub(super) struct Journal(UnboundedSender<Record>);

impl Journal {
    pub(super) fn new() -> (Self, UnboundedReceiver<Record>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }
}

impl Sink for Journal {
    fn write(&self, record: &Record) {
        // The walk may have ended.
        let _ = self.0.send(record.clone());
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

/// The longest that a record is waited for.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

const APP: &str = "ExampleChatApplication";
const READ: &str = "crossDomainService/read userData/read";

pub(super) struct Walk<'a> {
    gate: SocketAddr,
    issuer: &'a Issuer,
    service: &'a Service,
    records: UnboundedReceiver<Record>,
    failed: usize,
    steps: usize,
}

/// A question to the gate and the answer it should get.
struct Step<'a> {
    title: &'a str,
    path: String,
    token: Option<&'a str>,
    headers: &'a [(&'a str, &'a str)],
    status: StatusCode,
    code: &'a str,
}

impl<'a> Walk<'a> {
    pub(super) const fn new(
        gate: SocketAddr,
        issuer: &'a Issuer,
        service: &'a Service,
        records: UnboundedReceiver<Record>,
    ) -> Self {
        Self { gate, issuer, service, records, failed: 0, steps: 0 }
    }

    pub(super) fn into_records(self) -> UnboundedReceiver<Record> {
        self.records
    }

    pub(super) fn introduce(&self, loaded: &Loaded, admin: &Address) {
        say(&format!(
            "An agent wants data that a service keeps for a user. The gate decides.\n\n\
             \x20 issuer   {}   two pools shaped like Cognito: users, agents\n\
             \x20 service  http://{}   two users' data, no token code\n\
             \x20 gate     http://{}   from {}\n\
             \x20 admin    http://{admin}   /livez /readyz /metrics\n\n",
            self.issuer.origin(),
            self.service.address(),
            self.gate,
            loaded.name(),
        ));
    }

    /// Walks every step.
    pub(super) async fn go(&mut self) -> Result<bool, Failure> {
        let [agent, stranger] = self.issuer.clients();
        let [alice, bob] = self.issuer.users();
        say(
            "alice signs in to an app; the app hands her token to its agent; the agent asks its own issuer for a token\n\
             that says for whom it acts: POST /oauth2/token with aws_client_metadata={onBehalfOfToken, callerApp}.\n",
        );
        let for_alice = self.agent_token(agent, READ, Some(alice)).await?;
        let by_stranger = self.agent_token(stranger, READ, Some(alice)).await?;
        let may_write = self.agent_token(agent, "crossDomainService/write", Some(alice)).await?;
        let for_nobody = self.agent_token(agent, READ, None).await?;
        let expired = self.issuer.past_agent_token(2 * 3600)?;
        let forged = forge(&for_alice);
        let mine = format!("/users/{}/data", alice.sub);
        let step = |title, token, status, code| Step { title, path: mine.clone(), token, headers: &[], status, code };
        let ok = StatusCode::OK;
        let (unauthorized, forbidden) = (StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN);
        let spoofed = [("X-Portcullis-User", bob.sub), ("x_portcullis_agent", "root")];
        let steps = [
            step("The agent reads the data of the user it acts for.", Some(for_alice.as_str()), ok, "allowed"),
            step("No token.", None, unauthorized, "token_missing"),
            step("A token that has expired.", Some(&expired), unauthorized, "token_expired"),
            step("A token whose payload was changed after signing.", Some(&forged), unauthorized, "signature_invalid"),
            step("Another client of the same issuer.", Some(&by_stranger), unauthorized, "client_refused"),
            step("A token without the scope.", Some(&may_write), forbidden, "scope_missing"),
            Step {
                path: format!("/users/{}/data", bob.sub),
                ..step("Data of a user that the agent does not act for.", Some(&for_alice), forbidden, "access_denied")
            },
            step("A signed token with an empty delegation.", Some(&for_nobody), forbidden, "delegation_missing"),
            Step {
                headers: &spoofed,
                ..step("The good call, with identity headers made up by the client.", Some(&for_alice), ok, "allowed")
            },
            Step {
                path: "/admin/users".into(),
                ..step("A request that no route describes.", Some(&for_alice), StatusCode::NOT_FOUND, "route_missing")
            },
        ];
        for step in &steps {
            self.take(step).await?;
        }
        let verdict = if self.failed == 0 { "every one as it should" } else { "NOT all as they should" };
        say(&format!("\n{} steps, {verdict}.\n", self.steps));
        Ok(self.failed == 0)
    }

    async fn take(&mut self, step: &Step<'_>) -> Result<(), Failure> {
        let mut request = Request::get(&step.path);
        if let Some(token) = step.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in step.headers {
            request = request.header(*name, *value);
        }
        let reached = self.service.received();
        let response = send(self.gate, request.body(Full::default())?).await?;
        let record =
            tokio::time::timeout(RECORD_TIMEOUT, self.records.recv()).await?.ok_or("the gate wrote no record")?;
        let reached = self.service.received() > reached;
        let right = response.status() == step.status
            && record.code == step.code
            && reached == (step.status == StatusCode::OK)
            && self.tells_the_truth(&response);
        self.steps = self.steps.saturating_add(1);
        self.failed = self.failed.saturating_add(usize::from(!right));
        self.tell(step, &response, &record, right);
        Ok(())
    }

    /// Whether the identity headers that the service saw are those of the agent's token, each once.
    fn tells_the_truth(&self, response: &Response<Bytes>) -> bool {
        if response.status() != StatusCode::OK {
            return true;
        }
        let [agent, _] = self.issuer.clients();
        let [alice, _] = self.issuer.users();
        let seen = seen_by_service(response);
        let identity =
            [("x-portcullis-agent", agent.id.as_str()), ("x-portcullis-user", alice.sub), ("x-portcullis-app", APP)];
        let told = identity.iter().all(|(name, value)| seen.get(*name) == Some(&json!([value])));
        told && seen.get("authorization").is_none() && seen.get("x_portcullis_agent").is_none()
    }

    fn tell(&self, step: &Step<'_>, response: &Response<Bytes>, record: &Record, right: bool) {
        let mark = if right { "as it should" } else { "NOT AS IT SHOULD" };
        let mut told = format!("\n{:>2}. {}\n    GET {}\n", self.steps, step.title, step.path);
        for (name, value) in step.headers {
            told.push_str(&format!("    {name}: {value}\n"));
        }
        told.push_str(&format!("    <- {} ({mark})\n", response.status()));
        if let Some(challenge) = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok())
        {
            told.push_str(&format!("       WWW-Authenticate: {challenge}\n"));
        }
        told.push_str(&format!("    why: {}", record.code));
        if !record.policies.is_empty() {
            told.push_str(&format!(", by policy {}", record.policies.join(", ")));
        }
        if let Some(missing) = &record.missing {
            told.push_str(&format!(": {missing}"));
        }
        told.push('\n');
        let problem: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        for (name, label) in [("detail", "told"), ("advice", "advice")] {
            if let Some(words) = problem.get(name).and_then(Value::as_str) {
                told.push_str(&format!("    {label}: {words}\n"));
            }
        }
        for (name, values) in seen_by_service(response).as_object().into_iter().flatten() {
            if name.contains("portcullis") {
                let values: Vec<_> = values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                told.push_str(&format!("    the service saw {name}: {}\n", values.join(", ")));
            }
        }
        say(&told);
    }

    async fn agent_token(&self, client: &Client, scope: &str, user: Option<&User>) -> Result<String, Failure> {
        let metadata = match user {
            None => json!({ "callerApp": APP }),
            Some(user) => {
                let fields = [("username", user.name), ("password", user.password.as_str())];
                json!({ "callerApp": APP, "onBehalfOfToken": self.post("/sign-in", None, &fields).await? })
            }
        };
        let metadata = metadata.to_string();
        let fields = [("grant_type", "client_credentials"), ("scope", scope), ("aws_client_metadata", &metadata)];
        self.post("/oauth2/token", Some(client), &fields).await
    }

    /// Posts a form to the issuer; gives back the token it answers with.
    async fn post(&self, path: &str, client: Option<&Client>, fields: &[(&str, &str)]) -> Result<String, Failure> {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = Request::builder().method(Method::POST).uri(path);
        if let Some(client) = client {
            let pair = STANDARD.encode(format!("{}:{}", client.id, client.secret));
            request = request.header(header::AUTHORIZATION, format!("Basic {pair}"));
        }
        let response = send(self.issuer.address(), request.body(Full::from(form))?).await?;
        let answer: Value = serde_json::from_slice(response.body())?;
        let token = answer.get("access_token").and_then(Value::as_str);
        token.map(str::to_owned).ok_or_else(|| format!("the issuer gave no token: {answer}").into())
    }

    /// Ends the walk with lines to try.
    pub(super) async fn invite(&self) -> Result<(), Failure> {
        let [agent, _] = self.issuer.clients();
        let [alice, bob] = self.issuer.users();
        let token = self.agent_token(agent, READ, Some(alice)).await?;
        say(&format!(
            "\nThe gate stays up until Ctrl-C; its decision records follow. Try it, with a token for alice:\n\n\
             TOKEN={token}\n\
             curl -i -H \"Authorization: Bearer $TOKEN\" http://{gate}/users/{}/data\n\
             curl -i -H \"Authorization: Bearer $TOKEN\" http://{gate}/users/{}/data\n\n\
             A fresh one, the way an agent gets it:\n\n\
             USER_TOKEN=$(curl -s {origin}/sign-in -d username=alice -d password={} | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n\
             TOKEN=$(curl -s {origin}/oauth2/token -u {}:{} -d grant_type=client_credentials \\\n\
             \x20 --data-urlencode 'scope={READ}' \\\n\
             \x20 --data-urlencode \"aws_client_metadata={{\\\"onBehalfOfToken\\\":\\\"$USER_TOKEN\\\",\\\"callerApp\\\":\\\"{APP}\\\"}}\" \\\n\
             \x20 | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n\n",
            alice.sub,
            bob.sub,
            alice.password,
            agent.id,
            agent.secret,
            gate = self.gate,
            origin = self.issuer.origin(),
        ));
        Ok(())
    }
}

fn seen_by_service(response: &Response<Bytes>) -> Value {
    let answer: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    answer.get("headers").cloned().unwrap_or_default()
}

/// The same token with another payload: `alice` made `root`, the signature kept.
fn forge(token: &str) -> String {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { return String::new() };
    let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    let payload = String::from_utf8_lossy(&payload).replace("\"username\":\"alice\"", "\"username\":\"root\"");
    format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(payload))
}

fn say(text: &str) {
    // A closed terminal leaves nobody to tell.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
