//! YAML in which something stands at every key. A key with nothing behind it, because a template rendered nothing or
//! what stood there is a comment now, would count as left out, and with it whatever it was to protect.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{NonFiniteFloatPolicy, Options};

use super::{
    problem::{Problem, Problems, Source},
    spanned::Spanned,
};

/// Levels inside each other that a file may have.
pub const DEPTH_MAX: usize = 64;

/// What reading as many takes, and more.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Reads `source`. `null` may stand where `takes_null` says so of the keys that lead there; lists have none.
///
/// # Errors
/// Every key and every item of a list at which nothing stands; else what is wrong with the form.
pub fn read<T: DeserializeOwned>(
    source: &Arc<Source>,
    options: fn() -> Options,
    takes_null: fn(&[&str]) -> bool,
) -> Result<T, Problems> {
    let value = serde_saphyr::from_str_with_options(&source.text, options());
    let note = || {
        // A word that looks like a number too large for one is something, too.
        let mut options = options();
        options.non_finite_float_policy = NonFiniteFloatPolicy::AsString;
        let node = serde_saphyr::from_str_with_options::<Node>(&source.text, options)?;
        let mut problems = Problems::default();
        node.note_empty(&mut Vec::new(), takes_null, &mut problems);
        Ok(problems)
    };
    // The reader recurses as deep as a text nests: that depth has a limit, and room on this stack.
    let empty = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".into()).stack_size(STACK_BYTES);
        let noting = thread.spawn_scoped(scope, note);
        let noting = noting.map_err(|error| Problem::new(format!("no thread to read it: {error}")).within(source))?;
        noting.join().map_err(|_| Problem::new("reading it failed").within(source))
    });
    match (empty?, value) {
        (Ok(empty), _) if !empty.0.is_empty() => Err(empty.within(source)),
        (Ok(_), Ok(value)) => Ok(value),
        (_, Err(error)) | (Err(error), _) => Err(Problem::from_yaml(&error, source).into()),
    }
}

/// What stands somewhere, as far as it matters here.
enum Node {
    Nothing,
    Scalar,
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Self)>),
}

impl Node {
    fn note_empty<'a>(&'a self, path: &mut Vec<&'a str>, takes_null: fn(&[&str]) -> bool, problems: &mut Problems) {
        match self {
            Self::Nothing | Self::Scalar => {}
            Self::List(items) => {
                for item in items {
                    if matches!(item.value, Self::Nothing) && !takes_null(path) {
                        let problem = Problem::at(item, "nothing stands here");
                        problems.push(problem.fix("write a value, or remove the item"));
                    }
                    item.value.note_empty(path, takes_null, problems);
                }
            }
            Self::Map(members) => {
                for (key, value) in members {
                    path.push(&key.value);
                    if matches!(value, Self::Nothing) && !takes_null(path) {
                        let problem = Problem::at(key, "nothing stands here");
                        problems.push(problem.fix(format!("write a value, or remove `{}`", key.value)));
                    }
                    value.note_empty(path, takes_null, problems);
                    path.pop();
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(member) = members.next_entry()? {
            map.push(member);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        scope: Option<String>,
        tls: Option<Vec<Option<String>>>,
        body: Option<serde_json::Value>,
    }

    fn read_example(text: &str) -> Result<Example, Problems> {
        let source = Arc::new(Source { name: "a.yaml".into(), text: text.into() });
        read(&source, Options::default, |path| matches!(path, ["body", _, ..]))
    }

    #[test]
    fn nothing_stands_nowhere_but_where_it_means_something() {
        let good = "scope: \"\"\ntls: ['null', ~a]\nbody: { a: null, b: [~] }\n";
        assert!(read_example(good).unwrap().body.is_some_and(|body| body["a"].is_null()));
        assert_eq!(read_example("scope: 1e999").unwrap().scope.as_deref(), Some("1e999"));
        assert!(read_example("{}").is_ok_and(|read| read.scope.is_none() && read.tls.is_none()));
        let every = "body:\nscope: # none\ntls:\n  - a\n  -\n  - ~\n";
        let problems = read_example(every).unwrap_err();
        let places: Vec<_> = problems.0.iter().map(|it| (it.message(), it.position().map(|it| (it.1, it.2)))).collect();
        assert_eq!(places.len(), 4, "{problems}");
        assert!(places.iter().all(|(message, _)| *message == "nothing stands here"), "{problems}");
        assert_eq!((places[0].1, places[1].1, places[3].1), (Some((1, 1)), Some((2, 1)), Some((6, 5))), "{problems}");
        for text in ["scope: null", "scope: ~", "{ scope: }", "scope:\nsocpe: 1", "a: &a\nscope: *a"] {
            assert!(read_example(text).unwrap_err().to_string().contains("nothing stands here"), "{text}");
        }
    }

    #[test]
    fn a_text_may_nest_as_deep_as_it_says_and_no_deeper() {
        let options = || serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: DEPTH_MAX } };
        for (depth, is_read) in [(DEPTH_MAX - 1, true), (DEPTH_MAX + 1, false), (100_000, false)] {
            let text = format!("body: {}1{}", "[".repeat(depth), "]".repeat(depth));
            let source = Arc::new(Source { name: "a.yaml".into(), text });
            assert_eq!(read::<Example>(&source, options, |_| false).is_ok(), is_read, "{depth}");
        }
    }

    #[test]
    fn what_has_no_form_is_told_as_ever() {
        for (text, told) in
            [("socpe: 1", "unknown field `socpe`"), ("scope: [", ""), ("scope: 1\nscope: 2", "stands twice")]
        {
            let problems = read_example(text).unwrap_err();
            assert!(problems.to_string().contains(told), "{problems}");
        }
    }
}
