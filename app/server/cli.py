"""`lamina serve`, the command behind `make run`; `lamina check`; and `lamina vectors`.

Heavy imports come late, so that signal handlers are installed as soon as Python has started.
"""

import argparse
import sys
from typing import Any

from app.server.signals import exit_on_signal, interrupt_on_signal


def main(arguments: list[str] | None = None, app: str = "app.server.worker:build") -> int:
    """Parse the command line and run it; an invalid setting exits with a one-line message.

    `app` is the import path of the factory that builds the app in each serving process.
    """
    exit_on_signal()
    parser = argparse.ArgumentParser(prog="lamina", description="Neural-network layers over HTTP")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve over HTTP")
    command.add_argument("--host", help="address to listen on (LAMINA_HOST)")
    command.add_argument("--port", type=int, help="port to listen on (LAMINA_PORT)")
    command.add_argument("--workers", type=int, help="number of processes (LAMINA_WORKERS)")
    command = commands.add_parser(
        "check",
        help="hold your own results against the reference, without a server",
        description="Exit code: 0, all match; 1, some do not; 2, the file is not a valid check.",
    )
    command.add_argument(
        "file", help="JSON or safetensors with layer, request and expected; - for stdin"
    )
    command.add_argument("--json", action="store_true", help="print the answer as JSON")
    _add_vectors(commands)
    flags = vars(parser.parse_args(arguments))
    name = flags.pop("command")
    if name == "check":
        interrupt_on_signal()
        from app.server.check import check  # takes a second to import

        return check(flags["file"], as_json=flags["json"])
    if name == "vectors":
        interrupt_on_signal()
        from app.server.vectors import run  # takes a second to import

        return run(flags)
    from app.server.launch import launch  # takes half a second to import

    return launch(flags, app)


def _add_vectors(commands: Any) -> None:
    about = "write golden test vectors to files, or replay such files"
    command = commands.add_parser("vectors", help=about, description=about)
    command.add_argument("layers", nargs="*", metavar="LAYER", help="layers by name, or `all`")
    command.add_argument("--out", metavar="DIR", help="folder to write to")
    command.add_argument("--seed", type=int, help="0 by default; the same seed, the same files")
    command.add_argument("--count", type=int, help="cases per layer, 1 to 256; 16 by default")
    command.add_argument("--dtype", help="dtype of the tensors; float32 by default")
    command.add_argument("--convention", help="torch, keras, onnx or flax; all by default")
    formats = ("json", "safetensors", "npz", "onnx", "wpt", "rust", "c")
    command.add_argument("--format", choices=formats, help="json and safetensors by default")
    command.add_argument("--verify", metavar="DIR", help="replay the vectors in this folder")
    command.add_argument("--url", help="the service to replay them against; by default, in process")


if __name__ == "__main__":
    sys.exit(main())
