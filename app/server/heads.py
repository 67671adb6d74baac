"""Checks on the head of a request, in addition to the parser's."""

from app.errors import HeadersTooLarge, MalformedHttp

Fields = list[tuple[bytes, bytes]]


def check_size(url: bytes, headers: Fields, most_bytes: int) -> None:
    """Limit the total size of the URL and the header lines.

    Raises:
        HeadersTooLarge: they exceed `most_bytes`.

    """
    size = len(url) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > most_bytes:
        raise HeadersTooLarge(f"expected at most {most_bytes} bytes; got {size}")


def check_fields(version: str, headers: Fields, most_fields: int) -> None:
    """Reject what a proxy in front of the service might interpret differently.

    Raises:
        HeadersTooLarge: there are more than `most_fields` headers.
        MalformedHttp: the version, a header name, `Host` or `Transfer-Encoding` is not allowed.

    """
    names = [name for name, _ in headers]
    if len(names) > most_fields:
        raise HeadersTooLarge(f"expected at most {most_fields} headers; got {len(names)}")
    if b"_" in b"".join(names):
        raise MalformedHttp("header names must not contain _, which some proxies read as -")
    if version not in ("1.1", "1.0"):
        raise MalformedHttp("expected HTTP/1.1")
    if names.count(b"host") != 1 and (version == "1.1" or b"host" in names):
        raise MalformedHttp("expected exactly one Host header")
    if b"transfer-encoding" in names:
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        if version == "1.0" or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise MalformedHttp("the only supported Transfer-Encoding is chunked")


def without_upgrade(method: bytes, url: bytes, version: str, headers: Fields) -> bytes:
    """Serialize the head of a request without its protocol upgrade."""
    head = [method, b" ", url, b" HTTP/", version.encode(), b"\r\n"]
    for name, value in headers:
        if name == b"connection":
            value = b"close" if b"close" in value.lower() else b"keep-alive"
        if name not in (b"upgrade", b"http2-settings"):
            head += (name, b": ", value, b"\r\n")
    return b"".join((*head, b"\r\n"))
