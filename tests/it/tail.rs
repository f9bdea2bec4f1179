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
        json!({ "decision": "deny", "code": "token_missing", "agent": null, "user": null, "route": null }),
    ];
    let mut log: String = (0..).zip(&others).map(|(number, over)| record(number, over)).collect();
    log += "{\"chain\":\"opened\",\"seq\":0}\nno record\n";
    let shown = tail(&[], &log);
    let lines = text(&shown.stdout);
    assert_eq!(lines.lines().count(), 6, "{lines}");
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
    terminal.args(["-c", script, "sh", "-c", "stty rows 24 cols 90 && exec \"$0\" tail \"$1\" </dev/null"]);
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

/// Runs a program at a terminal of 10 lines of 90 columns, step by step: what is to be seen, what is pressed then, and what is added to
/// the file then. In place of a key there may be a signal, or a narrower terminal; in place of a line, a folder where the file was.
/// What was seen goes to standard output, after the last step with how the program and the terminal were left.
const TERMINAL: &str = r#"
import fcntl, json, os, pty, select, signal, struct, sys, termios, time
steps, path, program = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]
child, master = pty.fork()
def size(terminal, lines, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
if child == 0:
    # Whoever runs the tests may ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    size(0, 10, 90)
    os.execv(program[0], program)
def read():
    try:
        return os.read(master, 65536).decode(errors="replace")
    except OSError:
        return ""
for expected, keys, added in steps:
    seen, deadline = "", time.time() + 20
    while expected not in seen:
        ready = select.select([master], [], [], max(0, deadline - time.time()))[0]
        more = read() if ready else ""
        seen += more
        if not more:
            sys.exit("never " + repr(expected) + " in " + repr(seen))
    sys.stdout.write(seen)
    if added == "a folder":
        os.remove(path)
        os.mkdir(path)
    elif added:
        with open(path, "a") as file:
            file.write(added)
    if keys == "narrower":
        size(master, 5, 60)
    elif keys.startswith("SIG"):
        os.kill(child, getattr(signal, keys))
    else:
        os.write(master, keys.encode())
deadline = time.time() + 60
while select.select([master], [], [], max(0, deadline - time.time()))[0] and (more := read()):
    sys.stdout.write(more)
if time.time() > deadline:
    os.kill(child, signal.SIGKILL)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
cooked = termios.tcgetattr(master)[3] & (termios.ECHO | termios.ICANON) == termios.ECHO | termios.ICANON
print("\n" + json.dumps([status, cooked]))
"#;

/// What is seen at a terminal of this kind, and how the program and the terminal were left.
fn at_terminal(kind: &str, path: &Path, arguments: &[&str], steps: &[(&str, &str, String)]) -> (String, Value) {
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL, &json!(steps).to_string()]).arg(path).arg(portcullis().get_program());
    let path = path.to_str().unwrap();
    let output =
        command.args([&["tail", path], arguments].concat()).env("TERM", kind).env("NO_COLOR", "1").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let seen = text(&output.stdout);
    let (seen, left) = seen.trim_end().rsplit_once('\n').unwrap();
    (seen.to_owned(), serde_json::from_str(left).unwrap())
}

#[test]
fn at_a_terminal_decisions_can_be_looked_through_while_more_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    (0..4).for_each(|number| append(&path, &record(number, &json!({}))));
    append(&path, &record(4, &json!({ "agent": "agent-2" })));
    let more =
        json!({ "annotations": { "reads": { "owner": "team" } }, "side": "user", "stages_us": { "policy": 11 } });
    append(&path, &record(5, &more));
    let none = String::new();
    let new = record(6, &json!({ "path": EVIL, "agent": "agent-1" })) + &record(7, &json!({ "agent": "agent-2" }));
    let steps = [
        ("5 of 5, following", "k", none.clone()),
        ("\u{25b6} 12:00:00.123 ID3 ", "j", none.clone()),
        ("5 of 5, following", "\u{1b}[A\u{1b}[A", none.clone()),
        ("\u{25b6} 12:00:00.123 ID2 ", "", new),
        ("3 of 6 ", "\u{1b}[B\u{1b}[B", none.clone()),
        ("\u{25b6} 12:00:00.123 ID5 ", "\r", none.clone()),
        ("lines below", "G", none.clone()),
        ("policy 11", "\u{1b}", none.clone()),
        ("5 of 6 ", "G", none.clone()),
        ("6 of 6, following", "\r", none.clone()),
        ("lines below", "q", none.clone()),
        ("6 of 6, following", "q", none),
    ];
    let (seen, left) = at_terminal("xterm", &path, &["--agent", "agent-1"], &steps);
    assert_eq!(left, json!([0, true]), "it leaves the terminal as it was");
    for told in ["owner team", "side         user", "decision_id  ID5", "\u{1b}[?1049l"] {
        assert!(seen.contains(told), "{told}: {seen}");
    }
    assert!(!seen.contains("ID4") && !seen.contains("ID7"), "a filter is a filter");
    // But for the few orders of its own there are none.
    let seen = seen.replace("\r\n", "\n");
    let mut parts = seen.split("\u{1b}[");
    let first = parts.next().unwrap().to_owned();
    let rest = parts.map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ';' | '?')));
    let rest = rest.map(|part| part.strip_prefix(['H', 'K', 'h', 'l']).unwrap_or_else(|| panic!("{part:?}")));
    assert!(is_calm(&(first + &rest.collect::<String>())), "{seen:?}");
}

#[test]
fn at_a_terminal_that_cannot_be_drawn_on_and_for_json_lines_stay_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    append(&path, &record(0, &json!({})));
    for (kind, arguments, told) in [("dumb", &[][..], " ID0 allow"), ("xterm", &["--json"], "\"ID0\"")] {
        let (seen, left) = at_terminal(kind, &path, arguments, &[(told, "\u{3}", String::new())]);
        assert!(!seen.contains('\u{1b}'), "{seen:?}");
        assert_eq!(left, json!([-2, true]), "it is interrupted");
    }
}

#[test]
fn at_a_terminal_lines_are_as_wide_as_it_is_and_one_key_leaves_from_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    append(&path, &record(0, &json!({})));
    append(&path, &record(1, &json!({ "path": format!("/{}", "x".repeat(1000)) })));
    let none = String::new();
    let steps = [
        ("2 of 2, following", "k", none.clone()),
        ("1 of 2 ", "narrower", none.clone()),
        // The first one is no longer whole either.
        ("ID0 allow     200 allowed GET /users/1/data \u{2026}", "\r", none.clone()),
        ("lines below", "\u{3}", none),
    ];
    let (seen, left) = at_terminal("xterm", &path, &[], &steps);
    assert_eq!(left, json!([0, true]));
    let lines = seen.split("\u{1b}[2K").flat_map(str::lines).filter(|line| line.contains(" ID"));
    assert!(lines.clone().count() > 2 && lines.clone().all(|line| line.chars().count() <= 90), "{seen:?}");
}

#[test]
fn at_a_terminal_a_denial_is_explained_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    append(&path, &record(0, &json!({ "decision": "deny", "code": "token_expired", "status": 401, "policies": [] })));
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config.yaml");
    let none = String::new();
    let steps = [
        ("1 of 1, following", "\r", none.clone()),
        ("lines below", "G", none.clone()),
        ("\u{2717} token", "q", none.clone()),
        ("1 of 1, following", "q", none),
    ];
    let (_, left) = at_terminal("xterm", &path, &["--explain", "--config", config], &steps);
    assert_eq!(left, json!([0, true]));
}

#[test]
fn at_a_terminal_a_file_that_cannot_be_read_is_told_of_and_what_was_read_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    append(&path, &record(0, &json!({})));
    let steps = [("1 of 1, following", "", "a folder".to_owned()), ("the file cannot be read", "q", String::new())];
    let (seen, left) = at_terminal("xterm", &path, &[], &steps);
    assert_eq!(left, json!([1, true]));
    let told = seen.split("\u{1b}[H").find(|frame| frame.contains("the file cannot be read"));
    assert!(told.is_some_and(|frame| frame.contains("ID0")), "{seen:?}");
    assert!(seen.contains("portcullis: ") && seen.contains("directory"), "{seen:?}");
}

#[test]
fn whoever_ends_it_from_elsewhere_leaves_the_terminal_as_it_was() {
    for signal in ["SIGTERM", "SIGHUP", "SIGINT"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        (0..2).for_each(|number| append(&path, &record(number, &json!({}))));
        let steps = [("2 of 2, following", "k", String::new()), ("1 of 2 ", signal, String::new())];
        let (seen, left) = at_terminal("xterm", &path, &[], &steps);
        assert_eq!(left, json!([0, true]), "{signal}");
        assert!(seen.contains("\u{1b}[?1049l"), "{signal}: {seen:?}");
    }
}
