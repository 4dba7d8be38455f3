"""Packaging of AISIX for Twisted. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "twisted_gateway" / "__init__.py").read_text())[1]

setup(
    name="aisix-twisted",
    version=VERSION,
    description="A streaming AI gateway on Twisted",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=[*find_packages(include=["twisted_gateway", "twisted_gateway.*"]), "twisted.plugins"],
    package_data={"twisted_gateway": ["py.typed"]},
    install_requires=[
        "twisted[tls]>=26.4",
        "treq>=25.5",
        "klein>=24.8",
        "attrs>=25.3",
        "pyyaml>=6.0.2",
        "cattrs>=25.1",
        "msgspec>=0.20",
        "prometheus_client>=0.22",
        "txredisapi>=1.6",
        "google-re2>=1.1",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-twisted>=1.14",
            "hypothesis>=6.130",
            "h11>=0.16",
            "py-spy>=0.4",
            "openai>=2",
            "anthropic>=2",
            "requests>=2.32",
            "mypy>=1.18",
            "mypy-zope>=1.0.13",
            "ruff>=0.14",
            "import-linter>=2.5",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["aisix = twisted_gateway.command:main"]},
    zip_safe=False,
)
