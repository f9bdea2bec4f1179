//! How an upstream is spoken to: by TLS and whose, and in HTTP/2.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use portcullis::{base::files::Files, config, doors::trust};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    h2::Client,
    house::{self, House, ROUTES, bearer},
    tls,
    wire::{self, Answer},
};

/// What a server was asked: the version, and the head as it came.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server that answers in the version that it is spoken to in, by TLS if it can accept that.
async fn server(tls: Option<TlsAcceptor>) -> (SocketAddr, Asked) {
    let listener = house::loopback().await;
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let all = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, asked) = (tls.clone(), all.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, asked).await,
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        serve(stream, asked).await;
                    }
                }
            });
        }
    });
    (address, asked)
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, asked: Asked) {
    let mut begun = [0; 3];
    if stream.read_exact(&mut begun).await.is_err() {
        return;
    }
    let (read, write) = tokio::io::split(stream);
    let stream = tokio::io::join(std::io::Cursor::new(begun).chain(read), write);
    if begun == *b"PRI" { in_http2(stream, asked).await } else { in_http1(stream, asked).await }
}

async fn in_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin, asked: Asked) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        if bytes.ends_with(b"\r\n\r\n") {
            asked.lock().unwrap().push(format!("1 {}", String::from_utf8_lossy(&bytes)));
            bytes.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        }
    }
}

async fn in_http2(stream: impl AsyncRead + AsyncWrite + Unpin, asked: Asked) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (head, mut body) = request.into_parts();
        asked.lock().unwrap().push(format!("2 {} {} {:?}", head.method, head.uri, head.headers));
        tokio::spawn(async move {
            let mut received = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                body.flow_control().release_capacity(part.len()).unwrap();
                received.extend_from_slice(&part);
            }
            if head.uri.path() == "/healthz" {
                respond.send_response(Response::new(()), true).unwrap();
                return;
            }
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            answer.send_data(Bytes::from(format!("{{\"got\": {}}}", received.len())), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("x-portcullis-agent", "forged".parse().unwrap());
            answer.send_trailers(trailers).unwrap();
        });
    }
}

/// What accepts TLS as the certificate of this name, from these clients, in these protocols.
pub(crate) fn acceptor(folder: &Path, name: &str, asks_certificate: bool, protocols: &[&str]) -> TlsAcceptor {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
    let builder = if asks_certificate {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
        ServerConfig::builder().with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
    } else {
        ServerConfig::builder().with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A gate in front of `upstream`, with these settings of it, and the files of `folder` at hand.
async fn gate(upstream: &str, settings: &str, folder: &Path) -> House {
    let text = ROUTES.replace("127.0.0.1:1'", &format!("127.0.0.1:1'{settings}"));
    let files = ["ca.pem", "self.pem", "first.pem", "first.key"]
        .map(|name| (name.to_owned(), fs::read_to_string(folder.join(name)).unwrap()));
    House::before(House::load(Some(&text), &files), upstream).await
}

const SHOWN: &str = ", certificate: first.pem, private_key: { file: first.key }";

async fn ask(house: &mut House) -> (u16, &'static str) {
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data?a=%2f%41", &[bearer()])).await;
    (answer.status, record.unwrap().code)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_believed_by_its_certificate_alone() {
    let folder = tls::folder();
    let folder = folder.path();
    let (address, asked) = server(Some(acceptor(folder, "gate", false, &[]))).await;
    let url = format!("https://{address}");
    let bad = (502, "upstream_unreachable");
    for (settings, expected) in [
        (", tls: { authorities: ca.pem }", (200, "allowed")),
        (", tls: { authorities: ca.pem, server_name: 127.0.0.1 }", (200, "allowed")),
        (", tls: { authorities: ca.pem, server_name: other.example }", bad),
        (", tls: { authorities: self.pem }", bad),
        ("", bad),
    ] {
        let before = asked.lock().unwrap().len();
        assert_eq!(ask(&mut gate(&url, settings, folder).await).await, expected, "{settings}");
        assert_eq!(asked.lock().unwrap().len() - before, usize::from(expected.0 == 200), "{settings}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_one_upstream_believes_in_is_not_used_for_another() {
    let folder = tls::folder();
    let folder = folder.path();
    for http2 in ["'off'", "only"] {
        let (address, asked) = server(Some(acceptor(folder, "gate", false, &["h2", "http/1.1"]))).await;
        let text = format!(
            "{}  - {{ methods: [GET], path: '/users/{{id}}/other', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
             attributes: {{ owner: 'User::\"{{path.id}}\"' }}, upstream: other }}\n\
             upstreams: {{ other: {{ url: 'https://{address}', http2: {http2}, tls: {{ authorities: self.pem }} }} }}\n",
            ROUTES.replace("127.0.0.1:1'", &format!("127.0.0.1:1', http2: {http2}, tls: {{ authorities: ca.pem }}"))
        );
        let files =
            ["ca.pem", "self.pem"].map(|name| (name.to_owned(), fs::read_to_string(folder.join(name)).unwrap()));
        let mut house = House::before(House::load(Some(&text), &files), &format!("https://{address}")).await;
        for _ in 0..2 {
            assert_eq!(ask(&mut house).await, (200, "allowed"));
            let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/other", &[bearer()])).await;
            assert_eq!((answer.status, record.unwrap().code), (502, "upstream_unreachable"), "{http2}");
        }
        assert_eq!(asked.lock().unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asks_for_a_certificate_is_shown_one() {
    let folder = tls::folder();
    let folder = folder.path();
    for protocols in [&["http/1.1"][..], &["h2"]] {
        let (address, asked) = server(Some(acceptor(folder, "gate", true, protocols))).await;
        let http2 = if protocols == ["h2"] { "only" } else { "'off'" };
        let settings = |shown: &str| format!(", http2: {http2}, tls: {{ authorities: ca.pem{shown} }}");
        let url = format!("https://{address}");
        // The handshake is over for the client before the server has looked at its certificate, so either may break off.
        assert_eq!(ask(&mut gate(&url, &settings(""), folder).await).await.0, 502);
        assert_eq!(asked.lock().unwrap().len(), 0);
        assert_eq!(ask(&mut gate(&url, &settings(SHOWN), folder).await).await, (200, "allowed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_asked_how_they_are_as_requests_are_sent_to_them() {
    let folder = tls::folder();
    let folder = folder.path();
    let health = ", health: { path: /healthz, interval_ms: 60000 }";
    for (tls, http2, version) in
        [(false, "'off'", '1'), (false, "only", '2'), (true, "'off'", '1'), (true, "offered", '2'), (true, "only", '2')]
    {
        let (address, asked) = server(tls.then(|| acceptor(folder, "gate", true, &["h2", "http/1.1"]))).await;
        let scheme = if tls { "https" } else { "http" };
        let trust = if tls { format!(", tls: {{ authorities: ca.pem{SHOWN} }}") } else { String::new() };
        let mut house =
            gate(&format!("{scheme}://{address}"), &format!(", http2: {http2}{trust}{health}"), folder).await;
        assert_eq!(ask(&mut house).await, (200, "allowed"), "{tls} {http2}");
        let asked = asked.lock().unwrap().clone();
        assert!(asked.iter().all(|head| head.starts_with(version)), "{tls} {http2}: {asked:?}");
        assert!(asked[0].contains("/healthz") && asked[1].contains("/users/"), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_to_an_upstream_that_chooses_it_and_upgrades_are_not() {
    let folder = tls::folder();
    let folder = folder.path();
    for (protocols, version) in [(&["h2", "http/1.1"][..], '2'), (&["http/1.1"], '1'), (&[], '1')] {
        let (address, asked) = server(Some(acceptor(folder, "gate", false, protocols))).await;
        let settings = ", http2: offered, tls: { authorities: ca.pem }";
        let mut house = gate(&format!("https://{address}"), settings, folder).await;
        for _ in 0..3 {
            assert_eq!(ask(&mut house).await, (200, "allowed"), "{protocols:?}");
        }
        let heads = asked.lock().unwrap().clone();
        assert!(heads.iter().all(|head| head.starts_with(version)), "{protocols:?}: {heads:?}");
        let upgrade = [
            bearer(),
            ("upgrade".into(), "websocket".into()),
            ("sec-websocket-version".into(), "13".into()),
            ("sec-websocket-key".into(), "eA==".into()),
        ];
        let request = wire::request("GET", "/users/user-1/data", &upgrade);
        let request = String::from_utf8(request).unwrap().replace("connection: close", "connection: Upgrade");
        let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"{}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        let heads = asked.lock().unwrap().clone();
        assert!(heads[3].starts_with('1') && heads[3].to_lowercase().contains("upgrade: websocket"), "{heads:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_to_speak_http2_and_does_not_choose_it_gets_nothing() {
    let folder = tls::folder();
    let folder = folder.path();
    for (protocols, code) in
        [(&[][..], "upstream_invalid"), (&["http/1.1"], "upstream_unreachable"), (&["h2"], "allowed")]
    {
        let (address, asked) = server(Some(acceptor(folder, "gate", false, protocols))).await;
        let settings = ", http2: only, tls: { authorities: ca.pem }";
        let mut house = gate(&format!("https://{address}"), settings, folder).await;
        assert_eq!(ask(&mut house).await.1, code, "{protocols:?}");
        assert_eq!(asked.lock().unwrap().len(), usize::from(code == "allowed"), "{protocols:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_gets_in_http2_is_what_was_authorised() {
    let (address, asked) = server(None).await;
    let folder = tls::folder();
    let mut house = gate(&format!("http://{address}"), ", http2: only", folder.path()).await;
    let fields = [bearer(), ("cookie".into(), "a=b".into()), ("x-portcullis-user".into(), "root".into())];
    let (answer, _) = house.ask(&wire::request("GET", "/users/user-1/data?a=%2f%41&b='", &fields)).await;
    assert_eq!(answer.status, 200);
    let head = asked.lock().unwrap()[0].clone();
    assert!(head.starts_with(&format!("2 GET http://{address}/users/user-1/data?a=%2f%41&b=' ")), "{head}");
    assert!(head.contains(r#""x-portcullis-user": "user-1""#) && !head.contains("root"), "{head}");
    assert!(!head.contains("cookie") && !head.contains("authorization") && !head.contains("\"host\""), "{head}");
    // An upgrade would come as another request.
    let upgrade = [bearer(), ("upgrade".into(), "websocket".into())];
    let request = wire::request("GET", "/users/user-1/data", &upgrade);
    let request = String::from_utf8(request).unwrap().replace("connection: close", "connection: Upgrade");
    let (answer, record) = house.ask(request.as_bytes()).await;
    assert_eq!((answer.status, record.unwrap().code), (400, "upgrade_unclear"));
    // Of any other protocol nobody hears there, as elsewhere.
    let request = String::from_utf8(wire::request("GET", "/users/user-1/data", &[bearer()])).unwrap();
    let h2c = request.replace(
        "connection: close",
        "connection: close, Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk",
    );
    let (answer, record) = house.ask(h2c.as_bytes()).await;
    assert_eq!((answer.status, record.unwrap().code), (200, "allowed"));
    let head = asked.lock().unwrap().pop().unwrap();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-2/data", &[bearer()])).await;
    assert_eq!((answer.status, record.unwrap().code), (403, "access_denied"));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_for_one_hop_end_here_from_http2_to_http2() {
    let (address, asked) = server(None).await;
    let folder = tls::folder();
    let house = gate(&format!("http://{address}"), ", http2: only", folder.path()).await;
    let mut client = Client::to(house.app.address()).await;
    let hop = ["proxy-authorization", "trailer", "http2-settings", "proxy-authenticate"];
    let mut fields = vec![bearer(), ("te".into(), "trailers".into()), ("x-kept".into(), "a".into())];
    fields.extend(hop.map(|name| (name.to_owned(), "a".to_owned())));
    let request = crate::h2::request("GET", "/users/user-1/data", &fields).unwrap();
    assert_eq!(client.ask(request).await.unwrap().unwrap().status, 200);
    let head = asked.lock().unwrap().pop().unwrap();
    assert!(hop.iter().all(|name| !head.contains(&format!("\"{name}\""))), "{head}");
    assert!(head.contains(r#""te": "trailers""#) && head.contains("x-kept"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_rewritten_alike_for_upstreams_in_http1_and_http2() {
    let (address, asked) = server(None).await;
    let rewrites = "action: readOnly, strip_prefix: /users, add_prefix: /v1/people";
    let target = "/v1/people/user-1/data?a=/users/%2f&b='";
    for (http2, expected) in
        [("'off'", format!("1 GET {target} HTTP/1.1\r\n")), ("only", format!("2 GET http://{address}{target} "))]
    {
        let text = ROUTES.replace("127.0.0.1:1'", &format!("127.0.0.1:1', http2: {http2}"));
        let house = House::build_for(&text.replace("action: readOnly", rewrites), &format!("http://{address}")).await;
        let mut client = Client::to(house.app.address()).await;
        let asked_for = "/users/user-1/data?a=/users/%2f&b='";
        let answer = client.ask(crate::h2::request("GET", asked_for, &[bearer()]).unwrap()).await.unwrap().unwrap();
        assert_eq!(answer.status, 200);
        let head = asked.lock().unwrap().pop().unwrap();
        assert!(head.starts_with(&expected), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_pass_from_end_to_end_in_http2() {
    let (address, asked) = server(None).await;
    let folder = tls::folder();
    let house = gate(&format!("http://{address}"), ", http2: only", folder.path()).await;
    let mut client = Client::to(house.app.address()).await;
    let (name, token) = bearer();
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/users/user-1/data", house.app.address()))
        .header(name, token)
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut send) = client.begin(request, false).await;
    let body = Bytes::from(vec![b'x'; 300_000]);
    for start in (0..body.len()).step_by(10_000) {
        send.reserve_capacity(10_000);
        let granted = std::future::poll_fn(|context| send.poll_capacity(context)).await;
        assert!(granted.is_some());
        send.send_data(body.slice(start..start + 10_000), start + 10_000 == body.len()).unwrap();
    }
    let (head, mut body) = response.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    let mut received = Vec::new();
    while let Some(part) = body.data().await {
        received.extend_from_slice(&part.unwrap());
    }
    assert_eq!(received, br#"{"got": 300000}"#);
    let trailers = body.trailers().await.unwrap().expect("trailers");
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert!(trailers.get("x-portcullis-agent").is_none());
    let head = asked.lock().unwrap()[0].clone();
    assert!(head.contains(r#""te": "trailers""#), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_http2_comes_whole_to_a_client_that_speaks_http1() {
    let (address, _) = server(None).await;
    let folder = tls::folder();
    let house = gate(&format!("http://{address}"), ", http2: only", folder.path()).await;
    let request = wire::request("GET", "/users/user-1/data", &[bearer()]);
    let answer = Answer::parse(&wire::send(house.app.address(), &request).await);
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, Some("chunked")));
    assert!(answer.body.contains(r#"{"got": 0}"#) && answer.body.ends_with("0\r\n\r\n"), "{}", answer.body);
}

#[test]
fn certificates_and_keys_that_cannot_be_used_are_found_beforehand() {
    let folder = tls::folder();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let (ca, own, key) = (read("ca.pem"), read("first.pem"), read("first.key"));
    let unreadable = "-----BEGIN CERTIFICATE-----\nMAAwADAA\n-----END CERTIFICATE-----\n";
    for (authorities, certificate, private_key, shown) in [
        (&ca[..], &own[..], &key[..], ""),
        ("", &own, &key, "`upstream.tls`: `authorities`: holds no certificate in PEM"),
        (unreadable, &own, &key, "`upstream.tls`: `authorities`: "),
        (&key, &own, &key, "`upstream.tls`: `authorities`: holds no certificate in PEM"),
        (&ca, unreadable, &key, "`upstream.tls`: `certificate`: "),
        (&ca, &own, "x", "`upstream.tls`: `private_key`: "),
        (&ca, &own, &own, "`upstream.tls`: `private_key`: "),
        (&ca, &own, &read("second.key"), "`upstream.tls`: `certificate` and `private_key`: "),
    ] {
        let texts = [
            ("ca.pem".to_owned(), authorities.to_owned()),
            ("own.pem".into(), certificate.into()),
            ("own.key".into(), private_key.into()),
            ("policies/schema.cedarschema".into(), house::repository("policies/schema.cedarschema")),
            ("policies/users.cedar".into(), house::repository("policies/users.cedar")),
        ];
        let files = Files::memory(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        let tls =
            "url: 'https://a', tls: { authorities: ca.pem, certificate: own.pem, private_key: { file: own.key } }";
        let text = crate::config::MINIMAL.replace("url: http://127.0.0.1:9000", tls);
        let loaded = config::parse("config.yaml".into(), text, files).unwrap_or_else(|error| panic!("{error}"));
        let compiled = loaded.compile().unwrap_or_else(|error| panic!("{error}"));
        let problems = trust::check(&compiled.blueprint.upstreams).err().map(|found| found.within(&compiled.source));
        let problems = problems.map(|problems| problems.to_string()).unwrap_or_default();
        assert!(shown.is_empty() || problems.contains("config.yaml:2:"), "{shown}: {problems}");
        assert!(problems.contains(shown) && problems.is_empty() == shown.is_empty(), "{shown}: {problems}");
    }
}
