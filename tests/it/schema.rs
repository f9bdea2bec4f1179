//! The JSON Schema of `config.yaml` and the loader are of one mind about its form.

use std::{collections::BTreeSet, path::Path};

use jsonschema::Validator;
use portcullis::{base::files::Files, config};
use serde_json::Value;

use crate::{
    config::MINIMAL,
    docs::{blocks, described_settings},
    house,
};

fn validator() -> Validator {
    jsonschema::draft202012::new(&config::schema()).unwrap()
}

/// `text` as editors read it: by YAML 1.2, where `off` is a word.
fn yaml(text: &str) -> Value {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn good(validator: &Validator, name: &str, config: &Value) {
    let wrong: Vec<_> = validator.iter_errors(config).map(|it| format!("{}: {it}", it.instance_path)).collect();
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
}

#[test]
fn every_configuration_of_the_repository_is_good() {
    let validator = validator();
    good(&validator, "config.yaml", &yaml(&house::repository("config.yaml")));
    let mut seen = 0;
    for folder in ["tests/cases", "tests/attacks"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let file = yaml(&std::fs::read_to_string(&path).unwrap());
            if let Some(config) = file["given"]["config"].as_str() {
                good(&validator, &path.display().to_string(), &yaml(config));
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "only {seen} configurations were found");
}

#[test]
fn the_examples_of_the_documentation_are_good_in_a_whole_configuration() {
    let validator = validator();
    let whole = yaml(&house::repository("config.yaml"));
    let mut seen = 0;
    for page in ["docs/configuration.md", "docs/deny-list.md", "docs/sources.md"] {
        for block in blocks(&house::repository(page), "yaml") {
            let mut config = whole.clone();
            config.as_object_mut().unwrap().extend(yaml(&block).as_object().unwrap().clone());
            good(&validator, page, &config);
            seen += 1;
        }
    }
    assert!(seen > 3, "only {seen} examples were found");
}

/// The minimal configuration with `from` made `to` is refused both by the schema and by the loader.
#[track_caller]
fn bad(validator: &Validator, from: &str, to: &str) {
    assert!(MINIMAL.contains(from), "{from}");
    let text = MINIMAL.replacen(from, to, 1);
    assert!(!validator.is_valid(&yaml(&text)), "the schema accepts {to}");
    let loaded = config::parse("config.yaml".into(), text, Files::memory([]));
    assert!(loaded.is_err(), "the loader accepts {to}");
}

#[test]
fn what_the_loader_refuses_for_its_form_the_schema_refuses() {
    let validator = validator();
    good(&validator, "the minimal configuration", &yaml(MINIMAL));
    let (listen, upstream, path) =
        ("listen: 127.0.0.1:8080\n", "upstream: { url: http://127.0.0.1:9000 }\n", "    path: ");
    let issuer = "      scope_prefix: crossDomainService/\n";
    for (from, to) in [
        // Keys that are not there.
        (listen, ""),
        (upstream, "upstream: {}\n"),
        ("  - methods: [GET]\n    path", "  - path"),
        ("      issuer: ", "      # "),
        // Keys that there are not.
        ("routes:", "rotues:"),
        ("client_ids:", "clients:"),
        ("    action:", "    acton:"),
        ("cognito_access:", "cognito:"),
        (listen, "listen: 127.0.0.1:8080\nx-note: ours\n"),
        (upstream, "upstream: { url: http://127.0.0.1:9000, timeout_ms: 1 }\n"),
        (listen, "listen: 127.0.0.1:8080\ntls: { certificate: a, private_key: { file: a }, key: a }\n"),
        (listen, "listen: 127.0.0.1:8080\nclients: [{ client_id: a, scope: b }]\n"),
        (listen, "listen: 127.0.0.1:8080\nentities: { agents: Agent }\n"),
        (listen, "listen: 127.0.0.1:8080\nconsents: { lookup: { sql: { statement: a, keep: { fresh_ms: 1 } } } }\n"),
        (listen, "listen: 127.0.0.1:8080\nidentity: { agent: x }\n"),
        (listen, "listen: 127.0.0.1:8080\nlimits: { connections: 1 }\n"),
        (listen, "listen: 127.0.0.1:8080\nstores: [{ name: a, host: b }]\n"),
        // One key of several.
        (listen, "listen: 127.0.0.1:8080\nadmin_token: { env: A, file: a }\n"),
        (listen, "listen: 127.0.0.1:8080\nadmin_token: {}\n"),
        (path, "    purpose: { is: a, claim: b }\n    path: "),
        // Values of another type.
        ("127.0.0.1:8080", "[8080]"),
        ("[1example23456789]", "{}"),
        ("[1example23456789]", "1example23456789"),
        ("methods: [GET]", "methods: GET"),
        (listen, "listen: 127.0.0.1:8080\nlimits: { connections_max: many }\n"),
        (listen, "listen: 127.0.0.1:8080\nlimits: { connections_max: -1 }\n"),
        (listen, "listen: 127.0.0.1:8080\nlimits: { connections_max: 1.5 }\n"),
        (listen, "listen: 127.0.0.1:8080\nidentity: { forward_token: 1 }\n"),
        (listen, "listen: 127.0.0.1:8080\nadmin_token: s3cret\n"),
        (listen, "listen: 127.0.0.1:8080\nentities: []\n"),
        (listen, "listen: 127.0.0.1:8080\norigins: https://a.example\n"),
        // Nothing where something must be.
        (listen, "listen: 127.0.0.1:8080\norigins:\n"),
        (listen, "listen: 127.0.0.1:8080\nidentity:\n"),
        (listen, "listen:\n"),
        // Words that mean nothing.
        (path, "    delegation: requried\n    path: "),
        (path, "    principals: [agent, app]\n    path: "),
        (issuer, "      scope_prefix: crossDomainService/\n      dpop: maybe\n"),
        (issuer, "      scope_prefix: crossDomainService/\n      dpop: Off\n"),
        (issuer, "      scope_prefix: crossDomainService/\n      algorithms: [HS256]\n"),
        (issuer, "      scope_prefix: crossDomainService/\n      transport: accept_plain\n"),
        (listen, "listen: 127.0.0.1:8080\nentities: { profile: cognito }\n"),
        (listen, "listen: 127.0.0.1:8080\nstores: [{ name: a, on_error: allow }]\n"),
    ] {
        bad(&validator, from, to);
    }
}

#[test]
fn a_key_without_a_value_is_refused_by_both() {
    let validator = validator();
    let listen = "listen: 127.0.0.1:8080\n";
    for key in ["admin", "tls", "http2", "policies", "deny_list", "admin_token", "trusted_proxies", "records", "rates"]
    {
        bad(&validator, listen, &format!("{listen}{key}:\n"));
    }
    let path = "    path: ";
    for key in ["scope", "purpose", "delegation", "store"] {
        bad(&validator, path, &format!("    {key}:\n{path}"));
    }
    for line in [
        "clients: [{ client_id: a, caller_apps: }]",
        "records: { file: { path: a, keep: ~ } }",
        "origins: [~]",
        "limits: { connections_max: null }",
    ] {
        bad(&validator, listen, &format!("{listen}{line}\n"));
    }
}

/// Everything in `schema` that has members, with the path to it.
fn objects<'a>(schema: &'a Value, path: &str, found: &mut Vec<(String, &'a Value)>) {
    if schema.get("properties").is_some() {
        found.push((path.to_owned(), schema));
    }
    let inside: Vec<(String, &Value)> = match schema {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in inside {
        objects(value, &format!("{path}/{name}"), found);
    }
}

#[test]
fn every_object_knows_all_its_keys_and_says_what_each_is() {
    let schema = config::schema();
    let (mut found, mut settings) = (Vec::new(), BTreeSet::new());
    objects(&schema, "", &mut found);
    assert!(found.len() > 20, "{found:?}");
    for (path, object) in found {
        assert_eq!(object["additionalProperties"], false, "{path}");
        // The key of a family is described with its object.
        let family = path.contains("/oneOf/");
        assert!(!family || object["description"].is_string(), "{path}");
        for (name, value) in object["properties"].as_object().unwrap() {
            assert!(family || value["description"].is_string(), "{path}/{name}");
            if !family {
                settings.insert(name.clone());
            }
        }
    }
    assert_eq!(settings, described_settings());
}
