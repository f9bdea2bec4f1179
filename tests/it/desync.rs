//! The framing corpus, run where it is at hand: every raw request of `h1-desync` through the live gate, in front of an upstream
//! that reads to the letter and of one that reads whatever it can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis::audit::{Outcome, Record};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::UnboundedReceiver,
    time::{sleep, timeout},
};

use crate::{
    corpora::{corpus, lines, text},
    house::{self, House},
    readers::{Prefer, lax, strict},
};

/// Rows that should be refused with 400 or 501 (`must_reject`) and are not: why that is no harm.
const NOT_REFUSED: [(&str, &str); 7] = [
    ("llhttp/connection/2", "what follows the last request of a connection is not read"),
    ("llhttp/connection/4", "what follows the request is no request, and is not read"),
    ("llhttp/connection/13", "a protocol that is not handed through is not asked for; the request is like any other"),
    ("llhttp/connection/14", "the same, with a body; what follows that is not read"),
    ("llhttp/connection/16", "the same"),
    ("llhttp/invalid/41", "a method that no route has is 404, to whoever has a token"),
    ("llhttp/invalid/51", "the same"),
];

/// How the upstream of a gate reads.
#[derive(Clone, Copy, Debug)]
enum Reads {
    Strictly,
    Laxly,
}

/// What an upstream got, connection by connection.
#[derive(Default)]
struct Got(Vec<Vec<u8>>);

/// Routes for every method and every path of the corpus: what is well framed is allowed.
fn config() -> String {
    let paths = ["/", "/{a}", "/{a}/{b}", "/{a}/{b}/{c}", "/{a}/{b}/{c}/{d}", "/{a}/"];
    let routes = paths.map(|path| {
        format!(
            "  - {{ methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS], path: '{path}', action: readOnly, \
             resource: 'UserData::\"any\"', attributes: {{ owner: 'User::\"user-1\"' }} }}\n"
        )
    });
    format!(
        "listen: 127.0.0.1:0\nupstream: {{ url: 'http://127.0.0.1:1', read_timeout_ms: 1000 }}\n\
         limits: {{ client_timeout_ms: 150 }}\nissuers:\n  - cognito_access:\n      \
         issuer: https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents\n      client_ids: [1example23456789]\n      \
         scope_prefix: crossDomainService/\nroutes:\n{}",
        routes.concat()
    )
}

async fn upstream(reads: Reads) -> (SocketAddr, Arc<Mutex<Got>>) {
    let listener = house::loopback().await;
    let (address, got) = (listener.local_addr().unwrap(), Arc::<Mutex<Got>>::default());
    let all = got.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let index = {
                let streams = &mut all.lock().unwrap().0;
                streams.push(Vec::new());
                streams.len() - 1
            };
            tokio::spawn(serve(stream, reads, all.clone(), index));
        }
    });
    (address, got)
}

/// Answers each request that it sees, as soon as it is whole.
async fn serve(mut stream: TcpStream, reads: Reads, got: Arc<Mutex<Got>>, index: usize) {
    let mut answered = 0;
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        let methods = {
            let stream = &mut got.lock().unwrap().0[index];
            stream.extend_from_slice(&part[..read]);
            match reads {
                Reads::Laxly => lax(stream, Prefer::Chunks),
                Reads::Strictly => match strict(stream) {
                    Ok(messages) => messages.into_iter().filter(|it| it.whole).map(|it| it.method).collect(),
                    Err(_) => return,
                },
            }
        };
        for method in &methods[answered..] {
            let body = if method == "HEAD" { "" } else { "ok" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        answered = methods.len();
    }
}

/// Puts a token, and a host where there is none, behind the request line of the first head, or of each: what is framed
/// otherwise by it is one more thing to try. Where a folded line comes next, it would become part of what is put in.
fn with_token(raw: &[u8], each: bool, token: Option<&str>) -> Vec<u8> {
    let (mut made, mut rest, mut first) = (Vec::new(), raw, true);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        made.extend_from_slice(line);
        rest = after;
        let begins =
            line.windows(6).any(|window| window == b" HTTP/") && !after.starts_with(b" ") && !after.starts_with(b"\t");
        if begins && (first || each) {
            first = false;
            made.extend(token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n")).bytes());
            let text = String::from_utf8_lossy(after).to_ascii_lowercase();
            let head = text.split("\n\r\n").next().unwrap_or_default();
            if !format!("\n{head}").contains("\nhost:") {
                made.extend(b"host: gate\r\n");
            }
        }
    }
    made.extend_from_slice(rest);
    made
}

/// What is sent of a row, by name.
fn variants(raw: &[u8], token: &str) -> [(&'static str, Vec<u8>); 7] {
    let good = format!("GET /behind HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes();
    let allowed = with_token(raw, false, Some(token));
    let ended = [&allowed[..], b"\r\n"].concat();
    [
        ("denied", raw.to_vec()),
        ("denied, with a host", [&with_token(raw, true, None)[..], b"\r\n"].concat()),
        ("each", with_token(raw, true, Some(token))),
        ("followed", [&allowed[..], &good].concat()),
        ("ended, followed", [&ended[..], &good].concat()),
        ("ended", ended),
        ("allowed", allowed),
    ]
}

/// What the client of an exchange saw.
#[derive(Debug)]
struct Seen {
    statuses: Vec<u16>,
    /// How many of the answers have a record: those that are not of the HTTP library.
    recorded: usize,
    /// Whether the gate closed the connection, unasked.
    closed: bool,
}

/// Sends `request`, and reads until the connection is closed, or is quiet after an answer.
async fn exchange(address: SocketAddr, request: &[u8]) -> Seen {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The gate may close before it has read everything.
    let _ = stream.write_all(request).await;
    let (mut bytes, mut closed) = (Vec::new(), false);
    while !closed {
        // After some answers the gate closes, which may take it a moment.
        let patience = match statuses(&bytes)[..] {
            [] => 8000,
            [400 | 405 | 408 | 501, ..] => 2000,
            _ => 80,
        };
        match timeout(Duration::from_millis(patience), stream.read_buf(&mut bytes)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => closed = true,
            Err(_) => break,
        }
    }
    if !closed {
        let _ = stream.shutdown().await;
        let _ = timeout(Duration::from_secs(8), stream.read_to_end(&mut bytes)).await;
    }
    let (statuses, text) = (statuses(&bytes), String::from_utf8_lossy(&bytes));
    let recorded = text.matches("problem+json").count() + statuses.iter().filter(|status| **status == 200).count();
    Seen { statuses, recorded, closed }
}

/// Those of all answers but informational ones. No body here looks like an answer.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.split("HTTP/1.1 ").skip(1).filter_map(|it| it.get(..3)?.parse().ok()).filter(|status| *status >= 200).collect()
}

/// One gate with its upstream, for one exchange after the other.
struct Bench {
    address: SocketAddr,
    got: Arc<Mutex<Got>>,
    records: UnboundedReceiver<Record>,
    /// How much of each stream has been looked at.
    marks: Vec<usize>,
    /// Rows of `NOT_REFUSED` that were not.
    excused: BTreeSet<String>,
    _app: house::Gate,
}

impl Bench {
    async fn set(reads: Reads) -> Self {
        let (upstream, got) = upstream(reads).await;
        let house = House::build_for(&config(), &format!("http://{upstream}")).await;
        let address = house.app.address();
        let (_app, records) = house.part();
        Self { address, got, records, marks: Vec::new(), excused: BTreeSet::new(), _app }
    }

    /// The streams' new parts, once the upstream has read what `allowed` requests sent.
    async fn news(&mut self, allowed: usize) -> Vec<Vec<u8>> {
        let began = Instant::now();
        loop {
            let parts: Vec<Vec<u8>> = {
                let streams = &self.got.lock().unwrap().0;
                self.marks.resize(streams.len(), 0);
                streams.iter().zip(&self.marks).map(|(stream, mark)| stream[*mark..].to_vec()).collect()
            };
            if parts.iter().filter(|part| !part.is_empty()).count() >= allowed
                || began.elapsed() > Duration::from_millis(300)
            {
                for (mark, part) in self.marks.iter_mut().zip(&parts) {
                    *mark += part.len();
                }
                return parts.into_iter().filter(|part| !part.is_empty()).collect();
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everything in which one exchange falls short of the bar, and how often what was sent reached the upstream.
    async fn judge(&mut self, row: &Value, variant: &str, request: &[u8]) -> (Vec<String>, Seen, usize) {
        let seen = exchange(self.address, request).await;
        let (mut records, began) = (Vec::new(), Instant::now());
        while records.len() < seen.recorded && began.elapsed() < Duration::from_secs(2) {
            let next = timeout(Duration::from_secs(2), self.records.recv()).await;
            records.extend(next.ok().flatten());
        }
        while let Ok(record) = self.records.try_recv() {
            records.push(record);
        }
        let allowed: Vec<_> = records.iter().filter(|record| record.decision == Outcome::Allow).collect();
        let parts = self.news(allowed.len()).await;
        let (mut wrong, mut forwarded, mut decisions) = (Vec::new(), 0, BTreeSet::new());
        for part in &parts {
            match strict(part) {
                Ok(messages) => {
                    let whole = messages.iter().filter(|it| it.whole).count();
                    let read = [Prefer::Length, Prefer::Chunks].map(|prefer| lax(part, prefer).len());
                    if read != [whole; 2] {
                        wrong.push(format!("{whole} requests are {read:?} to others"));
                    }
                    forwarded += messages.len();
                    decisions
                        .extend(messages.iter().filter_map(|it| Some(it.only("x-portcullis-decision")?.to_owned())));
                }
                Err(error) => wrong.push(error),
            }
        }
        let known: BTreeSet<_> = allowed.iter().map(|record| record.decision_id.clone()).collect();
        if decisions.len() != forwarded || !decisions.is_subset(&known) {
            wrong.push(format!("{forwarded} forwarded with the decisions {decisions:?} of {known:?}"));
        }
        let gone = records.iter().filter(|record| record.code == "client_gone").count();
        if forwarded > seen.statuses.len() + gone {
            wrong.push(format!("{forwarded} forwarded and {:?} answered", seen.statuses));
        }
        if variant.starts_with("denied") && (forwarded > 0 || seen.statuses.iter().any(|status| *status < 400)) {
            wrong.push("let through without a token".to_owned());
        }
        if seen.statuses.contains(&500) {
            wrong.push("a fault of the gate".to_owned());
        }
        let excused = NOT_REFUSED.iter().any(|(id, _)| *id == text(row, "id"));
        let refused = matches!(seen.statuses[..], [400 | 405 | 408 | 501]) && seen.closed;
        if text(row, "expect") == "must_reject" && !variant.starts_with("denied") && !refused {
            match excused {
                true => drop(self.excused.insert(text(row, "id").to_owned())),
                false => wrong.push(format!("not refused: {seen:?}")),
            }
        }
        (wrong, seen, forwarded)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_framing_makes_the_upstream_see_more_requests_than_were_allowed() {
    const BENCHES: usize = 12;
    let Some(folder) = corpus("h1-desync") else { return };
    let rows = Arc::new(lines(&folder.join("h1_given.jsonl")));
    let token = house::good_token();
    let mut at_work = Vec::new();
    for (reads, number) in
        [Reads::Strictly, Reads::Laxly].into_iter().flat_map(|reads| (0..BENCHES).map(move |it| (reads, it)))
    {
        let (rows, token) = (rows.clone(), token.clone());
        at_work.push(tokio::spawn(async move {
            let mut bench = Bench::set(reads).await;
            let (mut wrong, mut counts) = (Vec::new(), BTreeMap::<(String, &str), usize>::new());
            for row in rows.iter().skip(number).step_by(BENCHES) {
                let raw = STANDARD.decode(text(row, "raw_b64")).unwrap();
                for (variant, request) in variants(&raw, &token) {
                    let (found, seen, forwarded) = bench.judge(row, variant, &request).await;
                    let outcome = match (forwarded, &seen.statuses[..]) {
                        (0, []) => "closed",
                        (0, _) => "refused",
                        (_, [200, ..]) => "answered",
                        _ => "begun and refused",
                    };
                    *counts.entry((format!("{} ({variant})", text(row, "expect")), outcome)).or_default() += 1;
                    wrong
                        .extend(found.into_iter().map(|it| format!("{} {reads:?} ({variant}): {it}", text(row, "id"))));
                }
            }
            (wrong, counts, bench.excused)
        }));
    }
    let (mut wrong, mut counts, mut excused) = (Vec::new(), BTreeMap::<_, usize>::new(), BTreeSet::new());
    for bench in at_work {
        let (found, counted, not_refused) = bench.await.unwrap();
        wrong.extend(found);
        excused.extend(not_refused);
        for (kind, count) in counted {
            *counts.entry(kind).or_default() += count;
        }
    }
    for ((row, outcome), count) in &counts {
        println!("{row}: {count} {outcome}");
    }
    println!("{} rows, of which are not refused: {NOT_REFUSED:#?}", rows.len());
    assert_eq!(excused.len(), NOT_REFUSED.len(), "refused after all: {excused:?} are what is left");
    wrong.sort();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
