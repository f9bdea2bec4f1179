"""Has promtool judge alert rules, dashboard and metrics; and takes each alert away, or has it fire always, to see that its test notices."""

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ROOT, Gate, Issuer  # noqa: E402

RULES, TESTS = (ROOT / "deploy/prometheus" / name for name in ("alerts.yaml", "alerts_test.yaml"))


def promtool(*arguments, given=None):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, input=given)
    return done.returncode == 0, done.stdout + done.stderr


def must(arguments, given=None):
    good, said = promtool(*arguments, given=given)
    assert good, said
    return said


def rules_are_tested(folder):
    """Runs the rules' tests, and again with each alert broken in both ways. Gives how many alerts there are."""
    must(["check", "rules", RULES])
    must(["test", "rules", TESTS])
    text, (head, *cases) = RULES.read_text(), re.split(r"^(?=  - name: )", TESTS.read_text(), flags=re.M)
    # From one `expr` to what follows it, on one line or in a block.
    alerts = list(re.finditer(r"^      - alert: (\w+)\n        expr: (?:\|\n(?:          .*\n)+|.*\n)", text, re.M))
    assert len(alerts) == text.count("- alert:") > 10
    for found in alerts:
        name = found.group(1)
        (folder / "alerts_test.yaml").write_text(head + "".join(case for case in cases if f"alertname: {name}\n" in case))
        for instead in ["vector(1) > 2", "vector(1)"]:
            broken = f"      - alert: {name}\n        expr: {instead}\n"
            (folder / "alerts.yaml").write_text(text[:found.start()] + broken + text[found.end():])
            good, _ = promtool("test", "rules", folder / "alerts_test.yaml")
            assert not good, f"no test sees that {name} is `{instead}`"
    return len(alerts)


def expressions_of(dashboard):
    """Every expression, with values in place of Grafana's variables."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield re.sub(r"\[\$__\w+\]", "[5m]", target["expr"])


def dashboard_parses(folder):
    """Gives how many expressions the dashboard has, all of which Prometheus can parse."""
    dashboard = json.loads((ROOT / "deploy/grafana/portcullis.json").read_text())
    expressions = list(expressions_of(dashboard))
    rules = [{"record": f"dashboard:{at}", "expr": it} for at, it in enumerate(expressions)]
    file = folder / "dashboard.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    must(["check", "rules", file])
    file.write_text(file.read_text().replace("sum by (code)", "sum by code)", 1))
    assert not promtool("check", "rules", file)[0], "promtool parses anything"
    return len(expressions)


def metrics_are_good(binary, folder):
    """Lints what a gate tells that has let one request in and refused others."""
    issuer = Issuer(folder)
    (folder / "policies").mkdir()
    (folder / "policies/schema.cedarschema").write_text((ROOT / "policies/schema.cedarschema").read_text())
    (folder / "policies/users.cedar").write_text((ROOT / "policies/users.cedar").read_text())
    gate = Gate(binary, folder, "")
    try:
        gate.wait_until_ready()
        for path, token in [("/users/user-1/data", issuer.token()), ("/users/user-2/data", issuer.token()), ("/", "x")]:
            request = urllib.request.Request(f"http://127.0.0.1:{gate.port}{path}", headers={"Authorization": f"Bearer {token}"})
            try:
                urllib.request.urlopen(request, timeout=10).read()
            except urllib.error.HTTPError:
                pass
        with urllib.request.urlopen(f"http://127.0.0.1:{gate.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        gate.end()
    for code in ["allowed", "access_denied"]:
        assert f'code="{code}"' in text, text
    said = must(["check", "metrics"], given=text)
    assert not said.strip(), said
    good, said = promtool("check", "metrics", given=text.replace("portcullis_requests_total", "portcullis_requests"))
    assert "_total" in said, f"promtool takes anything: {good} {said}"
    return len(re.findall(r"^# TYPE portcullis_", text, re.M))


with tempfile.TemporaryDirectory() as name:
    place = Path(name)
    alerts, expressions = rules_are_tested(place), dashboard_parses(place)
    metrics = metrics_are_good(sys.argv[1], place)
    print(f"prometheus: {alerts} alerts hold and every one is tested, {expressions} expressions of the dashboard parse, {metrics} metrics are well made")
