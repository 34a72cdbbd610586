# SPDX-License-Identifier: Apache-2.0
import os
import socket
from contextlib import closing

import pytest

from poise.lab.balancer import Balancer
from poise.lab.network import ServersLab
from poise.lab.other_tcp import MPTCP, Servers, carry, client, counted, sign
from poise.lab.xdp_pass import pass_everything
from tests.e2e.counters import drops
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.root

LISTENING = 7000
SECOND_ADDRESS = "10.1.0.50"  # of the client
WITHIN = 10.0  # seconds
QUESTION, ANSWER = b"what does the server say?\n", b"it says that all is well\n"


def _start(lab: ServersLab) -> Balancer:
    return lab.start_balancer(vips=[lab.vip_settings(server_port=LISTENING)])


@pytest.mark.parametrize("servers", [1, 2])
def test_a_join_harms_no_multipath_connection(servers: int) -> None:
    """MP_JOIN (RFC 8684) is placed as any SYN: the only server takes it, another one refuses it.

    In either case the first subflow goes on.
    """
    with ServersLab(servers, clients=1) as lab, Servers(lab.servers, LISTENING, protocol=MPTCP) as listening:
        host = lab.clients[0]
        balancer = _start(lab)
        host.ip(f"address add {SECOND_ADDRESS}/24 dev eth0")
        for namespace in (host, *(server.namespace for server in lab.servers)):
            namespace.run(["ip", "mptcp", "limits", "set", "subflows", "2"])
        host.run(["ip", "mptcp", "endpoint", "add", SECOND_ADDRESS, "dev", "eth0", "subflow"])
        with closing(client(host, protocol=MPTCP)) as end:
            end.connect((str(lab.vip), lab.port))
            name, server_end = listening.accept()
            carry(end, server_end, QUESTION)  # only then does the client join
            joined = lab.servers[(lab.servers.index(lab.server(name)) + 1) % servers].namespace
            outcome = "MPJoinAckRx" if servers == 1 else "MPJoinNoTokenFound"
            wait_until(lambda: counted(joined, "MPTcpExt").get(outcome) == 1, WITHIN)
            data = os.urandom(5_000_000)
            carry(end, server_end, data)
            carry(server_end, end, data)
        assert counted(host, "MPTcpExt")["MPJoinSynTx"] == counted(joined, "MPTcpExt")["MPJoinSynRx"] == 1
        assert counted(host, "MPTcpExt").get("MPCapableFallbackSYNACK", 0) == 0
        assert drops(balancer) == {}


@pytest.mark.parametrize(("servers", "fast"), [(1, 3), (2, 0)])
def test_fast_open_works_or_falls_back(servers: int, fast: int) -> None:
    """Data in the SYN (RFC 7413) is taken by a server that knows the client's cookie, and else sent again.

    A server knows its own ones only: Linux makes them from both addresses, so that one key for all does
    not help.
    """
    with ServersLab(servers, clients=1) as lab, Servers(lab.servers, LISTENING) as listening:
        hosts = (lab.clients[0], *(server.namespace for server in lab.servers))
        for namespace in hosts:
            namespace.sysctl({"net.ipv4.tcp_fastopen": 3})
        balancer = _start(lab)
        for _ in range(4):  # the first of which only asks for a cookie
            with closing(client(lab.clients[0])) as end:
                end.sendto(QUESTION, socket.MSG_FASTOPEN, (str(lab.vip), lab.port))
                _, server_end = listening.accept()
                assert server_end.recv(100) == QUESTION
                carry(server_end, end, ANSWER)
                carry(end, server_end, QUESTION)
        taken = [counted(server.namespace, "TcpExtTCPFastOpen").get("Passive", 0) for server in lab.servers]
        refused = [
            counted(server.namespace, "TcpExtTCPFastOpen").get("PassiveFail", 0) for server in lab.servers
        ]
        assert (sum(taken), sum(refused)) == (fast, 3 - fast)
        assert counted(lab.clients[0], "TcpExtTCPFastOpen").get("Active", 0) == fast
        assert [counted(namespace, "TcpExtTSEcrRejected") for namespace in hosts] == [{}] * len(hosts)
        assert drops(balancer) == {}


def test_a_client_that_signs_is_refused() -> None:
    """TCP-MD5 (RFC 2385) signs addresses, which poise rewrites: the client hears that it cannot work.

    By its second SYN at the latest: in this lab the answer comes before its kernel has done with sending.
    """
    with ServersLab(1, clients=1) as lab, Servers(lab.servers, LISTENING) as listening:
        pass_everything(lab.switch, "b-clients")  # or a veth does not take what XDP answers
        balancer = _start(lab)
        with closing(client(lab.clients[0])) as end:
            sign(end, str(lab.vip), b"secret")
            with pytest.raises(ConnectionRefusedError):
                end.connect((str(lab.vip), lab.port))
        assert balancer.client.counters()["refused_signed_syn"] >= 1
        with closing(client(lab.clients[0])) as end:
            end.connect((str(lab.vip), lab.port))
            listening.accept()
        assert drops(balancer) == {}
