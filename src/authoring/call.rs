//! A request that was written down: a request line, or a whole head.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::request::{
    Head,
    certificate::Certificate,
    headers::{is_for_one_hop, nominates},
};

/// Fields that a head may have.
const FIELDS_MAX: usize = 256;

/// A request's head, read.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    target: Vec<u8>,
    headers: HeaderMap,
    wire: Vec<u8>,
}

impl Call {
    /// Reads `text`: `METHOD target`, or that and a line for each field. `fields` are added where the text has none of the
    /// name; so are the version and a `Host`.
    ///
    /// # Errors
    /// Why it is no request that a gate could get.
    pub fn parse(text: &str, fields: &[(String, String)]) -> Result<Self, String> {
        let mut lines = text.trim_end().lines().map(|line| line.trim_end_matches('\r'));
        let first = lines.next().unwrap_or_default();
        let first = if first.rsplit_once(' ').is_some_and(|(_, last)| last.starts_with("HTTP/")) {
            first.to_owned()
        } else {
            format!("{first} HTTP/1.1")
        };
        let mut wire = first + "\r\n";
        let mut names = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            names.push(line.split(':').next().unwrap_or_default().to_lowercase());
            wire += &format!("{line}\r\n");
        }
        let host = ("host".to_owned(), "localhost".to_owned());
        for (name, value) in fields.iter().chain([&host]) {
            if !names.contains(&name.to_lowercase()) {
                wire += &format!("{name}: {value}\r\n");
            }
        }
        Self::read(wire + "\r\n")
    }

    fn read(wire: String) -> Result<Self, String> {
        let wire = wire.into_bytes();
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&wire) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err("the request is not whole".into()),
            Err(error) => return Err(format!("no HTTP request: {error}; write `GET /path`, or a whole head")),
        }
        let method = request.method.unwrap_or_default();
        let method = method.parse().map_err(|_| format!("`{method}` is not a method"))?;
        let target = request.path.unwrap_or_default().as_bytes().to_vec();
        let mut headers = HeaderMap::new();
        for field in request.headers.iter() {
            let name: HeaderName = field.name.parse().map_err(|_| format!("`{}` names no field", field.name))?;
            let value = HeaderValue::from_bytes(field.value)
                .map_err(|_| format!("`{}` has a value that no field can have", field.name))?;
            headers.append(name, value);
        }
        Ok(Self { method, target, headers, wire })
    }

    /// As a door would hand it on.
    pub fn head<'a>(&'a self, peer: Option<SocketAddr>, certificate: Option<&'a Certificate>) -> Head<'a> {
        Head {
            method: &self.method,
            target: &self.target,
            headers: &self.headers,
            wire: Some(&self.wire),
            peer,
            certificate,
        }
    }

    /// The method.
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// The path, without the query.
    pub fn path(&self) -> String {
        let path = self.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        String::from_utf8_lossy(path).into_owned()
    }

    /// Whether there is a field of this name.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.headers.contains_key(name)
    }

    /// The only field of this name, if there is one.
    pub fn only(&self, name: &HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())?.to_str().ok()
    }

    /// All values of the field of this name as one, unless it is for the next hop alone (RFC 9110 section 7.6.1).
    pub fn passed_on(&self, name: &HeaderName) -> Option<String> {
        if nominates(&self.headers, name) || is_for_one_hop(name) || !self.has(name) {
            return None;
        }
        let values = self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        Some(values.collect::<Vec<_>>().join(", "))
    }
}
