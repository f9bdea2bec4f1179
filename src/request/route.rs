//! The route table: method and path to what is done there. A request that no route describes goes nowhere.

use std::{borrow::Cow, collections::HashMap};

use http::Method;

use super::path::{Target, decode_segment};

/// The methods a route may name.
pub const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// A path template: literal segments and parameters, each parameter one whole, non-empty segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    parameters: Vec<String>,
}

/// Why a path template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A literal that no request could carry.
    #[error("not a path that a request can have")]
    NotAPath,
    /// A parameter beside other text, or without a proper name.
    #[error("`{0}` is neither literal nor one parameter")]
    NotASegment(String),
    /// One name for two segments.
    #[error("parameter `{0}` stands twice")]
    ParameterRepeated(String),
    /// Another route matches the same requests.
    #[error("`{0}` already matches these paths for the same method")]
    Conflict(String),
}

impl PathTemplate {
    /// Parses `/literal/{parameter}/…`.
    ///
    /// # Errors
    /// [`TemplateError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parameters: Vec<String> = Vec::new();
        let mut sample = String::with_capacity(text.len());
        for (index, segment) in text.split('/').enumerate() {
            if index > 0 {
                sample.push('/');
            }
            match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) if is_name(name) && parameters.iter().any(|known| known == name) => {
                    return Err(TemplateError::ParameterRepeated(name.into()));
                }
                Some(name) if is_name(name) => {
                    parameters.push(name.into());
                    sample.push('p');
                }
                None if !segment.contains(['{', '}']) => sample.push_str(segment),
                _ => return Err(TemplateError::NotASegment(segment.into())),
            }
        }
        match Target::parse(sample.as_bytes()) {
            Some(target) if target.query().is_none() => Ok(Self { text: text.into(), parameters }),
            _ => Err(TemplateError::NotAPath),
        }
    }

    /// The template of decoded paths: literals decoded, their braces kept literal.
    fn decoded(&self) -> String {
        self.by_literal(|literal| literal.to_owned())
    }

    /// The template of decoded paths in lower case.
    fn folded(&self) -> String {
        self.by_literal(str::to_lowercase)
    }

    fn by_literal(&self, put: impl Fn(&str) -> String) -> String {
        let segments = self.text.split('/').map(|segment| {
            if segment.starts_with('{') {
                segment.to_owned()
            } else {
                put(&decode_segment(segment)).replace('{', "{{").replace('}', "}}")
            }
        });
        segments.collect::<Vec<_>>().join("/")
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parameter names, in order.
    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Routes by method and path; `T` is what the rest of the house keeps per route.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    /// For each host that a route names: its routes, and those for any host.
    by_host: HashMap<String, ByMethod>,
    /// For any other host.
    any: ByMethod,
    routes: Vec<T>,
}

type ByMethod = HashMap<Method, Routers>;

/// The same routes thrice: for paths as they stand, for paths that are decoded before they are matched, as many servers do, and
/// for paths of which the case is nothing, as to some.
#[derive(Clone, Debug)]
struct Routers {
    plain: matchit::Router<usize>,
    decoded: matchit::Router<usize>,
    /// None where routes differ by nothing but case: then it is something to the service.
    folded: Option<matchit::Router<usize>>,
    /// Whether a literal has an upper-case letter.
    has_upper: bool,
}

impl Default for Routers {
    fn default() -> Self {
        let new = matchit::Router::new;
        Self { plain: new(), decoded: new(), folded: Some(new()), has_upper: false }
    }
}

/// A path that a server which decodes it first, or to which case is nothing, would take for another route's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmbiguousRoute;

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { by_host: HashMap::new(), any: ByMethod::new(), routes: Vec::new() }
    }
}

/// A route that describes a request, with the values of its parameters.
#[derive(Debug)]
pub struct Match<'t, 'a, T> {
    /// What is kept for the route.
    pub route: &'t T,
    /// The path's parameters.
    pub parameters: Parameters<'t, 'a>,
}

/// Parameter values of one request.
#[derive(Debug)]
pub struct Parameters<'t, 'a>(matchit::Params<'t, 'a>);

impl<'a> Parameters<'_, 'a> {
    /// The decoded value of parameter `name`.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| decode_segment(value))
    }
}

impl<T> RouteTable<T> {
    /// Adds a route for `methods` and `template` at `hosts`, or at any where there are none.
    ///
    /// # Errors
    /// [`TemplateError::Conflict`] when another route matches the same requests.
    pub fn insert(
        &mut self,
        hosts: &[String],
        methods: &[Method],
        template: &PathTemplate,
        route: T,
    ) -> Result<(), TemplateError> {
        let index = self.routes.len();
        for host in hosts {
            let routers = self.by_host.entry(host.clone()).or_insert_with(|| self.any.clone());
            add(routers, methods, template, index)?;
        }
        if hosts.is_empty() {
            for routers in self.by_host.values_mut().chain([&mut self.any]) {
                add(routers, methods, template, index)?;
            }
        }
        self.routes.push(route);
        Ok(())
    }

    /// Whether the host that a client addresses makes a difference.
    pub fn depends_on_host(&self) -> bool {
        !self.by_host.is_empty()
    }

    /// Whether no route is for this host, whatever is asked of it.
    pub fn is_foreign(&self, host: Option<&str>) -> bool {
        self.any.is_empty() && host.is_none_or(|host| !self.by_host.contains_key(host))
    }

    /// The route that describes `method` on `target` at `host`; a literal segment goes before a parameter.
    ///
    /// # Errors
    /// [`AmbiguousRoute`] when the path, decoded or in another case, is another route's.
    pub fn find<'t, 'a>(
        &'t self,
        host: Option<&str>,
        method: &Method,
        target: Target<'a>,
    ) -> Result<Option<Match<'t, 'a, T>>, AmbiguousRoute> {
        let by_method = host.and_then(|host| self.by_host.get(host)).unwrap_or(&self.any);
        let Some(routers) = by_method.get(method) else { return Ok(None) };
        let found = routers.plain.at(target.path()).ok();
        let index = found.as_ref().map(|found| *found.value);
        if target.path().contains('%') {
            let decoded = routers.decoded.at(&decode_segment(target.path())).ok().map(|found| *found.value);
            if decoded != index {
                return Err(AmbiguousRoute);
            }
        }
        if index.is_some() && routers.folded(target.path()).is_some_and(|folded| Some(folded) != index) {
            return Err(AmbiguousRoute);
        }
        let matched = |found: matchit::Match<'t, 'a, &'t usize>| {
            let route = self.routes.get(*found.value)?;
            Some(Match { route, parameters: Parameters(found.params) })
        };
        Ok(found.and_then(matched))
    }

    /// Every route, in the order of the configuration.
    pub fn routes(&self) -> &[T] {
        &self.routes
    }
}

impl Routers {
    /// Whose path this is to a server to which case is nothing, where that may be another's.
    fn folded(&self, path: &str) -> Option<usize> {
        let router = self.folded.as_ref()?;
        let is_other = |byte: u8| byte.is_ascii_uppercase() || byte == b'%';
        let is_due = self.has_upper || path.bytes().any(is_other);
        is_due.then(|| router.at(&decode_segment(path).to_lowercase()).ok().map(|found| *found.value))?
    }

    fn add(&mut self, template: &PathTemplate, index: usize) -> Result<(), matchit::InsertError> {
        let decoded = template.decoded();
        let folded = template.folded();
        self.has_upper |= folded != decoded;
        if self.folded.as_mut().is_some_and(|router| router.insert(folded, index).is_err()) {
            self.folded = None;
        }
        self.plain.insert(template.text.clone(), index)?;
        self.decoded.insert(decoded, index)
    }
}

fn add(
    by_method: &mut ByMethod,
    methods: &[Method],
    template: &PathTemplate,
    index: usize,
) -> Result<(), TemplateError> {
    for method in methods {
        let routers = by_method.entry(method.clone()).or_default();
        routers.add(template, index).map_err(|error| match error {
            matchit::InsertError::Conflict { with } => TemplateError::Conflict(with),
            _ => TemplateError::NotAPath,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_routes_and_those_for_any_host_in_whatever_order_they_stand() {
        let template = |text: &str| PathTemplate::parse(text).unwrap();
        let (a, b) = (["a.example".to_owned()], ["b.example".to_owned()]);
        let rows: [(&[String], &str); 4] = [(&a, "/x"), (&[], "/y"), (&b, "/x"), (&b, "/z")];
        let mut table = RouteTable::default();
        for (index, (hosts, text)) in rows.iter().enumerate() {
            table.insert(hosts, &[Method::GET], &template(text), index).unwrap();
        }
        for (host, path, found) in [
            (Some("a.example"), "/x", Some(0)),
            (Some("a.example"), "/y", Some(1)),
            (Some("a.example"), "/z", None),
            (Some("b.example"), "/x", Some(2)),
            (Some("b.example"), "/y", Some(1)),
            (Some("c.example"), "/x", None),
            (Some("c.example"), "/y", Some(1)),
            (None, "/x", None),
            (None, "/y", Some(1)),
        ] {
            let is = table.find(host, &Method::GET, Target::parse(path.as_bytes()).unwrap()).unwrap();
            assert_eq!(is.map(|it| *it.route), found, "{host:?} {path}");
        }
        assert!(table.depends_on_host() && !table.is_foreign(Some("c.example")));
        for (hosts, text) in [(&a[..], "/y"), (&[], "/z"), (&b, "/{z}/../z")] {
            let template = PathTemplate::parse(text);
            assert!(template.is_err() || table.insert(hosts, &[Method::GET], &template.unwrap(), 9).is_err(), "{text}");
        }
        let mut named = RouteTable::default();
        named.insert(&a, &[Method::GET], &template("/x"), 0).unwrap();
        assert!(named.is_foreign(Some("c.example")) && named.is_foreign(None) && !named.is_foreign(Some("a.example")));
    }

    fn table(templates: &[&str]) -> RouteTable<String> {
        let mut table = RouteTable::default();
        for template in templates {
            table.insert(&[], &[Method::GET], &PathTemplate::parse(template).unwrap(), (*template).to_owned()).unwrap();
        }
        table
    }

    fn find<'t>(table: &'t RouteTable<String>, target: &'static str) -> Option<&'t str> {
        let target = Target::parse(target.as_bytes()).unwrap();
        table.find(None, &Method::GET, target).unwrap().map(|found| found.route.as_str())
    }

    #[test]
    fn a_parameter_is_one_segment_that_is_not_empty() {
        let table = table(&["/users/{id}/data"]);
        assert_eq!(find(&table, "/users/a/data"), Some("/users/{id}/data"));
        assert_eq!(find(&table, "/users/a*%20b/data?x=/y"), Some("/users/{id}/data"));
        for other in ["/users/a/b/data", "/users/a/data/", "/users/data", "/Users/a/data", "/users/a", "/"] {
            assert_eq!(find(&table, other), None, "{other}");
        }
        assert!(table.find(None, &Method::HEAD, Target::parse(b"/users/a/data").unwrap()).unwrap().is_none());
    }

    #[test]
    fn parameters_are_decoded_once() {
        let table = table(&["/{a}/{b}"]);
        let found = table.find(None, &Method::GET, Target::parse(b"/x%20y/%C3%A9").unwrap()).unwrap().unwrap();
        assert_eq!(found.parameters.get("a").as_deref(), Some("x y"));
        assert_eq!(found.parameters.get("b").as_deref(), Some("é"));
        assert_eq!(found.parameters.get("c"), None);
    }

    #[test]
    fn a_literal_goes_before_a_parameter() {
        let table = table(&["/users/{id}", "/users/me", "/"]);
        assert_eq!(find(&table, "/users/me"), Some("/users/me"));
        assert_eq!(find(&table, "/users/you"), Some("/users/{id}"));
        assert_eq!(find(&table, "/"), Some("/"));
    }

    #[test]
    fn a_path_that_decodes_to_another_route_is_ambiguous() {
        let table = table(&["/users/@me", "/users/{id}", "/caf%C3%A9", "/{page}", "/odd%7B"]);
        for (target, route) in [
            ("/users/@me", Ok(Some("/users/@me"))),
            ("/users/%40me", Err(AmbiguousRoute)),
            ("/users/%40you", Ok(Some("/users/{id}"))),
            ("/users/a%40b", Ok(Some("/users/{id}"))),
            ("/caf%C3%A9", Ok(Some("/caf%C3%A9"))),
            ("/caf%c3%a9", Err(AmbiguousRoute)),
            ("/caf%C3%A8", Ok(Some("/{page}"))),
            ("/odd%7B", Ok(Some("/odd%7B"))),
            ("/odd%7b", Err(AmbiguousRoute)),
            ("/a/b/%20c", Ok(None)),
        ] {
            let target = Target::parse(target.as_bytes()).unwrap();
            let found = table.find(None, &Method::GET, target).map(|found| found.map(|found| found.route.as_str()));
            assert_eq!(found, route, "{target:?}");
        }
    }

    #[test]
    fn a_path_that_is_another_route_in_another_case_is_ambiguous_unless_routes_differ_by_that() {
        let other =
            table(&["/users/{id}", "/users/me", "/Docs/README", "/Docs/{name}", "/caf%C3%89/{x}", "/caf%C3%89/a"]);
        let same = table(&["/docs/{name}", "/docs/readme", "/docs/README"]);
        for (table, target, route) in [
            (&other, "/users/me", Ok(Some("/users/me"))),
            (&other, "/users/ME", Err(AmbiguousRoute)),
            (&other, "/users/m%C3%89", Ok(Some("/users/{id}"))),
            (&other, "/users/You", Ok(Some("/users/{id}"))),
            (&other, "/Users/me", Ok(None)),
            (&other, "/Docs/README", Ok(Some("/Docs/README"))),
            (&other, "/Docs/readme", Err(AmbiguousRoute)),
            (&other, "/Docs/a", Ok(Some("/Docs/{name}"))),
            (&other, "/docs/a", Ok(None)),
            (&other, "/caf%C3%89/A", Err(AmbiguousRoute)),
            (&same, "/docs/README", Ok(Some("/docs/README"))),
            (&same, "/docs/Readme", Ok(Some("/docs/{name}"))),
        ] {
            let target = Target::parse(target.as_bytes()).unwrap();
            let found = table.find(None, &Method::GET, target).map(|found| found.map(|found| found.route.as_str()));
            assert_eq!(found, route, "{target:?}");
        }
    }

    #[test]
    fn templates_that_match_more_or_less_than_they_say_are_refused() {
        for (template, error) in [
            ("users", TemplateError::NotAPath),
            ("/a//b", TemplateError::NotAPath),
            ("/a/../b", TemplateError::NotAPath),
            ("/a?b", TemplateError::NotAPath),
            ("/{*rest}", TemplateError::NotASegment("{*rest}".into())),
            ("/{}", TemplateError::NotASegment("{}".into())),
            ("/a{b}", TemplateError::NotASegment("a{b}".into())),
            ("/{a}/{a}", TemplateError::ParameterRepeated("a".into())),
        ] {
            assert_eq!(PathTemplate::parse(template), Err(error), "{template}");
        }
        let mut table = table(&["/users/{id}"]);
        let twin = PathTemplate::parse("/users/{name}").unwrap();
        assert!(matches!(table.insert(&[], &[Method::GET], &twin, String::new()), Err(TemplateError::Conflict(_))));
    }
}
