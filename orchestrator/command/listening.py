"""Sockets to listen on."""

from __future__ import annotations

import ipaddress
import socket

import click

PORTS_TRIED = 50


def loopback(host: str) -> bool:
    """Whether nobody but this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket on the first free port from `port` on. Raises ClickException where there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: OSError | None = None
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        # TCP by name: asyncio turns Nagle's algorithm off for sockets that say so only, and with it on an answer whose
        # head and body are two writes waits 40 ms for the client's delayed acknowledgement.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host.strip("[]"), candidate))
            listening.listen(512)
            return listening
        except OSError as error:
            listening.close()
            problem = error
    raise click.ClickException(f"no port of {host} from {port} on can be listened on: {problem}")
