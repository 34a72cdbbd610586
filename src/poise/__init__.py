# SPDX-License-Identifier: Apache-2.0
"""poise balances load across servers: packets in XDP, everything that thinks in Python."""

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when somebody asks for it: that takes longer than most commands."""
    if name != "__version__":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib.metadata import version  # noqa: PLC0415  # is what takes so long

    return version("poise")
