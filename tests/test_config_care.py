# SPDX-License-Identifier: Apache-2.0
"""What a configuration says of policies, checks, drains and loads, and the mistakes in it."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

import pytest

from poise.config import (
    CheckConfig,
    ConfigError,
    DrainConfig,
    LoadConfig,
    PassiveConfig,
    VipConfig,
    load,
)
from poise.config.care import DnsCheckConfig, HttpCheckConfig, HttpsCheckConfig, ScriptCheckConfig
from poise.config.model import Policy
from poise.servers import care, model
from tests.configs import assert_mistakes, write

HEAD = """\
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 80
    servers: []
"""

# What follows the head of a configuration; the rest as in test_config_mistakes.
MISTAKES = {
    "keys of checks": """\
    checks:
      - {type: http, pth: /}  # ! a check of type http has no key "pth": did you mean "path"?
      - {type: tcp, path: /}  # ! a check of type tcp has no key "path": it belongs to a check of type http
      - {type: script}  # ! a check of type script has no "command": write it, like `command: [
      - {interval: 2s}  # ! a check has no "type"
      - {type: htps}  # ! type "htps" is unknown: did you mean "https"?
      - {type: ping}  # ! type "ping" is unknown: write "tcp", "http", "https", "tls", "dns" or "script"
      - http  # ! a check must have keys
""",
    "too many checks": """\
    checks: [  # ! "checks" has 9 items: write at most 8
        {type: tcp}, {type: tcp}, {type: tcp}, {type: tcp}, {type: tcp}, {type: tcp}, {type: tcp},
        {type: tcp}, {type: tcp}]
""",
    "checks that are no list": """\
    checks: {type: tcp}  # ! "checks" must be a list, not keys with values: write one, like `checks: [
""",
    "times": """\
    slow_start: -1s  # ! slow_start "-1s" is not understood
    checks:
      - {type: tcp, interval: 50ms}  # ! interval "50ms" is out of range: write one from 100ms to 1h
      - {type: tcp, interval: 2h}  # ! interval "2h" is out of range
      - {type: tcp, interval: 1.5}  # ! interval 1.5 is not understood: write seconds, or like 500ms, 2s or 1m
      - {type: tcp, interval: }  # ! interval has no value
      - {type: tcp, interval: 1s, timeout: 2s}  # ! timeout is longer than the interval
      - {type: tcp, timeout: 3s}  # ! timeout is longer than the interval
    drain: {quiet: 500ms}  # ! quiet "500ms" is out of range: write one from 1s to 7d
""",
    "fractions": """\
    panic: 0.5  # ! panic 0.5 is not a percentage: write one from 0% to 100%
    policy: awrr
    awrr_alpha: 95%  # ! awrr_alpha 95% is out of range: write one from 0% to 90%
    checks:
      - {type: tcp, jitter: 60%}  # ! jitter 60% is out of range
      - {type: tcp, jitter: 10}  # ! jitter 10 is not a percentage
    passive: {resets: "%", repeats: }  # ! resets "%" is not a percentage ! repeats has no value
""",
    "counts": """\
    checks:
      - {type: tcp, rise: 0, fall: 101}  # ! rise 0 is out of range ! fall 101 is out of range
      - {type: tcp, port: 0}  # ! port 0 is out of range
      - {type: tcp, port: }  # ! port has no value
    passive: {connections: 0, windw: 1s}  # ! connections 0 ! no key "windw": did you mean "window"?
""",
    "what HTTP asks": """\
    checks:
      - {type: http, method: get}  # ! method "get" is unknown: did you mean "GET"?
      - {type: http, path: health}  # ! path "health" cannot be asked for: begin it with /
      - {type: http, path: "/a b"}  # ! write %20 for a space
      - {type: http, path: "/?api_key=1"}  # ! path has a secret in it ("api_key")
      - {type: http, host: "a b"}  # ! host "a b" is not a host's name
      - {type: http, status: 200}  # ! "status" must be a list, not 200: write one, like `status: [200-299]`
      - {type: http, status: []}  # ! "status" is empty
      - {type: http, status: [20, 299-200]}  # ! status 20 is not ! status "299-200" is not understood
""",
    "what comes back": """\
    checks:
      - {type: http, body: "("}  # ! body "(" is not a regular expression
      - {type: http, body: 7}  # ! body 7 is a number, not text
      - {type: https, verify: yes}  # ! verify yes is not a truth value: write true or false
      - {type: https, ca_file: /ca.pem}  # ! ca_file is only for certificates that are verified
      - {type: tls, verify: true, ca_file: ca.pem}  # ! ca_file "ca.pem" is not an absolute path
""",
    "DNS and scripts": """\
    checks:
      - {type: dns, query: "a..b"}  # ! query "a..b" is not a name in DNS
      - {type: dns, record: ZZZ}  # ! record "ZZZ" is unknown: write "A"
      - {type: dns, record: AAAA, answer: 10.0.0.1}  # ! answer 10.0.0.1 can only be in records of type A
      - {type: dns, answer: 10.0.0.1}  # ! write `record: A`
      - {type: script, command: [check, web]}  # ! command "check" is not an absolute path
      - {type: script, command: [/bin/check, 1]}  # ! an item of command 1 is a number, not text
      - {type: script, command: /bin/check}  # ! "command" must be a list
""",
    "drains": """\
    drain: {at_deadline: cut}  # ! at_deadline needs a deadline
""",
    "drain without keys": """\
    drain: 1h  # ! drain must have keys (quiet:, deadline:, at_deadline:), not be "1h"
    passive:  # ! passive has no value: write `passive: {}`
""",
    "choices of a drain": """\
    drain: {deadline: 1h, at_deadline: kut}  # ! at_deadline "kut" is unknown: did you mean "cut"?
""",
    "a load with an unknown source": """\
    load: {from: packet}  # ! from "packet" is unknown: did you mean "packets"?
""",
    "a load that is not asked for": """\
    load:
      url: "http://{address}/"  # ! url is only for loads that are asked for
      token_env: X  # ! token_env is only for loads
      metric: cpu  # ! metric is only for loads
""",
    "a load without a URL": """\
    load: {from: url}  # ! load has no url: write what is asked
""",
    "a load too old at once": """\
    load: {interval: 5s, stale: 1s}  # ! stale is shorter than the interval
""",
    "a load of an agent": """\
    load: {from: agent, metric: cpus}  # ! metric "cpus" is unknown: did you mean "cpu"?
""",
    "URLs": """\
    load: {from: url, url: "ftp://{address}/"}  # ! cannot be asked: write one like http://{address}:9110/load
""",
    "placeholders": """\
    load: {from: url, url: "http://{addr}/"}  # ! has an unknown part {addr}: write {address} or {port}
""",
    "a secret in the URL": """\
    load: {from: url, url: "http://me:secret@{address}/"}  # ! do not belong here: write token_file
""",
    "a secret in the query": """\
    load: {from: url, url: "http://{address}/?token=1"}  # ! url has a secret in it ("token")
""",
    "a secret as a key": """\
    load: {from: agent, token: abc}  # ! do not belong in the configuration: write token_file or token_env
    password: abc  # ! secrets do not belong in the configuration
cookie_key: abc  # ! secrets do not belong in the configuration: write key_file
""",
    "two tokens": """\
    load: {from: agent, token_file: /t, token_env: T}  # ! leave out one of the two
""",
    "policies": """\
    policy: round_robin  # ! policy "round_robin" is unknown: did you mean "round-robin"?
""",
    "alpha of another policy": """\
    awrr_alpha: 10%  # ! awrr_alpha is only for policy awrr
""",
    "prequal without latencies": """\
    policy: prequal  # ! policy prequal needs the latency of servers
""",
    "prequal with a URL that tells no latency": """\
    policy: prequal
    load: {from: url, url: "http://{address}/"}  # ! write where it is in the answer
""",
    "limits": """\
vip_limit: 100  # ! vip_limit 100 is not a power of two: write 64 or 128
include: ""  # ! include "" is not a directory
key_file: cookie.key  # ! key_file "cookie.key" is not an absolute path
""",
}


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_every_mistake_at_its_line(tmp_path: Path, text: str) -> None:
    """Every mistake is reported, at its own line, and nothing else is."""
    assert_mistakes(tmp_path, {"poise.yaml": HEAD + text})


def _vip(directory: Path, text: str) -> VipConfig:
    [vip] = load(write(directory, {"poise.yaml": HEAD + text})).vips
    return vip


def test_usual_care(tmp_path: Path) -> None:
    """Without a word on it, nothing is checked, and round robin places connections."""
    vip = _vip(tmp_path, "")
    assert (vip.policy, vip.checks, vip.passive, vip.panic, vip.slow_start) == (
        "round-robin",
        [],
        None,
        0.5,
        0,
    )
    assert (vip.drain.quiet, vip.drain.deadline, vip.drain.at_deadline) == (60, None, "keep")
    assert (vip.load.source, vip.load.interval, vip.load.stale, vip.load.url) == ("connections", 1, 3, None)


@pytest.mark.parametrize(
    ("text", "policy"),
    [("mode: cookieless", "hash"), ("mode: stateful", "round-robin"), ("policy: maglev", "maglev")],
)
def test_policy_of_a_mode(tmp_path: Path, text: str, policy: str) -> None:
    """A VIP without cookies is placed by hash unless it says otherwise, all others in turn."""
    assert _vip(tmp_path, f"    {text}\n").policy == policy


def test_checks(tmp_path: Path) -> None:
    """A check is read as its type asks, and times that hang together fit by themselves."""
    vip = _vip(
        tmp_path,
        """\
    checks:
      - {type: http, interval: 500ms, status: [200-299, 301], path: /health?deep=1, body: '"ok": *true'}
      - {type: https, verify: true, ca_file: /etc/ca.pem, host: www.example.com, timeout: 2}
      - {type: dns, query: www.example.com, record: AAAA, answer: "2001:db8::1"}
      - {type: script, command: [/bin/check, "--deep"], jitter: 0%}
""",
    )
    http, https, dns, script = vip.checks
    assert isinstance(http, HttpCheckConfig)
    assert (http.interval, http.timeout, http.status) == (0.5, 0.5, [(200, 299), (301, 301)])
    assert isinstance(https, HttpsCheckConfig)
    assert (https.verify, str(https.ca_file), https.timeout) == (True, "/etc/ca.pem", 2)
    assert isinstance(dns, DnsCheckConfig)
    assert (dns.record, str(dns.answer)) == ("AAAA", "2001:db8::1")
    assert isinstance(script, ScriptCheckConfig)
    assert (script.command, script.jitter) == (["/bin/check", "--deep"], 0)


def test_loads(tmp_path: Path) -> None:
    """An agent is asked at its usual URL, and a report is stale after three intervals, unless written."""
    load_config = _vip(tmp_path, "    policy: prequal\n    load: {from: agent, interval: 500ms}\n").load
    assert (load_config.url, load_config.stale) == ("http://{address}:9110/load", 1.5)
    assert LoadConfig.model_validate({"from": "url", "url": "http://{address}:{port}/x"}).url is not None


def test_values_made_in_python() -> None:
    """Numbers are taken as they are where models are made in Python."""
    assert VipConfig.model_validate({"address": "192.0.2.1", "port": 80, "panic": 0.25}).panic == 0.25


@pytest.mark.parametrize("name", ["token_file", "key_file"])
def test_secret_that_others_may_read(tmp_path: Path, name: str) -> None:
    """A file with a secret that others than its owner may read is a mistake, where it is named."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    text = (
        f"    load: {{from: agent, token_file: {secret}}}\n"
        if name == "token_file"
        else f"key_file: {secret}\n"
    )
    file = write(tmp_path, {"poise.yaml": HEAD + text})
    secret.chmod(0o640)
    with pytest.raises(ConfigError) as raised:
        load(file)
    [mistake] = raised.value.mistakes
    assert (mistake.line, mistake.message) == (
        6,
        f"{secret} can be read by others (mode 640): `chmod 600 {secret}`",
    )
    secret.chmod(0o600)
    load(file)


def test_words_are_those_of_the_model() -> None:
    """The choices of poise.yaml are those that the servers level knows, none missing and none more."""
    fields = VipConfig.model_fields
    assert list(get_args(Policy)) == list(model.Policy)
    assert list(get_args(fields["mode"].annotation)) == list(model.Mode)
    assert list(get_args(fields["protocol"].annotation)) == list(model.Protocol)
    assert list(get_args(fields["timestamp_layout"].annotation)) == list(model.Layout)
    assert list(get_args(LoadConfig.model_fields["source"].annotation)) == list(care.LoadKind)
    assert {kind.model_fields["type"].annotation for kind in get_args(get_args(CheckConfig)[0])} == {
        Literal[kind.value] for kind in care.CheckKind
    }


def test_defaults_are_those_of_the_model() -> None:
    """What poise.yaml leaves out is what the servers level takes for granted."""
    usual = care.Check(care.CheckKind.TCP)
    for kind in get_args(get_args(CheckConfig)[0]):
        for name, field in kind.model_fields.items():
            if name == "status":
                assert tuple(field.default) == usual.statuses
            elif not field.is_required() and field.default_factory is None:
                assert field.default == getattr(usual, name), name
    assert PassiveConfig().model_dump() == asdict(care.Passive())
    assert (DrainConfig().quiet, DrainConfig().deadline) == (care.Drain().quiet, care.Drain().deadline)
    load_source = care.LoadSource()
    assert (LoadConfig().interval, LoadConfig().stale) == (load_source.interval, load_source.stale)
