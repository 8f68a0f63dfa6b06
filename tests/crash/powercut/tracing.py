"""Records what a process really does to the files below one folder, by ``strace``, as operations of ``disk``.

The product is run as it is: what its own code, the standard library, TUF's client or SQLite write is seen alike.
A traced process says what it is about by ``mark``: it tries to open a file below ``/powercut-mark``, which cannot be,
and the attempt stands in the trace in its place among the other calls.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from powercut.disk import Disk, Op

MARKS = "/powercut-mark/"
SCRATCH = "trust/scratch"
"""Left out: the folder in which TUF's client works is made anew from what lasts before anything in it is read."""
_FILES = ("open", "openat", "creat", "close", "dup", "dup2", "dup3", "fcntl", "lseek")
_CONTENT = ("write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate", "copy_file_range", "sendfile")
_NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir")
_LINKS = ("symlink", "symlinkat")
_SYNCS = ("fsync", "fdatasync")
_CALLS = ",".join(f"?{call}" for call in _FILES + _CONTENT + _NAMES + _LINKS + _SYNCS)  # ?: not every machine has each
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def mark(text: str) -> None:
    """Leave a mark in the trace of this process, where there is one."""
    try:
        os.close(os.open(MARKS + text, os.O_RDONLY))
    except FileNotFoundError:
        return
    raise AssertionError(f"{MARKS} exists on this machine")


def record(command: Sequence[str], root: Path, scratch: Path, environment: Mapping[str, str]) -> tuple[Disk, list[Op]]:
    """Run a command to its end and return the disk before it and every operation on files below ``root``, in order.

    The process must touch ``root`` from one thread at a time, and end with status 0.
    """
    before = Disk.read(root)
    trace = scratch / "trace"
    limits = ["-s", str(1 << 22), "-e", f"trace={_CALLS}", "-o", str(trace)]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-xx", "--seccomp-bpf", *limits, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reader = TraceReader(before.copy(), root)
    for line in _whole_lines(trace):
        reader.read(line)
    return before, reader.ops


def _whole_lines(trace: Path) -> list[str]:
    """Join calls that were interrupted by those of another thread; they count from where they ended."""
    begun: dict[str, str] = {}
    lines = []
    for line in trace.read_text("ascii").splitlines():
        process = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>").rstrip()
        elif " resumed>" in line:
            lines.append(begun.pop(process) + line.split(" resumed>", 1)[1])
        else:
            lines.append(line)
    return lines


class TraceReader:
    """Turns lines of a trace into operations, following descriptors, offsets and names as the kernel does.

    Attributes:
        ops: what was found; each is applied to the disk handed in as well, to know what later names mean.
    """

    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk, self._root = disk, PurePosixPath(root)
        self.ops: list[Op] = []
        self._open: dict[int, tuple[int, str]] = {}  # descriptor -> (node, path)
        self._offset: dict[int, int] = {}
        self._appends: set[int] = set()

    def read(self, line: str) -> None:
        """Take one line."""
        found = _LINE.match(line)
        if found is None:
            return
        call, arguments, result = found[2], found[3], int(found[4])
        texts = [bytes.fromhex(hexed.replace("\\x", "")) for hexed, _ in _TEXT.findall(arguments)]
        if call in ("open", "openat", "creat") and texts and texts[0].startswith(MARKS.encode()):
            self._do(Op("mark", text=texts[0].decode().removeprefix(MARKS)))
            return
        if result < 0:
            return
        rest = _TEXT.sub("@", arguments)
        handler = getattr(self, "_" + call, None)
        if handler is not None:
            handler([a.strip() for a in rest.split(",")], texts, result)

    def _do(self, op: Op) -> None:
        self.ops.append(op)
        self._disk.apply(op)

    def _path(self, text: bytes, folder: str = "AT_FDCWD") -> str | None:
        """Return a path below the root, None for one elsewhere."""
        path = PurePosixPath(text.decode())
        if not path.is_absolute():
            held = self._open.get(int(folder)) if folder.isdecimal() else None
            if held is None:
                return None  # nothing that is tested changes its working directory into the folder
            path = self._root / held[1] / path
        if not path.is_relative_to(self._root) or f"/{SCRATCH}/" in f"{path}/":
            return None
        return str(path.relative_to(self._root))

    def _openat(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        path = self._path(texts[0], arguments[0])
        if path is None:
            self._close([str(result)], [], 0)  # a number used again
            return
        flags = arguments[2].split("|")
        node = self._disk.find(path)
        if node is None:
            assert "O_CREAT" in flags, path
            folder, name = self._disk.place(path)
            node = self._disk.next_node
            self._do(Op("name", folder, name=name, child=node))
        elif "O_TRUNC" in flags and self._disk.files[node]:
            self._do(Op("truncate", node, length=0))
        self._open[result], self._offset[result] = (node, path), 0
        self._appends.discard(result)
        if "O_APPEND" in flags:
            self._appends.add(result)

    def _close(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        descriptor = int(arguments[0])
        self._open.pop(descriptor, None)
        self._appends.discard(descriptor)

    def _dup(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        assert int(arguments[0]) not in self._open, "a copied descriptor is not followed"

    _dup2 = _dup3 = _fallocate = _copy_file_range = _dup

    def _fcntl(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        assert not arguments[1].startswith("F_DUPFD") or int(arguments[0]) not in self._open

    def _sendfile(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        source, target = (self._open.get(int(a)) for a in (arguments[1], arguments[0]))
        if target is not None:
            assert source is not None, "a file from elsewhere was copied in"
            data = bytes(self._disk.files[source[0]][: self._offset[int(arguments[0])] + result])
            self._put(int(arguments[0]), data[self._offset[int(arguments[0])] :])

    def _lseek(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        if int(arguments[0]) in self._open:
            self._offset[int(arguments[0])] = result

    def _write(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        if int(arguments[0]) in self._open:
            self._put(int(arguments[0]), b"".join(texts)[:result])

    _writev = _write

    def _put(self, descriptor: int, data: bytes) -> None:
        node = self._open[descriptor][0]
        offset = len(self._disk.files[node]) if descriptor in self._appends else self._offset[descriptor]
        if data:
            self._do(Op("write", node, offset=offset, data=data))
        self._offset[descriptor] = offset + len(data)

    def _pwrite64(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        if int(arguments[0]) in self._open:
            node = self._open[int(arguments[0])][0]
            self._do(Op("write", node, offset=int(arguments[-1]), data=texts[0][:result]))

    def _ftruncate(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        if int(arguments[0]) in self._open:
            self._do(Op("truncate", self._open[int(arguments[0])][0], length=int(arguments[1])))

    def _fsync(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        held = self._open.get(int(arguments[0]))
        if held is not None:
            self._do(Op("sync", held[0]))

    _fdatasync = _fsync

    def _rename(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        folders = [arguments[0], arguments[2]] if len(arguments) > 2 else ["AT_FDCWD"] * 2
        source, target = (self._path(text, folder) for text, folder in zip(texts, folders, strict=True))
        if source is None and target is None:
            return
        assert source is not None, "a file was moved in from elsewhere"
        assert target is not None, "a file was moved out"
        node = self._disk.find(source)
        (old, old_name), (new, new_name) = self._disk.place(source), self._disk.place(target)
        assert node is not None
        if old == new:
            self._do(Op("move", new, name=new_name, child=node, old_name=old_name))
        else:  # one journal entry, or two: the new name may last without the old one's end, never the other way round
            self._do(Op("name", new, name=new_name, child=node))
            self._do(Op("unname", old, name=old_name, child=node, needs=len(self.ops) - 1))

    _renameat = _renameat2 = _rename

    def _linkat(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        folders = [arguments[0], arguments[2]] if len(arguments) > 2 else ["AT_FDCWD"] * 2
        source, target = (self._path(text, folder) for text, folder in zip(texts, folders, strict=True))
        if target is not None:
            assert source is not None
            folder, name = self._disk.place(target)
            node = self._disk.find(source)
            assert node is not None
            self._do(Op("name", folder, name=name, child=node))

    _link = _linkat

    def _unlink(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        path = self._path(texts[0], arguments[0] if len(arguments) > 1 else "AT_FDCWD")
        if path is not None:
            folder, name = self._disk.place(path)
            node = self._disk.find(path)
            assert node is not None, path
            self._do(Op("unname", folder, name=name, child=node))

    _unlinkat = _rmdir = _unlink

    def _mkdir(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        path = self._path(texts[0], arguments[0] if len(arguments) > 2 else "AT_FDCWD")
        if path is not None:
            folder, name = self._disk.place(path)
            self._do(Op("name", folder, name=name, child=self._disk.next_node, is_folder=True))

    _mkdirat = _mkdir

    def _symlink(self, arguments: list[str], texts: list[bytes], result: int) -> None:
        folder = arguments[1] if len(arguments) > 2 else "AT_FDCWD"
        assert self._path(texts[1], folder) is None, "a symlink is not followed"

    _symlinkat = _symlink
