//! The documentation says what the code does.

use std::collections::BTreeSet;

use portcullis::{
    audit::{self, PreflightRecord, Protocol, Record, ShadowOutcome, ShadowRecord, StageTimes},
    base::{files::Files, origin::Origin},
    config,
};
use serde_json::Value;

use crate::{config::MINIMAL, house};

/// The text of the fenced blocks of `language` in `page`.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    let bodies = page.split(opening.as_str()).skip(1);
    bodies.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The first cell in backquotes of every table row.
fn first_cells(page: &str, cell: usize) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.split(" | ").nth(cell));
    cells.filter_map(|cell| cell.trim_start_matches("| ").split('`').nth(1).map(str::to_owned)).collect()
}

#[test]
fn the_readmes_configuration_is_the_one_that_is_tested() {
    let readme = house::repository("README.md");
    assert_eq!(blocks(&readme, "yaml")[0], MINIMAL);
    let prefix = MINIMAL.split("scope_prefix: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let asked = format!("scope.contains(\"{prefix}");
    assert!(blocks(&readme, "cedar")[0].contains(&asked), "one scope does not do for the issuer and the policy");
    let policies = house::repository("policies/users.cedar");
    assert!(policies.contains(&blocks(&readme, "cedar")[0]), "the README's policy is not in policies/users.cedar");
}

#[test]
fn the_readmes_two_commands_are_in_the_makefile() {
    let (readme, makefile) = (house::repository("README.md"), house::repository("Makefile"));
    for command in blocks(&readme, "sh") {
        let target = command.trim().strip_prefix("make ").unwrap().to_owned();
        assert!(makefile.contains(&format!("\n{target}:")), "{target}");
    }
}

#[test]
fn what_is_commented_out_in_the_example_stands_at_its_default() {
    let text = house::repository("config.yaml");
    let uncommented: String = text
        .lines()
        .map(|line| {
            let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
            let setting = rest.strip_prefix("# ").filter(|rest| {
                let word = rest.trim_start().split(':').next().unwrap_or_default();
                rest.contains(':') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            });
            setting.map_or_else(|| format!("{line}\n"), |setting| format!("{indent}{setting}\n"))
        })
        .collect();
    let names = ["policies/schema.cedarschema", "policies/users.cedar"].map(|name| (name, house::repository(name)));
    let compile = |text: &str| {
        let files = Files::memory(names.iter().map(|(name, text)| (*name, text.as_str())));
        let loaded = config::parse("config.yaml".into(), text.into(), files).unwrap_or_else(|error| panic!("{error}"));
        loaded.compile().unwrap_or_else(|error| panic!("{error}"))
    };
    assert!(uncommented.matches('#').count() < text.matches('#').count() - 20, "nothing was uncommented");
    let (shown, default) = (compile(&uncommented), compile(&text));
    assert_eq!(format!("{:?}", shown.servers), format!("{:?}", default.servers));
    assert_eq!(format!("{:?}", shown.blueprint.limits), format!("{:?}", default.blueprint.limits));
    assert_eq!(format!("{:?}", shown.blueprint.identity), format!("{:?}", default.blueprint.identity));
    // The two id prefixes are the only ones with no default to show.
    let issuer = format!("{:?}", shown.blueprint.trust.rules)
        .replace("Some(\"us-east-1_agents\")", "None")
        .replace("Some(\"us-east-1_users\")", "None");
    assert_eq!(issuer, format!("{:?}", default.blueprint.trust.rules));
    assert_eq!(shown.blueprint.tracing, default.blueprint.tracing);
    assert_eq!(format!("{:?}", shown.blueprint.routes), format!("{:?}", default.blueprint.routes));
}

/// The settings that docs/configuration.md describes.
pub(crate) fn described_settings() -> BTreeSet<String> {
    let cells = first_cells(&house::repository("docs/configuration.md"), 0);
    cells.into_iter().filter(|name| !name.contains(['<', ' ', '.', '…', '{'])).collect()
}

#[test]
fn every_setting_is_described() {
    let settings = |file: &str| -> BTreeSet<String> {
        let text = house::repository(file);
        let structs =
            text.split("#[serde(deny_unknown_fields").skip(1).map(|rest| rest.split("\n}").next().unwrap().to_owned());
        let fields = structs.flat_map(|body| {
            let names = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "));
            names.map(|(name, _)| name.trim_start_matches("r#").to_owned()).collect::<Vec<_>>()
        });
        fields.collect()
    };
    let files = [
        "src/config/mod.rs",
        "src/config/limits.rs",
        "src/config/log.rs",
        "src/config/tls.rs",
        "src/config/servers.rs",
        "src/token/issuer.rs",
        "src/entities/clients.rs",
        "src/entities/consent.rs",
        "src/entities/lookup/plan.rs",
        "src/entities/mod.rs",
        "src/entities/profile.rs",
        "src/entities/route.rs",
        "src/entities/sources.rs",
        "src/forward/assertion.rs",
        "src/forward/identity.rs",
        "src/forward/upstream.rs",
        "src/forward/watch.rs",
        "src/limit/config.rs",
        "src/request/cors.rs",
        "src/request/forwarded.rs",
        "src/config/records.rs",
        "src/pages/metadata.rs",
        "src/config/otlp.rs",
        "src/config/traces.rs",
        "src/policy/shadow.rs",
        "src/policy/stores.rs",
    ];
    let exist: BTreeSet<String> = files.iter().flat_map(|file| settings(file)).collect();
    assert!(exist.len() > 40, "{exist:?}");
    assert_eq!(exist, described_settings());
}

#[test]
fn every_code_is_described_with_its_status() {
    let page = house::repository("docs/errors.md");
    let is_row = |line: &&str| line.strip_prefix("| ").is_some_and(|row| row.starts_with(|c: char| c.is_ascii_digit()));
    let rows = page.lines().filter(is_row);
    let described: BTreeSet<(String, String)> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_start_matches("| ").split(" | ").collect();
            (cells[0].to_owned(), cells[1].trim_matches('`').to_owned())
        })
        .collect();
    let exist: BTreeSet<(String, String)> = portcullis::refusal::Refusal::every()
        .iter()
        .map(|it| (it.status().as_u16().to_string(), it.code().to_owned()))
        .collect();
    assert_eq!(described, exist);
}

#[test]
fn every_field_of_a_record_is_described() {
    let full = Record {
        peer: Some(String::new()),
        via: Some(String::new()),
        preflight: Some(PreflightRecord::default()),
        route: Some("".into()),
        issuer: Some("".into()),
        agent: Some("".into()),
        user: Some("".into()),
        user_issuer: Some("".into()),
        actors: [String::new()].into(),
        app: Some("".into()),
        action: Some("".into()),
        resource: Some("".into()),
        missing: Some(String::new()),
        limit: Some("".into()),
        upstream: Some("".into()),
        upstream_path: Some(String::new()),
        server: Some("".into()),
        retries: 1,
        side: Some(""),
        store: Some("".into()),
        policy_revision: Some("".into()),
        annotations: [(String::new(), std::collections::BTreeMap::new())].into(),
        claims: serde_json::Map::from_iter([(String::new(), Value::Null)]),
        key: Some("".into()),
        stage: Some(""),
        upstream_status: Some(0),
        upstream_us: Some(0),
        stages_us: StageTimes { request: Some(0), ..StageTimes::default() },
        skipped: vec![String::new()],
        decision_cached: true,
        shadow: Some(ShadowRecord {
            outcome: ShadowOutcome::Skipped,
            decision: None,
            policy_revision: "".into(),
            policies: Vec::new(),
        }),
        protocol: Some(Protocol::Http2),
        body_bytes: 1,
        answer_bytes: 1,
        question: serde_json::value::to_raw_value(&0).ok(),
        attributes: [Origin { of: "", name: "".into(), source: "".into(), age_s: Some(0) }].into(),
        left_out: vec![""],
        ..Record::default()
    };
    let full: Value = serde_json::to_value(full).unwrap();
    let exist: BTreeSet<_> = full.as_object().unwrap().keys().cloned().collect();
    let page = house::repository("docs/decision-record.md");
    assert_eq!(first_cells(&page, 0), exist);
    let example: Value = serde_json::from_str(blocks(&page, "json")[0].trim()).unwrap();
    assert!(example.as_object().unwrap().keys().all(|name| exist.contains(name)));
    house::conforms(&example);
    let published = house::repository("docs/decision-record.schema.json");
    assert!(published == format!("{:#}\n", audit::schema()), "`portcullis schema --records` prints another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_described_and_labels_come_from_closed_sets() {
    // With an issuer that is asked, since there are metrics of that too.
    let asked = "issuers:\n  - introspection: { issuer: 'https://a.example', introspection_uri: 'https://a.example/ask', \
                 client_id: a, client_secret: { file: nonce-secret }, audiences: [a], agent_id_prefix: a, user_id_prefix: b }\n";
    let text = house::repository("config.yaml").replace("issuers:\n", asked);
    let text = text.replace("      # agent_id_prefix: us-east-1_agents ", "      agent_id_prefix: c #");
    let text = text.replace("      # user_id_prefix: us-east-1_users ", "      user_id_prefix: d #");
    // And with a source of attributes.
    let source = "{ type: UserData, lookup: { http: { url: 'https://a.example/{id}' } } }";
    let text = format!("{text}\nentities: {{ sources: [{source}] }}\n");
    // And with a shared limit.
    let rates = "[{ name: agents, by: [agent], requests: 1, shared: accept_uncounted }]";
    let text = format!("{text}rates: {rates}\ncounters: {{ redis: 'redis://127.0.0.1:1' }}\n");
    let mut house = crate::house::House::build(Some(&text), &[], house::NOW).await;
    for target in ["/users/user-1/data", "/anything-at-all"] {
        house.ask(&crate::wire::request("GET", target, &[])).await;
    }
    let answer = crate::wire::send(house.app.admin_address(), &crate::wire::request("GET", "/metrics", &[])).await;
    let text = crate::wire::Answer::parse(&answer).body;
    let exist: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE portcullis_")?.split(' ').next())
        .map(|it| format!("portcullis_{it}"))
        .collect();
    assert_eq!(first_cells(&house::repository("docs/metrics.md"), 0), exist);
    let requests: BTreeSet<_> = text.lines().filter(|line| line.starts_with("portcullis_requests_total")).collect();
    assert_eq!(
        requests,
        BTreeSet::from([
            "portcullis_requests_total{code=\"token_missing\",route=\"GET /users/{userId}/data\"} 1",
            "portcullis_requests_total{code=\"token_missing\",route=\"none\"} 1",
        ])
    );
}

#[test]
fn the_example_of_sources_can_be_used() {
    let page = house::repository("docs/sources.md");
    let text = [house::repository("config.yaml"), blocks(&page, "yaml").concat()].join("\n");
    let text = text.replace("    action: readOnly\n", "    action: readOnly\n    purpose: { is: support }\n");
    assert!(text.contains("purpose: { is"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        std::fs::write(folder.path().join(name), house::repository(name)).unwrap();
    }
    for (name, text) in [
        ("config.yaml", &*text),
        ("directory-token", "Bearer x"),
        ("people.db", ""),
        ("consents.json", &*blocks(&page, "json")[0]),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let loaded = portcullis::config::load(&folder.path().join("config.yaml"));
    loaded.and_then(|loaded| loaded.compile()).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_row_of_the_truth_tables_is_a_case() {
    let cases = ["policies", "principals", "stores"]
        .map(|name| house::repository(&format!("tests/cases/{name}.yaml")))
        .concat();
    let page = house::repository("docs/deciding.md");
    let tables = page.split("the case that shows it |").skip(1);
    let rows =
        tables.flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|')).collect::<Vec<_>>());
    let named: Vec<_> = rows.map(|row| row.trim_matches(['|', ' ']).rsplit('|').next().unwrap().trim()).collect();
    assert_eq!(named.len(), 15, "{named:?}");
    for name in named {
        assert!(cases.contains(&format!("  - name: {name}\n")), "there is no case `{name}`");
    }
}
