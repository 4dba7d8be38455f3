"""Where and how to connect to a provider: endpoints, TLS, socket options (`configuration.md` 3.5 and 7.1)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet import ssl
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_gateway.config.resources import ProviderTls
from twisted_gateway.config.settings import Upstream, UpstreamTls
from twisted_gateway.connection import Origin
from twisted_gateway.facts import frozen

_NO_LIMIT: Any = None
"""The agent has the deadline for connecting, TLS included."""


@implementer(IOpenSSLTrustRoot)
@frozen
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
        self._verify = boot.verify and (own is None or own.verify)
        key, certificate, chain = _identity(boot)
        self._options = ssl.CertificateOptions(
            privateKey=key,
            certificate=certificate,
            extraCertChain=chain or None,
            trustRoot=TrustRoots(tuple(more)) if self._verify else None,
            acceptableProtocols=[b"http/1.1"],
        )

    def __call__(self, origin: Origin) -> IStreamClientEndpoint:
        """Where to connect to; names are looked up for each connection."""
        try:
            version = ip_address(origin.host).version
        except ValueError:
            endpoint: Any = HostnameEndpoint(self._reactor, origin.host.encode("ascii"), origin.port, timeout=_NO_LIMIT)
        else:
            kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
            endpoint = kind(self._reactor, origin.host, origin.port, timeout=_NO_LIMIT)
        if origin.scheme == "https":
            endpoint = wrapClientTLS(ServerName(origin.host, self._options, self._verify), endpoint)
        made: IStreamClientEndpoint = endpoint
        return made


@implementer(IOpenSSLClientConnectionCreator)
class ServerName:
    """Makes the TLS side of connections to one host: sends its name and, if told so, checks the certificate for it.

    `ssl.optionsForClientTLS` will not do: it lets a certificate pass whose names it cannot read, or that has none
    (Twisted 26.10). Here nothing passes but a match.
    """

    def __init__(self, host: str, options: ssl.CertificateOptions, verify: bool) -> None:
        self._options = options
        self._verify = verify
        try:
            ip_address(host)
        except ValueError:
            self._wanted: Any = DNS_ID(host)
            self._sent: bytes | None = self._wanted.hostname
        else:
            self._wanted = IPAddress_ID(host)
            self._sent = None  # addresses are no server names (RFC 6066)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator`."""
        connection: SSL.Connection = self._options.clientConnectionForTLS(protocol)
        connection.set_app_data(protocol)
        if self._sent is not None:
            connection.set_tlsext_host_name(self._sent)
        if self._verify:
            connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._check)
        return connection

    def _check(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        """OpenSSL's question about each certificate of the chain; the one at depth 0 is the host's own."""
        if depth or not ok:
            return bool(ok)
        try:
            verify_service_identity(extract_patterns(certificate), [self._wanted], [])
        except Exception:  # what is raised in here would be lost
            connection.get_app_data().failVerification(Failure())
            return False
        return True


def _identity(boot: UpstreamTls) -> tuple[crypto.PKey | None, crypto.X509 | None, list[crypto.X509]]:
    """The gateway's own key, certificate and the certificates between it and a root, for providers who ask."""
    if not boot.client_cert_file or not boot.client_key_file:
        return None, None, []
    certificate, *chain = _certificates(Path(boot.client_cert_file).read_bytes())
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, Path(boot.client_key_file).read_bytes())
    except crypto.Error as error:
        raise ValueError(f"not a PEM private key: {error}") from None
    return key, certificate, chain


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
