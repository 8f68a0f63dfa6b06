"""A built-in source of real inputs: rows of a file asked of the agent through its own local door, with their labels.

It stands in for a camera where there is none, so that a fleet on one machine watches real data. A blurred lens can be
put before it. Accuracy is counted per bundle; the answers go where every application's go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bundles.contract import Contract
from bundles.errors import AskPerson, WavegateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLUR_BOX = 3
"""Side of the box the lens averages over, in pixels."""
PAUSE_S = 0.2
"""After a request that nobody could answer."""
_COUNTED_BUNDLES = 8


@dataclass(frozen=True)
class StreamRows:
    """The rows of a stream.

    Attributes:
        x: uint8 [M, ...].
        y: uint8 [M], the right class of each.
        blurred: ``x`` through a blurred lens, uint8 [M, ...].
    """

    x: NDArray[Any]
    y: NDArray[Any]
    blurred: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    def inputs(self, row: int, contract: Contract, *, is_blurred: bool) -> dict[str, Any]:
        """Return one row in the dtype and shape of the contract's first input."""
        spec = contract.inputs[0]
        shape = [1 if length is None else length for length in spec.shape]
        return {spec.name: (self.blurred if is_blurred else self.x)[row].astype(spec.dtype).reshape(shape)}


@dataclass
class Labelled:
    """Predictions whose right answer is known.

    Attributes:
        n: how many.
        right: how many of them were right.
    """

    n: int = 0
    right: int = 0


class Answer(Protocol):
    """The part of ``agent.Prediction`` that the stream looks at."""

    @property
    def outputs(self) -> dict[str, Any]:
        """Tensor name -> array."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of the bundle that answered."""
        ...


def load_rows(path: Path) -> StreamRows:
    """Read an ``.npz`` with ``x`` uint8 [M, H, W] and ``y`` uint8 [M].

    Raises:
        AskPerson: ``STREAM_FILE``.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
        if x.ndim != 3 or y.shape != (len(x),) or not len(x):
            raise ValueError("x is not [M, H, W] with one y a row")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise AskPerson(
            f"The stream {path.name!r} cannot be used: {error}.",
            code="STREAM_FILE",
            remedy="Give an .npz with the arrays x, uint8 [M, H, W], and y, uint8 [M].",
        ) from error
    return StreamRows(x, y, box_blur(x))


def box_blur(x: NDArray[Any], side: int = BLUR_BOX) -> NDArray[Any]:
    """Return images [M, H, W] averaged over a box of ``side`` pixels, edges repeated; the dtype is kept."""
    import numpy as np

    margin = side // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    height, width = x.shape[1:]
    shifts = [(row, column) for row in range(side) for column in range(side)]
    total = sum(padded[:, row : row + height, column : column + width] for row, column in shifts)
    blurred: NDArray[Any] = np.rint(total / side**2).astype(x.dtype)
    return blurred


class Accuracy:
    """Labelled predictions per bundle, since the agent's start and since the last window. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total: dict[str, Labelled] = {}
        self._window: dict[str, Labelled] = {}

    def count(self, sha256: str, *, is_right: bool) -> None:
        """Count one labelled prediction of a bundle."""
        with self._lock:
            for table in (self._total, self._window):
                entry = table.setdefault(sha256, Labelled())
                entry.n += 1
                entry.right += is_right
            while len(self._total) > _COUNTED_BUNDLES:
                del self._total[next(iter(self._total))]

    def total(self) -> dict[str, Labelled]:
        """Return what was counted since the agent's start, by bundle."""
        with self._lock:
            return {sha256: Labelled(entry.n, entry.right) for sha256, entry in self._total.items()}

    def cut(self, sha256: str) -> Labelled:
        """Return what was counted for a bundle since the last call, and begin anew."""
        with self._lock:
            return self._window.pop(sha256, Labelled())


class Camera:
    """Asks one row after the other, on a thread of its own.

    Args:
        rows: what it sees.
        start: row it begins with.
        rate_hz: rows a second.
        ask: (inputs) -> answer, through the local door.
        contract: returns the answering model's contract, None while nothing answers.
        is_blurred: whether the lens is blurred now.
        accuracy: told of each answer.
    """

    def __init__(
        self,
        rows: StreamRows,
        start: int,
        rate_hz: float,
        ask: Callable[[dict[str, Any]], Answer],
        contract: Callable[[], Contract | None],
        is_blurred: Callable[[], bool],
        accuracy: Accuracy,
    ) -> None:
        self._rows, self._row, self._period_s = rows, start % len(rows), 1 / rate_hz
        self._ask, self._contract, self._is_blurred, self._accuracy = ask, contract, is_blurred, accuracy
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking, after the request in progress. Being told twice is normal."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _run(self) -> None:
        while not self._closed.wait(self._period_s):
            contract = self._contract()
            if contract is None:
                self._closed.wait(PAUSE_S)
                continue
            row, self._row = self._row, (self._row + 1) % len(self._rows)
            try:
                answer = self._ask(self._rows.inputs(row, contract, is_blurred=self._is_blurred()))
            except (WavegateError, ValueError):  # counted by the engine; a model of another shape than the rows
                self._closed.wait(PAUSE_S)
                continue
            best = int(answer.outputs[contract.outputs[0].name].argmax())
            self._accuracy.count(answer.sha256, is_right=best == int(self._rows.y[row]))
