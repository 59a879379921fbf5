"""The manifests: valid to the letter of the API, and in agreement with one another and with the agent."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from pomerium_agent.settings import read_settings

K8S = Path(__file__).parents[3] / "k8s"
VERSIONS = ("1.29", "1.37")  # the oldest that is looked at, and the newest that the schemas are of


def documents(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((K8S / folder).glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] not in ("Kustomization", "Component"):
                yield f"{folder}/{path.name}:{document['kind']}", document


BASE = {document["kind"]: document for _, document in documents("base")}
METRICS = {document["kind"]: document for _, document in documents("metrics")}
POD = BASE["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
ENV: Mapping[str, str] = {entry["name"]: entry.get("value", "somewhere") for entry in CONTAINER["env"]}
MOUNTS = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
SECRETS = {v["name"]: v["secret"]["secretName"] for v in POD["volumes"] if "secret" in v}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "document",
    [pytest.param(d, id=name) for folder in ("base", "example") for name, d in documents(folder)]
    + [pytest.param(METRICS["NetworkPolicy"], id="metrics/networkpolicy.yaml")],
)
def test_every_document_is_what_the_api_takes(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here: install it, and overlays are built by it")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("components", [(), ("metrics",), ("postgresql",), ("metrics", "postgresql")], ids="+".join)
def test_an_overlay_with_components_becomes_what_the_api_takes(
    components: tuple[str, ...], version: str, tmp_path: Path
) -> None:
    built = built_overlay(components, tmp_path)
    (deployment,) = (document for document in built if document["kind"] == "Deployment")
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}

    for document in built:
        kubernetes_validate.validate(document, version, strict=True)
    assert {document["metadata"].get("namespace", "pomerium") for document in built} == {"pomerium"}
    assert ports == {"https", "https-udp", "http", "health"} | ({"metrics"} & set(components))


def built_overlay(components: tuple[str, ...], tmp_path: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send, for an overlay as the example is, with these components."""
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "example"
    said = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    said["components"] = [f"../{component}" for component in components]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(said))
    (overlay / "token").write_text("a-token")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, timeout=30, check=True)
    return list(yaml.safe_load_all(done.stdout))


def test_the_schemas_would_tell() -> None:
    broken = BASE["Service"] | {"spec": BASE["Service"]["spec"] | {"ports": [{"port": "https", "portt": 443}]}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", ["base", "example", "metrics", "postgresql"])
def test_a_kustomization_names_files_that_are_there_and_all_of_them(folder: str) -> None:
    said = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text())
    named = said.get("resources", []) + [patch["path"] for patch in said.get("patches", [])]

    assert all((K8S / folder / name).exists() for name in named)
    there = {path.name for path in (K8S / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert there == {name for name in named if not name.startswith("..")}


def test_the_agent_can_work_with_what_it_is_told(tmp_path: Path) -> None:
    """Z-28, W6: the variables of the pod pass the checks of a start, and the secret they write is the one they may."""
    namespace = "pomerium"
    environ = {name: value.replace("$(POD_NAMESPACE)", namespace) for name, value in ENV.items()}
    token = tmp_path / "token"
    token.write_text("a-token\n")
    settings = read_settings(environ | {"POMERIUM_ZERO_TOKEN_FILE": str(token)})

    (rule,) = BASE["Role"]["rules"]
    assert settings.bootstrap_writeback == f"secret://{namespace}/{rule['resourceNames'][0]}/bootstrap.dat"
    assert BASE["Secret"]["metadata"]["name"] == rule["resourceNames"][0]
    assert sorted(rule["verbs"]) == ["get", "patch"]
    assert BASE["RoleBinding"]["subjects"][0]["name"] == POD["serviceAccountName"]
    assert POD["automountServiceAccountToken"] is True


def test_a_pod_is_given_time_for_its_leave() -> None:
    drain = sum(int(ENV[f"POMERIUM_AGENT_DRAIN_{part}"]) for part in ("NOTICE", "SECONDS"))

    assert POD["terminationGracePeriodSeconds"] > drain + 20


def test_files_that_the_agent_reads_are_mounted_where_it_looks() -> None:
    for variable in ("POMERIUM_ZERO_TOKEN_FILE", "BOOTSTRAP_CONFIG_FILE"):
        assert str(Path(ENV[variable]).parent) in MOUNTS
    assert SECRETS[MOUNTS[str(Path(ENV["BOOTSTRAP_CONFIG_FILE"]).parent)]] == BASE["Secret"]["metadata"]["name"]
    generated = yaml.safe_load((K8S / "example/kustomization.yaml").read_text())["secretGenerator"][0]
    assert SECRETS[MOUNTS[str(Path(ENV["POMERIUM_ZERO_TOKEN_FILE"]).parent)]] == generated["name"]
    assert generated["files"][0].partition("=")[0] == Path(ENV["POMERIUM_ZERO_TOKEN_FILE"]).name


def test_ports_probes_and_selectors_meet() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {
        int(ENV[name].rpartition(":")[2]) for name in ("ADDRESS", "HTTP_REDIRECT_ADDR", "HEALTH_CHECK_ADDR")
    } == set(ports.values())
    assert all(port > 1023 for port in ports.values())
    assert {port["targetPort"] for port in BASE["Service"]["spec"]["ports"]} == {"https", "http"}
    allowed = BASE["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    assert {port["port"] for port in allowed} == {"https", "https-udp", "http"}
    assert {port["port"]: port.get("protocol", "TCP") for port in allowed} == {
        port["name"]: port.get("protocol", "TCP") for port in CONTAINER["ports"] if port["name"] != "health"
    }
    assert [CONTAINER[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")] == [
        "/startupz",
        "/readyz",
        "/healthz",
    ]
    labels = BASE["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert BASE["Service"]["spec"]["selector"] == labels
    for kind, place in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert BASE[kind]["spec"][place]["matchLabels"] == labels


def test_metrics_are_off_until_asked_for_and_then_for_one_namespace() -> None:
    assert "METRICS_ADDRESS" not in ENV
    template = METRICS["Deployment"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    annotations = template["metadata"]["annotations"]
    policy = METRICS["NetworkPolicy"]
    (rule,) = policy["spec"]["ingress"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    settings = read_settings({"POMERIUM_ZERO_TOKEN": "a-token"} | environ)

    assert container["name"] == CONTAINER["name"]
    assert settings.local.metrics_address == f":{port['containerPort']}"
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert port["containerPort"] not in {taken["containerPort"] for taken in CONTAINER["ports"]}
    assert rule["ports"] == [{"port": port["name"]}]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert policy["spec"]["podSelector"] == BASE["NetworkPolicy"]["spec"]["podSelector"]
    assert policy["metadata"]["name"] != BASE["NetworkPolicy"]["metadata"]["name"]


def test_the_pod_meets_the_restricted_standard() -> None:
    """What `pod-security.kubernetes.io/enforce: restricted` asks for, and a root that stays as it is."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] > 0
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_no_secret_stands_in_a_manifest() -> None:
    assert "data" not in BASE["Secret"]
    assert "stringData" not in BASE["Secret"]
