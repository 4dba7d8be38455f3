"""Acceptance tests with real clients: SDKs and coding agents, through a running gateway, at a scripted provider.

The npm packages are pinned here and installed outside of the checkout (`install.py`). To renew the pins, write the new
versions into `package.json` and run, in this folder:

    npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts
"""
