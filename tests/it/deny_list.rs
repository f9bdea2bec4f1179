//! The kill switch: a file and the admin interface, on tokens that the gate already knows, across a restart.

use std::{fs, path::Path, time::Duration};

use portcullis::config;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    house::{self, House},
    upgrade,
    wire::{self, Answer},
};

/// A folder with a configuration that names a deny-list.
fn folder(list: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        put(name, &house::repository(name));
    }
    put("keys.json", &json!({ "keys": [house::key("agents").jwk()] }).to_string());
    put("admin-token", "for operators only\n");
    put("deny.jsonl", list);
    put(
        "config.yaml",
        "listen: 127.0.0.1:0\nadmin_token: { file: admin-token }\ndeny_list: deny.jsonl\n\
         upstream: { url: 'http://127.0.0.1:1' }\nissuers:\n\
         \x20 - cognito_access: { issuer: 'https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents', \
         jwks_file: keys.json, client_ids: [1example23456789], scope_prefix: crossDomainService/, user_id_prefix: u }\n\
         routes:\n  - { methods: [GET], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"', \
         attributes: { owner: 'User::\"u|{path.id}\"' } }\n",
    );
    folder
}

async fn house(folder: &Path) -> House {
    let loaded = config::load(&folder.join("config.yaml")).unwrap_or_else(|error| panic!("{error}"));
    House::of(loaded, house::NOW).await
}

/// The code of the good call, with `claims` over the scenario's.
async fn call(house: &mut House, claims: &Value) -> &'static str {
    let mut all = house::claims();
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let token = house::key("agents").sign(&all).unwrap();
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await.1.unwrap().code
}

/// Asks until the answer is `wanted`, but for one second at most.
async fn within_a_second(house: &mut House, claims: &Value, wanted: &str) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        if call(house, claims).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not become {wanted} within a second");
}

async fn admin(house: &House, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
    let mut fields = vec![("content-type".to_owned(), "application/json".to_owned())];
    fields.push(("content-length".into(), body.len().to_string()));
    fields.extend(token.map(|token| ("authorization".into(), format!("Bearer {token}"))));
    let mut request = wire::request(method, path, &fields);
    request.extend(body.bytes());
    Answer::parse(&wire::send(house.app.admin_address(), &request).await)
}

const TOKEN: Option<&str> = Some("for operators only");

#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_any_more_by_a_tunnel_of_whom_it_names() {
    let folder = folder("");
    let (upstream, got) = upgrade::upstream(upgrade::SWITCHES).await;
    let loaded = config::load(&folder.path().join("config.yaml")).unwrap_or_else(|error| panic!("{error}"));
    let mut house = House::before(loaded, &format!("http://{upstream}")).await;
    let mut streams = [upgrade::tunnel(&house).await, upgrade::tunnel(&house).await];
    let entry = json!({ "user": "u|user-1" }).to_string();
    assert_eq!(admin(&house, "POST", "/deny-list", TOKEN, &entry).await.status, 201);
    for stream in &mut streams {
        stream.write_all(b"more").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
        assert_eq!(house.record().await.unwrap().code, "token_revoked");
    }
    assert!(got.lock().unwrap().iter().all(|bytes| !bytes.ends_with(b"more")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_entry_denies_whom_it_names_and_nobody_else() {
    let folder = folder("# nobody yet\n\n");
    let mut house = house(folder.path()).await;
    let nothing = json!({});
    for (entry, other) in [
        (json!({ "jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee" }), json!({ "jti": "other" })),
        (json!({ "sub": "1example23456789" }), json!({ "sub": "other" })),
        (
            json!({ "client_id": "1example23456789", "issued_before": "2026-11-18T11:06:41Z" }),
            json!({ "iat": 1_795_000_001 }),
        ),
        (json!({ "user": "u|user-1" }), json!({ "onBehalfOf": { "sub": "user-2" } })),
        (json!({ "caller_app": "ExampleChatApplication" }), json!({ "callerApp": "Other" })),
        (json!({ "issued_before": "2026-11-18T11:06:41Z" }), json!({ "iat": 1_795_000_001 })),
        (json!({ "sub": "1example23456789", "jti": "x" }), json!({})),
        (json!({ "issuer": "https://other.example" }), json!({})),
        (json!({ "user": "user-1" }), json!({})),
        (json!({ "sub": "1example23456789", "until": "2026-11-18T11:08:20Z" }), json!({})),
    ] {
        fs::write(folder.path().join("deny.jsonl"), format!("# one\n{entry}\n")).unwrap();
        if other == json!({}) {
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(call(&mut house, &nothing).await, "allowed", "{entry}");
        } else {
            within_a_second(&mut house, &nothing, "token_revoked").await;
            assert_ne!(call(&mut house, &other).await, "token_revoked", "{entry} for {other}");
        }
        fs::write(folder.path().join("deny.jsonl"), "").unwrap();
        within_a_second(&mut house, &nothing, "allowed").await;
    }
    fs::write(folder.path().join("deny.jsonl"), format!("{}\n", json!({ "issuer": house::claims()["iss"] }))).unwrap();
    within_a_second(&mut house, &nothing, "token_revoked").await;
    fs::write(folder.path().join("deny.jsonl"), "{\"issued_before\":\"2020-01-01T00:00:00Z\"}\n").unwrap();
    within_a_second(&mut house, &nothing, "allowed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_lets_nobody_in() {
    let text = "{\"user\":\"u|user-1\"}\n";
    let folder = folder(text);
    let list = folder.path().join("deny.jsonl");
    let mut house = house(folder.path()).await;
    // Empty for a moment, again and again, as where a file is written in place.
    let writer = tokio::task::spawn_blocking(move || {
        for _ in 0..60 {
            fs::write(&list, "").unwrap();
            std::thread::sleep(Duration::from_millis(40));
            fs::write(&list, text).unwrap();
            std::thread::sleep(Duration::from_millis(15));
        }
    });
    while !writer.is_finished() {
        assert_eq!(call(&mut house, &json!({})).await, "token_revoked");
    }
    fs::write(folder.path().join("deny.jsonl"), "").unwrap();
    within_a_second(&mut house, &json!({}), "allowed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_read_leaves_the_last_one_in_force() {
    let folder = folder("{\"user\":\"u|user-1\"}\n");
    let list = folder.path().join("deny.jsonl");
    let mut house = house(folder.path()).await;
    let nothing = json!({});
    for bad in [
        "{\"user\":\"u|user-1\"}\n{\"user\":",
        "{}\n",
        "{\"usr\":\"x\"}",
        "{\"user\":\"\"}",
        "{\"user\":\"a\",\"user\":\"b\"}",
    ] {
        fs::write(&list, bad).unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(call(&mut house, &nothing).await, "token_revoked", "{bad}");
        let metrics = admin(&house, "GET", "/metrics", None, "").await.body;
        assert!(metrics.contains("portcullis_deny_list_failing 1"), "{bad}");
    }
    fs::remove_file(&list).unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(call(&mut house, &nothing).await, "token_revoked");
    // As a mounted volume is changed: another file in its place.
    fs::write(folder.path().join("new"), "").unwrap();
    fs::rename(folder.path().join("new"), &list).unwrap();
    within_a_second(&mut house, &nothing, "allowed").await;
    assert!(admin(&house, "GET", "/metrics", None, "").await.body.contains("portcullis_deny_list_failing 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_deny_and_forgive_through_the_admin_interface_and_a_restart_remembers() {
    let folder = folder("# kept\n");
    let nothing = json!({});
    let mut first = house(folder.path()).await;
    assert_eq!(call(&mut first, &nothing).await, "allowed");
    let entry = "{\"user\":\"u|user-1\",\"reason\":\"left the company\"}";
    let added = admin(&first, "POST", "/deny-list", TOKEN, entry).await;
    assert_eq!(added.status, 201, "{}", added.body);
    let id = added.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(call(&mut first, &nothing).await, "token_revoked", "it is in force when the answer comes");
    let fields = [house::bearer()];
    let record = first.ask(&wire::request("GET", "/users/user-1/data", &fields)).await.1.unwrap();
    assert_eq!(record.user.as_deref(), Some("u|user-1"), "records say who was stopped");
    let listed = admin(&first, "GET", "/deny-list", TOKEN, "").await.json();
    assert_eq!(listed["entries"], json!([{ "id": id, "entry": serde_json::from_str::<Value>(entry).unwrap() }]));
    drop(first);

    let mut second = house(folder.path()).await;
    assert_eq!(call(&mut second, &nothing).await, "token_revoked");
    let removed = admin(&second, "DELETE", &format!("/deny-list/{id}"), TOKEN, "").await;
    assert_eq!((removed.status, removed.json()["removed"].as_u64()), (200, Some(1)));
    assert_eq!(call(&mut second, &nothing).await, "allowed");
    assert_eq!(admin(&second, "DELETE", &format!("/deny-list/{id}"), TOKEN, "").await.status, 404);
    assert_eq!(fs::read_to_string(folder.path().join("deny.jsonl")).unwrap(), "# kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_are_all_kept() {
    let folder = folder("");
    let (one, other) = (house(folder.path()).await, house(folder.path()).await);
    let mut changes = Vec::new();
    for number in 0..24 {
        let house = if number % 2 == 0 { &one } else { &other };
        changes.push(async move {
            let entry = format!("{{\"jti\":\"token-{number}\"}}");
            admin(house, "POST", "/deny-list", TOKEN, &entry).await.status
        });
    }
    assert_eq!(futures_all(changes).await, vec![201; 24]);
    let text = fs::read_to_string(folder.path().join("deny.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 24, "{text}");
    let left = fs::read_dir(folder.path()).unwrap().filter(|it| {
        let name = it.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("deny.jsonl")
    });
    assert_eq!(left.count(), 2, "the list and its lock");
}

/// Awaits all at once.
async fn futures_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = futures.into_iter().map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(|context| {
        for (future, outcome) in pinned.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            if let std::task::Poll::Ready(done) = future.as_mut().poll(context) {
                *outcome = Some(done);
            }
        }
        if pinned.iter().all(|(_, outcome)| outcome.is_some()) {
            std::task::Poll::Ready(pinned.iter_mut().filter_map(|(_, outcome)| outcome.take()).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deny_list_is_shown_and_changed_only_to_who_shows_the_token() {
    let folder = folder("");
    let house = house(folder.path()).await;
    let good = "{\"user\":\"u|user-1\"}";
    for (method, path) in [("GET", "/deny-list"), ("POST", "/deny-list"), ("DELETE", "/deny-list/0011223344556677")] {
        for token in [None, Some(""), Some("for operators onlY"), Some("for operators only ever")] {
            assert_eq!(admin(&house, method, path, token, good).await.status, 401, "{method} {token:?}");
        }
    }
    for (body, status) in [("", 400), ("{}", 400), ("[]", 400), ("{\"user\":5}", 400), ("{\"users\":\"a\"}", 400)] {
        assert_eq!(admin(&house, "POST", "/deny-list", TOKEN, body).await.status, status, "{body}");
    }
    let large = format!("{{\"user\":\"{}\"}}", "a".repeat(20_000));
    assert_eq!(admin(&house, "POST", "/deny-list", TOKEN, &large).await.status, 413);
    assert_eq!(admin(&house, "PUT", "/deny-list", TOKEN, good).await.status, 405);
    assert_eq!(fs::read_to_string(folder.path().join("deny.jsonl")).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_would_make_the_list_too_large_to_be_read_is_refused() {
    let remark = |bytes: usize| format!("#{}\n", "a".repeat(bytes - 2));
    let folder = folder(&remark(16 * 1024 * 1024 - 50));
    let mut house = house(folder.path()).await;
    let entry = |user: &str| format!("{{\"user\":\"u|{user}\"}}");
    assert_eq!(admin(&house, "POST", "/deny-list", TOKEN, &entry(&"a".repeat(100))).await.status, 507);
    assert_eq!(admin(&house, "POST", "/deny-list", TOKEN, &entry("user-1")).await.status, 201);
    assert_eq!(admin(&house, "POST", "/deny-list", TOKEN, &entry("user-with-a-long-name")).await.status, 507);
    assert_eq!(call(&mut house, &json!({})).await, "token_revoked");
    let listed = admin(&house, "GET", "/deny-list", TOKEN, "").await.json();
    assert_eq!((listed["entries"].as_array().unwrap().len(), &listed["failing"]), (1, &json!(false)));
}

/// The blocks of `docs/deny-list.md` in this language.
fn examples(language: &str) -> Vec<String> {
    let page = house::repository("docs/deny-list.md");
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_documentation_do_what_it_says() {
    let folder = folder(&examples("json").concat());
    let house = house(folder.path()).await;
    let list = admin(&house, "GET", "/deny-list", TOKEN, "").await.json();
    assert_eq!(list["entries"].as_array().unwrap().len(), 5);
    fs::write(folder.path().join("deny.jsonl"), "").unwrap();
    let script = examples("sh").concat();
    let mut shell = std::process::Command::new("bash");
    shell.args(["-euc", &script]).env("ADMIN", house.app.admin_address().to_string()).env("TOKEN", TOKEN.unwrap());
    let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{answers}");
    let expected = r#"{"id":"1e634a4b412c16e2"}{"entries":[{"id":"1e634a4b412c16e2","entry":{"user":"us-east-1_users|user-1","reason":"left the company"}}],"failing":false}{"removed":1}"#;
    assert_eq!(answers, expected);
}

#[test]
fn a_gate_does_not_start_on_a_list_it_cannot_read() {
    for (text, problem) in [
        ("{\"user\":\"a\"}\n{}\n", "line 2: it names nothing, so it would refuse everybody"),
        ("{\"issued_before\":\"yesterday\"}\n", "line 1: `yesterday` is no moment in RFC 3339"),
    ] {
        let folder = folder(text);
        let loaded = config::load(&folder.path().join("config.yaml")).unwrap();
        let problems = loaded.compile().unwrap_err().to_string();
        assert!(problems.contains(problem), "{problems}");
        fs::remove_file(folder.path().join("deny.jsonl")).unwrap();
        assert!(loaded.compile().is_err());
    }
}
