# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import pytest

from tests.bpf import unexpected_handshakes, unexpected_modes  # noqa: F401  register their packets
from tests.bpf.balancer import Balancer, Verdict
from tests.bpf.case import Case, Outcome
from tests.bpf.headers import ip_offset, tcp_offset, transport_of
from tests.bpf.packets import source_of, target_of
from tests.bpf.services import TOKEN
from tests.bpf.unexpected import BUILDERS, Sample, as_sample
from tests.bpf.unexpected_icmp import ERRORS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
FORWARDED = (Verdict.REDIRECT, Verdict.TX)
RST = 0x04
ICMP_PROTOCOLS = (1, 58)


def _rows(page: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.*)\|$", (REFERENCE / page).read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("Packet", "Counter")]


ROWS = {sentence: (outcome, counter.strip("`")) for sentence, outcome, counter in _rows("packets.md")}


ALL = BUILDERS | ERRORS


def test_every_row_has_a_builder_and_every_builder_a_row() -> None:
    """What the page promises is tested, and what is tested it tells."""
    assert sorted(ROWS) == sorted(ALL)
    assert len(ROWS) == len(_rows("packets.md"))


def _is_reset_of(answer: bytes, packet: bytes) -> bool:
    is_reset = bool(answer[tcp_offset(answer) + 13] & RST)
    return is_reset and (source_of(answer), target_of(answer)) == (target_of(packet), source_of(packet))


def _seen(sample: Sample, outcome: Outcome) -> str:
    """The outcome in the words of the page."""
    packet, out = sample.packet, bytes.fromhex(outcome.packet)
    if outcome.verdict == Verdict.DROP:
        return "drop"
    if outcome.verdict == Verdict.PASS and out == packet:
        return "pass"
    if outcome.verdict == Verdict.PASS and out[6:12] == TOKEN:
        return "forward"
    assert outcome.verdict in FORWARDED
    assert ip_offset(out) >= 14
    if outcome.verdict == Verdict.TX and transport_of(out)[0] in ICMP_PROTOCOLS:
        return "error"
    is_first = outcome.verdict == Verdict.TX and len(packet) >= tcp_offset(packet) + 14
    return "reset" if is_first and _is_reset_of(out, packet) else "forward"


@pytest.mark.root
@pytest.mark.parametrize("sentence", ALL)
def test_packets_have_the_outcome_that_the_page_tells(balancer: Balancer, sentence: str) -> None:
    """Each malformed or unexpected packet has the one outcome and the counter of its row."""
    expected, counter = ROWS[sentence]
    made = [as_sample(found) for found in ALL[sentence]()]
    assert made
    for sample in made:
        outcome = Case(sentence, sample.packet, Outcome(Verdict.PASS, "", {}), sample.before).run(balancer)
        assert _seen(sample, outcome) == expected, sample.packet.hex(" ")
        counted = dict(outcome.counted)
        # That a flow is new, or a handshake forgotten, is counted beside what becomes of the packet.
        for beside in {"flow_remembered", "no_timestamp_hashed"} - {counter}:
            counted.pop(beside, None)
        assert counted == ({counter: 1} if counter else {}), sample.packet.hex(" ")


def test_every_event_is_on_a_page() -> None:
    """Whatever is counted is explained."""
    contract = (REFERENCE.parents[1] / "bpf" / "poise" / "contract.h").read_text()
    events = {name.lower() for name in re.findall(r"^\tEVENT_(\w+),", contract, re.MULTILINE)}
    explained = {row[0].strip("`") for row in _rows("counters.md")}
    assert events <= explained | {counter for _, counter in ROWS.values()}
