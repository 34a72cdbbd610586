# SPDX-License-Identifier: Apache-2.0
"""`poise up` and `poise down`: one task group, one task per concern."""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager

import anyio
import structlog
from anyio.abc import TaskGroup

from poise.api import server
from poise.config import Config
from poise.errors import PoiseError
from poise.kernel import features, neighbours, netlink, watch
from poise.servers import apply, host, state
from poise.servers.control import Controller

_log = structlog.get_logger()

_KEY = "cookie.key"
_SLOW_PATH_KEY = "slowpath.key"
_MODEL = "servers.json"
_HOST = "host.json"
_LOCK = "lock"

# These are set up after attaching and undone before detaching: with forwarding, the kernel would hand
# servers' packets to clients as they are, and as an end of a VIP reset its connections.
_WHILE_ATTACHED = (host.Sysctl, host.Address)

SETTLE = 0.05  # seconds in which changes that come together are gathered
RESOLVE = 1.0  # seconds that a start waits for the servers' neighbours
REFRESH = 30.0  # seconds between two looks at stale neighbours; the kernel keeps them valid for longer


async def up(config: Config, *, set_up_host: bool = True) -> None:
    """Balance until SIGTERM or SIGINT; packets keep flowing when this ends, in whatever way.

    Raises PoiseError if it cannot start; what it had begun is undone then, unless an earlier
    process's packets flow already.
    """
    _check_root("poise up")
    with _only_one(config), _ungrouped():
        flows = any(apply.attached(config.pin_directory).values())
        try:
            controller = _start(config, set_up_host=set_up_host)
            async with anyio.create_task_group() as tasks:
                await tasks.start(server.serve, config.socket, controller)
                flows = True
                await _run(tasks, config, controller)
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


def _start(config: Config, *, set_up_host: bool) -> Controller:
    lacks = features.missing()
    if lacks:
        raise PoiseError("\n".join(lacks))
    interfaces = [netlink.interface(each.name) for each in config.interfaces]
    tags = {found.index: tuple(each.vlans) for found, each in zip(interfaces, config.interfaces, strict=True)}
    directory = config.state_directory
    key = state.load_key(directory / _KEY)
    token = state.load_key(directory / _SLOW_PATH_KEY)
    modes: dict[str, str] = dict.fromkeys(config.interface_names, config.xdp_mode)
    _set_up(config, modes, everything=set_up_host, later=_WHILE_ATTACHED)

    limits = apply.Limits(config.handshake_rows, config.flow_rows, config.flow_rate)
    plane = apply.DataPlane(config.pin_directory, limits, token[:6])
    controller = Controller(config, directory / _MODEL, key, plane, tags)
    # At a first start the tables are still empty: a request that came in by one interface while its
    # answer leaves by another one that is not attached yet would be answered in the server's name.
    for interface in interfaces:
        mode, fallback = plane.attach(interface, config.xdp_mode)
        if fallback:
            _log.warning("no native XDP", interface=interface.name, reason=fallback)
        _log.info("attached", interface=interface.name, mode=mode, adopted=plane.adopted)
        modes[interface.name] = mode
    controller.begin()

    _set_up(config, modes, everything=set_up_host, later=(host.Address,))
    _resolve(controller)
    settings = _set_up(config, modes, everything=set_up_host)
    if not set_up_host:
        for sentence in host.check(settings):
            _log.warning("host not set up", fault=sentence)
    for sentence in _take_back(config, but=(config.interface_names, settings)):
        _log.info("no longer wanted", change=sentence)
    return controller


def _resolve(controller: Controller) -> None:
    """Give neighbours a moment to answer, so that the first connections find their servers."""
    deadline = time.monotonic() + RESOLVE
    while controller.unreachable() and time.monotonic() < deadline:
        time.sleep(SETTLE)
        controller.refresh()


def _set_up(
    config: Config, modes: Mapping[str, str], *, everything: bool, later: tuple[type, ...] = ()
) -> list[host.Setting]:
    """Set up the host, or of it only what poise cannot do without; return the settings that this takes.

    later: kinds of settings whose time has not come.
    """
    settings = host.plan(config, modes)
    due = [setting for setting in settings if everything or isinstance(setting, host.Clsact)]
    now = [setting for setting in due if not isinstance(setting, later)]
    for sentence in host.set_up(now, config.state_directory / _HOST):
        _log.info("host set up", change=sentence)
    return settings


async def _run(tasks: TaskGroup, config: Config, controller: Controller) -> None:
    tasks.start_soon(_follow_changes, controller)
    tasks.start_soon(_refresh_neighbours, controller)
    _log.info("up", socket=str(config.socket), servers=len(controller.list()))
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            break
    _log.info("ending: packets keep flowing, `poise down` detaches")
    tasks.cancel_scope.cancel()


async def _follow_changes(controller: Controller) -> None:
    """Look at the ways to the servers again whenever the kernel tells of a change."""
    changed = anyio.Event()

    async def listen() -> None:
        nonlocal changed
        async with aclosing(watch.watch()) as events:
            async for event in events:
                if controller.concerns(event):
                    changed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        while True:
            await changed.wait()
            await anyio.sleep(SETTLE)
            changed = anyio.Event()
            controller.refresh()


async def _refresh_neighbours(controller: Controller) -> None:
    """Have stale neighbours checked: packets that XDP redirects do not count as use of an entry."""
    while True:
        await anyio.sleep(REFRESH)
        neighbours.refresh_stale(controller.holders_of_neighbours())


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
