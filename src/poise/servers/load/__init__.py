# SPDX-License-Identifier: Apache-2.0
"""How loaded servers are: signals that poise counts itself, estimates, and reports that it asks for."""
