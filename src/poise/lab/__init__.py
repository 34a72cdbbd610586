# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that stand in for a network: one lab for the demo, the tests and the benchmarks."""
