"""Content policy: what may go to a provider and what may come back (`guardrails.md`)."""
