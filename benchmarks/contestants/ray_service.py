"""Ray Serve, as its guide on HTTP shows. Usage: `python -m ... PORT`."""

import sys
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.contestants.torch_layers import LAYERS


@serve.deployment
class Layers:
    async def __call__(self, request: Request) -> Any:
        data = await request.json()
        return LAYERS[data["layer"]](data["input"])


if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": int(sys.argv[1])})
    serve.run(Layers.bind())  # type: ignore[attr-defined,unused-ignore]
    while True:
        time.sleep(1)
