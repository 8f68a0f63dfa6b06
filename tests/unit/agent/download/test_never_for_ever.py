"""No silent loop of full downloads: a day of a device whose download cannot work, its bytes counted, its clock made up.

The updater's core, the download and the store are real; the source lies, and an instruction is never taken back.
"""

from __future__ import annotations

import io
import random
from collections import deque
from contextlib import contextmanager

import pytest

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.state import Asked, Release, Step, UpdaterState
from agent.core.updater import update
from agent.delta import Base, DeltaTry
from agent.download import Answer
from agent.download.losses import Losses
from agent.download.meter import DAY_MS, ByteBudget
from agent.runner.blobs import Price, ServerBlobs
from agent.store import LocalFileSystem, Store
from bundles.delta.make import make_delta
from bundles.digest import sha256_hex
from bundles.errors import TryAgain, WavegateError
from bundles.wire.messages import Profile

LENGTH = 200_000
DATA = random.Random(5).randbytes(LENGTH)
OLD = DATA[:50_000] + random.Random(6).randbytes(100_000) + DATA[150_000:]
RELEASE = Release("vision/digits/2.0.0/bundle.json", sha256_hex(DATA), LENGTH, 2)
START = 20_000 * DAY_MS


def good_delta() -> bytes:
    sink = io.BytesIO()
    assert make_delta(OLD, DATA, sink)
    return sink.getvalue()


GOOD_DELTA = good_delta()


class Liar:
    """A source that never brings the file.

    Attributes:
        sent: bytes it sent altogether, and of deltas.
        asked: requests.
    """

    def __init__(self, kind):
        self.kind, self.sent, self.sent_of_deltas, self.asked = kind, 0, 0, 0

    @contextmanager
    def open(self, url, offset, etag):
        self.asked += 1
        is_delta = url.startswith("/v1/deltas/")
        if is_delta and "delta" not in self.kind:
            yield Answer(404, iter(()))
            return
        status, start, length, body = self.answer(offset, is_delta)
        yield Answer(status, self.counted(body, is_delta), length, start)

    def answer(self, offset, is_delta):
        broken, rest = 6 * LENGTH // 10, LENGTH - offset
        if is_delta and self.kind == "delta":
            return 200, 0, None, self.pieces(b"no delta at all" * 5_000)
        if is_delta:
            return (206 if offset else 200), offset, None, self.pieces(b"" if offset else GOOD_DELTA[:-10], breaks=True)
        match self.kind:
            case "other content":
                return (206 if offset else 200), offset, rest, self.pieces(OLD[offset:])
            case "longer":
                return 200, 0, None, self.pieces(DATA + b"x")
            case "shorter":
                return (206 if offset else 200), offset, None, self.pieces(DATA[offset:-1])
            case "cannot resume, and breaks":
                return 200, 0, LENGTH, self.pieces(DATA[:broken], breaks=True)
            case "resumes elsewhere, and breaks":
                return (
                    (206, offset + 1, rest, iter(())) if offset else (200, 0, LENGTH, self.pieces(DATA[:broken], True))
                )
            case "delta" | "delta that breaks":
                return 200, 0, LENGTH, self.pieces(b"", breaks=True)
            case "page":
                return 200, 0, None, self.pieces(b"<html>Please sign in</html>")
        raise AssertionError(self.kind)

    @staticmethod
    def pieces(data, breaks=False):
        yield from (data[at : at + 16_384] for at in range(0, len(data), 16_384))
        if breaks:
            raise TryAgain("The connection broke.", code="SERVER_UNREACHABLE")

    def counted(self, body, is_delta):
        for piece in body:
            self.sent += len(piece)
            self.sent_of_deltas += len(piece) * is_delta
            yield piece


class Device:
    """One model's updater on a disk, behind a source; nothing here waits.

    Attributes:
        reports: what it told, in order.
        came: whether the file did.
    """

    def __init__(self, folder, source, budget_bytes=0):
        self.source, self.now_ms, self.state = source, START, UpdaterState("vision/digits")
        self.rng, self.kept, self.reports, self.spent, self.budget_bytes = random.Random(3), b"", [], b"", budget_bytes
        self.waiting, self.came = deque(), False
        self.store = Store(LocalFileSystem(folder), reserve_bytes=0)
        self.store.open()
        part = self.store.blob(sha256_hex(OLD), LENGTH)
        part.append(OLD)
        part.commit()
        self.start()
        profile = Profile(accept_s=900, download_s=1800)
        self.offer(ev.DesiredChanged(0, Asked(1, RELEASE, "r1", profile)))

    def start(self):
        losses = Losses(lambda: self.now_ms, self.kept, lambda data: setattr(self, "kept", data))
        keep = lambda data: setattr(self, "spent", data)  # noqa: E731
        self.budget = (
            ByteBudget(self.budget_bytes, lambda: self.now_ms, self.spent, keep) if self.budget_bytes else None
        )
        price = Price(self.budget, within_s=lambda _n: 0.0)
        self.blobs = ServerBlobs(self.source, self.rng, price, self.sleep, losses)
        self.waiting.clear()
        self.state = self.state.durable()
        self.offer(ev.Booted(0))

    def sleep(self, seconds):
        self.now_ms += round(seconds * 1000)

    def offer(self, event):
        event = type(event)(**{**event.__dict__, "at_ms": self.now_ms})
        self.state, effects = update(self.state, event)
        for effect in effects:
            if isinstance(effect, fx.Report):
                self.reports.append(effect)
            elif isinstance(effect, fx.Authorize | fx.Admit | fx.Download):
                self.waiting.append(effect)
        while self.waiting:
            self.offer(self.answer(self.waiting.popleft()))

    def answer(self, effect):
        if isinstance(effect, fx.Authorize):
            return ev.Authorized(0, RELEASE.sha256)
        if isinstance(effect, fx.Admit):
            try:
                if self.budget is not None:
                    self.budget.check()
            except TryAgain as error:
                return ev.EffectFailed(0, "admit", RELEASE.sha256, error.code, True, error.sentence)
            return ev.Admitted(0, RELEASE.sha256, effect.stage)
        wish = DeltaTry(Base(sha256_hex(OLD), lambda: self.store.open_blob(sha256_hex(OLD))), lambda _error: None)
        try:
            self.blobs(self.store, RELEASE.sha256, LENGTH, lambda: False, wish)
        except WavegateError as error:
            is_retryable = isinstance(error, TryAgain)
            return ev.EffectFailed(
                0, "download", RELEASE.sha256, error.code, is_retryable, error.sentence, self.rng.random()
            )
        self.came = True
        return ev.Downloaded(0, RELEASE.sha256, "2.0.0", "any")

    def live(self, hours, starts_every_h=0.0):
        """Let time pass, from one thing that is due to the next; perhaps switched off and on meanwhile."""
        end = self.now_ms + hours * 3_600_000
        next_start = self.now_ms + starts_every_h * 3_600_000 if starts_every_h else end
        while self.now_ms < end:
            due = self.state.due_ms or end
            if next_start <= due:
                self.now_ms, next_start = max(self.now_ms, next_start), next_start + starts_every_h * 3_600_000
                self.start()
            else:
                self.now_ms = max(self.now_ms + 1, min(due, end))
                self.offer(ev.Ticked(0))


@pytest.fixture(params=[0.0, 0.75], ids=["", "switched off and on"])
def starts_every_h(request):
    return request.param


@pytest.mark.parametrize(
    ("kind", "code"),
    [("other content", "DOWNLOAD_DIGEST"), ("longer", "DOWNLOAD_LENGTH"), ("shorter", "DOWNLOAD_LENGTH")],
)
def test_a_blob_that_never_verifies_is_fetched_three_times_and_the_reason_told(tmp_path, kind, code, starts_every_h):
    source = Liar(kind)
    device = Device(tmp_path, source)
    device.live(24, starts_every_h)
    assert (device.state.step, device.state.reason, device.state.code) == (Step.FAILED, "verify", code)
    assert device.reports[-1].phase == "failed"
    assert source.sent <= 3 * (LENGTH + 1)


@pytest.mark.parametrize("kind", ["cannot resume, and breaks", "resumes elsewhere, and breaks"])
def test_a_download_that_always_begins_anew_rests_longer_and_longer(tmp_path, kind, starts_every_h):
    source = Liar(kind)
    device = Device(tmp_path, source)
    device.live(24, starts_every_h)
    first = source.sent
    told = {(report.phase, report.reason, report.code) for report in device.reports}
    assert ("deferred", "transport", "DOWNLOAD_IN_VAIN") in told, "put off, not blamed on the release"
    assert device.state.step is not Step.FAILED
    assert first <= 16 * LENGTH, "rests of 15, 30, 60 ... minutes: seven in a day"
    device.live(48, starts_every_h)
    assert source.sent - first <= 8 * LENGTH, "then about one a day"
    device.source.kind = "honest"
    source.answer = lambda offset, _is_delta: ((206 if offset else 200), offset, LENGTH - offset, iter([DATA[offset:]]))
    device.live(25, starts_every_h)
    assert device.came, "and it is still asked for"


def test_a_delta_that_never_applies_is_fetched_once(tmp_path, starts_every_h):
    source = Liar("delta")
    device = Device(tmp_path, source)
    device.live(8, starts_every_h)
    assert 0 < source.sent_of_deltas <= 75_000, "once, though the whole file never begins to come either"
    assert source.asked > 10


def test_a_delta_whose_connection_always_breaks_is_given_rests_too(tmp_path, starts_every_h):
    source = Liar("delta that breaks")
    device = Device(tmp_path, source)
    device.live(24, starts_every_h)
    assert LENGTH < source.sent_of_deltas <= 16 * LENGTH, "it may be the network's fault, so it is asked for again"
    told = {(report.phase, report.reason, report.code) for report in device.reports}
    assert ("deferred", "transport", "DOWNLOAD_IN_VAIN") in told


def test_a_page_for_people_costs_next_to_nothing_all_day(tmp_path, starts_every_h):
    source = Liar("page")
    Device(tmp_path, source).live(24, starts_every_h)
    assert source.sent < LENGTH


def test_within_a_budget_the_same_day_costs_no_more_and_that_is_told_once(tmp_path):
    source = Liar("cannot resume, and breaks")
    device = Device(tmp_path, source, budget_bytes=2 * LENGTH)
    device.live(23)
    assert source.sent <= 2 * LENGTH + 16_384
    assert (device.state.step, device.state.reason, device.state.code) == (Step.DEFERRED, "budget", "CONDITION_BUDGET")
    told = [report for report in device.reports if report.reason == "budget"]
    assert len(told) == 1, "looked at again and again, without a word"
