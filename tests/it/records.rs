//! Records in files: what is promised of them when a gate is killed, and when they cannot be written.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use portcullis::base::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cli::{self, free_port, portcullis, text},
    h2, house, wire,
};

/// A gate of its own process, which is killed with the test.
pub(crate) struct Gate {
    child: Child,
    pub(crate) address: String,
    pub(crate) admin: String,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a configuration whose records are kept as `records` says, and a key that signs them.
pub(crate) fn folder(records: &str) -> (TempDir, PathBuf) {
    let config = format!(
        "listen: 127.0.0.1:{}\nadmin: 127.0.0.1:{}\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
         \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\nroutes:\n\
         \x20 - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\nrecords: {{ stdout: false, {records} }}\n",
        free_port(),
        free_port()
    );
    let (folder, file) = cli::folder(&config);
    let keys = json!({ "keys": [house::key("agents").jwk()] }).to_string();
    fs::write(folder.path().join("keys.json"), keys).unwrap();
    for arguments in ["genpkey -algorithm ed25519 -out signing.pem", "pkey -in signing.pem -pubout -out public.pem"] {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
    }
    (folder, file)
}

pub(crate) fn start(file: &Path) -> Gate {
    let config = fs::read_to_string(file).unwrap();
    let line = |number: usize| config.lines().nth(number).unwrap().split_once(' ').unwrap().1.to_owned();
    let mut command = portcullis();
    command.args(["serve", "--config", file.to_str().unwrap()]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut gate = Gate { child: command.spawn().unwrap(), address: line(0), admin: line(1) };
    let deadline = Instant::now() + Duration::from_secs(20);
    while get(&gate.admin, "/readyz").is_none_or(|answer| !answer.contains(" 200 ")) {
        assert!(Instant::now() < deadline && gate.child.try_wait().unwrap().is_none(), "never ready");
        thread::sleep(Duration::from_millis(20));
    }
    gate
}

fn get(address: &str, path: &str) -> Option<String> {
    ask(address, &format!("GET {path}"), "", "")
}

/// What is answered to a request: `GET /path`, `fields` with their line ends, and a body.
pub(crate) fn ask(address: &str, what: &str, fields: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!(
        "{what} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A field with a token that is good now where [`folder`] has the configuration.
pub(crate) fn bearer(more: &Value) -> String {
    let now = SystemClock.now().seconds();
    let mut claims = house::claims();
    let good = json!({ "iss": "https://issuer.example", "aud": "api", "iat": now, "exp": now + 600 });
    for more in [&good, more] {
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    format!("authorization: Bearer {}\r\n", house::key("agents").sign(&claims).unwrap())
}

fn written(gate: &Gate) -> u64 {
    let metrics = get(&gate.admin, "/metrics").unwrap_or_default();
    let line = metrics.lines().find(|line| line.starts_with("portcullis_records_written_total{sink=\"file\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

fn verify(folder: &Path) -> (bool, String) {
    let mut files: Vec<_> = (1..=100).rev().map(|number| format!("records.jsonl.{number}")).collect();
    files.push("records.jsonl".into());
    files.retain(|name| folder.join(name).exists());
    let verified = portcullis()
        .current_dir(folder)
        .args(["audit", "verify", "--key", "public.pem"])
        .args(&files)
        .output()
        .unwrap();
    (verified.status.success(), text(&verified.stdout) + &text(&verified.stderr))
}

#[test]
fn no_record_that_counts_as_written_is_lost_when_the_gate_is_killed() {
    let (folder, file) = folder(
        "file: { path: records.jsonl, bytes_max: 65536, keep: 100, sync: true, chain: true, signing_key: { file: signing.pem } }",
    );
    let folder = folder.path();
    let mut known = 0;
    for round in 1..=3_u64 {
        let mut gate = start(&file);
        let over = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> =
            (0..4)
                .map(|_| {
                    let (over, address) = (over.clone(), gate.address.clone());
                    thread::spawn(move || {
                        while !over.load(Ordering::Relaxed) && get(&address, "/users/user-1/data").is_some() {}
                    })
                })
                .collect();
        let mut last = 0;
        let deadline = Instant::now() + Duration::from_secs(30);
        while last < 150 * round {
            assert!(Instant::now() < deadline, "{last} records in 30 s");
            last = written(&gate).max(last);
        }
        gate.child.kill().unwrap();
        gate.child.wait().unwrap();
        over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        known += last;
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.to_string_lossy().contains("records.jsonl"));
        let there: usize = files.map(|path| fs::read_to_string(path).unwrap().matches("\"decision_id\"").count()).sum();
        assert!(u64::try_from(there).unwrap() >= known, "{there} of {known}");
    }
    drop(start(&file));
    let (whole, said) = verify(folder);
    assert!(whole && said.starts_with("whole: "), "{said}");
    // One line is changed, and found.
    let path = folder.join("records.jsonl.1");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"code\":\"token_missing\"", "\"code\":\"token_expired\"", 1)).unwrap();
    let (whole, said) = verify(folder);
    assert!(!whole && said.contains("records.jsonl.1:") && said.contains("was changed"), "{said}");
    // And what is not as it was is not gone on with.
    let text = fs::read_to_string(folder.join("records.jsonl")).unwrap();
    fs::write(folder.join("records.jsonl"), text.replacen("\"time\":\"2", "\"time\":\"3", 1)).unwrap();
    let refused = portcullis().args(["serve", "--config", file.to_str().unwrap()]).output().unwrap();
    assert!(!refused.status.success() && self::text(&refused.stderr).contains("records.jsonl"), "{refused:?}");
}

#[test]
fn a_file_that_is_moved_away_is_begun_anew_with_the_signal_of_whoever_moved_it() {
    let (folder, file) =
        folder("file: { path: records.jsonl, chain: true, signing_key: { file: signing.pem }, sign_every_s: 1 }");
    let mut gate = start(&file);
    let (folder, over) = (folder.path(), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (over, address) = (over.clone(), gate.address.clone());
            thread::spawn(move || {
                let asked = || get(&address, "/users/user-1/data").unwrap().contains(" 401 ");
                std::iter::repeat_with(asked).take_while(|good| *good && !over.load(Ordering::Relaxed)).count()
            })
        })
        .collect();
    let path = folder.join("records.jsonl");
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: never");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let records = |path: &Path| fs::read_to_string(path).map_or(0, |text| text.matches("\"decision_id\"").count());
    let moved = |number: usize| {
        wait("records", &|| records(&path) > 20);
        let to = folder.join(format!("records.jsonl.{number}"));
        fs::rename(&path, &to).unwrap();
        let sent = Command::new("kill").args(["-HUP", &gate.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        to
    };
    for number in [4, 3, 2] {
        moved(number);
    }
    wait("records", &|| records(&path) > 20);
    over.store(true, Ordering::Relaxed);
    // What a client was answered last is not counted by it.
    let asked = clients.into_iter().map(|client| client.join().unwrap() + 1).sum::<usize>();
    wait("all that was asked", &|| written(&gate) == u64::try_from(asked).unwrap());
    // Though nobody asks any more, and though it is to sign what stands in the file that was moved.
    let quiet = moved(1);
    let length = fs::metadata(&quiet).unwrap().len();
    wait("another file", &|| fs::read_to_string(&path).is_ok_and(|text| text.contains("\"chain\":\"opened\"")));
    wait("a signature", &|| fs::read_to_string(&path).unwrap().contains("\"chain\":\"signed\""));
    assert_eq!(fs::metadata(&quiet).unwrap().len(), length, "it gets no more");
    let terminated = Command::new("kill").arg(gate.child.id().to_string()).status().unwrap();
    assert!(terminated.success() && gate.child.wait().unwrap().success());
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = all.filter(|path| path.to_string_lossy().contains("records.jsonl"));
    assert_eq!(all.map(|path| records(&path)).sum::<usize>(), asked);
    let (whole, said) = verify(folder);
    assert!(whole && said.starts_with("whole: "), "{said}");
}

#[test]
fn no_request_passes_unrecorded_where_none_may() {
    for (when_full, ends) in [("refuse", "records_unavailable"), ("accept_unrecorded", "token_missing")] {
        // A disk that is always full, and beside it a collector that takes everything.
        let socket = tempfile::tempdir().unwrap();
        let collector = UnixDatagram::bind(socket.path().join("log")).unwrap();
        collector.set_nonblocking(true).unwrap();
        let (_folder, file) = folder(&format!(
            "when_full: {when_full}, file: {{ path: /dev/full }}, syslog: {{ to: 'unix:{}/log' }}",
            socket.path().display()
        ));
        let gate = start(&file);
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = if ends == "token_missing" { " 401 " } else { " 503 " };
        let mut seen = 0;
        // The first that fails tells the others.
        while seen < 5 {
            assert!(Instant::now() < deadline, "never {ends}");
            let answer = get(&gate.address, "/users/user-1/data").unwrap();
            while collector.recv(&mut [0]).is_ok() {}
            seen = if answer.contains(status) { seen + 1 } else { 0 };
            thread::sleep(Duration::from_millis(5));
        }
        // Longer than it takes until what has nothing to write looks for other work.
        thread::sleep(Duration::from_millis(1500));
        let answer = get(&gate.address, "/users/user-1/data").unwrap();
        assert!(answer.contains(status), "{answer}");
        let metrics = get(&gate.admin, "/metrics").unwrap();
        assert!(metrics.contains(&format!("code=\"{ends}\"")), "{metrics}");
        assert!(metrics.contains("portcullis_records_written_total{sink=\"file\"} 0"), "{metrics}");
    }
}

#[test]
fn records_go_on_where_they_ended_and_each_is_valid_json() {
    let (folder, file) = folder("file: { path: records.jsonl }");
    for _ in 0..2 {
        let mut gate = start(&file);
        get(&gate.address, "/users/user-1/data").unwrap();
        let terminated = Command::new("kill").arg(gate.child.id().to_string()).status().unwrap();
        assert!(terminated.success() && gate.child.wait().unwrap().success());
    }
    let text = fs::read_to_string(folder.path().join("records.jsonl")).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["code"] == "token_missing" && record.get("hash").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_tells_by_whose_key_how_far_and_how_fast() {
    let mut house = house::House::build(Some(house::ROUTES), &[], house::NOW).await;
    let ask = |user: &str, fields: &[(String, String)]| wire::request("GET", &format!("/users/{user}/data"), fields);
    let (_, record) = house.ask(&ask("user-1", &[house::bearer()])).await;
    let allowed = serde_json::to_value(record.unwrap()).unwrap();
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(house::key("agents").jwk()).unwrap();
    assert_eq!(allowed["key"], jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap());
    assert_eq!((&allowed["upstream_status"], &allowed["stage"]), (&json!(200), &Value::Null));
    let number = |of: &Value| of.as_u64().unwrap();
    let stages = ["request", "token", "entities", "policy"].map(|stage| number(&allowed["stages_us"][stage]));
    assert!(stages.iter().sum::<u64>() <= number(&allowed["decision_us"]), "{allowed}");
    assert!(number(&allowed["upstream_us"]) > 0 && number(&allowed["upstream_us"]) <= number(&allowed["duration_us"]));
    // Once per token, and told with each request.
    let (_, again) = house.ask(&ask("user-1", &[house::bearer()])).await;
    assert!(again.is_some_and(|it| it.token_cached && it.key.as_deref() == allowed["key"].as_str()));
    let forged = ("authorization".to_owned(), format!("{}AAAA", house::bearer().1));
    for (fields, user, stage, passed) in [
        (vec![], "user-1", "token", vec!["request"]),
        (vec![forged], "user-1", "token", vec!["request"]),
        (vec![house::bearer()], "user-2", "policy", vec!["request", "token", "entities"]),
    ] {
        let (_, record) = house.ask(&ask(user, &fields)).await;
        let record = serde_json::to_value(record.unwrap()).unwrap();
        let told: Vec<_> = record["stages_us"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((record["stage"].as_str(), told), (Some(stage), passed), "{record}");
        assert!(record["upstream_status"].is_null() && record["upstream_us"].is_null());
        assert_eq!(record["key"].is_null(), stage == "token", "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_tells_how_a_request_came_and_what_was_carried() {
    let mut house = house::House::build(Some(house::ROUTES), &[], house::NOW).await;
    let body = "x".repeat(3000);
    for (version, protocol, fields, code) in [
        ("1.1", "http/1.1", vec![house::bearer()], "allowed"),
        ("1.0", "http/1.0", vec![house::bearer()], "allowed"),
        ("1.1", "http/1.1", vec![], "token_missing"),
    ] {
        let fields = [fields, vec![("content-length".to_owned(), body.len().to_string())]].concat();
        let request = wire::request("POST", "/users/user-1/data", &fields);
        let request = text(&request).replace("HTTP/1.1", &format!("HTTP/{version}")) + &body;
        let (answer, record) = house.ask(request.as_bytes()).await;
        let record = serde_json::to_value(record.unwrap()).unwrap();
        assert_eq!(
            (&record["door"], &record["protocol"], &record["code"]),
            (&json!("proxy"), &json!(protocol), &json!(code))
        );
        assert_eq!(record["answer_bytes"], answer.body.len(), "{record}");
        let read = record["body_bytes"].as_u64().unwrap_or(0);
        assert!(read == 3000 || code != "allowed" && read < 3000, "{record}");
    }
    // Of a request that nobody could read, nothing is known.
    let (_, record) = house.ask(b"GET /users/user-1/data HTTP/9.9\r\nhost: gate\r\n\r\n").await;
    let record = serde_json::to_value(record.unwrap()).unwrap();
    let untold = ["protocol", "body_bytes", "answer_bytes"].map(|name| &record[name]);
    assert_eq!((&record["door"], untold), (&json!("proxy"), [&Value::Null; 3]), "{record}");
    let mut client = h2::Client::to(house.app.address()).await;
    let post = h2::request("POST", "/users/user-1/data", &[house::bearer()]).unwrap();
    let (response, mut sending) = client.begin(post, false).await;
    sending.send_data(body.into(), true).unwrap();
    let answer = h2::whole(response).await.unwrap();
    let record = serde_json::to_value(house.record().await.unwrap()).unwrap();
    assert_eq!((&record["protocol"], &record["body_bytes"]), (&json!("h2"), &json!(3000)), "{record}");
    assert_eq!(record["answer_bytes"], answer.body.len(), "{record}");
    // One token, three times: it was new once.
    let metrics = house.operators("/metrics").await.body;
    for (cache, outcome, times) in
        [("token", "hit", 2), ("token", "miss", 1), ("decision", "hit", 1), ("decision", "miss", 2)]
    {
        let line =
            format!("portcullis_cache_answers_total{{cache=\"{cache}\",outcome=\"{outcome}\",source=\"\"}} {times}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_tells_of_policies_and_tokens_what_it_is_asked_for_alone() {
    let policy = "@id(\"reads\") @owner(\"team a\") @ticket(\"T-1\") @note(\"\") permit (principal, action, resource);\n\
                  @id(\"never\") @owner(\"team b\") forbid (principal, action, resource) when { resource == UserData::\"user-2\" };";
    let records = "records: { annotations: [owner, note], claims: [jti, onBehalfOf.sub, absent, long] }\n";
    let policies = [("policies/users.cedar".to_owned(), policy.to_owned())];
    let mut house = house::House::build(Some(&format!("{}{records}", house::ROUTES)), &policies, house::NOW).await;
    let mut claims = house::claims();
    (claims["jti"], claims["long"], claims["secret"]) = ("j-1".into(), "x".repeat(2000).into(), "hidden".into());
    let token = house::key("agents").sign(&claims).unwrap();
    let ask = |user: &str, token: &str| {
        let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
        wire::request("GET", &format!("/users/{user}/data"), &fields)
    };
    let told = json!({ "jti": "j-1", "onBehalfOf.sub": claims["onBehalfOf"]["sub"], "long": null });
    for (user, said) in
        [("user-1", json!({ "reads": { "owner": "team a" } })), ("user-2", json!({ "never": { "owner": "team b" } }))]
    {
        let (_, record) = house.ask(&ask(user, &token)).await;
        let record = serde_json::to_value(record.unwrap()).unwrap();
        assert_eq!((&record["annotations"], &record["claims"]), (&said, &told), "{record}");
        assert!(!record.to_string().contains("hidden"));
    }
    // What nobody vouches for is not told.
    let (_, record) = house.ask(&ask("user-1", &format!("{token}AAAA"))).await;
    let record = record.unwrap();
    assert!(record.claims.is_empty() && record.annotations.is_empty(), "{record:?}");
}

#[test]
fn records_that_would_tell_too_much_are_not_asked_for() {
    for (records, problem) in [
        ("claims: [sub], pseudonyms: { key: { file: nonce-secret } }", "pseudonyms are to hide"),
        ("claims: [sub, sub]", "stands twice"),
        ("pseudonyms: { key: { file: nonce-secret }, clear: [User.email] }", "clear: [User.email]"),
        ("claims: [a..b]", "not a claim"),
        ("annotations: ['@owner']", "not the name of an annotation"),
        ("annotations: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]", "more than 16 annotations"),
    ] {
        let loaded = house::House::load(Some(&format!("{}records: {{ {records} }}\n", house::ROUTES)), &[]);
        let problems = loaded.compile().map(drop).unwrap_err().to_string();
        assert!(problems.contains(problem), "{records}: {problems}");
    }
}
