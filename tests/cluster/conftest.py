"""The chart as its tests see it: helm, values files, rendered objects. Programs of tests/cluster/tools skip when absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from absent import absent

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "ichor"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichor-cluster"
KUBERNETES = "1.35.0"
SITES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))

Object = dict[str, Any]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: a real API server or image build; docs/cluster.md")


@dataclass(frozen=True, slots=True)
class Tool:
    """A built program, with what it was told so far."""

    path: Path

    def __call__(self, *arguments: str | Path, fails: bool = False) -> str:
        """What it prints; with ``fails``, what it says while it refuses."""
        environment = os.environ | {"HELM_CACHE_HOME": str(CACHE / "helm"), "HELM_CONFIG_HOME": str(CACHE / "helm")}
        done = subprocess.run(
            [self.path, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=300
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout


@pytest.fixture(scope="session")
def tool() -> Callable[[str, str], Tool]:
    """``tool("helm", "helm")``: a program on the path or of ``tests/cluster/tools WHAT``, or skip."""

    def find(name: str, what: str) -> Tool:
        built = CACHE / "bin" / name
        path = built if built.exists() else shutil.which(name)
        if path is None:
            absent(f"{name} is not here: tests/cluster/tools {what}")
        return Tool(Path(path))

    return find


@pytest.fixture(scope="session")
def helm(tool: Callable[[str, str], Tool]) -> Tool:
    return tool("helm", "helm")


@pytest.fixture(scope="session")
def render(helm: Tool) -> Callable[..., list[Object]]:
    """``render("cluster", "send.replicas=3")``: the objects of a values file below ci/, with further values."""
    made: dict[tuple[str, ...], list[Object]] = {}

    def run(site: str, *values: str) -> list[Object]:
        if (site, *values) not in made:
            flags = [flag for value in values for flag in ("--set", value)]
            text = helm(
                "template", "site", CHART, "--namespace", "imaging", "--kube-version", KUBERNETES,
                "--values", CHART / "ci" / f"{site}.yaml", *flags,
            )  # fmt: skip
            made[site, *values] = [found for found in yaml.safe_load_all(text) if found]
        return made[site, *values]

    return run


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of that kind whose name ends so."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(name)]
    return found


def workloads(objects: list[Object]) -> dict[str, Object]:
    """Pod specifications by role."""
    return {
        o["metadata"]["labels"]["app.kubernetes.io/component"]: o["spec"]["template"]["spec"]
        for o in objects
        if o["kind"] in ("Deployment", "StatefulSet")
    }


def container(pod: Object, name: str = "ichor") -> Object:
    (found,) = [c for c in pod["containers"] if c["name"] == name]
    return found
