"""The client of a request, from the connection or from a trusted proxy."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.types import Scope

UNKNOWN = "unknown"
MAX_HOST = 64


def address_of(scope: Scope) -> str:
    """The client's IP address, or UNKNOWN if a proxy passed on something else."""
    return _parsed(_host(scope))[0]


def network_of(scope: Scope) -> str:
    """The unit of rate limiting: an IPv4 address, or a /64 IPv6 network, since a single household
    usually has one to itself.
    """
    return _parsed(_host(scope))[1]


def _host(scope: Scope) -> str:
    """The client's host without the IPv6 zone, which may be arbitrary text."""
    host: str = scope["client"][0] if scope.get("client") else ""
    return host.partition("%")[0] if len(host) <= MAX_HOST else ""


@lru_cache(4096)
def _parsed(host: str) -> tuple[str, str]:
    """The address and its network."""
    try:
        address = ip_address(host)
    except ValueError:
        return UNKNOWN, UNKNOWN
    if not isinstance(address, IPv6Address):
        return host, host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped), str(address.ipv4_mapped)
    return host, str(ip_network((address.packed[:8].ljust(16, b"\0"), 64)))
