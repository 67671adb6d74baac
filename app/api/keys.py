"""API keys, sent as `Authorization: Bearer KEY`."""

from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest

CLIENT_ID = "client_id"
"""The key of `scope["state"]` under which the guard stores the API key's ID, for the log."""
SCHEME = b"bearer"


class Keys:
    """The valid API keys, stored only as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        digests = (sha256(key.encode()).digest() for key in keys)
        self._known = tuple((digest, digest.hex()[:8]) for digest in digests)

    def client_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The ID of the request's API key, 8 hexadecimal digits, or None without a valid key.

        Every key is compared, in constant time, so that timing reveals nothing about the keys.
        """
        came = [value for name, value in headers if name == b"authorization"]
        if len(came) != 1:
            return None
        scheme, _, key = came[0].partition(b" ")
        if scheme.lower() != SCHEME:
            return None
        digest, found = sha256(key.strip(b" ")).digest(), None
        for known, client in self._known:
            if compare_digest(digest, known):
                found = client
        return found
