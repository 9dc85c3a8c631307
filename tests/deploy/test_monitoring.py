"""Alert rules and the dashboard ask for metrics, labels and values there are; promtool agrees where it is installed."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestrator.core.model import BatchStatus, Fault, PromptStatus
from orchestrator.telemetry import EVENTS
from orchestrator.web.catalogue import BUCKETS, METRICS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CASES = Path(__file__).parent / "alerts_fire.yaml"
RULES = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in RULES for rule in group["rules"]}
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DRAWN = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS}
EXPRESSIONS = [*(rule["expr"] for rule in ALERTS.values()), *(expr for exprs in DRAWN.values() for expr in exprs)]
WORD = r"orchestrator_[a-z_]+"
OF_PROMETHEUS = {"job", "instance", "le"}
VALUES = {
    "status": {*PromptStatus, *BatchStatus, "ended", "2.."},
    "fault": set(Fault),
    "level": {event.level for event in EVENTS.values()} | {"warning|error"},
}
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ, reason="promtool is not installed"
)


def metric_of(series: str) -> str:
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    return base if base in BUCKETS else series


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_that_is_asked_for_exists(expression):
    named = {metric_of(series) for series in re.findall(WORD, expression)}
    assert named
    assert named <= set(METRICS)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_and_value_that_is_asked_for_exists(expression):
    for series, matchers in re.findall(rf"({WORD})\{{([^}}]*)\}}", expression):
        for label, value in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', matchers):
            assert label in {*METRICS[metric_of(series)].labels, *OF_PROMETHEUS}, series
            assert label in OF_PROMETHEUS or value in VALUES[label], value
    known = {label for series in re.findall(WORD, expression) for label in METRICS[metric_of(series)].labels}
    for labels in re.findall(r"(?:by|without|ignoring|on) \(([^)]*)\)", expression):
        assert {label.strip() for label in labels.split(",")} <= known | OF_PROMETHEUS


def test_counters_are_only_asked_for_their_increase():
    counters = [name for name, metric in METRICS.items() if metric.kind == "counter"]
    for expression in EXPRESSIONS:
        for name in counters:
            for before, after in re.findall(rf"(\w*\(?){name}\b(?:\{{[^}}]*\}})?(\[[^]]+\])?", expression):
                assert (before in ("rate(", "increase("), bool(after)) == (True, True), expression


def test_every_metric_is_drawn():
    drawn = {metric_of(series) for exprs in DRAWN.values() for expr in exprs for series in re.findall(WORD, expr)}
    assert drawn == set(METRICS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_what_it_means_and_what_to_do(alert):
    rule = ALERTS[alert]
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    named = re.findall(r"\b([a-z]+\.[a-z_]+)\b", rule["annotations"]["description"])
    assert [name for name in named if name not in EVENTS and name != "polling.overdue_seconds"] == []


def test_panels_fill_the_page_without_overlapping_and_all_use_the_chosen_source():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        fields = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not fields & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= fields
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    sources = [panel["datasource"] for panel in PANELS] + [t["datasource"] for p in PANELS for t in p["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "job", "instance"}


def test_the_scrape_example_names_the_rules_there_are():
    example = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    assert [(DEPLOY / name).exists() for name in example["rule_files"]] == [True]


def test_there_is_a_case_in_which_each_alert_fires():
    cases = CASES.read_text()
    calm, *trouble = cases.split("  - name: ")[1:]
    assert set(re.findall(r"alertname: (\w+)", calm)) == set(ALERTS)
    assert set(re.findall(r'alertname="(\w+)"', "".join(trouble))) == set(ALERTS)


def tool(*words, cwd):
    done = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_promtool_takes_the_rules_and_the_scrape_example():
    tool("check", "config", "prometheus.yaml", cwd=DEPLOY)


@promtool
def test_promtool_sees_each_alert_fire_in_trouble_and_none_when_all_is_well(tmp_path):
    for path in (DEPLOY / "alerts.yaml", CASES):
        shutil.copy(path, tmp_path)
    tool("test", "rules", CASES.name, cwd=tmp_path)


@promtool
def test_promtool_can_read_what_the_dashboard_asks(tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "5m").replace("$job", ".*")}
        for number, expr in enumerate(expr for exprs in DRAWN.values() for expr in exprs)
    ]
    (tmp_path / "panels.yaml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    tool("check", "rules", "panels.yaml", cwd=tmp_path)
