"""The Helm chart as it is rendered: valid for Kubernetes and for Ichor, and as safe as it says. Nothing is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from absent import absent

from ichor import config
from ichor.cli.supervisor import COMMANDS

from .conftest import CACHE, CHART, KUBERNETES, ROOT, SITES, Object, Tool, container, named, workloads

Render = Callable[..., list[Object]]
CUSTOM = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")


def test_helm_lints_the_chart_with_every_values_file(helm: Tool) -> None:
    for site in SITES:
        helm("lint", "--strict", CHART, "--kube-version", KUBERNETES, "--values", CHART / "ci" / f"{site}.yaml")


@pytest.mark.parametrize("site", SITES)
def test_every_core_object_fits_the_schema_of_kubernetes(render: Render, site: str) -> None:
    objects = [o for o in render(site) if o["apiVersion"] not in CUSTOM]
    for found in objects:
        kubernetes_validate.validate(found, "1.35", strict=True)
    assert {"StatefulSet", "Service", "ConfigMap", "NetworkPolicy", "ServiceAccount"} <= {o["kind"] for o in objects}


def test_custom_resources_fit_the_schemas_of_keda_and_the_prometheus_operator(render: Render) -> None:
    node = shutil.which("node")
    if node is None or not (CACHE / "npm" / "node_modules").exists():
        absent("node or the schemas are not here: tests/cluster/tools schemas")
    objects = [o for o in render("cluster") if o["apiVersion"] in CUSTOM]
    assert {o["kind"] for o in objects} == {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule"}

    def judge(these: list[Object]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [node, Path(__file__).with_name("custom_resources.mjs"), CACHE / "npm"],
            input=json.dumps(these), capture_output=True, text=True, check=False,
        )  # fmt: skip

    whole = judge(objects)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    wrong = json.loads(json.dumps(objects))
    named(wrong, "ScaledObject", "work")["spec"]["maxReplicaCount"] = "many"
    assert "maxReplicaCount must be integer" in judge(wrong).stdout


@pytest.mark.parametrize("site", SITES)
def test_ichor_takes_the_configuration_of_every_role(render: Render, site: str, tmp_path: Path) -> None:
    text = named(render(site), "ConfigMap", "ichor")["data"]["ichor.toml"]
    (tmp_path / "ichor.toml").write_text(text)
    pods = workloads(render(site))
    assert set(pods) == ({"serve"} if site == "single" else set(COMMANDS))
    for role, pod in pods.items():
        inside = container(pod)
        assert inside["args"] == [role, "--config", "/etc/ichor/ichor.toml"]
        # What a field or a Secret gives is a name of some kind.
        environ = {e["name"]: e.get("value", "some-name-0") for e in inside["env"]}
        settings = config.load(tmp_path / "ichor.toml", environ=environ)
        assert settings.data == Path("/var/lib/ichor")
        assert settings.bus.url.partition(":")[0] == ("sqlite" if site == "single" else "kafka")
        mounted = [m["mountPath"] for m in inside["volumeMounts"]]
        assert "/var/lib/ichor" in mounted
        assert (settings.store.url == "file:/mnt/ichor") == ("/mnt/ichor" in mounted)


def test_awkward_values_reach_ichor_as_they_are(render: Render, tmp_path: Path) -> None:
    text = named(render("cluster"), "ConfigMap", "ichor")["data"]["ichor.toml"]
    (tmp_path / "ichor.toml").write_text(text)
    settings = config.load(tmp_path / "ichor.toml", environ={"ICHOR_BUS__KAFKA__USERNAME": "ichor"})
    assert settings.destinations[1].ae_title == "R&D <1>"
    assert settings.senders[1].ae_title == "1234"
    assert settings.rules[0].usable[0].value == 120.5
    assert settings.listener.disk_low == 2_000_000_000
    assert settings.listener.tls is not None


def test_a_long_release_name_still_names_receivers(helm: Tool) -> None:
    release = "a-release.with-the-longest-name-that-helm-lets-any-1"
    text = helm("template", release, CHART, "--kube-version", KUBERNETES, "--values", CHART / "ci" / "small.yaml")
    name = named([o for o in yaml.safe_load_all(text) if o], "StatefulSet", "-receive")["metadata"]["name"]
    assert config.load(environ={"ICHOR_STORE__RECEIVER": f"{name}-99"}).store.receiver == f"{name}-99"


def test_every_file_that_the_settings_name_is_mounted(render: Render) -> None:
    text = named(render("cluster"), "ConfigMap", "ichor")["data"]["ichor.toml"]
    files = set(re.findall(r'"/etc/ichor/([^"]+)"', text))
    assert files == {
        "console-token", "stow-token", "tls/tls.crt", "tls/tls.key", "tls/ca.crt",
        "kafka/ca.crt", "kafka/tls.crt", "kafka/tls.key", "kafka/password",
    }  # fmt: skip
    pods = workloads(render("cluster"))
    for role, pod in pods.items():
        (sources,) = [v["projected"]["sources"] for v in pod["volumes"] if v["name"] == "config"]
        paths = {item["path"] for source in sources for item in source.get("secret", {}).get("items", ())}
        of_receivers = {"stow-token", "tls/tls.crt", "tls/tls.key", "tls/ca.crt"}
        assert paths == (files if role == "receive" else files - of_receivers)
    assert {"name": "passcodes", "mountPath": "/run/passcodes", "readOnly": True} in container(pods["receive"])[
        "volumeMounts"
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["assemble.shards=0"], "minimum: got 0, want 1"),
        (["store.url=s3://images", "assemble.replicas=2"], "assemble.replicas: 1 where store.url is set"),
        (["settings.assemble.shards=4"], "'shards' not allowed"),
        (["settings.listener.prot=104"], "'prot' not allowed"),
        (["settings.bus.url=sqlite:"], "'url' not allowed"),
        (["settings.data=/tmp"], "'data' not allowed"),
        (["recieve.replicas=2"], "'recieve' not allowed"),
        (["store.url=file:/elsewhere"], "does not match pattern"),
        (["settings.listener.durability=none"], "settings.listener.durability: instance in mode cluster"),
        (["settings.senders=null"], "settings.senders: required"),
        (["secrets.consoleToken.name="], "secrets.consoleToken.name: required"),
        (["kafka.brokers=null"], "kafka.brokers: required"),
        (["mode=single", "receive.replicas=2"], "receive.replicas: 1 in mode single"),
        (["receive.stow.enabled=true"], "receive.stow.token.name: required"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(helm: Tool, values: list[str], words: str) -> None:
    flags = [flag for value in values for flag in ("--set", value)]
    said = helm(
        "template", "site", CHART, "--kube-version", KUBERNETES, "--values", CHART / "ci" / "small.yaml", *flags,
        fails=True,
    )  # fmt: skip
    assert words in said


def test_the_schema_knows_the_settings_of_this_ichor() -> None:
    sys.path.insert(0, str(ROOT / "helm"))
    try:
        from values_schema import CHART as SET_BY_CHART
        from values_schema import settings_schema
    finally:
        sys.path.pop(0)
    written = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    assert written == settings_schema(), "python helm/values_schema.py"
    for key in SET_BY_CHART:  # of which none may be a name that is gone
        node: object = config.Settings
        for part in key.split("."):
            fields = getattr(node, "model_fields", {})
            assert part in fields, key
            node = next((a for a in (fields[part].annotation, *getattr(fields[part].annotation, "__args__", ())) if hasattr(a, "model_fields")), None)  # fmt: skip


@pytest.mark.parametrize("site", SITES)
def test_no_container_is_root_or_writes_to_its_image(render: Render, site: str) -> None:
    for pod in workloads(render(site)).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # ICHOR_CONSOLE_PORT would be taken for a setting
        for inside in pod["containers"]:
            security = inside["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert inside["resources"]["limits"]["memory"]
            assert inside["livenessProbe"]


def test_probes_ask_for_ready_files_that_roles_write(render: Render) -> None:
    for role, pod in workloads(render("cluster")).items():
        if role == "console":
            continue
        words = container(pod)["readinessProbe"]["exec"]["command"][2]
        asked = re.search(r"in (.+?);", words)
        assert asked is not None
        assert tuple(asked[1].split()) == COMMANDS[role]
        # Never a ready file of an earlier pod, whose number another process has now.
        mounts = {m["mountPath"]: m["name"] for m in container(pod)["volumeMounts"]}
        holder = mounts.get("/var/lib/ichor/run", mounts["/var/lib/ichor"])
        assert holder in [v["name"] for v in pod["volumes"] if "emptyDir" in v]


def test_what_keeps_state_has_a_volume_that_stays(render: Render) -> None:
    objects = render("cluster")
    spec = named(objects, "StatefulSet", "receive")["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["data"]
    store = named(objects, "PersistentVolumeClaim", "store")
    assert store["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert store["spec"]["accessModes"] == ["ReadWriteMany"]
    assert not [o for o in render("small") if o["kind"] == "PersistentVolumeClaim"]  # there is one already


def test_assemblers_share_shards_on_the_volume_that_all_have(render: Render) -> None:
    objects = render("cluster")
    assert named(objects, "Deployment", "assemble")["spec"]["replicas"] == 2
    assert "shards = 16" in named(objects, "ConfigMap", "ichor")["data"]["ichor.toml"]
    pod = workloads(objects)["assemble"]
    assert "/mnt/ichor" in [m["mountPath"] for m in container(pod)["volumeMounts"]]
    assert {v["name"] for v in pod["volumes"] if "emptyDir" in v} >= {"data"}
    assert "shards" not in named(render("single"), "ConfigMap", "ichor")["data"]["ichor.toml"]


def test_without_a_shared_volume_one_assembler_keeps_its_own(helm: Tool) -> None:
    text = helm(
        "template", "site", CHART, "--kube-version", KUBERNETES, "--values", CHART / "ci" / "small.yaml", "--set",
        "store.url=s3://images",
    )  # fmt: skip
    objects = [o for o in yaml.safe_load_all(text) if o]
    spec = named(objects, "StatefulSet", "assemble")["spec"]
    assert spec["replicas"] == 1
    assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["data"]
    assert "shards = 1\n" in named(objects, "ConfigMap", "ichor")["data"]["ichor.toml"]


def test_a_receiver_has_time_to_tell_what_it_received(render: Render) -> None:
    pod = workloads(render("cluster"))["receive"]
    command = container(pod)["lifecycle"]["preStop"]["exec"]["command"][2]
    pause, wait = re.fullmatch(r"sleep (\d+); ichor told --wait (\d+)s --config \S+ \|\| true", command).groups()  # type: ignore[union-attr]
    # docs/contract.md: SIGTERM drains within 10 s
    assert pod["terminationGracePeriodSeconds"] >= int(pause) + int(wait) + 10


def test_keda_asks_for_the_lag_of_the_topics_that_workers_read(render: Render) -> None:
    from ichor.messages import jobs_topic
    from ichor.pipeline import installed_names
    from ichor.types import Priority

    objects = render("cluster")
    spec = named(objects, "ScaledObject", "work")["spec"]
    assert spec["scaleTargetRef"]["name"] == named(objects, "Deployment", "work")["metadata"]["name"]
    asked = {t["metadata"]["topic"]: t["metadata"] for t in spec["triggers"]}
    lanes = (Priority.STAT, Priority.ROUTINE)
    assert set(asked) == {f"ichor.{jobs_topic(name, lane)}" for name in installed_names() for lane in lanes}
    for trigger in asked.values():
        assert trigger["consumerGroup"] == "ichor.work"
        assert trigger["allowIdleConsumers"] == "true"
        assert trigger["sasl"] == "scram_sha512"
    assert "replicas" not in named(objects, "Deployment", "work")["spec"]
    given = named(objects, "TriggerAuthentication", "kafka")["spec"]["secretTargetRef"]
    assert {one["parameter"] for one in given} == {"username", "password", "ca", "cert", "key"}


def test_without_keda_workers_follow_the_cpu(render: Render) -> None:
    objects = render("small")
    assert named(objects, "HorizontalPodAutoscaler", "work")["spec"]["maxReplicas"] == 4
    assert not [o for o in objects if o["apiVersion"] in CUSTOM]


def test_a_gpu_worker_asks_for_its_device_and_its_node(render: Render) -> None:
    pod = workloads(render("cluster"))["work"]
    assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container(pod)["image"] == "registry.example.org/ichor-gpu:0.1.0"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert pod["runtimeClassName"] == "nvidia"
    assert "nvidia.com/gpu" in {t["key"] for t in pod["tolerations"]}
    others = [p for role, p in workloads(render("cluster")).items() if role != "work"]
    assert not any("nvidia" in json.dumps(p) for p in others)


def test_network_policies_let_out_only_what_a_role_needs(render: Render) -> None:
    def out(role: str) -> list[tuple[tuple[int, ...], str | None]]:
        rules = named(render("cluster"), "NetworkPolicy", f"-{role}")["spec"]["egress"]
        return [
            (tuple(sorted({p["port"] for p in r["ports"]})), r["to"][0]["ipBlock"]["cidr"] if "to" in r else None)
            for r in rules
        ]

    every = [((53,), None), ((9094,), None)]
    assert out("work") == out("assemble") == out("console") == every
    assert out("send") == [*every, ((104,), "10.1.2.9/32"), ((4242,), None)]
    assert out("receive") == [*every, ((104,), "10.1.2.3/32")]  # reports of storage commitment
    into = named(render("cluster"), "NetworkPolicy", "-receive")["spec"]["ingress"][0]
    assert into == {"ports": [{"port": "dicom"}, {"port": "stow"}], "from": [{"ipBlock": {"cidr": "10.1.2.0/24"}}]}


def test_only_roles_with_a_second_pod_have_a_disruption_budget(render: Render) -> None:
    def roles(site: str) -> set[str]:
        budgets = [o for o in render(site) if o["kind"] == "PodDisruptionBudget"]
        return {o["metadata"]["labels"]["app.kubernetes.io/component"] for o in budgets}

    assert roles("cluster") == {"receive", "assemble", "work", "send", "console"}
    assert roles("small") == {"work"}
    assert roles("single") == set()


def test_every_pod_is_scraped_and_reached_by_the_names_it_has(render: Render) -> None:
    for site in SITES:
        objects = render(site)
        for found in (o for o in objects if o["kind"] == "Service"):
            wanted = found["spec"]["selector"].items()
            pods = [
                o["spec"]["template"] for o in objects
                if o["kind"] in ("Deployment", "StatefulSet") and wanted <= o["spec"]["template"]["metadata"]["labels"].items()
            ]  # fmt: skip
            assert pods, found["metadata"]["name"]
            for pod in pods:
                ports = {p["name"] for c in pod["spec"]["containers"] for p in c.get("ports", ())}
                assert {p["targetPort"] for p in found["spec"]["ports"]} <= ports
    rendered = render("cluster")
    monitor = named(rendered, "ServiceMonitor", "ichor")["spec"]
    labels = monitor["selector"]["matchLabels"].items()
    assert [o["metadata"]["name"] for o in rendered if o["kind"] == "Service" and labels <= o["metadata"]["labels"].items()] == ["site-ichor-pods"]  # fmt: skip
