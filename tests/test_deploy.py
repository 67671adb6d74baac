"""The dashboard, the alerts and the scrape file: they name only what `/metrics` really shows."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.api.problems import STATUS
from app.main import create_app
from app.settings import Settings
from tests.api.test_keys import HEADERS, KEY, calling

DEPLOY = Path(__file__).parents[1] / "deploy"
OPERATING = DEPLOY.parent / "docs/operating.md"
DASHBOARD = json.loads((DEPLOY / "grafana/lamina.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
# Prometheus gives every series the first two; `le` is a histogram's.
GIVEN = {"instance", "job", "le"}


def drawn() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> Iterator[str]:
    yield from (target["expr"] for panel in drawn() for target in panel["targets"])
    yield from (rule["expr"] for rule in RULES)
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def named(expression: str) -> tuple[set[str], set[str]]:
    """The metrics of an expression, and its labels."""
    selectors = re.findall(r"\{(.*?)\}", expression)
    labels = {label for text in selectors for label in re.findall(r"(\w+) *(?:=~|!~|!=|=)", text)}
    for group in re.findall(r"\bby \((.*?)\)", expression):
        labels |= set(re.split(r", *", group))
    labels |= set(re.findall(r"label_values\(\w+, (\w+)\)", expression))
    bare = re.sub(r"\{.*?\}", "", expression)
    return set(re.findall(r"\b(?:lamina|process|python|up)(?:_\w+)?\b", bare)), labels


async def metrics_text() -> str:
    app = create_app(Settings(device="cpu", log_level="error", api_keys=KEY))
    async with calling(app) as http:
        assert (await http.get("/metrics")).status_code == 401
        http.headers.update(HEADERS)
        await http.post("/v1/layers/relu", json={"input": [1]})
        late = await http.post(
            "/v1/layers/relu", json={"input": [1]}, headers={"X-Request-Timeout-Ms": "0"}
        )
        assert late.status_code == 504
        return (await http.get("/metrics")).text


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """The labels of every metric of an app that answered, answered too late, and refused."""
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(asyncio.run(metrics_text())):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_names_what_there_is(expression: str, shown: dict[str, set[str]]) -> None:
    metrics, labels = named(expression)
    assert metrics
    assert metrics <= shown.keys()
    assert labels <= GIVEN.union(*(shown[metric] for metric in metrics))
    for pair in ("()", "{}", "[]"):
        assert expression.count(pair[0]) == expression.count(pair[1])


def test_the_dashboard_is_ready_to_import() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == variables
    assert DASHBOARD["schemaVersion"] >= 39
    for panel in drawn():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


def test_every_metric_of_ours_is_on_the_dashboard(shown: dict[str, set[str]]) -> None:
    ours = {name for name in shown if name.startswith("lamina_")}
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in ours}
    used = " ".join(target["expr"] for panel in drawn() for target in panel["targets"])
    # This one is for /v2's statistics.
    left = {name for name in families if name not in used}
    assert left == {"lamina_last_answer_timestamp_seconds"}


def test_the_documented_metrics_are_shown(shown: dict[str, set[str]]) -> None:
    table = OPERATING.read_text().partition("| metric |")[2].partition("\n\n")[0]
    rows = [row.split("|") for row in table.splitlines()[2:]]
    names = {name: row[2] for row in rows for name in re.findall(r"`(lamina_\w+)`", row[1])}
    assert len(names) == 10
    for name, labels in names.items():
        sample = name if name in shown else f"{name}_count"
        assert shown[sample] == set(re.findall(r"`([a-z]+)`", re.sub(r"\(.*?\)", "", labels)))


def test_alerts_say_what_happened_and_how_bad_it_is() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        gone = rule["expr"].startswith("absent(")  # there is no instance to be named
        assert gone or "$labels.instance" in rule["annotations"]["summary"]
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label == "instance" or label in rule["expr"].partition("(rate")[0]
        assert re.fullmatch(r"\d+m", rule["for"])


def test_alerts_name_reasons_that_there_are() -> None:
    kinds = {kind.code for kind in STATUS} | {"client-left"}
    named_ = re.findall(r'reason(?:!=|=~|=)"(.*?)"', " ".join(rule["expr"] for rule in RULES))
    assert {reason for text in named_ for reason in text.split("|")} <= kinds
    shed = {"overloaded", "deadline-exceeded", "out-of-memory", "device-lost", "client-left"}
    assert {reason for text in named_ for reason in text.split("|")} == shed


def test_the_times_of_layers_are_those_of_answers() -> None:
    for expression in expressions():
        if "lamina_request_seconds_bucket" in expression:
            assert 'status="2xx"' in expression


def test_the_scrape_file_reads_the_alerts() -> None:
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert all((DEPLOY / name).exists() for name in scrape["rule_files"])
    [job] = scrape["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"{Settings().host}:{Settings().port}"]
    assert f'job="{job["job_name"]}"' in RULES[0]["expr"]
