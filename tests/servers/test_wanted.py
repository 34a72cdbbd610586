# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from poise.config import Config, Loader
from poise.errors import PoiseError
from poise.servers import wanted
from poise.servers.care import Check, CheckKind, Drain, LoadKind, LoadSource, Passive
from poise.servers.decide import WantedServer, WantedVip
from poise.servers.model import Layout, Mode, Policy, Protocol, QuicIds
from poise.servers.wanted import Wishes

SERVER = {"address": "10.0.0.1", "port": 8080, "name": "web1", "weight": 3}
USUAL = {"name": "shop", "address": "192.0.2.10", "port": 80, "servers": [SERVER]}


def read(vip: dict[str, object]) -> WantedVip:
    """What is wanted of a VIP that is written so, beside the usual."""
    config = Config.model_validate({"interfaces": ["eth0"], "vips": [USUAL | vip]})
    return wanted.vip(config.vips[0])


def test_what_is_not_written_is_as_the_model_has_it() -> None:
    """The defaults of poise.yaml and of the model are the same."""
    wish = read({})
    assert wish == WantedVip(
        "shop",
        wish.address,
        80,
        Policy.ROUND_ROBIN,
        (WantedServer("web1", wish.servers[0].address, 8080, 3),),
    )


def test_everything_that_is_written_is_wanted() -> None:
    """Each key of a VIP arrives in the model."""
    wish = read(
        {
            "protocol": "quic",
            "mode": "stateless",
            "policy": "prequal",
            "timestamp_layout": "msb",
            "quic_ids": [{"config": 1, "server_id_length": 1, "nonce_length": 7}],
            "passive": {"window": "5s", "connections": 7, "resets": "10%", "repeats": "20%", "hold": "1m"},
            "panic": "30%",
            "slow_start": "20s",
            "drain": {"quiet": "5s", "deadline": "10m", "at_deadline": "cut"},
            "load": {"from": "url", "interval": "500ms", "url": "http://{address}/load", "metric": "a.b"},
        }
    )
    assert (wish.protocol, wish.mode, wish.layout) == (Protocol.QUIC, Mode.STATELESS, Layout.MSB)
    assert wish.policy is Policy.PREQUAL
    assert wish.quic_ids == (QuicIds(1, 1, 7),)
    assert wish.passive == Passive(5, 7, 0.1, 0.2, 60)
    assert (wish.panic, wish.slow_start, wish.drain) == (0.3, 20, Drain(5, 600, cut=True))
    assert wish.load == LoadSource(LoadKind.URL, 0.5, 1.5, "http://{address}/load", "a.b")


def test_checks_are_wanted_as_they_are_written() -> None:
    """Each kind of check arrives with its own keys, and with the defaults of the model."""
    http = {
        "type": "http",
        "interval": "3s",
        "port": 81,
        "path": "/up",
        "host": "shop",
        "status": ["200-299", 404],
    }
    tls = {"type": "tls", "host": "shop", "verify": True, "ca_file": "/etc/ca.pem"}
    dns = {"type": "dns", "query": "example.net", "record": "A", "answer": "192.0.2.7"}
    script = {"type": "script", "command": ["/bin/true", "now"], "rise": 1, "fall": 5, "timeout": "500ms"}
    assert read({"checks": [http, {"type": "tcp"}, tls, dns, script]}).checks == (
        Check(CheckKind.HTTP, 3, port=81, path="/up", host="shop", statuses=((200, 299), (404, 404))),
        Check(CheckKind.TCP),
        Check(CheckKind.TLS, host="shop", verify=True, ca_file="/etc/ca.pem"),
        Check(CheckKind.DNS, query="example.net", record="A", answer="192.0.2.7"),
        Check(CheckKind.SCRIPT, timeout=0.5, rise=1, fall=5, command=("/bin/true", "now")),
    )


def test_tokens_come_from_files_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is read where the file says, and one that is missing or open to others is told."""
    token = tmp_path / "token"
    load = {"from": "agent", "url": "http://{address}:9110/load", "metric": "cpu"}
    with pytest.raises(PoiseError, match=rf"^cannot read the token {token}: No such file"):
        read({"load": load | {"token_file": str(token)}})
    token.write_text("letter by letter\n")
    token.chmod(0o644)
    with pytest.raises(PoiseError, match=rf"^the token {token} can be read by others"):
        read({"load": load | {"token_file": str(token)}})
    token.chmod(0o600)
    assert read({"load": load | {"token_file": str(token)}}).load.token == "letter by letter"  # noqa: S105  no secret
    with pytest.raises(PoiseError, match=r"^the environment variable POISE_TOKEN, .* is not set: set it$"):
        read({"load": load | {"token_env": "POISE_TOKEN"}})
    monkeypatch.setenv("POISE_TOKEN", "from the environment")
    assert read({"load": load | {"token_env": "POISE_TOKEN"}}).load.token == "from the environment"  # noqa: S105  no secret


def test_what_has_not_changed_is_the_same_object(tmp_path: Path) -> None:
    """VIPs of files that were not touched are not made anew, so that nobody looks at them again."""
    path, included = tmp_path / "poise.yaml", tmp_path / "conf.d"
    included.mkdir()
    path.write_text(json.dumps({"interfaces": ["eth0"], "include": "conf.d", "vips": [USUAL]}))
    other = USUAL | {"name": "other", "port": 81, "servers": [SERVER | {"port": 8081}]}
    (included / "other.yaml").write_text(json.dumps({"vips": [other]}))
    loader, wishes = Loader(path), Wishes()
    shop, first = wishes.read(loader.load())
    (included / "other.yaml").write_text(json.dumps({"vips": [other | {"policy": "maglev"}]}))
    again, second = wishes.read(loader.load())
    assert again is shop
    assert (first.policy, second.policy) == (Policy.ROUND_ROBIN, Policy.MAGLEV)


def test_a_key_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """The content of a key file counts, though the configuration says the same."""
    key = tmp_path / "quic.key"
    key.write_bytes(bytes(16))
    key.chmod(0o600)
    vip = USUAL | {"protocol": "quic", "quic_ids": [{"config": 0, "key_file": str(key)}]}
    config = Config.model_validate({"interfaces": ["eth0"], "vips": [vip]})
    wishes = Wishes()
    (first,) = wishes.read(config)
    assert wishes.read(config)[0] is first
    key.write_bytes(b"another key too.")
    (second,) = wishes.read(config)
    assert (first.quic_ids[0].key, second.quic_ids[0].key) == (bytes(16), b"another key too.")
