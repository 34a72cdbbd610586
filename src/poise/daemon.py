# SPDX-License-Identifier: Apache-2.0
"""`poise up` and `poise down`: one task group, one task per concern."""

import asyncio
import errno
import fcntl
import gc
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup

from poise.api import server
from poise.config import Config, Loader, XdpMode
from poise.errors import PoiseError
from poise.kernel import features, neighbours, netlink, watch
from poise.notify import notify
from poise.servers import apply, host, keys
from poise.servers.control import Controller
from poise.servers.drains import Drains
from poise.servers.events import Events, Kind
from poise.servers.hosting import Hosting
from poise.servers.model import Address
from poise.servers.reach import Reach
from poise.servers.revision import Revision
from poise.servers.service import Service
from poise.servers.store import Store

_log = structlog.get_logger()

_KEY = "cookie.key"
_SLOW_PATH_KEY = "slowpath.key"
_SERVERS = "servers.db"
_HOST = "host.json"
_LOCK = "lock"

# These are set up after attaching and undone before detaching: with forwarding, the kernel would hand
# servers' packets to clients as they are, and as an end of a VIP reset its connections.
_WHILE_ATTACHED = (host.Sysctl, host.Address)

SETTLE = 0.05  # seconds in which changes that come together are gathered
LOOK = 1.0  # seconds between two looks at loads, drains and what else is measured
SWEEP = 60  # seconds in which all connections of stateful VIPs are looked at
REFRESH = 30.0  # seconds between two looks at stale neighbours; the kernel keeps them valid for longer


class _Running(NamedTuple):
    """What a start has made."""

    controller: Controller
    drains: Drains
    service: Service


async def up(path: Path, *, xdp_mode: XdpMode | None = None, set_up_host: bool = True) -> None:
    """Balance until SIGTERM or SIGINT; packets keep flowing when this ends, in whatever way.

    path: of the configuration, which SIGHUP has read again. xdp_mode: whatever the configuration says.
    Raises PoiseError if it cannot start; what it had begun is undone then, unless an earlier
    process's packets flow already.
    """
    gc.disable()  # until all is made: garbage is not what a start makes
    try:
        await _up(Loader(path), {} if xdp_mode is None else {"xdp_mode": xdp_mode}, set_up_host=set_up_host)
    finally:
        gc.enable()


async def _up(loader: Loader, settings: dict[str, object], *, set_up_host: bool) -> None:
    config = loader.load().model_copy(update=settings)
    _check_root("poise up")
    with _only_one(config), _ungrouped(), ExitStack() as stack:
        flows = any(apply.attached(config.pin_directory).values())
        try:
            make = partial(Revision, loader, config, settings=settings)
            running = _start(config, make, stack, set_up_host=set_up_host)
            async with anyio.create_task_group() as tasks:
                await tasks.start(server.serve, config.socket, running.service)
                flows = True
                await _run(tasks, config, running)
        finally:
            if not flows:
                _undo(config)


def down(config: Config) -> list[str]:
    """Detach from the interfaces and undo what was set up; returns a sentence about each.

    The servers' ids and the key stay, so that connections survive a later `poise up`.
    """
    _check_root("poise down")
    with _only_one(config):
        return _undo(config)


def _check_root(command: str) -> None:
    if os.geteuid() != 0:
        raise PoiseError(f"{command} needs root (CAP_NET_ADMIN and CAP_BPF): run it with sudo")


@contextmanager
def _ungrouped() -> Iterator[None]:
    """Let a PoiseError out of task groups as itself."""
    try:
        yield
    except ExceptionGroup as group:
        faults, defects = group.split(PoiseError)
        if faults is None or defects is not None:
            raise
        raise _first(faults) from None


def _first(group: ExceptionGroup[PoiseError]) -> PoiseError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


@contextmanager
def _only_one(config: Config) -> Iterator[None]:
    """Hold the lock on the state directory; PoiseError if another poise has it or the socket."""
    path = config.state_directory / _LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise PoiseError(f"cannot use the state directory {path.parent}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise PoiseError(f"cannot lock {path}: {error.strerror}") from None
            raise PoiseError(f"another poise runs with {path.parent}: stop it first") from None
        server.check_free(config.socket)
        yield


def _start(
    config: Config,
    make: Callable[[Controller, Hosting], Revision],
    stack: ExitStack,
    *,
    set_up_host: bool,
) -> _Running:
    lacks = features.missing()
    if lacks:
        raise PoiseError("\n".join(lacks))
    since = time.time()
    interfaces = [netlink.interface(each.name) for each in config.interfaces]
    tags = {found.index: tuple(each.vlans) for found, each in zip(interfaces, config.interfaces, strict=True)}
    directory = config.state_directory
    key = keys.load_key(config.key_file) if config.key_file else keys.own_key(directory / _KEY)
    token = keys.own_key(directory / _SLOW_PATH_KEY)
    store = stack.enter_context(Store(directory / _SERVERS))
    modes: dict[str, str] = dict.fromkeys(config.interface_names, config.xdp_mode)
    hosting = Hosting(directory / _HOST, modes, everything=set_up_host)
    hosting.set_up(config, later=_WHILE_ATTACHED)

    limits = apply.Limits(
        *(config.handshake_rows, config.flow_rows, config.flow_rate, config.connection_rows, config.vip_limit)
    )
    plane = apply.DataPlane(config.pin_directory, limits, token[:6])
    stack.callback(plane.close)
    events = Events()
    reach = Reach(tags, plane.present.hops(), events)
    controller = Controller(plane, store, reach, events, key)
    revision = make(controller, hosting)
    # At a first start the tables are still empty: a request that came in by one interface while its
    # answer leaves by another one that is not attached yet would be answered in the server's name.
    for interface in interfaces:
        mode, fallback = plane.attach(interface, config.xdp_mode)
        if fallback:
            _log.warning("no native XDP", interface=interface.name, reason=fallback)
        _log.info("attached", interface=interface.name, mode=mode, adopted=plane.adopted)
        modes[interface.name] = mode
    plane.settle()
    revision.begin()

    settings = hosting.set_up(config)
    hosting.check(settings)
    for sentence in _take_back(config, but=(config.interface_names, settings)):
        _log.info("no longer wanted", change=sentence)
    drains = Drains(controller)
    attached = {name: modes[name] for name in config.interface_names}
    service = Service(controller, drains, revision, key, attached, since)
    # What was made so far stays: looking it through for garbage, again and again, would take seconds.
    gc.collect()
    gc.freeze()
    gc.enable()
    return _Running(controller, drains, service)


async def _run(tasks: TaskGroup, config: Config, running: _Running) -> None:
    controller = running.controller
    tasks.start_soon(controller.vigil.run)
    tasks.start_soon(controller.steering.poll)
    tasks.start_soon(_settle, controller)
    tasks.start_soon(_look, running)
    tasks.start_soon(_follow_changes, controller)
    tasks.start_soon(_refresh_neighbours, controller)
    tasks.start_soon(_sweep_connections, controller)
    status = running.service.status()
    controller.events.add(Kind.STARTED, "poise is up")
    _log.info("up", socket=str(config.socket), vips=status["vips"], servers=status["servers"])
    notify("READY=1")
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number != signal.SIGHUP:
                break
            tasks.start_soon(_reload, running.service)
    notify("STOPPING=1")
    _log.info("ending: packets keep flowing, `poise down` detaches")
    tasks.cancel_scope.cancel()


async def _reload(service: Service) -> None:
    """Read the configuration again; a refusal is an event, and nothing else."""
    try:
        await to_thread.run_sync(service.reload)
    except PoiseError as error:
        for sentence in str(error).splitlines():
            _log.error("configuration refused", mistake=sentence)


async def _attempt(what: Callable[[], None]) -> bool:
    """Do something in a thread; returns whether nobody, as the kernel or a full disk, refused it."""
    try:
        await to_thread.run_sync(what)
    except PoiseError as error:
        _log.error("not done, will be tried again", reason=str(error))
        return False
    return True


async def _settle(controller: Controller) -> None:
    """Apply verdicts as they come."""
    loop = asyncio.get_running_loop()
    changed = anyio.Event()

    def wake() -> None:
        changed.set()

    controller.wake = partial(loop.call_soon_threadsafe, wake)
    while True:
        await changed.wait()
        await anyio.sleep(SETTLE)
        changed = anyio.Event()
        await _attempt(controller.settle)


async def _look(running: _Running) -> None:
    """Measure once a second what is measured."""
    while True:
        await _attempt(running.controller.look)
        await _attempt(running.drains.look)
        await anyio.sleep(min(LOOK, running.controller.shortest_interval))


async def _follow_changes(controller: Controller) -> None:
    """Look at the ways to the servers again whenever the kernel tells of a change."""
    changed = anyio.Event()
    concerned: set[Address] | None = set()

    async def listen() -> None:
        nonlocal concerned
        async with aclosing(watch.watch()) as events:
            async for event in events:
                found = controller.reach.concerns(event)
                if found is None:
                    concerned = None
                elif concerned is not None:
                    concerned |= set(found)
                if concerned is None or concerned:
                    changed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        while True:
            await changed.wait()
            await anyio.sleep(SETTLE)
            changed = anyio.Event()
            due, concerned = concerned, set()
            if not await _attempt(partial(controller.refresh, due)):
                await anyio.sleep(LOOK)
                concerned = None
                changed.set()


async def _refresh_neighbours(controller: Controller) -> None:
    """Have stale neighbours checked: packets that XDP redirects do not count as use of an entry."""
    while True:
        await anyio.sleep(REFRESH)
        await to_thread.run_sync(neighbours.refresh_stale, controller.reach.holders_of_neighbours())


async def _sweep_connections(controller: Controller) -> None:
    """Have a part of the table of connections looked through every second, all of it in SWEEP seconds."""
    connections = controller.plane.connections
    part = -(-connections.rows // SWEEP)
    while True:
        for first in range(0, connections.rows, part):
            await anyio.sleep(1)
            await to_thread.run_sync(connections.sweep, first, min(part, connections.rows - first))


def _undo(config: Config) -> list[str]:
    done = _take_back(config)
    apply.discard(config.pin_directory)
    neighbours.let_go_except(())
    return done


def _take_back(
    config: Config, *, but: tuple[Collection[str], Collection[host.Setting]] = ((), ())
) -> list[str]:
    """Let go of all interfaces but these, and undo all settings but these; returns a sentence about each.

    No connection is reset by it. While the programs still run, the kernel stops to be an end of
    what comes for the VIPs, and to hand servers' packets to clients as they are; then servers get
    no more to answer. What the programs rely on comes after them.
    """
    interfaces, settings = but
    kept = {setting.name for setting in settings}
    file = config.state_directory / _HOST
    done = host.undo(file, lambda setting: isinstance(setting, _WHILE_ATTACHED) and setting.name not in kept)
    attached = apply.attached(config.pin_directory)
    if attached and not interfaces:
        apply.stop(config.pin_directory)
        time.sleep(SETTLE)  # for answers that are under way
    for name, ifindex in attached.items():
        if name not in interfaces:
            apply.detach(config.pin_directory, name, ifindex)
            done.append(f"detached from {name}")
    return done + host.undo(file, lambda setting: setting.name not in kept)
