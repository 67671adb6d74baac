"""The README's curl, sent by curl to a real server, gives the answer that is printed."""

import json
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        free: int = listener.getsockname()[1]
    command = [sys.executable, "-m", "app.server.cli", "serve", "--port", str(free)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", free)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield free
    finally:
        server.terminate()
        assert server.wait(30) in (0, -15)


def run_snippet(port: int, language: str, command: list[str]) -> str:
    snippet = re.search(rf"```{language}\n((?:(?!```).)*?127.*?)```", README, re.DOTALL)
    assert snippet
    text = snippet[1].replace(":8000", f":{port}")
    done = subprocess.run([*command, text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_binary_example_prints_what_it_says(port: int) -> None:
    printed = re.search(r"^prints `(.*?)`", README, re.MULTILINE)
    assert printed
    assert run_snippet(port, "python", [sys.executable, "-c"]).strip() == printed[1]


def test_the_open_inference_example_answers(port: int) -> None:
    section = README.partition("connect as they are")[2]
    text = section.partition("```sh\n")[2].partition("```")[0].replace(":8000", f":{port}")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"][0]["data"] == [0, 0, 2]


def test_the_curl_gives_the_printed_answer(port: int) -> None:
    command = re.search(r"^curl .*?\n```", README, re.MULTILINE | re.DOTALL)
    printed = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert command
    assert printed
    text = command[0].removesuffix("```").replace("\\\n", " ")
    words = shlex.split(text.replace(":8000", f":{port}"))
    answer = subprocess.run(words, capture_output=True, check=True).stdout
    expected = json.loads(printed[1])
    assert json.loads(answer) | {"device": "cpu"} == expected
