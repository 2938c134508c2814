"""deploy/: what the manifests give the agent, and the values of the chart.

That the chart makes the same objects as the Kustomize base is a test of tests/cluster.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy_init import __version__
from proxy_init.cli import node
from proxy_init.config.read import read_config
from proxy_init.kernel.system.host import Host

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy/base"
CHART = ROOT / "deploy/helm"

Object = dict[str, Any]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(name="pod")
def pod_of_the_agent() -> Object:
    """The agent's pod, as its DaemonSet has it."""
    pod: Object = read(BASE / "daemonset.yaml")["spec"]["template"]["spec"]
    return pod


@pytest.fixture(name="agent")
def the_agent(pod: Object) -> Object:
    """Its only container."""
    (container,) = pod["containers"]
    assert isinstance(container, dict)
    return container


def test_the_base_is_a_namespace_and_a_daemonset() -> None:
    """No service account, and no right at the API server."""
    assert read(BASE / "kustomization.yaml")["resources"] == ["namespace.yaml", "daemonset.yaml"]
    namespace, daemonset = read(BASE / "namespace.yaml"), read(BASE / "daemonset.yaml")
    assert (namespace["kind"], daemonset["kind"]) == ("Namespace", "DaemonSet")
    assert daemonset["metadata"]["namespace"] == namespace["metadata"]["name"]
    assert daemonset["spec"]["selector"]["matchLabels"].items() <= (
        daemonset["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_agent_has_the_privileges_that_the_page_about_security_names(
    pod: Object, agent: Object
) -> None:
    table = (ROOT / "docs/security.md").read_text().partition("## What it reads")[0]
    documented = re.findall(r"^\| `([A-Z_]+)` \|", table, flags=re.M)
    assert agent["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": documented},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"serviceAccountName", "hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_of_the_node_it_has_two_directories_that_it_cannot_write_to(
    pod: Object, agent: Object
) -> None:
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    mounts = agent["volumeMounts"]
    assert {mount["mountPath"]: volumes[mount["name"]] for mount in mounts} == {
        str(Path(node.PODS_OPTIONS[0].default).parent): "/run/nri",
        "/run/netns": "/run/netns",
    }
    assert all(mount["readOnly"] for mount in mounts)


def test_its_arguments_are_flags_of_the_command(agent: Object) -> None:
    command, *words = agent["args"]
    assert command == "node"
    config = read_config(words, {}, Host(), node.OPTIONS)
    (port,) = agent["ports"]
    assert config.own["http_port"].text == str(port["containerPort"])
    for probe in (agent["readinessProbe"], agent["livenessProbe"]):
        assert probe["httpGet"]["port"] == port["name"]


def test_image_and_chart_have_the_version_of_the_program(agent: Object) -> None:
    chart = read(CHART / "Chart.yaml")
    assert agent["image"].rpartition(":")[2] == __version__
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


# Values of the chart.


def leaves(values: Object, prefix: str = "") -> dict[str, object]:
    """The values by their names, as --set takes them; those that are lists or maps as a whole."""
    found: dict[str, object] = {}
    for name, value in values.items():
        if name in ("namespace", "image", "metrics"):
            found |= leaves(value, f"{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def test_the_page_lists_the_values_of_the_chart_with_their_defaults() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| `(.*?)` \|", (ROOT / "docs/node.md").read_text(), flags=re.M
    )
    assert {name: yaml.safe_load(default) for name, default in rows} == leaves(
        read(CHART / "values.yaml")
    )


def test_every_value_is_in_a_template() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = set(re.findall(r"\.Values\.([\w.]+)", text))
    assert used == set(leaves(read(CHART / "values.yaml")))


def test_the_schema_takes_the_defaults() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(read(CHART / "values.yaml"), schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flag": []},
        {"flags": "-x 10.0.0.0/8"},
        {"flags": [8080]},
        {"image": "registry.example.com/proxy-init:0.1.0"},
        {"image": {"repository": "proxy-init", "version": "0.1.0"}},
        {"image": {"repository": "proxy-init", "pullPolicy": "Sometimes"}},
        {"httpPort": "15014"},
        {"httpPort": 0},
        {"httpPort": 65536},
        {"metrics": {"enabled": True}},
        {"metrics": {"scrape": "true"}},
        {"resources": {"memory": "64Mi"}},
        {"imagePullSecrets": ["registry"]},
        {"tolerations": {"operator": "Exists"}},
        {"nodeSelector": ["kubernetes.io/os=linux"]},
        {"maxSurge": 0},
        {"maxSurge": "10"},
        {"maxSurge": "0%"},
        {"namespace": "proxy-init"},
        {"namespace": {"name": "proxy-init", "create": "yes"}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_is_no_value(wrong: Object) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = read(CHART / "values.yaml") | wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema)
