"""API keys: who asks, told by `Authorization: Bearer KEY`."""

from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest

CLIENT_ID = "client_id"
"""Where the guard puts the id of the key that came in `scope["state"]`, for the log."""
SCHEME = b"bearer"


class Keys:
    """The keys in force, as digests: the keys themselves are not kept."""

    def __init__(self, keys: Iterable[str]) -> None:
        digests = (sha256(key.encode()).digest() for key in keys)
        self._known = tuple((digest, digest.hex()[:8]) for digest in digests)

    def client_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The id of the key that came, 8 hexadecimal digits; None without one of ours.

        Every key is compared, in constant time, so the time says nothing about them.
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
