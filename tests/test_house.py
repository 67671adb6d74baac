"""The house: adding a layer as CONTRIBUTING tells, settings, documents, the command line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.compute.device import usable_cores
from app.layers import LAYERS
from app.settings import PREFIX, Settings, SettingsError, load_settings
from tools.openapi import document

ROOT = Path(__file__).parents[1]
NEW_FAMILY = '''
"""Doubling, to show how a family is added."""

from app.layers._spec import LayerSpec, Plan, feature_map
from app.schemas.options import LayerOptions


class DoubleOptions(LayerOptions):
    pass


def plan(shapes, options):
    return Plan(options, shapes, {"output": shapes["input"]}, cost=1000)


def run(tensors, plan):
    return {"output": tensors["input"] * 2}


SPECS = (
    LayerSpec(
        name="double",
        family="double",
        summary="Twice the input",
        options=DoubleOptions,
        inputs=(feature_map("input", 1, differentiable=True),),
        outputs=(feature_map("output", 1),),
        plan=plan,
        run=run,
        accuracy={"output": "exact", "gradients.input": "exact"},
        formula="y = 2 * x",
        differences=("No framework has it.",),
        example={"input": [[[1, 2]]]},
    ),
)
'''
USE = """
import asyncio, httpx
from app.main import create_app
from tools.openapi import layer_table

async def use():
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {"input": [[[1, 2]]], "grad_output": "ones"}
        answer = (await http.post("/v1/layers/double", json=body)).json()
        assert answer["output"] == [[[2.0, 4.0]]], answer
        assert answer["gradients"]["input"] == [[[2.0, 2.0]]], answer
        assert "/v1/layers/double" in (await http.get("/openapi.json")).text
        assert "double" in (await http.get("/v1/layers")).text
        assert "`double`" in layer_table()

asyncio.run(use())
"""


MEASURED = '    "double": ("double", {"input": (1, 1, 8 * MIB)}, {}),\n'
"""The row that a new family has in `tests/compute/test_memory.py`."""
CHECKS = (
    "tests/contract/test_contract.py",
    "tests/compute/test_cost.py::test_the_cost_rule_bounds_the_time",
    "tests/compute/test_memory.py::test_every_family_is_measured",
)
"""What looks at the new layer; the reference in `tests/reference` is the part left out here."""


@pytest.mark.slow
def test_adding_a_layer_is_one_file_one_word_and_one_row(tmp_path: Path) -> None:
    for name in ("app", "tools", "tests", "docs", "openapi", "README.md", "pyproject.toml"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path], check=True)
    (tmp_path / "app/layers/double.py").write_text(NEW_FAMILY)
    insert(tmp_path / "app/layers/__init__.py", "    conv,\n", "    double,\n")
    insert(tmp_path / "app/layers/__init__.py", "FAMILIES = (\n", "    double,\n")
    insert(tmp_path / "tests/compute/test_memory.py", "dict[str, Any]]] = {\n", MEASURED)
    python(tmp_path, "-c", USE)
    python(tmp_path, "-m", "tools.openapi")
    assert "`double`" in (tmp_path / "docs/layers.md").read_text()
    selected = ("-vv", "-p", "no:cacheprovider", "-k", "double or measured or escapes")
    done = python(tmp_path, "-m", "pytest", *selected, *CHECKS)
    for check in CHECKS:
        assert f"{check.partition('::')[0]}::" in done
    assert "[double]" in done


def insert(file: Path, behind: str, line: str) -> None:
    """Put a line behind the first place of another."""
    before, found, after = file.read_text().partition(behind)
    assert found, behind
    file.write_text(before + found + line + after)


def python(folder: Path, *arguments: str) -> str:
    """What a Python process prints in this folder."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("section", ["A request's way", "Add a layer", "Add an operation"])
def test_the_pages_on_the_structure_are_shorter_than_a_screen(section: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text().partition(f"\n## {section}\n")[2]
    assert 0 < page.partition("\n## ")[0].count("\n") < 24


def test_every_setting_is_documented() -> None:
    rows = re.findall(r"`LAMINA_(\w+)`", (ROOT / "README.md").read_text())
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PORT", "x", "integer"),
        ("DEVICE", "tpu", "pattern"),
        ("MAX_RANK", "1", "greater than or equal to 5"),
        ("PROT", "1", "did you mean LAMINA_PORT?"),
        ("HOST", "", "at least 1 character"),
        ("MAX_OUTPUT_BYTES", str(10**23), "less than or equal to"),
        ("DRAIN_GRACE_MS", str(10**22), "less than or equal to"),
        ("DRAIN_GRACE_MS", "5999", "LAMINA_DRAIN_DELAY_MS=5000"),
        ("DRAIN_DELAY_MS", "40000", "LAMINA_DRAIN_GRACE_MS=40000"),
        ("SERVICE_HOST", "10.0.0.1", "enableServiceLinks: false"),
        ("SERVICE_PORT", "8000", "enableServiceLinks: false"),
        ("SERVICE_PORT_HTTP", "8000", "enableServiceLinks: false"),
        ("PORT", "tcp://10.0.0.1:8000", "enableServiceLinks: false"),
        ("PORT_8000_TCP", "tcp://10.0.0.1:8000", "enableServiceLinks: false"),
        ("PORT_8000_TCP_ADDR", "10.0.0.1", "enableServiceLinks: false"),
        ("GPU_SERVICE_HOST", "10.0.0.1", "enableServiceLinks: false"),
        ("GPU_PORT", "tcp://10.0.0.1:8000", "enableServiceLinks: false"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(PREFIX + variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert said in str(caught.value)
    assert PREFIX + variable in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_in_lower_case_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("lamina_port", "1234")
    monkeypatch.setenv("LAMINA_DRAIN_DELAY_MS", "500")
    monkeypatch.setenv("LAMINA_DRAIN_GRACE_MS", "1500")
    assert load_settings().port == 1234


def test_a_misspelt_setting_in_lower_case_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("lamina_prot", "1234")
    with pytest.raises(SettingsError, match=r"lamina_prot: .* did you mean LAMINA_PORT\?"):
        load_settings()


def test_every_number_has_its_bounds() -> None:
    properties = Settings.model_json_schema()["properties"]
    for name, told in properties.items():
        for kind in told.get("anyOf", [told]):
            assert kind["type"] != "integer" or {"minimum", "maximum"} <= kind.keys(), name


def test_wildcard_with_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_CORS_ORIGINS", "*")
    monkeypatch.setenv("LAMINA_CORS_CREDENTIALS", "true")
    with pytest.raises(SettingsError, match="LAMINA_CORS_CREDENTIALS"):
        load_settings()


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_PORT", "1234")
    assert load_settings(port=4321).port == 4321
    assert load_settings(port=None).port == 1234


def test_threads_follow_the_cgroups_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) >= 1
    assert usable_cores(tmp_path / "nowhere") >= 1


def test_each_layer_is_one_typed_operation() -> None:
    paths = document()["paths"]
    for name in LAYERS:
        assert {"post"} == paths[f"/v1/layers/{name}"].keys()
