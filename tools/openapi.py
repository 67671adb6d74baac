"""Generated files: the OpenAPI document, the README's table of layers, the docs' catalogue,
and the reference of checks.

`python -m tools.openapi` writes them; with `--check` it fails where one is stale.
"""

import asyncio
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx

from app.layers import LAYERS
from app.main import create_app
from app.settings import Settings
from tools.check_docs import with_reference
from tools.layer_docs import catalogue

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(<!-- layers -->\n).*?(<!-- /layers -->)", re.DOTALL)


@functools.cache
def document() -> dict[str, Any]:
    """The OpenAPI document as the service with default settings serves it."""

    async def fetched() -> dict[str, Any]:
        transport = httpx.ASGITransport(create_app(Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://tools") as client:
            found: dict[str, Any] = (await client.get("/openapi.json")).json()
            return found

    return asyncio.run(fetched())


def openapi_text() -> str:
    """The exported OpenAPI document."""
    return json.dumps(document(), indent=1) + "\n"


def layer_table() -> str:
    """A Markdown row for each layer."""
    rows = [
        f"| `{spec.name}` | {spec.summary} "
        f"| {', '.join(f'`{port.name}`' for port in spec.inputs)} |\n"
        for spec in LAYERS.values()
    ]
    return "| layer | output | tensors |\n|---|---|---|\n" + "".join(rows)


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Each generated file and its fresh text."""
    readme = (root / "README.md").read_text()
    return {
        root / "openapi/openapi.json": openapi_text(),
        root / "README.md": TABLE.sub(lambda m: m[1] + layer_table() + m[2], readme),
        root / "docs/layers.md": catalogue(),
        root / "docs/check.md": with_reference((root / "docs/check.md").read_text()),
    }


def main() -> int:
    """Write the files, or with `--check` name the stale ones."""
    stale = [p for p, text in generated().items() if not p.exists() or p.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is stale: run `make openapi`", file=sys.stderr)
        return bool(stale)
    for path in stale:
        path.write_text(generated()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
