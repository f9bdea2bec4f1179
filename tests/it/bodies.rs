//! Bodies of requests that are answered before they are read: none is ever taken for a request.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    house::{self, House, ROUTES, good_token},
    wire::{self, Answer},
};

/// A gate before `upstream`, or before the service of the house.
async fn gate(upstream: Option<&str>) -> House {
    let text = ROUTES.replace("127.0.0.1:1'", "127.0.0.1:1', read_timeout_ms: 1000");
    let text = format!("{text}limits: {{ client_timeout_ms: 500 }}\n");
    match upstream {
        Some(upstream) => House::build_for(&text, upstream).await,
        None => House::build(Some(&text), &[], house::NOW).await,
    }
}

/// Heads that are refused, each at another stage; without the fields that frame a body.
fn refused() -> Vec<(u16, &'static str, String)> {
    let token = good_token();
    let head = |target: &str, more: &str| format!("POST {target} HTTP/1.1\r\nhost: gate\r\n{more}");
    let bearer = format!("authorization: Bearer {token}\r\n");
    vec![
        (400, "ambiguous_path", head("/users/../user-1/data", &bearer)),
        (400, "framing_conflict", head("/users/user-1/data", &format!("{bearer}x: y\r\n folded\r\n"))),
        (400, "several_tokens", head("/users/user-1/data", &format!("{bearer}{bearer}"))),
        (401, "token_missing", head("/users/user-1/data", "")),
        (401, "token_malformed", head("/users/user-1/data", "authorization: Bearer x\r\n")),
        (403, "access_denied", head("/users/user-2/data", &bearer)),
        (404, "route_missing", head("/nowhere", &bearer)),
    ]
}

/// All statuses that come back until the connection is closed, or nothing more comes.
async fn statuses(stream: &mut TcpStream) -> (Vec<u16>, bool) {
    let mut bytes = Vec::new();
    let closed = timeout(Duration::from_millis(1500), stream.read_to_end(&mut bytes)).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (text.split("HTTP/1.1 ").skip(1).map(|it| it[..3].parse().unwrap()).collect(), closed.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_refused_request_is_not_read_as_the_next_whatever_of_it_came() {
    let mut house = gate(None).await;
    let good =
        format!("GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {}\r\n\r\n", good_token());
    let chunk = format!("{:x}\r\n{good}\r\n0\r\n\r\n", good.len());
    let length = format!("content-length: {}\r\n", good.len());
    let chunked = "transfer-encoding: chunked\r\n".to_owned();
    for (status, code, head) in refused() {
        for (fields, body) in [(&length, &good), (&chunked, &chunk)] {
            for (sent, expects, behind) in [
                (body.len(), "", ""),
                (body.len(), "", &good[..]),
                (body.len() / 2, "", ""),
                (0, "", ""),
                (0, "expect: 100-continue\r\n", ""),
                (body.len(), "expect: 100-continue\r\n", &good[..]),
            ] {
                for pause in [0, 20] {
                    let before = house.service.received();
                    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
                    stream.write_all(format!("{head}{fields}{expects}\r\n").as_bytes()).await.unwrap();
                    sleep(Duration::from_millis(pause)).await;
                    // The gate may have closed by now.
                    let _ = stream.write_all(format!("{}{behind}", &body[..sent]).as_bytes()).await;
                    let mut bytes = Vec::new();
                    let closed = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.is_ok();
                    let text = String::from_utf8_lossy(&bytes);
                    let what = format!("{code} {fields}{expects}{sent} {pause} {}", behind.len());
                    assert!(closed, "{what}: the connection stays open");
                    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{what}: {text}");
                    assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {text}");
                    assert_eq!(house.service.received(), before, "{what}");
                    assert_eq!(house.record().await.unwrap().code, code, "{what}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_without_a_body_leaves_the_connection_to_the_next() {
    let mut house = gate(None).await;
    let token = good_token();
    for (status, code, head) in refused() {
        let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
        stream.write_all(format!("{head}content-length: 0\r\n\r\n").as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"}") {
            assert!(timeout(Duration::from_secs(5), stream.read_buf(&mut bytes)).await.unwrap().unwrap() > 0);
        }
        assert_eq!(Answer::parse(&bytes).status, status, "{code}");
        let next = format!(
            "GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        // What has two readings ends the connection.
        let ended = matches!(code, "ambiguous_path" | "framing_conflict");
        let _ = stream.write_all(next.as_bytes()).await;
        let mut bytes = Vec::new();
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.unwrap();
        assert_eq!(Answer::parse(&bytes).status, if ended { 0 } else { 200 }, "{code}");
        assert_eq!(house.record().await.unwrap().code, code);
        assert_eq!(house.record().await.is_some(), !ended);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_requests_that_are_sent_together_the_first_is_answered_and_the_connection_is_closed() {
    let mut house = gate(None).await;
    let bearer = format!("host: gate\r\nauthorization: Bearer {}\r\n\r\n", good_token());
    let [allowed, refused] = ["user-1", "user-2"].map(|user| format!("GET /users/{user}/data HTTP/1.1\r\n{bearer}"));
    for (first, status) in [(&allowed, 200), (&refused, 403)] {
        let before = house.service.received();
        let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
        stream.write_all(format!("{first}{allowed}{allowed}").as_bytes()).await.unwrap();
        assert_eq!(statuses(&mut stream).await, (vec![status], true));
        assert_eq!(house.service.received(), before + u64::from(status == 200));
        assert!(house.record().await.is_some_and(|it| it.status == status) && house.record().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_while_it_sends_a_large_body_sees_why() {
    let mut house = gate(None).await;
    for (status, code, head) in refused() {
        for fields in ["content-length: 3000000\r\n", "transfer-encoding: chunked\r\n"] {
            let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
            stream.write_all(format!("{head}{fields}\r\n").as_bytes()).await.unwrap();
            let body = if fields.starts_with('c') {
                "a".repeat(3_000_000)
            } else {
                format!("{:x}\r\n{}\r\n0\r\n\r\n", 3_000_000, "a".repeat(3_000_000))
            };
            let _ = stream.write_all(body.as_bytes()).await;
            assert_eq!(statuses(&mut stream).await, (vec![status], true), "{code} {fields}");
            assert_eq!(house.record().await.unwrap().code, code);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_answers_before_the_body_ends_the_connection() {
    let listener = house::loopback().await;
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let got = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let all = got.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                let mut part = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut part).await {
                    all.lock().unwrap().extend_from_slice(&part[..read]);
                    let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
                }
            });
        }
    });
    let mut house = gate(Some(&upstream)).await;
    let token = good_token();
    let good = format!("GET /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\n\r\n");
    let head = format!(
        "POST /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\ncontent-length: 20000\r\n\r\n"
    );
    let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let _ = stream.write_all(good.as_bytes()).await;
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    let seen = String::from_utf8_lossy(&got.lock().unwrap()).into_owned();
    assert_eq!(seen.matches("x-portcullis-decision").count(), 1, "{seen}");
    assert!(house.record().await.is_some() && house.record().await.is_none());
    // Nor does what is half sent come before another's request.
    let (answer, _) = house
        .ask(&wire::request("GET", "/users/user-1/data", &[("authorization".into(), format!("Bearer {token}"))]))
        .await;
    assert_eq!(answer.status, 403);
    let seen = String::from_utf8_lossy(&got.lock().unwrap()).into_owned();
    assert_eq!(seen.matches("x-portcullis-decision").count(), 2, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_go_wrong_on_the_way_end_the_request_and_the_connection() {
    let mut house = gate(None).await;
    let head = format!(
        "POST /users/user-1/data HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        good_token()
    );
    for (rest, status) in [
        ("0\r\n\r\n", 200),
        ("3\r\nfoo\r\n0\r\n\r\n", 200),
        ("3\r\nfoo\r\n\r\n\r\n", 400),
        ("3;a=b\r\nfoo\r\n0\r\n\r\n", 400),
        ("3 \r\nfoo\r\n0\r\n\r\n", 400),
        ("0\r\nx-portcullis-user: victim\r\n\r\n", 400),
        ("3\r\nfoobar", 400),
    ] {
        let mut stream = TcpStream::connect(house.app.address()).await.unwrap();
        stream.write_all(format!("{head}2\r\nab\r\n").as_bytes()).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        let _ = stream.write_all(rest.as_bytes()).await;
        let (statuses, closed) = statuses(&mut stream).await;
        assert_eq!((&statuses[..], closed), (&[status][..], status == 400), "{rest:?}");
        let code = if status == 400 { "request_invalid" } else { "allowed" };
        drop(stream);
        assert_eq!(house.record().await.unwrap().code, code, "{rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_no_larger_than_its_route_lets_it_be() {
    let route = |path: &str, max: &str| {
        format!(
            "  - {{ methods: [POST], path: '{path}', action: readOnly, resource: 'UserData::\"user-1\"', \
             attributes: {{ owner: 'User::\"user-1\"' }}{max} }}\n"
        )
    };
    let text = format!(
        "{ROUTES}{}{}limits: {{ body_bytes_max: 20000 }}\n",
        route("/small", ", body_bytes_max: 10"),
        route("/usual", "")
    );
    let mut house = House::build(Some(&text), &[], house::NOW).await;
    for (path, max) in [("/small", 10), ("/usual", 20_000)] {
        for (length, code, status) in [(max, "allowed", 200), (max + 1, "body_too_large", 413)] {
            let body = "x".repeat(length);
            let before = house.service.received();
            let announced = [house::bearer(), ("content-length".into(), length.to_string())];
            let mut request = wire::request("POST", path, &announced);
            request.extend(body.bytes());
            let (answer, record) = house.ask(&request).await;
            assert_eq!((answer.status, record.unwrap().code), (status, code), "{path} {length}");
            let chunked = [house::bearer(), ("transfer-encoding".into(), "chunked".into())];
            let mut request = wire::request("POST", path, &chunked);
            for part in [&body[..5], &body[5..]] {
                request.extend(format!("{:x}\r\n{part}\r\n", part.len()).bytes());
            }
            request.extend(b"0\r\n\r\n");
            let (answer, record) = house.ask(&request).await;
            assert_eq!((answer.status, record.unwrap().code), (status, code), "{path} {length} in chunks");
            let mut client = crate::h2::Client::to(house.app.address()).await;
            let (name, token) = house::bearer();
            let request =
                http::Request::post(format!("http://gate.example{path}")).header(name, token).body(()).unwrap();
            let (response, mut send) = client.begin(request, false).await;
            // The gate may have stopped listening by now.
            for part in body.as_bytes().chunks(8_000) {
                let _ = send.send_data(part.to_vec().into(), false);
            }
            let _ = send.send_data(bytes::Bytes::new(), true);
            assert_eq!(response.await.unwrap().status().as_u16(), status, "{path} {length} in HTTP/2");
            assert_eq!(house.record().await.unwrap().code, code, "{path} {length} in HTTP/2");
            // Whatever of it the service saw was no whole request, and none at all where the head told.
            let most = if code == "allowed" { 3 } else { 2 };
            assert!(house.service.received() - before <= most);
        }
    }
}
