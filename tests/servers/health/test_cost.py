# SPDX-License-Identifier: Apache-2.0
import asyncio
import time
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from poise.lab.namespaces import Lab
from poise.lab.nginx import Nginx
from poise.servers.care import Check, CheckKind
from poise.servers.vigil import Target, Vigil

SERVERS = 1000
SECONDS = 8.0


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("kind", [CheckKind.TCP, CheckKind.HTTP])
def test_a_thousand_servers_are_checked_every_second_on_less_than_one_core(kind: CheckKind) -> None:
    """CPU time of poise, with what the kernel does for it, at the full rate; every check passes."""
    changes = []
    vigil = Vigil(lambda _key, verdict: changes.append(verdict.up))
    first = IPv4Address("127.0.1.0")
    check = Check(kind, interval=1.0, timeout=1.0)

    async def main() -> float:
        task = asyncio.create_task(vigil.run())
        await asyncio.sleep(2)
        begin = time.monotonic(), time.process_time()
        await asyncio.sleep(SECONDS)
        cores = (time.process_time() - begin[1]) / (time.monotonic() - begin[0])
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return cores

    with Lab() as lab:
        namespace = lab.namespace("web")
        server = Nginx(namespace, "web1", first, lab.directory / "web1")
        server.start()
        before = namespace.counters()["TcpActiveOpens"]
        with namespace.enter():
            vigil.watch(
                {
                    (0, place): Target(first + place, 80, "shop", f"web{place}", (check,))
                    for place in range(SERVERS)
                }
            )
            cores = asyncio.run(main())
        rate = (namespace.counters()["TcpActiveOpens"] - before) / (SECONDS + 2)
    assert changes == [True] * SERVERS
    assert rate > 0.85 * SERVERS  # they are spread over the first second
    assert cores < 1, f"{cores:.2f} cores"
