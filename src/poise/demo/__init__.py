# SPDX-License-Identifier: Apache-2.0
"""`poise demo`: each level shown at work on real traffic between network namespaces."""
