"""Sections of AISIX's boot file that have no effect here yet, so that a file which leaves them off still loads.

What would have an effect is refused (`unavailable`); the rest is checked like any other key. Pure.
"""

from typing import Annotated

import attrs

from twisted_gateway.config.checks import Flag, NonEmpty, Number
from twisted_gateway.config.readers import Millis, WholeSeconds
from twisted_gateway.facts import frozen


@frozen
class ListenerTls:
    """PEM files of a listener; both are needed, and are read once at start."""

    cert_file: NonEmpty
    key_file: NonEmpty


@frozen
class MetricsOtlp:
    """AISIX's OTLP metrics: known, off."""

    enabled: Flag = False
    endpoint: NonEmpty | None = None


@frozen
class TracingOtlp:
    """AISIX's OTLP traces: known, off."""

    enabled: Flag = False
    endpoint: NonEmpty | None = None
    sample_ratio: Annotated[float, Number(low=0, high=1)] = 1.0


@frozen
class Tracing:
    """Known, off."""

    otlp: TracingOtlp = attrs.field(factory=TracingOtlp)


@frozen
class Admin:
    """AISIX's admin listener. Not available yet: a written section must say `enabled: false`."""

    enabled: Flag = False
    addr: str = "127.0.0.1:0"
    admin_keys: tuple[NonEmpty, ...] = attrs.field(default=(), repr=False)
    tls: ListenerTls | None = None


@frozen
class EtcdTls:
    """Known, not available."""

    ca_cert_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    domain_name: str | None = None


@frozen
class Etcd:
    """AISIX's etcd source: known, not available; a section without endpoints does nothing."""

    endpoints: tuple[str, ...] = ()
    prefix: str = "/aisix"
    env_id: str = ""
    user: str | None = None
    password_env: str | None = None
    dial_timeout_ms: Millis = 5000
    request_timeout_ms: Millis = 5000
    tls: EtcdTls | None = None


@frozen
class Managed:
    """AISIX's managed mode: known, off."""

    enabled: Flag = False
    cp_base_url: str | None = None
    cp_etcd_endpoint: str | None = None
    cp_ca_cert_file: str | None = None
    cp_cert_pem: str | None = attrs.field(default=None, repr=False)
    cp_cert_file: str | None = None
    cp_key_pem: str | None = attrs.field(default=None, repr=False)
    cp_key_file: str | None = None
    cp_ca_pem: str | None = attrs.field(default=None, repr=False)
    cp_ca_file: str | None = None
    mtls_dir: str = "/var/lib/aisix/mtls"
    dp_id_file: str = "/var/lib/aisix/dp_id"
    snapshot_cache_path: str | None = None
    heartbeat_interval_secs: WholeSeconds = 15
