//! Sockets that outlive the process: one gate takes over from another, or from systemd.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};

use crate::{
    cli::{folder, free_port, portcullis},
    house,
};

/// A gate and those that take over from it, all with one log.
struct Line {
    folder: tempfile::TempDir,
    config: PathBuf,
    first: Child,
    at: SocketAddr,
    admin: SocketAddr,
}

fn config(at: SocketAddr, admin: SocketAddr, more: &str) -> String {
    format!(
        "listen: {at}\nadmin: {admin}\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
         \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\nroutes:\n\
         \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n{more}"
    )
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Line {
    fn start(more: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        Self::start_at(local(free_port()), local(free_port()), more, prepare)
    }

    fn start_at(at: SocketAddr, admin: SocketAddr, more: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let (folder, config) = folder(&config(at, admin, more));
        let keys = serde_json::json!({ "keys": [house::key("agents").jwk()] });
        std::fs::write(folder.path().join("keys.json"), keys.to_string()).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = portcullis();
        command.args(["serve", "--config", config.to_str().unwrap()]).stdout(log.try_clone().unwrap()).stderr(log);
        prepare(&mut command);
        let first = command.spawn().unwrap();
        Self { folder, config, first, at, admin }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until the log has that as often.
    fn said(&self, what: &str, times: usize) {
        wait(|| self.log().matches(what).count() >= times, || format!("`{what}`, {times} times, in\n{}", self.log()));
    }

    /// The gates that have taken over, one after the other.
    fn successors(&self) -> Vec<String> {
        let log = self.log();
        let after = log.split("\"process\":").skip(1);
        after.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect()).collect()
    }

    fn is_served(&self) -> bool {
        status(self.at, "/users/1/data") == Some(401) && status(self.admin, "/livez") == Some(200)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for process in self.successors() {
            let _ = Command::new("kill").args(["-KILL", &process]).output();
        }
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

/// Ends the threads of a test that go on until then, however it ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "never: {}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), process]).status().unwrap().success());
}

/// The status of one request on a connection of its own; `None` where there is no whole answer.
fn status(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_gate_takes_over_as_often_as_it_is_told_to_and_no_request_is_lost() {
    let mut line = Line::start("", |_| {});
    line.said("the gate stands", 1);
    let (ended, asked, lost) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                asked.fetch_add(1, Ordering::Relaxed);
                lost.fetch_add(usize::from(!line.is_served()), Ordering::Relaxed);
            }
        });
        let _ends = Ends(&ended);
        let mut process = line.first.id().to_string();
        for times in 1..=3 {
            signal("USR2", &process);
            line.said("another gate has taken over", times);
            process = line.successors().pop().unwrap();
        }
        let before = asked.load(Ordering::Relaxed);
        wait(|| asked.load(Ordering::Relaxed) > before + 10, || "more requests".into());
    });
    assert_eq!(lost.load(Ordering::Relaxed), 0, "of {asked:?}: {}", line.log());
    assert!(line.first.wait().unwrap().success());
    line.said("the gate stands", 4);
    signal("TERM", &line.successors().pop().unwrap());
    wait(|| TcpStream::connect(line.at).is_err(), || "the last one ends".into());
}

/// The records in the files of `folder`, the oldest first, and what is said of their chain.
fn filed(folder: &Path) -> (Vec<String>, String) {
    let mut names: Vec<_> = (1..100).rev().map(|number| format!("records.jsonl.{number}")).collect();
    names.push("records.jsonl".into());
    names.retain(|name| folder.join(name).exists());
    let verified = portcullis().current_dir(folder).args(["audit", "verify"]).args(&names).output().unwrap();
    let text: String = names.iter().map(|name| std::fs::read_to_string(folder.join(name)).unwrap()).collect();
    let records = text.lines().filter(|line| line.contains("decision_id")).map(str::to_owned).collect();
    (records, String::from_utf8_lossy(&[verified.stdout, verified.stderr].concat()).into_owned())
}

#[test]
fn records_in_a_file_go_on_in_one_chain_whoever_writes_it() {
    let more = "records: { file: { path: records.jsonl, bytes_max: 65536, keep: 100, sync: true, chain: true }, stdout: false, \
                when_full: refuse }\n";
    let mut line = Line::start(more, |_| {});
    line.said("the gate stands", 1);
    let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(status(line.at, "/users/1/data"), Some(401));
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _ends = Ends(&ended);
        let mut process = line.first.id().to_string();
        for times in 1..=3 {
            let mut kept: Vec<_> = (0..5).map(|_| TcpStream::connect(line.at).unwrap()).collect();
            kept.iter_mut().for_each(|stream| drop(ask(stream)));
            let mut half = TcpStream::connect(line.at).unwrap();
            half.write_all(b"GET /half HTTP/1.1\r\nhost: gate\r\n").unwrap();
            std::thread::sleep(Duration::from_millis(100));
            signal("USR2", &process);
            line.said("another gate has taken over", times);
            // What the one before still answers, until it says that it ends, is recorded by the next one.
            for stream in &mut kept {
                let mut answers = (0..10_000).map(|_| ask(stream));
                let last = answers.position(|answer| answer.contains("connection: close"));
                asked.fetch_add(last.expect("an answer that is the last") + 1, Ordering::Relaxed);
            }
            // The file is the next one's, although the one before has a request under way.
            let before = filed(line.folder.path()).0.len();
            wait(|| filed(line.folder.path()).0.len() > before + 10, || format!("records beyond {before}"));
            half.write_all(b"connection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            half.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
            // And one before on each of the five.
            asked.fetch_add(6, Ordering::Relaxed);
            process = line.successors().pop().unwrap();
        }
        let before = asked.load(Ordering::Relaxed);
        wait(|| asked.load(Ordering::Relaxed) > before + 300, || "more requests".into());
    });
    assert!(line.first.wait().unwrap().success());
    line.said("the gate stands", 4);
    let last = line.successors().pop().unwrap();
    signal("TERM", &last);
    let folder = line.folder.path();
    wait(|| File::open(folder.join("records.jsonl")).unwrap().try_lock().is_ok(), || "the last one ends".into());
    let (records, said) = filed(folder);
    assert!(said.starts_with("whole: "), "{said}");
    assert_eq!(records.len(), asked.load(Ordering::Relaxed), "{said}{}", line.log());
    assert_eq!(records.iter().filter(|record| record.contains("\"/half\"")).count(), 3);
    assert!(!line.log().contains("cannot be written"), "{}", line.log());
}

#[test]
fn a_gate_that_cannot_take_over_leaves_the_one_before() {
    let line = Line::start("", |_| {});
    line.said("the gate stands", 1);
    let good = std::fs::read_to_string(&line.config).unwrap();
    let elsewhere = good.replace(&format!("listen: {}", line.at), &format!("listen: {}", local(free_port())));
    let without_keys = good.replace("jwks_file: keys.json", "jwks_uri: 'http://127.0.0.1:1/', fetch_timeout_ms: 100");
    let said = ["portcullis: 1 problem in", "where no listener nor `admin` is", "no keys of https://issuer.example"];
    for (times, (bad, said)) in (1..).zip(["listen: nowhere\n", &elsewhere, &without_keys].into_iter().zip(said)) {
        std::fs::write(&line.config, bad).unwrap();
        signal("USR2", &line.first.id().to_string());
        line.said("no other gate has taken over; this one goes on", times);
        line.said(said, 1);
        assert!(line.is_served(), "{}", line.log());
    }
    assert_eq!(line.log().matches("the gate stands").count(), 1, "{}", line.log());
}

#[test]
fn a_gate_that_is_told_to_stop_says_so_first_and_serves_on_for_a_while() {
    let mut line = Line::start("drain: { delay_ms: 1500 }\n", |_| {});
    line.said("the gate stands", 1);
    wait(|| status(line.admin, "/readyz") == Some(200), || "ready".into());
    signal("TERM", &line.first.id().to_string());
    wait(|| status(line.admin, "/readyz") == Some(503), || "not ready".into());
    assert!(line.is_served());
    assert!(line.first.wait().unwrap().success());
}

/// One request on a connection that stays open; gives the head of the answer, in lower case.
fn ask(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET /users/1/data HTTP/1.1\r\nhost: gate\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..read]);
    }
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

#[test]
fn a_connection_that_is_idle_when_the_gate_stops_may_have_a_request_on_its_way() {
    let mut line = Line::start("", |_| {});
    line.said("the gate stands", 1);
    let [mut busy, mut quiet] = [0; 2].map(|_| TcpStream::connect(line.at).unwrap());
    for stream in [&mut busy, &mut quiet] {
        assert!(!ask(stream).contains("connection: close"));
    }
    signal("TERM", &line.first.id().to_string());
    line.said("draining", 1);
    std::thread::sleep(Duration::from_millis(200));
    assert!(ask(&mut busy).contains("connection: close"));
    assert_eq!(busy.read(&mut [0]).unwrap(), 0);
    assert_eq!(quiet.read(&mut [0]).unwrap(), 0, "nor is one waited for that stays idle");
    assert!(line.first.wait().unwrap().success());
}

/// `sockets` as systemd hands them over.
fn hand(sockets: Vec<TcpListener>, command: &mut Command) {
    command.env("LISTEN_FDS", sockets.len().to_string());
    let mappings = (3..).zip(sockets).map(|(child_fd, it)| FdMapping { parent_fd: OwnedFd::from(it), child_fd });
    command.fd_mappings(mappings.collect()).unwrap();
}

fn manager(folder: &Path) -> (UnixDatagram, PathBuf) {
    let path = folder.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (manager, path)
}

fn told(manager: &UnixDatagram) -> String {
    let mut text = [0; 200];
    let length = manager.recv(&mut text).unwrap();
    String::from_utf8_lossy(&text[..length]).trim_end().to_owned()
}

#[test]
fn sockets_come_from_the_service_manager_which_is_told_who_serves() {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (data, admin, stray) = (bind(), bind(), bind());
    let folder = tempfile::tempdir().unwrap();
    let (manager, path) = manager(folder.path());
    let (at, operators) = (data.local_addr().unwrap(), admin.local_addr().unwrap());
    let mut line = Line::start_at(at, operators, "", |command| {
        hand(vec![admin.try_clone().unwrap(), data.try_clone().unwrap()], command);
        command.env("NOTIFY_SOCKET", path);
    });
    assert_eq!(told(&manager), "READY=1", "{}", line.log());
    assert!(line.is_served());
    signal("USR2", &line.first.id().to_string());
    assert_eq!(
        told(&manager),
        format!(
            "MAINPID={}",
            line.successors().pop().unwrap_or_else(|| {
                line.said("another gate has taken over", 1);
                line.successors().pop().unwrap()
            })
        )
    );
    assert!(line.first.wait().unwrap().success());
    assert!(line.is_served());
    signal("TERM", &line.successors().pop().unwrap());
    assert_eq!(told(&manager), "STOPPING=1");

    let mut line = Line::start("", |command| hand(vec![stray.try_clone().unwrap()], command));
    assert_eq!(line.first.wait().unwrap().code(), Some(1));
    line.said(&format!("a socket was handed over that listens on {}", stray.local_addr().unwrap()), 1);
}
