//! What names the versions by which something was decided, wherever it is told.

use std::path::Path;

use portcullis::base::revision::{number, of_files, of_text};

use crate::{
    house::{self, House, NOW, ROUTES, bearer},
    wire,
};

const TEMPLATE: &str = "@id(\"t\") forbid (principal == ?principal, action, resource);";
const LINKS: &str =
    r#"[{ "templateId": "t", "newId": "l", "values": { "?principal": { "type": "Agent", "id": "nobody" } } }]"#;
const STRICT: &str = "@id(\"no\") forbid (principal, action, resource);";

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_names_the_store_that_made_it_and_metrics_name_everything() {
    let stores =
        "stores: [{ name: default, hosts: ['*'] }, { name: strict, folder: strict, hosts: [strict.example] }]\n";
    let config = ROUTES.replace("url:", "forward_host: true, url:") + stores;
    let files = [("policies/t.cedar", TEMPLATE), ("policies/links.json", LINKS), ("strict/all.cedar", STRICT)];
    let mut house = House::build(Some(&config), &files.map(|(name, text)| (name.into(), text.into())), NOW).await;
    let users = house::repository("policies/users.cedar");
    let usual = [("users.cedar", &*users), ("t.cedar", TEMPLATE), ("links.json", LINKS)];
    let of = |files: &[(&str, &str)]| of_files(files.iter().map(|(name, text)| (Path::new(name), *text)));
    let (usual, strict) = (of(&usual), of(&[("all.cedar", STRICT)]));
    let schema = of_text(&house::repository("policies/schema.cedarschema"));
    let (name, token) = bearer();
    for (host, code, revision) in [("gate.example", "allowed", &usual), ("strict.example", "access_denied", &strict)] {
        let request =
            format!("GET /users/user-1/data HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{name}: {token}\r\n\r\n");
        let record = house.ask(request.as_bytes()).await.1.unwrap();
        assert_eq!((record.code, record.policy_revision.as_ref()), (code, Some(revision)), "{host}");
        assert_eq!((&record.schema_revision, &record.config_revision), (&schema, &of_text(&config)), "{host}");
    }
    let none = house.ask(&wire::request("GET", "/users/user-1/data", &[])).await.1.unwrap();
    assert_eq!((none.code, none.policy_revision), ("token_missing", None), "no store was chosen yet");
    let metrics = house.operators("/metrics").await.body;
    let all = of(&[("default", &usual), ("strict", &strict)]);
    for (what, revision) in [("config", of_text(&config)), ("schema", schema), ("policies", all)] {
        let line = format!("portcullis_revision{{of=\"{what}\"}} {}\n", number(&revision));
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}
