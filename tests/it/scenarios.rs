//! `portcullis test`: what scenarios may say, and that none of it goes unheard.

use std::{fs, process::Output};

use serde_json::{Value, json};

use crate::{cli, house};

const SCHEMA: &str = "
    entity User; entity Agent; entity Shelf = { open?: Bool };
    entity Doc = { owner?: User, public?: Bool, size?: Long };
    action read, write appliesTo { principal: [Agent], resource: [Doc],
        context: { token: { sub?: String }, onBehalfOf?: User } };
    action look appliesTo { principal: [Agent], resource: [Shelf], context: { token: { sub?: String }, onBehalfOf?: User } };";

const POLICIES: &str = "
    @id(\"public\") permit (principal, action == Action::\"read\", resource) when { resource has public && resource.public };
    @id(\"shelf\") permit (principal, action == Action::\"look\", resource) when { resource has open && resource.open };
    @id(\"sum\") permit (principal, action == Action::\"write\", resource)
        when { resource has size && resource.size + 9223372036854775807 > 0 };";

const STATEMENTS: [&str; 2] = ["SELECT public, size FROM docs WHERE id = $1", "SELECT open FROM shelves WHERE id = $1"];

/// A place to run scenarios at.
struct Desk(tempfile::TempDir);

impl Desk {
    /// Two databases, an issuer whose keys are at hand, and one whose keys are not.
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        fs::create_dir(desk.0.path().join("policies")).unwrap();
        desk.put("policies/schema.cedarschema", SCHEMA);
        desk.put("policies/docs.cedar", POLICIES);
        desk.put("keys.json", &json!({ "keys": [house::key("agents").jwk()] }).to_string());
        desk.put("all.db", "");
        let [docs, shelves] = STATEMENTS;
        desk.put(
            "config.yaml",
            &format!(
                "listen: 127.0.0.1:0\nupstream: {{ url: 'http://service.example' }}\nissuers:\n\
                 \x20 - oidc_generic: {{ issuer: 'https://near.example', audiences: [api], agent_id_prefix: near, user_id_prefix: near, jwks_file: keys.json }}\n\
                 \x20 - oidc_generic: {{ issuer: 'https://far.example', audiences: [api], agent_id_prefix: far, user_id_prefix: far, jwks_uri: 'https://far.example/k' }}\n\
                 entities:\n  sources:\n\
                 \x20   - {{ type: Doc, lookup: {{ sql: {{ sqlite: all.db, statement: '{docs}' }} }}, \
                 attributes: {{ public: /public, size: /size }} }}\n\
                 \x20   - {{ type: Shelf, lookup: {{ sql: {{ sqlite: all.db, statement: '{shelves}' }} }} }}\nroutes:\n\
                 \x20 - {{ methods: [GET], path: '/docs/{{id}}', action: read, resource: 'Doc::\"{{path.id}}\"' }}\n\
                 \x20 - {{ methods: [PUT], path: '/docs/{{id}}', action: write, resource: 'Doc::\"{{path.id}}\"' }}\n\
                 \x20 - {{ methods: [GET], path: '/shelves/{{id}}', action: look, resource: 'Shelf::\"{{path.id}}\"' }}\n"
            ),
        );
        desk
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        cli::portcullis().current_dir(self.0.path()).args(arguments).output().unwrap()
    }

    /// What comes of one scenario, as JSON, among what stands for all: the exit code, and everything said, in one line.
    fn play(&self, all: &Value, scenario: &Value) -> (i32, String) {
        let mut scenario = scenario.clone();
        scenario["name"] = json!("it");
        self.put("scenarios.yaml", &json!({ "given": all, "scenarios": [scenario] }).to_string());
        let output = self.run(&["test"]);
        let said = cli::text(&output.stdout) + &cli::text(&output.stderr);
        (output.status.code().unwrap(), said.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    #[track_caller]
    fn passes(&self, all: &Value, scenario: &Value) {
        let (status, said) = self.play(all, scenario);
        assert_eq!(status, 0, "{scenario}: {said}");
    }

    /// Asserts that it is told, with this exit code.
    #[track_caller]
    fn told(&self, all: &Value, scenario: &Value, status: i32, part: &str) -> String {
        let (is, said) = self.play(all, scenario);
        assert!(is == status && said.contains(part), "{scenario}: {is}, not {status} and `{part}`: {said}");
        said
    }
}

fn claims() -> Value {
    json!({ "iss": "https://near.example", "aud": "api", "sub": "a", "client_id": "a",
        "onBehalfOf": { "sub": "u" } })
}

/// Rows for every document.
fn public() -> Value {
    json!([{ "statement": STATEMENTS[0], "rows": [{ "public": true, "size": 1 }] }])
}

/// A token of `claims` and times around the default one.
fn token(key: &str, claims: &Value) -> String {
    let mut claims = claims.clone();
    (claims["iat"], claims["exp"]) = (json!(1_767_268_700), json!(1_767_269_100));
    house::key(key).sign(&claims).unwrap()
}

#[test]
fn a_token_is_verified_by_the_keys_that_the_configuration_holds() {
    let desk = Desk::new();
    let of = |token: &str, code: &str| json!({ "when": "GET /docs/1", "given": { "token": token, "answers": public() }, "then": { "code": code } });
    let good = token("agents", &claims());
    desk.passes(&json!({}), &of(&good, "allowed"));
    desk.passes(&json!({ "claims": claims(), "header": { "typ": "JWT" } }), &of(&good, "allowed"));
    desk.passes(&json!({}), &of(&token("stranger", &claims()), "key_unknown"));
    desk.passes(&json!({}), &of(&token("other", &claims()), "signature_invalid"));
    // One key needs no name, whatever else is made for the run.
    let mut header = house::key("agents").header();
    header.as_object_mut().unwrap().remove("kid");
    let payload: Value = {
        let mut claims = claims();
        (claims["iat"], claims["exp"]) = (json!(1_767_268_700), json!(1_767_269_100));
        claims
    };
    let nameless = house::key("agents").sign_text(&header.to_string(), &payload.to_string()).unwrap();
    desk.passes(&json!({}), &of(&nameless, "allowed"));
    // What is made for the run still is.
    let made = json!({ "when": "GET /docs/1", "given": { "claims": claims(), "answers": public() }, "then": { "code": "allowed" } });
    desk.passes(&json!({}), &made);
    // In the request itself it is a token, too.
    let written = json!({ "when": format!("GET /docs/1\nAuthorization: Bearer {good}"), "given": { "answers": public() },
        "then": { "code": "allowed" } });
    desk.passes(&json!({}), &written);
    let far = token("agents", &json!({ "iss": "https://far.example", "aud": "api", "sub": "a", "client_id": "a" }));
    desk.told(&json!({}), &of(&far, "key_unknown"), 1, "does not hold the keys of `https://far.example`");
    // Without the file the others can be played still.
    fs::remove_file(desk.0.path().join("keys.json")).unwrap();
    desk.passes(&json!({}), &made);
    desk.told(&json!({}), &of(&good, "allowed"), 1, "does not hold the keys of `https://near.example`");
}

#[test]
fn no_algorithm_is_added_for_a_token_as_it_is() {
    let desk = Desk::new();
    desk.put("keys.json", &json!({ "keys": [house::key("agents-ec").jwk()] }).to_string());
    let config = fs::read_to_string(desk.0.path().join("config.yaml")).unwrap();
    desk.put("config.yaml", &config.replace("jwks_file: keys.json", "jwks_file: keys.json, algorithms: [ES384]"));
    let scenario = |given: Value, code: &str| {
        let mut given = given;
        given["answers"] = public();
        json!({ "when": "GET /docs/1", "given": given, "then": { "code": code } })
    };
    desk.passes(&json!({}), &scenario(json!({ "claims": claims() }), "allowed"));
    let own = token("agents-ec", &claims());
    desk.passes(&json!({}), &scenario(json!({ "token": own }), "algorithm_refused"));
}

/// A record's question.
fn question(owner: &str) -> Value {
    let doc = json!({ "type": "Doc", "id": "1" });
    json!({
        "principals": [["agent", { "type": "Agent", "id": "a" }]], "action": { "type": "Action", "id": "read" }, "resource": doc,
        "context": { "token": { "sub": owner } },
        "entities": [{ "uid": doc, "attrs": { "public": true }, "parents": [] }, { "uid": { "type": "Agent", "id": "a" }, "attrs": {}, "parents": [] }],
    })
}

#[test]
fn nothing_stands_beside_a_question_that_is_not_heard() {
    let desk = Desk::new();
    let asked = json!({ "question": question("a") });
    let only = "only `code` and `policies` can be told";
    let scenario = |given: Value, then: Value| json!({ "when": "GET /docs/1", "given": given, "then": then });
    let good = json!({ "code": "allowed", "policies": ["public"] });
    desk.passes(&asked, &scenario(json!({}), good.clone()));
    desk.passes(&json!({ "store": "default" }), &scenario(asked.clone(), good.clone()));
    for (part, value) in [
        ("status", json!(200)),
        ("upstream", json!({ "x": "y" })),
        ("headers", json!({ "x": "y" })),
        ("body", json!({ "x": "y" })),
    ] {
        let mut then = good.clone();
        then[part] = value;
        desk.told(&asked, &scenario(json!({}), then), 64, only);
    }
    for (name, value) in [
        ("now", json!("2026-01-01T12:00:00Z")),
        ("peer", json!("127.0.0.1")),
        ("claims", json!({})),
        ("claims", json!(null)),
        ("header", json!({})),
        ("token", json!("x")),
        ("answers", json!([])),
    ] {
        let beside = format!("`{name}` beside `question`");
        desk.told(&asked, &scenario(json!({ name: value }), good.clone()), 64, &beside);
        desk.told(&json!({ name: value }), &scenario(asked.clone(), good.clone()), 64, &beside);
    }
    let mut nonsense = scenario(json!({}), good.clone());
    nonsense["when"] = json!("total nonsense");
    desk.told(&asked, &nonsense, 64, "`when` is not a method and a path");
    desk.told(&json!({}), &scenario(json!({ "store": "default" }), good.clone()), 64, "`store` is of a `question`");
    desk.told(&json!({}), &scenario(json!({ "header": {} }), good.clone()), 64, "`header` without `claims`");
    let hidden = json!({ "question": question("~AAAAAAAAAAAAAAAAAAAAAA") });
    desk.told(&hidden, &scenario(json!({}), good), 64, "`question` holds pseudonyms");
}

#[test]
fn a_log_with_pseudonyms_makes_no_scenarios() {
    let desk = Desk::new();
    let record = |question: &Value| {
        json!({ "decision_id": "1", "decision": "allow", "code": "allowed", "method": "GET", "path": "/docs/1",
            "policies": ["public"], "question": question })
    };
    let (clear, hidden) = (record(&question("a")), record(&question("~AAAAAAAAAAAAAAAAAAAAAA")));
    let without = json!({ "decision_id": "1", "decision": "deny", "code": "token_missing" });
    desk.put("log", &format!("{hidden}\n{clear}\n{hidden}\n{without}\n"));
    let made = desk.run(&["test", "--record", "log"]);
    let told = cli::text(&made.stderr);
    assert!(made.status.success(), "{told}");
    assert!(told.contains("1 scenarios; 1 records hold no question; 2 records hold pseudonyms"), "{told}");
    desk.put("made.yaml", &cli::text(&made.stdout));
    let tested = desk.run(&["test", "made.yaml"]);
    assert!(tested.status.success(), "{}{}", cli::text(&tested.stdout), cli::text(&tested.stderr));
    desk.put("log", &format!("{hidden}\n"));
    let made = desk.run(&["test", "--record", "log"]);
    assert_eq!(made.status.code(), Some(1));
    assert!(cli::text(&made.stderr).contains("no scenario; 1 records hold pseudonyms"), "{}", cli::text(&made.stderr));
}

#[test]
fn the_upstream_is_told_what_it_gets() {
    let desk = Desk::new();
    let all = json!({ "claims": claims(), "answers": public() });
    let request = "GET /docs/1\nTE: trailers\nConnection: x-mine, close\nX-Mine: 1\nX-Two: a\nX-Two: b\nKeep-Alive: 5\nX-One: é\n\
                   Host: client.example";
    let scenario = |then: Value| json!({ "when": request, "then": then });
    let gets = json!({ "te": null, "connection": null, "x-mine": null, "keep-alive": null, "X-Two": "a, b", "x-one": "é",
        "host": "service.example", "x-portcullis-agent": "near|a", "authorization": null });
    desk.passes(&all, &scenario(json!({ "code": "allowed", "upstream": gets })));
    let first = json!({ "code": "allowed", "upstream": { "x-two": "a" } });
    desk.told(&all, &scenario(first), 1, "the upstream's x-two is \"a, b\", should be \"a\"");
    for part in ["headers", "body"] {
        for named in [json!({ "x": null }), json!({})] {
            let then = json!({ "code": "allowed", part: named });
            desk.told(&all, &scenario(then), 1, "it is allowed");
        }
    }
    for named in [json!({ "x": null }), json!({})] {
        let refused = json!({ "when": "GET /none", "then": { "code": "route_missing", "upstream": named } });
        desk.told(&all, &refused, 1, "nothing is forwarded");
    }
    let unnamed = json!({ "code": "allowed", "upstream": { "x y": null } });
    desk.told(&all, &scenario(unnamed), 64, "`x y` names no header field");
}

#[test]
fn a_policy_that_only_erred_determined_nothing() {
    let desk = Desk::new();
    let all = json!({ "claims": claims(), "answers": public() });
    let errs = json!({ "when": "PUT /docs/1", "then": { "code": "policy_failed", "policies": ["sum"] } });
    let said = desk.told(&all, &errs, 0, "`sum` only ever erred");
    assert!(said.contains("policies 0 of 3"), "{said}");
    let recorded = json!({ "when": "PUT /docs/1", "given": { "question": {
        "principals": [["agent", { "type": "Agent", "id": "a" }]], "action": { "type": "Action", "id": "write" },
        "resource": { "type": "Doc", "id": "1" }, "context": { "token": {} },
        "entities": [{ "uid": { "type": "Doc", "id": "1" }, "attrs": { "size": 1 }, "parents": [] }],
    } }, "then": { "code": "policy_failed" } });
    let said = desk.told(&json!({}), &recorded, 0, "`sum` only ever erred");
    assert!(said.contains("policies 0 of 3"), "{said}");
    let mut none = all;
    none["answers"][0]["rows"] = json!([{ "public": true }]);
    let passed_over = json!({ "when": "PUT /docs/1", "then": { "code": "access_denied" } });
    desk.told(&none, &passed_over, 0, "`sum` determined nothing");
}

#[test]
fn a_claim_that_is_null_is_taken_away_wherever_it_stands() {
    let desk = Desk::new();
    let answers = public();
    let mut without = claims();
    without["exp"] = Value::Null;
    let then = json!({ "code": "token_malformed" });
    let alone = json!({ "when": "GET /docs/1", "given": { "claims": without, "answers": answers }, "then": then });
    let over =
        json!({ "when": "GET /docs/1", "given": { "claims": { "exp": null }, "answers": answers }, "then": then });
    desk.passes(&json!({}), &alone);
    desk.passes(&json!({ "claims": claims() }), &over);
    // For all of a file, it can be given again by one.
    let again = json!({ "when": "GET /docs/1", "given": { "claims": { "exp": 1_767_268_900 }, "answers": answers }, "then": { "code": "allowed" } });
    desk.passes(&json!({ "claims": without }), &again);
    let said = json!({ "claims": claims() });
    let twice = json!({ "when": "GET /docs/1\nAuthorization: Bearer x", "then": then });
    desk.told(&said, &twice, 64, "`when` has a field `Authorization`");
    desk.told(&json!({ "token": "x" }), &twice, 64, "`when` has a field `Authorization`");
    let mut own = twice;
    own["given"] = json!({ "claims": null });
    desk.passes(&said, &own);
}

#[test]
fn rows_say_which_statement_they_answer_where_there_are_several() {
    let desk = Desk::new();
    let all = json!({ "claims": claims() });
    let scenario = |when: &str, answers: Value, code: &str| json!({ "when": when, "given": { "answers": answers }, "then": { "code": code } });
    let both = json!([
        { "statement": STATEMENTS[1], "parameters": ["1"], "rows": [{ "open": true }] },
        { "statement": STATEMENTS[0], "parameters": ["1"], "rows": [{ "public": true }] },
    ]);
    desk.passes(&all, &scenario("GET /docs/1", both.clone(), "allowed"));
    desk.passes(&all, &scenario("GET /shelves/1", both, "allowed"));
    let unnamed = json!([{ "rows": [] }]);
    desk.told(&all, &scenario("GET /docs/1", unnamed, "allowed"), 1, "no `statement`, and there are several");
    let wrong = json!([{ "statement": "SELECT 1", "rows": [] }]);
    desk.told(&all, &scenario("GET /docs/1", wrong, "source_unavailable"), 1, "no database is asked `SELECT 1`");
    let of_http = json!([{ "statement": "SELECT 1", "url": "https://a.example", "status": 404 }]);
    desk.told(&all, &scenario("GET /docs/1", of_http, "allowed"), 64, "`statement` is of a SQL source");
    let config = fs::read_to_string(desk.0.path().join("config.yaml")).unwrap();
    let shelves = config.lines().find(|line| line.contains("type: Shelf")).unwrap();
    desk.put("config.yaml", &config.replace(&format!("{shelves}\n"), ""));
    desk.passes(&all, &scenario("GET /docs/1", json!([{ "rows": [{ "public": true }] }]), "allowed"));
}

#[test]
fn an_answer_that_nobody_asked_for_is_told_where_a_scenario_fails() {
    let desk = Desk::new();
    let own = json!([{ "url": "https://a.example/1", "json": {} }, public()[0]]);
    let scenario = |code: &str| json!({ "when": "GET /docs/1", "given": { "answers": own }, "then": { "code": code } });
    let all = json!({ "claims": claims() });
    let hint = "nobody asked for what `answers` gives: `https://a.example/1`";
    let said = desk.told(&all, &scenario("access_denied"), 1, hint);
    assert!(!said.contains("gives: rows"), "{said}");
    assert!(!desk.play(&all, &scenario("allowed")).1.contains("nobody asked"));
    let shared = json!({ "claims": claims(), "answers": own });
    let (_, said) = desk.play(&shared, &json!({ "when": "GET /docs/1", "then": { "code": "access_denied" } }));
    assert!(!said.contains("nobody asked"), "not every scenario of a file asks for all: {said}");
}

#[test]
fn a_certificate_may_be_given_and_one_that_a_binding_takes_stands_in() {
    let desk = Desk::new();
    let schema =
        SCHEMA.replace("context: { token", "context: { request: { certificate?: { uris?: Set<String> } }, token");
    desk.put("policies/schema.cedarschema", &schema);
    let policy = "@id(\"workload\") permit (principal, action, resource) when { context.request has certificate && \
        context.request.certificate has uris && context.request.certificate.uris.contains(\"spiffe://example/agent\") };";
    desk.put("policies/docs.cedar", policy);
    let config = fs::read_to_string(desk.0.path().join("config.yaml")).unwrap();
    let bound = config.replacen("agent_id_prefix: near", "certificate_binding: required, agent_id_prefix: near", 1);
    let tls = "tls: { certificate: nowhere.pem, private_key: { file: nowhere.key }, client_certificate: accepted }\n";
    desk.put("config.yaml", &format!("{tls}{bound}"));
    let claims = json!({ "iss": "https://near.example", "aud": "api", "sub": "a", "client_id": "a",
        "onBehalfOf": { "sub": "u" } });
    let all = json!({ "claims": claims, "answers": [{ "statement": STATEMENTS[0], "rows": [] }] });
    let when = |given: Value, code: &str| json!({ "given": given, "when": "GET /docs/1", "then": { "code": code } });
    desk.passes(&all, &when(json!({ "certificate": { "uris": ["spiffe://example/agent"] } }), "allowed"));
    desk.passes(&all, &when(json!({ "certificate": { "uris": ["spiffe://example/other"] } }), "access_denied"));
    desk.passes(&all, &when(json!({}), "access_denied"));
}
