# SPDX-License-Identifier: Apache-2.0
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from poise.servers.care import Check, CheckKind
from poise.servers.health.target import CannotCheck, Target
from tests.servers.health.certificates import Authority
from tests.servers.health.serving import once, say, say_and_wait, serving, target

CHECK = Check(CheckKind.TLS, timeout=1.0)
HTTPS = Check(CheckKind.HTTPS, timeout=1.0, body="well")
DOES_NOT_HOLD = "has a certificate that does not hold"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that checks trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def verified(authority: Authority) -> Check:
    """A check for a server named shop.example, of this authority."""
    return replace(CHECK, verify=True, ca_file=str(authority.file), host="shop.example")


def speaking_tls(
    certificate: Path, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Callable[[socket.socket], None]:
    """Shake hands, and answer a request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = newest

    def behave(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as stream:
            if stream.recv(65_536):
                stream.sendall(ANSWER)

    return behave


@contextmanager
def openssl(certificate: Path) -> Iterator[Target]:
    """An s_server of OpenSSL, which answers a request of HTTP with a page about itself."""
    argv = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(certificate), "-www"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            # It says where it listens: ACCEPT, a blank, address and port.
            port = next(line.rpartition(":")[2] for line in process.stdout if line.startswith("ACCEPT"))
            yield target(int(port))
        finally:
            process.kill()


def test_a_server_that_shakes_hands_is_well(authority: Authority) -> None:
    """Without `verify` any certificate will do, also an expired one of another name."""
    with serving(speaking_tls(authority.sign("elsewhere.example", days_ago=30))) as server:
        result = once(server, CHECK)
    assert (result.ok, result.reason) == (True, "speaks TLSv1.3")


def test_an_older_version_of_tls_is_told(authority: Authority) -> None:
    """What was agreed upon is in the reason."""
    with serving(speaking_tls(authority.sign("shop.example"), ssl.TLSVersion.TLSv1_2)) as server:
        assert once(server, CHECK).reason == "speaks TLSv1.2"


def test_openssl_is_well_and_its_page_is_read(authority: Authority, verified: Check) -> None:
    """A real TLS server passes the check of its certificate, and an HTTPS check with a body."""
    with openssl(authority.sign("shop.example")) as server:
        results = [
            once(server, verified),
            once(server, replace(verified, kind=CheckKind.HTTPS, body="Ciphers supported")),
            once(server, replace(verified, kind=CheckKind.HTTPS, body="no such words")),
        ]
    assert [result.ok for result in results] == [True, True, False], results


@pytest.mark.parametrize(
    ("names", "days_ago", "reason"),
    [
        (["shop.example"], 0, "speaks TLSv1.3"),
        (["elsewhere.example", "shop.example"], 0, "speaks TLSv1.3"),
        (
            ["elsewhere.example"],
            0,
            f"{DOES_NOT_HOLD}: Hostname mismatch, certificate is not valid for 'shop.example'.",
        ),
        (["shop.example"], 30, f"{DOES_NOT_HOLD}: certificate has expired"),
    ],
)
def test_a_certificate_is_verified(
    authority: Authority,
    verified: Check,
    names: list[str],
    days_ago: int,
    reason: str,
) -> None:
    """With `verify`, it must be of the name and of now."""
    with serving(speaking_tls(authority.sign(*names, days_ago=days_ago))) as server:
        result = once(server, verified)
    assert (result.ok, result.reason) == (not reason.startswith(DOES_NOT_HOLD), reason)


def test_a_certificate_of_a_stranger_is_not_well(tmp_path: Path, verified: Check) -> None:
    """With `verify`, it must be signed by the authority, or by one of the system's where none is named."""
    stranger = Authority(tmp_path, "stranger")
    with serving(speaking_tls(stranger.sign("shop.example"))) as server:
        for check in (verified, replace(verified, ca_file=None)):
            result = once(server, check)
            assert not result.ok
            assert "certificate that does not hold: unable to get local issuer" in result.reason


def test_without_a_name_the_certificate_must_have_the_address(authority: Authority, verified: Check) -> None:
    """Where no host is configured, the server's address is what is verified."""
    nameless = replace(verified, host=None)
    with serving(speaking_tls(authority.sign("127.0.0.1"))) as server:
        assert once(server, nameless).ok
    with serving(speaking_tls(authority.sign("shop.example"))) as server:
        assert "not valid for '127.0.0.1'" in once(server, nameless).reason


def test_authorities_are_read_again_when_they_change(tmp_path: Path) -> None:
    """A renewed authority is trusted without a restart."""
    first = Authority(tmp_path)
    check = replace(CHECK, verify=True, ca_file=str(first.file), host="shop.example")
    with serving(speaking_tls(first.sign("shop.example"))) as server:
        assert once(server, check).ok
    second = Authority(tmp_path)
    with serving(speaking_tls(second.sign("shop.example"))) as server:
        assert once(server, check).ok


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "failed the handshake of TLS: wrong version number"),
        (say(), "closed the connection in the handshake of TLS"),
        (say_and_wait(), "gave no answer within 1 s (shaking hands for TLS)"),
        (say_and_wait(b"\x16\x03\x03\x40\x00\x02"), "gave no answer within 1 s (shaking hands for TLS)"),
    ],
)
def test_a_server_that_does_not_speak_tls_is_not_well(
    behave: Callable[[socket.socket], None], reason: str
) -> None:
    """Plain text, an end, silence and half a handshake: each is told in its own words."""
    with serving(behave) as server:
        assert once(server, CHECK).reason == reason


def test_a_server_that_resets_the_handshake_is_not_well() -> None:
    """A reset in the middle of it is no handshake."""

    def reset(connection: socket.socket) -> None:
        connection.recv(1)  # not all of it: closing with unread data resets

    with serving(reset) as server:
        result = once(server, CHECK)
    assert (result.ok, result.reason) == (False, "broke the handshake of TLS off (connection reset by peer)")


def test_https_asks_over_tls(authority: Authority, verified: Check) -> None:
    """The same request as of HTTP, inside TLS, whose certificate is verified likewise."""
    check = replace(verified, kind=CheckKind.HTTPS, body="well")
    with serving(speaking_tls(authority.sign("shop.example"))) as server:
        assert once(server, check).reason == "answered 200"
        assert once(server, replace(check, body="ill")).reason.startswith("answered 200 with a body in which")
        assert "not valid for 'other.example'" in once(server, replace(check, host="other.example")).reason


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_check_without_its_authorities_says_nothing_of_a_server(
    tmp_path: Path, content: str | None
) -> None:
    """A file that is missing or broken on this machine is not held against the servers."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CannotCheck, match=f"the authorities in {file} cannot be read"):
        once(target(443), replace(CHECK, verify=True, ca_file=str(file)))
