//! Candidate policies beside those in force: they are told of, and decide nothing.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use portcullis::{
    audit::ShadowOutcome,
    base::{files::Files, revision},
    config,
};
use serde_json::Value;

use crate::{
    house::{self, House, NOW},
    wire,
};

const CANDIDATE: &str = "
@id(\"agent-reads-its-users-data\") permit (principal, action, resource) when { resource.owner == User::\"user-2\" };
@id(\"nobody-else\") forbid (principal, action, resource == UserData::\"user-3\");
";

async fn build(candidate: &str, more: &str) -> House {
    let text = house::repository("config.yaml") + &format!("shadow: {{ policies: new{more} }}\n");
    let mut loaded = House::load(Some(&text), &[("new/all.cedar".into(), candidate.into())]);
    loaded.config.records.questions = true;
    House::of(loaded, NOW).await
}

async fn ask(house: &mut House, path: &str) -> (u16, Value) {
    let token = house::good_token();
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let (answer, record) = house.ask(&wire::request("GET", path, &fields)).await;
    (answer.status, serde_json::to_value(record.unwrap()).unwrap())
}

async fn counted(house: &House, outcome: ShadowOutcome) -> bool {
    let line = format!("portcullis_shadow_decisions_total{{outcome=\"{}\"}} 1\n", outcome.name());
    house.operators("/metrics").await.body.contains(&line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_changes_no_answer_and_says_where_it_differs() {
    let mut house = build(CANDIDATE, "").await;
    let (status, narrower) = ask(&mut house, "/users/user-1/data").await;
    assert_eq!(
        (status, &narrower["code"], &narrower["shadow"]["outcome"]),
        (200, &"allowed".into(), &"narrower".into())
    );
    assert_eq!(narrower["shadow"]["decision"], "deny");
    let candidate = revision::of_files([(Path::new("all.cedar"), CANDIDATE)]);
    assert_eq!(narrower["shadow"]["policy_revision"], *candidate);
    assert_ne!(narrower["policy_revision"], *candidate);
    let (status, wider) = ask(&mut house, "/users/user-2/data").await;
    assert_eq!((status, &wider["code"], &wider["shadow"]["outcome"]), (403, &"access_denied".into(), &"wider".into()));
    assert_eq!(wider["shadow"]["policies"], serde_json::json!(["agent-reads-its-users-data"]));
    let (_, policies) = ask(&mut house, "/users/user-3/data").await;
    assert_eq!(policies["shadow"]["outcome"], "policies", "{policies}");
    let (status, none) = ask(&mut house, "/nowhere").await;
    assert_eq!((status, &none["shadow"]), (404, &Value::Null), "the policies were not asked");
    for outcome in [ShadowOutcome::Narrower, ShadowOutcome::Wider, ShadowOutcome::Policies] {
        assert!(counted(&house, outcome).await, "{}", outcome.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_bound_a_candidate_is_not_asked_and_the_record_says_so() {
    let mut house = build(CANDIDATE, ", decisions_per_second_max: 1").await;
    // Two of these are within one second, however slow the machine is.
    let began = Instant::now();
    let mut outcomes = Vec::new();
    while outcomes.len() < 2 || !outcomes.contains(&Value::from("skipped")) {
        assert!(began.elapsed() < Duration::from_secs(20), "{outcomes:?}");
        let (status, record) = ask(&mut house, "/users/user-1/data").await;
        let candidate = revision::of_files([(Path::new("all.cedar"), CANDIDATE)]);
        assert_eq!((status, &record["shadow"]["policy_revision"]), (200, &Value::from(&*candidate)), "{record}");
        outcomes.push(record["shadow"]["outcome"].clone());
    }
    assert_eq!(outcomes[0], "narrower");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_cannot_be_used_holds_nothing_up() {
    let mut house = build("permit (", "").await;
    let (status, record) = ask(&mut house, "/users/user-1/data").await;
    assert_eq!((status, &record["shadow"]), (200, &Value::Null));
    assert!(house.operators("/metrics").await.body.contains("portcullis_shadow_failing 1\n"));
    let mut house = build(CANDIDATE, "").await;
    assert!(house.operators("/metrics").await.body.contains("portcullis_shadow_failing 0\n"));
    assert_eq!(ask(&mut house, "/users/user-1/data").await.0, 200);
}

#[test]
fn a_candidate_for_a_store_that_is_not_there_is_an_error() {
    let text =
        house::repository("config.yaml") + "shadow: { policies: new, store: acme, decisions_per_second_max: 0 }\n";
    let names = ["policies/schema.cedarschema", "policies/users.cedar"].map(|name| (name, house::repository(name)));
    let mut files: Vec<_> = names.iter().map(|(name, text)| (*name, text.as_str())).collect();
    files.push(("new/all.cedar", CANDIDATE));
    let loaded = config::parse("config.yaml".into(), text, Files::memory(files)).unwrap();
    let problems = loaded.compile().unwrap_err().to_string();
    assert!(problems.contains("there is no store `acme`"), "{problems}");
    assert!(problems.contains("`decisions_per_second_max` is out of range"), "{problems}");
}
