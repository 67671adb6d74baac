"""`lamina serve`: the command behind `make run`.

Heavy imports come late, so that signal handlers are installed as soon as Python has started.
"""

import argparse
import sys

from app.server.signals import exit_on_signal


def main(arguments: list[str] | None = None, app: str = "app.server.worker:build") -> int:
    """Parse the command line and serve; an invalid setting exits with a one-line message.

    `app` is the import path of the factory that builds the app in each serving process.
    """
    exit_on_signal()
    parser = argparse.ArgumentParser(prog="lamina", description="Neural-network layers over HTTP")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve over HTTP")
    command.add_argument("--host", help="address to listen on (LAMINA_HOST)")
    command.add_argument("--port", type=int, help="port to listen on (LAMINA_PORT)")
    command.add_argument("--workers", type=int, help="number of processes (LAMINA_WORKERS)")
    flags = vars(parser.parse_args(arguments))
    flags.pop("command")
    from app.server.launch import launch  # takes half a second to import

    return launch(flags, app)


if __name__ == "__main__":
    sys.exit(main())
