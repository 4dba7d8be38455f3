"""Where and how to connect to a provider: endpoints, TLS, socket options (`configuration.md` 3.5 and 7.1)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from zope.interface import implementer

from twisted_gateway.config.resources import ProviderTls
from twisted_gateway.config.settings import Upstream, UpstreamTls
from twisted_gateway.connection import Origin

_NO_LIMIT: Any = None
"""The agent has the deadline for connecting, TLS included."""


@implementer(IOpenSSLTrustRoot)
@attrs.frozen
class TrustRoots:
    """The platform's trust store and some more certificates (PEM)."""

    more: tuple[bytes, ...] = ()

    def _addCACertsToContext(self, context: SSL.Context) -> None:
        context.set_default_verify_paths()
        store = context.get_cert_store()
        assert store is not None
        for pem in self.more:
            for certificate in _certificates(pem):
                store.add_cert(certificate)


def _certificates(pem: bytes) -> list[crypto.X509]:
    """All certificates in a PEM text. Raises `ValueError` when there is none that can be read."""
    marker = b"-----BEGIN CERTIFICATE-----"
    found = []
    for piece in pem.split(marker)[1:]:
        try:
            found.append(crypto.load_certificate(crypto.FILETYPE_PEM, marker + piece))
        except crypto.Error as error:
            raise ValueError(f"not a PEM certificate: {error}") from None
    if not found:
        raise ValueError("no PEM certificate in it")
    return found


class Endpoints:
    """Makes the endpoint for an origin. The trust of a provider key is added to the boot file's.

    Raises `ValueError` for certificates that cannot be read, so make it before serving.
    """

    def __init__(self, reactor: Any, boot: UpstreamTls, own: ProviderTls | None = None) -> None:
        self._reactor = reactor
        more = [Path(boot.ca_file).read_bytes()] if boot.ca_file else []
        if own is not None and own.ca_cert:
            more.append(own.ca_cert.encode("ascii", "replace"))
        for pem in more:
            _certificates(pem)
        self._roots = TrustRoots(tuple(more))
        self._verify = boot.verify and (own is None or own.verify)
        self._identity = _identity(boot)
        self._contexts: dict[str, Any] = {}

    def __call__(self, origin: Origin) -> IStreamClientEndpoint:
        """Where to connect to; names are looked up for each connection."""
        try:
            version = ip_address(origin.host).version
        except ValueError:
            endpoint: Any = HostnameEndpoint(self._reactor, origin.host.encode("ascii"), origin.port, timeout=_NO_LIMIT)
        else:
            kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
            endpoint = kind(self._reactor, origin.host, origin.port, timeout=_NO_LIMIT)
        return wrapClientTLS(self._context(origin.host), endpoint) if origin.scheme == "https" else endpoint

    def _context(self, host: str) -> Any:
        context = self._contexts.get(host)
        if context is None:
            context = ssl.optionsForClientTLS(
                host,
                trustRoot=self._roots,
                clientCertificate=self._identity,
                acceptableProtocols=[b"http/1.1"],
            )
            if not self._verify:
                context = unverified(host, self._identity)
            self._contexts[host] = context
        return context


def unverified(host: str, identity: ssl.PrivateCertificate | None) -> Any:
    """A client context that accepts any certificate (`verify: false`); the name is still sent."""
    options = ssl.CertificateOptions(
        privateKey=None if identity is None else identity.privateKey.original,
        certificate=None if identity is None else identity.original,
        acceptableProtocols=[b"http/1.1"],
    )
    return _NameOnly(host, options)


@implementer(IOpenSSLClientConnectionCreator)
class _NameOnly:
    """Sends the server name, checks nothing."""

    def __init__(self, host: str, options: ssl.CertificateOptions) -> None:
        self._host = host
        self._options = options

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._options.getContext(), None)
        connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection


def _identity(boot: UpstreamTls) -> ssl.PrivateCertificate | None:
    if not boot.client_cert_file or not boot.client_key_file:
        return None
    pem = Path(boot.client_cert_file).read_bytes() + b"\n" + Path(boot.client_key_file).read_bytes()
    identity: ssl.PrivateCertificate = ssl.PrivateCertificate.loadPEM(pem)
    return identity


def tuner(boot: Upstream) -> Callable[[Any], None]:
    """A function that sets the keep-alive probes of a new connection's socket."""
    options = [
        (socket.TCP_KEEPIDLE, boot.tcp_keepalive_secs),
        (socket.TCP_KEEPINTVL, boot.tcp_keepalive_interval_secs),
        (socket.TCP_KEEPCNT, boot.tcp_keepalive_retries),
    ]

    def tune(transport: Any) -> None:
        handle = getattr(transport, "getHandle", lambda: None)()
        if not isinstance(handle, socket.socket):
            return
        for option, value in options:
            if value:
                handle.setsockopt(socket.IPPROTO_TCP, option, value)

    return tune
