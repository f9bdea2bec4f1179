//! Outside test material, run where it is at hand: `../shared/corpora` beside the repository. A clone without it
//! passes, and says that it skipped.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use portcullis::{
    base::{clock::Timestamp, files::Files, outside::Outside},
    request::path::Target,
    server::fetch::HttpFetch,
    token::{Issuers, RawToken, Trust, issuer::Rules, jwks::KeySet},
};
use serde_json::{Value, json};

use crate::{
    house::{self, House},
    wire,
};

pub(crate) fn corpus(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora").join(name);
    if !path.exists() {
        println!("SKIPPED: no {}", path.display());
        return None;
    }
    Some(path)
}

pub(crate) fn lines(path: &PathBuf) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_default()
}

#[test]
fn strict_json_judges_the_json_test_suite_right() {
    let Some(folder) = corpus("json-syntax/JSONTestSuite-test_parsing") else { return };
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let accepted = portcullis::base::json::parse(&fs::read(&path).unwrap()).is_ok();
        count += 1;
        // A repeated name is well-formed JSON that we refuse on purpose.
        let stricter = name.starts_with("y_object_duplicated_key");
        let right = match &name[..2] {
            "y_" => accepted != stricter,
            "n_" => !accepted,
            _ => true,
        };
        if !right {
            wrong.push(name);
        }
    }
    println!("{count} documents");
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn real_key_sets_are_parsed_key_by_key() {
    let Some(path) = corpus("jwks-real/jwks_given.jsonl") else { return };
    let (mut usable, mut skipped, mut refused) = (0, 0, BTreeMap::<String, usize>::new());
    for row in lines(&path) {
        match KeySet::parse(text(&row, "raw").as_bytes()) {
            Ok(set) => {
                usable += set.len();
                skipped += set.skipped().len();
                assert!(set.skipped().iter().all(|reason| reason.contains(": ")));
            }
            Err(error) => *refused.entry(error.to_string()).or_default() += 1,
        }
    }
    println!("{usable} usable keys, {skipped} skipped; sets refused: {refused:#?}");
    assert!(usable > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attacking_tokens_are_refused_and_good_ones_let_in() {
    let Some(folder) = corpus("jwt-attacks") else { return };
    let profile: Value = serde_json::from_str(&fs::read_to_string(folder.join("profile.json")).unwrap()).unwrap();
    let config = |audience: &str| {
        format!(
            "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n  - {audience}\nroutes:\n\
             \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
             attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n"
        )
    };
    let common = format!("issuer: '{}', algorithms: {}, leeway_s: 60", text(&profile, "issuer"), profile["algorithms"]);
    let by_client = config(&format!(
        "cognito_access: {{ {common}, client_ids: [agent-client-1], scope_prefix: crossDomainService/ }}"
    ));
    let by_audience =
        config(&format!("oidc_generic: {{ {common}, audiences: ['{}'] }}", text(&profile, "audience_profile")));
    let keys = fs::read_to_string(folder.join("jwks.json")).unwrap();
    let mut houses = [house(&by_client, &keys).await, house(&by_audience, &keys).await];
    let mut wrong = Vec::new();
    let rows = lines(&folder.join("tokens_given.jsonl"));
    for row in &rows {
        // A line break or a byte outside ASCII cannot stand in a header field as such.
        let house = &mut houses[usize::from(row.get("profile").is_some())];
        let mut bytes =
            b"GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\nconnection: close\r\nauthorization: Bearer ".to_vec();
        bytes.extend(text(row, "token").bytes());
        bytes.extend(b"\r\n\r\n");
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let before = house.service.received();
            let (answer, record) = house.ask(&bytes).await;
            let forwarded = house.service.received() - before;
            statuses.push((answer.status, forwarded, record.map_or("none", |record| record.code)));
        }
        let right = |(status, forwarded, _): &(u16, u64, &str)| match text(row, "expect") {
            "accept" => *status == 200 && *forwarded == 1,
            "reject" => matches!(status, 400 | 401 | 403 | 431) && *forwarded == 0,
            _ => *status < 500 && (*status == 200) == (*forwarded == 1),
        };
        if !statuses.iter().all(right) {
            wrong.push(format!("{} {}: {statuses:?}", text(row, "id"), text(row, "expect")));
        }
    }
    println!("{} tokens, each twice", rows.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

async fn house(config: &str, keys: &str) -> House {
    let files = [
        ("keys.json", keys.to_owned()),
        ("policies/schema.cedarschema", house::repository("policies/schema.cedarschema")),
        ("policies/users.cedar", house::repository("policies/users.cedar")),
    ];
    let files = portcullis::base::files::Files::memory(files.iter().map(|(name, text)| (*name, text.as_str())));
    let mut loaded =
        portcullis::config::parse("config.yaml".into(), config.into(), files).unwrap_or_else(|error| panic!("{error}"));
    loaded.config.issuers.value[0].settings_mut().jwks_file = Some(house::spanned("keys.json".into()));
    House::of(loaded, house::NOW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_target_reaches_another_users_data() {
    let Some(folder) = corpus("paths") else { return };
    let mut house = House::build(None, &[], house::NOW).await;
    let token = house::good_token();
    let rows = lines(&folder.join("attack_paths_given.jsonl"));
    let (mut forwarded, mut wrong) = (0, Vec::new());
    let bearer = ("authorization".to_owned(), format!("Bearer {token}"));
    let upgrade =
        [("upgrade", "websocket"), ("connection", "upgrade")].map(|(name, value)| (name.into(), value.into()));
    let plain_and_upgrade = [vec![bearer.clone()], [vec![bearer], upgrade.into()].concat()];
    for (row, fields) in rows.iter().flat_map(|row| plain_and_upgrade.iter().map(move |fields| (row, fields))) {
        let target = text(row, "target");
        let before = house.service.received();
        let (answer, _) = house.ask(&wire::request("GET", target, fields)).await;
        if house.service.received() == before {
            continue;
        }
        forwarded += 1;
        let reached = answer.json()["target"].as_str().unwrap_or_default().to_owned();
        if reached != target || Target::parse(target.as_bytes()).is_none_or(|it| it.path() != "/users/user-1/data") {
            wrong.push(format!("{target} as {reached}"));
        }
    }
    println!("{} targets, each also as an upgrade, {forwarded} of all of them the caller's own data", rows.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What of aws-jwt-verify's options has a counterpart here, as an issuer's configuration.
fn issuer_of(row: &Value) -> Option<String> {
    let options = &row["options"];
    let list = |value: &Value| match value {
        Value::String(one) => json!([one]),
        other => other.clone(),
    };
    let issuer = options["issuer"].as_str().map_or_else(
        || {
            options["userPoolId"]
                .as_str()
                .map(|pool| format!("https://cognito-idp.{}.amazonaws.com/{pool}", pool.split('_').next().unwrap()))
        },
        |issuer| Some(issuer.to_owned()),
    )?;
    let algorithms = json!(["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"]);
    let mut settings = json!({ "issuer": issuer, "jwks_file": "keys.json", "algorithms": algorithms });
    settings["leeway_s"] = options["graceSeconds"].as_u64().unwrap_or(0).min(300).into();
    match &options["audience"] {
        Value::Null => settings["audience"] = "accept_any_audience".into(),
        audience => settings["audiences"] = list(audience),
    }
    if !options["clientId"].is_null() {
        settings["client_ids"] = list(&options["clientId"]);
    }
    Some(json!({ "oidc_generic": settings }).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aws_jwt_verify_refuses_is_refused_and_what_it_takes_is_taken_unless_by_name() {
    let Some(folder) = corpus("aws-jwt-verify") else { return };
    let (mut wrong, mut judged, mut stricter) = (Vec::new(), 0, BTreeMap::<String, usize>::new());
    for row in lines(&folder.join("recorded_decisions.jsonl")) {
        let bar = text(&row, "for_proxy");
        let (Some(issuer), "accept" | "reject") = (issuer_of(&row), bar) else { continue };
        // Some rows were recorded with another cache of keys than the one that they carry.
        if bar == "accept" && !row["jwks"]["keys"].is_array() {
            continue;
        }
        // Options that policies stand for here.
        let by_policy =
            ["scope", "groups", "customJwtCheck", "tokenUse"].iter().any(|it| !row["options"][*it].is_null());
        let keys = row["jwks"].to_string();
        let files = Files::memory([("keys.json", keys.as_str())]);
        let config = serde_json::from_str(&issuer).unwrap();
        let outcome = match (Rules::compile(&config, &files), RawToken::parse(text(&row, "jwt").as_bytes())) {
            (Ok(rules), Some(token)) => {
                let clock = Arc::new(portcullis::base::clock::SystemClock);
                let outside = Outside::without_databases(clock, Arc::new(HttpFetch::new().unwrap()), files);
                let issuers = Issuers::start(Trust::plain(vec![rules]).unwrap(), &outside, None);
                let now = Timestamp::from_seconds(
                    row["now_ms"].as_str().map_or_else(|| row["now_ms"].as_u64().unwrap(), |it| it.parse().unwrap())
                        / 1000,
                );
                issuers.verify(token, now).await.map(|_| ()).map_err(|error| format!("{error:?}"))
            }
            (Err(_), _) => Err("no usable key".into()),
            (_, None) => Err("not a token".into()),
        };
        judged += 1;
        match (bar, outcome) {
            ("reject", Ok(())) if !by_policy => {
                wrong.push(format!("{} is taken: {}", text(&row, "id"), text(&row, "test")));
            }
            // Ours asks for a client in every token, and for more of a token's form.
            ("accept", Err(why)) if ["ClientRefused", "Malformed", "UseWrong", "TypeWrong"].contains(&why.as_str()) => {
                *stricter.entry(why).or_default() += 1;
            }
            ("accept", Err(why)) => {
                wrong.push(format!("{} is refused ({why}): {}", text(&row, "id"), text(&row, "test")));
            }
            _ => {}
        }
    }
    println!("{judged} decisions compared; stricter: {stricter:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
