"""The chart against a real API server, by helm: install, upgrade, rollback, uninstall. No kubelet: nothing runs.

Part of `pytest -m cluster`: building the server takes minutes, once (tests/cluster/tools kubernetes).
"""

from __future__ import annotations

import json
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import CHART, Tool

pytestmark = [pytest.mark.cluster, pytest.mark.soak]
NAMESPACE = "imaging"
CUSTOM = {
    "scaledobjects.keda.sh": ("keda.sh", "v1alpha1", "ScaledObject"),
    "triggerauthentications.keda.sh": ("keda.sh", "v1alpha1", "TriggerAuthentication"),
    "servicemonitors.monitoring.coreos.com": ("monitoring.coreos.com", "v1", "ServiceMonitor"),
    "prometheusrules.monitoring.coreos.com": ("monitoring.coreos.com", "v1", "PrometheusRule"),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server: its address, token and kubeconfig."""

    address: str
    token: str
    kubeconfig: Path

    def ask(self, path: str, body: object = None) -> Any:
        """GET, or POST of ``body``; None where there is nothing."""
        request = urllib.request.Request(
            self.address + path, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )  # fmt: skip
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it made its certificate itself, on loopback
        try:
            with urllib.request.urlopen(request, context=context, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(error.read().decode()) from error

    def items(self, path: str) -> dict[str, Any]:
        """Objects of a namespaced kind by name."""
        group, _, kind = path.rpartition("/")
        found = self.ask(f"{group}/namespaces/{NAMESPACE}/{kind}")
        return {item["metadata"]["name"]: item for item in found["items"]}


@pytest.fixture(scope="module")
def cluster(
    tool: Callable[[str, str], Tool], peer: Callable[[str, str], str], free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:  # fmt: skip
    server = tool("kube-apiserver", "kubernetes").path
    folder = tmp_path_factory.mktemp("cluster")
    client, own, secure = free_port(), free_port(), free_port()
    etcd_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{own}"
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},tester,1,system:masters\n")
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    commands = [
        [
            peer("etcd", "etcd-server"), "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--listen-client-urls", etcd_url,
            "--advertise-client-urls", etcd_url, "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
            "--initial-cluster", f"default={peer_url}",
        ],
        [
            server, "--etcd-servers", etcd_url, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={secure}", f"--cert-dir={folder / 'certificates'}", f"--token-auth-file={folder / 'tokens.csv'}",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://127.0.0.1", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
        ],
    ]  # fmt: skip
    processes = []
    try:
        for command in commands:
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        address = f"https://127.0.0.1:{secure}"
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": address, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
        }))  # fmt: skip
        made = Cluster(address, token, kubeconfig)
        _until(lambda: made.ask("/api/v1/namespaces/kube-system") is not None, folder)
        made.ask("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for name, (group, version, kind) in CUSTOM.items():
            plural = name.partition(".")[0]
            schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
            made.ask("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
                "spec": {
                    "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind, "singular": kind.lower()},
                    "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
                },
            })  # fmt: skip
            _until(lambda g=group, v=version, p=plural: made.ask(f"/apis/{g}/{v}/namespaces/{NAMESPACE}/{p}") is not None, folder)  # fmt: skip
        yield made
    finally:
        for process in reversed(processes):  # one after the other: the API server does not end without its etcd
            process.terminate()
            process.wait(60)


def _until(holds: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            if holds():
                return
            said = "no"
        except (OSError, AssertionError) as error:
            said = str(error)
        logs = "".join(path.read_text(errors="replace")[-1500:] for path in folder.glob("*.log"))
        assert time.monotonic() < deadline, said + logs
        time.sleep(0.2)


def test_install_upgrade_rollback_and_uninstall_on_a_real_api_server(helm: Tool, cluster: Cluster) -> None:
    def run(*arguments: str | Path, fails: bool = False) -> str:
        return helm(*arguments, "--kubeconfig", cluster.kubeconfig, "--namespace", NAMESPACE, fails=fails)

    values = ("--values", CHART / "ci" / "cluster.yaml")
    said = run("install", "site", CHART, *values)
    assert "RESEARCH, not a medical device" in said
    sets = cluster.items("/apis/apps/v1/statefulsets")
    assert {name: one["spec"]["replicas"] for name, one in sets.items()} == {
        "site-ichor-receive": 3,
    }
    assert set(cluster.items("/apis/apps/v1/deployments")) == {
        "site-ichor-assemble",
        "site-ichor-work",
        "site-ichor-send",
        "site-ichor-console",
    }
    assert set(cluster.items("/apis/keda.sh/v1alpha1/scaledobjects")) == {"site-ichor-work"}
    assert cluster.items("/api/v1/services")["site-ichor-dicom"]["spec"]["ports"][0]["nodePort"] == 31112

    run("upgrade", "site", CHART, *values, "--set", "receive.replicas=4", "--set", "work.autoscaling.kind=none", "--set", "settings.study.wait=30s")  # fmt: skip
    assert cluster.items("/apis/apps/v1/statefulsets")["site-ichor-receive"]["spec"]["replicas"] == 4
    assert 'wait = "30s"' in cluster.items("/api/v1/configmaps")["site-ichor"]["data"]["ichor.toml"]
    assert cluster.items("/apis/keda.sh/v1alpha1/scaledobjects") == {}

    # What the server would refuse, the chart refuses before; the release stays as it is.
    assert "minimum: got 0, want 1" in run("upgrade", "site", CHART, *values, "--set", "assemble.shards=0", fails=True)

    run("rollback", "site", "1")
    assert cluster.items("/apis/apps/v1/statefulsets")["site-ichor-receive"]["spec"]["replicas"] == 3
    assert 'wait = "20s"' in cluster.items("/api/v1/configmaps")["site-ichor"]["data"]["ichor.toml"]
    assert set(cluster.items("/apis/keda.sh/v1alpha1/scaledobjects")) == {"site-ichor-work"}

    run("uninstall", "site")
    for path in ("/apis/apps/v1/statefulsets", "/apis/apps/v1/deployments", "/apis/policy/v1/poddisruptionbudgets"):
        left = cluster.items(path)
        assert all(one["metadata"].get("deletionTimestamp") for one in left.values()), left  # no controller finishes it
    assert set(cluster.items("/api/v1/persistentvolumeclaims")) == {"site-ichor-store"}  # received images stay


def test_the_small_the_single_and_the_form_with_a_bucket_are_admitted(helm: Tool, cluster: Cluster) -> None:
    for site in ("small", "single", "s3"):
        flags = ("--kubeconfig", cluster.kubeconfig, "--namespace", NAMESPACE)
        helm("install", f"a-{site}", CHART, *flags, "--values", CHART / "ci" / f"{site}.yaml")
        helm("uninstall", f"a-{site}", *flags)
