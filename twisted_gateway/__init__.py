"""AISIX for Twisted: a streaming gateway between callers of language models and the providers who serve them."""

__version__ = "0.1.0"
