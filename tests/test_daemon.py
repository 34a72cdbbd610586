# SPDX-License-Identifier: Apache-2.0
"""`poise up` and `poise down` on a machine: what they refuse, and that nothing is left behind."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from poise import daemon
from poise.errors import PoiseError
from poise.kernel import features
from tests.kernel.programs import loaded
from tests.site import Site

pytestmark = pytest.mark.root

PASSING = 'SEC("xdp") int pass(struct xdp_md *ctx) { return XDP_PASS; }'
WITHOUT_CAPABILITIES = ["setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin", "--inh-caps=-all", "--"]


@pytest.fixture
def site() -> Iterator[Site]:
    """A machine between a client and a server."""
    with Site() as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Site, list[str]]]:
    """Another one for many tests, and its footprint before them."""
    with Site() as found:
        yield found, found.footprint()


@pytest.fixture
def untouched(shared: tuple[Site, list[str]]) -> Iterator[Site]:
    """A machine like that; at the end nothing may have been changed there."""
    site, before = shared
    site.afresh()
    yield site
    assert site.footprint() == before


@pytest.fixture(scope="module")
def undone(shared: tuple[Site, list[str]]) -> list[str]:
    """What `poise down` tells after a `poise up` on a machine with an offload to be turned off."""
    site, before = shared
    site.here.run(["ethtool", "-K", "eth0", "rxvlan", "on"])
    before[:] = site.footprint()
    balancer = site.running()
    running = site.footprint()
    balancer.stop()
    assert site.footprint() == running != before
    told = site.poise("down", "-o", "json")
    assert told.stderr == ""
    sentences: list[str] = json.loads(told.stdout)["undone"]
    return sentences


def test_down_leaves_the_machine_as_it_was(undone: list[str], untouched: Site) -> None:
    """After `poise up` and `poise down` the machine is as before, and each thing undone was told."""
    assert [sentence for sentence in undone if sentence.startswith("detached ")] == [
        "detached from eth0",
        "detached from eth1",
    ]
    assert [sentence for sentence in undone if "clsact" in sentence] == [
        "clsact of eth1: present -> absent, as before",
        "clsact of eth0: present -> absent, as before",
    ]
    assert untouched.poise("down").stdout == "there was nothing to undo\n"


def test_addresses_and_forwarding_go_before_the_programs(undone: list[str]) -> None:
    """While XDP still runs, the kernel stops to answer for VIPs and to forward; offloads come back last."""
    order = ("192.0.2.10/32", "forwarding", "detached from eth0", "detached from eth1", "rx-vlan", "clsact")
    steps = [next(n for n, sentence in enumerate(undone) if wanted in sentence) for wanted in order]
    assert steps == sorted(steps)


def test_what_a_vip_of_ipv6_takes_is_undone(site: Site) -> None:
    """With a VIP of IPv6 the machine has it and routes for it, and is as before after `poise down`."""
    for interface in ("lo", "eth0", "eth1"):
        for key in ("accept_dad", "disable_ipv6"):
            site.here.sysctl({f"net.ipv6.conf.{interface}.{key}": 0})
    site.here.ip("address add 2001:db8:1::1/64 dev eth0", "address add 2001:db8:2::1/64 dev eth1")
    site.server.sysctl({f"net.ipv6.conf.eth0.{key}": 0 for key in ("accept_dad", "disable_ipv6")})
    site.server.ip("address add 2001:db8:2::2/64 dev eth0")
    before = site.footprint()
    server = {"address": "2001:db8:2::2", "port": 80}
    site.configure({"address": "2001:db8:1::10", "port": 80, "protocol": "udp", "servers": [server]})
    balancer = site.running()
    found = "\n".join(site.footprint())
    assert "2001:db8:1::10/128" in found
    assert "net.ipv6.conf.eth1.forwarding = 1" in found
    assert "2001:db8:2::2 dev eth1 " in found
    balancer.stop()
    assert site.poise("down").returncode == 0
    assert site.footprint() == before


def test_without_host_setup_only_the_clsact_is_made(untouched: Site) -> None:
    """With --no-host-setup poise attaches, tells what is not set up, and changes nothing else."""
    site = untouched
    before = set(site.footprint())
    balancer = site.running("--no-host-setup")
    added = [line for line in site.footprint() if line not in before and str(site.pins) not in line]
    assert [line for line in added if not re.search(r"clsact|xdp|slow_path|managed|^filter ", line)] == []
    assert "net.ipv4.conf.eth0.forwarding is 0 and should be 1" in balancer.log.read_text()
    balancer.stop()
    assert "clsact of eth0: present -> absent, as before" in site.poise("down").stdout


def test_a_clsact_that_others_use_stays(site: Site) -> None:
    """When somebody hung filters on the clsact that poise made, `poise down` leaves it, and says so."""
    site.running().stop()
    match = ["protocol", "ip", "u32", "match", "u32", "0", "0"]
    site.here.run(["tc", "filter", "add", "dev", "eth0", "egress", *match])
    undone = site.poise("down").stdout.splitlines()
    left = "clsact of eth0 is left used by others: it was changed after poise had set it up"
    assert [sentence for sentence in undone if "clsact" in sentence] == [
        "clsact of eth1: present -> absent, as before",
        left,
    ]
    assert "u32" in site.here.run(["tc", "filter", "show", "dev", "eth0", "egress"])


def test_a_clsact_that_was_there_stays(untouched: Site) -> None:
    """What poise did not make it does not remove."""
    site = untouched
    site.here.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])
    site.running().stop()
    site.poise("down")
    assert "clsact" in site.here.run(["tc", "qdisc", "show", "dev", "eth0"])
    site.here.run(["tc", "qdisc", "delete", "dev", "eth0", "clsact"])


def test_a_second_poise_is_refused(site: Site) -> None:
    """While a poise runs, neither `up` nor `down` does anything to it."""
    balancer = site.running()
    before = site.footprint()
    for verb in ("up", "down"):
        assert site.refusal(verb) == f"another poise runs with {site.state}: stop it first"
    assert site.footprint() == before
    assert [server["name"] for server in balancer.client.servers()] == ["web1"]


def test_a_taken_socket_is_refused(untouched: Site) -> None:
    """When another process listens on the socket, or it is no socket, nothing is begun."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(untouched.socket))
        other.listen()
        assert untouched.refusal() == f"another process listens on {untouched.socket}: stop it first"
    untouched.socket.unlink()
    untouched.socket.touch()
    assert untouched.refusal().startswith(f"cannot listen on {untouched.socket}: a file that is no socket ")


@pytest.mark.parametrize("names", [["absent0"], ["eth0", "absent0"]])
def test_a_missing_interface_is_refused(untouched: Site, names: list[str]) -> None:
    """If one interface is not there, none is touched, and those there are are named."""
    untouched.configure(interfaces=names)
    assert untouched.refusal() == "no interface absent0: the interfaces are lo, eth0, eth1"


@pytest.mark.parametrize("name", ["eth0", "eth1"])
def test_an_interface_with_another_xdp_program_is_refused(site: Site, name: str) -> None:
    """A foreign XDP program stays, and what was done before it was found is undone."""
    program = loaded(PASSING).program("pass")
    pin = Path("/sys/fs/bpf") / f"{site.pins.name}-foreign"
    site.here.run(["bpftool", "prog", "pin", "id", str(program.id), str(pin)])
    site.here.run(["bpftool", "net", "attach", "xdpdrv", "pinned", str(pin), "dev", name])
    pin.unlink()
    before = site.footprint()
    sentence = site.refusal()
    assert sentence.startswith(f"{name} already has an XDP program (id {program.id}): remove it first")
    assert site.footprint() == before


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/tmp/poise-pins", "the pin directory {} must be a directory below a BPF file system"),  # noqa: S108
        ("/sys/fs/bpf", "the pin directory {} must be a directory below a BPF file system"),
        ("/sys/fs/bpf/a.b/c", "cannot create the pin directory {}: "),
    ],
)
def test_a_pin_directory_that_cannot_be_is_refused(untouched: Site, path: str, sentence: str) -> None:
    """Pins need a directory of their own in a BPF file system; elsewhere nothing is made."""
    untouched.configure(pin_directory=path)
    assert untouched.refusal().startswith(sentence.format(path))
    assert not Path("/tmp/poise-pins").exists()  # noqa: S108


def test_the_bpf_file_system_is_mounted_if_need_be(site: Site) -> None:
    """Where /sys/fs/bpf is not mounted yet, poise does it, or says that it may not."""
    unmounted = ["unshare", "--mount", "sh", "-c", 'umount /sys/fs/bpf && exec "$@"', "sh"]
    site.configure(interfaces=["eth0"], handshake_rows=2**22, pin_directory="/sys/fs/bpf/poise-test")
    sentence = site.refusal(wrapper=[*unmounted, "setpriv", "--bounding-set=-sys_admin", "--"])
    assert sentence == "cannot mount the BPF file system on /sys/fs/bpf: Operation not permitted"


def test_a_machine_that_does_not_let_us_is_named(untouched: Site) -> None:
    """In a container without the capabilities, one sentence says so before anything is begun."""
    sentence = untouched.refusal(wrapper=WITHOUT_CAPABILITIES)
    assert sentence.startswith("this machine does not let poise load XDP programs: ")


def test_a_kernel_that_lacks_something_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that the kernel lacks is named before anything is begun."""
    before = site.footprint()
    lacking = features.Feature("time travel", "Linux 99", map=999)
    monkeypatch.setattr(features, "REQUIRED", (*features.REQUIRED, lacking))
    with site.here.enter(), pytest.raises(PoiseError, match=r"^the kernel lacks time travel: "):
        anyio.run(daemon.up, site.configuration)
    assert site.footprint() == before


def test_damaged_ids_are_refused_and_kept(untouched: Site) -> None:
    """With a file of ids that cannot be read nothing is started; and `poise down` does not need it."""
    site = untouched
    site.running().stop()
    file = site.state / "servers.db"
    file.write_text("{")
    assert site.refusal().startswith(f"cannot read the server ids in {file} (")
    assert "detached from eth0" in site.poise("down").stdout
    assert site.refusal().startswith(f"cannot read the server ids in {file} (")
    assert file.read_text() == "{"


def test_a_damaged_record_of_the_host_is_refused(untouched: Site) -> None:
    """Where it is not known what to set back, nothing more is changed."""
    untouched.state.mkdir()
    file = untouched.state / "host.json"
    file.write_text("{")
    for verb in ("up", "down"):
        assert untouched.refusal(verb).startswith(f"{file} is damaged (")


def test_a_key_that_others_can_read_is_refused(untouched: Site) -> None:
    """The key of the cookie must be root's alone, before anything is begun."""
    untouched.state.mkdir()
    key = untouched.state / "cookie.key"
    key.write_text("00" * 16)
    key.chmod(0o644)
    assert untouched.refusal() == f"the cookie key {key} can be read by others (mode 644): `chmod 600 {key}`"


def test_tables_of_another_size_are_made_anew(site: Site) -> None:
    """With a changed number of rows the next start goes on with new tables, and leaves none behind."""
    balancer = site.running()
    before = sorted(site.pins.iterdir())
    balancer.stop()
    site.configure(handshake_rows=2048)
    balancer.start()
    assert [server["state"] for server in balancer.client.servers()] == ["ready"]
    assert sorted(site.pins.iterdir()) == before


def test_a_state_directory_that_cannot_be_is_refused(untouched: Site) -> None:
    """Without a place for ids nothing is begun."""
    untouched.state.touch()
    assert untouched.refusal().startswith(f"cannot use the state directory {untouched.state}: ")
