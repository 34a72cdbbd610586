# SPDX-License-Identifier: Apache-2.0
"""What poise costs, measured on the machine it runs on."""
