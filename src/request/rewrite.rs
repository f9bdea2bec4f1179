//! The target that an upstream gets: the client's, or that with another literal beginning of its path.
//!
//! It is made of the one reading that was authorised and has one reading again; the query stays as it is.

use std::sync::Arc;

use super::{path::Target, route::PathTemplate};
use crate::base::{
    problem::{Problem, Problems},
    spanned::Spanned,
};

/// Bytes of a prefix.
const PREFIX_BYTES_MAX: usize = 256;

/// What becomes of the beginnings of a route's paths. Each is `/literal/…` without `/` at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    strip: String,
    add: String,
    template: Arc<str>,
}

/// The target that goes on, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound(Box<str>);

impl Rewrite {
    /// Compiles the prefixes that a route with `template` takes off and puts on; none where it has neither.
    ///
    /// # Errors
    /// A [`Problem`] for each that cannot be used.
    pub fn compile(
        strip: Option<&Spanned<String>>,
        add: Option<&Spanned<String>>,
        template: &PathTemplate,
    ) -> Result<Option<Self>, Problems> {
        let mut problems = Problems::default();
        for prefix in [strip, add].into_iter().flatten().filter(|prefix| !is_prefix(&prefix.value)) {
            let message = format!("`{}` is not the literal beginning of a path", prefix.value);
            problems.push(Problem::at(prefix, message).fix("write `/literal/…`, without `/` at its end"));
        }
        let text = |prefix: Option<&Spanned<String>>| prefix.map(|it| it.value.clone()).unwrap_or_default();
        let (strip_text, add) = (text(strip), text(add));
        let rest = after(&strip_text, template.text());
        if let (Some(strip), None, true) = (strip, rest, problems.0.is_empty()) {
            let message = format!("`{}` does not begin with `{}`", template.text(), strip.value);
            problems.push(
                Problem::at(strip, message).fix("name whole literal segments that the route's `path` begins with"),
            );
        }
        let changes = !strip_text.is_empty() || !add.is_empty();
        let template = joined(&add, rest.unwrap_or_default()).into();
        problems.into_result(Some(changes.then_some(Self { strip: strip_text, add, template })))
    }

    /// The template of the paths that it makes.
    pub const fn template(&self) -> &Arc<str> {
        &self.template
    }

    /// What `target`, which the route describes, becomes.
    fn apply(&self, target: Target<'_>) -> Option<String> {
        let mut whole = joined(&self.add, after(&self.strip, target.path())?);
        if let Some(query) = target.query() {
            whole.push('?');
            whole.push_str(query);
        }
        // INVARIANT: what goes on would have come in.
        Target::parse(whole.as_bytes())?;
        Some(whole)
    }
}

impl Outbound {
    /// What becomes of `target` by `rewrite`. `None` for a target that `rewrite`'s route does not describe.
    pub fn of(target: Target<'_>, rewrite: Option<&Rewrite>) -> Option<Self> {
        match rewrite {
            Some(rewrite) => rewrite.apply(target).map(|whole| Self(whole.into())),
            None => Some(Self(target.as_str().into())),
        }
    }

    /// Path and query.
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.0.split('?').next().unwrap_or_default()
    }
}

fn is_prefix(text: &str) -> bool {
    let is_path = Target::parse(text.as_bytes()).is_some_and(|target| target.query().is_none());
    is_path && !text.ends_with('/') && text.len() <= PREFIX_BYTES_MAX
}

/// What follows the whole segments in `prefix`: nothing, or what begins with `/`.
fn after<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn joined(prefix: &str, rest: &str) -> String {
    if prefix.is_empty() && rest.is_empty() { "/".into() } else { format!("{prefix}{rest}") }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::request::route::RouteTable;

    fn rewrite(template: &str, strip: &str, add: &str) -> Result<Option<Rewrite>, Problems> {
        let prefix = |text: &str| (!text.is_empty()).then(|| Spanned::nowhere(text.to_owned()));
        let template = PathTemplate::parse(template).unwrap();
        Rewrite::compile(prefix(strip).as_ref(), prefix(add).as_ref(), &template)
    }

    fn sent(rewrite: &Rewrite, target: &str) -> Option<String> {
        let outbound = Outbound::of(Target::parse(target.as_bytes()).unwrap(), Some(rewrite))?;
        Some(outbound.as_str().to_owned())
    }

    #[test]
    fn whole_literal_segments_are_taken_off_and_put_on() {
        for (template, strip, add, target, is) in [
            ("/api/users/{id}", "/api", "", "/api/users/a%20b?x=/api//..", "/users/a%20b?x=/api//.."),
            ("/api/users/{id}", "/api/users", "/v1/people", "/api/users/1", "/v1/people/1"),
            ("/api/{id}", "/api", "", "/api/api", "/api"),
            ("/api", "/api", "", "/api", "/"),
            ("/api", "/api", "", "/api?", "/?"),
            ("/api/", "/api", "", "/api/", "/"),
            ("/api", "/api", "/v1", "/api", "/v1"),
            ("/api/", "/api", "/v1", "/api/", "/v1/"),
            ("/", "", "/v1", "/?a", "/v1/?a"),
            ("/{a}", "", "/caf%C3%A9", "/b", "/caf%C3%A9/b"),
        ] {
            let rewrite = rewrite(template, strip, add).unwrap().unwrap();
            assert_eq!(sent(&rewrite, target).as_deref(), Some(is), "{template} {strip} {add}");
        }
        assert_eq!(rewrite("/a", "", "").unwrap(), None);
        assert_eq!(Outbound::of(Target::parse(b"/a?b").unwrap(), None).unwrap().as_str(), "/a?b");
    }

    #[test]
    fn what_the_route_does_not_describe_is_not_rewritten() {
        let rewrite = rewrite("/api/{id}", "/api", "").unwrap().unwrap();
        for target in ["/apis", "/other/1", "/", "/API/1"] {
            assert_eq!(sent(&rewrite, target), None, "{target}");
        }
    }

    #[test]
    fn prefixes_that_are_no_literal_beginning_are_refused() {
        let long = format!("/{}", "a".repeat(256));
        for (strip, add) in [
            ("/", ""),
            ("api", ""),
            ("/api/", ""),
            ("/ap", ""),
            ("/api/{id}", ""),
            ("/api/1", ""),
            ("/%61pi", ""),
            ("/API", ""),
            ("", "/"),
            ("", "//h"),
            ("", "/a/"),
            ("", "/a/.."),
            ("", "/a/../b"),
            ("", "/a?b"),
            ("", "/a;b"),
            ("", "/{id}"),
            ("", "/a%2fb"),
            ("", "http://h"),
            ("", &*long),
        ] {
            assert!(rewrite("/api/{id}", strip, add).is_err(), "{strip} {add}");
        }
    }

    proptest! {
        /// Whatever a route admits and rewrites has one reading again: that of the path behind the prefix, and its query.
        #[test]
        fn what_goes_on_would_have_come_in(
            literal in vec("[a-c]{1,2}|%C3%A9|\\.\\.|a:b|\\*", 0..4),
            rest in vec("[a-c]{1,2}|\\{p[0-9]\\}", 0..3),
            cut in 0usize..5,
            add in "(/(v[0-9]|a%20b|\\.|\\.\\.|http:|%2e)){0,2}",
            target in "(/([a-c]{1,2}|%C3%A9|a:b|\\*|\\.\\.|%2e%2e|b%40|;)){0,5}/?(\\?[a-z=&%2f./]{0,6})?",
            mends in any::<bool>(),
        ) {
            let text = format!("/{}", [literal.clone(), rest].concat().join("/"));
            let Ok(template) = PathTemplate::parse(&text) else { return Ok(()) };
            let strip: String = literal.iter().take(cut).map(|segment| format!("/{segment}")).collect();
            let Ok(Some(rewrite)) = super::tests::rewrite(&text, &strip, &add) else { return Ok(()) };
            // Half of the targets begin as the template does, so that many are admitted.
            let target = if mends { format!("{}{target}", literal.iter().map(|it| format!("/{it}")).collect::<String>()) } else { target };
            let Some(target) = Target::parse(target.as_bytes()) else { return Ok(()) };
            let mut table = RouteTable::default();
            table.insert(&[], &[Method::GET], &template, ()).unwrap();
            let Ok(Some(_)) = table.find(None, &Method::GET, target) else { return Ok(()) };
            let outbound = Outbound::of(target, Some(&rewrite)).expect("what is admitted is rewritten");
            let read = Target::parse(outbound.as_str().as_bytes()).expect("one reading");
            prop_assert_eq!(read.path(), outbound.path());
            prop_assert_eq!(read.query(), target.query());
            let behind = read.path().strip_prefix(&add).unwrap();
            let kept = target.path().strip_prefix(&strip).unwrap();
            prop_assert!(behind == kept || (kept.is_empty() && add.is_empty() && behind == "/"));
            // It is one of those that the rewritten template describes.
            let mut table = RouteTable::default();
            table.insert(&[], &[Method::GET], &PathTemplate::parse(rewrite.template()).unwrap(), ()).unwrap();
            prop_assert!(matches!(table.find(None, &Method::GET, read), Ok(Some(_))));
        }
    }
}
