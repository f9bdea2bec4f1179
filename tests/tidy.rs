//! Keeps the house tidy: walls between rooms, sizes, and nothing left lying about.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Which rooms a room may name, as ARCHITECTURE.md says. Rooms that may use everything are not listed.
const WALLS: [(&str, &[&str]); 21] = [
    ("base", &[]),
    ("request", &["base"]),
    ("token", &["base", "request"]),
    ("entities", &["base", "request", "token"]),
    ("policy", &["base", "entities"]),
    ("forward", &["base", "policy", "request"]),
    ("limit", &["base"]),
    ("pages", &["base", "request"]),
    ("refusal", &["entities", "limit", "policy", "request", "token"]),
    ("audit", &["base"]),
    ("metrics", &["audit", "base"]),
    ("trace", &["audit", "base", "request"]),
    ("memo", &["base", "entities", "policy", "request", "token"]),
    ("snapshot", &["base", "entities", "forward", "limit", "memo", "pages", "policy", "request", "token", "trace"]),
    (
        "pipeline",
        &[
            "audit", "base", "entities", "forward", "limit", "memo", "metrics", "pages", "policy", "refusal",
            "request", "shadow", "snapshot", "token", "trace",
        ],
    ),
    ("shadow", &["audit", "base", "entities", "metrics", "policy"]),
    (
        "authoring",
        &[
            "audit", "base", "config", "entities", "forward", "metrics", "pages", "pipeline", "policy", "refusal",
            "request", "snapshot", "token",
        ],
    ),
    (
        "config",
        &[
            "audit", "base", "entities", "forward", "limit", "memo", "pages", "policy", "request", "snapshot", "token",
            "trace",
        ],
    ),
    ("logs", &["base", "config"]),
    ("reload", &["base", "config"]),
    ("doors", &["base", "forward", "pages", "pipeline", "refusal", "request"]),
];

/// Lines of a file before its tests.
const LINES_MAX: usize = 400;

/// Entries of the repository's root that do not begin with a dot.
const ROOT_ENTRIES_MAX: usize = 17;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Every source file: its room, its path, and its text before the tests.
fn sources() -> Vec<(String, PathBuf, String)> {
    let source = root().join("src");
    let mut files = Vec::new();
    files_below(&source, &mut files);
    let rust = files.into_iter().filter(|path| path.extension().is_some_and(|it| it == "rs"));
    let read = rust.map(|path| {
        let inside = path.strip_prefix(&source).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let production = text.split("\nmod tests {").next().unwrap().to_owned();
        (room, path, production)
    });
    read.collect()
}

/// The rooms that `text` names by `crate::`, alone or in a group.
fn rooms_named(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let items = code.split("crate::").skip(1).flat_map(|after| match after.strip_prefix('{') {
        Some(group) => items_of(group),
        None => vec![after],
    });
    let source = root().join("src");
    let is_room =
        |name: &String| !name.is_empty() && source.join(name).is_dir() || source.join(format!("{name}.rs")).exists();
    let names = items.map(|item| item.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
    names.filter(is_room).collect()
}

/// The items of a `use` group, up to its closing brace.
fn items_of(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && start == at + 1 {
            break;
        }
    }
    items
}

#[test]
fn a_room_names_only_the_rooms_it_may_use() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for (room, path, text) in sources() {
        let Some((_, allowed)) = WALLS.iter().find(|(name, _)| *name == room) else { continue };
        for named in rooms_named(&text) {
            seen += 1;
            if named != room && !allowed.contains(&named.as_str()) {
                broken.push(format!("{} names {named}", path.display()));
            }
        }
    }
    assert!(seen > 45, "only {seen} names were found: the test does not see the code");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn only_the_edge_of_the_house_knows_the_network() {
    for (room, path, text) in sources() {
        let edge = ["doors", "server", "demo", "app", "cli", "logs", "main"].contains(&room.as_str());
        for name in ["pingora", "hyper", "TcpStream", "TcpListener", "std::process", "std::fs"] {
            let files = name == "std::fs" && path.ends_with("base/files.rs");
            let in_code = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(name));
            assert!(edge || files || !in_code, "{} knows {name}", path.display());
        }
    }
}

#[test]
fn the_policy_room_is_pure() {
    for (room, path, text) in sources() {
        if room == "policy" {
            for word in ["async ", ".await", "Instant", "Clock", "tokio", "tracing"] {
                assert!(!text.contains(word), "{} holds `{word}`", path.display());
            }
        }
    }
}

#[test]
fn serve_cannot_reach_the_demo() {
    for (room, path, text) in sources() {
        let allowed = ["demo", "cli", "lib"].contains(&room.as_str());
        assert!(allowed || !rooms_named(&text).contains(&"demo".into()), "{} names the demo", path.display());
    }
}

#[test]
fn files_stay_short_and_begin_with_what_they_are() {
    for (_, path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines before its tests", path.display());
        assert!(text.starts_with("//!"), "{} does not say what it is", path.display());
    }
}

#[test]
fn the_root_stays_small() {
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let visible: std::collections::BTreeSet<_> =
        listed.lines().filter_map(|path| path.split('/').next()).filter(|name| !name.starts_with('.')).collect();
    assert!(visible.len() <= ROOT_ENTRIES_MAX, "{visible:?}");
}

#[test]
fn cases_and_attacks_are_there() {
    for folder in ["tests/cases", "tests/attacks"] {
        assert!(fs::read_dir(root().join(folder)).unwrap().count() > 2, "{folder}");
    }
}
