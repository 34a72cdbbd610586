# SPDX-License-Identifier: Apache-2.0
"""The compiled BPF programs, `NAME.bpf.o` each: put here by hatch_build.py, found by importlib.resources."""
