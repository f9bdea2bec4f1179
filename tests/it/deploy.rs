//! What is in `deploy/` can be used as it stands.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

use crate::{cli, house};

/// Every document of a file of YAML.
fn documents(path: &str) -> Vec<Value> {
    let text = house::repository(path);
    let parts = text.split("\n---\n");
    parts.map(|part| serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("{path}: {error}"))).collect()
}

fn check(folder: &Path) {
    let checked = cli::portcullis()
        .current_dir(folder)
        .env("REDIS_PASSWORD", "for tests only")
        .args(["check", "-D", "all"])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", cli::text(&checked.stderr));
}

fn kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|it| it["kind"] == kind).collect()
}

#[test]
fn the_configurations_in_kubernetes_manifests_are_good_and_the_pods_mount_them() {
    for file in ["deploy/kubernetes/sidecar.yaml", "deploy/kubernetes/standalone.yaml"] {
        let all = documents(file);
        let maps: BTreeMap<&str, &Value> =
            kind(&all, "ConfigMap").iter().map(|it| (it["metadata"]["name"].as_str().unwrap(), &it["data"])).collect();
        let deployment = kind(&all, "Deployment")[0];
        let pod = &deployment["spec"]["template"]["spec"];
        let gate = pod["containers"].as_array().unwrap().iter().find(|it| it["name"] == "gate").unwrap();
        let folder = tempfile::tempdir().unwrap();
        for mount in gate["volumeMounts"].as_array().unwrap() {
            let volume = pod["volumes"].as_array().unwrap().iter().find(|it| it["name"] == mount["name"]).unwrap();
            let Some(map) = volume["configMap"]["name"].as_str() else { continue };
            let inside = mount["mountPath"].as_str().unwrap().strip_prefix("/etc/portcullis").unwrap();
            let place = folder.path().join(inside.trim_start_matches('/'));
            std::fs::create_dir_all(&place).unwrap();
            for (name, text) in maps[map].as_object().unwrap() {
                std::fs::write(place.join(name), text.as_str().unwrap()).unwrap();
            }
        }
        check(folder.path());
        let config = std::fs::read_to_string(folder.path().join("config.yaml")).unwrap();
        let port = gate["ports"][0]["containerPort"].as_u64().unwrap();
        assert!(config.contains(&format!("listen: 0.0.0.0:{port}\n")), "{file}");
        assert_eq!(gate["securityContext"]["readOnlyRootFilesystem"], true, "{file}");
        assert_eq!(gate["securityContext"]["capabilities"]["drop"][0], "ALL", "{file}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{file}");
        let selector = &kind(&all, "Service")[0]["spec"]["selector"];
        assert_eq!(*selector, deployment["spec"]["template"]["metadata"]["labels"], "{file}");
        // Who is asked to stop waits first, and then for the drain.
        let wait = gate["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let drain = serde_saphyr::from_str::<Value>(&config).unwrap()["drain"].clone();
        let drain = drain["delay_ms"].as_u64().unwrap_or(0) + drain["patience_ms"].as_u64().unwrap_or(30_000);
        let whole = wait + drain / 1000;
        assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > whole, "{file}");
        let probe = gate["readinessProbe"]["exec"]["command"].as_array().unwrap();
        // By address: a file that is malformed and refused makes no pod unready.
        assert_eq!(probe[1..], ["health", "--admin", "127.0.0.1:9901"], "{file}");
        assert_eq!(gate["readinessProbe"]["timeoutSeconds"], 4, "{file}: longer than `health` waits");
        assert!(!config.contains("\nadmin:"), "{file}");
    }
}

#[test]
fn compose_mounts_a_configuration_that_is_good_and_leaves_no_way_past_the_gate() {
    let compose = &documents("deploy/compose/compose.yaml")[0];
    let folder = tempfile::tempdir().unwrap();
    for volume in compose["services"]["gate"]["volumes"].as_array().unwrap() {
        let (from, to) = volume.as_str().unwrap().trim_end_matches(":ro").split_once(':').unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose").join(from);
        let to = folder.path().join(to.strip_prefix("/etc/portcullis/").unwrap());
        if from.is_dir() {
            std::fs::create_dir(&to).unwrap();
            for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
    check(folder.path());
    let service = &compose["services"]["orders"];
    assert!(service["ports"].is_null() && service["networks"] == serde_json::json!(["behind"]));
    assert_eq!(compose["networks"]["behind"]["internal"], true);
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    if !house::present("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The binary is looked for: this one stands in.
    let unit = house::repository("deploy/systemd/portcullis.service")
        .replace("/usr/local/bin/portcullis", env!("CARGO_BIN_EXE_portcullis"));
    let path = folder.path().join("portcullis.service");
    std::fs::write(&path, &unit).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    let said = cli::text(&verified.stderr) + &cli::text(&verified.stdout);
    assert!(verified.status.success() && !said.contains("portcullis.service:"), "{said}");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<_> = command.split(' ').skip(1).collect();
    assert_eq!(words[..2], ["serve", "--config"]);
}

/// The keys of maps, below one another, as far as `inside` finds any.
fn keys(of: &Value, inside: &dyn Fn(&Value) -> Option<&Value>) -> Value {
    let map = inside(of).and_then(Value::as_object);
    map.map_or(Value::Null, |map| map.iter().map(|(name, value)| (name.clone(), keys(value, inside))).collect())
}

#[test]
fn the_charts_version_is_the_gates_and_its_schema_knows_every_value() {
    let chart = &documents("deploy/helm/portcullis/Chart.yaml")[0];
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(version), Some(version)));
    assert_eq!(documents("deploy/helm/orders/Chart.yaml")[0]["dependencies"][0]["version"], version);
    let schema = house::repository("deploy/helm/portcullis/values.schema.json");
    let mut schema: Value = serde_json::from_str(&schema).unwrap();
    // For charts that include this one.
    schema["properties"].as_object_mut().unwrap().remove("global").unwrap();
    let mut closed = keys(&schema, &|it| (it["additionalProperties"] == false).then(|| &it["properties"]));
    let mut said = keys(&documents("deploy/helm/portcullis/values.yaml")[0], &|it| it.is_object().then_some(it));
    // What is open is for others to describe.
    for (name, inner) in said.as_object_mut().unwrap() {
        if closed[name].is_null() {
            *inner = Value::Null;
        }
    }
    for open in ["/service/annotations", "/podMonitor/labels", "/upstreamPods/labels"] {
        *said.pointer_mut(open).unwrap() = Value::Null;
    }
    assert_eq!(closed.take(), said);
}

/// Each metric that `text` names, and the labels that are picked or grouped by beside it.
fn metrics_named(text: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = text.match_indices("portcullis_").map(|(at, _)| &text[at..]);
    let found = starts.filter_map(|rest| {
        let (name, after) = rest.split_at(rest.find(|c| !is_name(c))?);
        let picked = after.strip_prefix('{').and_then(|it| it.split_once('}')).map_or("", |(labels, _)| labels);
        let labels = picked.split(", ").filter_map(|it| it.split_once(['=', '!']).map(|(label, _)| label.to_owned()));
        Some((name.to_owned(), labels.collect()))
    });
    found.collect()
}

#[test]
fn the_dashboard_and_the_alerts_speak_of_metrics_that_there_are() {
    let page = house::repository("docs/metrics.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `portcullis_")?.split(" | ");
        let quoted = |cell: Option<&str>| -> Vec<String> {
            cell.unwrap_or("").split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        Some((format!("portcullis_{}", cells.next()?.trim_end_matches('`')), quoted(cells.nth(1))))
    };
    let described: BTreeMap<String, Vec<String>> = page.lines().filter_map(row).collect();
    let dashboard: Value = serde_json::from_str(&house::repository("deploy/grafana/portcullis.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter().flat_map(|it| it["targets"].as_array());
    let asked: Vec<&str> = panels.flatten().map(|it| it["expr"].as_str().unwrap()).collect();
    let alerts = &documents("deploy/prometheus/alerts.yaml")[0]["groups"][0]["rules"];
    let alerts: Vec<&Value> = alerts.as_array().unwrap().iter().collect();
    let rules = alerts.iter().map(|it| it["expr"].as_str().unwrap());
    let named = metrics_named(&asked.iter().copied().chain(rules).collect::<Vec<_>>().join("\n"));
    for (name, labels) in &named {
        let of = name.trim_end_matches("_bucket");
        let known = described.get(of).unwrap_or_else(|| panic!("{name} is no metric"));
        for label in labels {
            let everywhere = ["job", "instance"].contains(&label.as_str());
            assert!(everywhere || known.contains(label), "{name} has no label {label}");
        }
    }
    // Operators see everything that is told.
    let shown = metrics_named(&asked.join("\n"));
    for name in described.keys() {
        assert!(shown.iter().any(|(it, _)| it.trim_end_matches("_bucket") == name), "the dashboard has no {name}");
    }

    // Whoever is woken finds the page.
    let runbook = house::repository("docs/alerts.md");
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(runbook.contains(&format!("\n### {name}\n")), "{name} is in no runbook");
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert_eq!(url, format!("docs/alerts.md#{}", name.to_lowercase()));
        let part = if alert["labels"]["severity"] == "page" { "\n## Pages\n" } else { "\n## Tickets\n" };
        let after = runbook.split(part).nth(1).unwrap().split("\n## ").next().unwrap();
        assert!(after.contains(&format!("### {name}\n")), "{name} is not under{part}");
    }
    assert_eq!(runbook.matches("\n### ").count(), alerts.len());
}
