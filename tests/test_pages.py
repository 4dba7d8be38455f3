"""Large pages: which memory, and that asking for them harms nobody."""

import ctypes
import subprocess
import sys

from twisted_gateway import pages

MAPS = """\
55f000000000-55f000200000 rw-p 00000000 00:00 0                          [heap]
7f0000001000-7f0000801000 rw-p 00000000 00:00 0
7f0001000000-7f0001200000 r-xp 00000000 00:00 0
7f0002000000-7f0002400000 rw-p 00001000 fe:00 1234                       /usr/lib/libpython3.so
7f0003000000-7f0003400000 rw-s 00000000 00:01 9
7f0004000000-7f00041ff000 rw-p 00000000 00:00 0
7ffe00000000-7ffe00400000 rw-p 00000000 00:00 0                          [stack]
"""


def test_whole_large_pages_of_the_heap_and_the_arenas():
    assert list(pages.spans(MAPS.splitlines())) == [
        (0x55F000000000, 0x55F000200000),
        (0x7F0000200000, 0x7F0000800000),
    ]


def test_nothing_is_changed_by_it():
    made = "from twisted_gateway import pages; a = [bytes([n % 256]) * 999 for n in range(20_000)]; pages.collapse()"
    check = "assert a == [bytes([n % 256]) * 999 for n in range(20_000)]; print('as before')"
    told = subprocess.run([sys.executable, "-c", f"{made}; {check}"], capture_output=True, text=True, timeout=120)
    assert (told.stdout, told.stderr, told.returncode) == ("as before\n", "", 0)


def test_a_machine_that_cannot(monkeypatch):
    def missing(name):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    pages.collapse()
    monkeypatch.setattr(sys, "platform", "darwin")
    pages.collapse()
