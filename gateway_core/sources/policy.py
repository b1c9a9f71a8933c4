"""Which addresses the gateway may dial: judged on the address itself, never on how a URL or a name is spelt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from gateway_core.errors import ConfigError
from gateway_core.sources.urls import normal_host

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA special-purpose registry and the clouds' own. ``ipaddress.is_global`` is no substitute: it calls the metadata
# services 192.0.0.192 and 168.63.129.16 global, and multicast too.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # carrier NAT, RFC 6598; Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform services
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # protocol assignments, RFC 6890; Oracle's metadata
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.31.196.0/24",  # AS112, RFC 7535
        "192.52.193.0/24",  # AMT, RFC 7450
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "192.175.48.0/24",  # AS112, RFC 7534
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Everything outside is refused: loopback, IPv4-compatible, local NAT64 (64:ff9b:1::/48), SRv6 (5f00::/16), unique
# local, link-local, site-local, multicast, and what nobody has been given yet.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: whatever IPv4 address it embeds
        "3fff::/20",  # documentation, RFC 9637
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an address may be dialled; if not, ``why``, and ``remedy``, the settings line that would permit it.

    Both are for the operator's log: a caller who reads them maps the network.
    """

    permitted: bool
    why: str = ""
    remedy: str = ""


_PERMITTED = Decision(permitted=True)


class EgressPolicy:
    """The settings ``EGRESS_ALLOW`` and ``EGRESS_PORTS``.

    ``allow`` holds networks, addresses and host names; each is open on any port, a host name whatever it resolves to.
    ``ports`` are those of all other, public addresses. Raises ConfigError for an entry that is none of these.
    """

    def __init__(self, allow: Sequence[str] = (), ports: Iterable[int] = (80, 443)) -> None:
        self._allow = tuple(entry.strip() for entry in allow)
        self._ports = tuple(ports)
        parsed = [_parse_entry(entry) for entry in self._allow]
        self._networks = tuple(entry for entry in parsed if not isinstance(entry, str))
        self._hosts = frozenset(entry for entry in parsed if isinstance(entry, str))
        self._remembered = lru_cache(maxsize=4096)(self._judge)

    def decide(self, address: str, port: int, *, host: str = "") -> Decision:
        """Judge a dial to ``address`` (numeric), which ``host`` (as ``normal_host`` spells it) resolved to."""
        return self._remembered(address, port, host)

    def _judge(self, address: str, port: int, host: str) -> Decision:
        try:
            ip = ip_address(address.partition("%")[0])
        except ValueError:
            return Decision(permitted=False, why="not a numeric address")
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped  # the kernel dials the IPv4 address (RFC 4291 2.5.5.2)
        if host in self._hosts or any(ip in network for network in self._networks):
            return _PERMITTED
        if not _is_public(ip):
            remedy = f"GATEWAY_EGRESS_ALLOW={','.join((str(ip_network(ip)), *self._allow))}"
            return Decision(permitted=False, why="not a public address", remedy=remedy)
        if port not in self._ports:
            ports = ",".join(str(number) for number in (*self._ports, port))
            return Decision(permitted=False, why="not a permitted port", remedy=f"GATEWAY_EGRESS_PORTS={ports}")
        return _PERMITTED


def _is_public(ip: Address) -> bool:
    if isinstance(ip, IPv6Address):
        if ip in _NAT64:  # RFC 6052 2.1
            return _is_public(IPv4Address(int(ip) & 0xFFFF_FFFF))
        return ip in _GLOBAL_UNICAST and not any(ip in network for network in _NOT_PUBLIC_V6)
    return not any(ip in network for network in _NOT_PUBLIC_V4)


def _parse_entry(entry: str) -> Network | str:
    try:
        return ip_network(entry.strip("[]"))
    except ValueError as error:
        if "/" in entry or ":" in entry:
            raise ConfigError(f"EGRESS_ALLOW: {entry!r} is not a network: {error}") from error
    try:
        return normal_host(entry)
    except ValueError as error:
        raise ConfigError(f"EGRESS_ALLOW: {entry!r} is neither a network nor a host name") from error
