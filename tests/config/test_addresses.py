"""The caller's address through proxies, and lists of networks."""

import pytest

from twisted_gateway.addresses import admitted, client_address, parse_address, parse_network

TRUSTED = tuple(parse_network(text, bare=True) for text in ("10.0.0.0/8", "::1", "2001:db8::/32"))
CASES = [  # peer, header values, recursive, client
    ("1.2.3.4", ["9.9.9.9"], False, "1.2.3.4"),
    ("10.0.0.1", [], False, "10.0.0.1"),
    ("10.0.0.1", ["junk, , unknown"], False, "10.0.0.1"),
    ("10.0.0.1", ["9.9.9.9, 8.8.8.8"], False, "8.8.8.8"),
    ("10.0.0.1", ["9.9.9.9", "8.8.8.8:443"], False, "8.8.8.8"),
    ("10.0.0.1", ["9.9.9.9, 8.8.8.8, 10.1.1.1"], True, "8.8.8.8"),
    ("10.0.0.1", ["10.2.2.2, 10.1.1.1"], True, "10.2.2.2"),
    ("10.0.0.1", ["junk"], True, "10.0.0.1"),
    ("::ffff:10.0.0.1", ["[2a00::5]:80"], False, "2a00::5"),
    ("::ffff:1.2.3.4", [], False, "1.2.3.4"),
    ("::1", ["::ffff:9.9.9.9, [2001:db8::7]"], True, "9.9.9.9"),
    ("unix", ["9.9.9.9"], False, "unix"),
]


@pytest.mark.parametrize(("peer", "values", "recursive", "client"), CASES)
def test_client_address(peer, values, recursive, client):
    assert client_address(peer, values, TRUSTED, recursive=recursive) == client


def test_nobody_is_trusted():
    assert client_address("10.0.0.1", ["9.9.9.9"]) == "10.0.0.1"


@pytest.mark.parametrize(
    "text", ["10.0.0.0/33", "10.0.0.0/255.0.0.0", "x", "", "10.0.0.0/", "fe80::1%eth0", "10.0.0.0/-1"]
)
def test_bad_networks(text):
    with pytest.raises(ValueError, match=r"."):
        parse_network(text, bare=True)


def test_networks():
    assert str(parse_network("10.1.2.3/8", bare=False)) == "10.0.0.0/8"
    assert str(parse_network("::ffff:10.0.0.0/104", bare=False)) == "10.0.0.0/8"
    with pytest.raises(ValueError, match="no prefix length"):
        parse_network("10.0.0.1", bare=False)
    assert admitted("anything", None)
    assert not admitted("1.1.1.1", ())


@pytest.mark.parametrize(
    "text", ["1.2.3.4", "localhost:1", "::1:5", "[::1]", "1.2.3.4:x", "1.2.3.4:70000", "1.2.3:5", " 1.2.3.4:5", ""]
)
def test_bad_addresses(text):
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


def test_addresses():
    assert str(parse_address("[::1]:80")) == "[::1]:80"
    assert parse_address("[::1]:80").is_loopback
    assert not parse_address("0.0.0.0:80").is_loopback
