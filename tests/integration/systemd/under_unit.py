"""Runs a command under what a unit's text forbids: ``python under_unit.py UNIT COMMAND...``.

What systemd does in the child before it executes the program, as far as system calls go: no new privileges, the filter
of ``SystemCallFilter=`` (expanded by ``systemd-analyze``), and ``MemoryDenyWriteExecute=``. The name spaces and mounts
of the unit are not made here.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def settings(text, name):
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def members(name):
    """Return the system calls of ``name``, which may be a group of groups."""
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    inner = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return set().union(*(members(one) for one in inner if one and not one.startswith("#")))


def allowed(text):
    calls = set()
    for value in settings(text, "SystemCallFilter"):
        names = set().union(*(members(name) for name in value.removeprefix("~").split()))
        calls = calls - names if value.startswith("~") else calls | names
    return calls


def restrict(text):
    calls = allowed(text)
    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    for function in (seccomp.seccomp_rule_add_array, seccomp.seccomp_load):
        function.argtypes = [ctypes.c_void_p, *[ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]][
            : 1 if function is seccomp.seccomp_load else 5
        ]
    number = getattr(errno, settings(text, "SystemCallErrorNumber")[0])
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if "yes" in settings(text, "MemoryDenyWriteExecute"):
        assert libc.prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0, "this kernel cannot deny it"
    context = seccomp.seccomp_init(ERRNO | number)
    for name in sorted(calls):
        known = seccomp.seccomp_syscall_resolve_name(name.encode())
        if known != -1:  # of another architecture, or newer than the library
            assert seccomp.seccomp_rule_add_array(context, ALLOW, known, 0, None) == 0, name
    assert seccomp.seccomp_load(context) == 0


if __name__ == "__main__":
    restrict(Path(sys.argv[1]).read_text())
    os.execv(sys.argv[2], sys.argv[2:])
