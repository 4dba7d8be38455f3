"""Callables of the boot file: found at start, checked against the resources, also when these are read again."""

import pytest
import pytest_twisted
import yaml
from twisted.internet import reactor

from tests.network.house import Lines
from twisted_gateway.config.boot import structure
from twisted_gateway.config.settings import SettingsError
from twisted_gateway.logs import Log, json_layout
from twisted_gateway.tap import House


def allows(question):
    return {"action": "allow"}


NOT_CALLABLE = 3
MINE = "tests.network.test_callables:allows"


def house(folder, callables, use="mine"):
    path = folder / "resources.yaml"
    guardrails = [{"name": "own", "kind": "callable", "use": use}] if use else []
    path.write_text(yaml.safe_dump({"_format_version": "1", "guardrails": guardrails}))
    boot = {"proxy": {"addr": "127.0.0.1:0"}, "resources_file": str(path), "callables": callables}
    lines = Lines()
    made = House(structure(boot, {}), reactor, Log(lines, json_layout("aisix")), alone=False)
    made.written = lines.lines
    return made


def test_one_that_is_there(tmp_path):
    made = house(tmp_path, {"mine": MINE})
    (guardrail,) = made.snapshot().guardrails
    assert made.checks.check(guardrail)._function is allows


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module:x", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("tests.network.test_callables:nothing", "tests.network.test_callables has no attribute nothing"),
        ("tests.network.test_callables:NOT_CALLABLE", "tests.network.test_callables:NOT_CALLABLE cannot be called"),
    ],
)
def test_one_that_cannot_be_had_is_a_boot_error(tmp_path, path, reason):
    with pytest.raises(SettingsError) as refused:
        house(tmp_path, {"mine": path}, use=None)
    assert str(refused.value) == f"config load failed: failed to load configuration: callables.mine: {reason}"


def test_a_guardrail_cannot_name_code(tmp_path):
    with pytest.raises(
        SettingsError, match=r'guardrails \("own"\): `use` names no callable of the boot file \(there: a, b\)'
    ):
        house(tmp_path, {"b": MINE, "a": MINE}, use="os:system")


@pytest_twisted.ensureDeferred
async def test_a_reload_with_an_unknown_one_is_refused(tmp_path):
    made = house(tmp_path, {"mine": MINE})
    before = made.snapshot()
    path = tmp_path / "resources.yaml"
    path.write_text(path.read_text().replace("use: mine", "use: other"))
    await made.reload()
    assert made.snapshot() is before
    path.write_text(path.read_text().replace("use: other", "use: mine").replace("own", "new"))
    await made.reload()
    assert made.snapshot().guardrails[0].name == "new"
