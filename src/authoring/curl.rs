//! What a curl command sends, as far as the head of its request: what curl 7.88 does is done, and what is not known here
//! is refused.

use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::asked::split_scheme;

/// Options that take an argument and say nothing of the request's head.
const WITH_ARGUMENT: &str = "-o --output -w --write-out -m --max-time --connect-timeout --retry --retry-delay --resolve \
    --cacert --capath -E --cert --key --cert-type --key-type --ciphers -x --proxy --interface --limit-rate -D \
    --dump-header -c --cookie-jar --tls-max --unix-socket --max-redirs --trace --trace-ascii --stderr";

/// Options without an argument that say nothing of the request's head.
const ALONE: &str = "-s --silent -S --show-error -i --include -v --verbose -k --insecure -L --location -f --fail \
    --fail-with-body --compressed -N --no-buffer --http1.1 --http2 -4 -6 -#";

/// What `--data-urlencode` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) fields: Vec<(String, String)>,
}

/// What a command says, option by option.
#[derive(Debug, Default)]
struct Command {
    method: Option<String>,
    /// Options that each make a method of their own.
    kinds: BTreeSet<&'static str>,
    url: Option<String>,
    /// Fields that `-H` names: a value, or none where curl must not make the field.
    fields: Vec<(String, Option<String>)>,
    /// Fields that curl makes of other options.
    made: Vec<(&'static str, String)>,
    cookies: Vec<String>,
    data: Vec<String>,
    /// Whether some of that is in a file.
    has_file: bool,
    as_query: bool,
    as_is: bool,
    no_globs: bool,
    names_upload: bool,
}

/// Reads `command`.
///
/// # Errors
/// What in it is not understood.
pub(super) fn read(command: &str) -> Result<Sent, String> {
    if let Some(own) = shells_own(command) {
        return Err(format!("`{own}` is for a shell to read: write what it stands for, in single quotes"));
    }
    let joined = command.replace("\\\r\n", "").replace("\\\n", "");
    let words = shlex::split(&joined).ok_or("a quote is not closed")?;
    let mut words = words.into_iter();
    if words.next().as_deref() != Some("curl") {
        return Err("a curl command begins with `curl`".into());
    }
    let mut read = Command::default();
    while let Some(word) = words.next() {
        if word == "--" {
            words.by_ref().try_for_each(|url| read.address(url))?;
        } else if word.starts_with("--") {
            read.option(&word, &mut || words.next())?;
        } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            // The first letter that takes an argument takes the rest of the word, or the next one.
            let mut letters = cluster.chars();
            while let Some(letter) = letters.next() {
                let mut argument = || match std::mem::replace(&mut letters, "".chars()).as_str() {
                    "" => words.next(),
                    rest => Some(rest.to_owned()),
                };
                read.option(&format!("-{letter}"), &mut argument)?;
            }
        } else {
            read.address(word)?;
        }
    }
    read.sent()
}

/// What of `command` a shell would put something else in the place of.
fn shells_own(command: &str) -> Option<String> {
    let (mut quote, mut chars) = (None, command.chars().peekable());
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => drop(chars.next()),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, '$') if matches!(chars.peek(), Some('\'' | '"')) => return Some("$'…'".into()),
            (None | Some('"'), '$') => {
                let name: String =
                    std::iter::from_fn(|| chars.next_if(|c| c.is_alphanumeric() || "_{(".contains(*c))).collect();
                if !name.is_empty() {
                    return Some(format!("${name}"));
                }
            }
            (None | Some('"'), '`') => return Some("`".into()),
            _ => {}
        }
    }
    None
}

impl Command {
    fn option(&mut self, name: &str, next: &mut dyn FnMut() -> Option<String>) -> Result<(), String> {
        let mut argument = || next().ok_or_else(|| format!("`{name}` lacks its argument"));
        match name {
            "-X" | "--request" => self.method = Some(argument()?),
            "--url" => self.address(argument()?)?,
            "-H" | "--header" => self.field(&argument()?)?,
            "--oauth2-bearer" => self.make("Authorization", format!("Bearer {}", argument()?)),
            "-A" | "--user-agent" => self.make("User-Agent", argument()?),
            "-e" | "--referer" => self.make("Referer", argument()?.trim_end_matches(";auto").to_owned()),
            "-b" | "--cookie" => {
                let cookie = argument()?;
                if !cookie.contains('=') {
                    return Err(format!("`{name} {cookie}` reads cookies from a file: write them out, `NAME=VALUE`"));
                }
                self.cookies.push(cookie);
            }
            "-d" | "--data" | "--data-binary" | "--data-ascii" | "--json" => {
                let data = argument()?;
                self.has_file |= data.starts_with('@');
                self.data.push(data);
                if name == "--json" {
                    self.make("Content-Type", "application/json".into());
                }
            }
            "--data-raw" => self.data.push(argument()?),
            "--data-urlencode" => self.data.push(encoded(&argument()?)?),
            "-F" | "--form" => {
                argument()?;
                self.kinds.insert("-F");
            }
            "-T" | "--upload-file" => {
                self.names_upload = !["-", "."].contains(&argument()?.as_str());
                self.kinds.insert("-T");
            }
            "-G" | "--get" => self.as_query = true,
            "-I" | "--head" => drop(self.kinds.insert("-I")),
            "--path-as-is" => self.as_is = true,
            "-g" | "--globoff" => self.no_globs = true,
            name if is_in(WITH_ARGUMENT, name) => drop(argument()?),
            name if is_in(ALONE, name) => {}
            _ => return Err(format!("`{name}` is not an option that is known here")),
        }
        Ok(())
    }

    fn address(&mut self, url: String) -> Result<(), String> {
        if self.url.is_some() {
            return Err(format!("`{url}` is a second URL"));
        }
        self.url = Some(url);
        Ok(())
    }

    /// The last one counts.
    fn make(&mut self, name: &'static str, value: String) {
        self.made.retain(|(made, _)| *made != name);
        if !value.is_empty() {
            self.made.push((name, value));
        }
    }

    fn field(&mut self, text: &str) -> Result<(), String> {
        if text.starts_with('@') {
            return Err(format!("`-H {text}` reads fields from a file: write them out"));
        }
        let (name, value) = match (text.split_once(':'), text.strip_suffix(';')) {
            (Some((name, value)), _) => (name, Some(value.trim()).filter(|value| !value.is_empty())),
            (None, Some(name)) => (name, Some("")),
            (None, None) => return Err(format!("`{text}` is no header field")),
        };
        let is_host = name.eq_ignore_ascii_case("host");
        if is_host && value.is_none() {
            return Err(format!("`-H {text}` sends no `Host`, and every request has one"));
        }
        if !(is_host && self.names(name)) {
            self.fields.push((name.to_owned(), value.map(str::to_owned)));
        }
        Ok(())
    }

    fn names(&self, name: &str) -> bool {
        self.fields.iter().any(|(named, _)| named.eq_ignore_ascii_case(name))
    }

    fn sent(mut self) -> Result<Sent, String> {
        let url = self.url.take().ok_or("the command names no URL")?;
        if !self.data.is_empty() && !self.as_query {
            self.kinds.insert("-d");
        }
        let mut kinds = self.kinds.iter();
        let by_kind = match (kinds.next(), kinds.next()) {
            (Some(one), Some(other)) => return Err(format!("`{one}` and `{other}` exclude each other")),
            (Some(&"-T"), None) => "PUT",
            (Some(&"-I"), None) => "HEAD",
            (Some(_), None) => "POST",
            (None, _) => "GET",
        };
        let url = self.target(&url)?;
        let method = self.method.take().unwrap_or_else(|| by_kind.to_owned());
        if !self.cookies.is_empty() {
            let cookies = self.cookies.join(";");
            self.make("Cookie", cookies);
        }
        let made: Vec<_> = self.made.iter().filter(|(name, _)| !self.names(name)).cloned().collect();
        let mut fields: Vec<_> = self.fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        fields.extend(made.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(Sent { method, url, fields })
    }

    /// The URL that is asked, with its query.
    fn target(&self, url: &str) -> Result<String, String> {
        let (scheme, rest) = split_scheme(url).unwrap_or(("http", url));
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(format!("`{url}` is no URL of `http` or `https`"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (host, rest) = rest.split_at_checked(rest.find(['/', '?']).unwrap_or(rest.len())).unwrap_or_default();
        if host.is_empty() || host.ends_with(':') || host.contains('@') {
            return Err(format!("`{url}` names no host, or a user: the gate is asked with a token"));
        }
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let path = if self.as_is { format!("/{}", path.trim_start_matches('/')) } else { without_dots(path) };
        if self.names_upload && path.ends_with('/') {
            return Err(format!("`-T` adds the file's name to `{url}`: write it there"));
        }
        let data = self.data.join("&");
        if self.as_query && self.has_file {
            return Err("`-G` with data from a file: write the query out".into());
        }
        let data = Some(data).filter(|data| self.as_query && !data.is_empty());
        let query = match (query, data) {
            (query, None) => query.map(str::to_owned),
            (None | Some(""), data) => data,
            (Some(query), Some(data)) => Some(format!("{}&{data}", query.strip_suffix('&').unwrap_or(query))),
        };
        let target = path + &query.map_or_else(String::new, |query| format!("?{query}"));
        if !self.no_globs && target.contains(['{', '}', '[', ']']) {
            return Err(format!("`{target}` is several URLs: write one, or `-g`"));
        }
        if !host.bytes().chain(target.bytes()).all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("`{host}{target}` holds what no URL holds: percent-encode it"));
        }
        Ok(format!("{scheme}://{host}{target}"))
    }
}

fn is_in(options: &str, name: &str) -> bool {
    options.split_ascii_whitespace().any(|option| option == name)
}

/// The argument of `--data-urlencode`, as it is sent.
fn encoded(data: &str) -> Result<String, String> {
    let encode = |text: &str| utf8_percent_encode(text, PLAIN).to_string().replace("%20", "+");
    match data.split_once('=') {
        Some(("", content)) => Ok(encode(content)),
        Some((name, content)) => Ok(format!("{name}={}", encode(content))),
        None if data.contains('@') => Err(format!("`--data-urlencode {data}` reads a file: write its content out")),
        None => Ok(encode(data)),
    }
}

/// `path` without its dot segments (RFC 3986 section 5.2.4).
fn without_dots(path: &str) -> String {
    let (mut kept, mut ends_in_dots) = (Vec::new(), false);
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        ends_in_dots = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    if ends_in_dots {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use crate::authoring::asked::AskedRequest;

    fn head(command: &str) -> Result<String, String> {
        AskedRequest::from_curl(command).map(|it| it.head)
    }

    #[test]
    fn a_curl_command_is_read_as_curl_reads_it() {
        for (command, head_is) in [
            ("curl http://a.example/x?y=1#z", "GET /x?y=1 HTTP/1.1\nHost: a.example\n"),
            ("curl -sS https://a.example", "GET / HTTP/1.1\nHost: a.example\n"),
            ("curl -XDELETE 'http://a.example:8080/x'", "DELETE /x HTTP/1.1\nHost: a.example:8080\n"),
            (
                "curl 'https://a.example/x' \\\n  -H 'authorization: Bearer abc' \\\n  --data-raw '{}' --compressed",
                "POST /x HTTP/1.1\nHost: a.example\nauthorization: Bearer abc\n",
            ),
            ("curl -I -o /dev/null -H'Host: b' http://a.example/", "HEAD / HTTP/1.1\nHost: b\n"),
            ("curl -H 'Host: b' -H 'host: c' h/x", "GET /x HTTP/1.1\nHost: b\n"),
            ("curl -H 'a: cost$' -H \"b: $'\" h/x", "GET /x HTTP/1.1\nHost: h\na: cost$\nb: $'\n"),
            ("curl -H 'a;' -H 'b:' h/x", "GET /x HTTP/1.1\nHost: h\na: \n"),
            ("curl -A x -A y -H 'Referer:' -e z h/x", "GET /x HTTP/1.1\nHost: h\nUser-Agent: y\n"),
            ("curl -b a=b -b c=d h/x", "GET /x HTTP/1.1\nHost: h\nCookie: a=b;c=d\n"),
            ("curl -b a=b -H 'Cookie: x=y' h/x", "GET /x HTTP/1.1\nHost: h\nCookie: x=y\n"),
            (
                "curl --oauth2-bearer a -H 'Authorization: Bearer b' h/x",
                "GET /x HTTP/1.1\nHost: h\nAuthorization: Bearer b\n",
            ),
            ("curl --json '{}' h/x", "POST /x HTTP/1.1\nHost: h\nContent-Type: application/json\n"),
        ] {
            assert_eq!(head(command).as_deref(), Ok(head_is), "{command}");
        }
        let token = AskedRequest::from_curl("curl --oauth2-bearer abc http://a/").unwrap().token;
        assert_eq!(token, Some(("Bearer".into(), "abc".into())));
    }

    #[test]
    fn method_and_target_are_those_that_curl_sends() {
        for (command, line) in [
            ("curl -T f http://h/x", "PUT /x"),
            ("curl -XPOST -T f http://h/x", "POST /x"),
            ("curl -T f -G http://h/x", "PUT /x"),
            ("curl -X POST -I http://h/x", "POST /x"),
            ("curl -I -X POST http://h/x", "POST /x"),
            ("curl -I -G -d a http://h/x", "HEAD /x?a"),
            ("curl -F a=b -G http://h/x", "POST /x"),
            ("curl -d '' http://h/x", "POST /x"),
            ("curl http://h/docs/../docs/1", "GET /docs/1"),
            ("curl 'http://h/a/./b/..?q=/../x'", "GET /a/?q=/../x"),
            ("curl http://h/a/..", "GET /"),
            ("curl http://h/a/.", "GET /a/"),
            ("curl http://h/../../a//../b", "GET /a/b"),
            ("curl http://h/x/.../y/..z/.", "GET /x/.../y/..z/"),
            ("curl http://h/a/%2e%2e/b", "GET /a/%2e%2e/b"),
            ("curl --path-as-is http://h/a/../b", "GET /a/../b"),
            ("curl 'http://h?x'", "GET /?x"),
            ("curl -G -d a=1 -d b=2 http://h/x", "GET /x?a=1&b=2"),
            ("curl -G -d a=b 'http://h/x#f'", "GET /x?a=b"),
            ("curl -G -d a=b 'http://h/x?#f'", "GET /x?a=b"),
            ("curl -G -d a=b -d c 'http://h/x?y&'", "GET /x?y&a=b&c"),
            ("curl -G -d '' http://h/x", "GET /x"),
            ("curl -G -d a 'http://h'", "GET /?a"),
            ("curl -G --data-raw @f http://h/x", "GET /x?@f"),
            ("curl -G --data-urlencode 'q=a b&~-._*' 'http://h/x?y'", "GET /x?y&q=a+b%26~-._%2A"),
            ("curl -G --data-urlencode 'a b' http://h/x", "GET /x?a+b"),
            ("curl -G --data-urlencode '=a=b' http://h/x", "GET /x?a%3Db"),
            ("curl -G --data-urlencode 'a@f=b' http://h/x", "GET /x?a@f=b"),
            ("curl h:8080/x", "GET /x"),
            ("curl 'h/x?u=http://y'", "GET /x?u=http://y"),
            ("curl HTTPS://h/x", "GET /x"),
            ("curl -sX POST h/x", "POST /x"),
            ("curl -sSXPOST h/x", "POST /x"),
            ("curl -so/dev/null -m5 h/x", "GET /x"),
            ("curl -o h/x h/y", "GET /y"),
            ("curl -sGd a=b h/x", "GET /x?a=b"),
            ("curl -4sH 'a: b' h/x", "GET /x"),
            ("curl -d @f h/x", "POST /x"),
            ("curl -g 'h/{a}'", "GET /{a}"),
            ("curl -- h/x", "GET /x"),
            ("curl -X post h/x", "post /x"),
        ] {
            let read = head(command).map(|it| it.split(" HTTP/1.1\n").next().unwrap().to_owned());
            assert_eq!(read.as_deref(), Ok(line), "{command}");
        }
    }

    #[test]
    fn what_is_not_known_to_be_sent_is_refused() {
        for (command, said) in [
            ("wget http://a", "begins with `curl`"),
            ("curl", "no URL"),
            ("curl --frobnicate http://a/", "`--frobnicate`"),
            ("curl --request=PUT http://a/", "`--request=PUT`"),
            ("curl -sQ x http://a/", "`-Q`"),
            ("curl -u me:secret http://a/", "`-u`"),
            ("curl --url-query a=b http://a/", "`--url-query`"),
            ("curl 'http://a", "a quote"),
            ("curl -H", "`-H` lacks"),
            ("curl -sH", "`-H` lacks"),
            ("curl a b", "second URL"),
            ("curl --url a b", "second URL"),
            ("curl $'http://a/'", "`$'…'`"),
            ("curl -H $'a: b' http://a/", "`$'…'`"),
            ("curl -H \"Authorization: Bearer $TOKEN\" http://a/", "`$TOKEN`"),
            ("curl \"http://a/`id`\"", "shell"),
            ("curl -H @fields http://a/", "from a file"),
            ("curl -H @C:fields http://a/", "from a file"),
            ("curl -H x http://a/", "no header field"),
            ("curl -H Host: http://a/", "no `Host`"),
            ("curl -H 'a: b\nc: d' http://a/", "line break"),
            ("curl -b cookies.txt http://a/", "cookies from a file"),
            ("curl -G -d @f http://a/", "from a file"),
            ("curl -G --data-urlencode @f http://a/", "reads a file"),
            ("curl -G --data-urlencode q@f http://a/", "reads a file"),
            ("curl -G -d 'a b' http://a/", "percent-encode"),
            ("curl -T f http://a/x/", "file's name"),
            ("curl -T f -d a http://a/x", "exclude each other"),
            ("curl -I -d a http://a/x", "exclude each other"),
            ("curl -F a=b -d c http://a/x", "exclude each other"),
            ("curl ftp://a/", "no URL of"),
            ("curl http:///x", "no host"),
            ("curl /x", "no host"),
            ("curl http://u:p@a/", "a user"),
            ("curl 'http://a/{b,c}'", "several URLs"),
            ("curl http://a/é", "percent-encode"),
        ] {
            let refused = head(command).unwrap_err();
            assert!(refused.contains(said), "{command}: {refused}");
        }
    }
}
