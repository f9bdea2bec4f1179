//! Configurations that must not be accepted, and what an operator is told of them.

use portcullis::{base::files::Files, config};

use crate::house;

/// The README's minimal configuration.
pub(crate) const MINIMAL: &str = "\
listen: 127.0.0.1:8080
upstream: { url: http://127.0.0.1:9000 }
issuers:
  - cognito_access:
      issuer: https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents
      client_ids: [1example23456789]
      scope_prefix: crossDomainService/
routes:
  - methods: [GET]
    path: /users/{userId}/data
    action: readOnly
    resource: UserData::\"{path.userId}\"
    attributes:
      owner: User::\"{path.userId}\"
";

fn problems_of(text: &str) -> String {
    let policies = ["policies/schema.cedarschema", "policies/users.cedar"].map(|name| (name, house::repository(name)));
    let files = Files::memory(policies.iter().map(|(name, text)| (*name, text.as_str())));
    let compiled = config::parse("config.yaml".into(), text.into(), files).and_then(|loaded| loaded.compile());
    compiled.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
}

/// The minimal configuration with `from` made `to`: what is shown must hold each of `shown`.
fn with(from: &str, to: &str, shown: &[&str]) {
    assert!(MINIMAL.contains(from), "{from}");
    let problems = problems_of(&MINIMAL.replace(from, to));
    for part in shown {
        assert!(problems.contains(part), "{from} -> {to}: `{part}` is not in\n{problems}");
    }
}

#[test]
fn the_minimal_configuration_is_enough() {
    assert_eq!(problems_of(MINIMAL), "");
}

#[test]
fn unknown_keys_and_wrong_types_are_shown_where_they_stand() {
    with("routes:", "rotues:", &["unknown field `rotues`", "config.yaml:8:1", "rotues:"]);
    with("client_ids:", "clients:", &["unknown field `clients`", "config.yaml:6:7"]);
    with(
        "cognito_access:",
        "cognito:",
        &["unknown variant `cognito`", "cognito_access, rfc9068, oidc_generic", "config.yaml:4:"],
    );
    with("[1example23456789]", "{}", &["config.yaml:6:"]);
    with("[GET]", "GET", &["a list is expected here", "config.yaml:9:14", "as in `[GET]`"]);
    with(
        "scope_prefix: crossDomainService/",
        "scope_prefix: crossDomainService/\n      leeway_s: 5s",
        &["not a whole number", "config.yaml:8:17"],
    );
    with("127.0.0.1:8080", "localhost", &["config.yaml:1:9"]);
    with("listen: 127.0.0.1:8080\n", "", &["missing field `listen`"]);
    with("upstream: { url: http://127.0.0.1:9000 }\n", "upstream: {}\n", &["missing field `url`", "config.yaml:2:"]);
    with(
        "listen: 127.0.0.1:8080\n",
        "listen: 127.0.0.1:8080\nlisten: 127.0.0.1:8081\n",
        &["the key `listen` stands twice", "config.yaml:2:", "help: keep one of them"],
    );
    with(
        "action: readOnly",
        "action: readOnly\n    delegation: sometimes",
        &["unknown variant `sometimes`", "config.yaml:12:"],
    );
}

#[test]
fn a_key_at_which_nothing_stands_is_not_one_that_is_left_out() {
    let nothing = "nothing stands here";
    with(
        "    action:",
        "    scope: # {{ .Values.scope }}\n    action:",
        &[nothing, "config.yaml:11:5", "remove `scope`"],
    );
    with("routes:", "tls:\n  # certificate: a\nroutes:", &[nothing, "config.yaml:8:1", "remove `tls`"]);
    with("routes:", "clients: [{ client_id: x, caller_apps: }]\nroutes:", &[nothing, "config.yaml:8:27"]);
    with("routes:", "records: { pseudonyms: ~ }\nroutes:", &[nothing, "config.yaml:8:12"]);
    with("crossDomainService/", "crossDomainService/\n      dpop: null", &[nothing, "config.yaml:8:7"]);
    with("[1example23456789]", "\n        - 1example23456789\n        -", &[nothing, "remove the item"]);
    // All of them at once.
    with(
        "routes:",
        "deny_list:\nadmin_token:\ndrain:\nroutes:",
        &["config.yaml:8:1", "config.yaml:9:1", "config.yaml:10:1"],
    );
    // A key set is others' JSON.
    let issuer = "issuer: https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents";
    with(issuer, &format!("{issuer}\n      jwks: {{ keys: [], x: null }}"), &["no usable key"]);
    with(issuer, &format!("{issuer}\n      jwks:"), &[nothing, "remove `jwks`"]);
}

#[test]
fn what_stands_in_the_place_of_a_secret_is_not_shown() {
    let shared = "rates: [{ name: a, by: [peer], requests: 1, shared: refuse }]";
    let counters = format!("{shared}\ncounters: {{ redis: 'redis://:hunter2@127.0.0.1', timeout_ms: 0 }}");
    for (to, said) in [
        ("admin_token: hunter2", "config.yaml:8:14: a secret is `{ env: … }` or `{ file: … }`"),
        ("admin_token: [hunter2]", "a secret is `{ env: … }` or `{ file: … }`"),
        ("admin_token: { value: hunter2 }", "a secret is `{ env: … }` or `{ file: … }`"),
        ("admin_token: { env: A, file: hunter2 }", "a secret is `{ env: … }` or `{ file: … }`"),
        ("admin_token: |\n  hunter2\n  hunter2", "a secret is `{ env: … }` or `{ file: … }`"),
        (
            "entities: { sources: [{ type: UserData, lookup: { sql: { statement: a, postgres: 'postgres://gate:hunter2@db/x' } } }] }",
            "a secret is `{ env: … }` or `{ file: … }`",
        ),
        // Nor in what is said of the lines around it.
        (counters.as_str(), "this is not the address of a Redis server"),
        ("counters: { redis: 'redis://:hunter2@127.0.0.1' }", "no limit is shared"),
        ("traces: { otlp: { endpoint: 'http://gate:hunter2@a:4317' } }", "this is not the address of a receiver"),
    ] {
        let problems = problems_of(&MINIMAL.replace("routes:", &format!("{to}\nroutes:")));
        assert!(problems.contains(said), "{to}: {problems}");
        assert!(!problems.contains("hunter2"), "{to}: {problems}");
    }
}

#[test]
fn an_issuer_without_audience_check_is_refused() {
    let nothing = "nothing says which tokens of this issuer are meant for this service";
    with("      client_ids: [1example23456789]\n", "", &[nothing, "config.yaml:5:15", "give both `client_ids`"]);
    with("      scope_prefix: crossDomainService/\n", "", &[nothing, "config.yaml:5:15"]);
    with("[1example23456789]", "[]", &[nothing]);
    with("crossDomainService/", "\"\"", &[nothing]);
    with("cognito_access", "oidc_generic", &[nothing, "give `audiences`"]);
    with(
        "scope_prefix: crossDomainService/",
        "audiences: [api]",
        &["Cognito access tokens carry no `aud`", "config.yaml:7:"],
    );
    with("cognito_access:", "oidc_generic:\n      audiences: []", &[nothing]);
}

#[test]
fn keys_come_from_one_trustworthy_place() {
    let issuer = "issuer: https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents";
    let and = |line: &str| format!("{issuer}\n      {line}");
    with(
        issuer,
        &and("jwks_uri: http://issuer.example/keys"),
        &["is no place to fetch keys from", "http is for loopback"],
    );
    with(issuer, &and("jwks_uri: nowhere"), &["`nowhere` is no place to fetch keys from", "config.yaml:6:17"]);
    with(issuer, &and("jwks_file: nowhere.json"), &["cannot read `nowhere.json`", "config.yaml:6:18"]);
    with(issuer, &and("jwks_file: policies/users.cedar"), &["no key set"]);
    with(issuer, &and("jwks_uri: https://a.example\n      jwks_file: b"), &["keys from more than one place", "6:17"]);
    with(issuer, &and("jwks_file: a\n      jwks: {keys: []}"), &["keys from more than one place"]);
    with(issuer, &and("jwks: {keys: []}"), &["no usable key", "config.yaml:6:13"]);
    with(issuer, &and("jwks: [5]"), &["no key set"]);
    with(issuer, &and("transport: plain"), &["unknown variant `plain`"]);
    with(issuer, &and("jwks_file: policies/users.cedar\n      jwks_copy: copy"), &["no key set"]);
    let spelled_out =
        and("jwks_uri: http://issuer.example/keys\n      transport: accept_plain_http\n      jwks_copy: copy.json");
    assert_eq!(problems_of(&MINIMAL.replace(issuer, &spelled_out)), "");
    for odd in ["http://issuer.example", "https://issuer.example/?a=b", "accounts.example"] {
        with(issuer, &format!("issuer: {odd}"), &["nothing can be discovered", "config.yaml:5:15"]);
        let named = format!("issuer: {odd}\n      jwks_uri: https://issuer.example/keys");
        assert_eq!(problems_of(&MINIMAL.replace(issuer, &named)), "");
    }
    with(issuer, "issuer: \"\"", &["not an issuer"]);
    with(issuer, &and("algorithms: []"), &["no algorithm is allowed"]);
    with(issuer, &and("algorithms: [HS256]"), &["unknown variant `HS256`"]);
    with(issuer, &and("algorithms: [none]"), &["unknown variant `none`"]);
    with(issuer, &and("leeway_s: 3600"), &["`leeway_s` is out of range", "choose from 0 to 300"]);
    with(issuer, &and("cooldown_s: 0"), &["`cooldown_s` is out of range"]);
    with(issuer, &and("agent_id_prefix: a|b"), &["not a prefix"]);
}

#[test]
fn keys_may_stand_in_the_configuration_itself() {
    let issuer = "issuer: https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents";
    let keys = serde_json::json!({ "keys": [house::key("agents").jwk()] });
    let inline = format!("{issuer}\n      jwks: {keys}");
    assert_eq!(problems_of(&MINIMAL.replace(issuer, &inline)), "");
    let kept = format!("{inline}\n      jwks_copy: copy.json");
    assert!(problems_of(&MINIMAL.replace(issuer, &kept)).contains("a copy of keys that are at hand"));
}

#[test]
fn entities_that_are_written_down_must_fit_the_schema() {
    let entities = |text: &str| {
        let names = ["policies/schema.cedarschema", "policies/users.cedar"];
        let policies = names.map(|name| (name, house::repository(name)));
        let text = [("e.json", text.to_owned())];
        let files = Files::memory(policies.iter().chain(&text).map(|(name, text)| (*name, text.as_str())));
        let config = MINIMAL.replace("routes:", "entities: { files: [e.json] }\nroutes:");
        let compiled = config::parse("config.yaml".into(), config, files).and_then(|loaded| loaded.compile());
        compiled.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    };
    let one = |kind: &str, attrs: &str, parents: &str| {
        entities(&format!(
            r#"[{{ "uid": {{ "type": "{kind}", "id": "a" }}, "attrs": {attrs}, "parents": {parents} }}]"#
        ))
    };
    assert_eq!(one("UserData", r#"{ "owner": { "__entity": { "type": "User", "id": "u" } } }"#, "[]"), "");
    for (shown, problem) in [
        (one("Unknown", "{}", "[]"), "the schema has no entity type `Unknown`"),
        (one("UserData", r#"{ "size": 1 }"#, "[]"), "no attribute `size`"),
        (one("UserData", r#"{ "owner": "u" }"#, "[]"), "`owner` of `UserData::\"a\"` is of another type"),
        (one("UserData", r#"{ "owner": { "__entity": { "type": "Agent", "id": "u" } } }"#, "[]"), "is of another type"),
        (one("UserData", "{}", r#"[{ "type": "User", "id": "u" }]"#), "lets no `UserData` be in a `User`"),
        (one("User", "{ \"a\": 1, \"a\": 1 }", "[]"), "is not a JSON array of entities"),
        (entities("{}"), "is not a JSON array of entities"),
        (
            entities(
                r#"[{ "uid": { "type": "User", "id": "a" }, "attrs": {}, "parents": [] },
            { "uid": { "type": "User", "id": "a" }, "attrs": {}, "parents": [] }]"#,
            ),
            "stands twice",
        ),
    ] {
        assert!(shown.contains(problem), "{problem} is not in {shown}");
    }
}

#[test]
fn tags_that_are_written_down_must_fit_the_schema() {
    let entity = |kind: &str, tags: &str| {
        let schema = house::repository("policies/schema.cedarschema");
        let schema = schema.replace("entity Agent;", "entity Agent tags String;\nentity Team tags String;");
        let text = format!(
            r#"[{{ "uid": {{ "type": "{kind}", "id": "a" }}, "attrs": {{}}, "parents": [], "tags": {tags} }}]"#
        );
        let policies = house::repository("policies/users.cedar");
        let files = [
            ("policies/schema.cedarschema", schema.as_str()),
            ("policies/users.cedar", policies.as_str()),
            ("e.json", text.as_str()),
        ];
        let entities = "entities: { profile: agentcore, agent: Agent, user: User, files: [e.json] }";
        let config = MINIMAL.replace("routes:", &format!("{entities}\nroutes:"));
        let loaded = config::parse("config.yaml".into(), config, Files::memory(files));
        let compiled = loaded.and_then(|loaded| loaded.compile());
        compiled.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    };
    assert_eq!(entity("Team", r#"{ "level": "3" }"#), "");
    assert_eq!(entity("Agent", "{}"), "");
    for (kind, tags, problem) in [
        ("Team", r#"{ "level": 3 }"#, "tag `level` of `Team::\"a\"` is of another type"),
        ("User", r#"{ "level": "3" }"#, "the schema gives `User` no tags"),
        ("Agent", r#"{ "suspended": "true" }"#, "tags of a `Agent` are its token's claims"),
    ] {
        let shown = entity(kind, tags);
        assert!(shown.contains(problem), "{problem} is not in {shown}");
    }
}

#[test]
fn what_the_context_names_may_have_no_source() {
    let problems = |from: &str, to: &str, route: &str| {
        let schema = house::repository("policies/schema.cedarschema");
        assert!(schema.contains(from), "{from}");
        let policies = house::repository("policies/users.cedar");
        let schema = schema.replace(from, to);
        let files = [("policies/schema.cedarschema", schema.as_str()), ("policies/users.cedar", policies.as_str())];
        let sources =
            "entities: { sources: [{ type: UserData, lookup: { http: { url: 'https://a.example/{id}' } } }] }";
        let config = format!("{}{route}", MINIMAL.replace("routes:", &format!("{sources}\nroutes:")));
        let loaded = config::parse("config.yaml".into(), config, Files::memory(files));
        let compiled = loaded.and_then(|loaded| loaded.compile());
        compiled.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    };
    let input = "    input: { about: 'UserData::\"{path.userId}\"' }\n";
    let (claim, claims) = ("  callerApp: String,\n};", "  callerApp: String,\n  about?: Set<UserData>,\n};");
    let (token, with_input) = ("    token: Token,\n", "    token: Token,\n    input?: { about: UserData },\n");
    assert_eq!(problems(claim, claim, ""), "");
    assert_eq!(problems(token, with_input, ""), "");
    for (shown, problem) in [
        (problems(claim, claims, ""), "`context.token.about` names entities that have a source"),
        (problems(token, with_input, input), "`context.input.about` names entities that have a source"),
    ] {
        assert!(shown.contains(problem), "{problem} is not in {shown}");
    }
}

#[test]
fn what_is_said_of_clients_must_fit_issuers_and_schema() {
    let clients = |entry: &str| problems_of(&MINIMAL.replace("routes:", &format!("clients: [{entry}]\nroutes:")));
    assert_eq!(clients("{ client_id: a, caller_apps: [b], scopes: [c/d] }"), "");
    for (entry, problem) in [
        ("{ client_id: a }, { client_id: a }", "client `a` stands twice"),
        ("{ client_id: '' }", "a client id that no token can carry"),
        ("{ client_id: a, issuer: 'https://b.example' }", "`https://b.example` is none of the issuers"),
        ("{ client_id: a, caller_apps: [''] }", "an app that no token can name"),
        ("{ client_id: a, scopes: ['b c'] }", "not scopes"),
        ("{ client_id: a, attributes: { team: b } }", "the schema gives `Agent` no attribute `team`"),
        ("{ client_id: a, apps: [b] }", "unknown field `apps`"),
    ] {
        assert!(clients(entry).contains(problem), "{entry}: {}", clients(entry));
    }
}

#[test]
fn an_issuer_that_is_asked_needs_an_address_and_credentials() {
    let entry = |settings: &str| {
        let list =
            format!("issuers: [introspection: {{ issuer: 'https://a.example', audiences: [api]{settings} }}]\nroutes:");
        let (start, rest) = MINIMAL.split_once("issuers:").unwrap();
        problems_of(&format!("{start}{list}{}", rest.split_once("routes:").unwrap().1))
    };
    let at = ", introspection_uri: 'https://a.example/ask'";
    let who = ", client_id: gate";
    for (settings, problem) in [
        (String::new(), "nothing says where this issuer is asked"),
        (at.to_owned(), "nothing says who the gate is"),
        (format!("{at}{who}"), "the gate must show who it is in one way"),
        (format!("{at}{who}, client_secret: {{ file: nowhere }}"), "cannot read `nowhere`"),
        (format!("{at}{who}, client_secret: s3cret"), "a secret is `{ env: … }` or `{ file: … }`"),
        (format!("{at}{who}, private_key: {{ file: policies/users.cedar }}"), "none that can sign"),
        (format!(", introspection_uri: 'http://a.example/ask'{who}"), "`http://a.example/ask` cannot be asked"),
        (format!("{at}{who}, token_prefix: ''"), "no token begins with this"),
        (format!("{at}{who}, jwks_uri: 'https://a.example/keys'"), "`jwks_uri`: an issuer that is asked"),
        (format!("{at}{who}, algorithms: [RS256]"), "`algorithms`: an issuer that is asked"),
        (format!("{at}{who}, cache_max_s: 0"), "`cache_max_s` is out of range"),
    ] {
        assert!(entry(&settings).contains(problem), "{settings}: {}", entry(&settings));
    }
    assert_eq!(entry(&format!("{at}{who}, client_secret: {{ file: policies/users.cedar }}")), "");
    let issuer = "issuer: https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents";
    with(
        issuer,
        &format!("{issuer}\n      token_prefix: opq_"),
        &["`token_prefix`: an issuer that signs its tokens is not asked"],
    );
}

#[test]
fn dpop_needs_an_origin() {
    let issuer = "issuer: https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents";
    let bound = format!("{issuer}\n      dpop: accepted");
    with(issuer, &bound, &["nothing says for which address a DPoP proof must be made", "config.yaml:6:13"]);
    let with_origins =
        |origins: &str| MINIMAL.replace(issuer, &bound).replace("routes:", &format!("origins: {origins}\nroutes:"));
    assert_eq!(problems_of(&with_origins("['https://api.example', 'http://127.0.0.1:8080/']")), "");
    for odd in [
        "api.example",
        "https://api.example/path",
        "ftp://api.example",
        "https://a@api.example",
        "https://api.example/?a",
    ] {
        assert!(problems_of(&with_origins(&format!("['{odd}']"))).contains("is not an origin"), "{odd}");
    }
    with(issuer, &format!("{bound}\n      dpop_proof_age_max_s: 0"), &["`dpop_proof_age_max_s` is out of range"]);
    for idle in ["dpop_proof_age_max_s: 5", "dpop_nonce: required"] {
        with(issuer, &format!("{issuer}\n      {idle}"), &["without `dpop`"]);
    }
    with(issuer, &format!("{issuer}\n      certificate_binding: accepted"), &["no client shows a certificate"]);
    with("routes:", "dpop_nonce_secret: { env: PORTCULLIS_NO_SUCH_VARIABLE }\nroutes:", &["has no variable"]);
    with("routes:", "admin_token: { file: nowhere }\nroutes:", &["cannot read `nowhere`"]);
    with("routes:", "admin_token: secret\nroutes:", &["config.yaml:8:14: a secret is"]);
}

#[test]
fn several_issuers_need_names_that_cannot_be_mixed_up() {
    let second = "  - oidc_generic: { issuer: 'https://b.example', audiences: [api], agent_id_prefix: b, user_id_prefix: people, user_issuer: 'https://people.example' }\n";
    let two = |prefix: &str| format!("{prefix}{second}routes:");
    with("routes:", &two(""), &["one id could name two people", "config.yaml:5:15"]);
    with(
        "routes:",
        &two("      agent_id_prefix: b\n      user_id_prefix: people\n"),
        &["one id could name two people", "two issuers' users share a `user_id_prefix`"],
    );
    let good = MINIMAL.replace(
        "routes:",
        &two("      agent_id_prefix: a\n      user_id_prefix: people\n      user_issuer: https://people.example\n"),
    );
    assert_eq!(problems_of(&good), "");
    with(
        "routes:",
        &format!(
            "{}routes:",
            second.replace("https://b.example", "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents")
        ),
        &["stands twice"],
    );
    let copies = |first: &str, second: &str| {
        let good = good.replace("audiences: [api]", &format!("audiences: [api], jwks_copy: {second}"));
        problems_of(&good.replace("client_ids: [1", &format!("jwks_copy: {first}\n      client_ids: [1")))
    };
    assert_eq!(copies("a.json", "b.json"), "");
    let shared = copies("a.json", "a.json");
    assert!(shared.contains("kept in one file") && shared.contains("give each a `jwks_copy` of its own"), "{shared}");
    let none = MINIMAL.split("issuers:").next().unwrap().to_owned() + "issuers: []\nroutes: []\n";
    let shown = problems_of(&none);
    assert!(shown.contains("no issuer") && shown.contains("no route"), "{shown}");
}

#[test]
fn routes_fit_the_schema() {
    with("/users/{userId}/data", "users/{userId}", &["not a path that a request can have", "config.yaml:10:11"]);
    with("/users/{userId}/data", "/users/{*rest}", &["neither literal nor one parameter", "has no parameter `userId`"]);
    with("UserData::\"{path.userId}\"", "UserData", &["not of the form `Type::\"id\"`", "config.yaml:12:15"]);
    with(
        "UserData::\"{path.userId}\"",
        "Userdata::\"{path.userId}\"",
        &["does not apply `readOnly` to resources of type `Userdata`"],
    );
    with("    attributes:\n      owner: User::\"{path.userId}\"\n", "", &["requires attribute `owner`"]);
    with("owner: User", "ownr: User", &["no attribute `ownr`", "requires attribute `owner`"]);
    with("owner: User::\"{path.userId}\"", "owner: Agent::\"{path.userId}\"", &["`owner`: it is of type `User`"]);
    with("owner: User::\"{path.userId}\"", "owner: \"{path.userId}\"", &["not of the form"]);
    for hole in ["header.x-user", "query.user", "host", "peer", "method"] {
        let owner = format!("owner: User::\"{{{hole}}}\"");
        with("owner: User::\"{path.userId}\"", &owner, &["cannot say: whoever asks fills it in"]);
    }
    for header in
        ["x-portcullis-user", "x_portcullis_user", "x-forwarded-for", "dpop", "te", "upgrade", "baggage", "expect"]
    {
        let resource = format!("UserData::\"{{header.{header}}}\"");
        with("UserData::\"{path.userId}\"", &resource, &["is not forwarded"]);
    }
    with("methods: [GET]", "methods: []", &["a route without methods"]);
    with("methods: [GET]", "methods: [GET, GET]", &["stands twice"]);
    let twin = "  - { methods: [POST, GET], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"x\"', attributes: { owner: 'User::\"x\"' } }\n";
    let shown = problems_of(&format!("{MINIMAL}{twin}"));
    assert!(shown.contains("already matches these paths"), "{shown}");
    with("routes:", "entities: { agent: Robot }\nroutes:", &["no entity type `Robot`", "config.yaml:8:20"]);
}

#[test]
fn upstreams_that_nobody_has_or_nobody_chooses_are_errors() {
    let named = |text: &str, route: &str, shown: &[&str]| {
        let text = format!("listen: 127.0.0.1:8080\nupstreams: {text}\n");
        let problems = problems_of(
            &MINIMAL.replace("listen: 127.0.0.1:8080\n", &text).replace("    action:", &format!("{route}    action:")),
        );
        shown.iter().for_each(|part| assert!(problems.contains(part), "{text}: `{part}` is not in\n{problems}"));
    };
    named("{}", "    upstream: orders\n", &["there is no upstream `orders`", "config.yaml:12:15"]);
    named(
        "{ orders: { url: 'http://127.0.0.1:1' } }",
        "",
        &["no route goes to the upstream `orders`", "config.yaml:2:29"],
    );
    for url in ["unix:orders.sock", "unix:", "/run/orders.sock"] {
        let text = format!("{{ orders: {{ url: '{url}' }} }}");
        named(&text, "    upstream: orders\n", &["is not the address of an upstream"]);
    }
    for own in ["http://127.0.0.1:8080", "http://localhost:8080", "http://0.0.0.0:8080", "http://127.0.0.1:9901"] {
        with("http://127.0.0.1:9000", own, &["this is the gate itself", "config.yaml:2:18"]);
    }
    let listed = "http://service, addresses: [{ address: 'service:8080' }, { address: '127.0.0.1:8080' }]";
    with("http://127.0.0.1:9000", listed, &["this is the gate itself", "config.yaml:2:8"]);
    named(
        "{ orders: { url: 'http://[::ffff:127.0.0.1]:8080' } }",
        "    upstream: orders\n",
        &["this is the gate itself"],
    );
    let every = MINIMAL.replace("127.0.0.1:8080", "0.0.0.0:8080");
    assert_eq!(problems_of(&every.replace("127.0.0.1:9000", "10.0.0.1:8080")), "");
    assert!(problems_of(&every.replace("127.0.0.1:9000", "127.0.0.1:8080")).contains("this is the gate itself"));
    let socket =
        MINIMAL.replace("127.0.0.1:8080", "unix:/run/a.sock").replace("http://127.0.0.1:9000", "unix:/run/a.sock");
    assert!(problems_of(&socket).contains("this is the gate itself"));
    // The host decides, so the upstream that this route has must see it.
    let route = "    upstream: orders\n";
    let host = |forward: &str| {
        let text =
            format!("listen: 127.0.0.1:8080\nupstreams: {{ orders: {{ url: 'http://127.0.0.1:1'{forward} }} }}\n");
        problems_of(
            &MINIMAL
                .replace("listen: 127.0.0.1:8080\n", &text)
                .replace("    action:", &format!("{route}    action:"))
                .replace("UserData::\"{path.userId}\"", "UserData::\"{host}\""),
        )
    };
    assert!(host("").contains("the upstream does not see it"));
    assert!(!host(", forward_host: true").contains("the upstream does not see it"));
}

#[test]
fn proxies_that_would_be_everybody_are_errors() {
    let with_proxies = |addresses: &str| {
        let text = format!("listen: 127.0.0.1:8080\ntrusted_proxies: {{ addresses: {addresses} }}\n");
        problems_of(&MINIMAL.replace("listen: 127.0.0.1:8080\n", &text))
    };
    assert_eq!(with_proxies("[10.0.0.0/8, '2001:db8::/32', 192.0.2.1, '::1']"), "");
    for (addresses, said) in [
        ("[0.0.0.0/0]", "everybody would be believed"),
        ("['::/0']", "everybody would be believed"),
        ("[10.0.0.0/33]", "is not an address or a network"),
        ("[proxy.example]", "is not an address or a network"),
        ("[]", "no address of a proxy"),
    ] {
        assert!(with_proxies(addresses).contains(said), "{addresses}");
    }
}

#[test]
fn hosts_of_routes_are_hosts_and_the_upstream_sees_them() {
    let with_hosts = |hosts: &str, upstream: &str| {
        let text = MINIMAL.replace("  - methods:", &format!("  - hosts: {hosts}\n    methods:"));
        problems_of(&text.replace("9000 }", &format!("9000{upstream} }}")))
    };
    assert_eq!(with_hosts("[api.example, '[::1]']", ", forward_host: true"), "");
    assert!(with_hosts("[api.example]", "").contains("the upstream does not see it"));
    for hosts in ["[API.example]", "[api.example.]", "['api.example:80']", "['']", "[a, a]", "['*']"] {
        assert!(with_hosts(hosts, ", forward_host: true").contains("not a host"), "{hosts}");
    }
}

#[test]
fn stores_are_told_apart_and_hosts_are_seen_by_the_upstream() {
    let named = |stores: &str, shown: &str| with("routes:", &format!("stores:\n{stores}\nroutes:"), &[shown]);
    named("- { name: a }", "a store without policies");
    named("- { name: default, folder: policies }", "`default` is the store that `policies` names");
    named("- { name: a, folder: b }\n- { name: a, folder: c }", "two stores have one name");
    named("- { name: a, folder: policies/a }", "a folder inside that of another store");
    named("- { name: a, folder: ./policies }", "a folder inside that of another store");
    named("- { name: a, folder: b/c }\n- { name: d, folder: b }", "a folder inside that of another store");
    named("- { name: a, folder: nowhere }", "folder `nowhere` holds no `.cedar` file");
    named("- { name: a, folder: a, level_max: 0 }", "`level_max` is out of range");
    for host in ["A.example", "a.example:80/", "a.example:80", "a.example.", "'::1'", "u@a.example", "'a b'", "''"] {
        named(&format!("- {{ name: default, hosts: [{host}] }}"), "not a host");
    }
    named(
        "- { name: a, folder: policies, hosts: [a.example] }\n- { name: default, hosts: [a.example] }",
        "this host stands twice",
    );
    named("- { name: default, hosts: [a.example] }", "the upstream does not see it");
    with("    action: readOnly", "    action: readOnly\n    store: other", &["there is no store `other`"]);
    with("UserData::\"{path.userId}\"", "UserData::\"{host}\"", &["the upstream does not see it"]);
    let input = |member: &str| {
        let schema = "entity User, Agent, Doc; action read appliesTo { principal: [Agent], resource: [Doc], context: { input: { a?: String } } };";
        let files = Files::memory([("policies/schema.cedarschema", schema), ("policies/p.cedar", "")]);
        let text = format!(
            "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
             - oidc_generic: {{ issuer: 'https://a.example', audiences: [api] }}\nroutes:\n\
             - {{ methods: [GET], path: /, action: read, resource: 'Doc::\"x\"', input: {{ {member} }} }}\n"
        );
        let loaded = config::parse("config.yaml".into(), text, files).unwrap();
        loaded.compile().map_or_else(|problems| problems.to_string(), |_| String::new())
    };
    assert_eq!(input("a: '{query.a}'"), "");
    assert!(input("a: '{host}'").contains("the upstream does not see it"));
    assert!(input("a: '{header.x-forwarded-for}'").contains("is not forwarded"));
    assert!(
        input("b: x").contains("the schema does not know it")
            && input("b: x").contains("a member `a`, which the route")
    );
    assert!(input("").contains("gives no `input`"), "{}", input(""));
    assert_eq!(problems_of(&MINIMAL.replace("routes:", "stores: [{ name: default, hosts: ['*'] }]\nroutes:")), "");
}

#[test]
fn policies_are_told_of_certificates_that_clients_may_show() {
    let text = |tls: &str| {
        format!(
            "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\n{tls}issuers:\n\
             - oidc_generic: {{ issuer: 'https://a.example', audiences: [api] }}\nroutes:\n\
             - {{ methods: [GET], path: /, action: read, resource: 'Doc::\"x\"' }}\n"
        )
    };
    let loaded = |schema: &str, tls: &str| {
        let entities =
            "entity User, Agent, Doc; action read, write appliesTo { principal: [Agent], resource: [Doc], context:";
        let schema = format!("{entities} {schema} }};");
        let files = Files::memory([
            ("policies/schema.cedarschema", schema.as_str()),
            ("policies/p.cedar", ""),
            ("gate.pem", "a certificate"),
            ("gate.key", "a key"),
        ]);
        config::parse("config.yaml".into(), text(tls), files).unwrap()
    };
    let said = |schema: &str, tls: &str| {
        loaded(schema, tls).compile().map_or_else(|problems| problems.to_string(), |_| String::new())
    };
    let tls = |more: &str| format!("tls: {{ certificate: gate.pem, private_key: {{ file: gate.key }}{more} }}\n");
    let listener =
        format!("listeners: [{{ listen: 'unix:/a', {} }}]\n", tls(", client_certificate: required").trim_end());
    for certificate in [
        "{ request: { certificate: { thumbprint: String } } }",
        "{ request: { certificate?: { uris?: Set<String> } } }",
    ] {
        for none in [String::new(), tls(""), tls(", client_certificate: off")] {
            let problems = said(certificate, &none);
            assert!(
                problems.contains("no client shows a certificate") && problems.contains("config.yaml:"),
                "{problems}"
            );
        }
        for some in [tls(", client_certificate: accepted"), listener.clone()] {
            assert_eq!(said(certificate, &some), "");
        }
        // Where nothing listens, scenarios say what certificates do.
        assert!(loaded(certificate, "").unserved().compile().is_ok());
    }
    assert_eq!(said("{ request: { method: String } }", ""), "");
}

#[test]
fn a_store_that_nobody_chooses_is_an_error() {
    let text = |stores: &str, store: &str| {
        let seen = MINIMAL.replace("127.0.0.1:9000", "127.0.0.1:9000, forward_host: true");
        let chosen = seen.replace("    action: readOnly", &format!("    action: readOnly{store}"));
        chosen.replace("routes:", &format!("stores: [{stores}]\nroutes:"))
    };
    let said = |stores: &str, store: &str| {
        let [schema, users] = ["policies/schema.cedarschema", "policies/users.cedar"].map(house::repository);
        let forbid = "@id(\"none\") forbid (principal, action, resource);";
        let files = Files::memory([
            ("policies/schema.cedarschema", schema.as_str()),
            ("policies/users.cedar", users.as_str()),
            ("a/p.cedar", forbid),
        ]);
        let compiled = config::parse("config.yaml".into(), text(stores, store), files).and_then(|it| it.compile());
        compiled.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    };
    let (nowhere, to_a) = ("", "\n    store: a");
    for (stores, store, unasked) in [
        ("{ name: a, folder: a }", nowhere, "a"),
        ("{ name: a, folder: a, hosts: [a.example] }", nowhere, "default"),
        ("{ name: a, folder: a, hosts: ['*'] }", nowhere, "default"),
        ("{ name: a, folder: a }", to_a, "default"),
    ] {
        let problems = said(stores, store);
        let told = format!("no route and no host chooses the store `{unasked}`");
        assert!(problems.contains(&told), "{stores}{store}: {problems}");
    }
    for stores in ["{ name: a, folder: a, hosts: [a.example] }, { name: default, hosts: ['*'] }", "{ name: default }"] {
        assert_eq!(said(stores, nowhere), "", "{stores}");
    }
}

#[test]
fn how_far_policies_look_can_be_bounded() {
    let schema = "entity User, Agent; entity Team = { open: Bool }; entity Doc = { owner: User, team?: Team };
        action read appliesTo { principal: [Agent], resource: [Doc], context: {} };";
    let policy = "@id(\"a\") permit (principal, action, resource)
        when { resource has team && resource.team.open };";
    let text = |level: &str| {
        format!(
            "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1' }}\nstores: [{{ name: default{level} }}]\nissuers:\n\
             - oidc_generic: {{ issuer: 'https://a.example', audiences: [api] }}\nroutes:\n\
             - {{ methods: [GET], path: '/{{id}}', action: read, resource: 'Doc::\"{{path.id}}\"', attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n"
        )
    };
    let files = Files::memory([("policies/schema.cedarschema", schema), ("policies/p.cedar", policy)]);
    let problems = |level: &str| {
        let loaded = config::parse("config.yaml".into(), text(level), files.clone()).unwrap();
        loaded.compile().map_or_else(|problems| problems.to_string(), |_| String::new())
    };
    assert_eq!(problems(""), "");
    assert_eq!(problems(", level_max: 2"), "");
    assert!(problems(", level_max: 1").contains("level"), "{}", problems(", level_max: 1"));
}

#[test]
fn a_foreign_profile_needs_what_its_policies_take_for_granted() {
    let profile =
        |entities: &str, shown: &[&str]| with("routes:", &format!("entities: {{ {entities} }}\nroutes:"), shown);
    profile("principal_claim: sub", &["`principal_claim`, but the principal is the client"]);
    profile(
        "profile: avp",
        &["Verified Permissions knows principals as `<pool id>|<sub>`", "nothing says what users are"],
    );
    profile("groups: { claim: g, type: Nothing }", &["the schema has no groups `Nothing` that a `Agent` may be in"]);
    let groups = "agent: Agent, groups: { claim: g, type: User }";
    profile(groups, &["the schema has no groups `User`"]);
    profile("profile: other", &["unknown variant `other`"]);
}

#[test]
fn other_settings_are_held_to_their_ranges() {
    for (line, shown) in [
        ("identity: { user_header: Authorization }", "cannot carry an identity"),
        ("identity: { user_header: 'x y' }", "cannot carry an identity"),
        ("identity: { user_header: x-a, agent_header: X-A }", "two identity headers have one name"),
        ("limits: { fields_max: 0 }", "`fields_max` is out of range"),
        ("limits: { fields_max: 257 }", "`fields_max` is out of range"),
        ("limits: { head_bytes_max: 1 }", "`head_bytes_max` is out of range"),
        ("limits: { connections_max: 0 }", "`connections_max` is out of range"),
        ("drain: { delay_ms: 600001 }", "`delay_ms` is out of range"),
        ("drain: { patience_ms: 3600001 }", "`patience_ms` is out of range"),
        ("limits: { streams_max: 0 }", "`streams_max` is out of range"),
        ("limits: { streams_max: 1001 }", "`streams_max` is out of range"),
        ("http2: off\nlimits: { streams_max: 5 }", "streams of HTTP/2, which is off"),
        ("listeners: [{ listen: '127.0.0.1:8080' }]", "`127.0.0.1:8080` is listened at already"),
        ("listeners: [{ listen: '127.0.0.1:9901' }]", "`127.0.0.1:9901` is listened at already"),
        ("admin: 'unix:/a'\nlisteners: [{ listen: 'unix:/a' }]", "`unix:/a` is listened at already"),
        ("admin: '[::ffff:127.0.0.1]:8080'", "`127.0.0.1:8080` is listened at already"),
        ("listeners: [{ listen: '0.0.0.0:9901' }]", "`0.0.0.0:9901` is listened at already"),
        ("listeners: [{ listen: '[::]:8080' }]", "`[::]:8080` is listened at already"),
        ("listeners: [{ listen: 'unix:gate.sock' }]", "`unix:gate.sock` is no address to listen at"),
        ("admin: localhost", "`localhost` is no address to listen at"),
        (
            "http2: off\nlisteners: [{ listen: 'unix:/a', http2: off }]\nlimits: { streams_max: 5 }",
            "streams of HTTP/2, which is off",
        ),
        ("policies: nowhere", "cannot read"),
    ] {
        with("routes:", &format!("{line}\nroutes:"), &[shown]);
    }
    with(
        "http://127.0.0.1:9000",
        "http://127.0.0.1:9000/path",
        &["is not the address of an upstream", "config.yaml:2:18"],
    );
    with(
        "{ url: http://127.0.0.1:9000 }",
        "{ url: http://127.0.0.1:9000, read_timeout_ms: 0 }",
        &["`read_timeout_ms` is out of range"],
    );
}

#[test]
fn upstreams_are_bounded_and_what_has_no_effect_in_them_is_an_error() {
    let upstream = |more: &str, shown: &str| {
        with("url: http://127.0.0.1:9000", &format!("url: {more}"), &[shown]);
    };
    for (more, shown) in [
        ("http://a, addresses: [{ address: a }]", "`a` is not the address of a server"),
        ("http://a, addresses: [{ address: 'http://a:1' }]", "is not the address of a server"),
        ("http://a, addresses: [{ address: 'a:1' }, { address: 'a:1' }]", "`a:1` is there twice"),
        ("http://a, addresses: [{ address: 'a:1', weight: 0 }]", "`weight` is out of range"),
        ("http://a, addresses: [{ address: 'a:1', weight: 101 }]", "`weight` is out of range"),
        ("http://a, balance: random", "unknown variant `random`"),
        ("http://a, http2: offered", "HTTP/2 is offered in a TLS handshake, and this upstream speaks no TLS"),
        ("http://a, tls: {}", "settings of TLS, which is not spoken to this upstream"),
        ("'unix:/run/a.sock', tls: { server_name: a }", "settings of TLS"),
        ("https://a, tls: { server_name: 'a b' }", "`a b` is not the name of a server"),
        ("https://a, tls: { authorities: nowhere.pem }", "cannot read `nowhere.pem`"),
        ("https://a, tls: { certificate: nowhere.pem }", "a certificate without its key"),
        ("https://a, tls: { private_key: { file: nowhere.key } }", "a `private_key` without its certificate"),
        ("http://a, idle_timeout_ms: 0", "`idle_timeout_ms` is out of range"),
        ("http://a, retries_max: 6", "`retries_max` is out of range"),
        ("http://a, requests_max: 0", "`requests_max` is out of range"),
        ("http://a, health: {}", "`health` asks nothing"),
        ("http://a, health: { path: /, grpc_service: '' }", "two things to be asked"),
        ("http://a, health: { grpc_service: '' }", "gRPC is spoken in HTTP/2 alone"),
        ("http://a, http2: only, health: { grpc_service: 'a b' }", "`a b` is not the name of a service"),
        ("http://a, health: { path: healthz }", "`healthz` is not a path"),
        ("http://a, health: { path: '/a b' }", "`/a b` is not a path"),
        ("http://a, health: { path: '/a#b' }", "is not a path"),
        ("http://a, health: { path: /, interval_ms: 99 }", "`interval_ms` is out of range"),
        ("http://a, health: { path: /, timeout_ms: 9 }", "`timeout_ms` is out of range"),
        ("http://a, health: { path: /, healthy_after: 0 }", "`healthy_after` is out of range"),
        ("http://a, health: { path: /, unhealthy_after: 0 }", "`unhealthy_after` is out of range"),
        ("http://a, ejection: { failures: 1001 }", "`failures` is out of range"),
        ("http://a, ejection: { duration_ms: 99 }", "`duration_ms` is out of range"),
        ("http://a, ejection: { percent_max: 0 }", "`percent_max` is out of range"),
        ("http://a, ejection: { statuses: [404] }", "`404` does not say that a server failed"),
    ] {
        upstream(more, shown);
    }
    for more in ["http://a, health: {}", "https://a, tls: { private_key: { file: nowhere.key } }"] {
        upstream(more, "config.yaml:2:");
    }
    let many: Vec<_> = (0..257).map(|port| format!("{{ address: 'a:{port}' }}")).collect();
    upstream(&format!("http://a, addresses: [{}]", many.join(", ")), "more than 256 servers");
}

#[test]
fn hostile_yaml_is_an_error_and_soon() {
    let started = std::time::Instant::now();
    let bomb = (1..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
        format!("{text}a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1)
    });
    let deep = "[".repeat(100_000);
    for text in
        ["", "---", "[]", "a: b: c", "\t", "\u{0}", "!!binary x", "&a *a", bomb.as_str(), deep.as_str(), "{{", "- - -"]
    {
        assert_ne!(problems_of(text), "", "{}", &text[..text.len().min(20)]);
    }
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn broken_yaml_is_shown_where_it_breaks() {
    with("[1example23456789]", "{ a: b: c", &["config.yaml:6:", "client_ids"]);
    with("scope_prefix: crossDomainService/", "scope_prefix: \"orders/", &["config.yaml:"]);
    with("routes:", "\troutes:", &["found a tab", "config.yaml:7:"]);
}

#[test]
fn problems_far_out_on_a_line_are_told_without_a_picture() {
    let far = format!("{MINIMAL}# {}\nfar: [{}]\n", "x".repeat(70_000), "1, ".repeat(40_000));
    let shown = problems_of(&far);
    assert!(shown.contains("config.yaml:16:1: unknown field `far`"), "{shown:.300}");
}

#[test]
fn settings_that_would_let_in_more_than_they_say_are_refused() {
    with("scope_prefix: crossDomainService/", "scope_prefix: orders", &["not a prefix of scopes", "as in `orders/`"]);
    with("[1example23456789]", "[\"\"]", &["a client id that no token can carry"]);
    with("cognito_access:", "oidc_generic:\n      audiences: [\"\", api]", &["an empty audience"]);
    with("routes:", "entities: { agent: User, user: User }\nroutes:", &["agents and users are of one type"]);
    with("action: readOnly", "action: readOnly\n    scope: \"a b\\\"\"", &["not a scope"]);
    with(
        "routes:",
        "identity: { user_header: x_id, app_header: x-id }\nroutes:",
        &["two identity headers have one name"],
    );
    for header in ["upgrade", "Expect", "content_length", "te"] {
        with("routes:", &format!("identity: {{ agent_header: {header} }}\nroutes:"), &["cannot carry an identity"]);
    }
    with("UserData::\"{path.userId}\"", "UserData::\"{path.userId}:{path.userId}\"", &["there must be a `/`"]);
}

#[test]
fn a_schema_that_speaks_of_what_nothing_supplies_is_refused() {
    let policies = "@id(\"a\") permit (principal, action, resource);";
    let problems = |schema: &str| {
        let files = Files::memory([("policies/schema.cedarschema", schema), ("policies/a.cedar", policies)]);
        let compiled = config::parse("config.yaml".into(), MINIMAL.into(), files).and_then(|loaded| loaded.compile());
        compiled.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    };
    let good = house::repository("policies/schema.cedarschema");
    assert_eq!(problems(&good), "");
    for (from, to, shown) in [
        ("entity Agent;", "entity Team; entity Agent in [Team];", "gives `Agent` parents, which nothing supplies"),
        ("entity Agent;", "entity Agent tags String;", "gives `Agent` tags, which nothing supplies"),
        ("entity UserData = {", "entity Folder; entity UserData in [Folder] = {", "gives `UserData` parents"),
        ("onBehalfOf?: User,", "onBehalfOf?: User, ip?: ipaddr,", "nothing supplies `context.ip`"),
        ("callerApp: String,", "callerApp: String, manager?: User,", "claim `manager` names agents or users"),
        ("callerApp: String,", "callerApp: String, team?: { lead: Set<Agent> },", "claim `team` names agents or users"),
        (
            "username?: String,",
            "username?: String, manager?: User,",
            "attribute `manager` of `User` names agents or users",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        let problems = problems(&good.replace(from, to));
        assert!(problems.contains(shown), "{to}: `{shown}` is not in\n{problems}");
    }
}

#[test]
fn the_audience_check_is_waived_in_so_many_words_only() {
    let generic = MINIMAL.replace("cognito_access:", "oidc_generic:\n      audience: accept_any_audience");
    assert_eq!(problems_of(&generic), "");
    let both = generic.replace("audience: accept", "audiences: [api]\n      audience: accept");
    assert!(problems_of(&both).contains("beside a waiver"));
    with("client_ids:", "audience: accept_any_audience\n      client_ids:", &["Cognito access tokens carry no `aud`"]);
    with("cognito_access:", "oidc_generic:\n      audience: any", &["unknown variant `any`"]);
    with("cognito_access:", "rfc9068:", &["nothing says which tokens", "accept_any_audience"]);
    for (line, shown) in [
        ("lifetime_max_s: 0", "`lifetime_max_s` is out of range"),
        ("delegation_age_max_s: 0", "`delegation_age_max_s` is out of range"),
        ("user_claim: a..b", "not the name of a claim"),
    ] {
        with("client_ids:", &format!("{line}\n      client_ids:"), &[shown]);
    }
}

#[test]
fn a_prefix_is_a_literal_beginning_of_the_path() {
    let route = "action: readOnly";
    let and = |line: &str| format!("{route}\n    {line}");
    for fine in ["strip_prefix: /users", "add_prefix: /v1/a", "strip_prefix: /users\n    add_prefix: /people"] {
        assert_eq!(problems_of(&MINIMAL.replace(route, &and(fine))), "", "{fine}");
    }
    let literal = "is not the literal beginning of a path";
    for (line, shown) in [
        ("strip_prefix: /", literal),
        ("strip_prefix: /users/", literal),
        ("strip_prefix: users", literal),
        ("strip_prefix: '/users/{userId}'", literal),
        ("strip_prefix: /users/../users", literal),
        ("strip_prefix: /use", "does not begin with `/use`"),
        ("strip_prefix: /people", "does not begin with `/people`"),
        ("add_prefix: ''", literal),
        ("add_prefix: //host", literal),
        ("add_prefix: '/a?b'", literal),
    ] {
        with(route, &and(line), &[shown, "config.yaml:12:", "fix:"]);
    }
}

#[test]
fn what_pages_may_is_written_as_browsers_write_it() {
    let route = "action: readOnly";
    let and = |section: &str| format!("{route}\n    cors: {section}");
    let all = "{ origins: ['https://app.example', 'http://[::1]:3000'], headers: [authorization, content-type], expose: [etag], credentials: true, max_age_s: 0 }";
    assert_eq!(problems_of(&MINIMAL.replace(route, &and(all))), "");
    for (section, shown) in [
        ("{ origins: ['null'] }", "`null` is not an origin"),
        ("{ origins: ['https://app.example/'] }", "write it as browsers do: `https://app.example`"),
        ("{ origins: ['https://app.example:443'] }", "write it as browsers do: `https://app.example`"),
        ("{ origins: ['https://*.example'] }", "`https://*.example` is not an origin"),
        ("{ origins: ['*', 'https://app.example'] }", "`*` is not an origin"),
        ("{ origins: ['*'], credentials: true }", "every page there is could act as whoever looks at it"),
        ("{ origins: [] }", "no origins"),
        ("{ origins: ['*'], headers: ['*'] }", "`*` is not a header field's name"),
        ("{ origins: ['*'], max_age_s: 86401 }", "`max_age_s` is out of range"),
        ("{ origin: ['*'] }", "unknown field `origin`"),
        ("{}", "missing field `origins`"),
    ] {
        with(route, &and(section), &[shown, "config.yaml:12:"]);
    }
}

#[test]
fn metadata_is_of_a_resource_that_clients_address() {
    let routes = "routes:\n";
    let and = |section: &str| format!("resource_metadata: {{ {section} }}\n{routes}");
    with(routes, &and("resource: 'http://api.example'"), &["is not the https URL of a place", "config.yaml:8:32"]);
    with(routes, &and("resource: 'https://api.example#a'"), &["is not the https URL of a place", "without fragment"]);
    with(routes, &and("resource: 'https://api.example/?a'"), &["write it without query", "`https://api.example/`"]);
    with(routes, &and("resource: 'https://API.example'"), &["as clients do: `https://api.example/`"]);
    with(routes, &and("resource: 'https://api.example/a%20b'"), &["is not a path that a page can have"]);
    with(
        routes,
        &and("resource: 'https://api.example', authorization_servers: ['https://b.example']"),
        &["tokens of `https://b.example` are not taken", "name one of `issuers`"],
    );
    with(
        routes,
        &format!("origins: ['https://b.example']\n{}", and("resource: 'https://api.example'")),
        &["`https://api.example` is none of `origins`"],
    );
    let hosts = "upstream: { url: http://127.0.0.1:9000 }";
    let forwarded = "upstream: { url: http://127.0.0.1:9000, forward_host: true }\nresource_metadata: { resource: 'https://api.example' }";
    let text = MINIMAL.replace(hosts, forwarded).replace("    path:", "    hosts: [b.example]\n    path:");
    let problems = problems_of(&text);
    assert!(problems.contains("no route is for the host `api.example`"), "{problems}");
    assert_eq!(problems_of(&text.replace("b.example", "api.example")), "");
    with("/users/{userId}/data", "/.well-known/oauth-protected-resource", &[]);
    let taken =
        MINIMAL.replace("/users/{userId}/data", "/.well-known/oauth-protected-resource").replace("{path.userId}", "a");
    assert_eq!(problems_of(&taken), "");
    let problems = problems_of(&taken.replace(routes, &and("resource: 'https://api.example'")));
    assert!(problems.contains("a page of the gate's own is at `/.well-known/oauth-protected-resource`"), "{problems}");
}

#[test]
fn assertions_are_for_somebody_and_by_a_key() {
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    let policies = ["policies/schema.cedarschema", "policies/users.cedar"].map(|name| (name, house::repository(name)));
    let keys = [("signing.pem", private.to_owned()), ("no.pem", "no key".to_owned())];
    let files = policies.iter().chain(&keys).map(|(name, text)| (*name, text.as_str()));
    let files = Files::memory(files);
    let problems = |upstream: &str, settings: &str| {
        let section = format!("identity: {{ assertion: {{ {settings} }} }}\n");
        let text = MINIMAL.replace("http://127.0.0.1:9000", &format!("http://127.0.0.1:9000{upstream}")) + &section;
        let compiled = config::parse("config.yaml".into(), text, files.clone()).and_then(|loaded| loaded.compile());
        compiled.map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
    };
    let good = "issuer: gate, signing_key: { file: signing.pem }";
    assert_eq!(problems(", audience: users", good), "");
    for (upstream, settings, shown) in [
        ("", good, "nothing says which service the assertions of this upstream are for"),
        (", audience: ''", good, "not a name"),
        (", audience: 'a b'", good, "not a name"),
        (", audience: users", "issuer: '', signing_key: { file: signing.pem }", "not a name"),
        (", audience: users", "issuer: gate, signing_key: { file: no.pem }", "not a private key of Ed25519 or P-256"),
        (", audience: users", "issuer: gate, signing_key: { file: nowhere.pem }", "cannot read `nowhere.pem`"),
        (", audience: users", &format!("{good}, other_keys: [signing.pem]"), "not a public key of Ed25519 or P-256"),
        (", audience: users", &format!("{good}, lifetime_s: 301"), "choose from 1 to 300"),
        (", audience: users", &format!("{good}, binds: [body, body]"), "this stands twice"),
        (", audience: users", &format!("{good}, binds: [head]"), "unknown variant `head`"),
        (", audience: users", &format!("{good}, jwks_path: keys"), "is not a path that a page can have"),
        (", audience: users", &format!("{good}, jwks_path: '/users/{{a}}'"), "is not a path that a page can have"),
        (
            ", audience: users",
            "issuer: 'https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_agents', signing_key: { file: signing.pem }",
            "an issuer whose tokens are believed",
        ),
    ] {
        let problems = problems(upstream, settings);
        assert!(problems.contains(shown), "{settings}: `{shown}` is not in\n{problems}");
        assert!(problems.contains("config.yaml:"), "{problems}");
    }
    let alone = "http://127.0.0.1:9000, audience: users";
    with("http://127.0.0.1:9000", alone, &["the audience of assertions, and none are made", "config.yaml:2:"]);
}
