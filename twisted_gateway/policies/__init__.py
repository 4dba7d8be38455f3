"""Judgement about calls: each module here is one policy, and none imports another (`DESIGN.md` section 4)."""
