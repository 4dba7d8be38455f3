"""Whether a Redis can be reached at all, asked once at start, before anything is served (`configuration.md` 3.9).

Blocking: there is no reactor yet. From then on `redis.Redis` copes with whatever happens.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from twisted_gateway.config.redis import SENTINEL_PORT, RedisBlock, RedisServer, RedisTls, server_of

PATIENCE = 5.0
"""Seconds for each step."""


def check(block: RedisBlock, patience: float = PATIENCE) -> None:
    """Raises `OSError` when no Redis answers there, or it does not want us; the text names no credential."""
    if block.mode == "single":
        _ask(server_of(block.url or ""), block.tls, patience, "PING")
        return
    trouble: OSError | None = None
    for url in block.sentinels:
        sentinel = server_of(url, SENTINEL_PORT)
        try:
            words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", block.master_name or "")
            found = _ask(sentinel, block.tls, patience, *words)
            if found is None:
                raise OSError(f"the sentinel knows no master {block.master_name!r}")
            master = RedisServer(found[0], int(found[1]), sentinel.tls, block.username, block.password)
            _ask(master, block.tls, patience, "PING")
            return
        except OSError as error:
            trouble = error
    raise trouble or OSError("there are no sentinels")


def _ask(server: RedisServer, tls: RedisTls, patience: float, *words: str) -> Any:
    with socket.create_connection((server.host, server.port), patience) as plain:
        sock = _context(tls).wrap_socket(plain, server_hostname=server.host) if server.tls else plain
        with sock, sock.makefile("rb") as lines:
            if server.password is not None:
                who = (server.username,) if server.username else ()
                sock.sendall(_command("AUTH", *who, server.password))
                _reply(lines)
            sock.sendall(_command(*words))
            return _reply(lines)


def _context(tls: RedisTls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if tls.ca_file:
        context.load_verify_locations(tls.ca_file)
    if tls.client_cert_file:
        context.load_cert_chain(tls.client_cert_file, tls.client_key_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _command(*words: str) -> bytes:
    parts = [word.encode("utf-8") for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _reply(lines: Any) -> Any:
    line = lines.readline()
    kind, rest = line[:1], line[1:].strip().decode("utf-8", "replace")
    if kind == b"-" or not kind:
        raise OSError(rest or "it closed the connection")
    if kind == b"$":
        return None if rest == "-1" else lines.read(int(rest) + 2)[:-2].decode("utf-8", "replace")
    if kind == b"*":
        return None if rest == "-1" else [_reply(lines) for _ in range(int(rest))]
    return rest
