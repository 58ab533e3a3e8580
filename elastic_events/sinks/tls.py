"""What a sink trusts over TLS, and who it says that it is."""

import ssl

from elastic_events.bus.errors import ConfigError

__all__ = ("client_context",)


def client_context(what: str, ca: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Return a context that trusts the file `ca`, or what the system does, and shows `certificate`, if it is given.

    Raises:
        ConfigError: a file cannot be read; the sentence begins with `what`.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigError(f"{what}: the TLS files cannot be read: {error}") from None
    return context
