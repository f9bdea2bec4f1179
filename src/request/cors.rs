//! Which web pages may have which requests of a route's made, and read what comes of them (the Fetch standard, "HTTP extensions":
//! the CORS protocol). A page is told what the configuration says, and nothing that its request said.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::headers::only;
use crate::base::{
    problem::{Problem, Problems, bounded},
    spanned::Spanned,
};

/// The section `cors` of a route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// The origins whose pages may call it: scheme, host and port, as in `https://app.example`. `'*'` alone: any.
    pub origins: Spanned<Vec<Spanned<String>>>,
    /// Header fields that pages may send, beside those that any may. Default: `[authorization]`.
    pub headers: Option<Vec<Spanned<String>>>,
    /// Header fields of answers that pages may read, beside those that any may. Default: none.
    #[serde(default)]
    pub expose: Vec<Spanned<String>>,
    /// Whether browsers may send cookies, and whatever else they hold of the user. Default: false.
    pub credentials: Option<Spanned<bool>>,
    /// Seconds for which browsers remember what pages may. Default: 600.
    pub max_age_s: Option<Spanned<u32>>,
}

/// What pages may do with a route, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// As browsers write them; any where there are none.
    origins: Option<Vec<HeaderValue>>,
    headers: Vec<HeaderName>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

/// A browser's question whether a page may have a request made.
#[derive(Clone, Copy, Debug)]
pub struct Preflight<'a> {
    origin: &'a HeaderValue,
    method: &'a HeaderValue,
    headers: &'a HeaderMap,
}

/// Why a page may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// No route for pages has this method at this path.
    #[error("a page asks for a method that no route with `cors` has here")]
    Method,
    /// The route is not for pages of this origin.
    #[error("a page asks whose origin is not in the route's `cors`")]
    Origin,
    /// It would send a field that it may not.
    #[error("a page asks to send a header field that is not in the route's `cors`")]
    Headers,
}

/// Fields of an answer that tell a browser what a page may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsFields(Arc<[(HeaderName, HeaderValue)]>);

/// Origins and fields of one route.
const ITEMS_MAX: usize = 100;

impl PreflightError {
    /// What is not as it should be.
    pub const fn of(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Origin => "origin",
            Self::Headers => "headers",
        }
    }
}

impl CorsFields {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for CorsFields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

/// Whether a field of this name is one that browsers take for word of what pages may.
pub fn speaks_to_pages(name: &HeaderName) -> bool {
    name.as_str().starts_with("access-control-")
}

impl<'a> Preflight<'a> {
    /// The preflight that a request is, if it is one.
    pub fn of(method: &Method, headers: &'a HeaderMap) -> Option<Self> {
        let one = |name: &HeaderName| only(headers, name).ok().flatten();
        let origin = one(&header::ORIGIN)?;
        let asked = one(&header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let is_one = method == Method::OPTIONS && Method::from_bytes(asked.as_bytes()).is_ok();
        is_one.then_some(Self { origin, method: asked, headers })
    }

    /// The origin of the page.
    pub const fn origin(&self) -> &'a HeaderValue {
        self.origin
    }

    /// The method that it asks for.
    pub const fn method(&self) -> &'a HeaderValue {
        self.method
    }

    /// Whether every field that the page would send is one of `allowed`.
    fn sends_only(&self, allowed: &[HeaderName]) -> bool {
        let values = self.headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let mut names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        names.all(|name| HeaderName::from_bytes(name.trim_ascii()).is_ok_and(|name| allowed.contains(&name)))
    }
}

impl Cors {
    /// Compiles the section.
    ///
    /// # Errors
    /// A [`Problem`] for each setting that cannot be used.
    pub fn compile(config: &CorsConfig) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let credentials = config.credentials.as_ref().is_some_and(|credentials| credentials.value);
        let origins = problems.keep(config.origins());
        if let (Some(None), true, Some(place)) = (&origins, credentials, &config.credentials) {
            problems.push(
                Problem::at(place, "every page there is could act as whoever looks at it")
                    .fix("name the `origins`, or leave `credentials` out"),
            );
        }
        let usual = [Spanned::nowhere("authorization".to_owned())];
        let headers = problems.keep(names(config.headers.as_deref().unwrap_or(&usual)));
        let expose = problems.keep(names(&config.expose));
        let max_age = problems.keep(bounded(config.max_age_s.as_ref(), "max_age_s", 600, 0..=86_400));
        let cors = (|| {
            let expose = expose?;
            Some(Self {
                origins: origins?,
                headers: headers?,
                expose: if expose.is_empty() { None } else { list(&expose) },
                credentials,
                max_age: max_age?.into(),
            })
        })();
        problems.into_result(cors)
    }

    /// What a preflight is answered.
    ///
    /// # Errors
    /// Why the page may not have such a request made.
    pub fn grant(&self, preflight: &Preflight<'_>) -> Result<CorsFields, PreflightError> {
        let mut fields = self.to_origin(preflight.origin).ok_or(PreflightError::Origin)?;
        if !preflight.sends_only(&self.headers) {
            return Err(PreflightError::Headers);
        }
        fields.push((header::ACCESS_CONTROL_ALLOW_METHODS, preflight.method.clone()));
        fields.extend(list(&self.headers).map(|headers| (header::ACCESS_CONTROL_ALLOW_HEADERS, headers)));
        fields.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        let asked = "origin, access-control-request-method, access-control-request-headers";
        fields.push((header::VARY, HeaderValue::from_static(asked)));
        Ok(CorsFields(fields.into()))
    }

    /// What is said beside every other answer, to a request with these fields.
    pub fn fields(&self, headers: &HeaderMap) -> CorsFields {
        let origin = only(headers, &header::ORIGIN).ok().flatten();
        let mut fields = origin.and_then(|origin| self.to_origin(origin)).unwrap_or_default();
        if let (false, Some(expose)) = (fields.is_empty(), &self.expose) {
            fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()));
        }
        // Whatever is said depends on who asks, also where nothing is said.
        if self.origins.is_some() {
            fields.push((header::VARY, HeaderValue::from_static("origin")));
        }
        CorsFields(fields.into())
    }

    /// What pages of this origin are told, if anything.
    fn to_origin(&self, origin: &HeaderValue) -> Option<Vec<(HeaderName, HeaderValue)>> {
        // INVARIANT: it is the configuration's own value that is told, never the request's.
        let told = match &self.origins {
            None => HeaderValue::from_static("*"),
            Some(origins) => origins.iter().find(|known| *known == origin)?.clone(),
        };
        let mut fields = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, told)];
        if self.credentials {
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        Some(fields)
    }
}

impl CorsConfig {
    /// The origins, or none for any.
    fn origins(&self) -> Result<Option<Vec<HeaderValue>>, Problems> {
        let named = &self.origins.value;
        if matches!(&**named, [one] if one.value == "*") {
            return Ok(None);
        }
        let mut problems = Problems::default();
        if named.is_empty() || named.len() > ITEMS_MAX {
            problems.push(Problem::at(&self.origins, "no origins, or too many").fix("name 1 to 100"));
        }
        let mut origins = Vec::new();
        for text in named {
            match origin(&text.value) {
                Ok(value) if origins.contains(&value) => {
                    problems.push(Problem::at(text, "this origin stands twice").fix("remove one"));
                }
                Ok(value) => origins.push(value),
                Err(fix) => problems.push(Problem::at(text, format!("`{}` is not an origin", text.value)).fix(fix)),
            }
        }
        problems.into_result(Some(Some(origins)))
    }
}

/// An origin as browsers write it, or what to write instead.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let usual = || "write scheme, host and port as browsers do, as in `https://app.example`".to_owned();
    let url = Url::parse(text).map_err(|_| usual())?;
    let written = url.origin().ascii_serialization();
    if !matches!(url.scheme(), "http" | "https") || text.contains('*') {
        return Err(usual());
    }
    if written != text {
        return Err(format!("write it as browsers do: `{written}`"));
    }
    HeaderValue::from_str(text).map_err(|_| usual())
}

fn names(texts: &[Spanned<String>]) -> Result<Vec<HeaderName>, Problems> {
    let mut problems = Problems::default();
    let mut names: Vec<HeaderName> = Vec::new();
    for text in texts {
        let name = text.value.parse().ok().filter(|_| text.value != "*");
        match name.filter(|name| !names.contains(name) && names.len() < ITEMS_MAX) {
            Some(name) => names.push(name),
            None => problems.push(
                Problem::at(text, format!("`{}` is not a header field's name, or one too many", text.value))
                    .fix("name each field once, at most 100"),
            ),
        }
    }
    problems.into_result(Some(names))
}

fn list(names: &[HeaderName]) -> Option<HeaderValue> {
    let text = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&text).ok().filter(|_| !names.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Cors, Problems> {
        Cors::compile(&serde_saphyr::from_str::<CorsConfig>(text).unwrap())
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn told(fields: &CorsFields) -> String {
        let text = |(name, value): &(HeaderName, HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        fields.iter().map(text).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        for fine in
            ["https://app.example", "http://localhost:3000", "https://[::1]:8443", "https://xn--bcher-kva.example"]
        {
            assert!(config(&format!("origins: ['{fine}']")).is_ok(), "{fine}");
        }
        for bad in [
            "null",
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/a",
            "https://app.example:443",
            "http://app.example:80",
            "HTTPS://app.example",
            "https://App.example",
            "https://bücher.example",
            "https://*.app.example",
            "https://user@app.example",
            "https://app.example?",
            "https://app.example#",
            "file:///etc",
            "ftp://app.example",
            "data:text/html,x",
            "https://",
            " https://app.example",
        ] {
            assert!(config(&format!("origins: ['{bad}']")).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_would_let_every_page_in_as_the_user_is_refused() {
        for bad in [
            "{ origins: ['*'], credentials: true }",
            "{ origins: ['*', 'https://app.example'] }",
            "{ origins: [] }",
            "{ origins: ['https://a.example', 'https://a.example'] }",
            "{ origins: ['https://a.example'], headers: ['*'] }",
            "{ origins: ['https://a.example'], headers: [a, A] }",
            "{ origins: ['https://a.example'], expose: ['*'] }",
            "{ origins: ['https://a.example'], expose: ['a b'] }",
            "{ origins: ['https://a.example'], max_age_s: 86401 }",
        ] {
            assert!(config(bad).is_err(), "{bad}");
        }
        assert!(config("{ origins: ['*'], credentials: false }").is_ok());
    }

    #[test]
    fn a_preflight_is_options_with_one_origin_and_one_method() {
        let good = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
        assert!(Preflight::of(&Method::OPTIONS, &headers(&good)).is_some());
        assert!(Preflight::of(&Method::GET, &headers(&good)).is_none());
        for bad in [
            vec![good[0]],
            vec![good[1]],
            vec![good[0], good[0], good[1]],
            vec![good[0], good[1], good[1]],
            vec![good[0], ("access-control-request-method", "PUT, GET")],
            vec![good[0], ("access-control-request-method", "")],
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &bad {
                map.append(*name, value.parse().unwrap());
            }
            assert!(Preflight::of(&Method::OPTIONS, &map).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_page_is_told_what_is_configured() {
        let cors = "{ origins: ['https://a.example', 'https://b.example'], headers: [Authorization, x-a], expose: [DPoP-Nonce], \
                    credentials: true, max_age_s: 5 }";
        let cors = config(cors).unwrap();
        let asked = [("origin", "https://b.example"), ("access-control-request-method", "PUT")];
        let grant = |fields: &[(&'static str, &str)]| {
            let headers = headers(&[&asked[..], fields].concat());
            cors.grant(&Preflight::of(&Method::OPTIONS, &headers).unwrap()).map(|it| told(&it))
        };
        let granted = "access-control-allow-origin: https://b.example; access-control-allow-credentials: true; \
                       access-control-allow-methods: PUT; access-control-allow-headers: authorization, x-a; \
                       access-control-max-age: 5; \
                       vary: origin, access-control-request-method, access-control-request-headers";
        for fine in ["authorization", "X-A,authorization", " x-a , Authorization\t"] {
            assert_eq!(grant(&[("access-control-request-headers", fine)]).as_deref(), Ok(granted), "{fine}");
        }
        assert_eq!(grant(&[]).as_deref(), Ok(granted));
        for bad in ["x-b", "authorization,x-b", "*", "authorization x-a", "x-a;", ","] {
            assert_eq!(grant(&[("access-control-request-headers", bad)]), Err(PreflightError::Headers), "{bad}");
        }
        let said = "access-control-allow-origin: https://a.example; access-control-allow-credentials: true; \
                    access-control-expose-headers: dpop-nonce; vary: origin";
        assert_eq!(told(&cors.fields(&headers(&[("origin", "https://a.example")]))), said);
        assert_eq!(told(&cors.fields(&HeaderMap::new())), "vary: origin");
        let any = config("{ origins: ['*'] }").unwrap();
        assert_eq!(told(&any.fields(&headers(&[("origin", "https://c.example")]))), "access-control-allow-origin: *");
        assert_eq!(told(&any.fields(&HeaderMap::new())), "");
    }

    proptest::proptest! {
        /// Whatever origin a request names, what it is told is one that the configuration has.
        #[test]
        fn no_origin_is_told_but_a_configured_one(origin in "(https?://)?(evil\\.|EVIL-)?[aA]\\.example(\\.|\\.evil\\.example|:443|:0443|/|@b)?|null|\\*|https://a\\.example") {
            let cors = config("{ origins: ['https://a.example'] }").unwrap();
            let is_told = told(&cors.fields(&headers(&[("origin", &origin)]))).contains("access-control");
            proptest::prop_assert_eq!(is_told, origin == "https://a.example");
        }
    }
}
