"""A real Prometheus, with the trial's own file, beside a site at work: every panel's query and every alert's rule."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.orthanc import Orthanc
from e2e.site import Site

from phantoms.ct_study import write_ct_head

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "helm" / "ichor" / "files" / "alerts.yaml"
DASHBOARD = ROOT / "helm" / "ichor" / "files" / "dashboard.json"
# What a site that is well does not have: counted once something goes wrong.
TROUBLE = {
    "ichor_stores_refused_total", "ichor_associations_aborted_total", "ichor_series_amended_total",
    "ichor_job_attempts_failed_total", "ichor_delivery_retries_total", "ichor_dead_letters", "ichor_loop_errors_total",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prometheus:
    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; a query that it does not understand is an HTTPError."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[Any]:
        return list(self.ask("query", query=query)["result"])


@pytest.fixture
def prometheus(
    site: Site, peer: Callable[[str, str], str], free_port: Callable[[], int], tmp_path: Path
) -> Iterator[Prometheus]:
    """That of the trial, but each second; it scrapes ``site``, which need not be there yet."""
    program, port = peer("prometheus", "prometheus"), free_port()
    text = (ROOT / "deploy" / "trial" / "prometheus.yml").read_text()
    for there, here in {
        "15s": "1s", "ichor:8080": f"127.0.0.1:{site.console_port}", "/etc/prometheus/alerts.yaml": str(ALERTS),
    }.items():  # fmt: skip
        assert there in text
        text = text.replace(there, here)
    (tmp_path / "prometheus.yml").write_text(text)
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    yield Prometheus(port)
    process.terminate()
    process.wait(120)


def panels() -> list[str]:
    """Queries of the dashboard, as Grafana would ask them."""
    found = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    return [expression.replace("$__rate_interval", "10m") for expression in found]


def test_every_panel_shows_a_site_at_work_and_every_rule_is_evaluated(
    site: Site, prometheus: Prometheus, orthanc: Orthanc, tmp_path: Path
) -> None:
    write_ct_head(tmp_path / "head", seed=20_001, bleed=30.0, slices=20)
    uid = json.loads((tmp_path / "head" / "truth.json").read_text())["study_instance_uid"]
    site.add_destination(0, name="pacs", ae_title=orthanc.ae_title, port=orthanc.dicom_port)
    site.start()
    site.ichor("push", str(tmp_path / "head"), "--to", f"NOBODY@127.0.0.1:{site.listener_port}", check=False)
    site.push(tmp_path / "head")
    assert site.wait_study(uid, timeout=600)["state"] == "done"

    healthy = [one for one in panels() if not set(re.findall(r"ichor_\w+", one)) <= TROUBLE]
    assert len(healthy) >= 10
    empty = healthy

    def all_show() -> bool:
        nonlocal empty
        try:
            empty = [one for one in healthy if not prometheus.values(one)]
        except urllib.error.HTTPError:
            raise
        except OSError:
            return False
        return not empty

    site.until(all_show, timeout=600, what=lambda: f"panels that show nothing: {empty}")
    for query in panels():
        prometheus.values(query)
    sent = len(list((tmp_path / "head" / "dicom").rglob("*.dcm")))

    def all_counted() -> bool:  # after a scrape that failed there is nothing for a moment
        return [float(v["value"][1]) for v in prometheus.values("sum(ichor_instances_stored_total)")] == [sent]

    site.until(all_counted, timeout=600, what="all images in the metrics")

    rules: list[Any] = []

    def evaluated() -> bool:
        rules[:] = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return all(rule["health"] != "unknown" for rule in rules)

    site.until(evaluated, timeout=600, what="the first evaluation of all rules")
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    assert len(rules) >= 15
