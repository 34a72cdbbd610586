# SPDX-License-Identifier: Apache-2.0
"""A network that delivers a segment again and again: who gets it answers each copy at once, with an ACK."""

import socket
import threading
from types import TracebackType
from typing import Self

from poise.lab.capture import tags_of
from poise.lab.conversation import Conversation
from poise.lab.namespaces import Namespace

_ETH_P_ALL = 3
_ETHER_TYPE_AT = 12
_TCP_AT = {b"\x08\x00": 14 + 20, b"\x86\xdd": 14 + 40}  # octets, by EtherType: Ethernet and IP header
_PSH = 8
_PAUSE = 0.00002  # seconds; in truth it takes the better part of 0.1 ms


class Duplicates:
    """Thousands of copies a second of a segment with data, sent from a namespace's `eth0`.

    As a context manager, around which the conversation may say nothing else.
    """

    def __init__(self, namespace: Namespace, conversation: Conversation, source_port: int) -> None:
        """Have the conversation exchange something, of which this keeps what left here from that port."""
        with namespace.enter():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind(("eth0", _ETH_P_ALL))
        conversation.exchange()
        source = source_port.to_bytes(2, "big")
        while True:
            self._frame = self._socket.recv(2048)
            tags = 4 * len(tags_of(self._frame))
            at = tags + _TCP_AT.get(self._frame[_ETHER_TYPE_AT + tags : _ETHER_TYPE_AT + tags + 2], 0)
            if at > tags and self._frame[at : at + 2] == source and self._frame[at + 13] & _PSH:
                break
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _repeat(self) -> None:
        while not self._stop.wait(_PAUSE):
            self._socket.send(self._frame)
