# SPDX-License-Identifier: Apache-2.0
"""The error that every part of poise raises when something expected goes wrong."""


class PoiseError(Exception):
    """An expected failure, told to the user.

    ``str(error)`` is one clear sentence: what was wrong, where, and what to do about it. The command line
    prints it without a traceback, the HTTP API answers with it.
    """


class NotFoundError(PoiseError):
    """A name that nothing has; the HTTP API answers 404."""
