"""LitServe, as its quick start shows. Usage: `python -m ... PORT`."""

import sys
from typing import Any

import litserve as ls

from benchmarks.contestants.torch_layers import LAYERS


class Layers(ls.LitAPI):  # type: ignore[misc,unused-ignore]
    def setup(self, device: str) -> None:
        self.layers = LAYERS

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return request  # LitServe reads the annotation: with one it expects a query parameter

    def predict(self, request: Any) -> Any:
        return self.layers[request["layer"]](request["input"])

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    server = ls.LitServer(Layers(), accelerator="cpu")
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
