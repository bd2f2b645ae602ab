"""What ran: a figure without versions cannot be compared with another."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from benchmarks.place import Place


def line(place: Place) -> str:
    """Python, packages, server, the way to it, its allocator, and how busy the machine is before anything runs."""
    info = place.plain.info("server")
    server = info.get("server_name", "redis")
    server_version = info.get(f"{server}_version", info["redis_version"])
    packages = " ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "msgspec"))
    way = "unix socket" if place.url.startswith("unix") else "TCP loopback"
    allocator = place.plain.info("memory")["mem_allocator"]
    cpus = f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    return f"python {platform.python_version()} {packages}; {server} {server_version}, {way}; {allocator}, {cpus}"
