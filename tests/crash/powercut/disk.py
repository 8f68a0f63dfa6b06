"""A disk in memory, the operations on it, and every way in which it may come back after power failed.

The model is the weakest that POSIX allows: a file's content lasts once the file was synced, a name once its folder
was; what was not synced is lost or kept operation by operation, in any order, and the last write may be torn. Syncing
a file says nothing about its name, nor a folder about what is in the files. A rename within one folder is one step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Kind = Literal["name", "unname", "move", "write", "truncate", "sync", "mark"]


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        kind: ``name`` gives ``child`` a name in folder ``node``, ``unname`` takes it away, ``move`` renames it within
            the folder; ``write`` and ``truncate`` change file ``node``; ``sync`` makes file or folder ``node`` last;
            ``mark`` is a word of the recorded program.
        needs: index of the operation without which this one cannot last; -1 = none.
    """

    kind: Kind
    node: int = -1
    name: str = ""
    child: int = -1
    old_name: str = ""
    is_folder: bool = False
    offset: int = 0
    data: bytes = b""
    length: int = 0
    text: str = ""
    needs: int = -1

    @property
    def is_content(self) -> bool:
        """Whether it changes what is in a file."""
        return self.kind in ("write", "truncate")

    @property
    def is_name(self) -> bool:
        """Whether it gives something a name in a folder."""
        return self.kind in ("name", "move")

    @property
    def is_change(self) -> bool:
        """Whether it changes anything that power may take."""
        return self.kind not in ("sync", "mark")


@dataclass
class Disk:
    """Folders and files by number; number 0 is the root. Hard links are one number under several names."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    next_node: int = 1

    @classmethod
    def read(cls, root: Path) -> Disk:
        """Return what lies below a real folder."""
        disk = cls()
        known: dict[int, int] = {}

        def visit(folder: Path, node: int) -> None:
            for entry in sorted(folder.iterdir()):
                inode = entry.lstat().st_ino
                if entry.is_dir() and not entry.is_symlink():
                    child = disk._add(node, entry.name, is_folder=True)
                    visit(entry, child)
                elif inode in known:
                    disk.folders[node][entry.name] = known[inode]
                elif entry.is_file() or entry.is_symlink():
                    known[inode] = disk._add(node, entry.name, is_folder=False)
                    disk.files[known[inode]] = entry.read_bytes() if not entry.is_symlink() else b""

        visit(root, 0)
        return disk

    def _add(self, folder: int, name: str, *, is_folder: bool) -> int:
        node = self.next_node
        self.apply(Op("name", folder, name=name, child=node, is_folder=is_folder))
        return node

    def copy(self) -> Disk:
        """Return a disk that changes by itself."""
        return Disk({node: dict(names) for node, names in self.folders.items()}, dict(self.files), self.next_node)

    def find(self, path: str) -> int | None:
        """Return the number of what a path names, None where it names nothing."""
        node = 0
        for part in Path(path).parts:
            found = self.folders.get(node, {}).get(part)
            if found is None:
                return None
            node = found
        return node

    def place(self, path: str) -> tuple[int, str]:
        """Return folder and name of a path whose folder exists."""
        parent = self.find(str(Path(path).parent))
        assert parent is not None, path
        return parent, Path(path).name

    def below(self, path: str, ops: Iterable[Op]) -> tuple[Disk, list[Op]]:
        """Return the folder ``path`` as a disk of its own, and those of ``ops`` that are about it, or are marks."""
        root = self.find(path)
        assert root is not None, path
        disk, known = Disk({}, {}, self.next_node), set()

        def visit(node: int) -> None:
            known.add(node)
            if node in self.files:
                disk.files[node] = self.files[node]
                return
            disk.folders[node if node != root else 0] = dict(self.folders[node])
            for child in self.folders[node].values():
                visit(child)

        visit(root)
        found: list[Op] = []
        places: dict[int, int] = {}
        for number, op in enumerate(ops):
            if op.kind != "mark" and op.node not in known:
                continue
            if op.is_name:
                known.add(op.child)
            places[number] = len(found)
            found.append(replace(op, node=0 if op.node == root else op.node, needs=places.get(op.needs, -1)))
        return disk, found

    def apply(self, op: Op, torn: int | None = None) -> None:
        """Carry out one operation; of a write only the first ``torn`` bytes.

        What it builds upon may have been lost: then it changes what it can.
        """
        match op.kind:
            case "name" | "move":
                if op.child not in self.files and op.child not in self.folders:
                    if op.is_folder:
                        self.folders[op.child] = {}
                    else:
                        self.files[op.child] = b""
                self.next_node = max(self.next_node, op.child + 1)
                names = self.folders.setdefault(op.node, {})
                if op.kind == "move" and names.get(op.old_name) == op.child:
                    del names[op.old_name]
                names[op.name] = op.child
            case "unname":
                names = self.folders.setdefault(op.node, {})
                if names.get(op.name) == op.child:
                    del names[op.name]
            case "write":
                old, data = self.files.get(op.node, b""), op.data if torn is None else op.data[:torn]
                if data:
                    start = old[: op.offset].ljust(op.offset, b"\0")
                    self.files[op.node] = start + data + old[op.offset + len(data) :]
            case "truncate":
                self.files[op.node] = self.files.get(op.node, b"")[: op.length].ljust(op.length, b"\0")

    def write_out(self, root: Path) -> None:
        """Make a real folder of it; ``root`` must be empty."""
        made: dict[int, Path] = {}

        def visit(node: int, folder: Path) -> None:
            for name, child in self.folders[node].items():
                path = folder / name
                if child in self.folders:
                    path.mkdir()
                    visit(child, path)
                elif child in made:
                    path.hardlink_to(made[child])
                else:
                    path.write_bytes(self.files[child])
                    made[child] = path

        visit(0, root)

    def digest(self) -> str:
        """Return the same text for disks that no program can tell apart."""
        found = hashlib.sha256()
        numbers: dict[int, int] = {}

        def visit(node: int) -> None:
            for name, child in sorted(self.folders[node].items()):
                found.update(f"{name}\0{numbers.setdefault(child, len(numbers))}\0".encode())
                if child in self.folders:
                    visit(child)
                else:
                    found.update(hashlib.sha256(self.files[child]).digest())
            found.update(b"\1")

        visit(0)
        return found.hexdigest()


@dataclass(frozen=True)
class Crash:
    """One way a disk came back.

    Attributes:
        after: operations the program had done (the last of them may be torn).
        how: in words.
        disk: what is left.
    """

    after: int
    how: str
    disk: Disk


def pending(ops: list[Op], after: int, start: int = 0) -> list[int]:
    """Return the indexes of operations before ``after`` that no sync has made last."""
    synced: set[int] = set()
    found: list[int] = []
    for index in range(after - 1, start - 1, -1):
        op = ops[index]
        if op.kind == "sync":
            synced.add(op.node)
        elif op.is_change and op.node not in synced:
            found.append(index)
    return found[::-1]


def crashes(before: Disk, ops: list[Op], *, singles: bool, points: Collection[int] | None = None) -> Iterator[Crash]:
    """Yield every disk that may come back if power fails at any point, each different disk once.

    After every operation: everything kept; everything lost that was not synced; names without contents (empty, or
    zeros of the right length); contents without names; the last write torn. With ``singles``, before every sync and
    at every mark (between them nothing becomes durable): each unsynced operation alone lost, and alone kept.

    Args:
        before: the disk at the start, all of it durable.
        ops: what was done.
        singles: whether operations are also lost and kept one by one.
        points: numbers of operations done to look at; None = all.
    """
    seen: set[str] = set()
    for after in range(len(ops) + 1) if points is None else sorted(points):
        open_ops = pending(ops, after)
        contents = frozenset(i for i in open_ops if ops[i].is_content)
        everything = frozenset(open_ops)
        last = ops[after - 1] if after else None
        ways: list[tuple[str, frozenset[int], frozenset[int], int | None]] = [
            ("kept", frozenset(), frozenset(), None),
            ("lost", everything, frozenset(), None),
            ("names only", contents, frozenset(), None),
            ("contents only", everything - contents, frozenset(), None),
            ("names with zeros", frozenset(), contents, None),
        ]
        if last is not None and last.kind == "write" and len(last.data) > 1:
            for size in {len(last.data) // 2, len(last.data) - 1}:
                ways.append((f"torn at {size}", frozenset(), frozenset(), size))
                ways.append((f"torn at {size}, all else lost", everything - {after - 1}, frozenset(), size))
        is_boundary = after == len(ops) or not ops[after].is_change
        if singles and is_boundary:
            ways += [(f"{i} alone lost", frozenset({i}), frozenset(), None) for i in open_ops]
            ways += [(f"{i} alone kept", everything - {i}, frozenset(), None) for i in open_ops]
        for how, lost, zeroed, torn in ways:
            disk = _left(before, ops[:after], lost, zeroed, torn)
            digest = disk.digest()
            if digest not in seen:
                seen.add(digest)
                yield Crash(after, how, disk)


def _left(before: Disk, ops: list[Op], lost: frozenset[int], zeroed: frozenset[int], torn: int | None) -> Disk:
    disk = before.copy()
    gone = set(lost)
    for index, op in enumerate(ops):
        if index in gone or op.needs in gone:
            gone.add(index)
            continue
        if index in zeroed and op.kind == "write":
            disk.apply(Op("write", op.node, offset=op.offset, data=bytes(len(op.data))))
            continue
        disk.apply(op, torn if index == len(ops) - 1 else None)
    return disk
