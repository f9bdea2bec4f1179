//! `portcullis tail`: what is shown of decisions, to whom.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::cli::{portcullis, text};

fn record(number: u32, over: &Value) -> String {
    let mut record = json!({
        "time": "2026-01-31T12:00:00.123Z", "decision_id": format!("ID{number}"), "decision": "allow", "code": "allowed",
        "status": 200, "method": "GET", "path": "/users/1/data", "route": "GET /users/{id}/data", "agent": "agent-1",
        "user": "user-1", "policies": ["reads"], "token_cached": true,
    });
    over.as_object().unwrap().iter().for_each(|(name, value)| record[name] = value.clone());
    format!("{record}\n")
}

fn append(path: &Path, line: &str) {
    fs::File::options().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
}

fn tail(arguments: &[&str], input: &str) -> Output {
    let mut command = portcullis();
    let mut child = command.arg("tail").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn ids(shown: &Output) -> Vec<String> {
    assert!(shown.status.success(), "{shown:?}");
    text(&shown.stdout).lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn each_decision_is_a_line_and_only_those_that_are_asked_for_are_shown() {
    let others = [
        json!({}),
        json!({ "agent": "agent-2" }),
        json!({ "user": "user-2", "route": "POST /files" }),
        json!({ "decision": "deny", "code": "access_denied", "status": 403, "policies": [] }),
        json!({ "decision": "abandoned", "code": "abandoned", "status": 0 }),
    ];
    let mut log: String = (0..).zip(&others).map(|(number, over)| record(number, over)).collect();
    log += "{\"chain\":\"opened\",\"seq\":0}\nno record\n";
    let shown = tail(&[], &log);
    let lines = text(&shown.stdout);
    assert_eq!(lines.lines().count(), 5, "{lines}");
    let first = "12:00:00.123 ID0 allow     200 allowed GET /users/1/data agent-1 for user-1 reads";
    assert_eq!(lines.lines().next(), Some(first));
    for (arguments, expected) in [
        (&["--agent", "agent-2"][..], &["ID1"][..]),
        (&["--user", "user-2"], &["ID2"]),
        (&["--route", "/files"], &["ID2"]),
        (&["--code", "access_denied"], &["ID3"]),
        (&["--outcome", "abandoned"], &["ID4"]),
        (&["--outcome", "allow", "--user", "user-1"], &["ID0", "ID1"]),
        (&["--agent", "agent"], &[]),
    ] {
        assert_eq!(ids(&tail(arguments, &log)), expected, "{arguments:?}");
    }
    let raw = tail(&["--json", "--code", "access_denied"], &log);
    assert_eq!(text(&raw.stdout).lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&text(&raw.stdout)).unwrap()["decision_id"], "ID3");
    let unknown = portcullis().args(["tail", "--outcome", "maybe"]).output().unwrap();
    assert!(!unknown.status.success());
}

/// One that follows a file, and ends with the test.
struct Following(Child, BufReader<ChildStdout>);

impl Following {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_is_followed_to_the_one_that_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    (0..5).for_each(|number| append(&path, &record(number, &json!({}))));
    let mut following = Following::start(portcullis().args(["tail", "-n", "2", path.to_str().unwrap()]));
    for number in 3..5 {
        assert!(following.line().contains(&format!(" ID{number} ")));
    }
    append(&path, &record(5, &json!({})));
    assert!(following.line().contains(" ID5 "));
    fs::rename(&path, folder.path().join("records.jsonl.1")).unwrap();
    append(&path, &record(6, &json!({})));
    assert!(following.line().contains(" ID6 "));
    let missing = portcullis().args(["tail", "no-such-file"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn below_each_denial_stands_why_where_that_is_asked_for() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config.yaml");
    let denied = json!({ "decision": "deny", "code": "token_expired", "status": 401, "policies": [] });
    let log = record(0, &json!({})) + &record(1, &denied);
    let shown = text(&tail(&["--explain", "--config", config], &log).stdout);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines.len() > 4 && lines[1].contains(" ID1 deny"), "{shown}");
    assert!(lines[2..].iter().all(|line| line.is_empty() || line.starts_with("    ")), "{shown}");
    assert!(shown.contains("deny (token_expired)") && shown.contains("✗ token"), "{shown}");
}

const EVIL: &str = "/\u{1b}[2J\u{9b}2J\n12:00:00 allow\r\u{202e}\u{2028}\u{7f}";

fn is_calm(shown: &str) -> bool {
    !shown.chars().any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}'))
}

#[test]
fn what_clients_send_gives_the_terminal_no_orders() {
    let everywhere = json!({
        "time": EVIL, "decision_id": EVIL, "decision": EVIL, "code": EVIL, "method": EVIL, "path": EVIL, "agent": EVIL,
        "user": EVIL, "policies": [EVIL],
    });
    let log = record(0, &everywhere);
    for arguments in [&[][..], &["--json"]] {
        let shown = text(&tail(arguments, &log).stdout);
        assert!(is_calm(&shown) && shown.lines().count() == 1, "{shown:?}");
    }
    // On a terminal only our own colours are there, and a line is one.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    append(&path, &record(0, &json!({ "path": format!("{EVIL}{}", "x".repeat(1000)) })));
    let script = "import pty, sys\npty.spawn(sys.argv[1:])";
    let mut terminal = Command::new("python3");
    terminal.args(["-c", script, "sh", "-c", "stty rows 24 cols 90 && exec \"$0\" tail \"$1\""]);
    terminal.args([portcullis().get_program().to_str().unwrap(), path.to_str().unwrap()]).env("TERM", "xterm");
    let mut following = Following::start(terminal.env_remove("NO_COLOR"));
    let line = following.line();
    let line = line.trim_end_matches(['\r', '\n']);
    assert!(line.contains("\u{1b}[32m") && line.contains("ID0"), "{line:?}");
    let plain = line.split("\u{1b}[").enumerate();
    let plain: String =
        plain.map(|(number, part)| if number == 0 { part } else { part.split_once('m').unwrap().1 }).collect();
    assert!(is_calm(&plain) && plain.chars().count() <= 90, "{plain:?}");
}
