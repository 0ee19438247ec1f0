"""Lists of hosts that a test may reach, or that a recording leaves out, checked when they are given.

`AllowedHosts` has names and `host:port`. `IgnoredHosts` also has names with `*.` in front, and beginnings of URLs.
Independent of cassettes, sockets and pytest.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*\.?")
_ALLOWED = "names such as 'db' or '10.0.0.5', and 'host:port'"
_IGNORED = "names such as 'localhost', 'host:port', '*.example.com', and beginnings of URLs such as 'https://host/path'"


class Address(NamedTuple):
    """Address of a request or a connection."""

    host: str
    port: int | None = None
    """None where only a name is looked up."""
    scheme: str = ""
    """Empty where only a socket is known."""
    path: str = ""
    """Path and query of a URL."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @staticmethod
    def of_url(url: str) -> Address:
        """Return the address of a URL with the default port of its scheme.

        Its host is empty if the URL cannot be read.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            return Address("")
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        return Address(canonical_host(host), port, parts.scheme, path)


class _Pattern(NamedTuple):
    """One entry of a list."""

    host: str
    port: int | None = None
    scheme: str = ""
    path: str = ""

    def matches(self, address: Address) -> bool:
        """Return True if host, port and URL of an address fit this pattern, `*.` for any host below one.

        An unknown port or URL always fits.
        """
        if self.host.startswith("*."):
            if not address.host.endswith(self.host[1:]):
                return False
        elif address.host != self.host:
            return False
        if self.port is not None and address.port not in (None, self.port):
            return False
        return not address.scheme or not self.scheme or self._begins(address)

    def _begins(self, address: Address) -> bool:
        """Return True if the URL of an address begins with scheme and path of this pattern."""
        return address.scheme == self.scheme and address.path.startswith(self.path)


class AllowedHosts:
    """Hosts that are reached in every mode.

    Args:
        entries: names, and `host:port`.
        name: of the argument, for messages.

    Raises:
        TypeError: `entries` is no collection of strings.
        ValueError: an entry cannot be read.
    """

    allowed = _ALLOWED

    def __init__(self, entries: Iterable[str] = (), name: str = "allow_hosts") -> None:
        self.entries = _strings(entries, name, self.allowed)
        self._patterns = [self._parse(entry, name) for entry in self.entries]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, *addresses: Address) -> bool:
        """Return True if an entry matches one of these addresses, which are names of the same place."""
        return any(pattern.matches(address) for pattern in self._patterns for address in addresses)

    def _parse(self, entry: str, name: str) -> _Pattern:
        """Return the pattern of an entry `host` or `host:port`; `name` is the setting that the error names.

        Raises:
            ValueError: the entry cannot be read.
        """
        host, port = _split(entry)
        if not _is_host(host) or port == 0:
            raise ValueError(f"{name} takes {self.allowed}; it cannot read {entry!r}")
        return _Pattern(canonical_host(host), port)


class IgnoredHosts(AllowedHosts):
    """Hosts whose requests are no part of a recording. See `AllowedHosts`; `*.` and URLs are allowed, too."""

    allowed = _IGNORED

    def __init__(self, entries: Iterable[str] = (), name: str = "ignore_hosts") -> None:
        super().__init__(entries, name)

    def _parse(self, entry: str, name: str) -> _Pattern:
        """Return the pattern of a host, of `*.host` for all hosts below it, or of the beginning of a URL.

        Raises:
            ValueError: the entry cannot be read; the message names the setting `name`.
        """
        if "://" in entry:
            address = Address.of_url(entry)
            if not address.scheme or not _is_host(address.host):
                raise ValueError(f"{name} takes {self.allowed}; it cannot read {entry!r}")
            return _Pattern(*address)
        pattern = super()._parse(entry.removeprefix("*."), name)
        return pattern._replace(host=f"*.{pattern.host}") if entry.startswith("*.") else pattern


def canonical_host(host: str) -> str:
    """Return a name or an address in one spelling: lower case, without brackets, zone and final dot, IPv4 as such."""
    host = host.strip("[]").partition("%")[0].rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_numeric(host: str) -> bool:
    """Return True for a numeric address, False for a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return True for addresses and names of this machine, also unspecified and empty ones."""
    if not is_numeric(host):
        return host in ("", "localhost") or host.endswith(".localhost")
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _strings(entries: Iterable[str], name: str, allowed: str) -> tuple[str, ...]:
    """Return the entries as a tuple; raise `TypeError` for a single string and for entries that are no strings.

    `name` and `allowed` are the setting and its possible entries, for the message.
    """
    if isinstance(entries, (str, bytes)):
        raise TypeError(f"{name} takes a list of {allowed}; got {entries!r}, write [{entries!r}]")
    try:
        found = tuple(entries)
    except TypeError:
        raise TypeError(f"{name} takes a list of {allowed}; got {entries!r}") from None
    for entry in found:
        if not isinstance(entry, str):
            raise TypeError(f"{name} takes a list of {allowed}; got {entry!r} in it")
    return found


def _split(entry: str) -> tuple[str, int | None]:
    """Split `host:port` into host and port, which is None if the entry has no port, and 0 if its port is invalid.

    An IPv6 address with a port stands in brackets, which stay; without brackets, its colons belong to the host.
    """
    if is_numeric(entry):
        return entry, None
    host, colon, port = entry.rpartition(":")
    if not colon or port.endswith("]"):
        return entry, None
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    return host, int(port) if is_port else 0


def _is_host(host: str) -> bool:
    """Return True if a text, with or without brackets, is a numeric address or can be the name of a host."""
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return is_numeric(inner) or _NAME.fullmatch(host) is not None
