"""The site trial's files: valid by the Compose specification, and loaded by those they are for. No container is run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from absent import absent

from ichor import config

from .conftest import CACHE, ROOT

FOLDER = ROOT / "deploy"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_the_compose_file_fits_the_specification() -> None:
    if not (CACHE / "compose-spec.json").exists():
        absent("the schema is not here: tests/cluster/tools schemas")
    schema = json.loads((CACHE / "compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(COMPOSE | {"services": {"ichor": {"imagee": "x"}}}, schema)


def test_all_that_a_site_trial_needs_is_there_and_names_what_exists() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"ichor", "kafka", "orthanc", "ohif", "prometheus", "grafana"}
    volumes = [volume for service in services.values() for volume in service["volumes"]]
    for volume in volumes:
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (FOLDER / source).is_file(), source
        else:
            assert source in COMPOSE["volumes"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)


def test_nothing_but_dicom_is_published_off_this_machine() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["11112:11112"]


def test_ichor_takes_its_settings_and_finds_its_neighbours() -> None:
    settings = config.load(FOLDER / "trial" / "ichor.toml", environ={})
    services = COMPOSE["services"]
    assert (
        settings.bus.url
        == f"kafka://{services['kafka']['environment']['KAFKA_ADVERTISED_LISTENERS'].partition('//')[2]}"
    )
    (pacs,) = settings.destinations
    orthanc = json.loads((FOLDER / "trial" / "orthanc.json").read_text())
    assert pacs.host in services
    assert (pacs.ae_title, pacs.port) == (orthanc["DicomAet"], orthanc["DicomPort"])
    assert orthanc["DicomModalities"]["ichor"] == [settings.listener.ae_title, "ichor", settings.listener.port]
    assert settings.console.token_file == "/run/secrets/console_token"
    assert services["ichor"]["secrets"] == ["console_token"]
    inside = {volume.split(":")[1] for volume in services["ichor"]["volumes"]}
    assert str(settings.data) in inside
    assert services["ichor"]["command"][2] in inside


def test_prometheus_takes_its_file_and_asks_ichor(peer: Callable[[str, str], str], tmp_path: Path) -> None:
    text = (FOLDER / "trial" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        [peer("promtool", "prometheus"), "check", "config", "--syntax-only", tmp_path / "prometheus.yml"],
        capture_output=True, text=True, check=False, env=os.environ | {"TZ": "UTC"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = yaml.safe_load(text)["scrape_configs"]
    settings = config.load(FOLDER / "trial" / "ichor.toml", environ={})
    assert job["static_configs"][0]["targets"] == [f"ichor:{settings.console.port}"]
