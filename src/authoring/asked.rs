//! Requests as people have them at hand: a method, a URL and fields, a curl command, or an entry of a HAR file.

use serde_json::Value;

use super::curl;

/// A request that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedRequest {
    /// A request head, line by line.
    pub head: String,
    /// The token in it, and its scheme.
    pub token: Option<(String, String)>,
}

impl AskedRequest {
    /// Of a method, a URL or path, and fields.
    ///
    /// # Errors
    /// Where it is none.
    pub fn new(method: &str, url: &str, fields: &[(String, String)]) -> Result<Self, String> {
        let (host, target) = match split_scheme(url) {
            Some((_, rest)) => {
                let rest = rest.split('#').next().unwrap_or_default();
                let at = rest.find(['/', '?']).unwrap_or(rest.len());
                let (host, target) = rest.split_at_checked(at).unwrap_or((rest, ""));
                let slash = if target.starts_with('/') { "" } else { "/" };
                (Some(host), format!("{slash}{target}"))
            }
            None => (None, url.to_owned()),
        };
        if !target.starts_with('/') {
            return Err(format!("`{url}` is neither a URL nor a path"));
        }
        let mut lines = vec![format!("{method} {target} HTTP/1.1")];
        let has = |name: &str| fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name));
        if let Some(host) = host.filter(|_| !has("host")) {
            lines.push(format!("Host: {host}"));
        }
        // HTTP/2 writes method and target as fields of their own.
        let fields = fields.iter().filter(|(name, _)| !name.starts_with(':'));
        lines.extend(fields.map(|(name, value)| format!("{name}: {value}")));
        // INVARIANT: what is one line stays one: no value adds a field to the head.
        if let Some(line) = lines.iter().find(|line| line.chars().any(|c| c.is_control() && c != '\t')) {
            return Err(format!("`{line}` holds a line break, or another control character"));
        }
        Ok(Self::of_lines(&lines))
    }

    fn of_lines<T: AsRef<str>>(lines: &[T]) -> Self {
        let mut fields = lines.iter().skip(1).filter_map(|line| line.as_ref().split_once(':'));
        let authorization = fields.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let token = authorization.and_then(|(_, value)| value.trim().split_once(' '));
        let token = token.map(|(scheme, token)| (scheme.to_owned(), token.to_owned()));
        Self { head: lines.iter().map(|line| format!("{}\n", line.as_ref())).collect(), token }
    }

    /// The same with `token`, in the place of whatever it held.
    ///
    /// # Errors
    /// Where no field can hold that.
    pub fn with_token(&self, token: &str) -> Result<Self, String> {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) || token.is_empty() {
            return Err("the token holds a blank or another character that no token has, or nothing".into());
        }
        let field = format!("Authorization: Bearer {token}");
        let mut lines = self.lines_without(&["authorization"]);
        lines.push(&field);
        Ok(Self::of_lines(&lines))
    }

    /// The same without what presents a token.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self::of_lines(&self.lines_without(&["authorization", "dpop"]))
    }

    fn lines_without(&self, names: &[&str]) -> Vec<&str> {
        let named = |line: &str| names.iter().any(|it| line.split(':').next().unwrap_or("").eq_ignore_ascii_case(it));
        self.head.lines().filter(|line| !named(line)).collect()
    }

    /// Of a curl command, as a browser copies it or a person types it.
    ///
    /// # Errors
    /// What in it is not understood.
    pub fn from_curl(command: &str) -> Result<Self, String> {
        let sent = curl::read(command)?;
        Self::new(&sent.method, &sent.url, &sent.fields)
    }

    /// Of entry `index` (from 0) of a HAR file.
    ///
    /// # Errors
    /// Where there is none.
    pub fn from_har(text: &str, index: usize) -> Result<Self, String> {
        let har: Value = serde_json::from_str(text).map_err(|error| format!("not a HAR file: {error}"))?;
        let entries =
            har.pointer("/log/entries").and_then(Value::as_array).ok_or("not a HAR file: no `log.entries`")?;
        let request = entries.get(index).and_then(|entry| entry.get("request"));
        let request = request.ok_or_else(|| format!("it has {} entries, and none is number {index}", entries.len()))?;
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let fields = request.get("headers").and_then(Value::as_array).into_iter().flatten();
        let fields: Vec<_> = fields.map(|field| (text(field, "name"), text(field, "value"))).collect();
        Self::new(&text(request, "method"), &text(request, "url"), &fields)
    }
}

/// A URL's scheme, and what comes after it; none for a path, whatever stands in its query.
pub(super) fn split_scheme(url: &str) -> Option<(&str, &str)> {
    url.split_once("://").filter(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_one_whatever_stands_in_its_query() {
        let asked = AskedRequest::new("GET", "/x?next=https://a.example/y", &[]).unwrap();
        assert_eq!(asked.head, "GET /x?next=https://a.example/y HTTP/1.1\n");
        assert!(AskedRequest::new("GET", "x", &[]).is_err());
    }

    #[test]
    fn a_token_takes_the_place_of_another() {
        let fields = [("authorization", "DPoP old"), ("Accept", "*/*"), ("Authorization", "Bearer older")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let asked = AskedRequest::new("GET", "/x", &fields).unwrap();
        assert_eq!(asked.token, Some(("DPoP".into(), "old".into())));
        let other = asked.with_token("new").unwrap();
        assert_eq!(other.head, "GET /x HTTP/1.1\nAccept: */*\nAuthorization: Bearer new\n");
        assert_eq!(other.token, Some(("Bearer".into(), "new".into())));
        assert_eq!(other.without_token().head, "GET /x HTTP/1.1\nAccept: */*\n");
        assert!(asked.with_token("new\nHost: x").is_err() && asked.with_token("").is_err());
    }

    #[test]
    fn no_value_adds_a_field() {
        for (method, url, value) in [("GET", "/x", "a\nb: c"), ("GET", "/x\r\nb: c", "a"), ("G\nT", "/x", "a")] {
            assert!(AskedRequest::new(method, url, &[("a".into(), value.into())]).is_err(), "{method} {url} {value}");
        }
    }

    #[test]
    fn a_har_entry_is_read_by_its_number() {
        let har = r#"{"log":{"entries":[{"request":{"method":"GET","url":"https://a.example/x?y",
            "headers":[{"name":":method","value":"GET"},{"name":"Authorization","value":"Bearer t"}]}}]}}"#;
        let read = AskedRequest::from_har(har, 0).unwrap();
        assert_eq!(read.head, "GET /x?y HTTP/1.1\nHost: a.example\nAuthorization: Bearer t\n");
        assert!(AskedRequest::from_har(har, 1).is_err() && AskedRequest::from_har("[]", 0).is_err());
    }
}
