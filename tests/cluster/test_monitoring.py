"""Alerts and the dashboard: what they ask for exists in `ichor.metrics`, and each alert fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml
from prometheus_client import Counter, Gauge, Histogram

from ichor import metrics

from .conftest import CHART, Object, named

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
CASES = Path(__file__).with_name("alerts_test.yaml")
_WORDS = {"by", "le", "pod", "on", "ignoring"}  # labels that Prometheus and its scrape give, and keywords


def _known() -> dict[str, set[str]]:
    """Labels by the name of each series."""
    known: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            labels = set(getattr(metric, "_labelnames", ()))
            if isinstance(metric, Histogram):
                known |= {f"{family.name}_{part}": labels for part in ("bucket", "sum", "count")}
            else:
                known[family.name + ("_total" if isinstance(metric, Counter) else "")] = labels
    return known


def _expressions() -> list[str]:
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


def test_alerts_and_dashboard_ask_for_metrics_that_ichor_has() -> None:
    known = _known()
    for expression in _expressions():
        series = set(re.findall(r"ichor_\w+", expression))
        assert series, expression
        assert series <= set(known), expression
        labels = set.union(*(known[name] for name in series)) | _WORDS
        for names in re.findall(r"by \(([^)]+)\)", expression):
            assert {name.strip() for name in names.split(",")} <= labels, expression
        for name, inside in re.findall(r"(ichor_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=", inside)) <= known[name], expression


def test_every_alert_fires_when_it_should(peer: Callable[[str, str], str]) -> None:
    promtool = peer("promtool", "prometheus")
    done = subprocess.run([promtool, "test", "rules", CASES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    fired = set(re.findall(r'alertname="(\w+)"', CASES.read_text()))
    assert fired == {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}


def test_the_chart_carries_alerts_and_dashboard_unchanged(render: Callable[..., list[Object]]) -> None:
    rule = named(render("cluster"), "PrometheusRule", "ichor")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    board = named(render("cluster"), "ConfigMap", "dashboard")
    assert json.loads(board["data"]["ichor.json"]) == json.loads(DASHBOARD.read_text())
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
