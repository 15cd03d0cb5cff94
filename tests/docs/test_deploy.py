"""What lies in deploy/ is right as far as it can be checked without the engines it is for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from installing import install, lend_packages, new_environment

from spyglass.keys.keyring import Keyring
from testbed.fleet import STAND_IN
from testbed.processes import PATIENCE, ROOT, Processes, eventually, free_port

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
MANIFESTS = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
RESOURCES: list[dict[str, Any]] = [
    part for path in MANIFESTS for part in yaml.safe_load_all(path.read_text())
]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
#: Of 100; what systemd itself calls well protected begins below 20.
EXPOSURE = 20
#: Seconds a part may drain, and has to leave after that.
DRAIN, LEAVE = 10, 5

on_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd is not installed"
)


def run(*command: str | Path, **more: Any) -> str:
    """What a command says; it must succeed."""
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )
    output: str = ended.stdout
    assert ended.returncode == 0, output
    return output


def tool(name: str) -> str:
    """A program that pip installed."""
    return str(Path(sys.executable).parent / name)


# --- the image --------------------------------------------------------------------------------


def copied() -> list[str]:
    """What the Dockerfile takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
    return [word for line in lines for word in line.split()]


def test_the_dockerfile_passes_its_linter() -> None:
    run(tool("hadolint"), DEPLOY / "Dockerfile")


def test_what_the_image_copies_is_let_through_to_the_engine() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    for pattern in copied():
        assert list(ROOT.glob(pattern)), pattern
        assert any(fnmatch(pattern, line[1:]) for line in ignore[1:]), pattern


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands that the image has, installed from what it copies."""
    folder = tmp_path_factory.mktemp("image")
    for pattern in copied():
        for path in ROOT.glob(pattern):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    python = new_environment(folder / "opt" / "spyglass")
    lend_packages(python)
    install(python, "--no-deps", "--no-build-isolation", folder)
    return python.parent


def test_the_image_starts_a_command_that_it_has(image: Path) -> None:
    (words,) = re.findall(r'^CMD (\["spyglass.*)$', DOCKERFILE, re.M)
    command, program = json.loads(words)
    assert f"spyglass {program}" in run(image / command, program, "--help", cwd=image)


@pytest.mark.parametrize("program", ["broker", "worker", "keys"])
def test_each_program_runs_from_what_the_image_has(program: str, image: Path) -> None:
    assert f"spyglass {program}" in run(image / "spyglass", program, "--help", cwd=image)


def test_the_web_serves_its_pages_from_what_the_image_has(image: Path, tmp_path: Path) -> None:
    port = free_port()
    with Processes(cwd=tmp_path) as processes:
        processes.start_command(str(image / "spyglass"), "web", "--port", str(port))
        for path in ("livez", "", "static/style.css"):
            url = f"http://127.0.0.1:{port}/{path}"
            eventually(partial(answers, url), f"{url} is there")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_image_installs_what_the_product_needs() -> None:
    assert "COPY requirements.txt ./" in DOCKERFILE
    assert "-r requirements.txt" in DOCKERFILE


# --- compose ----------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    """The file with its variables at their defaults, as an engine reads it."""
    text = (DEPLOY / "compose.yaml").read_text()
    return dict(yaml.safe_load(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)))


def test_the_compose_file_fits_its_specification() -> None:
    from compose_spec import PyCompose

    PyCompose.from_yaml(yaml.safe_dump(compose())).validate()


def test_every_container_is_locked_down_and_has_time_to_drain() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["stop_grace_period"] == f"{DRAIN + LEAVE}s", name
        assert not service["user"].startswith("0"), name


def test_the_commands_of_the_compose_file_form_an_encrypted_fleet(
    image: Path, tmp_path: Path
) -> None:
    """Run here rather than in containers, with a stand-in for the model."""
    front, back, port = free_port(), free_port(), free_port()
    keys = tmp_path / "keys"
    run(sys.executable, "keys.py", "init", "--keys", keys, cwd=ROOT)
    for way, at in (("join", back), ("front", front)):
        where: list[str | Path] = ["--keys", keys, "--address", f"tcp://127.0.0.1:{at}"]
        line = run(sys.executable, "keys.py", way, *where, cwd=ROOT)
        (keys / way).write_text(line.split("'")[1])
    moved = {"/keys": str(keys), "$$": "$"}
    moved["spyglass worker"] = f"{sys.executable} {STAND_IN}"
    moved["spyglass"] = str(image / "spyglass")
    for name, secret in compose()["secrets"].items():
        moved[f"/run/secrets/{name}"] = str(keys / Path(secret["file"]).name)

    def here(word: str) -> str:
        return re.sub("|".join(map(re.escape, moved)), lambda found: moved[found[0]], word)

    ends = {"FRONTEND": f"tcp://127.0.0.1:{front}", "BACKEND": f"tcp://127.0.0.1:{back}"}
    ends |= {"PORT": str(port), "ENCRYPT": "always"}  # as beyond loopback
    common = {f"SPYGLASS_{name}": value for name, value in ends.items()}
    with Processes(grace=PATIENCE) as running:
        for service in compose()["services"].values():
            own = {name: here(value) for name, value in service["environment"].items()}
            words = [here(word) for word in service["command"]]
            running.start_command(*words, env=os.environ | common | own)
        eventually(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "a worker is ready")


# --- systemd ----------------------------------------------------------------------------------


@pytest.fixture
def units(image: Path, tmp_path: Path) -> list[Path]:
    """The units, as if Spyglass were installed where they look for it."""
    for unit in UNITS:
        text = unit.read_text().replace("/opt/spyglass/bin", str(image))
        (tmp_path / unit.name).write_text(text)
    return sorted(tmp_path.glob("*.service"))


@on_systemd
def test_systemd_understands_every_word_of_the_units(units: list[Path]) -> None:
    assert len(units) == 3
    assert run("systemd-analyze", "verify", "--man=no", *units) == ""


@on_systemd
def test_the_units_are_well_protected(units: list[Path]) -> None:
    for unit in units:
        run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", unit)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_waits_for_the_drain(unit: Path) -> None:
    assert f"TimeoutStopSec={DRAIN + LEAVE}\n" in unit.read_text()


# --- kubernetes -------------------------------------------------------------------------------


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {r["metadata"]["name"]: r for r in RESOURCES if r["kind"] == kind}


def label(resource: dict[str, Any]) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


@pytest.mark.parametrize(
    "resource", [r for r in RESOURCES if r["kind"] != "ScaledObject"], ids=label
)
def test_a_manifest_fits_the_schema_of_kubernetes(resource: dict[str, Any]) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(resource, "1.37", strict=True)


def test_the_scaling_fits_the_schema_of_keda() -> None:
    """KEDA's models ignore what they do not know, so what they know must be all there is."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject

    (given,) = of_kind("ScaledObject").values()
    known = ScaledObject.model_validate(given).model_dump(by_alias=True, exclude_none=True)
    assert known["spec"] == given["spec"]
    assert known["apiVersion"] == given["apiVersion"]


def test_the_scaling_asks_for_a_metric_that_exists_and_scales_what_exists() -> None:
    (scaled,) = of_kind("ScaledObject").values()
    metric = re.findall(r"spyglass_\w+", scaled["spec"]["triggers"][0]["metadata"]["query"])
    assert metric
    source = (ROOT / "spyglass" / "web" / "fleet_metrics.py").read_text()
    assert all(f'"{name}"' in source for name in metric)
    assert scaled["spec"]["scaleTargetRef"]["name"] in of_kind("Deployment")


def test_every_selector_finds_the_pods_of_a_deployment() -> None:
    pods = [d["spec"]["template"]["metadata"]["labels"] for d in of_kind("Deployment").values()]
    for resource in RESOURCES:
        spec = resource.get("spec", {})
        match resource["kind"]:
            case "Service":
                assert spec["selector"] in pods
            case "NetworkPolicy":
                assert spec["podSelector"]["matchLabels"] in pods
            case "Deployment" | "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"] in pods


def test_probes_ask_routes_and_ports_that_exist() -> None:
    web = ROOT / "spyglass" / "web"
    routes = (web / "api" / "openapi.py").read_text() + (web / "pages.py").read_text()
    for name, deployment in of_kind("Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [probe for key, probe in container.items() if key.endswith("Probe")]
        assert bool(probes) == bool(ports), name
        for probe in probes:
            ask = probe.get("httpGet") or probe["tcpSocket"]
            assert ask["port"] in ports
            assert f'"{ask.get("path", "/livez")}"' in routes


def test_the_broker_takes_the_keys_as_they_are_laid_out_for_it(tmp_path: Path) -> None:
    """Secrets are mounted for others to read, and volumes for others to write."""
    secret, volume = tmp_path / "secret", tmp_path / "volume"
    made = Keyring.create(secret)
    volume.mkdir()
    for path in [volume, *secret.iterdir()]:
        path.chmod(0o777)
    pod = of_kind("Deployment")["spyglass-broker"]["spec"]["template"]["spec"]
    shell, flag, words = pod["initContainers"][0]["command"]
    run(shell, flag, words.replace("/secret", str(secret)).replace("/keys", str(volume)))
    folder = pod["containers"][0]["env"][0]["value"].replace("/keys", str(volume))
    assert Keyring.open(Path(folder)).public == made.public


def test_every_pod_may_drain_and_is_locked_down() -> None:
    for deployment in of_kind("Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        stop = container.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        sleep = stop["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] == sleep + DRAIN + LEAVE
        assert pod["securityContext"]["runAsNonRoot"]
        for each in [container, *pod.get("initContainers", [])]:
            assert each["securityContext"]["readOnlyRootFilesystem"]
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in each["resources"]["limits"]


def test_the_settings_in_pods_containers_and_units_exist() -> None:
    known = {"SPYGLASS_BROKERS", "SPYGLASS_ADMIN_TOKEN"}
    for words in (["broker.py"], ["worker.py"], ["web.py"], ["keys.py", "join"]):
        flags = re.findall(r"--([a-z-]+)", run(sys.executable, *words, "--help", cwd=ROOT))
        known |= {"SPYGLASS_" + flag.upper().replace("-", "_") for flag in flags}
    for path in [*MANIFESTS, *UNITS, DEPLOY / "compose.yaml", DEPLOY / "Dockerfile"]:
        for name in re.findall(r"SPYGLASS_[A-Z_]*[A-Z]", path.read_text()):
            assert name in known, f"{name} in {path.name}"


# --- ray --------------------------------------------------------------------------------------


def test_a_fleet_on_ray_without_ray_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['ray'] = None; from deploy import ray_fleet;"
        " sys.exit(ray_fleet.main([]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "pip install -r deploy/requirements-ray.txt" in ended.stderr
