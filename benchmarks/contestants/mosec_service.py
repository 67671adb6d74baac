"""mosec, with its default JSON. Usage: `python -m ... --port PORT`."""

from typing import Any

from mosec import Server, Worker

from benchmarks.contestants.torch_layers import LAYERS


class Layers(Worker):  # type: ignore[misc,unused-ignore]
    def forward(self, data: Any) -> Any:
        return LAYERS[data["layer"]](data["input"])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Layers, num=1)
    server.run()
