# SPDX-License-Identifier: Apache-2.0
"""A server of the lab: nginx in a namespace of its own, which says who it is."""

import subprocess
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from poise.lab.addresses import IPAddress
from poise.lab.namespaces import LabError, Namespace, end

PORT = 80
_READY_WITHIN = 10.0  # seconds
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

_CONFIGURATION = """\
daemon off;
master_process off;
user root;
pid {directory}/pid;
error_log {directory}/error.log error;
worker_rlimit_nofile 65536;
events {{ worker_connections 20000; multi_accept on; }}
http {{
    access_log off;
    {temporary}
    default_type application/octet-stream;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_header_timeout 1h;
    client_max_body_size 0;
    server {{
        {listen}
        location = / {{ default_type text/plain; return 200 "{name}\\n"; }}
        add_header Server-Name {name};
        location /files/ {{ root {directory}; }}
        location /uploads/ {{ root {directory}; dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


class Nginx:
    """One nginx process: `GET /` answers its name, `/files/NAME` a file, `PUT /uploads/NAME` takes one."""

    def __init__(
        self, namespace: Namespace, name: str, address: IPAddress, directory: Path, port: int = PORT
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.address = address
        self.port = port
        self.directory = directory
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running nginx."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Start it and return once it answers; raises LabError with its error log if it does not."""
        (self.directory / "files").mkdir(parents=True, exist_ok=True)
        everywhere = ("", "[::]:") if self.address.version == 6 else ("",)
        configuration = self.directory / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                directory=self.directory,
                name=self.name,
                listen=" ".join(f"listen {where}{self.port} backlog=65535;" for where in everywhere),
                temporary=" ".join(f"{kind}_temp_path {self.directory}/{kind};" for kind in _TEMPORARY),
            )
        )
        log = self.directory / "error.log"
        argv = ["nginx", "-p", str(self.directory), "-c", str(configuration), "-e", str(log)]
        with (self.directory / "output").open("w") as output:
            self._process = self.namespace.popen(argv, stdout=output, stderr=output)
        deadline = time.monotonic() + _READY_WITHIN
        while not self._answers():
            # Waiting for its end is the pause between two tries, and ends at once when it has failed.
            if time.monotonic() > deadline or self._ended_within(0.01):
                said = (self.directory / "output").read_text() + (log.read_text() if log.exists() else "")
                raise LabError(
                    f"nginx of {self.name} did not start: {' '.join(said.split()) or 'no reason given'}"
                )

    def kill(self) -> None:
        """SIGKILL, as when a server crashes: the kernel ends its connections and refuses new ones."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        if self._process is not None:
            end(self._process)

    def put_file(self, name: str, size: int) -> None:
        """Have `/files/NAME` answer with `size` bytes."""
        with (self.directory / "files" / name).open("wb") as file:
            file.truncate(size)

    def _ended_within(self, seconds: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _answers(self) -> bool:
        with self.namespace.enter():
            connection = HTTPConnection("127.0.0.1", self.port, timeout=1)
            try:
                connection.request("GET", "/")
                return connection.getresponse().read().decode().strip() == self.name
            except (OSError, HTTPException):
                return False
            finally:
                connection.close()
