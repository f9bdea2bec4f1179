//! Nothing is answered without a record: what the HTTP library would turn away by itself is refused before it sees it.

use crate::{
    house::{self, House, ROUTES, good_token},
    wire::{self, Answer},
};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_refused_has_a_record() {
    let mut house = House::build(Some(ROUTES), &[], house::NOW).await;
    let token = format!("authorization: Bearer {}\r\n", good_token());
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nhost: gate\r\n{token}{fields}\r\n");
    let data = "/users/user-1/data";
    for (request, status, code) in [
        (format!("CONNECT gate:443 HTTP/1.1\r\nhost: gate:443\r\n{token}\r\n"), 501, "method_refused"),
        (format!("CONNECT / HTTP/1.1\r\nhost: gate\r\n{token}\r\n"), 501, "method_refused"),
        (get(data, "host: gate\r\n"), 400, "header_repeated"),
        (get(data, "host: other\r\n"), 400, "header_repeated"),
        (get("http://gate/users/user-1/data", ""), 400, "ambiguous_path"),
        (get("http://other/users/user-1/data", ""), 400, "ambiguous_path"),
        (get("*", ""), 400, "ambiguous_path"),
        (get("foo", ""), 400, "ambiguous_path"),
        (get(&format!("{data}?filter={{\"a\":1}}"), ""), 400, "ambiguous_path"),
        (get(&format!("{data}?a=<b>`"), ""), 400, "ambiguous_path"),
        (get("/<script>", ""), 400, "ambiguous_path"),
        (get(&format!("{data}?a={{1}}|^"), ""), 200, "allowed"),
        (format!("GET {data} HTTP/1.1\r\n{token}\r\n"), 400, "host_missing"),
        (format!("GET {data} HTTP/1.1\r\nhost: a@b\r\n{token}\r\n"), 400, "host_invalid"),
        (format!("GET {data} HTTP/1.1\r\nhost: a b\r\n{token}\r\n"), 400, "host_invalid"),
        (format!("GET {data} HTTP/1.1\r\nhost:\r\n{token}\r\n"), 400, "host_invalid"),
        (format!("GET {data} HTTP/1.1\r\nhost: a/b\r\n{token}\r\n"), 400, "host_invalid"),
        (format!("GET {data} HTTP/1.1\r\nhost: \u{e9}\r\n{token}\r\n"), 400, "host_invalid"),
        (get(data, "content-length: 1\r\ncontent-length: 2\r\n"), 400, "header_repeated"),
        (get(data, "content-length: 0\r\ncontent-length: 0\r\n"), 400, "header_repeated"),
        (get(data, "content-length: 0, 0\r\n"), 400, "framing_conflict"),
        (get(data, "content-length: +0\r\n"), 400, "framing_conflict"),
        (get(data, "content-length:\r\n"), 400, "framing_conflict"),
        (get(data, "content-length: 99999999999999999999999\r\n"), 400, "framing_conflict"),
        (get(data, "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"), 400, "framing_conflict"),
        (get(data, "transfer-encoding: gzip, chunked\r\n"), 400, "framing_conflict"),
        (get(data, "transfer-encoding: chunked\r\ncontent-length: 1\r\n"), 400, "framing_conflict"),
        (
            format!("POST {data} HTTP/1.0\r\nhost: gate\r\n{token}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            400,
            "framing_conflict",
        ),
        (get(data, "connection: host\r\n"), 400, "request_invalid"),
        (get(data, "connection: \"x\"\r\n"), 400, "request_invalid"),
        (get(data, "connection: :path\r\n"), 400, "request_invalid"),
        (get(data, "te: trailers, chunked\r\n"), 200, "allowed"),
        (get(data, "trailer: x\r\n"), 200, "allowed"),
        (get(data, "expect: unknown\r\n"), 200, "allowed"),
        (get("/users/\u{e9}/data", ""), 400, "ambiguous_path"),
        (format!("g\u{e9}t {data} HTTP/1.1\r\nhost: gate\r\n\r\n"), 400, "framing_conflict"),
        (get(data, &"x: y\r\n".repeat(300)), 431, "head_too_large"),
        (get(data, "x: \u{e9}\r\n"), 200, "allowed"),
    ] {
        let closing = request.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
        let answer = Answer::parse(&wire::send(house.app.address(), closing.as_bytes()).await);
        let record = house.record().await;
        assert_eq!((answer.status, record.map(|it| it.code)), (status, Some(code)), "{request}");
    }
}
