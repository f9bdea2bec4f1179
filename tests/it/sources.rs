//! Attributes from other servers and databases: what they say decides, and that they fail is never taken for an answer.

use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use portcullis::{
    audit::Record,
    config,
    server::http1::{Http1Server, answer},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    house::{self, House, NOW},
    wire,
};

const SCHEMA: &str = "
    entity User = { department?: String };
    entity Agent;
    entity Folder;
    entity Doc in [Folder] = { owner: User, public?: Bool, labels?: Set<String>, size?: Long };
    action read appliesTo { principal: [Agent], resource: [Doc],
        context: { token: { scope: Set<String> }, onBehalfOf?: User } };";

const POLICIES: &str = "
    @id(\"owner\") permit (principal, action, resource)
        when { context has onBehalfOf && context.onBehalfOf == resource.owner };
    @id(\"public\") permit (principal, action, resource) when { resource has public && resource.public };
    @id(\"labelled\") permit (principal, action, resource)
        when { resource has labels && resource.labels.contains(\"open\") && resource has size && resource.size < 10 };
    @id(\"inside\") permit (principal, action, resource in Folder::\"shared\");
    @id(\"department\") permit (principal, action, resource)
        when { context has onBehalfOf && context.onBehalfOf has department && context.onBehalfOf.department == \"audit\" };";

/// A gate whose documents are known by these sources.
async fn gate(folder: &TempDir, sources: &str) -> House {
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let _ = std::fs::create_dir(folder.path().join("policies"));
    // Without a source of parents the schema may have none.
    let (inside, folders) = if sources.contains("parents") { ("", " in [Folder]") } else { ("// ", "") };
    put("policies/schema.cedarschema", &SCHEMA.replace(" in [Folder]", folders));
    put("policies/docs.cedar", &POLICIES.replace("@id(\"inside\")", &format!("{inside}@id(\"inside\")")));
    put("keys.json", &json!({ "keys": [house::key("agents").jwk()] }).to_string());
    put("authorization", "Bearer for-the-directory\n");
    put(
        "config.yaml",
        &format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
             \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\n\
             entities:\n  sources:\n{sources}\nroutes:\n\
             \x20 - {{ methods: [GET], path: '/docs/{{id}}', action: read, resource: 'Doc::\"{{path.id}}\"' }}\n"
        ),
    );
    let loaded = config::load(&folder.path().join("config.yaml")).unwrap_or_else(|error| panic!("{error}"));
    House::of(loaded, NOW).await
}

async fn call(house: &mut House, id: &str) -> (u16, Record) {
    let mut claims = house::claims();
    (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
    let token = house::key("agents").sign(&claims).unwrap();
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let (answer, record) = house.ask(&wire::request("GET", &format!("/docs/{id}"), &fields)).await;
    (answer.status, record.unwrap())
}

async fn code(house: &mut House, id: &str) -> &'static str {
    call(house, id).await.1.code
}

/// What a directory does with a question.
#[derive(Clone)]
enum Mood {
    Says(Value),
    Answers(u16, &'static str, String),
    Redirects,
    Silence,
    /// Says so after a while.
    Slow(Value),
}

struct Directory {
    server: Http1Server,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Directory {
    async fn start(mood: Mood) -> Self {
        let (mood, asked) = (Arc::new(Mutex::new(mood)), Arc::new(Mutex::new(Vec::new())));
        let (now, seen) = (mood.clone(), asked.clone());
        let server = Http1Server::start(house::loopback().await, move |request: Request<Incoming>| {
            let authorization = request.headers().get(header::AUTHORIZATION).map(|it| it.to_str().unwrap().to_owned());
            let target = request.uri().path_and_query().unwrap().to_string();
            seen.lock().unwrap().push((target, authorization.unwrap_or_default()));
            let mood = now.lock().unwrap().clone();
            respond(mood)
        });
        Self { server: server.unwrap(), mood, asked }
    }

    fn become_(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn source(&self, rest: &str, keep: &str) -> String {
        format!(
            "  - {{ type: Doc, lookup: {{ http: {{ url: 'http://{}/docs/{{id}}?full=1', authorization: {{ file: authorization }}, \
             keep: {{ timeout_ms: 300, failures_max: 1000, {keep} }} }} }}, {rest} }}",
            self.server.address()
        )
    }
}

async fn respond(mood: Mood) -> Response<Full<Bytes>> {
    match mood {
        Mood::Says(document) => answer(StatusCode::OK, "application/json", document.to_string()),
        Mood::Answers(status, kind, body) => answer(StatusCode::from_u16(status).unwrap(), kind, body),
        Mood::Redirects => {
            let mut response = answer(StatusCode::FOUND, "application/json", "");
            response.headers_mut().insert(header::LOCATION, "http://127.0.0.2:1/".parse().unwrap());
            response
        }
        Mood::Silence => std::future::pending().await,
        Mood::Slow(document) => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer(StatusCode::OK, "application/json", document.to_string())
        }
    }
}

/// How often what the source says was known, and how often not.
async fn known(house: &House, cache: &str, directory: &Directory) -> [u64; 2] {
    let metrics = house.operators("/metrics").await.body;
    let source = format!("http {}", directory.server.address());
    ["hit", "miss"].map(|outcome| {
        let name =
            format!("portcullis_cache_answers_total{{cache=\"{cache}\",outcome=\"{outcome}\",source=\"{source}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_decides_and_is_told_with_its_age() {
    let directory = Directory::start(Mood::Says(json!({ "owner": "user-1" }))).await;
    let folder = tempfile::tempdir().unwrap();
    let mut house = gate(&folder, &directory.source("", "")).await;
    let (status, record) = call(&mut house, "caf%C3%A9").await;
    assert_eq!((status, record.code, record.policies), (200, "allowed", vec!["owner".to_owned()]));
    let asked = directory.asked.lock().unwrap().clone();
    assert_eq!(asked, [("/docs/caf%C3%A9?full=1".to_owned(), "Bearer for-the-directory".to_owned())]);
    let name = format!("http {}", directory.server.address());
    let origins = serde_json::to_value(&record.attributes).unwrap();
    assert_eq!(origins, json!([{ "of": "resource", "name": "owner", "source": name, "age_s": 0 }]));
    assert_eq!(code(&mut house, "caf%C3%A9").await, "allowed");
    assert_eq!(directory.questions(), 1, "it is kept");
    assert_eq!(known(&house, "source", &directory).await, [1, 1]);

    let cases = [
        (json!({ "owner": "user-2" }), "access_denied", ""),
        (json!({ "owner": "user-2", "public": true }), "allowed", ""),
        (json!({ "owner": "user-2", "labels": ["open"], "size": 3 }), "allowed", ""),
        (json!({ "owner": null }), "claim_missing", "owner"),
        (json!({}), "claim_missing", "owner"),
        (json!([]), "claim_missing", "owner"),
        (json!({ "owner": 5 }), "claim_missing", "owner"),
        (json!({ "owner": { "__entity": { "type": "User", "id": "user-1" } } }), "claim_missing", "owner"),
        (json!({ "owner": "user-1", "public": "yes" }), "claim_missing", "public"),
        (json!({ "owner": "user-1", "size": 1.5 }), "claim_missing", "size"),
        (json!({ "owner": "user-1", "nobody": "knows this" }), "allowed", ""),
    ];
    for (number, (document, wanted, missing)) in cases.into_iter().enumerate() {
        directory.become_(Mood::Says(document));
        let (_, record) = call(&mut house, &format!("case-{number}")).await;
        assert_eq!((record.code, record.missing.as_deref().unwrap_or("")), (wanted, missing), "case {number}");
    }
    directory.become_(Mood::Answers(404, "text/plain", String::new()));
    for _ in 0..3 {
        assert_eq!(code(&mut house, "unknown").await, "claim_missing");
    }
    assert_eq!(directory.questions(), 13, "that it knows nothing is kept too");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_found_where_the_configuration_says() {
    let document = json!({ "result": [{ "by": { "id": 7 }, "tags": ["open"], "n": 2, "in": ["x", "shared"] }] });
    let directory = Directory::start(Mood::Says(document)).await;
    let folder = tempfile::tempdir().unwrap();
    let rest = "attributes: { owner: 'User::\"staff|{/by/id}\"', size: /n }, parents: { Folder: /in }";
    let source = directory.source(rest, "").replace("keep:", "at: /result/0, keep:");
    let mut house = gate(&folder, &source).await;
    let (_, record) = call(&mut house, "d").await;
    assert_eq!((record.code, record.policies), ("allowed", vec!["inside".to_owned()]));
    let names: Vec<_> = record.attributes.iter().map(|origin| &*origin.name).collect();
    assert_eq!(names, ["owner", "size", "in Folder"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_no_answer() {
    let directory = Directory::start(Mood::Silence).await;
    let folder = tempfile::tempdir().unwrap();
    let mut house = gate(&folder, &directory.source("", "")).await;
    let text = |text: &str| text.to_owned();
    let large = json!({ "owner": "user-1", "labels": vec!["x".repeat(1000); 100] });
    let twice = text("{\"owner\":\"user-1\",\"owner\":\"user-2\"}");
    let cases = [
        (Mood::Silence, (504, "source_timed_out")),
        (Mood::Answers(500, "application/json", text("{\"owner\":\"user-1\"}")), (503, "source_unavailable")),
        (Mood::Answers(403, "application/json", text("{}")), (503, "source_unavailable")),
        (Mood::Answers(200, "text/html", text("{\"owner\":\"user-1\"}")), (503, "source_unavailable")),
        (Mood::Answers(200, "application/json", text("{\"owner\":")), (503, "source_unavailable")),
        (Mood::Answers(200, "application/json", text("\"user-1\"")), (503, "source_unavailable")),
        (Mood::Answers(200, "application/json", twice), (503, "source_unavailable")),
        (Mood::Says(json!([{ "owner": "user-1" }, { "owner": "user-1" }])), (503, "source_unavailable")),
        (Mood::Says(json!(["maintenance"])), (503, "source_unavailable")),
        (Mood::Says(json!([null])), (503, "source_unavailable")),
        (Mood::Says(large), (503, "source_unavailable")),
        (Mood::Redirects, (503, "source_unavailable")),
    ];
    for (number, (mood, wanted)) in cases.into_iter().enumerate() {
        directory.become_(mood);
        let (status, record) = call(&mut house, &format!("case-{number}")).await;
        assert_eq!((status, record.code), wanted, "case {number}");
        assert_eq!(record.missing, Some(format!("http {}", directory.server.address())));
        assert!(record.policies.is_empty());
    }
    let metrics = house.operators("/metrics").await.body;
    let failed =
        format!("portcullis_lookups_total{{outcome=\"failed\",source=\"http {}\"}} 12", directory.server.address());
    assert!(metrics.contains(&failed), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_answer_serves_while_the_server_fails_as_long_as_it_may_and_no_longer() {
    let directory = Directory::start(Mood::Says(json!({ "owner": "user-1" }))).await;
    let folder = tempfile::tempdir().unwrap();
    let mut house = gate(&folder, &directory.source("", "fresh_s: 1, stale_max_s: 2")).await;
    assert_eq!(code(&mut house, "d").await, "allowed");
    directory.become_(Mood::Answers(500, "text/plain", String::new()));
    let start = Instant::now();
    let mut seen = Vec::new();
    while start.elapsed() < Duration::from_secs(6) {
        let (_, record) = call(&mut house, "d").await;
        seen.push((record.code, record.attributes.first().and_then(|origin| origin.age_s)));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    seen.dedup();
    let served = |age| ("allowed", Some(age));
    assert_eq!(seen, [served(0), served(1), served(2), ("source_unavailable", None)]);
    directory.become_(Mood::Says(json!({ "owner": "user-2" })));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(code(&mut house, "d").await, "access_denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_asks_for_all_who_want_to_know() {
    let directory = Directory::start(Mood::Slow(json!({ "owner": "user-1" }))).await;
    let folder = tempfile::tempdir().unwrap();
    let house = gate(&folder, &directory.source("", "")).await;
    let mut claims = house::claims();
    (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
    let token = house::key("agents").sign(&claims).unwrap();
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let request = wire::request("GET", "/docs/d", &fields);
    let calls = (0..20).map(|_| {
        let (address, request) = (house.app.address(), request.clone());
        tokio::spawn(async move { wire::Answer::parse(&wire::send(address, &request).await).status })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(directory.questions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_again_and_again_is_left_alone_for_a_while() {
    let directory = Directory::start(Mood::Answers(500, "text/plain", String::new())).await;
    let folder = tempfile::tempdir().unwrap();
    let source = directory.source("", "pause_s: 1").replace("failures_max: 1000", "failures_max: 3");
    let mut house = gate(&folder, &source).await;
    for number in 0..10 {
        assert_eq!(code(&mut house, &format!("d{number}")).await, "source_unavailable");
    }
    assert_eq!(directory.questions(), 3);
    let paused = format!("portcullis_lookups_paused{{source=\"http {}\"}}", directory.server.address());
    assert!(house.operators("/metrics").await.body.contains(&format!("{paused} 1")));
    // That it answers ends the pause, though there is nothing for the one id it is asked about.
    directory.become_(Mood::Answers(400, "text/plain", String::new()));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(code(&mut house, "odd").await, "source_unavailable");
    assert_eq!(directory.questions(), 4);
    directory.become_(Mood::Says(json!({ "owner": "user-1" })));
    assert_eq!(code(&mut house, "e").await, "allowed");
    assert_eq!(code(&mut house, "f").await, "allowed");
    assert!(house.operators("/metrics").await.body.contains(&format!("{paused} 0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_chooses_ids_cannot_have_a_server_left_alone() {
    let directory = Directory::start(Mood::Answers(400, "text/plain", String::new())).await;
    let folder = tempfile::tempdir().unwrap();
    let source = directory.source("", "").replace("failures_max: 1000", "failures_max: 1");
    let mut house = gate(&folder, &source).await;
    let large = json!({ "owner": "user-1", "labels": vec!["x".repeat(1000); 100] });
    for (number, mood) in [
        Mood::Answers(400, "text/plain", String::new()),
        Mood::Answers(414, "text/plain", String::new()),
        Mood::Answers(200, "application/json", "{".into()),
        Mood::Says(large),
        Mood::Says(json!([{}, {}])),
    ]
    .into_iter()
    .enumerate()
    {
        directory.become_(mood);
        assert_eq!(code(&mut house, &format!("d{number}")).await, "source_unavailable");
    }
    directory.become_(Mood::Says(json!({ "owner": "user-1" })));
    assert_eq!(code(&mut house, "good").await, "allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_strange_ids_do_not_hold_up_known_ones_nor_bring_back_old_answers() {
    let directory = Directory::start(Mood::Says(json!({ "owner": "user-1" }))).await;
    let folder = tempfile::tempdir().unwrap();
    let keep = "fresh_s: 1, stale_max_s: 60, questions_max: 2";
    let mut house = gate(&folder, &directory.source("", keep).replace("timeout_ms: 300", "timeout_ms: 5000")).await;
    assert_eq!(code(&mut house, "known").await, "allowed");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    directory.become_(Mood::Silence);
    let mut claims = house::claims();
    (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
    let token = house::key("agents").sign(&claims).unwrap();
    for number in 0..8 {
        let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
        let request = wire::request("GET", &format!("/docs/strange-{number}"), &fields);
        let address = house.app.address();
        tokio::spawn(async move { wire::send(address, &request).await });
    }
    let start = Instant::now();
    while directory.questions() < 3 {
        assert!(start.elapsed() < Duration::from_secs(3));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The source works, and has another answer by now.
    directory.become_(Mood::Says(json!({ "owner": "user-2" })));
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let answer = wire::send(house.app.address(), &wire::request("GET", "/docs/known", &fields)).await;
    assert_eq!(wire::Answer::parse(&answer).status, 403, "neither refused for want of a place nor by what was");
    assert!(start.elapsed() < Duration::from_secs(4), "it waited for the strange ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_nothing_is_known_does_not_outlive_its_time() {
    let directory = Directory::start(Mood::Answers(404, "text/plain", String::new())).await;
    let folder = tempfile::tempdir().unwrap();
    let mut house = gate(&folder, &directory.source("", "absent_s: 1, stale_max_s: 60")).await;
    assert_eq!(code(&mut house, "d").await, "claim_missing");
    directory.become_(Mood::Answers(500, "text/plain", String::new()));
    assert_eq!(code(&mut house, "d").await, "claim_missing");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(code(&mut house, "d").await, "source_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_asked_in_order_for_what_is_open() {
    let first = Directory::start(Mood::Says(json!({ "owner": "user-2" }))).await;
    let second = Directory::start(Mood::Says(json!({ "owner": "user-1", "public": false }))).await;
    let users = Directory::start(Mood::Says(json!({ "department": "audit" }))).await;
    let folder = tempfile::tempdir().unwrap();
    let of_users = users.source("", "").replace("type: Doc", "type: User");
    let sources = [first.source("attributes: { owner: /owner }", ""), second.source("", ""), of_users].join("\n");
    let mut house = gate(&folder, &sources).await;
    let (_, record) = call(&mut house, "d").await;
    assert_eq!((record.code, record.policies), ("allowed", vec!["department".to_owned()]));
    let told: Vec<_> = record.attributes.iter().map(|it| (it.of, &*it.name, it.source.to_string())).collect();
    let name = |directory: &Directory| format!("http {}", directory.server.address());
    let wanted = [
        ("resource", "owner", name(&first)),
        ("resource", "public", name(&second)),
        ("user", "department", name(&users)),
    ];
    assert_eq!(told, wanted);
    first.become_(Mood::Answers(500, "text/plain", String::new()));
    assert_eq!(code(&mut house, "e").await, "source_unavailable", "the second is no way around the first");
    assert_eq!(second.questions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_down_is_not_asked_about() {
    let directory = Directory::start(Mood::Says(json!({ "owner": "user-2" }))).await;
    let folder = tempfile::tempdir().unwrap();
    let entities = json!([{ "uid": { "type": "Doc", "id": "written" }, "parents": [],
        "attrs": { "owner": { "__entity": { "type": "User", "id": "user-1" } } } }]);
    std::fs::write(folder.path().join("entities.json"), entities.to_string()).unwrap();
    let source = directory.source("attributes: { owner: /owner }", "");
    let mut house = gate(&folder, &format!("{source}\n  files: [entities.json]")).await;
    let (_, record) = call(&mut house, "written").await;
    assert_eq!((record.code, &*record.attributes[0].source), ("allowed", "file"));
    assert_eq!(directory.questions(), 0);
    assert_eq!(code(&mut house, "other").await, "access_denied");
    assert_eq!(directory.questions(), 1);
}

/// A PostgreSQL server of its own; ends with the test.
struct Postgres {
    process: Child,
    folder: TempDir,
    port: u16,
    tools: PathBuf,
}

impl Postgres {
    /// None where there is no PostgreSQL.
    fn start() -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let mut versions: Vec<_> = versions.map(|it| it.unwrap().path().join("bin")).collect();
        versions.sort();
        versions.reverse();
        let tools = house::folder_with(&["initdb", "postgres", "psql"], versions)?;
        let folder = tempfile::tempdir().unwrap();
        // Whoever it runs as is to write there.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let data = folder.path().join("data");
        let made = Self::command(&tools, "initdb")
            .args(["-U", "gate", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Self::serve(&tools, &data, port);
        let postgres = Self { process, folder, port, tools };
        postgres.wait();
        Some(postgres)
    }

    fn command(tools: &std::path::Path, name: &str) -> Command {
        let program = tools.join(name);
        // As root, it does not run at all.
        let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        if !root {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]).arg(program);
        command
    }

    fn serve(tools: &std::path::Path, data: &std::path::Path, port: u16) -> Child {
        Self::command(tools, "postgres")
            .arg("-D")
            .arg(data)
            .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", "", "-F"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.try_run("SELECT 1") {
            assert!(Instant::now() < deadline, "PostgreSQL does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_run(&self, statement: &str) -> bool {
        let port = self.port.to_string();
        let arguments =
            ["-h", "127.0.0.1", "-p", &port, "-U", "gate", "-d", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1"];
        let ran = Command::new(self.tools.join("psql")).args(arguments).args(["-c", statement]).output().unwrap();
        ran.status.success()
    }

    fn run(&self, statement: &str) {
        assert!(self.try_run(statement), "{statement}");
    }

    fn end(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }

    fn again(&mut self) {
        self.process = Self::serve(&self.tools, &self.folder.path().join("data"), self.port);
        self.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
    }
}

fn sql(database: &str, statement: &str, keep: &str) -> String {
    format!(
        "  - {{ type: Doc, lookup: {{ sql: {{ {database}, statement: \"{statement}\", keep: {{ timeout_ms: 1000, failures_max: 1000, \
         fresh_s: 1, absent_s: 1, {keep} }} }} }} }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_says_decides_and_that_it_is_down_does_not() {
    let Some(mut postgres) = tokio::task::spawn_blocking(Postgres::start).await.unwrap() else { return };
    postgres.run(
        "CREATE TABLE docs (id bigint PRIMARY KEY, owner text, public boolean, labels text[], size int, more jsonb, price numeric)",
    );
    postgres.run(
        "INSERT INTO docs VALUES (1, 'user-1', null, null, null, null, null), (2, 'user-2', true, null, null, null, null), \
         (3, 'user-2', false, '{closed,open}', 3, null, null), (4, null, true, null, null, null, null), \
         (5, 'user-2', false, '{closed,null}', 3, null, null), (6, 'user-2', false, null, null, '[\"open\"]', null)",
    );
    let folder = tempfile::tempdir().unwrap();
    let url = format!("postgres://gate@127.0.0.1:{}/postgres\n", postgres.port);
    std::fs::write(folder.path().join("database"), url).unwrap();
    let database = "postgres: { file: database }";
    let statement = "SELECT owner, public, labels, size FROM docs WHERE id::text = $1";
    let mut house = gate(&folder, &sql(database, statement, "stale_max_s: 0")).await;
    let name = format!("postgres 127.0.0.1{}", "/postgres");
    let (_, record) = call(&mut house, "1").await;
    assert_eq!((record.code, record.policies), ("allowed", vec!["owner".to_owned()]));
    assert_eq!(record.attributes[0].source.to_string(), name);
    for (id, wanted) in [
        ("2", "allowed"),
        ("3", "allowed"),
        ("4", "claim_missing"),
        ("5", "claim_missing"),
        ("7", "claim_missing"),
        ("no-number", "claim_missing"),
        ("99999999999999999999", "claim_missing"),
        ("01", "claim_missing"),
        ("+1", "claim_missing"),
        ("1%20OR%201=1", "claim_missing"),
        ("%00", "ambiguous_path"),
    ] {
        assert_eq!(code(&mut house, id).await, wanted, "{id}");
    }
    // It is looked up again, and a transaction that waits holds nobody up for longer than the time allowed.
    postgres.run("UPDATE docs SET owner = 'user-2' WHERE id = 1");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(code(&mut house, "1").await, "access_denied");

    tokio::task::block_in_place(|| postgres.end());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (status, record) = call(&mut house, "2").await;
    assert!(matches!((status, record.code), (503, "source_unavailable") | (504, "source_timed_out")), "{record:?}");
    assert_eq!(record.missing, Some(name));
    tokio::task::block_in_place(|| postgres.again());
    let deadline = Instant::now() + Duration::from_secs(20);
    while code(&mut house, "2").await != "allowed" {
        assert!(Instant::now() < deadline, "it does not find back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    for (statement, wanted) in [
        ("SELECT owner, more AS labels, 3 AS size FROM docs WHERE id = $1::bigint", "allowed"),
        ("SELECT owner, price AS size FROM docs WHERE id = $1::bigint", "source_unavailable"),
        // What cannot be worked with is no answer: a row that is there is not taken for none.
        ("SELECT owner, (more->>0)::bigint AS size FROM docs WHERE id = $1::bigint", "source_unavailable"),
        ("SELECT owner FROM docs WHERE id = (CASE WHEN $1 = '6' THEN 'six' ELSE $1 END)::bigint", "source_unavailable"),
        ("SELECT 'user-1' AS owner FROM docs WHERE $1 <> ''", "source_unavailable"),
        ("UPDATE docs SET owner = 'user-1' WHERE id = $1::bigint RETURNING owner", "source_unavailable"),
        ("SELECT nothing FROM nowhere WHERE id = $1", "source_unavailable"),
        ("SELECT 'user-1' AS owner, pg_sleep(5)::text AS more WHERE $1 <> ''", "source_timed_out"),
    ] {
        let mut house = gate(&folder, &sql(database, statement, "")).await;
        let (_, record) = call(&mut house, "6").await;
        let code =
            if record.code == "source_unavailable" && wanted == "source_timed_out" { wanted } else { record.code };
        assert_eq!(code, wanted, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sqlite_file_says_decides_and_that_it_is_gone_does_not() {
    if !house::present("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("docs.db");
    let run = |statement: &str| {
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.commit()";
        let ran = Command::new("python3").args(["-c", script]).arg(&file).arg(statement).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    run("CREATE TABLE docs (id TEXT PRIMARY KEY, owner TEXT, public BOOLEAN, labels TEXT, size INTEGER, price REAL);
         INSERT INTO docs VALUES ('a', 'user-1', 0, NULL, NULL, 1.5), ('b', 'user-2', 1, NULL, NULL, NULL),
             ('c', 'user-2', 0, '[\"open\"]', 3, NULL), ('d', 'user-2', 0, 'open', 3, NULL)");
    let statement = "SELECT owner, public, labels, size FROM docs WHERE id = $1";
    let mut house = gate(&folder, &sql("sqlite: docs.db", statement, "")).await;
    for (id, wanted) in [
        ("a", "allowed"),
        ("b", "allowed"),
        ("c", "allowed"),
        ("d", "claim_missing"),
        ("e", "claim_missing"),
        ("a'--", "claim_missing"),
    ] {
        let (_, record) = call(&mut house, id).await;
        assert_eq!(record.code, wanted, "{id}");
        if id == "a" {
            assert_eq!(&*record.attributes[0].source, "sqlite docs.db");
        }
    }
    for (statement, wanted) in [
        ("SELECT owner, price AS size FROM docs WHERE id = $1", "source_unavailable"),
        ("DELETE FROM docs WHERE id = $1 RETURNING owner", "source_unavailable"),
        ("SELECT owner FROM nowhere WHERE id = $1", "source_unavailable"),
    ] {
        let mut house = gate(&folder, &sql("sqlite: docs.db", statement, "")).await;
        assert_eq!(code(&mut house, "a").await, wanted, "{statement}");
    }
    // A value of a type that is not read says nothing of other rows.
    let keep = "failures_max: 1, pause_s: 60";
    let one_failure = sql("sqlite: docs.db", "SELECT owner, public, price AS size FROM docs WHERE id = $1", keep);
    let mut house = gate(&folder, &one_failure.replace("failures_max: 1000, ", "")).await;
    assert_eq!(code(&mut house, "a").await, "source_unavailable");
    assert_eq!(code(&mut house, "b").await, "allowed");
    std::fs::write(&file, "this is no database").unwrap();
    let mut house = gate(&folder, &sql("sqlite: docs.db", statement, "")).await;
    assert_eq!(code(&mut house, "a").await, "source_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_outlive_a_reload() {
    let directory = Directory::start(Mood::Says(json!({ "owner": "user-1" }))).await;
    let folder = tempfile::tempdir().unwrap();
    drop(gate(&folder, &directory.source("", "")).await);
    let config = std::fs::read_to_string(folder.path().join("config.yaml")).unwrap();
    let mut house = House::following(folder.path(), &config.replace("'http://127.0.0.1:1'", "UPSTREAM")).await;
    assert_eq!(code(&mut house, "d").await, "allowed");
    std::fs::write(folder.path().join("policies/stop.cedar"), "@id(\"s\") forbid (principal, action, resource);")
        .unwrap();
    let start = Instant::now();
    while code(&mut house, "d").await != "access_denied" {
        assert!(start.elapsed() < Duration::from_secs(20), "the reload does not come");
    }
    assert_eq!(directory.questions(), 1);
}

/// A gate whose documents may be read with consent, which `lookup` knows.
async fn consenting(folder: &TempDir, lookup: &str) -> House {
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let _ = std::fs::create_dir(folder.path().join("policies"));
    put(
        "policies/schema.cedarschema",
        "entity User, Agent, Doc; action read appliesTo { principal: [Agent], resource: [Doc], \
         context: { consent?: { purpose: String } } };",
    );
    put(
        "policies/docs.cedar",
        "@id(\"care\") permit (principal, action, resource) when { context has consent && context.consent.purpose == \"care\" };",
    );
    put("keys.json", &json!({ "keys": [house::key("agents").jwk()] }).to_string());
    put(
        "config.yaml",
        &format!(
            "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
             \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\n\
             consents: {{ lookup: {{ {lookup} }} }}\nroutes:\n\
             \x20 - {{ methods: [GET], path: '/docs/{{id}}', action: read, resource: 'Doc::\"{{path.id}}\"', purpose: {{ is: care }} }}\n"
        ),
    );
    let loaded = config::load(&folder.path().join("config.yaml")).unwrap_or_else(|error| panic!("{error}"));
    House::of(loaded, NOW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_is_asked_of_a_server() {
    let consent = |purpose: &str| {
        json!({ "user": "user-1", "agent": "1example23456789", "caller_app": null, "purpose": purpose, "actions": ["read"],
            "expires": NOW + 60 })
    };
    let directory = Directory::start(Mood::Says(json!([consent("other"), consent("care")]))).await;
    let folder = tempfile::tempdir().unwrap();
    let lookup = format!("http: {{ url: 'http://{}/consents/{{user}}/{{agent}}' }}", directory.server.address());
    let mut house = consenting(&folder, &lookup).await;
    let (_, record) = call(&mut house, "d").await;
    assert_eq!((record.code, record.policies), ("allowed", vec!["care".to_owned()]));
    assert_eq!(directory.asked.lock().unwrap()[0].0, "/consents/user-1/1example23456789");
    let told = record.attributes.iter().find(|origin| origin.of == "consent").unwrap();
    assert_eq!((&*told.name, told.age_s), ("care", Some(0)));
    house.at(NOW + 60);
    assert_eq!(code(&mut house, "d").await, "consent_missing", "it is kept, but not beyond its end");
    let [hits, misses] = known(&house, "consent", &directory).await;
    assert!(hits > 0 && misses == 1, "{hits} {misses}");
    let mut less = consent("care");
    less.as_object_mut().unwrap().remove("expires");
    for (mood, wanted) in [
        (Mood::Says(json!([])), "consent_missing"),
        (Mood::Answers(404, "text/plain", String::new()), "consent_missing"),
        (Mood::Says(json!([consent("other")])), "consent_missing"),
        (Mood::Says(consent("care")), "allowed"),
        (Mood::Says(json!([consent("care"), less])), "source_unavailable"),
        (Mood::Answers(500, "text/plain", String::new()), "source_unavailable"),
        (Mood::Silence, "source_timed_out"),
    ] {
        directory.become_(mood);
        let mut house = consenting(&folder, &lookup).await;
        assert_eq!(code(&mut house, "d").await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_that_is_shipped_only_narrows_what_consent_is_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar", "policies/consent.cedar"] {
        std::fs::write(folder.path().join(name), house::repository(name)).unwrap();
    }
    let consents: Vec<_> = ["support", "marketing"]
        .iter()
        .map(|purpose| {
            json!({ "user": "user-1", "agent": "1example23456789", "caller_app": null, "purpose": purpose,
                "actions": ["readOnly"], "expires": NOW + 60 })
        })
        .collect();
    std::fs::write(folder.path().join("consents.json"), Value::from(consents).to_string()).unwrap();
    std::fs::write(folder.path().join("keys.json"), json!({ "keys": [house::key("agents").jwk()] }).to_string())
        .unwrap();
    std::fs::write(
        folder.path().join("config.yaml"),
        "listen: 127.0.0.1:0\nupstream: { url: 'http://127.0.0.1:1' }\nissuers:\n\
         \x20 - oidc_generic: { issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }\n\
         consents: { files: [consents.json] }\nroutes:\n\
         \x20 - { methods: [GET], path: '/docs/{id}', action: readOnly, resource: 'UserData::\"{path.id}\"',\n\
         \x20     attributes: { owner: 'User::\"{path.id}\"' }, purpose: { claim: purpose } }\n",
    )
    .unwrap();
    let loaded = config::load(&folder.path().join("config.yaml")).unwrap_or_else(|error| panic!("{error}"));
    let mut house = House::of(loaded, NOW).await;
    for (purpose, app, wanted) in [
        ("support", "ExampleChatApplication", ("allowed", vec!["agent-reads-its-users-data"])),
        ("support", "Other", ("access_denied", vec![])),
        ("marketing", "ExampleChatApplication", ("access_denied", vec!["data-is-for-these-purposes"])),
        ("care", "ExampleChatApplication", ("consent_missing", vec![])),
    ] {
        let mut claims = house::claims();
        (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
        (claims["purpose"], claims["callerApp"]) = (purpose.into(), app.into());
        let token = house::key("agents").sign(&claims).unwrap();
        let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
        let record = house.ask(&wire::request("GET", "/docs/user-1", &fields)).await.1.unwrap();
        let policies: Vec<_> = record.policies.iter().map(String::as_str).collect();
        assert_eq!((record.code, policies), wanted, "{purpose} {app}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_is_asked_of_a_database() {
    if !house::present("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.commit()";
    let rows = format!(
        "CREATE TABLE consents (user TEXT, agent TEXT, caller_app TEXT, purpose TEXT, actions TEXT, expires INTEGER);
         INSERT INTO consents VALUES ('user-1', '1example23456789', NULL, 'care', '[\"read\"]', {}),
             ('user-1', '1example23456789', 'Other', 'other', '[]', 0)",
        NOW + 60
    );
    let ran = Command::new("python3").args(["-c", script]).arg(folder.path().join("c.db")).arg(rows).output().unwrap();
    assert!(ran.status.success());
    let lookup = |and: &str| {
        format!("sql: {{ sqlite: c.db, statement: 'SELECT * FROM consents WHERE user = $1 AND agent = $2{and}' }}")
    };
    let mut house = consenting(&folder, &lookup("")).await;
    assert_eq!(code(&mut house, "d").await, "allowed");
    let mut house = consenting(&folder, &lookup(" AND expires = 0")).await;
    assert_eq!(code(&mut house, "d").await, "consent_missing");
}

#[test]
fn a_source_that_could_not_be_asked_well_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    let files: HashMap<&str, &str> = HashMap::from([
        ("policies/schema.cedarschema", SCHEMA),
        ("policies/docs.cedar", POLICIES),
        ("db", "x"),
        ("far", "postgres://db.example/d?sslmode=prefer"),
        ("not-a-url", "hunter2"),
        ("keys.json", r#"{"keys":[]}"#),
    ]);
    for (name, text) in &files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let http =
        |rest: &str| format!("{{ type: Doc, lookup: {{ http: {{ url: 'https://d.example/{{id}}' }} }}, {rest} }}");
    let sql = |rest: &str| format!("{{ type: Doc, lookup: {{ sql: {{ statement: 'SELECT $1', {rest} }} }} }}");
    for (source, problem) in [
        (http("").replace("Doc", "Dog"), "the schema has no entity type `Dog`"),
        (http("attributes: { colour: /c }"), "the schema gives `Doc` no attribute `colour`"),
        (http("attributes: { owner: c }"), "neither a JSON pointer"),
        (http("attributes: { owner: 'Agent::\"{/c}\"' }"), "it is of type `User` in the schema"),
        (http("attributes: { size: 'x{/c}' }"), "only text and entities"),
        (http("").replace("Doc", "Folder"), "nobody is asked about entities of type `Folder`"),
        (http("parents: { User: /c }"), "the schema lets no `Doc` be in one of these"),
        (http("").replace("/{id}", "/"), "the URL is the same whatever is asked about"),
        (http("").replace("https://d", "http://d"), "not the URL of an answer that could be believed"),
        (sql(""), "a statement for no database, or for two"),
        (sql("sqlite: db, postgres: { file: far }"), "a statement for no database, or for two"),
        (sql("sqlite: nowhere.db"), "cannot read `nowhere.db`"),
        (sql("sqlite: db").replace("$1", "1"), "the statement has no parameter"),
        (sql("postgres: { file: far }"), "`sslmode` is not `verify-full`"),
        (sql("postgres: { file: not-a-url }"), "the secret holds no URL of a PostgreSQL database"),
        (sql("sqlite: db, keep: { timeout_ms: 0 }"), "`timeout_ms` is out of range"),
    ] {
        let text = format!(
            "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
             \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api] }}\n\
             entities:\n  sources:\n  - {source}\nroutes:\n\
             \x20 - {{ methods: [GET], path: '/docs/{{id}}', action: read, resource: 'Doc::\"{{path.id}}\"' }}\n"
        );
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        let loaded =
            config::load(&folder.path().join("config.yaml")).unwrap_or_else(|error| panic!("{source}: {error}"));
        let problems = loaded.compile().err().unwrap_or_else(|| panic!("{source} is taken"));
        let said: Vec<_> = problems.0.iter().map(|problem| problem.message().to_owned()).collect();
        assert!(said.iter().any(|said| said.contains(problem)), "{source}: {said:?}");
        assert!(!problems.to_string().contains("hunter2"));
    }
}
