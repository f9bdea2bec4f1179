//! What a gate logs: how much, who says so while it runs, and how lines look.

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use portcullis::base::revision::of_text;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cli::{self, free_port, portcullis, text},
    house,
    records::{self, ask},
};

const TOKEN: &str = "what operators show";

/// A gate of its own process, which is killed with the test, and its log.
struct Gate {
    child: Child,
    folder: TempDir,
    config: PathBuf,
    address: String,
    admin: String,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: never");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Gate {
    fn start(log: &str, variable: Option<&str>) -> Self {
        let (address, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let config = format!(
            "listen: {address}\nadmin: {admin}\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
             \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\nroutes:\n\
             \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
             attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\nadmin_token: {{ file: token }}\nlog: {log}\n"
        );
        let (folder, config) = cli::folder(&config);
        let keys = json!({ "keys": [house::key("agents").jwk()] }).to_string();
        fs::write(folder.path().join("keys.json"), keys).unwrap();
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        let errors = File::create(folder.path().join("log")).unwrap();
        let mut command = portcullis();
        command.args(["serve", "--config", config.to_str().unwrap()]).stdout(Stdio::null()).stderr(errors);
        if let Some(levels) = variable {
            command.env("RUST_LOG", levels);
        }
        let gate = Self { child: command.spawn().unwrap(), folder, config, address, admin };
        wait_until("ready", || ask(&gate.admin, "GET /readyz", "", "").is_some_and(|answer| answer.contains(" 200 ")));
        gate
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// What `/log` answers: the status, and the body.
    fn levels(&self, method: &str, body: &str) -> (u16, Value) {
        let answer = ask(&self.admin, &format!("{method} /log"), &format!("authorization: Bearer {TOKEN}\r\n"), body);
        let answer = answer.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    fn reload(&self) {
        let sent = std::process::Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn reloads(&self) -> u64 {
        let metrics = ask(&self.admin, "GET /metrics", "", "").unwrap();
        let line = metrics.lines().find(|line| line.starts_with("portcullis_reloads_total{outcome=\"good\"}"));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// How often the log tells of a reload once there is one more.
    fn told_of_reloads(&self) -> usize {
        let before = self.reloads();
        self.reload();
        wait_until("another reload", || self.reloads() > before);
        // What is said of it is said before or just after it is counted: the next one comes after both.
        self.reload();
        wait_until("the next reload", || self.reloads() > before + 1);
        self.log().matches("the configuration was reloaded").count()
    }
}

fn levels(level: &str, by: &str) -> (u16, Value) {
    (200, json!({ "level": level, "by": by }))
}

#[test]
fn how_much_is_logged_changes_while_the_gate_runs_by_its_operators_and_its_configuration() {
    let gate = Gate::start("{ level: warn }", None);
    for (token, status) in [("", " 401 "), ("authorization: Bearer another\r\n", " 401 ")] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = ask(&gate.admin, &format!("{method} /log"), token, "trace").unwrap();
            assert!(answer.lines().next().unwrap().contains(status), "{answer}");
        }
    }
    assert_eq!(gate.levels("GET", ""), levels("warn", "configuration"));
    assert_eq!(gate.told_of_reloads(), 0);
    assert_eq!(
        gate.levels("PUT", "warn,portcullis::reload=info\n"),
        levels("warn,portcullis::reload=info", "operator")
    );
    let told = gate.told_of_reloads();
    assert!(told >= 1, "{}", gate.log());
    for (body, status) in [("inof", 400), ("", 400), (&*"x".repeat(5000), 413)] {
        assert_eq!(gate.levels("PUT", body).0, status, "{body}");
    }
    assert_eq!(gate.levels("POST", "info").0, 405);
    assert_eq!(gate.levels("DELETE", ""), levels("warn", "configuration"));
    let told = gate.told_of_reloads().max(told);
    assert_eq!(gate.told_of_reloads(), told);
    let config = fs::read_to_string(&gate.config).unwrap();
    fs::write(&gate.config, config.replace("level: warn", "level: 'off,portcullis::reload=info'")).unwrap();
    assert!(gate.told_of_reloads() > told);
    assert_eq!(gate.levels("GET", ""), levels("off,portcullis::reload=info", "configuration"));
    assert!(gate.log().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", gate.log());
}

#[test]
fn what_the_environment_says_goes_before_the_configuration() {
    let gate = Gate::start("{ level: 'off' }", Some("info"));
    assert_eq!(gate.levels("GET", ""), levels("info", "environment"));
    wait_until("the gate stands", || gate.log().contains("the gate stands"));
    let in_force = |config: &str| format!("\"in_force\":\"config {}, schema ", of_text(config));
    let config = fs::read_to_string(&gate.config).unwrap();
    assert!(gate.log().contains(&in_force(&config)), "{}", gate.log());
    let config = config + "# another version\n";
    fs::write(&gate.config, &config).unwrap();
    wait_until("the other version is told of", || gate.log().contains(&in_force(&config)));
    assert_eq!(gate.levels("PUT", "error"), levels("error", "operator"), "an operator goes before both");
    assert_eq!(gate.levels("DELETE", ""), levels("info", "environment"));
    let config = gate.config.to_str().unwrap();
    let refused = portcullis().env("RUST_LOG", "portcullis").args(["serve", "--config", config]).output().unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(text(&refused.stderr).contains("RUST_LOG: `portcullis` is no level"), "{}", text(&refused.stderr));
}

#[test]
fn bad_levels_are_a_problem_with_their_place() {
    let gate = Gate::start("{ level: info }", None);
    let config = fs::read_to_string(&gate.config).unwrap();
    fs::write(&gate.config, config.replace("level: info", "level: inof")).unwrap();
    let checked = portcullis().args(["check", "--config", gate.config.to_str().unwrap()]).output().unwrap();
    assert_eq!(checked.status.code(), Some(64));
    let said = text(&checked.stderr);
    assert!(said.contains("`inof` is no level") && said.contains("config.yaml:9:15"), "{said}");
    assert_eq!(gate.levels("GET", ""), levels("info", "configuration"), "the gate goes on");
}

/// Whether `path` holds nothing that gives a terminal orders, or turns text round.
fn is_calm(text: &str) -> bool {
    !text.chars().any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}'))
}

#[test]
fn what_clients_and_authors_write_gives_whoever_reads_the_log_no_orders() {
    let gate = Gate::start("{ level: trace, format: human }", None);
    let evil = "\u{1b}[2J\u{9b}2J\u{202e}\u{2028}\u{7f}";
    for head in [
        format!("GET /{evil} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n"),
        format!("GET /users/1/data HTTP/1.1\r\nhost: {evil}\r\nconnection: close\r\n\r\n"),
        format!(
            "GET /users/1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {evil}\r\nconnection: close\r\n\r\n"
        ),
        format!("{evil}\n2026-01-01T00:00:00Z INFO portcullis: all is well\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(&gate.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    }
    let policy: &Path = &gate.folder.path().join("policies/evil.cedar");
    fs::write(policy, format!("@id(\"{evil}\")\npermit (principal, action, resource) when {{ {evil} }};")).unwrap();
    wait_until("refused", || gate.log().contains("evil.cedar"));
    let log = gate.log();
    assert!(is_calm(&log), "{log:?}");
    let is_dated = |line: &&str| line.starts_with("20") && line.contains("Z ");
    assert!(log.lines().all(|line| line.starts_with("    ") || is_dated(&line)), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
}

#[test]
fn no_level_lets_libraries_tell_what_requests_hold() {
    let gate = Gate::start("{ level: warn }", Some("trace"));
    assert_eq!(gate.levels("PUT", "trace,hyper=trace,h2=trace,pingora_proxy=trace").0, 200);
    let token = records::bearer(&json!({}));
    let answer = ask(&gate.address, "GET /users/user-1/data?canary-in-the-query", &token, "").unwrap();
    assert!(answer.contains(" 502 "), "it got as far as the upstream: {answer}");
    let refused = ask(&gate.address, "GET /users/user-2/data?canary-in-the-query", &token, "").unwrap();
    assert!(refused.contains(" 403 "), "{refused}");
    let told = gate.told_of_reloads();
    assert!(told > 0);
    for line in gate.log().lines() {
        let said: Value = serde_json::from_str(line).unwrap();
        let is_ours = said["target"].as_str().unwrap().starts_with("portcullis");
        assert!(is_ours || matches!(said["level"].as_str(), Some("WARN" | "ERROR")), "{line}");
        assert!(
            !line.contains("canary")
                && !token.trim().split(['.', ' ']).any(|part| part.len() > 20 && line.contains(part)),
            "{line}"
        );
    }
}
