"""Addresses: who is calling, seen through trusted proxies, and lists of networks (`policy.md` 4). Pure."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from twisted_gateway.facts import frozen

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@frozen
class Address:
    """A socket address. Port 0 means: any free port, chosen when the listener is bound."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return unwrapped(ip_address(self.host)).is_loopback


def parse_address(text: str) -> Address:
    """Read `ip:port` (IPv6 in brackets); host names are not addresses. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    if match is None:
        raise ValueError("not ip:port")
    host = str(IPv6Address(match[1]) if match[1] else IPv4Address(match[2]))
    port = int(match[3])
    if port > 65535:
        raise ValueError("no such port")
    return Address(host, port)


def unwrapped(ip: IP) -> IP:
    """Give the IPv4 address inside an IPv4-mapped IPv6 one; any other as it is."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def parse_ip(text: str) -> IP | None:
    """Read an address without a zone, unwrapped; None when it is none."""
    try:
        return None if "%" in text else unwrapped(ip_address(text))
    except ValueError:
        return None


def parse_network(text: str, *, bare: bool) -> Network:
    """Read a CIDR; with `bare` a single address too. Host bits may be set, IPv4-mapped ones are unwrapped.

    Raises ValueError.
    """
    host, slash, length = text.partition("/")
    if not slash and not bare:
        raise ValueError("no prefix length")
    if "%" in text or (slash and re.fullmatch(r"[0-9]{1,3}", length) is None):
        raise ValueError("not a network")
    network = ip_network(text if slash else host, strict=False)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def inside(ip: IP, networks: Iterable[Network]) -> bool:
    """Whether an (unwrapped) address lies in one of the networks."""
    return any(ip in network for network in networks if network.version == ip.version)


def admitted(address: str, networks: Sequence[Network] | None) -> bool:
    """Whether an allow-list lets an address in: None admits all; an address that cannot be read is denied."""
    if networks is None:
        return True
    ip = parse_ip(address)
    return ip is not None and inside(ip, networks)


def client_address(
    peer: str, header_values: Iterable[str], trusted: Sequence[Network] = (), *, recursive: bool = False
) -> str:
    """The caller's address (`policy.md` 4): the peer, or what its forwarding header says if the peer is trusted.

    `header_values` are all values of the configured header, in the order of the message.
    """
    ip = parse_ip(peer)
    if ip is None:
        return peer
    if not trusted or not inside(ip, trusted):
        return str(ip)
    chain = [hop for value in header_values for part in value.split(",") if (hop := _hop(part.strip())) is not None]
    if not chain:
        return str(ip)
    if not recursive:
        return str(chain[-1])
    return str(next((hop for hop in reversed(chain) if not inside(hop, trusted)), chain[0]))


def _hop(text: str) -> IP | None:
    """Read one member of a forwarding header: an address, perhaps with brackets and a port."""
    if text.startswith("["):
        match = re.fullmatch(r"\[([^\]]*)\](?::[0-9]{1,5})?", text)
        return parse_ip(match[1]) if match else None
    if text.count(":") == 1:
        match = re.fullmatch(r"([0-9.]+):[0-9]{1,5}", text)
        return parse_ip(match[1]) if match else None
    return parse_ip(text)
