"""Renders the chart with several values and judges every document: by Kubernetes' schemas, by what belongs together, and by the gate itself. Then
breaks the chart on purpose, and judges again: each of these must be found."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

HERE = Path(__file__).resolve().parent
DEPLOY = HERE.parents[2] / "deploy"
CHART = DEPLOY / "helm/portcullis"
GATE, RENDER = Path(sys.argv[1]).resolve(), sys.argv[2]
# The oldest Kubernetes that the chart is for, and the newest that there are schemas of.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
PLAIN = HERE / "values/plain.yaml"

# The Prometheus operator's schemas are in no package: what is used of them, in their own words.
POD_MONITOR = {
    "type": "object", "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "spec": {
            "type": "object", "additionalProperties": False, "required": ["selector", "podMetricsEndpoints"],
            "properties": {
                "selector": {"type": "object", "required": ["matchLabels"]},
                "podMetricsEndpoints": {"type": "array", "items": {
                    "type": "object", "additionalProperties": False,
                    "properties": {name: {"type": "string"} for name in ("port", "path", "interval")},
                }},
            },
        },
    },
}


class Bad(Exception):
    """What is wrong with a rendering."""


def hold(condition, message):
    if not condition:
        raise Bad(message)


class Loader(yaml.SafeLoader):
    """Keys that stand twice are errors, as they are to a cluster that validates strictly."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        hold(len(keys) == len(set(keys)), f"a key stands twice: {node.start_mark}")
        return super().construct_mapping(node, deep)


def documents(text):
    try:
        return [it for it in yaml.load_all(text, Loader=Loader) if it is not None]
    except yaml.YAMLError as error:
        raise Bad(f"no YAML: {error}") from error


def render(chart, *files, **options):
    command = [RENDER, *(f"-{name}={value}" for name, value in options.items()), *(x for file in files for x in ("-f", file)), chart]
    done = subprocess.run(command, capture_output=True, text=True)
    hold(done.returncode == 0, done.stderr.strip())
    return done.stdout


def validate(document):
    hold(document.get("metadata", {}).get("name", ""), f"a document without a name: {document}")
    name = f"{document['kind']} {document['metadata']['name']}"
    hold(len(document["metadata"]["name"]) <= 63, f"{name}: a name may have 63 characters")
    try:
        if document["kind"] == "PodMonitor":
            jsonschema.validate(document, POD_MONITOR)
            return
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    except jsonschema.ValidationError as error:
        raise Bad(f"{name}: {'.'.join(map(str, error.path))}: {error.message}") from error
    except kubernetes_validate.SchemaNotFoundError as error:
        raise Bad(f"{name}: {error.message}") from error


def of_kind(all_, kind):
    return [it for it in all_ if it["kind"] == kind]


def port_of(pod, port):
    """The number of a port that has a name in a container of `pod`."""
    named = [it for container in pod["containers"] for it in container.get("ports", []) if it["name"] == port]
    hold(len(named) == 1, f"no port `{port}`, or several")
    return named[0]["containerPort"]


def mounted(pod, container, folder, maps, kept):
    """Writes to `folder` what `container` would see in /etc/portcullis; `kept` are ConfigMaps and Secrets that others have made."""
    volumes = {it["name"]: it for it in pod["volumes"]}
    for mount in sorted(container["volumeMounts"], key=lambda it: it["mountPath"]):
        hold(mount["name"] in volumes, f"no volume `{mount['name']}`")
        volume = volumes[mount["name"]]
        if not mount["mountPath"].startswith("/etc/portcullis"):
            continue
        name = volume.get("configMap", {}).get("name") or volume["secret"]["secretName"]
        hold(name in maps or name in kept, f"nobody makes {name}")
        hold(mount.get("readOnly"), f"{mount['mountPath']} can be written to")
        place = folder / mount["mountPath"].removeprefix("/etc/portcullis").lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for file, text in (maps.get(name) or kept[name]).items():
            (place / file).write_text(text)


def check(pod, container, maps, kept):
    """Has the gate check what `container` mounts, and gives its configuration."""
    with tempfile.TemporaryDirectory() as folder:
        mounted(pod, container, Path(folder), maps, kept)
        secrets = {it["name"]: "for tests only" for it in container.get("env", [])}
        command = [GATE, "check", "-D", "all", "--config", Path(folder) / "config.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **secrets})
        hold(done.returncode == 0, f"the gate refuses it:\n{done.stderr}")
        return yaml.safe_load((Path(folder) / "config.yaml").read_text())


def judge(text, kept, sidecar=False, deny=None):
    all_ = documents(text)
    seen = [(it["kind"], it["metadata"]["name"], it["metadata"].get("namespace")) for it in all_]
    hold(len(seen) == len(set(seen)), f"one name twice: {seen}")
    for document in all_:
        validate(document)
    maps = {it["metadata"]["name"]: it["data"] for it in of_kind(all_, "ConfigMap")}
    deployment, = of_kind(all_, "Deployment")
    template = deployment["spec"]["template"]
    pod, labels = template["spec"], template["metadata"]["labels"]
    gate, = (it for it in pod["containers"] if it["name"] == "gate")

    config = check(pod, gate, maps, kept)
    hold(config["listen"].rpartition(":")[2] == str(port_of(pod, "http")), "the port is not the one that the gate listens at")
    admin = config.get("admin", "127.0.0.1:9901")
    probe = gate["readinessProbe"]["exec"]["command"]
    hold(probe == ["/usr/local/bin/portcullis", "health", "--admin", admin], f"the probe asks elsewhere: {probe}")
    drain = {"delay_ms": 0, "patience_ms": 30000, **config.get("drain", {})}
    wait = gate.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    longest = wait + math.ceil((drain["delay_ms"] + drain["patience_ms"]) / 1000)
    hold(longest < pod["terminationGracePeriodSeconds"] <= longest + 15, "the grace period is not that of the drain")
    hold(pod.get("automountServiceAccountToken") is False, "the pod gets a token")
    security = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    hold(pod["securityContext"] == security, f"the pod may more: {pod['securityContext']}")
    may = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    hold(gate["securityContext"] == may, f"the gate may more: {gate['securityContext']}")
    hold(gate["resources"].get("limits", {}).get("memory"), "memory has no limit")

    def ours(selector):
        return bool(selector) and selector.items() <= labels.items()

    hold(ours(deployment["spec"]["selector"]["matchLabels"]), "the deployment does not select its pods")
    service, = of_kind(all_, "Service")
    hold(ours(service["spec"]["selector"]), "the service does not select the pods")
    hold(port_of(pod, service["spec"]["ports"][0]["targetPort"]), "the service has no port")
    for it in of_kind(all_, "PodDisruptionBudget") + of_kind(all_, "PodMonitor"):
        hold(ours(it["spec"]["selector"]["matchLabels"]), f"{it['kind']} does not select the pods")
    for it in of_kind(all_, "HorizontalPodAutoscaler"):
        hold(it["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"], "another deployment is scaled")
        hold("replicas" not in deployment["spec"], "two say how many there are")

    for job in of_kind(all_, "Job"):
        one, = job["spec"]["template"]["spec"]["containers"]
        hold(one["args"] == ["check", *(x for it in deny or [] for x in ("-D", it))], f"the check does something else: {one['args']}")
        hold(check(job["spec"]["template"]["spec"], one, maps, kept) == config, "the check is of something else")
        hold("pre-upgrade" in job["metadata"]["annotations"]["helm.sh/hook"], "the check comes too late")
        pods = job["spec"]["template"]["metadata"]["labels"]
        hold(not service["spec"]["selector"].items() <= pods.items(), "requests would go to the check")
    if sidecar:
        return all_, config

    # Nobody but those who are meant to reaches the admin listener or the service behind.
    reachable = not admin.startswith("127.")
    for it in of_kind(all_, "NetworkPolicy"):
        hold(it["spec"]["policyTypes"] == ["Ingress"] and it["spec"]["podSelector"].get("matchLabels"), "a policy for everybody")
        if it["metadata"]["name"].endswith("-alone"):
            (source,), = (rule["from"] for rule in it["spec"]["ingress"])
            hold(ours(source["podSelector"]["matchLabels"]) and source["namespaceSelector"]["matchLabels"], "others get past the gate")
            continue
        hold(ours(it["spec"]["podSelector"]["matchLabels"]), "the policy is for other pods")
        rules = {port_of(pod, rule["ports"][0]["port"]): rule for rule in it["spec"]["ingress"]}
        hold(all(len(rule["ports"]) == 1 for rule in rules.values()), "a rule for several ports")
        opened = [rule for port, rule in rules.items() if port != port_of(pod, "http")]
        hold(all(rule.get("from") for rule in opened), "the admin listener is open to everybody")
    hold(not reachable or of_kind(all_, "NetworkPolicy"), "the admin listener is open to everybody")
    return all_, config


def kinds(all_):
    return sorted(it["kind"] for it in all_)


def values(folder, data):
    file = Path(folder) / f"{len(list(Path(folder).iterdir()))}.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def main(work):
    plain = yaml.safe_load(PLAIN.read_text())
    key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*key, "-subj", "/CN=gate", "-addext", "subjectAltName=DNS:gate.example", "-keyout", work / "key", "-out", work / "cert"],
                   check=True, capture_output=True)
    by_hand = {"listen": "0.0.0.0:8080", "drain": {"patience_ms": 5000}, **plain["config"]}
    kept = {
        "edge-tls": {"tls.crt": (work / "cert").read_text(), "tls.key": (work / "key").read_text()},
        "edge-config": {"config.yaml": yaml.safe_dump(by_hand)},
        "edge-policies": plain["policies"],
    }

    # What should be there is there.
    all_, config = judge(render(CHART, PLAIN), kept, deny=["all"])
    base = ["ConfigMap", "ConfigMap", "Deployment", "Job", "NetworkPolicy", "NetworkPolicy", "Service", "ServiceAccount"]
    hold(kinds(all_) == sorted([*base, "ConfigMap", "ConfigMap", "PodDisruptionBudget"]), kinds(all_))
    hold(config == {"listen": "0.0.0.0:8080", "admin": "127.0.0.1:9901", **plain["config"]}, config)
    all_, config = judge(render(CHART, PLAIN, HERE / "values/full.yaml"), kept, deny=["all"])
    hold({"HorizontalPodAutoscaler", "PodMonitor"} <= set(kinds(all_)), kinds(all_))
    hold(config["limits"] == {"token_cache_bytes_max": 1073741824, "connections_max": 1000000} and config["http2"] == "off", config)
    all_, _ = judge(render(CHART, HERE / "values/volumes.yaml"), kept)
    hold(kinds(all_) == ["Deployment", "NetworkPolicy", "Service", "ServiceAccount"], kinds(all_))
    judge(render(DEPLOY / "helm/orders", release="orders"), kept, sidecar=True)
    judge(render(CHART, PLAIN, release="7"), kept, deny=["all"])
    judge(render(CHART, PLAIN, release="portcullis" + "x" * 43, namespace="n" * 63), kept, deny=["all"])
    for name, said in [(PLAIN, "Nobody but the gate reaches"), (HERE / "values/volumes.yaml", "what does it elsewhere?")]:
        hold(said in render(CHART, name, notes="true"), f"the notes do not say `{said}`")

    # Pods are made anew for what cannot be reloaded, and for nothing else.
    def stamp(change):
        deployment, = of_kind(documents(render(CHART, PLAIN, values(work, change))), "Deployment")
        return deployment["spec"]["template"]["metadata"]["annotations"]["portcullis/fixed-settings"]

    reloaded = [{}, {"policies": {"more.cedar": ""}}, {"config": {"upstream": {"url": "http://b"}, "limits": {"requests_max": 7}}},
                {"config": {"records": {"questions": True}, "log": {"level": "debug"}}}]
    hold(len({stamp(it) for it in reloaded}) == 1, "pods are made anew for what is reloaded")
    fixed = [{"http2": "off"}, {"listen": "0.0.0.0:1"}, {"admin": "127.0.0.1:1"}, {"proxy_protocol": "required"}, {"listeners": [{}]},
             {"limits": {"connections_max": 7}}, {"limits": {"streams_max": 7}}, {"tls": {}},
             {"records": {"stdout": False}}, {"records": {"file": {"path": "/r"}}}, {"records": {"syslog": {"to": "unix:/dev/log"}}},
             {"records": {"otlp": {"endpoint": "http://127.0.0.1:4317"}}}, {"log": {"format": "json"}}]
    hold(len({stamp({"config": it}) for it in [{}, *fixed]}) == len(fixed) + 1, "pods stay as they are for what is not reloaded")

    # What must not be rendered is not, and it is said why.
    refused = [
        ({"policies": None}, "without policies nobody may do anything"),
        ({"policies": {"orders.cedar": None}}, "without policies nobody may do anything"),
        ({"policies": {"schema.cedarschema": None}}, "there is no schema.cedarschema"),
        ({"policiesVolume": {"configMap": {"name": "x"}}}, "only one place for policies"),
        ({"configVolume": {"secret": {"secretName": "x"}}}, "config.yaml: beside it"),
        ({"config": {"issuers": None}}, "`config.issuers` is missing"),
        ({"config": {"routes": None}}, "`config.routes` is missing"),
        ({"config": {"upstream": None}}, "`config.upstream` is missing"),
        ({"config": {"listen": "unix:/run/gate.sock"}}, "has no port"),
        ({"config": {"admin": None}}, "admin is required"),
        ({"podMonitor": {"enabled": True}}, "nobody can scrape"),
        ({"config": {"admin": "0.0.0.0:9901"}, "networkPolicy": {"enabled": False}}, "anybody reaches"),
        ({"upstreamPods": {"labels": None}}, "`upstreamPods.labels` is missing"),
        ({"upstreamPods": {"ports": []}}, "`upstreamPods.ports` is missing"),
        ({"upstreamPods": {"ports": ["9000"]}}, "Invalid type"),
        ({"replicaCount": 2}, "replicaCount is not allowed"),
        ({"image": {"digest": "latest"}}, "Does not match pattern"),
        ({"policies": {"a/b.cedar": "x"}}, "does not match"),
        ({"mode": "ambient"}, "mode must be one of"),
    ]
    for change, why in refused:
        try:
            render(CHART, PLAIN, values(work, change))
        except Bad as problem:
            hold(why.lower() in str(problem).lower(), f"{change}: {problem}")
        else:
            raise Bad(f"rendered all the same: {change}")
    for chart, options, why in [(CHART, {}, "without policies"), (CHART, {"kube": "1.29.0"}, "incompatible")]:
        try:
            render(chart, **options)
        except Bad as problem:
            hold(why in str(problem), problem)
        else:
            raise Bad("rendered all the same")

    # A chart that is broken is found out.
    broken = [
        ("_pod.tpl", "containerPort:", "containerport:"),
        ("_pod.tpl", '{{ include "portcullis.port" . }}', "8081"),
        ("_pod.tpl", "runAsUser: 65532", "runAsUser: 0"),
        ("_pod.tpl", "  capabilities: { drop: [ALL] }\n", ""),
        ("_pod.tpl", '(div (add $ms 999) 1000) 10', '(div $ms 10000)'),
        ("_pod.tpl", "--admin, {{ .Values.config.admin | quote }}", "--admin, 127.0.0.1:1"),
        ("_pod.tpl", "mountPath: /etc/portcullis/policies", "mountPath: /etc/policies"),
        ("_pod.tpl", "{{ $name }}-policies{{ .suffix }}", "{{ $name }}-policy{{ .suffix }}"),
        ("_configuration.tpl", "config.yaml: |", "config.yml: |"),
        ("_configuration.tpl", "{{- toYaml $gate.Values.config | nindent 4 }}", "{{- toYaml $gate.Values.config | nindent 2 }}"),
        ("_names.tpl", "app.kubernetes.io/instance: {{ .Release.Name | quote }}", "app.kubernetes.io/instance: {{ .Release.Revision }}"),
        ("deployment.yaml", "apiVersion: apps/v1", "apiVersion: apps/v1beta1"),
        ("deployment.yaml", "targetPort: http", "targetPort: web"),
        ("deployment.yaml", "      automountServiceAccountToken: false\n", ""),
        ("deployment.yaml", "maxSurge: 1", "maxSurge: 1, maxLess: 2"),
        ("availability.yaml", "maxUnavailable: 1", "maxUnavailable: [1]"),
        ("networkpolicy.yaml", "matchLabels: {{- toYaml .labels | nindent 6 }}", "{}"),
        ("check.yaml", "pre-install,pre-upgrade", "post-install"),
        ("check.yaml", "{{ .Chart.Name }}-check", "{{ .Chart.Name }}"),
    ]
    for file, text, instead in broken:
        copy = work / "chart"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(CHART, copy)
        place = copy / "templates" / file
        hold(text in place.read_text(), f"{file} has no `{text}`")
        place.write_text(place.read_text().replace(text, instead))
        try:
            judge(render(copy, PLAIN), kept, deny=["all"])
        except Bad:
            continue
        raise Bad(f"nobody saw in {file} that `{text}` was `{instead}`")

    # The manifests that are no chart.
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in documents(file.read_text()):
            validate(document)
    print(f"helm: 6 renderings and the manifests good for Kubernetes {' and '.join(VERSIONS)} and for the gate; "
          f"{len(refused) + 2} refused as they should be, {len(broken)} defects found")


with tempfile.TemporaryDirectory() as folder:
    try:
        main(Path(folder))
    except Bad as problem:
        sys.exit(f"helm: {problem}")
