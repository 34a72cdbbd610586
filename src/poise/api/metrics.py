# SPDX-License-Identifier: Apache-2.0
"""What a running poise exposes to Prometheus; docs/reference/metrics.md explains each metric."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from poise.api.facade import ServerFigures, Snapshot, VipFigures
from poise.errors import NotFoundError, PoiseError
from poise.servers.model import State

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST

MOST_SERVERS: Final = 50_000  # take some 7 s and 200 MiB; Prometheus waits for 10 s unless told otherwise

STATES: Final = (*(state.value for state in State), "down")


class _ServerMetric(NamedTuple):
    kind: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    help: str
    value: Callable[[ServerFigures], float | None]  # None: the server has no such sample


_SERVERS: Final = (
    _ServerMetric(
        CounterMetricFamily,
        "poise_server_connections",
        "Connections placed on the server",
        lambda server: server["connections"],
    ),
    _ServerMetric(
        CounterMetricFamily,
        "poise_server_packets",
        "Packets from clients to the server",
        lambda server: server["packets"],
    ),
    _ServerMetric(
        CounterMetricFamily,
        "poise_server_bytes",
        "Bytes of IP packets from clients to the server",
        lambda server: server["bytes"],
    ),
    _ServerMetric(
        CounterMetricFamily,
        "poise_server_syn_repeats",
        "SYNs to the server that clients had to send again",
        lambda server: server["repeats"],
    ),
    _ServerMetric(
        CounterMetricFamily,
        "poise_server_syn_answers",
        "SYN-ACKs of the server",
        lambda server: server["answers"],
    ),
    _ServerMetric(
        CounterMetricFamily,
        "poise_server_syn_resets",
        "Connections that the server refused with a reset",
        lambda server: server["resets"],
    ),
    _ServerMetric(
        GaugeMetricFamily,
        "poise_server_open_connections",
        "Open connections: exact of stateful VIPs, else estimated",
        lambda server: server["open"],
    ),
    _ServerMetric(
        GaugeMetricFamily, "poise_server_weight", "Weight of the server", lambda server: server["weight"]
    ),
    _ServerMetric(
        GaugeMetricFamily,
        "poise_server_share",
        "Share of its VIP's new connections that the server is to get, 0 to 1",
        lambda server: server["share"],
    ),
    _ServerMetric(
        GaugeMetricFamily,
        "poise_server_load",
        "Load of the server as its VIP's load signal last said",
        lambda server: server["load"],
    ),
    _ServerMetric(
        GaugeMetricFamily,
        "poise_server_latency_seconds",
        "Latency of the server as its VIP's load signal last said",
        lambda server: server["latency"],
    ),
    _ServerMetric(
        GaugeMetricFamily,
        "poise_server_check_duration_seconds",
        "Duration of the last health check",
        lambda server: server["check_seconds"],
    ),
)


def exposition(snapshot: Snapshot, vip: str | None = None) -> bytes:
    """Write a snapshot in Prometheus' text format: with `vip`, of that one only.

    Raises NotFoundError if there is no such VIP, and PoiseError if there are too many servers for one answer.
    """
    if vip is not None:
        snapshot = _only(snapshot, vip)
    servers = len(snapshot["servers"])
    if servers > MOST_SERVERS:
        raise PoiseError(
            f"the metrics of {servers:,} servers are too many for one answer, which may have "
            f"{MOST_SERVERS:,}: ask for those of each VIP, by /metrics?vip=NAME"
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(snapshot))
    return generate_latest(registry)


def _only(snapshot: Snapshot, vip: str) -> Snapshot:
    vips = [figures for figures in snapshot["vips"] if figures["vip"] == vip]
    if not vips:
        raise NotFoundError(f"there is no VIP {vip}")
    return {
        **snapshot,
        "vips": vips,
        "servers": [server for server in snapshot["servers"] if server["vip"] == vip],
    }


class _Snapshot(Collector):
    """Yields one family at a time, so that not all samples are in memory at once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        for metric in _SERVERS:
            yield _of_servers(metric, snapshot["servers"])
        yield _states(snapshot["servers"])
        yield from _of_vips(snapshot["vips"])
        yield _counter(
            "poise_counters",
            "Packets and events that the data plane counted",
            "counter",
            snapshot["counters"],
        )
        yield _counter(
            "poise_events",
            "Events of the control plane, as `poise events` has them",
            "kind",
            snapshot["events"],
        )
        yield _counter("poise_config_reloads", "Reloads of the configuration", "result", snapshot["reloads"])
        yield InfoMetricFamily("poise_config", "The configuration that runs", {"digest": snapshot["digest"]})
        yield InfoMetricFamily("poise_build", "The version of poise", {"version": snapshot["version"]})


def _of_servers(metric: _ServerMetric, servers: Iterable[ServerFigures]) -> Metric:
    family = metric.kind(metric.name, metric.help, labels=("vip", "server"))
    for server in servers:
        value = metric.value(server)
        if value is not None:
            family.add_metric((server["vip"], server["server"]), value)
    return family


def _states(servers: Iterable[ServerFigures]) -> Metric:
    family = GaugeMetricFamily(
        "poise_server_state",
        "1 for the state that the server is in, else 0",
        labels=("vip", "server", "state"),
    )
    for server in servers:
        for state in STATES:
            labels = (server["vip"], server["server"], state)
            family.add_metric(labels, 1.0 if server["state"] == state else 0.0)
    return family


def _of_vips(vips: Sequence[VipFigures]) -> Iterator[Metric]:
    usable = GaugeMetricFamily(
        "poise_vip_usable_servers", "Servers of the VIP that take new connections", labels=("vip",)
    )
    panicking = GaugeMetricFamily(
        "poise_vip_panicking", "1 if so few servers are up that all are used", labels=("vip",)
    )
    info = GaugeMetricFamily(
        "poise_vip_info", "How the VIP is balanced", labels=("vip", "protocol", "mode", "policy")
    )
    for vip in vips:
        usable.add_metric((vip["vip"],), vip["usable"])
        panicking.add_metric((vip["vip"],), float(vip["panicking"]))
        info.add_metric((vip["vip"], vip["protocol"], vip["mode"], vip["policy"]), 1)
    yield from (usable, panicking, info)


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
