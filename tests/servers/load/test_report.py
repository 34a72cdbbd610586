# SPDX-License-Identifier: Apache-2.0
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.servers.care import LoadKind, LoadSource
from poise.servers.load.report import LARGEST, BadReport, Report, read, url_of
from poise.servers.model import Server, State

URL = "http://10.0.0.1:9110/load"
AGENT = LoadSource(LoadKind.AGENT)
NUMBER = LoadSource(LoadKind.URL, url=URL)
PATH = LoadSource(LoadKind.URL, url=URL, metric="pool.0.queue", latency="p50")


@pytest.mark.parametrize(
    ("body", "source", "report"),
    [
        (b"0.5\n", NUMBER, Report(0.5)),
        (b'{"cpu": 0.25, "latency_ms": 3}', AGENT, Report(0.25, 3.0)),
        (b'{"cpu": 0, "latency_ms": null}', AGENT, Report(0.0)),
        (b'{"pool": [{"queue": 7}], "p50": 1.5}', PATH, Report(7.0, 1.5)),
    ],
)
def test_reports_are_read(body: bytes, source: LoadSource, report: Report) -> None:
    """A load is a plain number, or one at a path of a JSON value; so is a latency."""
    assert read(body, source, URL) == report


@pytest.mark.parametrize(
    ("body", "source", "sentence"),
    [
        (b'{"cpu": -0.1}', AGENT, f"cpu of {URL} is -0.1, but a load is not negative"),
        (b'{"cpu": NaN}', AGENT, f"cpu of {URL} is NaN, which is not finite"),
        (b'{"cpu": Infinity}', AGENT, f"cpu of {URL} is Infinity, which is not finite"),
        (b'{"cpu": 1e400}', AGENT, f"cpu of {URL} is Infinity, which is not finite"),
        (b"-Infinity", NUMBER, f"the answer of {URL} is -Infinity, which is not finite"),
        (b'{"cpu": "high"}', AGENT, f'cpu of {URL} is "high", which is not a number'),
        (b'{"cpu": true}', AGENT, f"cpu of {URL} is true, which is not a number"),
        (b'{"cpu": null}', AGENT, f"cpu of {URL} is null, which is not a number"),
        (b'{"cpu": 1e16}', AGENT, f"cpu of {URL} is 1e+16, more than 1e+15: no load is so large"),
        (
            b"1" + b"0" * 400,
            NUMBER,
            f"the answer of {URL} is 1{'0' * 39}…, more than 1e+15: no load is so large",
        ),
        (b'{"load": 1}', AGENT, f"{URL} answered JSON without cpu"),
        (b'{"pool": []}', PATH, f"{URL} answered JSON without pool.0.queue"),
        (b"[1]", NUMBER, f"{URL} answered JSON of more than a number: name the number's path under `metric`"),
        (b"<html>", NUMBER, f"{URL} answered neither a number nor JSON, but '<html>'"),
        (b'{"cpu": 1', AGENT, f"""{URL} answered neither a number nor JSON, but '{{"cpu": 1'"""),
        (b"\xff\xfe", NUMBER, f"{URL} answered neither a number nor JSON, but '��'"),
        (b"[" * 60000, NUMBER, f"{URL} answered neither a number nor JSON, but '{'[' * 40}'"),
        (b"", NUMBER, f"{URL} answered neither a number nor JSON, but ''"),
        (b" " * 70000, NUMBER, f"{URL} answered with more than 64 KiB, which cannot be a load"),
        (b'{"pool": [{"queue": 7}], "p50": -1}', PATH, f"p50 of {URL} is -1, but a load is not negative"),
    ],
)
def test_what_is_no_load_is_refused(body: bytes, source: LoadSource, sentence: str) -> None:
    """Nothing but a finite number from 0 to 10^15 is taken for a load, and a sentence says what was wrong."""
    with pytest.raises(BadReport) as refused:
        read(body, source, URL)
    assert str(refused.value) == sentence


@given(st.binary(max_size=200) | st.text().map(str.encode), st.sampled_from([AGENT, NUMBER, PATH]))
def test_whatever_a_server_answers_is_read_or_refused(body: bytes, source: LoadSource) -> None:
    """No answer does anything but give a load that can be used, or a sentence."""
    try:
        report = read(body, source, URL)
    except BadReport as error:
        assert URL in str(error)  # noqa: PT017 - either may happen
    else:
        assert 0 <= report.load <= LARGEST


def test_urls_name_the_server() -> None:
    """Address and port stand in for their names, of IPv6 with brackets; an agent is asked at port 9110."""
    server = Server(0, "a", IPv6Address("2001:db8::1"), 80, State.READY, 0.0, declared=True)
    assert url_of(AGENT, server) == "http://[2001:db8::1]:9110/load"
    source = LoadSource(LoadKind.URL, url="https://{address}:1{port}/{x}")
    assert url_of(source, server) == "https://[2001:db8::1]:180/{x}"
