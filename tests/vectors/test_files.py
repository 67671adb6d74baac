"""Files of golden vectors, read by their own libraries and compilers, and replayed."""

import hashlib
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from app.server.cli import main
from app.vector_files import VectorSet, write
from tests.vectors._sets import array, cases

LAYERS = ("max_pool2d", "batch_norm2d", "conv1d", "layer_norm", "sync_batch_norm")
RUSTC, CC, NODE = (shutil.which(name) for name in ("rustc", "cc", "node"))


def made(folder: Path, form: str, dtype: str = "float32", layers: tuple[str, ...] = LAYERS) -> Any:
    """The sets that were written, and the manifest."""
    sets = [VectorSet(name, 0, dtype, cases(name, dtype=dtype)) for name in layers]
    write(folder, sets, [form], 0)
    return sets, json.loads((folder / "manifest.json").read_text())


def expected(one: VectorSet) -> dict[str, Any]:
    """Every tensor as `CASE/in.input`, in float64 or int64."""
    found = {}
    for case in one.cases:
        for parts, own in ((case.request, "in."), (case.response, "out.")):
            for name, payload in parts.items():
                if hasattr(payload, "dtype"):
                    head = "grad." if name.startswith("gradients.") else own
                    key = f"{case.name}/{head}{name.removeprefix('gradients.')}"
                    found[key] = array(payload)
    return found


def check_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].shape == values.shape, name
        assert np.array_equal(found[name].astype(values.dtype), values, equal_nan=True), name
        if values.dtype == np.float64:
            signs = [np.signbit(np.nan_to_num(v, nan=0.0)) for v in (found[name], values)]
            assert np.array_equal(*signs), name


@pytest.mark.parametrize("form", ["json", "safetensors", "npz", "wpt", "rust", "c"])
def test_the_manifest_names_every_file(tmp_path: Path, form: str) -> None:
    _, manifest = made(tmp_path, form)
    assert manifest.keys() == {"format", "lamina", "torch", "seed", "files", "left_out"}
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found - {"manifest.json"} == manifest["files"].keys()
    for name, about in manifest["files"].items():
        assert about == {"sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}
    for entry in manifest["left_out"]:
        assert entry.keys() == {"case", "format", "reason"}
        assert entry["format"] == form
    assert bool(manifest["left_out"]) == (form == "wpt")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_safetensors(tmp_path: Path, dtype: str) -> None:
    sets, _ = made(tmp_path, "safetensors", dtype)
    for one in sets:
        found = safetensors.torch.load_file(tmp_path / f"{one.layer}.safetensors")
        wide = {
            name: (tensor.double() if tensor.is_floating_point() else tensor).numpy()
            for name, tensor in found.items()
        }
        check_equal(wide, expected(one))
        assert {t.dtype for t in found.values()} <= {getattr(torch, dtype), torch.int64}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_npz(tmp_path: Path, dtype: str) -> None:
    sets, _ = made(tmp_path, "npz", dtype)
    for one in sets:
        path = tmp_path / f"{one.layer}.npz"
        with np.load(path, allow_pickle=False) as found:
            check_equal({name: found[name] for name in found.files}, expected(one))
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            assert archive.testzip() is None


def test_json(tmp_path: Path) -> None:
    sets, _ = made(tmp_path, "json")
    names = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
    for one in sets:
        whole = json.loads((tmp_path / f"{one.layer}.json").read_text())
        found = {}
        for case in whole["cases"]:
            keys = {"name", "why", "tags", "options", "tensors", "tolerance"}
            assert case.keys() == keys
            for name, tensor in case["tensors"].items():
                assert tensor.keys() == {"shape", "dtype", "data"}
                data = [names.get(value, value) for value in tensor["data"]]
                flat = np.array(data, tensor["dtype"])
                found[f"{case['name']}/{name}"] = flat.reshape(tensor["shape"])
        check_equal(found, expected(one))


def test_files_are_the_same_twice(tmp_path: Path) -> None:
    for form in ("json", "safetensors", "npz", "wpt", "rust", "c"):
        first, again = (made(tmp_path / name, form, layers=("relu",))[1] for name in "ab")
        assert first == again


@pytest.mark.skipif(not CC, reason="needs a C compiler")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_c_compiles_and_holds_the_numbers(tmp_path: Path, dtype: str) -> None:
    (one, *_), _ = made(tmp_path, "c", dtype, ("max_pool1d",))
    case = next(c for c in one.cases if c.name == "minus-infinity-beside-padding")
    word = "max_pool1d_minus_infinity_beside_padding_out_output"
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "max_pool1d.h"\nint main(void) {\n'
        f"  for (size_t i = 0; i < {word}_count; i++) "
        f'printf("%.17g\\n", (double){word}[i]);\n  return 0;\n}}\n'
    )
    program = tmp_path / "main"
    flags = ["-std=c99", "-Wall", "-Werror", "-Wno-unused-variable", "-o", str(program)]
    subprocess.run([str(CC), str(tmp_path / "main.c"), *flags], check=True)
    lines = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    numbers = [float(line) for line in lines.split()]
    assert numbers == array(case.response["output"]).ravel().tolist()


@pytest.mark.skipif(not CC, reason="needs a C compiler")
def test_every_header_compiles(tmp_path: Path) -> None:
    made(tmp_path, "c")
    included = "".join(f'#include "{name}.h"\n' for name in LAYERS)
    (tmp_path / "all.c").write_text(included + "int main(void) { return 0; }\n")
    flags = ["-std=c99", "-Wall", "-Werror", "-Wno-unused-variable", "-fsyntax-only"]
    subprocess.run([str(CC), *flags, str(tmp_path / "all.c")], check=True)


@pytest.mark.skipif(not RUSTC, reason="needs a Rust compiler")
def test_rust_compiles_and_holds_the_numbers(tmp_path: Path) -> None:
    sets, _ = made(tmp_path, "rust")
    modules = "".join(f'#[path = "{one.layer}.rs"]\nmod {one.layer};\n' for one in sets)
    word = "max_pool2d::zero_padding_never_wins::OUT_OUTPUT"
    (tmp_path / "main.rs").write_text(
        f'{modules}fn main() {{ for x in {word} {{ println!("{{}}", x as f64); }} }}\n'
    )
    program = tmp_path / "main"
    command = [str(RUSTC), "-D", "warnings", "-o", str(program), str(tmp_path / "main.rs")]
    subprocess.run(command, check=True, capture_output=True)
    lines = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    case = next(c for c in sets[0].cases if c.name == "zero-padding-never-wins")
    assert [float(x) for x in lines.split()] == array(case.response["output"]).ravel().tolist()


@pytest.mark.skipif(not NODE, reason="needs Node")
def test_wpt_is_an_array_of_graphs(tmp_path: Path) -> None:
    made(tmp_path, "wpt", layers=("max_pool2d", "conv2d", "layer_norm", "relu", "max_pool1d"))
    assert not (tmp_path / "max_pool1d.https.any.js").exists()
    stub = """
        const buildAndExecuteGraph = null;
        const webnn_conformance_test = (tests, build, tolerance) => console.log(
            JSON.stringify(tests.map(test => ({...test, tolerance: tolerance(test.graph)}))));
    """
    for layer in ("max_pool2d", "conv2d", "layer_norm", "relu"):
        text = stub + (tmp_path / f"{layer}.https.any.js").read_text()
        script = tmp_path / "script.js"
        script.write_text(text)
        command = [str(NODE), str(script)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        tests = json.loads(done.stdout)
        assert len(tests) > 20
        for test in tests:
            assert test.keys() == {"name", "graph", "tolerance"}
            assert test["graph"].keys() == {"inputs", "operators", "expectedOutputs"}
            (operator,) = test["graph"]["operators"]
            assert operator.keys() == {"name", "arguments", "outputs"}
            for operand in test["graph"]["inputs"].values():
                shape = operand["descriptor"]["shape"]
                assert len(operand["data"]) == int(np.prod(shape))
            assert test["tolerance"]["value"] >= 0


def test_the_command_writes_and_verifies(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "set"
    asked = ["vectors", "relu", "avg_pool1d", "--out", str(folder), "--count", "20"]
    assert main(asked) == 0
    assert {p.name for p in folder.iterdir()} == {
        "manifest.json", "relu.json", "relu.safetensors", "avg_pool1d.json",
        "avg_pool1d.safetensors",
    }  # fmt: skip
    assert main(["vectors", "--verify", str(folder)]) == 0
    assert "40 of 40" in capsys.readouterr().out
    spoil(folder, "relu.json")
    assert main(["vectors", "--verify", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "FAIL relu/" in said
    assert "out.output: 1 of" in said
    assert "39 of 40" in said


def spoil(folder: Path, name: str) -> None:
    """Change one number, and the manifest with it."""
    whole = json.loads((folder / name).read_text())
    output = next(c for c in whole["cases"] if c["name"] == "many-axes")["tensors"]["out.output"]
    output["data"][0] = 99.0
    (folder / name).write_text(json.dumps(whole))
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest["files"][name]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "wrong",
    [
        ["relo", "--out", "x"],
        ["relu"],
        ["--out", "x"],
        ["relu", "--out", "x", "--count", "0"],
        ["relu", "--out", "x", "--count", "257"],
        ["relu", "--out", "x", "--seed", "-1"],
        ["relu", "--out", "x", "--dtype", "int8"],
        ["relu", "--out", "x", "--convention", "caffe"],
        ["--verify", "nowhere"],
        ["--verify", "set", "--url", "ftp://127.0.0.1"],
        ["--verify", "set", "--url", "http://127.0.0.1:1"],
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, wrong: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "set", "json", layers=("relu",))
    capsys.readouterr()
    assert main(["vectors", *wrong]) == 2
    told = capsys.readouterr().err
    assert told.startswith("lamina vectors: ")
    assert told.count("\n") == 1


def test_a_changed_file_is_no_set(tmp_path: Path, capsys: Any) -> None:
    made(tmp_path, "json", layers=("relu",))
    with (tmp_path / "relu.json").open("a") as file:
        file.write(" ")
    assert main(["vectors", "--verify", str(tmp_path)]) == 2
    assert "changed since it was written" in capsys.readouterr().err
