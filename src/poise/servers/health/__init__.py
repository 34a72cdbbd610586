# SPDX-License-Identifier: Apache-2.0
"""Whether servers work: each kind of check, when they are made, and what their results mean."""
