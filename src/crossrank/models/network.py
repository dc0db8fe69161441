"""How to reach a server: which proxy to use, and which certificates to trust."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import ssl
import urllib.request
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

__all__ = ["Proxy", "environment_fault", "proxy_of"]

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and where it is configured: an environment variable, or the system's settings."""

    url: str
    source: str


def proxy_of(url: str) -> Proxy | None:
    """The proxy to use for a URL; None for loopback addresses and for hosts that NO_PROXY names.

    NO_PROXY may hold names, addresses and networks (127.0.0.0/8).
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    proxies = urllib.request.getproxies()
    for scheme in (parts.scheme, "all"):
        if proxies.get(scheme):
            if _is_loopback(host) or _bypasses_proxy(parts, proxies.get("no", "")):
                return None
            address = proxies[scheme]
            return Proxy(address if "://" in address else f"http://{address}", _source(scheme))
    return None


def environment_fault(url: str) -> str:
    """One line about an environment variable that keeps a URL from being reached; "" if none does."""
    proxy = proxy_of(url)
    if proxy is not None and (fault := _proxy_fault(proxy)):
        return fault
    if urlsplit(url).scheme != "https" and (proxy is None or urlsplit(proxy.url).scheme != "https"):
        return ""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(variable)
        if path:
            file, folder = (path, None) if variable == "SSL_CERT_FILE" else (None, path)
            try:
                ssl.create_default_context(cafile=file, capath=folder)
            except OSError as error:  # ssl.SSLError is one
                reason = error.strerror or str(error)
                return f"{variable} is {path!r}, which cannot be read ({reason}); correct or unset it"
            return ""
    return ""


def _proxy_fault(proxy: Proxy) -> str:
    try:
        parts = urlsplit(proxy.url)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = SplitResult("", "", "", "", ""), False
    if not usable:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme else "no address"
        return (
            f"{proxy.source} is {shown}, which cannot be used as a proxy; write http://HOST:PORT or "
            "socks5://HOST:PORT, or unset it"
        )
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        return (
            f"{proxy.source} is a SOCKS proxy, which needs the package socksio: "
            "pip install 'httpx[socks]', or unset it"
        )
    return ""


def _source(scheme: str) -> str:
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
        if os.environ.get(name):
            return name
    return "the system's proxy"


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _bypasses_proxy(parts: SplitResult, no_proxy: str) -> bool:
    host = parts.hostname or ""
    if urllib.request.proxy_bypass(host) or urllib.request.proxy_bypass(f"{host}:{parts.port}"):
        return True
    address = _address(host)
    return address is not None and any(_contains(entry, address) for entry in no_proxy.split(","))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _contains(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip().replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
