"""`lamina serve`, the command behind `make run`; and `lamina check`.

Heavy imports come late, so that signal handlers are installed as soon as Python has started.
"""

import argparse
import sys

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
    flags = vars(parser.parse_args(arguments))
    if flags.pop("command") == "check":
        interrupt_on_signal()
        from app.server.check import check  # takes a second to import

        return check(flags["file"], as_json=flags["json"])
    from app.server.launch import launch  # takes half a second to import

    return launch(flags, app)


if __name__ == "__main__":
    sys.exit(main())
