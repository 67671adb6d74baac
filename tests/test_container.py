"""The container files as data, and what their linters say."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
FINAL = DOCKERFILE.rpartition("\nFROM ")[2]


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


@pytest.mark.parametrize("instruction", ["ENTRYPOINT", "CMD", "HEALTHCHECK .*CMD"])
def test_commands_are_in_exec_form(instruction: str) -> None:
    found = re.search(rf"^{instruction} +(\[.*\])$", FINAL, re.MULTILINE)
    assert found, instruction
    assert all(isinstance(word, str) for word in json.loads(found[1]))


def test_the_image_runs_as_nobody_and_holds_no_build_tools() -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", FINAL, re.MULTILINE)
    assert user
    assert all(int(part) > 0 for part in user[-1])
    assert not re.search(r"^ADD |curl|wget", DOCKERFILE, re.MULTILINE)
    assert not re.search(r"^RUN ", FINAL, re.MULTILINE)
    assert re.search(r"^ARG BASE=python:\d+\.\d+\.\d+-slim", DOCKERFILE, re.MULTILINE)
    assert '--torch-backend="${TORCH_BACKEND}"' in DOCKERFILE


@pytest.mark.parametrize("name", ["lamina", "lamina-gpu"])
def test_compose_leaves_no_rights_and_time_to_drain(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["mem_limit"] == service["memswap_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s * 1000 > Settings().drain_grace_ms


@pytest.mark.parametrize("name", ["lamina", "lamina-gpu"])
def test_compose_takes_settings_from_a_file(name: str) -> None:
    assert services()[name]["env_file"] == [{"path": "lamina.env", "required": False}]


def default_environment() -> dict[str, str]:
    """What compose reads from the `.env` beside its file."""
    lines = (ROOT / ".env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def started(*profiles: str, **environment: str) -> set[str]:
    """The services that `docker compose --profile ... up` starts.

    Flags replace COMPOSE_PROFILES, the environment's wins over that of `.env`
    (compose-go's `WithOsEnv`, `WithDotEnv`, `WithDefaultProfiles`), and services without profiles
    always start (`HasProfile`).
    """
    named = (default_environment() | environment).get("COMPOSE_PROFILES", "")
    active = set(profiles) or {name.strip() for name in named.split(",")}
    return {
        name
        for name, service in services().items()
        if not service.get("profiles") or "*" in active or active & set(service["profiles"])
    }


@pytest.mark.parametrize(
    ("profiles", "environment", "expected"),
    [
        ([], {}, {"lamina"}),
        (["gpu"], {}, {"lamina-gpu"}),
        (["cpu"], {}, {"lamina"}),
        (["cpu", "gpu"], {}, {"lamina", "lamina-gpu"}),
        ([], {"COMPOSE_PROFILES": "gpu"}, {"lamina-gpu"}),
        ([], {"COMPOSE_PROFILES": "cpu, gpu"}, {"lamina", "lamina-gpu"}),
        (["gpu"], {"COMPOSE_PROFILES": "cpu"}, {"lamina-gpu"}),
        (["*"], {}, {"lamina", "lamina-gpu"}),
    ],
)
def test_compose_starts_what_is_asked_for(
    profiles: list[str], environment: dict[str, str], expected: set[str]
) -> None:
    assert started(*profiles, **environment) == expected


def test_every_service_listens_where_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text()
    told = re.findall(r"^docker compose (?:--profile (\w+) )?up +#.* http://(\S+)$", readme, re.M)
    assert len(told) == len(services())
    for profile, address in told:
        [name] = started(*filter(None, [profile]))
        assert services()[name]["ports"] == [f"{address}:8000"]
    assert services()["lamina"]["ports"] == ["127.0.0.1:8000:8000"]
    assert not any("depends_on" in service for service in services().values())


def test_the_environment_of_compose_is_not_that_of_the_service() -> None:
    assert default_environment().keys() == {"COMPOSE_PROFILES"}


def test_each_service_has_its_torch() -> None:
    cpu, gpu = services()["lamina"], services()["lamina-gpu"]
    assert cpu["build"]["args"]["TORCH_BACKEND"] == "cpu"
    assert gpu["build"]["args"]["TORCH_BACKEND"].startswith("cu")


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
    ],
)
def test_linters_find_nothing(command: list[str]) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_health_check_imports_no_torch() -> None:
    code = "import sys, app.server.health; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
