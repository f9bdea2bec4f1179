//! The gate among its neighbours: upstreams that fail, clients that keep a connection, and real ones: nginx and curl.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use portcullis::audit::Outcome;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    house::{self, House, ROUTES, bearer, good_token},
    wire::{self, Answer},
};

/// A gate in front of `upstream`, with more settings.
async fn gate(upstream: &str, settings: &str) -> House {
    let text = format!("{ROUTES}{settings}")
        .replace("url: 'http://127.0.0.1:1'", &format!("url: '{upstream}', read_timeout_ms: 300"));
    House::build_for(&text, upstream).await
}

async fn ask(house: &mut House) -> (u16, &'static str) {
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &[bearer()])).await;
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let record = record.unwrap();
    assert_eq!((record.decision, record.status), (Outcome::Allow, answer.status));
    (answer.status, record.code)
}

/// An upstream that does `answer` to whatever comes, and then waits or closes.
async fn upstream(answer: &'static [u8], then_close: bool) -> SocketAddr {
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
                if !then_close {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_502() {
    let nobody = house::loopback().await.local_addr().unwrap();
    let mut house = gate(&format!("http://{nobody}"), "").await;
    assert_eq!(ask(&mut house).await, (502, "upstream_unreachable"));
    let mut house = gate("http://name.invalid:80", "").await;
    assert_eq!(ask(&mut house).await, (502, "upstream_unreachable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_nothing_is_504() {
    let silent = upstream(b"", false).await;
    let mut house = gate(&format!("http://{silent}"), "").await;
    assert_eq!(ask(&mut house).await, (504, "upstream_timed_out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_speak_http_is_502() {
    for answer in [&b"220 mail.example ESMTP\r\n\r\n"[..], b"\x15\x03\x01\x00\x02\x02\x50", b""] {
        let odd = upstream(answer, true).await;
        let mut house = gate(&format!("http://{odd}"), "").await;
        assert_eq!(ask(&mut house).await, (502, "upstream_invalid"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_connection_is_decided_by_itself() {
    let mut house = House::build(Some(ROUTES), &[], house::NOW).await;
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    let token = good_token();
    for (path, status) in [("user-1", 200), ("user-2", 403), ("user-1", 200), ("nowhere", 403), ("user-1", 200)] {
        let request = format!("GET /users/{path}/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(one_answer(&mut stream).await.status, status, "{path}");
    }
    stream.write_all(b"GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\n\r\n").await.unwrap();
    assert_eq!(one_answer(&mut stream).await.status, 401, "no token is remembered for a connection");
    assert_eq!(house.service.received(), 3);
    for _ in 0..6 {
        assert!(house.record().await.is_some());
    }
}

/// One answer with `content-length` or chunks, from a connection that stays open.
async fn one_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = timeout(Duration::from_secs(5), stream.read(&mut part)).await.expect("an answer").unwrap();
        bytes.extend(&part[..read]);
        let answer = Answer::parse(&bytes);
        let whole = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        if read == 0 || whole.is_some_and(|whole| answer.body.len() >= whole) || answer.body.ends_with("0\r\n\r\n") {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_refused_request_is_never_taken_for_the_next_one() {
    let mut house = House::build(Some(ROUTES), &[], house::NOW).await;
    let inner =
        format!("GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {}\r\n\r\n", good_token());
    let chunk = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for (fields, body) in [
        (format!("content-length: {}", inner.len()), inner.as_str()),
        ("transfer-encoding: chunked".into(), chunk.as_str()),
    ] {
        for target in ["/users/user-1/data", "/users/../x"] {
            let request = format!("POST {target} HTTP/1.1\r\nhost: gate\r\n{fields}\r\n\r\n{body}");
            let answers =
                String::from_utf8_lossy(&wire::send(house.app.address(), request.as_bytes()).await).into_owned();
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
            assert!(house.record().await.is_some() && house.record().await.is_none());
        }
    }
    assert_eq!(house.service.received(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_408() {
    let settings = "limits: { client_timeout_ms: 300 }\n";
    let mut house = House::build(Some(&format!("{ROUTES}{settings}")), &[], house::NOW).await;
    let token = good_token();
    let request = format!(
        "POST /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\ncontent-length: 10\r\n\r\nabc"
    );
    let (answer, record) = house.ask(request.as_bytes()).await;
    assert_eq!((answer.status, record.unwrap().code), (408, "body_timed_out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_targets_have_limits() {
    let settings = "limits: { head_bytes_max: 4096, target_bytes_max: 256 }\n";
    let mut house = House::build(Some(&format!("{ROUTES}{settings}")), &[], house::NOW).await;
    let long = format!("/users/user-1/data?{}", "a".repeat(256));
    let (answer, record) = house.ask(&wire::request("GET", &long, &[bearer()])).await;
    assert_eq!((answer.status, record.unwrap().code), (414, "target_too_long"));
    let large = [bearer(), ("x".into(), "a".repeat(4096))];
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &large)).await;
    assert_eq!((answer.status, record.unwrap().code), (431, "head_too_large"));
    let token = [("authorization".to_owned(), format!("Bearer {}", ".".repeat(3000)))];
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &token)).await;
    assert_eq!((answer.status, record.unwrap().code), (401, "token_malformed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_over_the_limit_is_malformed_however_it_looks() {
    let mut house = House::build(Some(ROUTES), &[], house::NOW).await;
    for token in ["a".repeat(8193), ".".repeat(20_000), format!("{}.{}", good_token(), "A".repeat(8000))] {
        let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
        let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &fields)).await;
        assert_eq!((answer.status, record.unwrap().code), (401, "token_malformed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_turned_away() {
    let mut house = House::build(Some(&format!("{ROUTES}limits: {{ connections_max: 2 }}\n")), &[], house::NOW).await;
    let address = house.app.address();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n").await.unwrap();
        assert_eq!(one_answer(&mut stream).await.status, 401);
        held.push(stream);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), third.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(Answer::parse(&answer).status, 503);
    let codes = [house.record().await, house.record().await, house.record().await].map(|record| record.unwrap().code);
    assert_eq!(codes, ["token_missing", "token_missing", "overloaded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_stops_finishes_what_is_under_way_and_takes_no_more() {
    let slow = upstream_after(Duration::from_millis(200)).await;
    let House { app, .. } = gate(&format!("http://{slow}"), "").await;
    let address = app.address();
    let request = wire::request("GET", "/users/user-1/data", &[bearer()]);
    let under_way = tokio::spawn(async move { Answer::parse(&wire::send(address, &request).await).status });
    tokio::time::sleep(Duration::from_millis(60)).await;
    timeout(Duration::from_secs(5), app.stop(Duration::from_secs(30))).await.expect("a prompt end");
    assert_eq!(under_way.await.unwrap(), 200);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_under_way_at_the_end_of_the_drain_is_cut_off_and_recorded() {
    let slow = upstream_after(Duration::from_millis(250)).await;
    let house = gate(&format!("http://{slow}"), "").await;
    let (address, request) = (house.app.address(), wire::request("GET", "/users/user-1/data", &[bearer()]));
    let under_way = tokio::spawn(async move { wire::send(address, &request).await });
    tokio::time::sleep(Duration::from_millis(60)).await;
    let (app, mut records) = house.part();
    app.stop(Duration::from_millis(20)).await;
    let record = records.try_recv().expect("the record is there when the gate has stopped");
    assert_eq!((record.decision, record.status), (Outcome::Allow, 0));
    assert!(under_way.await.unwrap().is_empty());
}

async fn upstream_after(pause: Duration) -> SocketAddr {
    let listener = house::loopback().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        tokio::time::sleep(pause).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    address
}

/// nginx with `config` inside its `server` block; ends with the test.
struct Nginx {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    async fn start(listen: &str, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let port = house::loopback().await.local_addr().unwrap().port();
        let text = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log; events {{}}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
             client_max_body_size 64m; server {{ listen 127.0.0.1:{port}{listen}; {config} }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let process = Command::new("nginx")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
            .args(["-p", folder.path().to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { process, folder, port };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return nginx;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}", std::fs::read_to_string(nginx.folder.path().join("error.log")).unwrap_or_default());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn curl(arguments: Vec<String>) -> String {
    let run = move || Command::new("curl").args(["-s", "-S", "--max-time", "20"]).args(arguments).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reaches_nginx_only_as_far_as_the_policies_allow() {
    if !(house::present("nginx") && house::present("curl")) {
        return;
    }
    let echo = "location / { return 200 \"$request_uri|$http_x_portcullis_user|$http_x_portcullis_agent|$http_authorization|\"; }";
    let nginx = Nginx::start("", echo, |_| {}).await;
    let mut house = gate(&format!("http://127.0.0.1:{}", nginx.port), "").await;
    let url = |user: &str| format!("http://{}/users/{user}/data?q=1", house.app.address());
    let (name, value) = bearer();
    let header = ["-H".to_owned(), format!("{name}: {value}"), "-H".into(), "X_Portcullis_User: victim".into()];
    let call =
        |user: &str| header.iter().cloned().chain(["-w".into(), "%{http_code}".into(), url(user)]).collect::<Vec<_>>();
    assert_eq!(curl(call("user-1")).await, "/users/user-1/data?q=1|user-1|1example23456789||200");
    assert!(curl(call("user-2")).await.ends_with("403"));
    // `--path-as-is` keeps curl from resolving the dots itself.
    let dots = header
        .iter()
        .cloned()
        .chain(["--path-as-is".into(), "-w".into(), "%{http_code}".into(), url("x/../user-1")])
        .collect();
    assert!(curl(dots).await.ends_with("400"));
    for _ in 0..3 {
        assert!(house.record().await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_both_ways_byte_for_byte() {
    if !(house::present("nginx") && house::present("curl")) {
        return;
    }
    let nginx = Nginx::start("", "location / { root files; dav_methods PUT; }", |folder| {
        std::fs::create_dir_all(folder.join("files/users/user-1")).unwrap();
    });
    let nginx = nginx.await;
    let mut house = gate(&format!("http://127.0.0.1:{}", nginx.port), "").await;
    let file = |name: &str| nginx.folder.path().join(name).display().to_string();
    let url = format!("http://{}/users/user-1/data", house.app.address());
    let (name, value) = bearer();
    let call = |more: &[&str]| {
        let always = ["-H".to_owned(), format!("{name}: {value}"), "-w".into(), "%{http_code}".into()];
        always.into_iter().chain(more.iter().map(|it| (*it).to_owned())).chain([url.clone()]).collect::<Vec<_>>()
    };
    for (turn, framing) in [&[][..], &["-H", "Transfer-Encoding: chunked"]].into_iter().enumerate() {
        let sent: Vec<u8> = (0..20_000_000_usize).map(|index| (index * (turn + 7) % 251) as u8).collect();
        std::fs::write(file("sent"), &sent).unwrap();
        let (from, to) = (file("sent"), file("received"));
        let told = curl(call(&[framing, &["-T", &from, "-o", "/dev/null"]].concat())).await;
        assert!(matches!(told.as_str(), "201" | "204"), "{told}");
        assert!(std::fs::read(file("files/users/user-1/data")).unwrap() == sent, "the upload differs");
        assert_eq!(curl(call(&["-o", &to])).await, "200");
        assert!(std::fs::read(file("received")).unwrap() == sent, "the download differs");
    }
    for _ in 0..4 {
        assert_eq!(house.record().await.unwrap().code, "allowed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_a_certificate_nobody_vouches_for_is_not_talked_to() {
    if !(house::present("nginx") && house::present("openssl")) {
        return;
    }
    let certificate = |folder: &Path| {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .args(["-keyout", "key.pem", "-out", "cert.pem", "-days", "2"])
            .current_dir(folder)
            .output();
        assert!(made.unwrap().status.success());
    };
    let config = "ssl_certificate cert.pem; ssl_certificate_key key.pem; location / { return 200 secret; }";
    let nginx = Nginx::start(" ssl", config, certificate).await;
    let mut house = gate(&format!("https://localhost:{}", nginx.port), "").await;
    assert_eq!(ask(&mut house).await, (502, "upstream_unreachable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_gets_its_own_host_unless_it_is_to_get_the_clients() {
    let mut house = House::build(Some(ROUTES), &[], house::NOW).await;
    let request = wire::request("GET", "/users/user-1/data", &[bearer()]);
    let (answer, _) = house.ask(&request).await;
    assert_eq!(answer.json()["headers"]["host"][0], house.service.address().to_string());
    let settings = ROUTES.replace("url: 'http://127.0.0.1:1'", "url: 'http://127.0.0.1:1', forward_host: true");
    let mut house = House::build(Some(&settings), &[], house::NOW).await;
    let (answer, _) = house.ask(&request).await;
    assert_eq!(answer.json()["headers"]["host"][0], "gate.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_still_comes_after_100_continue() {
    let hesitant = upstream(b"HTTP/1.1 100 Continue\r\n\r\n", false).await;
    let mut house = gate(&format!("http://{hesitant}"), "").await;
    let (name, value) = bearer();
    let request = format!(
        "POST /users/user-1/data HTTP/1.1\r\nhost: gate\r\n{name}: {value}\r\nexpect: 100-continue\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
    );
    let answers = String::from_utf8_lossy(&wire::send(house.app.address(), request.as_bytes()).await).into_owned();
    assert!(answers.contains("HTTP/1.1 504"), "{answers}");
    let record = house.record().await.unwrap();
    assert_eq!((record.code, record.status), ("upstream_timed_out", 504));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_let_go_and_recorded() {
    if !house::present("nginx") {
        return;
    }
    let nginx = Nginx::start("", "location / { root files; }", |folder| {
        std::fs::create_dir_all(folder.join("files/users/user-1")).unwrap();
        std::fs::write(folder.join("files/users/user-1/data"), vec![b'x'; 50_000_000]).unwrap();
    });
    let nginx = nginx.await;
    let mut house = gate(&format!("http://127.0.0.1:{}", nginx.port), "limits: { client_timeout_ms: 300 }\n").await;
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    stream.write_all(&wire::request("GET", "/users/user-1/data", &[bearer()])).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let mut record = None;
    while record.is_none() && tokio::time::Instant::now() < deadline {
        record = house.record().await;
    }
    assert_eq!(record.expect("a record").code, "client_gone");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_sees_the_end_of_its_answer() {
    let mut house = House::build(Some(ROUTES), &[], house::NOW).await;
    let (name, value) = bearer();
    let request = format!("GET /users/user-1/data HTTP/1.0\r\nhost: gate\r\n{name}: {value}\r\n\r\n");
    let (answer, _) = house.ask(request.as_bytes()).await;
    assert_eq!(answer.status, 200);
}

#[test]
fn a_policy_as_long_and_as_deep_as_may_be_is_decided() {
    let long = " && true".repeat(398);
    let deep = format!("{}true{}", "if true then (".repeat(45), ") else false".repeat(45));
    let decide = async |condition: String| {
        let policy = format!("@id(\"a\") permit (principal, action, resource) when {{ {condition} }};");
        let mut house = House::build(Some(ROUTES), &[("policies/users.cedar".into(), policy)], house::NOW).await;
        let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &[bearer()])).await;
        assert_eq!((answer.status, record.unwrap().code), (200, "allowed"));
    };
    // Workers as `serve` has them.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.thread_stack_size(portcullis::cli::WORKER_STACK_BYTES).enable_all().build().unwrap();
    for condition in [format!("true{long}"), deep] {
        runtime.block_on(decide(condition));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_known_stops_being_believed_when_it_expires() {
    let mut house = House::build(Some(ROUTES), &[], house::NOW).await;
    let request = wire::request("GET", "/users/user-1/data", &[bearer()]);
    // `exp` is 1795003600, and clocks may differ by 10 seconds.
    for (now, code) in [(house::NOW, "allowed"), (1_795_003_609, "allowed"), (1_795_003_610, "token_expired")] {
        house.at(now);
        let (_, record) = house.ask(&request).await;
        let record = record.unwrap();
        assert_eq!((record.code, record.token_cached), (code, now == 1_795_003_609));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_drop_by_drop_is_408_on_every_request_of_a_connection() {
    let settings = "limits: { client_timeout_ms: 300, head_bytes_max: 4096 }\n";
    let mut house = House::build(Some(&format!("{ROUTES}{settings}")), &[], house::NOW).await;
    for before in [0, 1] {
        let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
        for _ in 0..before {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n").await.unwrap();
            assert_eq!(one_answer(&mut stream).await.status, 401);
            assert_eq!(house.record().await.unwrap().code, "token_missing");
        }
        let drops = async {
            for byte in b"GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\nx-slow: 0123456789".iter().cycle() {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let started = std::time::Instant::now();
        let _ = timeout(Duration::from_secs(2), drops).await;
        let record = house.record().await.unwrap();
        assert_eq!((record.code, record.status, record.peer.as_deref()), ("head_timed_out", 408, Some("127.0.0.1")));
        assert!(started.elapsed() < Duration::from_secs(3));
    }
    let endless = format!("GET / HTTP/1.1\r\nhost: gate\r\nx: {}", "a".repeat(8192));
    let (answer, record) = house.ask(endless.as_bytes()).await;
    assert_eq!((answer.status, record.unwrap().code), (431, "head_too_large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_has_its_upstream_and_one_of_them_may_be_a_socket() {
    if !house::present("nginx") {
        return;
    }
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("orders.sock").display().to_string();
    let told = "location / { return 200 'nginx $http_host $http_x_portcullis_user $request_uri'; }";
    let nginx = Nginx::start(&format!("; listen unix:{socket}"), told, |_| {}).await;
    let named = format!(
        "upstreams:\n  orders: {{ url: 'unix:{socket}' }}\n  items: {{ url: 'http://127.0.0.1:{}', forward_host: true }}\n",
        nginx.port
    );
    let (before, route) = ROUTES.split_once("  - { methods").unwrap();
    let route = |path: &str, upstream: &str| {
        format!("  - {{ methods{route}")
            .replace("/users/{id}/data", path)
            .replace("action:", &format!("{upstream}action:"))
    };
    let routes = [
        route("/users/{id}/data", ""),
        route("/orders/{id}", "upstream: orders, "),
        route("/items/{id}", "upstream: items, "),
    ];
    let config = format!("{named}{before}{}", routes.concat());
    let mut house = House::build(Some(&config), &[], house::NOW).await;
    for (target, body, upstream) in [
        ("/orders/user-1", "nginx localhost user-1 /orders/user-1", Some("orders")),
        ("/items/user-1?a=b", "nginx gate.example user-1 /items/user-1?a=b", Some("items")),
        ("/users/user-1/data", "", None),
        ("/orders/user-1", "nginx localhost user-1 /orders/user-1", Some("orders")),
    ] {
        let (answer, record) = house.ask(&wire::request("GET", target, &[bearer()])).await;
        assert_eq!((answer.status, record.unwrap().upstream.as_deref()), (200, upstream), "{target}");
        assert!(
            if body.is_empty() { answer.json()["target"] == target } else { answer.body == body },
            "{}",
            answer.body
        );
    }
    let (answer, record) = house.ask(&wire::request("GET", "/orders/user-2", &[bearer()])).await;
    assert_eq!((answer.status, record.unwrap().code), (403, "access_denied"), "who it is for changes nothing");
    drop(nginx);
    let (answer, record) = house.ask(&wire::request("GET", "/orders/user-1", &[bearer()])).await;
    assert_eq!((answer.status, record.unwrap().code), (502, "upstream_unreachable"));
}
