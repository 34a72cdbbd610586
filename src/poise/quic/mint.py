# SPDX-License-Identifier: Apache-2.0
"""What a QUIC server needs in order to mint connection ids that name it.

Everything but `configure` is independent of aioquic, and serves any server written in Python.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from poise.quic import connection_id
from poise.quic.connection_id import QuicIdError, encode, unroutable
from poise.servers.model import QuicIds

if TYPE_CHECKING:
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

UNCONFIGURED_LENGTH = 8  # the least that section 3.2 of the draft recommends


class Minter:
    """The connection ids of one server, each of which it gives out once.

    ids: None as long as the server has no configuration; its connection ids are then unroutable.
    """

    def __init__(self, ids: QuicIds | None, server_id: int = 0) -> None:
        """Take both as the balancer has them; QuicIdError if the server id does not fit the configuration."""
        self._ids = ids
        self._server_id = server_id
        self._minted = 0
        if ids is None:
            self.length = UNCONFIGURED_LENGTH
            return
        encode(ids, server_id, bytes(ids.nonce_length))
        self.length = connection_id.length(ids)
        self._nonces = 1 << 8 * ids.nonce_length
        self._first = int.from_bytes(os.urandom(ids.nonce_length), "big")

    def mint(self) -> bytes:
        """Return a connection id that was not given out before.

        Under a key the nonces are counted from a random number, so that none comes twice; once all are used
        up, ids are unroutable, as the draft wants it. Without a key they are random, as they can be seen.
        """
        if self._ids is None or self._minted == self._nonces:
            return unroutable(self.length)
        nonce = os.urandom(self._ids.nonce_length)
        if self._ids.key is not None:
            number = (self._first + self._minted) % self._nonces
            nonce = number.to_bytes(self._ids.nonce_length, "big")
            self._minted += 1
        return encode(self._ids, self._server_id, nonce)


def configure(
    configuration: "QuicConfiguration", minter: Minter, create_protocol: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Have all connection ids of an aioquic server minted: returns the `create_protocol` for `serve`.

    configuration: the one that `serve` gets; its connection_id_length is set. create_protocol: what
    `serve` would get otherwise. Raises QuicIdError for the configuration of a client.

        configuration = QuicConfiguration(is_client=False)
        protocol = configure(configuration, Minter(ids, server_id), MyProtocol)
        await serve(host, port, configuration=configuration, create_protocol=protocol)
    """
    from aioquic.asyncio.protocol import QuicConnectionProtocol  # noqa: PLC0415  # only for those who have it

    if configuration.is_client:
        raise QuicIdError("connection ids are minted by QUIC servers, and this configuration is a client's")
    configuration.connection_id_length = minter.length
    create = create_protocol or QuicConnectionProtocol

    def create_minting(connection: "QuicConnection", **arguments: Any) -> Any:  # noqa: ANN401  # as aioquic has it
        _mint_for(connection, minter)
        return create(connection, **arguments)

    return create_minting


def _mint_for(connection: "QuicConnection", minter: Minter) -> None:
    """Replace the ids that aioquic draws at random, which it has no setting for.

    `serve` creates the protocol before it uses the connection: nobody has seen its first id yet. Later ids
    are sent in NEW_CONNECTION_ID frames, some time after they are made. Private members, because there is
    no public way to the ids.
    """
    (first,) = connection._host_cids  # noqa: SLF001
    first.cid = connection.host_cid = minter.mint()
    connection._local_initial_source_connection_id = first.cid  # noqa: SLF001
    replenish = connection._replenish_connection_ids  # noqa: SLF001

    def replenish_minted() -> None:
        before = {host.sequence_number for host in connection._host_cids}  # noqa: SLF001
        replenish()
        for host in connection._host_cids:  # noqa: SLF001
            if host.sequence_number not in before:
                host.cid = minter.mint()

    connection._replenish_connection_ids = replenish_minted  # type: ignore[method-assign]  # noqa: SLF001
