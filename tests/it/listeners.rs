//! Several places to listen at, each in its own way, and all of them one gate: TCP and Unix sockets, in the clear and by TLS.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use portcullis::{base::address::Address, config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    cli,
    h2::Client,
    house::{self, House},
    tls,
    wire::{self, Answer},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// A gate in the clear on TCP, with these listeners beside that, and more settings.
async fn gate(folder: &Path, listeners: &str, settings: &str) -> House {
    let text = format!(
        "listen: 127.0.0.1:0\nlisteners: [{listeners}]\n{settings}\
         upstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
         \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\n\
         routes:\n  - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n"
    );
    std::fs::write(folder.join("config.yaml"), text).unwrap();
    let loaded = config::load(&folder.join("config.yaml")).unwrap_or_else(|error| panic!("{error}"));
    House::of(loaded, house::NOW).await
}

fn good_call(folder: &Path, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![("authorization".to_owned(), format!("Bearer {}", tls::token(folder, None)))];
    fields.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    wire::request("GET", "/users/user-1/data", &fields)
}

/// What comes back of `request` on a connection of its own to the socket at `path`.
async fn send_unix(path: &Path, request: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    Answer::parse(&answer)
}

const fn tcp(address: &Address) -> std::net::SocketAddr {
    address.tcp().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gate_listens_in_several_ways_and_a_peer_on_a_unix_socket_has_no_address() {
    let folder = tls::folder();
    let path = folder.path();
    let socket = path.join("gate.sock");
    let listeners = format!(
        "{{ listen: 'unix:{}' }}, {{ listen: 127.0.0.1:0, tls: {{ certificate: gate.pem, private_key: {{ file: gate.key }} }} }}, \
         {{ listen: 127.0.0.1:0, http2: off }}",
        socket.display()
    );
    let mut house = gate(path, &listeners, "trusted_proxies: { addresses: [127.0.0.0/8, '::1'] }\n").await;
    let [clear, unix, by_tls, old] = house.app.addresses() else { panic!("{:?}", house.app.addresses()) };
    assert_eq!(unix, &Address::Unix(socket.clone()));
    let (clear, by_tls, old) = (tcp(clear), tcp(by_tls), tcp(old));

    // In the clear, of who is trusted to say where a request comes from.
    let request = good_call(path, &[("x-forwarded-for", "203.0.113.9")]);
    assert_eq!(Answer::parse(&wire::send(clear, &request).await).status, 200);
    let record = house.record().await.unwrap();
    assert_eq!((record.peer.as_deref(), record.via.as_deref()), (Some("203.0.113.9"), Some("127.0.0.1")));

    // Of who is on this machine nobody knows an address, and nothing that is said of one is believed.
    assert_eq!(send_unix(&socket, &request).await.status, 200);
    let record = house.record().await.unwrap();
    assert_eq!((record.code, record.peer, record.via), ("allowed", None, None));
    let mut two = Client::over(UnixStream::connect(&socket).await.unwrap()).await;
    assert_eq!(two.call("user-1").await.status, 401);
    let record = house.record().await.unwrap();
    assert_eq!((record.code, record.peer), ("issuer_unknown", None));

    let mut two = Client::secured(by_tls, &path.join("ca.pem")).await;
    assert_eq!(two.call("user-1").await.status, 401);
    assert_eq!(house.record().await.unwrap().code, "issuer_unknown");
    assert!(!String::from_utf8_lossy(&wire::send(by_tls, &request).await).contains("HTTP/1.1"));

    // HTTP/2 is off there alone.
    assert_eq!(Answer::parse(&wire::send(old, &request).await).status, 200);
    assert_eq!(house.record().await.unwrap().code, "allowed");
    let mut stream = TcpStream::connect(old).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_ipv4_is_one_on_a_socket_of_ipv6_too() {
    let folder = tls::folder();
    let path = folder.path();
    let mut house = gate(path, "{ listen: '[::ffff:127.0.0.1]:0' }", "").await;
    let port = tcp(&house.app.addresses()[1]).port();
    let address = ([127, 0, 0, 1], port).into();
    for (request, code) in
        [(good_call(path, &[]), "allowed"), (b"GET / HTTP/1.1\nhost: a\n\n".into(), "framing_conflict")]
    {
        wire::send(address, &request).await;
        let record = house.record().await.unwrap();
        assert_eq!((record.code, record.peer.as_deref(), record.via), (code, Some("127.0.0.1"), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_an_address_share_one_bucket_and_are_told_no_policy() {
    let folder = tls::folder();
    let path = folder.path();
    let schema = house::repository("policies/schema.cedarschema");
    let socket = path.join("gate.sock");
    let listeners = format!("{{ listen: 'unix:{}' }}", socket.display());
    let rates = "rates: [{ name: peers, by: [peer], requests: 1, per_s: 3600, burst: 1 }]\n";
    let house = gate(path, &listeners, rates).await;
    let request = good_call(path, &[]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(send_unix(&socket, &request).await.status);
    }
    assert_eq!(seen, [200, 429]);
    assert_eq!(
        Answer::parse(&wire::send(house.app.address(), &request).await).status,
        200,
        "it has a bucket of its own"
    );
    drop(house);

    let asked = schema.replacen("context: {", "context: { request: { peer: ipaddr },", 1);
    assert_ne!(asked, schema);
    std::fs::write(path.join("policies/schema.cedarschema"), asked).unwrap();
    let mut house = gate(path, &listeners, "").await;
    assert_eq!(send_unix(&socket, &request).await.status, 403);
    let record = house.record().await.unwrap();
    assert_eq!((record.code, record.missing.as_deref()), ("claim_missing", Some("request.peer")));
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_share_the_limit_the_count_and_the_drain() {
    let folder = tls::folder();
    let path = folder.path();
    let socket = path.join("gate.sock");
    let listeners = format!("{{ listen: 'unix:{}' }}, {{ listen: 127.0.0.1:0 }}", socket.display());
    let mut house = gate(path, &listeners, "limits: { connections_max: 2 }\n").await;
    let plain = b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n";
    let mut held = TcpStream::connect(house.app.address()).await.unwrap();
    held.write_all(plain).await.unwrap();
    assert_eq!(house.record().await.unwrap().code, "token_missing");
    let mut also = UnixStream::connect(&socket).await.unwrap();
    also.write_all(plain).await.unwrap();
    assert_eq!(house.record().await.unwrap().code, "token_missing");
    assert!(house.operators("/metrics").await.body.contains("\nportcullis_connections 2\n"));
    for _ in 0..2 {
        assert_eq!(send_unix(&socket, b"").await.status, 503);
        assert_eq!(house.record().await.unwrap().code, "overloaded");
    }
    let other = tcp(&house.app.addresses()[2]);
    timeout(PATIENCE, house.app.stop(Duration::from_secs(30))).await.expect("a prompt end");
    assert!(TcpStream::connect(other).await.is_err());
    assert!(!socket.exists(), "the socket is left behind");
    let mut rest = Vec::new();
    timeout(PATIENCE, also.read_to_end(&mut rest)).await.unwrap().unwrap();
    timeout(PATIENCE, held.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[test]
fn a_gate_may_live_on_unix_sockets_alone() {
    let folder = tls::folder();
    let path = folder.path();
    let (data, admin): (PathBuf, PathBuf) = (path.join("gate.sock"), path.join("admin.sock"));
    let text = format!(
        "listen: unix:{}\nadmin: 'unix:{}'\nupstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
         \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }}\n\
         routes:\n  - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n",
        data.display(),
        admin.display()
    );
    let file = path.join("config.yaml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    // As one leaves them that was killed.
    drop(std::os::unix::net::UnixListener::bind(&data).unwrap());
    let mut gate = cli::Running::start(&["serve", "--config", file]);
    let start = std::time::Instant::now();
    while !cli::portcullis().args(["health", "--config", file]).output().unwrap().status.success() {
        assert!(start.elapsed() < Duration::from_secs(20), "the gate is not ready");
    }
    let second = cli::portcullis().args(["serve", "--config", file]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = format!("cannot listen on unix:{}", data.display());
    assert!(cli::text(&second.stderr).contains(&said), "{}", cli::text(&second.stderr));
    let curl = Command::new("curl")
        .args(["-sS", "--max-time", "5", "--unix-socket", data.to_str().unwrap(), "http://gate/users/user-1/data"])
        .output()
        .unwrap();
    assert!(cli::text(&curl.stdout).contains("token_missing"), "{curl:?}");
    gate.signal("TERM");
    let (records, _) = gate.rest();
    let record: serde_json::Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    assert_eq!((&record["code"], record.get("peer")), (&"token_missing".into(), None));
    assert!(!data.exists() && !admin.exists(), "a socket is left behind");
}
