"""What OpenTelemetry's environment variables say of where to send, and how."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from elastic_events.bus.errors import ConfigError
from elastic_events.sinks.options import LOGIN_MARKS

__all__ = ("OtlpSettings", "parse_headers", "read_settings")


@dataclass(frozen=True)
class OtlpSettings:
    """Where to send, and how. Its repr holds no header.

    Args:
        logs, metrics: full URLs; None sends nothing of that kind, and its records count as delivered.
        logs_headers, metrics_headers: of every request.
        gzip: whether bodies are compressed.
        timeout: seconds of one request.
        certificate, client_certificate, client_key: paths of PEM files: whom to trust, and who we are.
        resource: attributes of every resource.
        remarks: told once, by the lane of the sink.
    """

    logs: str | None
    metrics: str | None
    logs_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    metrics_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    gzip: bool = True
    timeout: float = 10.0
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    resource: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()  #: what the environment asks for that is not done, a sentence each


def read_settings(endpoint: str | None = None, environ: Mapping[str, str] = os.environ) -> OtlpSettings:
    """Return the settings that OpenTelemetry's standard variables give; `endpoint` goes before those that name one.

    Source: opentelemetry.io, "OpenTelemetry Protocol Exporter" and "Environment Variable Specification". Where `endpoint` is
    given it goes before the variables that say whether, where and in which protocol to send. Compression is gzip unless a
    variable says `none`. A variable that is known and not supported becomes a remark.

    Raises:
        ConfigError: a variable is wrong, and which.
    """
    prefix = "OTEL_EXPORTER_OTLP_"

    def variable(name: str, signal: str = "") -> str | None:
        return environ.get(f"{prefix}{signal}{name}") or environ.get(f"{prefix}{name}") or None

    def url(signal: str) -> str:
        own = environ.get(f"{prefix}{signal.upper()}_ENDPOINT")
        if endpoint is None and own:
            return _checked(own, f"{prefix}{signal.upper()}_ENDPOINT")
        base = endpoint or environ.get(f"{prefix}ENDPOINT") or "http://localhost:4318"
        return _checked(base, "the OTLP endpoint").rstrip("/") + f"/v1/{signal}"

    sent = _sent(endpoint, environ)
    for signal in ("", *sent) if endpoint is None else ():
        name = f"{prefix}{signal.upper()}_PROTOCOL" if signal else f"{prefix}PROTOCOL"
        if environ.get(name) not in (None, "", "http/protobuf"):
            raise ConfigError(
                f"{name} asks for what is not spoken here, only http/protobuf is: name a URL otlp+http://HOST:4318"
            )
    compression = variable("COMPRESSION")
    if compression not in (None, "gzip", "none"):
        raise ConfigError(f"{prefix}COMPRESSION is gzip or none, not {compression!r}")
    resource = parse_headers(environ.get("OTEL_RESOURCE_ATTRIBUTES") or "", "OTEL_RESOURCE_ATTRIBUTES", fold=False)
    if environ.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = environ["OTEL_SERVICE_NAME"]
    return OtlpSettings(
        logs=url("logs") if "logs" in sent else None,
        metrics=url("metrics") if "metrics" in sent else None,
        logs_headers=parse_headers(variable("HEADERS", "LOGS_") or "", f"{prefix}HEADERS"),
        metrics_headers=parse_headers(variable("HEADERS", "METRICS_") or "", f"{prefix}HEADERS"),
        gzip=compression != "none",
        timeout=_milliseconds(variable("TIMEOUT"), f"{prefix}TIMEOUT"),
        certificate=variable("CERTIFICATE"),
        client_certificate=variable("CLIENT_CERTIFICATE"),
        client_key=variable("CLIENT_KEY"),
        resource=resource,
        remarks=tuple(_remarks(endpoint, environ)),
    )


def _sent(endpoint: str | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the signals that the environment lets be sent; a URL that names a server sends both."""
    if endpoint is not None:
        return ("logs", "metrics")
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ()
    return tuple(s for s in ("logs", "metrics") if environ.get(f"OTEL_{s.upper()}_EXPORTER") != "none")


def _remarks(endpoint: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    if endpoint is None:
        if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            yield "OTEL_SDK_DISABLED is true: nothing is sent by OTLP; a URL that names a server sends all the same"
        for name in ("OTEL_LOGS_EXPORTER", "OTEL_METRICS_EXPORTER"):
            if environ.get(name) == "none":
                yield f"{name} is none: these records are not sent by OTLP"
            elif environ.get(name) not in (None, "", "otlp"):
                yield f"{name} names an exporter that is not known here: otlp and none are"
    for signal in ("LOGS", "METRICS"):
        for what in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY", "COMPRESSION", "TIMEOUT"):
            if environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{what}"):
                yield (
                    f"OTEL_EXPORTER_OTLP_{signal}_{what} is not supported: write OTEL_EXPORTER_OTLP_{what}, for both signals"
                )


def _checked(url: str, what: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:  # what it is instead may be a login that was cut short
        raise ConfigError(f"{what} is http://HOST:PORT or https://HOST; {LOGIN_MARKS}")
    return url


def parse_headers(text: str, what: str, *, fold: bool = True) -> dict[str, str]:
    """Return `NAME=VALUE,...`, values percent-encoded, as the W3C's baggage has it."""
    found = {}
    for pair in filter(str.strip, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{what} is NAME=VALUE,NAME=VALUE; one of its parts has no =")
        found[name.strip().lower() if fold else name.strip()] = unquote(value.strip())
    if fold:
        _check_headers(found, what)
    return found


def _check_headers(headers: Mapping[str, str], what: str) -> None:
    """Refuse what HTTP cannot carry, naming the header and never its value (RFC 9110, 5.1 and 5.5)."""
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigError(f"{what}: one of the names is none that HTTP allows: letters, digits and -")
        if not re.fullmatch(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?|", value):
            raise ConfigError(f"{what}: the value of {name} holds what HTTP does not allow: only printable ASCII")


def _milliseconds(text: str | None, what: str) -> float:
    if text is None:
        return 10.0
    if not text.isdigit() or int(text) == 0:
        raise ConfigError(f"{what} is a whole number of milliseconds, not {text!r}")
    return int(text) / 1000
