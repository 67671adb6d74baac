"""The container's health check: `GET /livez` on this machine. Imports nothing heavy.

The port is `LAMINA_PORT`'s: a process of its own does not see `lamina serve --port`.
"""

import http.client
import os
import sys


def main() -> int:
    """0 when the service lives, else 1."""
    port = int(os.environ.get("LAMINA_PORT", "8000"))
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
        connection.request("GET", "/livez")
        return int(connection.getresponse().status != 200)
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
