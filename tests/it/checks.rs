//! Runs `tests/checks/*.yaml`: what `check` says of a configuration, its schema and its policies taken together, and what
//! `explain` says of a request to it. Everything that is not said otherwise is as in `examples/own-data`,
//! whose schema is made to require the user acted for.

use std::{collections::BTreeSet, path::Path, process::Output};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{cli, house};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The policies.
    policy: String,
    /// What is changed of the schema: each `from` becomes `to`.
    #[serde(default)]
    schema: Vec<(String, String)>,
    /// What is changed of the configuration, likewise.
    #[serde(default)]
    config: Vec<(String, String)>,
    /// Further files, by name.
    #[serde(default)]
    files: std::collections::BTreeMap<String, String>,
    /// The warnings, all of them: a name, and where it points. Any, where this is not given.
    then: Option<Vec<String>>,
    /// Parts of what is said where the configuration is refused.
    #[serde(default)]
    errors: Vec<String>,
    explain: Option<Explain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    /// Claims over the usual ones.
    #[serde(default)]
    claims: Map<String, Value>,
    code: String,
    /// Parts of what is shown.
    shown: Vec<String>,
}

fn changed(text: String, changes: &[(String, String)]) -> String {
    changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "there is no `{from}` in\n{text}");
        text.replace(from, to)
    })
}

impl Case {
    /// The configuration, in a folder of its own.
    fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        let example = |name: &str| house::repository(&format!("examples/own-data/{name}"));
        let schema = example("policies/schema.cedarschema").replace("onBehalfOf?", "onBehalfOf");
        for (name, text) in [
            ("config.yaml", changed(example("config.yaml"), &self.config)),
            ("policies/schema.cedarschema", changed(schema, &self.schema)),
            ("policies/own-data.cedar", self.policy.clone()),
            ("none.json", "[]".into()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        for (name, text) in &self.files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn differences(&self) -> Vec<String> {
        let folder = self.folder();
        let checked = cli::portcullis().current_dir(folder.path()).arg("check").output().unwrap();
        let shown = cli::text(&checked.stderr);
        let mut differences = Vec::new();
        let code = if self.errors.is_empty() { 0 } else { 64 };
        if checked.status.code() != Some(code) {
            differences.push(format!("`check` left with {:?}\n{shown}", checked.status.code()));
        }
        differences.extend(
            self.errors.iter().filter(|it| !shown.contains(*it)).map(|it| format!("`{it}` is not in\n{shown}")),
        );
        if let Some(should) = &self.then {
            let mut is = warnings(&shown);
            is.sort();
            let mut should = should.clone();
            should.sort();
            let fits = is.len() == should.len() && is.iter().zip(&should).all(|(is, should)| is.starts_with(should));
            if !fits {
                differences.push(format!("the warnings are {is:#?}"));
            }
        }
        differences.extend(self.explain.iter().flat_map(|it| it.differences(folder.path())));
        differences
    }
}

/// The warnings that are shown, each with its place.
fn warnings(shown: &str) -> Vec<String> {
    let each = shown.split("warning: ").skip(1);
    let place = |text: &str| {
        let (_, rest) = text.split_once("─[")?;
        Some(rest.split_once(']')?.0.to_owned())
    };
    each.map(|text| {
        [text.lines().next().unwrap().to_owned()].into_iter().chain(place(text)).collect::<Vec<_>>().join(" ")
    })
    .collect()
}

impl Explain {
    fn differences(&self, folder: &Path) -> Vec<String> {
        let mut claims: Map<String, Value> =
            serde_json::from_str(&house::repository("examples/own-data/claims.json")).unwrap();
        claims.extend(self.claims.clone());
        let claims = Value::from(claims).to_string();
        let explain = |more: &[&str]| -> Output {
            let arguments =
                ["explain", "--offline", "--at", "2026-03-02T10:00:00Z", "--claims", &claims, "/users/user-1/data"];
            cli::portcullis().current_dir(folder).args(arguments).args(more).output().unwrap()
        };
        let (told, json) = (explain(&[]), explain(&["--json"]));
        let shown = cli::text(&told.stdout);
        let missing = self.shown.iter().filter(|it| !joined(&shown).contains(&joined(it)));
        let mut differences: Vec<_> =
            missing.map(|it| format!("`{it}` is not in\n{shown}{}", cli::text(&told.stderr))).collect();
        let account: Value = serde_json::from_slice(&json.stdout).unwrap_or_default();
        if account["code"] != *self.code {
            differences.push(format!("explained it is {}", account["code"]));
        }
        differences
    }
}

/// `text` however its lines are broken.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_mistake_is_named_and_what_is_right_is_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checks");
    let (mut count, mut failed, mut seen) = (0, Vec::new(), BTreeSet::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in file.cases {
            count += 1;
            assert!(case.then.is_some() || case.explain.is_some() || !case.errors.is_empty(), "{}", case.name);
            seen.extend(case.then.iter().flatten().map(|it| it.split(' ').next().unwrap().to_owned()));
            let differences = case.differences();
            if !differences.is_empty() {
                failed.push(format!("{}\n{}", case.name, differences.join("\n")));
            }
        }
    }
    println!("{count} configurations checked");
    assert!(failed.is_empty(), "{} of {count} failed:\n\n{}", failed.len(), failed.join("\n\n"));
    let exist: BTreeSet<_> = portcullis::authoring::lint::Lint::ALL.iter().map(|lint| lint.name().to_owned()).collect();
    assert_eq!(seen, exist, "each warning has a case");
}
