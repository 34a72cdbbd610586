# SPDX-License-Identifier: Apache-2.0
"""What poise needs of the kernel, found out by trying instead of by its version."""

from dataclasses import dataclass

from poise.kernel.library import library

_XDP, _TC = 6, 3  # BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_SCHED_CLS


@dataclass(frozen=True)
class Feature:
    """Something to probe: a program type, and with a helper's number that helper in it; or a map type."""

    name: str
    needs: str
    program: int = 0
    helper: int = 0
    map: int = 0


# Numbers: enum bpf_map_type and the helpers' list in linux/bpf.h.
BASIS = Feature(
    "XDP programs", "CONFIG_BPF_SYSCALL, and in a container CAP_BPF and CAP_NET_ADMIN", program=_XDP
)
REQUIRED = (
    Feature("TC programs", "CONFIG_NET_CLS_BPF", program=_TC),
    Feature("LPM tries", "Linux 4.11", map=11),
    Feature("per-CPU arrays", "Linux 4.6", map=6),
    Feature("route lookup in XDP", "Linux 4.18", program=_XDP, helper=69),
    Feature("shortening packets in XDP", "Linux 4.18", program=_XDP, helper=65),
    Feature("copying packets in TC", "Linux 4.2", program=_TC, helper=13),
    Feature("sending to a neighbour in TC", "Linux 5.10", program=_TC, helper=152),
    Feature("the coarse clock in XDP", "Linux 5.11", program=_XDP, helper=160),
)


def missing() -> list[str]:
    """Return a sentence for each feature that the running kernel lacks; needs root to be right."""
    if not _has(BASIS):
        return [f"this machine does not let poise load {BASIS.name}: that needs {BASIS.needs}"]
    return [f"the kernel lacks {f.name}: poise needs {f.needs}" for f in REQUIRED if not _has(f)]


def _has(feature: Feature) -> bool:
    lib = library()
    if feature.map:
        return bool(lib.libbpf_probe_bpf_map_type(feature.map, None) == 1)
    if feature.helper:
        return bool(lib.libbpf_probe_bpf_helper(feature.program, feature.helper, None) == 1)
    return bool(lib.libbpf_probe_bpf_prog_type(feature.program, None) == 1)
