"""Formats by name, and the folder of files with its manifest."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app import __version__
from app.operations.vectors import FORMAT
from app.vector_files import _c, _json, _npz, _onnx, _rust, _safetensors, _wpt
from app.vector_files._set import Files, LeftOut, VectorSet

Write = Callable[[VectorSet], tuple[Files, LeftOut]]
FORMATS: Mapping[str, Write] = {
    "json": _json.write,
    "safetensors": _safetensors.write,
    "npz": _npz.write,
    "onnx": _onnx.write,
    "wpt": _wpt.write,
    "rust": _rust.write,
    "c": _c.write,
}
MANIFEST = "manifest.json"


def write(folder: Path, sets: Iterable[VectorSet], formats: Iterable[str], seed: int) -> int:
    """Write the sets and the manifest; return the number of files. Other files stay as they are.

    Raises:
        OSError: the folder cannot be written.
        ModuleNotFoundError: a format needs an optional package.

    """
    formats = tuple(formats)
    files: Files = {}
    left_out: list[dict[str, str]] = []
    for vectors in sets:
        for name in formats:
            own, missing = FORMATS[name](vectors)
            files |= own
            left_out += [
                {"case": f"{vectors.layer}/{case}", "format": name, "reason": reason}
                for case, reason in missing.items()
            ]
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "lamina": __version__,
        "torch": version("torch").partition("+")[0],
        "seed": seed,
        "files": {
            path: {"sha256": hashlib.sha256(content).hexdigest()}
            for path, content in sorted(files.items())
        },
        "left_out": left_out,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return len(files)
