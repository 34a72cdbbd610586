# SPDX-License-Identifier: Apache-2.0
"""Balancing across servers: what there is, what is measured, what is decided, and what is applied."""
