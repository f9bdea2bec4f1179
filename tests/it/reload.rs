//! A running gate keeps up with its files: what changes is put in force whole, or not at all.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    house::{self, House},
    proof, upgrade, wire,
};

pub(crate) const CONFIG: &str = "listen: 127.0.0.1:0
admin: 127.0.0.1:0
upstream: { url: UPSTREAM }
issuers:
  - oidc_generic: { issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }
routes:
  - { methods: [GET], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"',
      attributes: { owner: 'User::\"{path.id}\"' } }
";

/// Long enough for a change to be noticed, to settle and to be read on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn put(folder: &Path, name: &str, text: &str) {
    // As editors do it.
    fs::write(folder.join("new"), text).unwrap();
    fs::rename(folder.join("new"), folder.join(name)).unwrap();
}

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        put(folder.path(), name, &house::repository(name));
    }
    put(folder.path(), "keys.json", &json!({ "keys": [house::key("agents").jwk()] }).to_string());
    folder
}

fn claims(over: &Value) -> Value {
    let mut claims = house::claims();
    (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
    claims.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    claims
}

fn fields(over: &Value) -> Vec<(String, String)> {
    vec![("authorization".to_owned(), format!("Bearer {}", house::key("agents").sign(&claims(over)).unwrap()))]
}

/// The code of the good call.
async fn call(house: &mut House) -> &'static str {
    let request = wire::request("GET", "/users/user-1/data", &fields(&json!({})));
    house.ask(&request).await.1.unwrap().code
}

/// The revisions that the record of a call names.
async fn revisions(house: &mut House) -> Value {
    let request = wire::request("GET", "/users/user-1/data", &fields(&json!({})));
    let record = serde_json::to_value(house.ask(&request).await.1.unwrap()).unwrap();
    let policies = json!({ "default": record["policy_revision"] });
    json!({ "config": record["config_revision"], "schema": record["schema_revision"], "policies": policies })
}

async fn becomes(house: &mut House, wanted: &str) {
    let start = Instant::now();
    loop {
        let code = call(house).await;
        if code == wanted {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "it is {code} and does not become {wanted}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The numbers of good and of refused reloads, once they sum up to `total`, and whether the last was refused.
pub(crate) async fn reloads(house: &House, total: u64) -> (u64, u64, bool) {
    let start = Instant::now();
    loop {
        let text = house.operators("/metrics").await.body;
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        let good = number("portcullis_reloads_total{outcome=\"good\"}");
        let refused = number("portcullis_reloads_total{outcome=\"refused\"}");
        if good + refused >= total {
            return (good, refused, number("portcullis_reload_failing") == 1);
        }
        assert!(start.elapsed() < PATIENCE, "{good} good and {refused} refused reloads do not become {total}");
        sleep(Duration::from_millis(50)).await;
    }
}

const FORBID: &str = "@id(\"stop\") forbid (principal, action, resource);";

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_change_takes_effect() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    // As a volume of a ConfigMap is mounted.
    fs::create_dir(at("..1")).unwrap();
    fs::write(at("..1/mounted.cedar"), "").unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("../..data/mounted.cedar", at("policies/mounted.cedar")).unwrap();
    let mut house = House::following(folder.path(), CONFIG).await;
    assert_eq!(call(&mut house).await, "allowed");

    fs::create_dir(at("policies/night")).unwrap();
    fs::write(at("policies/night/stop.cedar"), FORBID).unwrap();
    becomes(&mut house, "access_denied").await;
    fs::remove_dir_all(at("policies/night")).unwrap();
    becomes(&mut house, "allowed").await;

    fs::create_dir(at("..2")).unwrap();
    fs::write(at("..2/mounted.cedar"), FORBID).unwrap();
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    becomes(&mut house, "access_denied").await;
    fs::write(at("..2/mounted.cedar"), "").unwrap();
    becomes(&mut house, "allowed").await;

    let template = "@id(\"t\") forbid (principal == ?principal, action, resource);";
    put(folder.path(), "policies/t.cedar", template);
    put(
        folder.path(),
        "policies/links.json",
        r#"[{ "templateId": "t", "newId": "l", "values": { "?principal": { "type": "Agent", "id": "1example23456789" } } }]"#,
    );
    becomes(&mut house, "access_denied").await;
    fs::remove_file(at("policies/links.json")).unwrap();
    becomes(&mut house, "allowed").await;

    let text = fs::read_to_string(at("config.yaml")).unwrap();
    put(folder.path(), "config.yaml", &text.replace("path: '/users", "scope: elsewhere, path: '/users"));
    becomes(&mut house, "scope_missing").await;
    put(folder.path(), "config.yaml", &text);
    becomes(&mut house, "allowed").await;

    put(folder.path(), "keys.json", &json!({ "keys": [house::key("other").jwk()] }).to_string());
    becomes(&mut house, "signature_invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_keeps_the_good_one_and_says_where_it_is_bad() {
    let folder = folder();
    let mut house = House::following(folder.path(), CONFIG).await;
    let ready = |answer: wire::Answer| (answer.status, answer.json()["configuration"].clone());
    let (status, before) = ready(house.operators("/readyz").await);
    assert_eq!((status, &before["refused"]), (200, &Value::Null));
    assert_eq!(before["revision"].as_str().unwrap().len(), 12);
    assert_eq!(revisions(&mut house).await, before["in_force"]);

    put(
        folder.path(),
        "policies/bad.cedar",
        "\n@id(\"bad\") permit (principal, action, resource) when { principal.nothing };",
    );
    assert_eq!(reloads(&house, 1).await, (0, 1, true));
    let (status, during) = ready(house.operators("/readyz").await);
    assert_eq!((status, &during["revision"]), (200, &before["revision"]));
    let problem = during["refused"]["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("policies/bad.cedar:2:") && problem.contains("nothing"), "{problem}");
    assert_eq!(call(&mut house).await, "allowed");

    // Back to what is in force is no reload.
    fs::remove_file(folder.path().join("policies/bad.cedar")).unwrap();
    let start = Instant::now();
    while house.operators("/readyz").await.json()["configuration"]["refused"] != Value::Null {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(reloads(&house, 1).await, (0, 1, false));

    let text = fs::read_to_string(folder.path().join("config.yaml")).unwrap();
    for (bad, wanted) in [
        (text.replace("routes:", "rotes:"), "unknown field `rotes`"),
        (text.replace("admin: 127.0.0.1:0", "admin: 127.0.0.1:1"), "`admin` cannot change while the gate runs"),
        (format!("http2: off\n{text}"), "`http2` cannot change while the gate runs"),
        (format!("{text}log: {{ format: human }}\n"), "`log.format` cannot change while the gate runs"),
        (format!("{text}records: {{ file: {{ path: r.jsonl }} }}\n"), "`records.file`, `records.syslog` or"),
        (format!("listeners: [{{ listen: '127.0.0.1:0' }}]\n{text}"), "`listeners` cannot change while the gate runs"),
    ] {
        let (_, refused, _) = reloads(&house, 0).await;
        put(folder.path(), "config.yaml", &bad);
        assert_eq!(reloads(&house, refused + 1).await, (0, refused + 1, true));
        let (_, told) = ready(house.operators("/readyz").await);
        assert!(told["refused"]["problems"][0].as_str().unwrap().contains(wanted), "{told}");
    }
    fs::remove_file(folder.path().join("config.yaml")).unwrap();
    assert_eq!(reloads(&house, 8).await, (0, 8, true));
    assert_eq!(call(&mut house).await, "allowed");
    put(folder.path(), "config.yaml", &format!("{text}# a remark\n"));
    assert_eq!(reloads(&house, 9).await, (1, 8, false));
    let (_, after) = ready(house.operators("/readyz").await);
    assert_ne!(after["revision"], before["revision"]);
    assert_ne!(after["in_force"]["config"], before["in_force"]["config"], "a remark is a version");
    assert_eq!(after["in_force"]["policies"], before["in_force"]["policies"]);
    assert_eq!(revisions(&mut house).await, after["in_force"]);

    house.app.reload();
    assert_eq!(reloads(&house, 10).await, (2, 8, false), "asked for, it is done though nothing changed");
    assert_eq!(call(&mut house).await, "allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_change_is_not_taken() {
    let folder = folder();
    let mut house = House::following(folder.path(), CONFIG).await;
    let path = folder.path().join("policies/growing.cedar");
    // Each of these versions reads well.
    let writer = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let mut text = FORBID.to_owned();
        for number in 0.. {
            if start.elapsed() > Duration::from_secs(6) {
                break;
            }
            text += &format!("@id(\"n{number}\") permit (principal, action, resource);\n");
            fs::write(&path, &text).unwrap();
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    while !writer.is_finished() {
        assert_eq!(call(&mut house).await, "allowed");
        sleep(Duration::from_millis(100)).await;
    }
    becomes(&mut house, "access_denied").await;
    let (good, refused, failing) = reloads(&house, 2).await;
    assert!(good == 1 && refused >= 1 && !failing, "{good} good, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_on_the_snapshot_that_it_began_on() {
    let folder = folder();
    let mut house = House::following(folder.path(), CONFIG).await;
    let head = String::from_utf8(wire::request("POST", "/users/user-1/data", &fields(&json!({})))).unwrap();
    let text = fs::read_to_string(folder.path().join("config.yaml")).unwrap();
    let text = text.replace("[GET]", "[GET, POST]");
    put(folder.path(), "config.yaml", &text);
    assert_eq!(reloads(&house, 1).await, (1, 0, false));

    // Its body comes after the reload that would refuse it and send it elsewhere.
    let mut slow = tokio::net::TcpStream::connect(house.app.address()).await.unwrap();
    let head = head.replace("connection: close\r\n", "connection: close\r\ncontent-length: 4\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    while house.service.received() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let upstream = format!("http://{}", house.service.address());
    put(folder.path(), "policies/stop.cedar", FORBID);
    put(folder.path(), "config.yaml", &text.replace(&upstream, "http://127.0.0.1:1"));
    assert_eq!(reloads(&house, 2).await, (2, 0, false));
    assert_eq!(call(&mut house).await, "access_denied");
    slow.write_all(b"body").await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    let answer = wire::Answer::parse(&answer);
    assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &json!(4)));
    assert_eq!(house.record().await.unwrap().code, "allowed");

    fs::remove_file(folder.path().join("policies/stop.cedar")).unwrap();
    becomes(&mut house, "upstream_unreachable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learnt_outlives_a_reload() {
    let folder = folder();
    let config = CONFIG.replace("jwks_file: keys.json", "jwks_file: keys.json, dpop: accepted");
    let config = format!("{config}origins: ['{}']\n", proof::ORIGIN);
    let mut house = House::following(folder.path(), &config).await;
    let bound = claims(&json!({ "cnf": { "jkt": proof::thumbprint(house::key("holder")) } }));
    let token = house::key("agents").sign(&bound).unwrap();
    let mut fields = vec![("authorization".to_owned(), format!("DPoP {token}"))];
    fields.extend(proof::Proof::default().fields("GET", "/users/user-1/data", &token));
    let request = wire::request("GET", "/users/user-1/data", &fields);
    assert_eq!(house.ask(&request).await.1.unwrap().code, "allowed");

    // A token that is remembered is not verified again, and by rules that have changed it is.
    put(folder.path(), "policies/more.cedar", "");
    assert_eq!(reloads(&house, 1).await, (1, 0, false));
    let again = house.ask(&request).await.1.unwrap();
    assert_eq!(again.code, "proof_replayed");
    assert!(again.agent.is_some());

    let text = fs::read_to_string(folder.path().join("config.yaml")).unwrap();
    put(folder.path(), "config.yaml", &text.replace("audiences: [api]", "audiences: [other]"));
    assert_eq!(reloads(&house, 2).await, (2, 0, false));
    assert_eq!(house.ask(&request).await.1.unwrap().code, "audience_wrong");
    put(folder.path(), "config.yaml", &text.replace("dpop: accepted", "dpop: accepted, dpop_proof_age_max_s: 300"));
    assert_eq!(reloads(&house, 3).await, (3, 0, false));
    assert_eq!(house.ask(&request).await.1.unwrap().code, "proof_replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_outlives_a_reload_that_leaves_its_token_as_good_as_it_was() {
    let folder = folder();
    let (upstream, _) = upgrade::upstream(upgrade::SWITCHES).await;
    let config = CONFIG.replace("UPSTREAM", &format!("http://{upstream}"));
    let mut house = House::following(folder.path(), &config).await;
    let token = house::key("agents").sign(&claims(&json!({}))).unwrap();
    let mut stream = upgrade::tunnel_by(&house, &token).await;

    let keys = ["stranger", "agents"].map(|name| house::key(name).jwk());
    put(folder.path(), "keys.json", &json!({ "keys": keys }).to_string());
    assert_eq!(reloads(&house, 1).await, (1, 0, false));
    put(folder.path(), "config.yaml", &config.replace("keys.json", "keys.json, stale_max_s: 60"));
    assert_eq!(reloads(&house, 2).await, (2, 0, false));
    stream.write_all(b"more").await.unwrap();
    assert_eq!(upgrade::next(&mut stream).await, b"MORE");

    put(folder.path(), "config.yaml", &config.replace("audiences: [api]", "audiences: [other]"));
    assert_eq!(reloads(&house, 3).await, (3, 0, false));
    stream.write_all(b"more").await.unwrap();
    assert_eq!(upgrade::next(&mut stream).await, b"");
    assert_eq!(house.record().await.unwrap().code, "key_unknown");
}
