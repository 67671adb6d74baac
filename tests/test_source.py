"""The source of app/ has nothing that runs or unpacks what comes in, and calls no one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[1] / "app"
# Formats that run code when they are read, or may.
UNPACKING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
             "jsonpickle", "yaml", "copyreg"}  # fmt: skip
# Clients: the only one is the container's health check, which asks its own machine.
CLIENTS = {"http.client", "urllib.request", "urllib3", "requests", "httpx", "aiohttp", "ftplib",
           "smtplib", "poplib", "imaplib", "telnetlib", "xmlrpc", "websockets", "websocket",
           "asyncssh", "paramiko", "huggingface_hub", "torch.hub"}  # fmt: skip
CALLS_OWN_MACHINE = {"server/health.py"}
# `lamina vectors --verify --url` calls the service that its user names.
CALLS_WHERE_TOLD = {"vector_files/_url.py"}
PROCESSES = {"subprocess", "pty"}
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
# Dotted names that may not even be mentioned.
NAMES = {
    "torch.load", "torch.save", "torch.jit", "torch.package", "torch.hub", "torch.compile",
    "torch.utils.cpp_extension", "numpy.load", "numpy.save", "numpy.savez", "numpy.fromfile",
    "numpy.memmap", "numpy.loadtxt", "numpy.genfromtxt", "numpy.lib.format", "numpy.ndarray.dump",
    "os.system", "os.popen", "os.execv", "os.execve", "os.execl", "os.execvp", "os.spawnl",
    "os.spawnv", "os.fork", "os.posix_spawn", "importlib.import_module", "runpy",
    "socket.create_connection", "asyncio.open_connection", "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell", "builtins.eval", "builtins.exec", "code.interact",
    "pydoc.locate", "tempfile.mktemp",
}  # fmt: skip
# Of arguments by name: what they make of a call.
ARGUMENTS = {("allow_pickle", True), ("shell", True), ("weights_only", False), ("verify", False)}


def findings(source: str, path: str = "module.py") -> Iterator[str]:
    """What of the above stands in a module, one line each."""
    tree = ast.parse(source)
    known = dict(_imported(tree))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute | ast.Name):
            names = [_dotted(node, known)]
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg, value) in ARGUMENTS:
                    yield f"{path}:{node.lineno} {keyword.arg}={value}"
        for name in names:
            if _forbidden(name, path):
                yield f"{path}:{node.lineno} {name}"  # type: ignore[attr-defined]


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The module's names for what it imports, and their full names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (
                    (top := alias.name.partition(".")[0]), top)  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    """The full name that an expression is, "" where it is none."""
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, known)
        return f"{base}.{node.attr}" if base else ""
    if not isinstance(node, ast.Name):
        return ""
    return known.get(node.id, f"builtins.{node.id}" if node.id in BUILTINS else "")


def _forbidden(name: str, path: str) -> bool:
    modules = (
        UNPACKING | PROCESSES | (set() if path in CALLS_OWN_MACHINE | CALLS_WHERE_TOLD else CLIENTS)
    )
    prefixes = [name[:end] for end, sign in enumerate(name) if sign == "."] + [name]
    bare = name.removeprefix("builtins.")
    return bool(modules & set(prefixes) or NAMES & set(prefixes)) or (
        bare != name and bare in BUILTINS
    )


PLANTED = (
    "import pickle",
    "import os, marshal as m",
    "from pickle import loads",
    "from pickle import loads as read",
    "import shelve",
    "import dill",
    "import yaml\nyaml.load(x)",
    "from yaml import load",
    "def f(x):\n    import pickle",
    "import torch\ntorch.load(x)",
    "import torch\ntorch.load(x, weights_only=True)",
    "import torch as t\nt.load(x)",
    "from torch import load",
    "from torch import load as read\nread(x)",
    "import torch\nread = torch.load",
    "import torch.jit",
    "import torch.utils.cpp_extension",
    "import numpy as np\nnp.load(x)",
    "import numpy\nnumpy.load(x, allow_pickle=True)",
    "import numpy as np\nnp.lib.format.read_array(x)",
    "from numpy import memmap",
    "f(x, allow_pickle=True)",
    "eval(x)",
    "exec(x)",
    "compile(x, y, 'exec')",
    "run = eval",
    "import builtins\nbuiltins.eval(x)",
    "__import__(x)",
    "import importlib\nimportlib.import_module(x)",
    "from importlib import import_module",
    "import os\nos.system(x)",
    "from os import popen",
    "import subprocess",
    "import subprocess\nsubprocess.run(x, shell=True)",
    "from subprocess import Popen",
    "import asyncio\nasyncio.create_subprocess_shell(x)",
    "import asyncio\nasyncio.open_connection(x)",
    "import http.client",
    "from http.client import HTTPConnection",
    "from http import client",
    "import urllib.request",
    "from urllib import request",
    "import httpx",
    "import requests as r",
    "import aiohttp",
    "import socket\nsocket.create_connection(x)",
    "import torch\ntorch.hub.load(x)",
)
HARMLESS = (
    "import re\nre.compile(x)",
    "import json\njson.load(x)",
    "model.eval()",
    "spec.load(x)",
    "import urllib.parse",
    "from http import HTTPStatus",
    "import torch\ntorch.frombuffer(x)",
    "import numpy as np\nnp.frombuffer(x)",
    "import ctypes\nctypes.CDLL(None)",
    "f(x, shell=False, allow_pickle=False)",
    "'import pickle'",
    "from app.codecs import json as pickled",
)


@pytest.mark.parametrize("source", PLANTED)
def test_the_check_finds_what_is_planted(source: str) -> None:
    assert list(findings(source))


@pytest.mark.parametrize("source", HARMLESS)
def test_the_check_leaves_the_rest_alone(source: str) -> None:
    assert not list(findings(source))


def test_the_source_unpacks_runs_and_calls_nothing() -> None:
    files = sorted(APP.rglob("*.py"))
    assert len(files) > 50
    found = [
        finding
        for file in files
        for finding in findings(file.read_text(), file.relative_to(APP).as_posix())
    ]
    assert not found


def test_the_health_check_asks_this_machine_alone() -> None:
    for path in CALLS_OWN_MACHINE:
        source = (APP / path).read_text()
        hosts = [
            node.args[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and "HTTPConnection" in ast.unparse(node.func)
        ]
        assert [ast.literal_eval(host) for host in hosts] == ["127.0.0.1"]
