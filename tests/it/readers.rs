//! Two servers' ways to read one stream of requests: to the letter of RFC 9112, and whatever may be made of it.

/// A request that a strict reader found.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// Whether its body is there, to its end.
    pub(crate) whole: bool,
}

impl Message {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn only(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }
}

/// All requests of `stream`, where it is canonical: the last one may be cut off, in its head or its body.
pub(crate) fn strict(stream: &[u8]) -> Result<Vec<Message>, String> {
    let (mut messages, mut rest) = (Vec::new(), stream);
    while let Some(end) = find(rest, b"\r\n\r\n") {
        let message = head(&rest[..end])?;
        let body = &rest[end + 4..];
        let length = match message.only("content-length") {
            Some(length) => Some(length.parse().unwrap()).filter(|length| *length <= body.len()),
            None if message.all("transfer-encoding").is_empty() => Some(0),
            None => chunked(body)?,
        };
        messages.push(Message { whole: length.is_some(), ..message });
        let Some(length) = length else { return Ok(messages) };
        rest = &body[length..];
    }
    if has_odd_byte(rest, b"\t\r\n") {
        Err(format!("a head begins {:?}", rest.escape_ascii().to_string()))
    } else {
        Ok(messages)
    }
}

fn head(head: &[u8]) -> Result<Message, String> {
    let wrong = |what: &str| Err(format!("{what} in {:?}", head.escape_ascii().to_string()));
    // RFC 9110 section 5.5 lets a value hold bytes outside ASCII.
    let text: String = head.iter().map(|&byte| char::from(byte)).collect();
    let mut lines = text.split("\r\n");
    let words: Vec<_> = lines.next().unwrap().split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return wrong("a request line") };
    if !method.bytes().all(is_tchar) || !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return wrong("a method or target");
    }
    let mut fields = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return wrong("a line without colon") };
        let odd = |c: char| c.is_ascii_control() && c != '\t';
        if name.is_empty() || !name.bytes().all(is_tchar) || value.contains(odd) {
            return wrong("a field");
        }
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let message = Message { method: method.into(), target: target.into(), fields, whole: false };
    let [lengths, codings, upgrades] = ["content-length", "transfer-encoding", "upgrade"].map(|name| message.all(name));
    let framed = match (&lengths[..], &codings[..]) {
        ([], []) | ([], ["chunked"]) => true,
        ([length], []) => !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    let of_the_hop = ["te", "trailer", "keep-alive", "proxy-connection", "proxy-authorization", "http2-settings"];
    let connection = message.all("connection").join(",").to_ascii_lowercase();
    let hop = match (&connection[..], &upgrades[..]) {
        ("" | "close" | "keep-alive", []) => of_the_hop.iter().all(|name| message.all(name).is_empty()),
        ("upgrade", ["websocket"]) => message.method == "GET" && lengths.is_empty() && codings.is_empty(),
        _ => false,
    };
    let ours = ["agent", "user", "app", "decision"];
    let identity = ours.iter().all(|name| message.only(&format!("x-portcullis-{name}")).is_some());
    match (framed, hop, identity && message.all("authorization").is_empty(), message.only("host")) {
        (true, true, true, Some(_)) => Ok(message),
        (false, ..) => wrong("the framing"),
        (_, false, ..) => wrong("the fields for one hop"),
        _ => wrong("host or identity"),
    }
}

/// The length of a body in chunks, without extensions and trailers; nothing while its end is not there.
fn chunked(body: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(end) = find(&body[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&body[at..at + end]).unwrap_or_default();
        let plain = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(size) = plain.then(|| usize::from_str_radix(size, 16).ok()).flatten() else {
            return Err(format!("a chunk size in {:?}", body[at..].escape_ascii().to_string()));
        };
        let data = at + end + 2;
        let Some(ending) = body.get(data + size..data + size + 2) else { return Ok(None) };
        if ending != b"\r\n" {
            return Err(format!("the end of a chunk in {:?}", body[at..].escape_ascii().to_string()));
        }
        at = data + size + 2;
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

/// Which of two lengths a lax reader goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prefer {
    Length,
    Chunks,
}

/// The methods of all whole requests that a reader sees in `stream` which takes any line break for one, unfolds lines, skips
/// what does not belong into names, and believes whatever speaks of chunks.
pub(crate) fn lax(stream: &[u8], prefer: Prefer) -> Vec<String> {
    let (mut methods, mut at) = (Vec::new(), 0);
    loop {
        while stream.get(at).is_some_and(|byte| byte.is_ascii_whitespace()) {
            at += 1;
        }
        let mut lines: Vec<String> = Vec::new();
        loop {
            let Some((line, next)) = line(stream, at) else { return methods };
            at = next;
            match (lines.last_mut(), line.chars().next()) {
                (_, None) => break,
                (Some(before), Some(' ' | '\t')) => before.push_str(&line),
                _ => lines.push(line),
            }
        }
        let Some(end) = lax_end(stream, at, &lines, prefer) else { return methods };
        at = end;
        methods.push(lines[0].split_whitespace().next().unwrap_or_default().to_owned());
    }
}

fn lax_end(stream: &[u8], mut at: usize, lines: &[String], prefer: Prefer) -> Option<usize> {
    let (mut length, mut chunks) = (None, false);
    for line in &lines[1..] {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let name: String = name.chars().filter(char::is_ascii_alphabetic).collect();
        let digits =
            value.trim_start_matches(|c: char| !c.is_ascii_digit()).split(|c: char| !c.is_ascii_digit()).next();
        match name.to_ascii_lowercase().as_str() {
            "contentlength" => length = length.or_else(|| digits.and_then(|digits| digits.parse::<usize>().ok())),
            "transferencoding" => chunks |= value.to_ascii_lowercase().contains("chunked"),
            _ => {}
        }
    }
    if chunks && (length.is_none() || matches!(prefer, Prefer::Chunks)) {
        loop {
            let (size, next) = line(stream, at)?;
            let digits: String = size.trim().chars().take_while(char::is_ascii_hexdigit).collect();
            let size = usize::from_str_radix(&digits, 16).unwrap_or(0);
            at = next.saturating_add(size);
            let (after, next) = line(stream, at)?;
            // What is no line break belongs to what follows.
            at = if after.is_empty() { next } else { at };
            if size == 0 {
                return Some(at);
            }
        }
    }
    let end = at.saturating_add(length.unwrap_or(0));
    (end <= stream.len()).then_some(end)
}

/// The line that begins at `at`, and where the next one does.
fn line(stream: &[u8], at: usize) -> Option<(String, usize)> {
    let rest = stream.get(at..)?;
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    let wide = rest[end..].starts_with(b"\r\n");
    Some((rest[..end].iter().map(|&byte| char::from(byte)).collect(), at + end + if wide { 2 } else { 1 }))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn has_odd_byte(bytes: &[u8], but: &[u8]) -> bool {
    bytes.iter().any(|byte| !(byte.is_ascii_graphic() || *byte == b' ' || but.contains(byte)))
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn the_readers_part_where_servers_do() {
    let canonical = "host: a\r\nx-portcullis-agent: a\r\nx-portcullis-user: b\r\nx-portcullis-app: c\r\nx-portcullis-decision: d\r\n";
    let both = |text: String| {
        (
            strict(text.as_bytes()).map(|it| it.len()).ok(),
            lax(text.as_bytes(), Prefer::Length).len(),
            lax(text.as_bytes(), Prefer::Chunks).len(),
        )
    };
    let get = format!("GET / HTTP/1.1\r\n{canonical}\r\n");
    assert_eq!(both(get.repeat(3)), (Some(3), 3, 3));
    let post = |fields: &str, body: &str| both(format!("POST / HTTP/1.1\r\n{canonical}{fields}\r\n{body}"));
    assert_eq!(post("content-length: 2\r\n", "ab"), (Some(1), 1, 1));
    assert_eq!(post("transfer-encoding: chunked\r\n", "2\r\nab\r\n0\r\n\r\n"), (Some(1), 1, 1));
    let inner = format!("0\r\n\r\n{get}");
    let length = inner.len();
    assert_eq!(post(&format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"), &inner), (None, 1, 2));
    assert_eq!(post(&format!("content-length: {length}\r\ntransfer-encoding:\r\n chunked\r\n"), &inner), (None, 1, 2));
    assert_eq!(
        post(&format!("content-length: {length}\r\nx: y\ntransfer_encoding : xchunked\r\n"), &inner),
        (None, 1, 2)
    );
    assert_eq!(post("transfer-encoding: chunked\r\n", "2;x\r\nab\r\n0\r\n\r\n"), (None, 1, 1));
}
