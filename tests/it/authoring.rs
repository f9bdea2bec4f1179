//! The commands for those who write policies, as they are documented and as their examples use them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;

use crate::{cli, docs::blocks, house};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A copy of what the documentation's commands name.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(root().join("config.yaml"), folder.path().join("config.yaml")).unwrap();
    for name in ["policies", "examples"] {
        copy(&root().join(name), &folder.path().join(name));
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    cli::portcullis().current_dir(folder).args(arguments).output().unwrap()
}

fn all(output: &Output) -> String {
    cli::text(&output.stdout) + &cli::text(&output.stderr)
}

fn examples() -> Vec<PathBuf> {
    let mut folders: Vec<_> =
        fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

#[test]
fn every_example_is_sound_and_does_what_its_scenarios_say() {
    for folder in examples() {
        let checked = run(&folder, &["check", "-D", "all"]);
        assert!(checked.status.success(), "{}: {}", folder.display(), all(&checked));
        let tested = run(&folder, &["test", "--coverage-min", "80"]);
        assert!(tested.status.success(), "{}: {}", folder.display(), all(&tested));
    }
}

#[test]
fn the_cookbook_is_what_stands_in_the_examples() {
    let page = house::repository("docs/policies.md");
    let mut files = Vec::new();
    for folder in examples() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(page.contains(&format!("(../examples/{name})")), "no pattern is of examples/{name}");
        let mut open = vec![folder];
        while let Some(folder) = open.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.push(fs::read_to_string(path).unwrap());
                }
            }
        }
    }
    let patterns = page.matches("\n**When**").count();
    assert!(patterns >= 12 && patterns == examples().len(), "{patterns}");
    let cedar = blocks(&page, "cedar");
    assert!(cedar.len() >= patterns, "{}", cedar.len());
    for block in cedar {
        assert!(files.iter().any(|file| file.contains(block.trim())), "no example holds\n{block}");
    }
}

/// A page's blocks of commands, and the text that is said to come of each.
fn commands(page: &str) -> Vec<(String, Option<String>)> {
    let parts = page.split("```sh\n").skip(1);
    let each = parts.map(|part| {
        let (commands, rest) = part.split_once("```").unwrap();
        let shown = rest.strip_prefix("\n\n```text\n").map(|rest| rest.split("```").next().unwrap().to_owned());
        (commands.to_owned(), shown)
    });
    each.collect()
}

#[test]
fn the_commands_of_the_documentation_do_what_it_says() {
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut seen = 0;
    for name in ["policies", "checking", "scenarios", "explaining", "replay"] {
        let folder = workplace();
        for (commands, shown) in commands(&house::repository(&format!("docs/{name}.md"))) {
            let mut shell = std::process::Command::new("sh");
            let done = shell.args(["-ec", &commands]).current_dir(folder.path()).env("PATH", &path).output().unwrap();
            assert!(done.status.success(), "docs/{name}.md: {commands}{}", all(&done));
            if let Some(shown) = shown {
                assert_eq!(cli::text(&done.stdout), shown, "docs/{name}.md: {commands}{}", cli::text(&done.stderr));
                seen += 1;
            }
        }
    }
    assert!(seen >= 4, "only {seen} outputs were compared");
}

#[test]
fn the_settings_of_the_documentation_can_be_used() {
    for page in ["checking", "replay"] {
        for block in blocks(&house::repository(&format!("docs/{page}.md")), "yaml") {
            let folder = workplace();
            let own = folder.path().join("examples/own-data");
            fs::write(own.join("pseudonym.key"), "for tests only, 16 bytes or more").unwrap();
            let config = fs::read_to_string(own.join("config.yaml")).unwrap() + &block;
            fs::write(own.join("config.yaml"), config).unwrap();
            let checked = run(&own, &["check"]);
            assert!(checked.status.success(), "docs/{page}.md: {block}{}", all(&checked));
        }
    }
    let folder = workplace();
    fs::write(folder.path().join("page.yaml"), &blocks(&house::repository("docs/scenarios.md"), "yaml")[0]).unwrap();
    let tested = run(folder.path(), &["test", "--config", "examples/own-data/config.yaml", "page.yaml"]);
    assert!(tested.status.success(), "{}", all(&tested));
}

#[test]
fn the_warning_that_is_shown_is_the_one_that_is_given() {
    let page = house::repository("docs/checking.md");
    let folder = workplace();
    let own = folder.path().join("examples/own-data");
    fs::write(own.join("policies/own-data.cedar"), &blocks(&page, "cedar")[0]).unwrap();
    let checked = run(&own, &["check"]);
    let shown =
        page.split("```text\n").map(|part| part.split("```").next().unwrap()).find(|it| it.starts_with("warning"));
    let said = cli::text(&checked.stderr);
    assert!(said.starts_with(shown.unwrap()), "{said}");
    assert_eq!(said.matches("warning: ").count(), 1, "{said}");
    let denied = run(&own, &["check", "-D", "blank_in_id"]);
    assert_eq!(denied.status.code(), Some(64));
    assert!(all(&denied).contains("1 warning is denied"), "{}", all(&denied));
    assert_eq!(run(&own, &["check", "-D", "blank"]).status.code(), Some(2), "no such warning");
}

#[test]
fn every_warning_is_described() {
    let page = house::repository("docs/checking.md");
    let (_, table) = page.split_once("## Warnings").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let described: std::collections::BTreeSet<_> = rows.collect();
    let exist = portcullis::authoring::lint::Lint::ALL.iter().map(|lint| lint.name()).collect();
    assert_eq!(described, exist);
}

#[test]
fn a_scenario_that_fails_says_why_to_people_and_to_machines() {
    let folder = workplace();
    let own = folder.path().join("examples/own-data");
    let scenarios = fs::read_to_string(own.join("scenarios.yaml")).unwrap();
    let wrong = scenarios.replacen("x-portcullis-user: user-1", "x-portcullis-user: user-<2>", 1);
    let wrong = wrong.replacen("policies: [] }", "code: allowed }", 1).replacen("code: access_denied, code", "code", 1);
    fs::write(own.join("scenarios.yaml"), wrong).unwrap();
    let tested = run(&own, &["test", "--junit", "junit.xml", "--html", "page.html"]);
    assert_eq!(tested.status.code(), Some(1), "{}", all(&tested));
    let said = cli::text(&tested.stdout);
    for part in [
        "the upstream's x-portcullis-user is \"user-1\", should be \"user-<2>\"",
        "code is \"access_denied\", should be \"allowed\"",
        "why: `agent-reads-its-users-data` would allow it if",
        "7 scenarios, 2 failed",
    ] {
        assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(part), "{part}\n{said}");
    }
    assert!(!said.contains('\u{1b}'), "colour is for terminals");
    let python = "import sys, xml.etree.ElementTree as tree\nfrom html.parser import HTMLParser\n\
                  suite = tree.parse('junit.xml').getroot().find('testsuite')\n\
                  print(suite.get('tests'), suite.get('failures'), len(suite.findall('testcase/failure')))\n\
                  print(suite.find('testcase/failure').get('message'))\n\
                  HTMLParser().feed(open('page.html').read())\n";
    let read = std::process::Command::new("python3").args(["-c", python]).current_dir(&own).output().unwrap();
    assert_eq!(cli::text(&read.stdout).lines().next(), Some("7 2 2"), "{}", all(&read));
    assert!(cli::text(&read.stdout).contains("user-<2>"), "{}", all(&read));
    let page = fs::read_to_string(own.join("page.html")).unwrap();
    assert!(page.contains("<code>context.token.callerApp == &quot;ExampleChatApplication&quot;</code>"), "{page}");
    let little = run(&own, &["test", "--coverage-min", "100"]);
    assert!(all(&little).contains("is exercised, and 100 % must be"), "{}", all(&little));
}

#[test]
fn scenarios_that_could_not_fail_are_refused() {
    let folder = workplace();
    for (text, said) in [
        ("scenarios: []", "no scenario"),
        ("scenarios: [{ name: a, when: GET /, then: {} }]", "anything would do"),
        (
            "scenarios: [{ name: a, when: GET /, then: { code: alowed } }]",
            "neither `allowed` nor `preflight` nor the code of a page or refusal",
        ),
        ("scenarios: [{ name: a, when: GET /, then: { code: allowed, upstraem: {} } }]", "unknown field `upstraem`"),
        (
            "scenarios: [{ name: a, when: GET /, given: { claims: 1 }, then: { code: allowed } }]",
            "neither a map nor null",
        ),
        (
            "scenarios: [{ name: a, when: GET /, given: { claims: {}, token: x }, then: { code: allowed } }]",
            "either `token` or `claims`",
        ),
        (
            "scenarios: [{ name: a, when: GET /, given: { answers: [{ url: x }] }, then: { code: allowed } }]",
            "`json` or `status`",
        ),
        ("scenarios: [{ name: a, when: GET /, then: { status: 200, code: } }]", "nothing stands here"),
        ("scenarios: [{ name: a, when: GET /, then: { code: allowed, policies: ~ } }]", "nothing stands here"),
        ("given: { token: }\nscenarios: [{ name: a, when: GET /, then: { code: allowed } }]", "nothing stands here"),
    ] {
        fs::write(folder.path().join("s.yaml"), text).unwrap();
        let tested = run(folder.path(), &["test", "--config", "examples/own-data/config.yaml", "s.yaml"]);
        assert_eq!(tested.status.code(), Some(64), "{text}: {}", all(&tested));
        assert!(all(&tested).contains(said), "{text}: {}", all(&tested));
    }
}

#[test]
fn explain_takes_what_people_have_at_hand() {
    let folder = workplace();
    let config = "examples/own-data/config.yaml";
    let claims = "@examples/own-data/claims.json";
    let explain = |more: &[&str]| -> Value {
        let told = run(folder.path(), &[&["explain", "--json", "--offline", "--config", config], more].concat());
        serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{more:?}: {}", all(&told)))
    };
    let har = serde_json::json!({ "log": { "entries": [{ "request": {
        "method": "GET", "url": "https://api.example/users/user-1/data?x=1", "headers": [{ "name": ":path", "value": "/x" }] } }] } });
    fs::write(folder.path().join("saved.har"), har.to_string()).unwrap();
    for asked in [
        &["/users/user-1/data"][..],
        &["https://api.example/users/user-1/data?x=1", "-H", "Accept: */*"],
        &["--curl", "curl -s 'https://api.example/users/user-1/data' -H 'accept: */*'"],
        &["--har", "saved.har", "--entry", "0"],
    ] {
        let account = explain(&[asked, &["--claims", claims]].concat());
        assert_eq!(account["code"], "allowed", "{asked:?}: {account:#}");
        assert_eq!(account["principals"][0]["policies"][0]["id"], "agent-reads-its-users-data");
        let owner = account["entities"].as_array().unwrap().iter().find(|it| it["roles"][0] == "resource").unwrap();
        assert_eq!(owner["attributes"][0]["source"], "path", "{account:#}");
    }
    let record = house::repository("examples/own-data/decisions.jsonl");
    let denied: Value = record
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|it| it["decision"] == "deny")
        .unwrap();
    let id = denied["decision_id"].as_str().unwrap();
    let told = run(
        folder.path(),
        &["explain", "--json", "--config", config, "--log", "examples/own-data/decisions.jsonl", "--id", id],
    );
    let account: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&account["code"], &account["notes"]), (&denied["code"], &serde_json::json!([])), "{account:#}");
    let none = run(
        folder.path(),
        &["explain", "--config", config, "--log", "examples/own-data/decisions.jsonl", "--id", "01A"],
    );
    assert_eq!(none.status.code(), Some(1));
    assert!(all(&none).contains("no record of the decision `01A`"), "{}", all(&none));
    // A token of yesterday, signed by a key that is not at hand.
    let token = token_of_a_stranger();
    let curl = format!("curl https://api.example/users/user-1/data -H 'Authorization: Bearer {token}'");
    assert_eq!(explain(&["--curl", &curl, "--unverified"])["code"], "allowed");
    let verified = explain(&["--curl", &curl]);
    assert_eq!(verified["code"], "keys_unavailable", "{verified:#}");
    assert!(verified["notes"].to_string().contains("jwks.json"), "{verified:#}");
}

#[test]
fn what_is_shown_keeps_to_the_terminal_and_takes_no_orders() {
    let folder = workplace();
    let claims = fs::read_to_string(folder.path().join("examples/own-data/claims.json")).unwrap();
    let evil = claims.replace("ExampleChatApplication", "\\u001b[2Jevil\\u202e");
    let asked =
        ["explain", "--offline", "--config", "examples/own-data/config.yaml", "--claims", &evil, "/users/user-1/data"];
    let told = cli::text(&run(folder.path(), &asked).stdout);
    assert!(told.contains("evil") && !told.contains('\u{1b}'), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
}

/// A token of the issuer of `examples/own-data`, by a key that is not its.
fn token_of_a_stranger() -> String {
    let mut claims: Value = serde_json::from_str(&house::repository("examples/own-data/claims.json")).unwrap();
    claims["iat"] = 1_700_000_000.into();
    claims["exp"] = 4_000_000_000_u64.into();
    house::key("stranger").sign(&claims).unwrap()
}

#[test]
fn no_token_is_taken_for_genuine_that_the_gate_would_refuse_whoever_signed_it() {
    let folder = workplace();
    let mut claims: Value = serde_json::from_str(&house::repository("examples/own-data/claims.json")).unwrap();
    claims["iat"] = 1_700_000_000.into();
    let endless = claims.to_string();
    claims["exp"] = 1_700_000_300.into();
    let claims = claims.to_string();
    let explained = |header: &str, claims: &str| {
        let token = house::key("stranger").sign_text(header, claims).unwrap();
        run(
            folder.path(),
            &[&OWN_DATA[..], &["--offline", "--json", "--unverified", "--token", &token, "/users/user-1/data"]]
                .concat(),
        )
    };
    let plain = r#"{"alg":"RS256","kid":"k"}"#;
    let dates = |iat: &str| claims.replace("1700000000", iat);
    for (header, claims, code) in [
        (plain, claims.clone(), "allowed"),
        (r#"{"alg":"RS256","kid":"k","typ":"JWT","cty":"x"}"#, claims.clone(), "allowed"),
        (r#"{"alg":"RS256","kid":"k","crit":["b64"]}"#, claims.clone(), "token_header_refused"),
        (r#"{"alg":"RS256","kid":"k","typ":"at+jwt"}"#, claims.clone(), "token_type_wrong"),
        (r#"{"alg":"RS256","kid":7}"#, claims.clone(), "token_malformed"),
        (r#"{"alg":"HS256","kid":"k"}"#, claims.clone(), "algorithm_refused"),
        (r#"{"alg":"none"}"#, claims.clone(), "algorithm_refused"),
        (r#"{"kid":"k"}"#, claims.clone(), "algorithm_refused"),
        (plain, dates("\"yesterday\""), "token_malformed"),
        (plain, endless, "token_malformed"),
    ] {
        let told = explained(header, &claims);
        let account: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", all(&told)));
        assert_eq!(account["code"], code, "{header} {claims}: {account:#}");
        assert!(account["notes"].to_string().contains("not looked at: the signature"), "{account:#}");
    }
    let twice = claims.replacen('{', "{\"callerApp\":\"Other\",", 1);
    let told = explained(plain, &twice);
    assert_eq!(told.status.code(), Some(1), "{}", all(&told));
    assert!(all(&told).contains("token_malformed"), "{}", all(&told));
    let told = run(folder.path(), &[&OWN_DATA[..], &["--offline", "--claims", &twice, "/users/user-1/data"]].concat());
    assert_eq!(told.status.code(), Some(1), "{}", all(&told));
    assert!(all(&told).contains("the claims are no JSON object"), "{}", all(&told));
    // The issuer's tokens must say of what type they are: nothing is put in for one that does not.
    let path = folder.path().join("examples/own-data/config.yaml");
    let config = fs::read_to_string(&path).unwrap();
    let config = config.replace("cognito_access:", "rfc9068:").replace(
        "      client_ids: [1example23456789]\n      scope_prefix: crossDomainService/\n",
        "      audiences: [api]\n",
    );
    fs::write(&path, config).unwrap();
    let claims = claims.replacen('{', "{\"aud\":\"api\",\"jti\":\"1\",", 1);
    for (header, code) in [
        (plain, "token_type_wrong"),
        (r#"{"alg":"RS256","kid":"k","typ":"JWT"}"#, "token_type_wrong"),
        (r#"{"alg":"RS256","kid":"k","typ":"at+jwt"}"#, "allowed"),
    ] {
        let told = explained(header, &claims);
        let account: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", all(&told)));
        assert_eq!(account["code"], code, "{header}: {account:#}");
    }
}

const OWN_DATA: [&str; 3] = ["explain", "--config", "examples/own-data/config.yaml"];

#[test]
fn a_token_that_is_given_takes_the_place_of_that_of_the_request() {
    let folder = workplace();
    let field = serde_json::json!({ "name": "Authorization", "value": "Bearer other" });
    let har = serde_json::json!({ "log": { "entries": [{ "request": {
        "method": "GET", "url": "https://api.example/users/user-1/data", "headers": [field] } }] } });
    fs::write(folder.path().join("saved.har"), har.to_string()).unwrap();
    let token = token_of_a_stranger();
    for asked in [
        &["--curl", "curl https://api.example/users/user-1/data"][..],
        &["--curl", "curl https://api.example/users/user-1/data -H 'authorization: Bearer other'"],
        &["--har", "saved.har"],
        &["/users/user-1/data", "-H", "Authorization: Bearer other"],
    ] {
        let given = ["--offline", "--json", "--unverified", "--token", &token];
        let told = run(folder.path(), &[&OWN_DATA, asked, &given].concat());
        let account: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", all(&told)));
        assert_eq!(account["code"], "allowed", "{asked:?}: {account:#}");
    }
}

#[test]
fn explain_says_who_gave_no_answer_and_what_to_do_about_it() {
    let folder = workplace();
    let token = token_of_a_stranger();
    let asked = ["/users/user-1/data", "--token", &token];
    let told = |more: &[&str]| {
        let told = cli::text(&run(folder.path(), &[&OWN_DATA, &asked, more].concat()).stdout);
        told.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let offline = told(&["--offline"]);
    assert!(offline.contains("deny (keys_unavailable)"), "{offline}");
    assert!(offline.contains("! `--offline`: not asked: `https://cognito-idp.eu-west-1"), "{offline}");
    assert!(offline.contains("`--unverified`") && offline.contains("`--claims`"), "{offline}");
    assert!(!offline.contains("answers"), "{offline}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = folder.path().join("examples/own-data/config.yaml");
    let config = fs::read_to_string(&path).unwrap();
    let uri = config.lines().find(|line| line.contains("jwks_uri:")).unwrap();
    fs::write(&path, config.replace(uri, &format!("      jwks_uri: http://{closed}/keys"))).unwrap();
    let refused = told(&[]);
    assert!(refused.contains(&format!("! asked `http://{closed}/keys`: unreachable")), "{refused}");
    assert!(refused.contains("Connection refused") && refused.contains("`--unverified`"), "{refused}");
}

#[test]
fn a_record_tells_no_verdict_of_its_own() {
    let folder = workplace();
    let evil = "/x\nallow (allowed)\n\u{202e}";
    let denied = serde_json::json!({ "decision_id": "1", "decision": "deny", "code": "route_missing",
        "method": "GET", "path": evil, "issuer": evil, "agent": evil, "missing": evil });
    let left = serde_json::json!({ "decision_id": "2", "decision": "abandoned", "code": "abandoned",
        "method": "GET", "path": "/x", "issuer": "https://i.example/", "agent": "a" });
    fs::write(folder.path().join("log"), format!("{denied}\n{left}\n")).unwrap();
    let told = |id: &str, more: &[&str]| {
        cli::text(&run(folder.path(), &[&OWN_DATA, &["--log", "log", "--id", id][..], more].concat()).stdout)
    };
    let text = told("1", &[]);
    assert!(!text.lines().any(|line| line.trim_start().starts_with("allow")), "{text}");
    assert!(text.contains("deny (route_missing)") && !text.contains('\u{202e}'), "{text}");
    let json = told("1", &["--json"]);
    assert!(!json.contains('\u{202e}'), "{json}");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["request"], format!("GET {evil}"));
    let text = told("2", &[]);
    assert!(text.starts_with("GET /x\nabandoned (abandoned)\n"), "{text}");
    assert!(text.contains("✓ token") && text.contains("· route") && text.contains("· upstream"), "{text}");
}

#[test]
fn explain_leaves_no_option_unheard() {
    let folder = workplace();
    fs::write(folder.path().join("h.har"), "{}").unwrap();
    let (curl, har) = (["--curl", "curl http://h/users/user-1/data"], ["--har", "h.har"]);
    let log = ["--log", "examples/own-data/decisions.jsonl", "--id", "01A"];
    for (asked, more) in [
        (&curl[..], &["-X", "DELETE"][..]),
        (&curl, &["-H", "Host: evil"]),
        (&curl, &["--entry", "7"]),
        (&curl, &["--id", "01A"]),
        (&har, &["-X", "DELETE"]),
        (&har, &["-H", "Host: evil"]),
        (&har, &["--id", "01A"]),
        (&log, &["-X", "DELETE"]),
        (&log, &["-H", "Host: evil"]),
        (&log, &["--entry", "7"]),
        (&["/path"], &["--id", "01A"]),
        (&["/path"], &["--entry", "7"]),
    ] {
        let told = run(folder.path(), &[&OWN_DATA, asked, more].concat());
        assert_eq!(told.status.code(), Some(2), "{asked:?} {more:?}: {}", all(&told));
        assert!(all(&told).contains("cannot be used with"), "{asked:?} {more:?}: {}", all(&told));
    }
}

#[test]
fn what_explain_reads_has_an_end() {
    let folder = workplace();
    let large = |name: &str, bytes: u64| fs::File::create(folder.path().join(name)).unwrap().set_len(bytes).unwrap();
    large("claims", 1024 * 1024 + 1);
    large("har", 64 * 1024 * 1024 + 1);
    for (more, said) in [
        (&["/x", "--claims", "@claims"][..], "`claims` is larger than 1 MiB"),
        (&["--har", "har"], "`har` is larger than 64 MiB"),
        (&["--curl", "curl $'http://a/\u{202e}'"], "in single quotes"),
    ] {
        let told = run(folder.path(), &[&OWN_DATA, more].concat());
        assert_eq!(told.status.code(), Some(1), "{more:?}");
        assert!(all(&told).contains(said), "{more:?}: {}", all(&told));
    }
}

#[test]
fn a_terminal_has_colour_and_its_own_width() {
    let folder = workplace();
    // A terminal of 60 columns, and what is shown on it.
    let python = "import fcntl, os, pty, struct, sys, termios\n\
                  child, terminal = pty.fork()\n\
                  if child == 0:\n    os.read(0, 1)\n    os.execv(sys.argv[1], sys.argv[1:])\n\
                  fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 60, 0, 0))\n\
                  os.write(terminal, b'\\n')\n\
                  try:\n    while part := os.read(terminal, 4096):\n        sys.stdout.buffer.write(part)\n\
                  except OSError:\n    pass\n";
    let claims = "@examples/own-data/claims.json";
    let explain =
        ["explain", "--offline", "--config", "examples/own-data/config.yaml", "--claims", claims, "/users/user-2/data"];
    let shown = |no_color: Option<&str>| {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", python, env!("CARGO_BIN_EXE_portcullis")]).args(explain).current_dir(folder.path());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(no_color.map(|it| ("NO_COLOR", it)));
        let done = command.output().unwrap();
        cli::text(&done.stdout)
    };
    let (coloured, plain) = (shown(None), shown(Some("1")));
    assert!(coloured.contains("\u{1b}[31m") && coloured.contains("access_denied"), "{coloured}");
    assert!(!plain.contains('\u{1b}') && plain.contains("access_denied"), "{plain}");
    assert!(plain.lines().all(|line| line.trim_end().chars().count() <= 62), "{plain}");
    assert!(plain.lines().any(|line| line.trim_end().chars().count() > 40), "{plain}");
}
