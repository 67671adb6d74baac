"""The container's health check: `GET /livez` on localhost. Imports nothing heavy.

The port comes from `LAMINA_PORT`: a separate process cannot see `lamina serve --port`.
"""

import http.client
import os
import sys


def main() -> int:
    """Return 0 if the service is alive, else 1."""
    port = int(os.environ.get("LAMINA_PORT", "8000"))
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
        connection.request("GET", "/livez")
        return int(connection.getresponse().status != 200)
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
