//! TLS in front of the gate, and tokens bound to a client certificate (RFC 8705), with OpenSSL's certificates and curl.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{audit::Record, config};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    h2,
    house::{self, House},
    wire,
};

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(folder).output().unwrap()
}

fn openssl(folder: &Path, arguments: &str) {
    let output = run(folder, "openssl", &arguments.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Certificates: the gate's and two clients' from one authority, and one that a client signed itself.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder.path(), &format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    fs::write(folder.path().join("gate.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    fs::write(folder.path().join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for (name, extension) in [("gate", "gate.ext"), ("first", "client.ext"), ("second", "client.ext")] {
        openssl(folder.path(), &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let sign =
            format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {extension}");
        openssl(folder.path(), &format!("{sign} -out {name}.pem"));
    }
    openssl(folder.path(), &format!("req -x509 {key} -days 2 -subj /CN=self -keyout self.key -out self.pem"));
    fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        fs::write(folder.path().join(name), house::repository(name)).unwrap();
    }
    let keys = json!({ "keys": [house::key("agents").jwk()] }).to_string();
    fs::write(folder.path().join("keys.json"), keys).unwrap();
    folder
}

pub(crate) async fn gate(folder: &Path, tls: &str, binding: &str) -> House {
    gate_with(folder, tls, binding, "").await
}

/// The same, with more settings.
pub(crate) async fn gate_with(folder: &Path, tls: &str, binding: &str, settings: &str) -> House {
    let text = format!(
        "listen: 127.0.0.1:0\n{settings}tls: {{ certificate: gate.pem, private_key: {{ file: gate.key }}{tls} }}\n\
         upstream: {{ url: 'http://127.0.0.1:1' }}\nissuers:\n\
         \x20 - oidc_generic: {{ issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json, \
         certificate_binding: {binding} }}\n\
         routes:\n  - {{ methods: [GET], path: '/users/{{id}}/data', action: readOnly, resource: 'UserData::\"{{path.id}}\"', \
         attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n"
    );
    fs::write(folder.join("config.yaml"), text).unwrap();
    let loaded = config::load(&folder.join("config.yaml")).unwrap_or_else(|error| panic!("{error}"));
    House::of(loaded, house::NOW).await
}

/// A token, bound to the certificate of this name if there is one.
pub(crate) fn token(folder: &Path, bound_to: Option<&str>) -> String {
    let mut claims = house::claims();
    (claims["iss"], claims["aud"]) = ("https://issuer.example".into(), "api".into());
    if let Some(name) = bound_to {
        openssl(folder, &format!("x509 -in {name}.pem -outform DER -out {name}.der"));
        let certificate = fs::read(folder.join(format!("{name}.der"))).unwrap();
        claims["cnf"] = json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificate)) });
    }
    house::key("agents").sign(&claims).unwrap()
}

/// The codes of the good call, made twice on one connection by who shows the certificate of this name; none where there
/// is no connection.
async fn call(house: &mut House, folder: &Path, token: &str, certificate: Option<&str>) -> Vec<&'static str> {
    let url = format!("https://{}/users/user-1/data", house.app.address());
    let bearer = format!("authorization: Bearer {token}");
    let mut arguments = vec!["-sS", "--max-time", "5", "--cacert", "ca.pem", "-H", &bearer, &url, &url];
    let shown = certificate.map(|name| (format!("{name}.pem"), format!("{name}.key")));
    if let Some((certificate, key)) = &shown {
        arguments.extend(["--cert", certificate, "--key", key]);
    }
    let (folder, arguments) = (folder.to_owned(), arguments.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    let curl = move || run(&folder, "curl", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(curl).await.unwrap();
    let mut codes = Vec::new();
    while let Some(record) = house.record().await {
        codes.push(record.code);
    }
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_to_a_certificate_is_good_with_that_alone() {
    let folder = folder();
    let path = folder.path();
    let mut house = gate(path, ", client_certificate: accepted", "accepted").await;
    let (plain, bound, own) = (token(path, None), token(path, Some("first")), token(path, Some("self")));
    assert_eq!(call(&mut house, path, &bound, Some("first")).await, ["allowed"; 2]);
    assert_eq!(call(&mut house, path, &bound, Some("second")).await, ["certificate_mismatch"; 2]);
    assert_eq!(call(&mut house, path, &bound, None).await, ["certificate_mismatch"; 2]);
    assert_eq!(call(&mut house, path, &own, Some("self")).await, ["allowed"; 2]);
    assert_eq!(call(&mut house, path, &own, Some("first")).await, ["certificate_mismatch"; 2]);
    assert_eq!(call(&mut house, path, &plain, None).await, ["allowed"; 2]);
    assert_eq!(call(&mut house, path, &plain, Some("first")).await, ["allowed"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_to_those_who_come_next() {
    let folder = folder();
    let path = folder.path();
    let config = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ntls: { certificate: gate.pem, private_key: { file: gate.key } }\n\
        upstream: { url: UPSTREAM }\nissuers:\n\
        \x20 - oidc_generic: { issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }\n\
        routes:\n  - { methods: [GET], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"', \
        attributes: { owner: 'User::\"{path.id}\"' } }\n";
    let mut house = House::following(path, config).await;
    let token = token(path, None);
    assert_eq!(call(&mut house, path, &token, None).await, ["allowed"; 2]);
    let shown = |house: &House| {
        let address = house.app.address().to_string();
        let script =
            format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial");
        String::from_utf8(run(path, "sh", &["-c", &script]).stdout).unwrap()
    };
    let mut kept = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &house.app.address().to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let before = tokio::task::block_in_place(|| shown(&house));
    assert!(before.starts_with("serial="), "{before}");
    // The key does not fit the new certificate until it is there too.
    openssl(path, "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=new -keyout new.key -out new.csr");
    openssl(
        path,
        "x509 -req -in new.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile gate.ext -out new.pem",
    );
    fs::rename(path.join("new.pem"), path.join("gate.pem")).unwrap();
    let start = std::time::Instant::now();
    while !house.operators("/readyz").await.body.contains("does not fit") {
        assert!(start.elapsed().as_secs() < 20, "nothing is said of the key");
    }
    assert_eq!(tokio::task::block_in_place(|| shown(&house)), before);
    fs::rename(path.join("new.key"), path.join("gate.key")).unwrap();
    let start = std::time::Instant::now();
    while tokio::task::block_in_place(|| shown(&house)) == before {
        assert!(start.elapsed().as_secs() < 20, "the old certificate is still shown");
    }
    // A connection by the old handshake is not kept for requests to come.
    let start = std::time::Instant::now();
    while kept.try_wait().unwrap().is_none() {
        assert!(start.elapsed().as_secs() < 5, "the old connection is kept");
    }
    assert_eq!(call(&mut house, path, &token, None).await, ["allowed"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_may_have_to_be_there_and_to_be_vouched_for() {
    let folder = folder();
    let path = folder.path();
    let tls = ", client_certificate: required, client_authorities: ca.pem";
    let mut house = gate(path, tls, "required").await;
    let (plain, bound, own) = (token(path, None), token(path, Some("first")), token(path, Some("self")));
    assert_eq!(call(&mut house, path, &bound, Some("first")).await, ["allowed"; 2]);
    assert_eq!(call(&mut house, path, &plain, Some("first")).await, ["binding_missing"; 2]);
    assert!(call(&mut house, path, &bound, None).await.is_empty());
    assert!(call(&mut house, path, &own, Some("self")).await.is_empty());
    let other = gate(path, ", client_certificate: accepted, client_authorities: ca.pem", "off").await;
    let mut house = other;
    assert_eq!(call(&mut house, path, &plain, None).await, ["allowed"; 2]);
    assert_eq!(call(&mut house, path, &bound, Some("first")).await, ["binding_unchecked"; 2]);
    assert!(call(&mut house, path, &plain, Some("self")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_is_not_answered_and_ends_nothing() {
    let folder = folder();
    let mut house = gate(folder.path(), "", "off").await;
    let token = token(folder.path(), None);
    let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
    let answer = wire::send(house.app.address(), &wire::request("GET", "/users/user-1/data", &fields)).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");
    assert_eq!(call(&mut house, folder.path(), &token, None).await, ["allowed"; 2]);
}

#[test]
fn check_finds_what_is_wrong_with_certificates_and_keys() {
    let folder = folder();
    let path = folder.path();
    fs::write(path.join("empty.pem"), "").unwrap();
    for (certificate, key, rest, problem) in [
        ("gate.pem", "gate.key", "", ""),
        ("empty.pem", "gate.key", "", "the file holds no certificate in PEM"),
        ("gate.pem", "gate.pem", "", "the private key cannot be read"),
        ("gate.pem", "first.key", "", "the key does not fit the certificate"),
        ("nowhere", "gate.key", "", "cannot read `nowhere`"),
        ("gate.pem", "gate.key", ", client_authorities: ca.pem", "authorities of certificates that are not asked for"),
        (
            "gate.pem",
            "gate.key",
            ", client_certificate: required, client_authorities: empty.pem",
            "the file holds no certificate in PEM",
        ),
    ] {
        let tls = format!("tls: {{ certificate: {certificate}, private_key: {{ file: {key} }}{rest} }}\n");
        let issuer = "oidc_generic: { issuer: 'https://a.example', audiences: [api], jwks_file: keys.json }";
        let route = "{ methods: [GET], path: /, action: readOnly, resource: 'UserData::\"a\"', attributes: { owner: 'User::\"a\"' } }";
        let text = format!(
            "listen: 127.0.0.1:0\n{tls}upstream: {{ url: 'http://127.0.0.1:1' }}\nissuers: [{issuer}]\nroutes: [{route}]\n"
        );
        fs::write(path.join("config.yaml"), text).unwrap();
        let output = run(path, env!("CARGO_BIN_EXE_portcullis"), &["check"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if problem.is_empty() { 0 } else { 64 }), "{certificate} {key}: {said}");
        assert!(said.contains(problem), "{problem} is not in {said}");
    }
}

/// A certificate of the authority for `names` (`DNS:a.example,DNS:b.example`), as `<file>.pem` and `<file>.key`.
fn certificate_for(folder: &Path, file: &str, names: &str) {
    fs::write(folder.join("names.ext"), format!("subjectAltName={names}\n")).unwrap();
    openssl(
        folder,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={file} -keyout {file}.key -out {file}.csr"
        ),
    );
    let sign = format!("x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names.ext");
    openssl(folder, &format!("{sign} -out {file}.pem"));
}

/// The common name of the certificate that a client is shown who asks for `name`, or for none.
fn shown_for(folder: &Path, address: std::net::SocketAddr, name: Option<&str>) -> String {
    let name = name.map_or_else(|| "-noservername".to_owned(), |name| format!("-servername {name}"));
    let script = format!(
        "openssl s_client -connect {address} {name} </dev/null 2>/dev/null | openssl x509 -noout -subject -nameopt RFC2253 2>/dev/null"
    );
    String::from_utf8(run(folder, "sh", &["-c", &script]).stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_the_one_that_a_client_asks_for_by_name() {
    let folder = folder();
    let path = folder.path();
    certificate_for(path, "one", "DNS:one.example,DNS:Deep.Wild.example");
    certificate_for(path, "wild", "DNS:*.wild.example,DNS:wild.example");
    let further = ", certificates: [{ certificate: one.pem, private_key: { file: one.key } }, \
        { certificate: wild.pem, private_key: { file: wild.key } }]";
    let mut house = gate(path, further, "off").await;
    let address = house.app.address();
    let shown = |name| tokio::task::block_in_place(|| shown_for(path, address, name));
    for (name, is) in [
        (None, "gate"),
        (Some("one.example"), "one"),
        (Some("ONE.example"), "one"),
        (Some("deep.wild.example"), "one"),
        (Some("any.wild.example"), "wild"),
        (Some("wild.example"), "wild"),
        (Some("a.b.wild.example"), "gate"),
        (Some("other.example"), "gate"),
        (Some("x.one.example"), "gate"),
    ] {
        assert_eq!(shown(name), format!("subject=CN={is}"), "{name:?}");
    }
    assert_eq!(call(&mut house, path, &token(path, None), None).await, ["allowed"; 2]);
    let strict = ", unknown_name: refused, certificates: [{ certificate: wild.pem, private_key: { file: wild.key } }]";
    fs::copy(path.join("one.pem"), path.join("gate.pem")).unwrap();
    fs::copy(path.join("one.key"), path.join("gate.key")).unwrap();
    let house = gate(path, strict, "off").await;
    let address = house.app.address();
    let shown = |name| tokio::task::block_in_place(|| shown_for(path, address, name));
    assert_eq!([shown(Some("one.example")), shown(Some("a.wild.example"))], ["subject=CN=one", "subject=CN=wild"]);
    assert_eq!([shown(None), shown(Some("other.example"))], ["", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_load_and_no_request_fails() {
    let folder = folder();
    let path = folder.path();
    for version in ["v0", "v1", "v2", "v3"] {
        fs::create_dir(path.join(version)).unwrap();
        certificate_for(path, version, "IP:127.0.0.1,DNS:gate.example");
        for kind in ["pem", "key"] {
            fs::rename(path.join(format!("{version}.{kind}")), path.join(version).join(format!("gate.{kind}")))
                .unwrap();
        }
    }
    std::os::unix::fs::symlink("v0", path.join("live")).unwrap();
    let config = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ntls: { certificate: live/gate.pem, private_key: { file: live/gate.key } }\n\
        upstream: { url: UPSTREAM }\nissuers:\n\
        \x20 - oidc_generic: { issuer: 'https://issuer.example', audiences: [api], jwks_file: keys.json }\n\
        routes:\n  - { methods: [GET], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"', \
        attributes: { owner: 'User::\"{path.id}\"' } }\n";
    let house = House::following(path, config).await;
    let (address, authority) = (house.app.address(), path.join("ca.pem"));
    let fields = vec![("authorization".to_owned(), format!("Bearer {}", token(path, None)))];
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (until, trusted, shown) = (done.clone(), authority.clone(), fields.clone());
        callers.spawn(async move {
            let (request, mut asked) = (wire::request("GET", "/users/user-1/data", &shown), 0);
            while !until.load(Ordering::SeqCst) {
                let mut stream = h2::secured(address, &trusted, &["http/1.1"]).await;
                stream.write_all(&request).await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                assert_eq!(wire::Answer::parse(&answer).status, 200, "{}", String::from_utf8_lossy(&answer));
                asked += 1;
            }
            (asked, 0)
        });
        let (done, authority, fields) = (done.clone(), path.join("ca.pem"), fields.clone());
        callers.spawn(async move {
            let (mut asked, mut connections) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                let mut client = h2::Client::secured(address, &authority).await;
                connections += 1;
                while !done.load(Ordering::SeqCst) {
                    // Only what the gate says it has not begun may be asked again.
                    match client.ask(h2::request("GET", "/users/user-1/data", &fields).unwrap()).await {
                        Some(Ok(answer)) => assert_eq!(answer.status, 200),
                        Some(Err(error)) => {
                            let unbegun = error.reason() == Some(::h2::Reason::REFUSED_STREAM);
                            let told = error.is_go_away() && error.reason() == Some(::h2::Reason::NO_ERROR);
                            assert!(unbegun || told, "{error:?}");
                            break;
                        }
                        None => break,
                    }
                    asked += 1;
                }
            }
            (asked, connections)
        });
    }
    for version in ["v1", "v2", "v3"] {
        std::os::unix::fs::symlink(version, path.join("next")).unwrap();
        fs::rename(path.join("next"), path.join("live")).unwrap();
        let start = std::time::Instant::now();
        let wanted = format!("subject=CN={version}");
        while tokio::task::block_in_place(|| shown_for(path, address, None)) != wanted {
            assert!(start.elapsed().as_secs() < 20, "the certificate does not become {version}");
        }
    }
    done.store(true, Ordering::SeqCst);
    for (asked, connections) in callers.join_all().await {
        assert!(asked > 10, "only {asked} requests were sent");
        assert!(connections == 0 || connections >= 4, "a connection outlives its certificate: {connections}");
    }
}

#[test]
fn check_says_where_certificates_are_wrong() {
    let folder = folder();
    let path = folder.path();
    certificate_for(path, "one", "DNS:one.example");
    certificate_for(path, "again", "DNS:ONE.example");
    fs::write(path.join("broken.pem"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    for (tls, problems) in [
        ("certificates: [{ certificate: one.pem, private_key: { file: one.key } }]", &[][..]),
        (
            "certificates: [{ certificate: one.pem, private_key: { file: again.key } }, { certificate: broken.pem, private_key: { file: one.key } }]",
            &[
                "the key does not fit the certificate",
                "config.yaml:3:2]",
                "the certificates cannot be read",
                "config.yaml:3:32]",
            ],
        ),
        (
            "certificates: [{ certificate: one.pem, private_key: { file: one.key } }, { certificate: again.pem, private_key: { file: again.key } }]",
            &["two certificates are for `one.example`"],
        ),
        (
            "certificates: [{ certificate: first.pem, private_key: { file: first.key } }]",
            &["the certificate names no host"],
        ),
        ("unknown_name: refused", &["the certificate names no host"]),
        (
            "client_certificate: required, client_authorities: broken.pem",
            &["the certificates cannot be read", "config.yaml:2:"],
        ),
    ] {
        let lines = tls.replacen("again.key", "\n again.key", 1);
        let text = format!(
            "listen: 127.0.0.1:0\ntls: {{ certificate: gate.pem, private_key: {{ file: gate.key }}, {lines} }}\n\
             upstream: {{ url: 'http://127.0.0.1:1' }}\n\
             issuers: [oidc_generic: {{ issuer: 'https://a.example', audiences: [api], jwks_file: keys.json }}]\n\
             routes: [{{ methods: [GET], path: /, action: readOnly, resource: 'UserData::\"a\"', attributes: {{ owner: 'User::\"a\"' }} }}]\n"
        );
        fs::write(path.join("config.yaml"), text).unwrap();
        let output = run(path, env!("CARGO_BIN_EXE_portcullis"), &["check"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if problems.is_empty() { 0 } else { 64 }), "{tls}: {said}");
        for problem in problems {
            assert!(said.contains(problem), "{problem} is not in {said}");
        }
    }
}

/// The record of the good call by who shows the certificate of this name, in this version of HTTP.
async fn recorded(house: &mut House, folder: &Path, certificate: Option<&str>, version: &str) -> Record {
    let url = format!("https://{}/users/user-1/data", house.app.address());
    let bearer = format!("authorization: Bearer {}", token(folder, None));
    let mut arguments = vec!["-sS", "--max-time", "5", "--cacert", "ca.pem", "-H", &bearer, &url, version];
    let shown = certificate.map(|name| (format!("{name}.pem"), format!("{name}.key")));
    if let Some((certificate, key)) = &shown {
        arguments.extend(["--cert", certificate, "--key", key]);
    }
    tokio::task::block_in_place(|| run(folder, "curl", &arguments));
    house.record().await.expect("a record")
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_read_a_client_certificate_that_somebody_vouches_for_and_of_no_other_more_than_its_thumbprint() {
    let folder = folder();
    let path = folder.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let names = "subjectAltName=URI:spiffe://example/agent,DNS:Agent.example,email:a@example\n";
    fs::write(path.join("workload.ext"), format!("extendedKeyUsage=clientAuth\n{names}")).unwrap();
    let subject = ["-subj", "/DC=example/O=x, CN=admin/CN=agent", "-keyout", "workload.key", "-out", "workload.csr"];
    let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    assert!(run(path, "openssl", &[&request[..], &subject].concat()).status.success());
    let sign = "x509 -req -in workload.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile workload.ext";
    openssl(path, &format!("{sign} -out workload.pem"));
    openssl(
        path,
        &format!(
            "req -x509 {key} -days 2 -subj /CN=agent -addext subjectAltName=URI:spiffe://example/agent -keyout forged.key -out forged.pem"
        ),
    );
    let schema = house::repository("policies/schema.cedarschema");
    let with = |members: &str| {
        let context = format!("context: {{ request: {{ certificate?: {{ {members} }} }},");
        fs::write(path.join("policies/schema.cedarschema"), schema.replacen("context: {", &context, 1)).unwrap();
    };
    with("thumbprint: String, subject?: String, dnsNames?: Set<String>, uris?: Set<String>");
    let policy = "@id(\"workload\") forbid (principal, action, resource) unless { context.request has certificate && \
        context.request.certificate has uris && context.request.certificate.uris.contains(\"spiffe://example/agent\") };";
    fs::write(path.join("policies/workload.cedar"), policy).unwrap();
    let asks = ", client_certificate: accepted";
    let mut house =
        gate_with(path, &format!("{asks}, client_authorities: ca.pem"), "off", "records: { questions: true }\n").await;
    for (shown, code) in [(Some("workload"), "allowed"), (Some("first"), "access_denied"), (None, "access_denied")] {
        for version in ["--http1.1", "--http2"] {
            let record = recorded(&mut house, path, shown, version).await;
            assert_eq!(record.code, code, "{shown:?} {version}");
            let question: serde_json::Value = serde_json::from_str(record.question.as_ref().unwrap().get()).unwrap();
            let told = &question["context"]["request"]["certificate"];
            assert_eq!(told.is_null(), shown.is_none(), "{question}");
            if shown == Some("workload") {
                let written =
                    run(path, "openssl", &["x509", "-in", "workload.pem", "-noout", "-subject", "-nameopt", "RFC2253"]);
                let written = String::from_utf8(written.stdout).unwrap();
                assert_eq!(told["subject"].as_str(), written.trim().strip_prefix("subject="), "{told}");
                assert_eq!(told["subject"], "CN=agent,O=x\\, CN=admin,DC=example");
                openssl(path, "x509 -in workload.pem -outform DER -out workload.der");
                let thumbprint = digest(&SHA256, &fs::read(path.join("workload.der")).unwrap());
                assert_eq!(told["thumbprint"], URL_SAFE_NO_PAD.encode(thumbprint));
                assert_eq!(told["dnsNames"], json!(["agent.example"]));
                assert_eq!(told["uris"], json!(["spiffe://example/agent"]));
            }
        }
    }
    // Without authorities nobody vouches for what is written there.
    let mut house = gate_with(path, asks, "off", "records: { questions: true }\n").await;
    for shown in ["forged", "workload"] {
        let record = recorded(&mut house, path, Some(shown), "--http2").await;
        assert_eq!((record.code, &*record.policies), ("access_denied", &["workload".to_owned()][..]));
        let question: serde_json::Value = serde_json::from_str(record.question.as_ref().unwrap().get()).unwrap();
        let told = question["context"]["request"]["certificate"].as_object().unwrap().keys().collect::<Vec<_>>();
        assert_eq!(told, ["thumbprint"]);
    }
    fs::remove_file(path.join("policies/workload.cedar")).unwrap();
    with("uris: Set<String>");
    let mut house = gate(path, asks, "off").await;
    let record = recorded(&mut house, path, Some("forged"), "--http1.1").await;
    assert_eq!((record.code, record.missing.as_deref()), ("claim_missing", Some("request.certificate.uris")));
    assert_eq!(recorded(&mut house, path, None, "--http1.1").await.code, "allowed");
}
