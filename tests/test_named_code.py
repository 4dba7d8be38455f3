"""Objects that the boot file names."""

import sys

import pytest

from twisted_gateway.named_code import named_code


def test_found():
    assert named_code("os.path:join").__name__ == "join"
    assert named_code("collections:OrderedDict.fromkeys").__name__ == "fromkeys"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("os.path", "expected package.module:attribute"),
        ("os:", "expected package.module:attribute"),
        (":x", "expected package.module:attribute"),
        (".os:x", "expected package.module:attribute"),
        ("os:a b", "expected package.module:attribute"),
        ("no_such_module:x", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("os:nothing", "os has no attribute nothing"),
        ("os:path.nothing", "os has no attribute path.nothing"),
    ],
)
def test_refused(written, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        named_code(written)


def test_a_module_that_raises(tmp_path, monkeypatch):
    (tmp_path / "raises_at_import.py").write_text("raise RuntimeError('broken')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ValueError, match="cannot import raises_at_import: RuntimeError: broken"):
        named_code("raises_at_import:x")
