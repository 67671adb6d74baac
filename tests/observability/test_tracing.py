"""Spans and metrics of OpenTelemetry's own SDK, in a process of their own: providers are global."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CANARY = "canary-5f1c2e"
PHASES = ["decode", "queue", "compute", "encode"]
CODE = f"""
import asyncio, json, sys, httpx
from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from app.main import create_app

spans, reader, logs = InMemorySpanExporter(), InMemoryMetricReader(), InMemoryLogRecordExporter()
tracers, loggers = TracerProvider(), LoggerProvider()
tracers.add_span_processor(SimpleSpanProcessor(spans))
loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider([reader]))
set_logger_provider(loggers)

async def use():
    parent = {{"traceparent": "00-{TRACE}-{PARENT}-01"}}
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {{"input": [1, -2]}}
        headers = parent | {{"X-Request-ID": "a"}}
        await http.post("/v1/layers/relu", json=body, headers=headers)
        tensor = {{"name": "input", "shape": [2], "datatype": "FP32", "data": [1, -2]}}
        await http.post("/v2/models/relu/infer", json={{"inputs": [tensor]}})
        await http.post("/v1/layers/relu", json={{"input": "{CANARY}"}}, headers=parent)
        await http.get("/v1/layers/relu")
        await http.get("/nothing")
        for probe in ("/livez", "/readyz", "/metrics"):
            await http.get(probe)
        await asyncio.sleep(0.1)

asyncio.run(use())
print(json.dumps({{
    "spans": [json.loads(span.to_json()) for span in spans.get_finished_spans()],
    "metrics": json.loads(reader.get_metrics_data().to_json()),
    "logs": [log.to_json() for log in logs.get_finished_logs()],
}}))
"""


@cache
def run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the SDK was given, and the lines of the log."""
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [json.loads(line) for line in done.stderr.splitlines()]


def spans() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run()[0]["spans"]
    return found


def servers() -> list[dict[str, Any]]:
    return [span for span in spans() if span["kind"] == "SpanKind.SERVER"]


def test_each_request_but_probes_is_one_server_span() -> None:
    assert [span["name"] for span in servers()] == [
        "POST /v1/layers/{layer}",
        "POST /v2/models/{model}/infer",
        "POST /v1/layers/{layer}",
        "GET /v1/layers/{layer}",
        "GET",
    ]
    statuses = [span["attributes"]["http.response.status_code"] for span in servers()]
    assert statuses == [200, 200, 422, 200, 404]


@pytest.mark.parametrize("number", [0, 1])
def test_a_compute_span_says_what_the_convention_asks_for(number: int) -> None:
    span = servers()[number]
    told = span["attributes"]
    assert told["http.request.method"] == "POST"
    assert told["url.scheme"] == "http"
    assert told["http.route"] == span["name"].removeprefix("POST ")
    assert told["lamina.layer"] == "relu"
    assert span["status"]["status_code"] == "UNSET"


def test_the_callers_trace_goes_on_and_is_in_the_log() -> None:
    first, second = servers()[:2]
    assert first["context"]["trace_id"] == f"0x{TRACE}"
    assert first["parent_id"] == f"0x{PARENT}"
    assert second["parent_id"] is None
    assert first["attributes"]["lamina.request_id"] == "a"
    lines = run()[1]
    assert [line["trace_id"] for line in lines] == [
        span["context"]["trace_id"].removeprefix("0x") for span in servers()
    ]
    assert lines[0]["request_id"] == "a"


@pytest.mark.parametrize("number", [0, 1])
def test_phases_are_children_one_after_another(number: int) -> None:
    parent = servers()[number]
    children = [s for s in spans() if s["parent_id"] == parent["context"]["span_id"]]
    assert [child["name"] for child in children] == PHASES
    ends = [child["end_time"] for child in children]
    assert ends[:-1] == [child["start_time"] for child in children[1:]]
    assert parent["start_time"] <= children[0]["start_time"] < ends[-1] <= parent["end_time"]


def test_durations_are_counted_by_route() -> None:
    [scope] = [s for r in run()[0]["metrics"]["resource_metrics"] for s in r["scope_metrics"]]
    named = {metric["name"]: metric["data"]["data_points"] for metric in scope["metrics"]}
    counts = {
        (p["attributes"].get("http.route"), p["attributes"]["http.response.status_code"]): p[
            "count"
        ]
        for p in named["http.server.request.duration"]
    }
    assert counts["/v1/layers/{layer}", 200] == counts["/v1/layers/{layer}", 422] == 1
    assert counts["/v2/models/{model}/infer", 200] == counts[None, 404] == 1
    assert all(point["value"] == 0 for point in named["http.server.active_requests"])


def test_nothing_of_the_input_is_told() -> None:
    given, lines = run()
    assert given["logs"] == []
    assert CANARY not in json.dumps(given) + json.dumps(lines)
