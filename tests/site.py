# SPDX-License-Identifier: Apache-2.0
"""A machine on which `poise` is run as a user runs it, and all that poise could have changed there."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from poise.lab.balancer import Balancer
from poise.lab.namespaces import Lab

POISE = Path(sys.executable).with_name("poise")


class _Up(Balancer):
    """A balancer with further options."""

    options: Sequence[str] = ()

    def _command(self, verb: str) -> list[str]:
        return [*super()._command(verb), *(self.options if verb == "up" else ())]


class Site(Lab):
    """`here` has eth0 (10.1.0.1/24), with a client behind it, and eth1 (10.2.0.1/24), with a server."""

    def build(self) -> None:
        """Make the three machines."""
        self.here, self.client, self.server = map(self.namespace, ("here", "client", "server"))
        self.link(self.here, "eth0", self.client, "eth0")
        self.link(self.here, "eth1", self.server, "eth0")
        self.here.ip("address add 10.1.0.1/24 dev eth0", "address add 10.2.0.1/24 dev eth1")
        self.client.ip("address add 10.1.0.11/24 dev eth0", "route add default via 10.1.0.1")
        self.server.ip("address add 10.2.0.11/24 dev eth0", "route add default via 10.2.0.1")
        self.state = self.directory / "state"
        self.socket = self.directory / "poise.sock"
        self.configuration = self.directory / "poise.yaml"
        self.configure()

    def afresh(self) -> None:
        """Forget all that was configured and kept, as before the first `poise up`."""
        if self.state.is_dir():
            shutil.rmtree(self.state)
        self.state.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        self.configure()

    def configure(self, *vips: dict[str, object], **settings: object) -> None:
        """Write poise.yaml: these VIPs, else 192.0.2.10:80 with the server; `settings` are its other keys."""
        server = {"name": "web1", "address": "10.2.0.11", "port": 8080}
        usual = {
            "interfaces": ["eth0", "eth1"],
            "vips": vips or [{"address": "192.0.2.10", "port": 80, "servers": [server]}],
            "socket": str(self.socket),
            "state_directory": str(self.state),
            "pin_directory": str(self.pins),
            "handshake_rows": 1024,
        }
        self.configuration.write_text(json.dumps(usual | settings))  # JSON is YAML

    def poise(
        self, verb: str, *options: str, wrapper: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `poise up` or another verb to its end."""
        command = [str(POISE), verb, "-c", str(self.configuration), *options]
        return subprocess.run(
            ["nsenter", f"--net={self.here.path}", "--", *wrapper, *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def running(self, *options: str) -> Balancer:
        """A `poise up`, which answers."""
        balancer = _Up(self.here, self.configuration, self.socket, self.directory / "log")
        balancer.options = options
        self._undo.callback(balancer.stop)
        balancer.start()
        return balancer

    def refusal(self, verb: str = "up", *options: str, wrapper: Sequence[str] = ()) -> str:
        """What `poise` says when it fails as it should: one sentence after its log, and no traceback."""
        done = self.poise(verb, *options, wrapper=wrapper)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        *log, sentence = done.stderr.splitlines()
        assert all(line.startswith("timestamp=") for line in log), done.stderr
        assert sentence.startswith("poise: ")
        return sentence.removeprefix("poise: ")

    def footprint(self) -> list[str]:
        """All that poise could have changed on the machine: settings, programs, tables, kept neighbours."""
        commands = (
            r"sysctl --all --pattern '^net\.ipv[46]\.(conf|neigh|ip_forward)'; "
            "ip -oneline address; ip -oneline link; ip -details neighbour show nud all; "
            "for name in eth0 eth1; do "
            "ethtool -k $name; tc qdisc show dev $name; tc filter show dev $name ingress; "
            "done"
        )
        lines = self.here.run(["sh", "-c", commands]).splitlines()
        pins = sorted(str(path) for path in self.pins.iterdir()) if self.pins.exists() else []
        return [line for line in lines if "lladdr" not in line or " managed " in line] + pins
