//! What operators are told on their own listener, and who is told what only they may know.

use serde_json::Value;

use crate::{
    house::{self, House, NOW},
    wire::{self, Answer},
};

async fn ask(house: &House, method: &str, path: &str, token: Option<&str>) -> Answer {
    let fields: Vec<_> = token.map(|it| ("authorization".to_owned(), format!("Bearer {it}"))).into_iter().collect();
    Answer::parse(&wire::send(house.app.admin_address(), &wire::request(method, path, &fields)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_in_force_is_for_who_shows_the_operators_token() {
    let text = house::repository("config.yaml") + "admin_token: { file: nonce-secret }\n";
    let house = House::build(Some(&text), &[], NOW).await;
    for (token, status) in [(None, 401), (Some("for tests"), 401), (Some("for tests only"), 200)] {
        let answer = ask(&house, "GET", "/config", token).await;
        assert_eq!(answer.status, status, "{token:?}");
        assert_eq!(answer.body == text, status == 200);
        assert!(!answer.body.contains("for tests"), "a secret is shown");
    }
    assert_eq!(ask(&house, "POST", "/config", Some("for tests only")).await.status, 405);
    let without = House::build(None, &[], NOW).await;
    assert_eq!(ask(&without, "GET", "/config", Some("for tests only")).await.status, 403);
    // On the data port there is nothing of the kind.
    let request = wire::request("GET", "/config", &[("authorization".to_owned(), "Bearer for tests only".to_owned())]);
    assert_eq!(Answer::parse(&wire::send(house.app.address(), &request).await).status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_are_told_by_name_and_thumbprint() {
    let house = House::build(None, &[], NOW).await;
    let rings: Value = ask(&house, "GET", "/keys", None).await.json();
    let ring = &rings[0];
    assert_eq!(ring["issuer"], "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents");
    assert_eq!((&ring["fetched"], &ring["failed"]), (&1.into(), &0.into()), "{ring}");
    let keys: Vec<_> = ring["set"]["keys"].as_array().unwrap().iter().map(|key| (&key["kid"], &key["alg"])).collect();
    assert_eq!(keys, [(&"agents/+=".into(), &"RS256".into()), (&"agents-ec".into(), &"ES256".into())]);
    assert!(ring["set"]["keys"][0]["thumbprint"].as_str().is_some_and(|it| it.len() == 43), "{ring}");
}
