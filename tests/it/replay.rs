//! `replay` never says that nothing widens where it cannot tell.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use portcullis::{
    authoring::{
        recorded::RecordLine,
        replay::{Change, Replay, Tally},
    },
    base::{files::Files, pseudonym::Pseudonyms, secret::Secret},
    entities::hiding::{Reading, Recording},
    policy::{PolicyFiles, stores::Stores},
};
use serde_json::{Value, json};

use crate::{cli, house};

const SCHEMA: &str = "
entity Team = { level: Long } tags String;
entity User = { email: String, level: Long, team: Team };
entity Agent tags String;
entity Doc = { owner: User, size: Long, sizes: Set<Long>, price: decimal, net: ipaddr, also: ipaddr, until: datetime,
  for: duration, note: String, rec: { team: Team } };
action read appliesTo { principal: [Agent], resource: [Doc],
  context: { onBehalfOf: User, token: { app: String, color: String, scope: Set<String> } } };
";

/// A denied request's record, in the clear.
fn record() -> Value {
    let uid = |kind: &str, id: &str| json!({ "type": kind, "id": id });
    let entity = |kind: &str, id: &str| json!({ "__entity": uid(kind, id) });
    let value = |function: &str, argument: &str| json!({ "__extn": { "fn": function, "arg": argument } });
    let doc = json!({
        "owner": entity("User", "user-1"), "size": 3600, "sizes": [3600], "price": value("decimal", "1.50"),
        "net": value("ip", "10.0.0.1"), "also": value("ip", "10.0.0.1/32"), "until": value("datetime", "2026-01-01"),
        "for": value("duration", "60m"), "note": "a", "rec": { "team": entity("Team", "staff") },
    });
    json!({
        "time": "2026-01-01T00:00:00Z", "decision_id": "01A", "decision": "deny", "code": "access_denied", "status": 403,
        "method": "GET", "path": "/docs/d1", "route": "GET /docs/{id}", "agent": "agent-1", "user": "user-1",
        "question": {
            "principals": [["agent", uid("Agent", "agent-1")]], "action": uid("Action", "read"), "resource": uid("Doc", "d1"),
            "context": {
                "onBehalfOf": entity("User", "user-1"),
                "token": { "app": "chat", "color": "level", "scope": ["a", "b"] },
            },
            "entities": [
                { "uid": uid("Agent", "agent-1"), "attrs": {}, "parents": [], "tags": { "email": "jane@acme.com" } },
                { "uid": uid("User", "user-1"), "parents": [],
                  "attrs": { "email": "jane@acme.com", "level": 3, "team": entity("Team", "staff") } },
                { "uid": uid("Team", "staff"), "attrs": { "level": 3 }, "parents": [], "tags": { "level": "3" } },
                { "uid": uid("Doc", "d1"), "attrs": doc, "parents": [] },
            ],
        },
    })
}

fn stores(condition: &str) -> Stores {
    let policy = format!("@id(\"p\") permit (principal, action, resource) when {{ {condition} }};");
    let files = Files::memory([("p/schema.cedarschema", SCHEMA), ("p/p.cedar", &policy)]);
    let loaded = PolicyFiles::new(&files, &PathBuf::from("p")).load(&[], None);
    loaded.unwrap_or_else(|error| panic!("{condition}: {error}")).stores
}

fn pseudonyms(key: &str) -> Pseudonyms {
    Pseudonyms::new(&Secret::from(key.to_owned())).unwrap()
}

/// `record` as a gate writes it that has this key.
fn hidden(key: &str, clear: &[&str]) -> String {
    let clear = clear.iter().map(|it| it.split('.').map(str::to_owned).collect()).collect();
    let recording = Recording { pseudonyms: Some(pseudonyms(key)), clear };
    let mut record = record();
    let line: RecordLine = serde_json::from_value(record.clone()).unwrap();
    let question = line.question.unwrap().read(&Reading::default()).unwrap();
    record["question"] = serde_json::to_value(question.recorded(&recording).unwrap()).unwrap();
    record.to_string()
}

fn replay(stores: &Stores, line: &str, key: Option<&str>) -> Tally {
    let policies = &stores.named(None).unwrap().policies;
    let reading = key.map_or_else(Reading::default, |key| Reading::new(&pseudonyms(key), &policies.literals()));
    Replay::new(policies, "default", reading).run(line.as_bytes(), 2, |_| {}).unwrap()
}

const KEY: &str = "a key of sixteen bytes or more";

#[test]
fn what_cannot_be_told_from_pseudonyms_is_not_told() {
    for (condition, needed) in [
        // Equality is kept, in whatever form a value is written.
        ("context.token.app == \"chat\" && context.token.scope.contains(\"b\")", &[][..]),
        ("resource.owner == context.onBehalfOf && principal == Agent::\"agent-1\"", &[]),
        ("resource.price == decimal(\"1.5\")", &[]),
        ("resource.net == ip(\"10.0.0.1/32\") && [ip(\"10.0.0.1/32\")].contains(resource.net)", &[]),
        ("resource.net == resource.also", &[]),
        ("resource.until == datetime(\"2026-01-01T01:00:00+0100\") && resource.for == duration(\"1h\")", &[]),
        ("resource.size == 3600 && context.onBehalfOf.level == 3", &[]),
        ("principal.hasTag(\"email\") && principal.getTag(\"email\") == \"jane@acme.com\"", &[]),
        ("resource.note == \"a\" && resource.rec.team == Team::\"staff\"", &[]),
        // More than equality is not.
        ("context.token.app like \"ch*\"", &["context.token.app"]),
        ("context.onBehalfOf.email like \"*@acme.com\"", &["User.email"]),
        ("context.onBehalfOf.level < 10", &["User.level"]),
        ("context.onBehalfOf.team.level < 4", &["Team.level"]),
        ("resource.rec.team.level < 4", &["Team.level"]),
        ("resource.size == 60 * 60", &["Doc.size"]),
        ("resource.sizes.contains(60 * 60)", &["Doc.sizes"]),
        ("resource.net.isInRange(ip(\"10.0.0.0/8\"))", &["Doc.net"]),
        ("resource.price.lessThan(decimal(\"2.0\"))", &["Doc.price"]),
        ("resource.until < datetime(\"2027-01-01\")", &["Doc.until"]),
    ] {
        let stores = stores(condition);
        let clear = replay(&stores, &record().to_string(), None);
        assert_eq!((clear.of(Change::Wider), clear.unjudged()), (1, 0), "{condition}");
        let tally = replay(&stores, &hidden(KEY, &[]), Some(KEY));
        let found: Vec<_> = tally.needed.keys().map(String::as_str).collect();
        assert_eq!(found, needed, "{condition}");
        assert_eq!(
            (tally.of(Change::Wider), tally.unfaithful),
            if needed.is_empty() { (1, 0) } else { (0, 1) },
            "{condition}"
        );
        let told = replay(&stores, &hidden(KEY, needed), Some(KEY));
        assert_eq!((told.of(Change::Wider), told.unjudged()), (1, 0), "{condition}, with that in the clear");
    }
    for condition in [
        "Team::\"staff\".level < 4",
        "principal.hasTag(\"email\") && principal.getTag(\"email\") like \"*@acme.com\"",
        "resource.rec.team.hasTag(context.token.color)",
    ] {
        let tally = replay(&stores(condition), &hidden(KEY, &[]), Some(KEY));
        assert_eq!((tally.replayed, tally.unfaithful), (0, 1), "{condition}: {tally:?}");
    }
}

#[test]
fn pseudonyms_of_another_key_are_not_judged() {
    let stores = stores("principal == Agent::\"agent-1\"");
    for (key, known) in [(Some("another key of sixteen bytes"), 0), (None, 0), (Some(KEY), 1)] {
        let tally = replay(&stores, &hidden(KEY, &[]), key);
        assert_eq!((tally.replayed, tally.other_keys), (known, 1 - known), "{key:?}");
    }
}

#[test]
fn lines_that_are_no_records_are_counted_and_end_nothing() {
    let stores = stores("true");
    let good = record().to_string();
    let long = "x".repeat(1024 * 1024 + 1);
    let half = &good[..300];
    let log = format!("{good}\r\n\n{half}\n{good}\n{long}\n{good}\n{half}");
    let tally = replay(&stores, &log, None);
    assert_eq!((tally.records, tally.of(Change::Wider), tally.unreadable), (3, 3, 3), "{tally:?}");
    assert_eq!(tally.first_unreadable.as_ref().unwrap().0, 3);
    // As many as would fill every queue.
    let tally = replay(&stores, &"no record\n".repeat(20_000), None);
    assert_eq!((tally.records, tally.unreadable), (0, 20_000));
}

#[test]
fn what_policies_had_no_part_in_is_told_apart() {
    let stores = stores("true");
    let with = |changes: &[(&str, Value)]| {
        let mut record = record();
        for (name, value) in changes {
            record[*name] = value.clone();
        }
        replay(&stores, &record.to_string(), None)
    };
    let none = Value::Null;
    assert_eq!(with(&[("question", none.clone()), ("code", json!("token_expired"))]).before_policies, 1);
    assert_eq!(
        with(&[("question", none.clone()), ("code", json!("abandoned")), ("decision", json!("abandoned"))])
            .before_policies,
        1
    );
    assert_eq!(with(&[("question", none.clone())]).without_question, 1);
    assert_eq!(with(&[("question", none.clone()), ("code", json!("acces_denied"))]).without_question, 1);
    assert_eq!(
        with(&[("question", none), ("code", json!("upstream_timed_out")), ("decision", json!("allow"))])
            .without_question,
        1
    );
    assert_eq!(with(&[("store", json!("acme"))]).other_stores, 1);
    let allowed = [("code", json!("client_gone")), ("decision", json!("allow")), ("policies", json!(["p"]))];
    assert_eq!(with(&allowed).same, 1, "what became of it afterwards makes no difference");
}

#[test]
fn explain_tells_nothing_of_pseudonyms_that_it_cannot_judge() {
    let folder = tempfile::tempdir().unwrap();
    let policy =
        "@id(\"p\") permit (principal == Agent::\"agent-1\", action, resource) when { context.token.app like \"x*\" };";
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for (name, text) in [
        ("config.yaml", CONFIG),
        ("policies/schema.cedarschema", &SCHEMA.replace(" tags String", "")),
        ("policies/p.cedar", policy),
        ("log.jsonl", &hidden(KEY, &[])),
        ("clear.jsonl", &hidden(KEY, &["context.token.app"])),
        ("pseudonym.key", KEY),
        ("other.key", "another key of sixteen bytes"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    for (key, log, notes, miss) in [
        ("pseudonym.key", "log.jsonl", "context.token.app stands under a pseudonym", ""),
        ("other.key", "log.jsonl", "pseudonyms of a key that is not known here", ""),
        ("pseudonym.key", "clear.jsonl", "", "`p` would allow it if `context.token.app like \\\"x*\\\"` held"),
    ] {
        std::fs::write(folder.path().join("config.yaml"), CONFIG.replace("pseudonym.key", key)).unwrap();
        let asked = ["explain", "--json", "--log", log, "--id", "01A"];
        let told = cli::portcullis().current_dir(folder.path()).args(asked).output().unwrap();
        let account: Value =
            serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", cli::text(&told.stderr)));
        assert!(account["notes"].to_string().contains(notes), "{account:#}");
        assert!(account["nearest_miss"].to_string().contains(miss), "{account:#}");
        assert_eq!(account["nearest_miss"] == json!([]), miss.is_empty(), "{account:#}");
    }
}

const CONFIG: &str = "
listen: 127.0.0.1:8080
upstream: { url: http://127.0.0.1:9000 }
issuers:
  - oidc_generic: { issuer: 'https://issuer.example', audiences: [api], jwks_uri: 'https://issuer.example/keys' }
routes:
  - { methods: [GET], path: '/docs/{id}', action: read, resource: 'Doc::\"{path.id}\"' }
entities: { sources: [{ type: Doc, lookup: { http: { url: 'https://a.example/{id}' } } }] }
records: { questions: true, pseudonyms: { key: { file: pseudonym.key } } }
";

fn run(folder: &Path, log: &str, more: &[&str]) -> Output {
    std::fs::write(folder.join("log.jsonl"), log).unwrap();
    let config = format!("{}/examples/own-data/config.yaml", env!("CARGO_MANIFEST_DIR"));
    let arguments = ["replay", "--config", &config, "--log", "log.jsonl"];
    cli::portcullis().current_dir(folder).args(arguments).args(more).output().unwrap()
}

#[test]
fn forbid_widening_passes_only_what_was_shown() {
    let folder = tempfile::tempdir().unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let (same, wider) = (format!("{root}/examples/own-data/policies"), format!("{root}/examples/own-data/candidate"));
    let log = house::repository("examples/own-data/decisions.jsonl");
    let refused = log.lines().find(|line| line.contains("route_missing")).unwrap();
    let link = |rest: &str| format!("{{\"time\":\"2026-01-01T00:00:00Z\",{rest},\"seq\":0,\"hash\":\"h\"}}\n");
    let (opened, signed) =
        (link("\"chain\":\"opened\",\"prev\":\"h\""), link("\"chain\":\"signed\",\"signature\":\"s\""));
    let dropped = link("\"chain\":\"dropped\",\"records\":3");
    for (log, policies, code, said) in [
        (&*log, &*same, 0, ""),
        (&format!("{opened}{log}{signed}"), &same, 0, ""),
        (&format!("{opened}{log}{dropped}"), &same, 1, "of 3 decisions nobody can tell"),
        (&format!("{opened}{signed}"), &same, 1, "the log holds no record"),
        (&log, &wider, 1, "2 decisions would be wider"),
        (&log.replace("\"question\":{", "\"asked\":{"), &same, 1, "of 6 decisions nobody can tell"),
        (&format!("{log}{{"), &same, 1, "of 1 decisions nobody can tell"),
        (refused, &same, 1, "no decision was made again"),
        ("", &same, 1, "the log holds no record"),
    ] {
        let done = run(folder.path(), log, &["--policies", policies, "--forbid-widening"]);
        assert_eq!(done.status.code(), Some(code), "{said}: {}", cli::text(&done.stderr));
        assert!(cli::text(&done.stderr).contains(said), "{said}: {}", cli::text(&done.stderr));
        let told = run(folder.path(), log, &["--policies", policies, "--json"]);
        let tally: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert!(tally["records"].is_u64() && told.status.success() == (tally["records"] != 0), "{tally}");
    }
    let elsewhere = run(folder.path(), &log, &["--policies", &wider, "--store", "acme", "--forbid-widening"]);
    assert_eq!(elsewhere.status.code(), Some(64), "{}", cli::text(&elsewhere.stderr));
}
