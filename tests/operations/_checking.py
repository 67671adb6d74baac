"""What the tests of checks share: a pooling with its right results, and how a check is sent."""

from typing import Any

import httpx
import numpy as np

TABLE = np.arange(1.0, 26).reshape(1, 1, 5, 5)
"""One image whose size a stride of 2 does not divide."""
POOL = {"input": TABLE.tolist(), "kernel_size": 2}
FLOOR = [[[[7, 9], [17, 19]]]]


class Checking:
    """Posts checks."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def post(self, layer: str, body: Any) -> httpx.Response:
        return await self._http.post(f"/v1/layers/{layer}/check", json=body)

    async def __call__(self, layer: str, request: Any, expected: Any, **more: Any) -> Any:
        body = {"request": request, "expected": expected, **more}
        response = await self.post(layer, body)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, layer: str, body: Any) -> tuple[str, str]:
        """The pointer and the detail of a refusal."""
        response = await self.post(layer, body)
        assert response.status_code == 422, response.text
        problem = response.json()
        return problem["errors"][0]["pointer"], problem["detail"]
