"""Repeatable measurements: a client straight to a mock provider, through nginx, and through this gateway."""
