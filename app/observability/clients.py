"""Where a request comes from, by the connection or by a trusted proxy's word."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.types import Scope

UNKNOWN = "unknown"
MAX_HOST = 64


def address_of(scope: Scope) -> str:
    """The client's address; a proxy may pass on anything, and what is none is UNKNOWN."""
    return _parsed(_host(scope))[0]


def network_of(scope: Scope) -> str:
    """Whose requests count together: an IPv4 address, or an IPv6 network of 64 bits, since one
    household has a whole one.
    """
    return _parsed(_host(scope))[1]


def _host(scope: Scope) -> str:
    """The connection's host without an IPv6 zone, which may be any text."""
    host: str = scope["client"][0] if scope.get("client") else ""
    return host.partition("%")[0] if len(host) <= MAX_HOST else ""


@lru_cache(4096)
def _parsed(host: str) -> tuple[str, str]:
    """Address and network."""
    try:
        address = ip_address(host)
    except ValueError:
        return UNKNOWN, UNKNOWN
    if not isinstance(address, IPv6Address):
        return host, host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped), str(address.ipv4_mapped)
    return host, str(ip_network((address.packed[:8].ljust(16, b"\0"), 64)))
