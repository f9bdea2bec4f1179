//! The gate's own pages, as far as they are more than the cases say.

use crate::{
    h2::{self, Client},
    house::{House, NOW, ROUTES, bearer, key, repository},
    wire::{self, Kept},
};

const AT: &str = "/.well-known/oauth-protected-resource";

fn told() -> String {
    format!("{ROUTES}resource_metadata: {{ resource: 'https://gate.example' }}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_section_its_path_is_a_path_like_any_other() {
    let mut house = House::build(Some(ROUTES), &[], NOW).await;
    let (answer, record) = house.ask(&wire::request("GET", AT, &[])).await;
    assert_eq!((answer.status, record.unwrap().code), (401, "token_missing"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let (answer, record) = house.ask(&wire::request("GET", AT, &[bearer()])).await;
    assert_eq!((answer.status, record.unwrap().code), (404, "route_missing"));
    assert_eq!(house.service.received(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_counted_and_bounded_by_whoever_asks() {
    let rates = "rates: [{ name: all, by: [peer], requests: 2, per_s: 86400 }]\n";
    let mut house = House::build(Some(&(told() + rates)), &[], NOW).await;
    for expected in [(200, "metadata"), (200, "metadata"), (429, "peer_limited")] {
        let (answer, record) = house.ask(&wire::request("GET", AT, &[])).await;
        assert_eq!((answer.status, record.unwrap().code), expected);
    }
    let text = house.operators("/metrics").await.body;
    assert!(text.contains("portcullis_requests_total{code=\"metadata\",route=\"none\"} 2"), "{text}");
    assert_eq!(house.service.received(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_behind_a_page_and_a_body_before_it_is_no_request() {
    let house = House::build(Some(&told()), &[], NOW).await;
    let mut kept = Kept::to(house.app.address()).await;
    for _ in 0..2 {
        let answer = kept.ask(format!("GET {AT} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let smuggled = format!("GET {AT} HTTP/1.1\r\nhost: a\r\n\r\n");
    let length = smuggled.len();
    let request =
        format!("GET {AT} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{smuggled}");
    let answers = wire::send(house.app.address(), request.as_bytes()).await;
    assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 ").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_the_same_in_http2() {
    let mut house = House::build(Some(&told()), &[], NOW).await;
    let mut client = Client::to(house.app.address()).await;
    let answer = client.ask(h2::request("GET", AT, &[]).unwrap()).await.unwrap().unwrap();
    assert_eq!((answer.status, house.record().await.unwrap().code), (200, "metadata"));
    assert_eq!(answer.json()["resource"], "https://gate.example");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let answer = client.ask(h2::request("HEAD", AT, &[]).unwrap()).await.unwrap().unwrap();
    assert_eq!((answer.status, &*answer.body), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_changes_with_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        std::fs::write(folder.path().join(name), repository(name)).unwrap();
    }
    let keys = serde_json::json!({ "keys": [key("agents").jwk()] });
    std::fs::write(folder.path().join("keys.json"), keys.to_string()).unwrap();
    let config = |name: &str| {
        let text = format!(
            "{ROUTES}admin: 127.0.0.1:0\nresource_metadata: {{ resource: 'https://gate.example', resource_name: {name} }}\n"
        );
        let text = text.replace("http://127.0.0.1:1'", "UPSTREAM'");
        text.replace("      client_ids", "      jwks_file: keys.json\n      client_ids")
    };
    let house = House::following(folder.path(), &config("First")).await;
    let name = || async {
        let answer = wire::send(house.app.address(), &wire::request("GET", AT, &[])).await;
        wire::Answer::parse(&answer).json()["resource_name"].as_str().map(str::to_owned)
    };
    assert_eq!(name().await.as_deref(), Some("First"));
    let changed = config("Second").replace("UPSTREAM", &format!("http://{}", house.service.address()));
    std::fs::write(folder.path().join("config.yaml"), changed).unwrap();
    house.app.reload();
    let mut told = None;
    for _ in 0..500 {
        told = name().await;
        if told.as_deref() == Some("Second") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(told.as_deref(), Some("Second"));
}
