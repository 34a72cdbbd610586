# SPDX-License-Identifier: Apache-2.0
"""Everything that speaks to the kernel: BPF, netlink, ethtool, /proc. Nothing outside this package does."""
