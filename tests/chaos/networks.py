"""A network of namespaces: a hub, and hosts each with a cable that can be pulled out."""

from __future__ import annotations

import os
import subprocess
from itertools import count

_NUMBERS = count(1)


class Network:
    """Needs root. `hub`: the address of the hub. Nothing of it is seen in this machine's own network."""

    hub = "10.213.0.1"

    def __init__(self) -> None:
        self._mark = f"llmconv{os.getpid()}n{next(_NUMBERS)}"
        self._hosts: dict[str, str] = {}
        _ip("netns", "add", self._mark)
        _ip("-n", self._mark, "link", "set", "lo", "up")
        _ip("-n", self._mark, "link", "add", "hub", "type", "bridge")
        _ip("-n", self._mark, "addr", "add", f"{self.hub}/24", "dev", "hub")
        _ip("-n", self._mark, "link", "set", "hub", "up")

    def join(self, name: str) -> str:
        """A host; returns its address."""
        if name not in self._hosts:
            self._hosts[name] = f"10.213.0.{len(self._hosts) + 2}"
            space, hub = f"{self._mark}-{name}", self._mark
            _ip("netns", "add", space)
            _ip("-n", hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", hub, "link", "set", name, "master", "hub", "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "addr", "add", f"{self._hosts[name]}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
        return self._hosts[name]

    def inside(self, name: str = "") -> list[str]:
        """What starts a program on a host, or on the hub."""
        return ["ip", "netns", "exec", f"{self._mark}-{name}" if name else self._mark]

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        _ip("-n", self._mark, "link", "set", name, "down")

    def mend(self, name: str) -> None:
        _ip("-n", self._mark, "link", "set", name, "up")

    def remove(self) -> None:
        """When nothing runs there any more."""
        for space in (*(f"{self._mark}-{name}" for name in self._hosts), self._mark):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
