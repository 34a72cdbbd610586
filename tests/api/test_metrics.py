# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes, read by its own parser."""

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from poise.api import metrics
from poise.api.client import Client
from poise.errors import PoiseError
from tests.api.serving import ListFacade

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"

# https://prometheus.io/docs/practices/naming/: base units, and _total for what is counted
BASE_UNITS = ("_seconds", "_bytes", "_ratio")
OTHER_UNITS = re.compile(r"_(ms|milliseconds|us|ns|minutes|kilobytes|mb|percent)(_|$)")


@pytest.fixture
def scraped(client: Client, facade: ListFacade) -> dict[str, Metric]:
    """All families of a poise with two servers, by name."""
    facade.add("web", "web1", IPv4Address("10.0.0.1"), 80)
    facade.add("shop", 'odd"\\\nname', IPv4Address("10.0.0.2"), 80, 3)
    facade.rows[1]["state"] = "down"
    return {family.name: family for family in text_string_to_metric_families(client.metrics())}


def samples(family: Metric) -> dict[tuple[str, ...], float]:
    """The values of a family by the values of its labels, in the order of their names."""
    return {
        tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value for sample in family.samples
    }


def test_servers(scraped: dict[str, Metric]) -> None:
    """Each server has its figures, whatever is in its name; what is not known has no sample."""
    odd = 'odd"\\\nname'
    assert samples(scraped["poise_server_connections"]) == {("web1", "web"): 10, (odd, "shop"): 10}
    assert samples(scraped["poise_server_weight"]) == {("web1", "web"): 1, (odd, "shop"): 3}
    assert samples(scraped["poise_server_latency_seconds"]) == {("web1", "web"): 0.25, (odd, "shop"): 0.25}
    assert samples(scraped["poise_server_load"]) == {}


def test_states(scraped: dict[str, Metric]) -> None:
    """Of all states that a server may be in, exactly the one that it is in is 1."""
    found = samples(scraped["poise_server_state"])
    assert {labels for labels, value in found.items() if value} == {
        ("web1", "ready", "web"),
        ('odd"\\\nname', "down", "shop"),
    }
    assert {state for _, state, _ in found} == {"ready", "drain", "maint", "down", "removed", "cut"}
    assert set(found.values()) == {0, 1}


def test_whole(scraped: dict[str, Metric]) -> None:
    """What is of poise as a whole is told by name."""
    assert samples(scraped["poise_counters"]) == {("packets",): 0, ("new_connections",): 0}
    assert samples(scraped["poise_events"]) == {("down",): 2}
    assert samples(scraped["poise_config_reloads"]) == {("ok",): 3, ("refused",): 1}
    assert samples(scraped["poise_config_info"]) == {("ab12",): 1}
    assert samples(scraped["poise_build_info"]) == {("1.2.3",): 1}
    assert samples(scraped["poise_vip_info"]) == {
        ("stateless", "maglev", "tcp", vip): 1 for vip in ("shop", "web")
    }


def test_names(scraped: dict[str, Metric]) -> None:
    """Names follow the rules of Prometheus: a prefix, base units, and _total for what is counted alone."""
    for name, family in scraped.items():
        assert re.fullmatch(r"poise_[a-z]+(_[a-z]+)*", name)
        assert not OTHER_UNITS.search(name)
        exposed = {sample.name for sample in family.samples}
        assert exposed <= ({f"{name}_total"} if family.type == "counter" else {name})
        assert family.documentation


def test_of_a_vip(client: Client, facade: ListFacade) -> None:
    """Scraped by VIP, only its servers are told, and a VIP that is not there is an error."""
    for vip in ("web", "shop"):
        facade.add(vip, vip, IPv4Address("10.0.0.1"), 80)
    found = {family.name: family for family in text_string_to_metric_families(client.metrics("web"))}
    assert samples(found["poise_server_packets"]) == {("web", "web"): 100}
    assert samples(found["poise_vip_usable_servers"]) == {("web",): 1}
    with pytest.raises(PoiseError, match="there is no VIP ghost"):
        client.metrics("ghost")


def test_too_many_servers(client: Client, facade: ListFacade, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would take too long and too much memory in one answer is refused, and still there by VIP."""
    monkeypatch.setattr(metrics, "MOST_SERVERS", 2)
    for port in (1, 2, 3):
        facade.add("web" if port == 1 else "shop", None, IPv4Address("10.0.0.1"), port)
    with pytest.raises(PoiseError, match="the metrics of 3 servers are too many for one answer"):
        client.metrics()
    assert "10.0.0.1:3" in client.metrics("shop")


def test_every_metric_is_explained(scraped: dict[str, Metric]) -> None:
    """The reference lists each metric with its type and labels, and no others."""
    lines = re.findall(r"^\| `(poise_\w+)` \| (\w+) \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in lines}
    exposed = {
        f"{name}_total" if family.type == "counter" else name: (
            family.type,
            {label for sample in family.samples for label in sample.labels} or {"vip", "server"},
        )
        for name, family in scraped.items()
    }
    assert documented == exposed
