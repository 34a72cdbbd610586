# SPDX-License-Identifier: Apache-2.0
"""A program that answers each datagram with its name, a colon and what it got.

What begins with `fill N ` gets an answer of N octets, however many fragments that takes: cut, or padded.
"""

import argparse
import socket
import sys

from poise.lab.addresses import socket_family

FILL = b"fill "
LARGEST = 65507  # octets of payload: 65535 less the headers of IPv4 and UDP
BUFFER = 1 << 22  # octets that wait to be read
SO_NO_CHECK, SO_RCVBUFFORCE = 11, 33  # asm-generic/socket.h


def answer(name: bytes, question: bytes) -> bytes:
    """What the server of this name says to a datagram."""
    said = name + b":" + question
    if question.startswith(FILL):
        octets = int(question.split(b" ", 2)[1])
        return said[:octets].ljust(octets, b".")
    return said


def main() -> None:
    """Read the command line, then answer for ever."""
    parser = argparse.ArgumentParser(description="Answer each datagram with a name and what it said.")
    parser.add_argument("name")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--no-checksums", action="store_true", help="send 0 in their place (IPv4)")
    given = parser.parse_args()
    with socket.socket(socket_family(given.address), socket.SOCK_DGRAM) as served:
        served.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        if given.no_checksums:
            served.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        served.bind((given.address, given.port))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            question, client = served.recvfrom(LARGEST)
            served.sendto(answer(given.name.encode(), question), client)


if __name__ == "__main__":
    main()
