"""TLS to providers, for real: an authority of our own, good and bad certificates, names and addresses."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import crypto
from twisted.internet import reactor, ssl
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from twisted_gateway.agent import Agent, Pool
from twisted_gateway.answer import cause_of, detail_of
from twisted_gateway.config.resources import ProviderTls
from twisted_gateway.config.settings import UpstreamTls
from twisted_gateway.messages import Body
from twisted_gateway.trust import Endpoints

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@attrs.frozen
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def made(name: str, by: Made | None = None, names: Iterable[x509.GeneralName] = (), days: int = 2) -> Made:
    """A certificate for `names`, signed by another one or by itself; one without names is an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 2 * DAY)
        .not_valid_after(NOW + (days - 1) * DAY)
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Made(builder.sign(by.key if by else key, hashes.SHA256()), key)


DNS = x509.DNSName("localhost")
IP = x509.IPAddress(ip_address("127.0.0.1"))
AUTHORITY = made("authority")
BETWEEN = made("between", AUTHORITY)
BOTH = made("both", AUTHORITY, [DNS, IP])
CERTIFICATES = {
    "name": made("x", AUTHORITY, [DNS]),
    "address": made("x", AUTHORITY, [IP]),
    "other": made("x", AUTHORITY, [x509.DNSName("other.example")]),
    "nameless": made("localhost", AUTHORITY),
    "address as a name": made("x", AUTHORITY, [x509.DNSName("127.0.0.1")]),
    "expired": made("x", AUTHORITY, [DNS, IP], days=0),
    "its own": made("x", None, [DNS, IP]),
    "between": made("x", BETWEEN, [DNS, IP]),
}


class Server(Protocol):
    """Answers anything."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


class Servers:
    """TLS servers, and the server names they were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: list[Any] = []
        self.asked: list[bytes | None] = []

    def start(self, own: Made, chain: Iterable[Made] = (), callers: Any = None) -> int:
        options = ssl.CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(own.key),
            certificate=crypto.X509.from_cryptography(own.certificate),
            extraCertChain=[crypto.X509.from_cryptography(one.certificate) for one in chain],
            trustRoot=callers,
            acceptableProtocols=[b"http/1.1"],
        )
        context = options.getContext()
        context.set_tlsext_servername_callback(lambda connection: self.asked.append(connection.get_servername()))
        factory = Factory.forProtocol(Server)
        factory.noisy = False
        port = reactor.listenSSL(0, factory, options, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.ports.append(port)
        return int(port.getHost().port)

    def file(self, name: str, *pieces: bytes) -> str:
        path = self.folder / name
        path.write_bytes(b"".join(pieces))
        return str(path)


@pytest_twisted.async_yield_fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    running = Servers(tmp_path)
    yield running
    for port in running.ports:
        await port.stopListening()


async def ask(url: str, boot: UpstreamTls, own: ProviderTls | None = None) -> str:
    """`200`, or what went wrong as the caller sees it."""
    pool = Pool(reactor, 5)  # type: ignore[arg-type]
    agent = Agent(reactor, pool, Endpoints(reactor, boot, own), 5)  # type: ignore[arg-type]
    try:
        response: Any = await agent.request(b"POST", url.encode(), None, Body(b"{}", lambda: None))  # type: ignore[arg-type]
    except Exception:
        failure = Failure()
        return f"{cause_of(failure)}: {detail_of(failure)}"
    finally:
        pool.close()
        assert not pool.open
    return str(response.code)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("certificate", CERTIFICATES)
@pytest_twisted.ensureDeferred
async def test_only_a_certificate_for_the_host_passes(servers: Servers, certificate: str, host: str) -> None:
    port = servers.start(CERTIFICATES[certificate], [BETWEEN] if certificate == "between" else [])
    boot = UpstreamTls(ca_file=servers.file("ca.pem", AUTHORITY.pem))
    told = await ask(f"https://{host}:{port}/", boot)
    good = (certificate, host) in {("name", "localhost"), ("address", "127.0.0.1")} or certificate == "between"
    if good:
        assert told == "200"
    else:
        assert told.startswith("TLS handshake failed: ")
    assert servers.asked == [b"localhost" if host == "localhost" else None]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_trust_of_a_provider_key(servers: Servers, host: str) -> None:
    own = CERTIFICATES["its own"]
    url = f"https://{host}:{servers.start(own)}/"
    assert (await ask(url, UpstreamTls())).startswith("TLS handshake failed")
    assert await ask(url, UpstreamTls(), ProviderTls(ca_cert=own.pem.decode())) == "200"
    assert await ask(url, UpstreamTls(), ProviderTls(verify=False)) == "200"
    assert await ask(url, UpstreamTls(verify=False)) == "200"
    assert set(servers.asked) == {b"localhost" if host == "localhost" else None}


@pytest.mark.parametrize("chain", [[], [BETWEEN]], ids=["direct", "between"])
@pytest_twisted.ensureDeferred
async def test_a_provider_that_asks_for_our_certificate(servers: Servers, chain: list[Made]) -> None:
    ours = made("gateway", chain[0] if chain else AUTHORITY, [x509.DNSName("gateway")])
    wanted = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(AUTHORITY.pem)])
    url = f"https://localhost:{servers.start(BOTH, callers=wanted)}/"
    authority = servers.file("ca.pem", AUTHORITY.pem)
    certificate = servers.file("own.pem", ours.pem, *(one.pem for one in chain))
    key = servers.file("own.key", ours.key_pem)
    boot = UpstreamTls(ca_file=authority, client_cert_file=certificate, client_key_file=key)
    assert await ask(url, boot) == "200"
    assert await ask(url, UpstreamTls(ca_file=authority)) != "200"


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_certificates_that_cannot_be_read(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="PEM certificate"):
        Endpoints(reactor, UpstreamTls(ca_file=str(path)))
