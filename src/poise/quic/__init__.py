# SPDX-License-Identifier: Apache-2.0
"""QUIC connection ids that name the server: draft-ietf-quic-load-balancers."""
