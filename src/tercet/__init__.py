"""Tercet: encode, prefill and decode serving; measured, planned and routed."""

__version__ = "0.1.0"
