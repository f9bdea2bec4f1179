//! The binary as an operator meets it.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::house;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub(crate) fn portcullis() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.current_dir(ROOT).env_remove("PORTCULLIS_CONFIG").env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    portcullis().args(arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a configuration of its own beside a copy of the repository's policies.
pub(crate) fn folder(config: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        std::fs::copy(Path::new(ROOT).join(name), folder.path().join(name)).unwrap();
    }
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, config).unwrap();
    (folder, file)
}

#[test]
fn the_repositorys_own_configuration_is_good() {
    let checked = run(&["check"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let told = text(&checked.stdout);
    let (first, revisions) = told.split_once('\n').unwrap();
    assert_eq!(first, "config.yaml: good (1 route, 3 policies)");
    // What anybody can find out of the same files without us.
    let sum = |script: &str| {
        let made = Command::new("sh").current_dir(ROOT).args(["-c", script]).output().unwrap();
        text(&made.stdout)[..32].to_owned()
    };
    let config = sum("sha256sum config.yaml");
    let schema = sum("sha256sum policies/schema.cedarschema");
    let page = house::repository("docs/decision-record.md");
    let script =
        page.split("```sh\n").find_map(|block| block.split_once("```").filter(|(it, _)| it.contains("sha256sum")));
    let policies = sum(script.expect("the page shows how").0);
    assert_eq!(revisions, format!("  config {config}, schema {schema}, policies of default {policies}\n"));
    assert_eq!(text(&checked.stderr), "");
}

#[test]
fn check_shows_every_problem_with_its_place_and_leaves_with_64() {
    let config = house::repository("config.yaml")
        .replace("client_ids: [1example23456789]", "")
        .replace("url: http://127.0.0.1:9000", "url: 127.0.0.1:9000")
        .replace("action: readOnly", "action: raedOnly")
        .replace("methods: [GET]", "methods: [GTE]");
    let (_folder, file) = folder(&config);
    let file = file.to_str().unwrap();
    for command in ["check", "serve"] {
        let checked = run(&[command, "--config", file]);
        assert_eq!(checked.status.code(), Some(64), "{command}");
        let shown = text(&checked.stderr);
        for part in [
            "nothing says which tokens of this issuer are meant for this service",
            "help: give both `client_ids`",
            "`127.0.0.1:9000` is not the address of an upstream",
            "the schema has no action `raedOnly`",
            "help: it has Action::\"readOnly\"",
            "`GTE` is not a method that can be routed",
            &format!("{file}:13:8"),
            "portcullis: 4 problems in",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert_eq!(text(&checked.stdout), "");
    }
}

#[test]
fn what_files_alone_do_not_tell_is_shown_at_once_too() {
    let config = house::repository("config.yaml")
        .replace("url: http://127.0.0.1:9000", "url: https://127.0.0.1:9000\n  tls: { authorities: junk.pem }")
        .replace("allow: unsupplied_read", "allow: unsupplied");
    let config = format!("{config}\nshadow: {{ policies: nowhere }}\n");
    let (folder, file) = folder(&config);
    std::fs::write(folder.path().join("junk.pem"), "junk").unwrap();
    let checked = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(64));
    let shown = text(&checked.stderr);
    for part in [
        "`upstream.tls`: `authorities`: holds no certificate in PEM",
        "there is no warning `unsupplied`",
        "cannot read folder `nowhere`",
        "portcullis: 3 problems in",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
}

#[test]
fn records_are_written_to_no_file_of_the_configuration() {
    let path = |path: &str| {
        let config = house::repository("config.yaml");
        let (folder, file) = folder(&format!("{config}deny_list: denied\nrecords: {{ file: {{ path: {path} }} }}\n"));
        std::fs::write(folder.path().join("denied"), "").unwrap();
        std::os::unix::fs::symlink("config.yaml", folder.path().join("link")).unwrap();
        let checked = run(&["check", "--config", file.to_str().unwrap()]);
        (checked.status.code(), text(&checked.stderr))
    };
    for own in ["config.yaml", "link", "policies/users.cedar", "policies/new.cedar", "policies", "denied"] {
        let (code, said) = path(own);
        assert_eq!(code, Some(64), "{own}: {said}");
        assert!(said.contains("the configuration is made of this"), "{own}: {said}");
    }
    for other in ["records.jsonl", "policies/records.jsonl", "elsewhere/records.jsonl"] {
        let (code, said) = path(other);
        assert_eq!(code, Some(0), "{other}: {said}");
    }
}

#[test]
fn schema_prints_the_schema_of_the_configuration() {
    let printed = run(&["schema"]);
    assert!(printed.status.success());
    let schema: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(schema, portcullis::config::schema());
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["title"], "config.yaml of Portcullis");
    assert_eq!(schema["$id"], Value::Null);
}

#[test]
fn a_missing_file_is_a_bad_configuration() {
    let checked = run(&["check", "--config", "nowhere.yaml"]);
    assert_eq!(checked.status.code(), Some(64));
    assert!(text(&checked.stderr).contains("cannot read `nowhere.yaml`"));
    let (_folder, file) = folder("");
    std::fs::write(&file, b"listen: \xff\n").unwrap();
    let shown = text(&run(&["check", "--config", file.to_str().unwrap()]).stderr);
    assert!(shown.contains("it is not UTF-8") && !shown.contains("--config"), "{shown}");
}

#[test]
fn the_demo_goes_as_it_should() {
    for arguments in [&["demo", "--once"][..], &["demo", "--once", "--config", "config.yaml"]] {
        let shown = run(arguments);
        let told = text(&shown.stdout);
        assert!(shown.status.success(), "{told}{}", text(&shown.stderr));
        assert!(told.contains("10 steps, every one as it should."), "{told}");
        assert!(told.contains("why: access_denied, by policy no-agent-reads-another-users-data"), "{told}");
    }
}

#[test]
fn the_demo_tells_what_a_request_costs() {
    let shown = run(&["demo", "--cost", "50"]);
    let told = text(&shown.stdout);
    assert!(shown.status.success(), "{told}{}", text(&shown.stderr));
    let rows: Vec<_> = told.lines().filter_map(|line| line.split_once(": ")).collect();
    let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
    let due =
        ["allowed", "allowed, as remembered", "allowed, by what the request says", "denied", "denied, as remembered"];
    assert_eq!(names, due, "{told}");
    assert!(rows.iter().all(|(_, cost)| cost.ends_with(" µs")), "{told}");
    let one = text(&run(&["demo", "--cost", "50", "--only", "denied"]).stdout);
    assert!(one.starts_with("denied: ") && one.lines().count() == 1, "{one}");
}

#[test]
fn the_demo_fails_when_the_policies_are_not_what_they_should_be() {
    let (folder, file) = folder(&house::repository("config.yaml"));
    let open = "@id(\"open\") permit (principal, action, resource);";
    std::fs::write(folder.path().join("policies/users.cedar"), open).unwrap();
    let shown = run(&["demo", "--once", "--config", file.to_str().unwrap()]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stdout).contains("NOT AS IT SHOULD"));
}

#[test]
fn the_demo_stays_up_and_its_curl_lines_work() {
    let mut demo = Running::start(&["demo"]);
    let mut said = String::new();
    let lines = demo.lines_until("  | sed 's/.*\"access_token\"", &mut said);
    let script = |wanted: &str| lines.iter().find(|line| line.starts_with(wanted)).unwrap().clone();
    let token = script("TOKEN=");
    let calls: Vec<_> = lines.iter().filter(|line| line.starts_with("curl -i")).cloned().collect();
    let statuses: Vec<_> = calls.iter().map(|call| shell(&format!("{token}\n{call}"))).collect();
    assert!(statuses[0].starts_with("HTTP/1.1 200"), "{}", statuses[0]);
    assert!(statuses[1].starts_with("HTTP/1.1 403"), "{}", statuses[1]);
    let at = lines.iter().position(|line| line.starts_with("USER_TOKEN=")).unwrap();
    let fresh = lines[at..].join("\n");
    let again = shell(&format!("{fresh}\n{}", calls[0]));
    assert!(again.starts_with("HTTP/1.1 200"), "{again}");
}

fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", &script.replace("curl -i", "curl -si")]).output().unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn serve_answers_health_checks_writes_one_line_per_request_and_drains() {
    let keys = house::key("agents").jwk();
    let config = format!(
        "listen: 127.0.0.1:{}\nadmin: 127.0.0.1:{}\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
         \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\nroutes:\n\
         \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n",
        free_port(),
        free_port()
    );
    let (folder, file) = folder(&config);
    std::fs::write(folder.path().join("keys.json"), serde_json::json!({ "keys": [keys] }).to_string()).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(run(&["health", "--config", file]).status.code(), Some(1), "nobody is there yet");
    let mut gate = Running::start(&["serve", "--config", file]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !run(&["health", "--config", file]).status.success() {
        assert!(Instant::now() < deadline, "never ready");
        std::thread::sleep(Duration::from_millis(50));
    }
    // A file that is being edited makes no gate unwell where the probe knows whom to ask.
    let admin = config.lines().nth(1).unwrap().trim_start_matches("admin: ");
    assert!(run(&["health", "--config", "nowhere.yaml", "--admin", admin]).status.success());
    let address = config.lines().next().unwrap().trim_start_matches("listen: ").to_owned();
    let canary = "canary-token-that-must-not-be-written";
    shell(&format!(
        "curl -i http://{address}/users/1/data; curl -i -H 'Authorization: Bearer {canary}' http://{address}/x"
    ));
    let broken = folder.path().join("policies/broken.cedar");
    for (change, said) in [(None, "the configuration was reloaded"), (Some("permit"), "the configuration is refused")] {
        if let Some(text) = change {
            std::fs::write(&broken, text).unwrap();
        }
        gate.signal("HUP");
        let deadline = Instant::now() + Duration::from_secs(10);
        let outcome = if change.is_none() { "good" } else { "refused" };
        let counted = format!("portcullis_reloads_total{{outcome=\"{outcome}\"}} 1");
        let admin = config.lines().nth(1).unwrap().trim_start_matches("admin: ").to_owned();
        while !shell(&format!("curl -i http://{admin}/metrics")).contains(&counted) {
            assert!(Instant::now() < deadline, "{said} is never counted");
        }
    }
    gate.signal("TERM");
    let (records, logs) = gate.rest();
    assert!(logs.contains("the configuration was reloaded"), "{logs}");
    assert!(logs.contains("the configuration is refused") && logs.contains("broken.cedar:1:"), "{logs}");
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let codes: Vec<_> = records.iter().map(|record| record["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["token_missing", "token_malformed"]);
    assert!(records.iter().all(|record| record["decision_id"].as_str().unwrap().len() == 26));
    assert!(logs.contains("the gate stands") && logs.contains("draining"), "{logs}");
    assert!(!logs.contains(canary) && !records.iter().any(|record| record.to_string().contains(canary)));
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_port_in_use_is_said_and_nothing_stays_behind() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = house::repository("config.yaml").replace("listen: 127.0.0.1:8080", &format!("listen: {address}"));
    let (_folder, file) = folder(&config);
    let served = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(served.status.code(), Some(1));
    assert!(text(&served.stderr).contains(&format!("cannot listen on {address}")), "{}", text(&served.stderr));
}

/// A process that ends with the test.
pub(crate) struct Running(Child, BufReader<std::process::ChildStdout>);

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        // The most talkative that an operator can choose: even so, no token is written.
        let mut child = portcullis()
            .env("RUST_LOG", "trace")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn lines_until(&mut self, last: &str, said: &mut String) -> Vec<String> {
        let mut lines = Vec::new();
        while self.1.read_line(said).unwrap() > 0 {
            let line = std::mem::take(said).trim_end_matches('\n').to_owned();
            lines.push(line.clone());
            // The second one ends the last command.
            if line.starts_with(last) {
                break;
            }
        }
        lines
    }

    pub(crate) fn signal(&mut self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn rest(&mut self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.1.read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(self.0.wait().unwrap().success(), "{err}");
        (out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
