"""An operator's own code in each call's way (`extensions.md` 7.3, docs/hooks.md)."""
