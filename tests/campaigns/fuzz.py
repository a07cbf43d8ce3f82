"""Throws damaged and random bytes at everything that reads what a peer sends, or what lies in files.

    python -m tests.campaigns.fuzz                                  1,000,000 inputs, all targets in turn
    python -m tests.campaigns.fuzz --target requestor-sta6 --seed 7 --inputs 50000
    python -m tests.campaigns.fuzz --seconds 1800                   for half an hour
    python -m tests.campaigns.fuzz --target pdu --replay 0400ff     one input again

What may come out is events, messages, instances, or the documented error. Anything else is a finding: another
exception, a broken invariant (see fuzz_targets.py, fuzz_files.py, fuzz_tls.py), too much memory, too much time. It is
made smaller and printed, and the exit code is 1.
An input depends on the seed and its number only, and what a target does on its input only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import random
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.campaigns.fuzz_support import Violation
from tests.campaigns.fuzz_targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.campaigns.fuzz_support import Target

MAXIMUM_INPUT_BYTES: Final = 1 << 16
# Of an input's length, how much of the processor and of memory it may take: 64 KiB may be 10,000 fragments.
_SECONDS_PER_BYTE: Final = 20e-6
_MEMORY_BYTES_PER_BYTE: Final = 64
_MEASURED_EVERY: Final = 250  # watching memory makes everything ten times slower
_RANDOM_SHARE: Final = 0.05
_INTERESTING: Final = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
_SHRINK_RUNS: Final = 2000


@dataclass(frozen=True)
class Finding:
    """An input that a target did not take well: `problem` says how, `kind` is what two inputs have in common."""

    target: str
    data: bytes
    kind: str
    problem: str
    number: int | None = None


class Mutator:
    """Makes inputs from a corpus: the same for the same seed and number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._chance = random.Random()

    def begin(self, number: int) -> None:
        self._chance.seed(self._seed << 40 | number)

    def below(self, end: int) -> int:
        """A random number from 0 up to, not including, `end`; quicker than randrange."""
        return int(self._chance.random() * end)

    def input_for(self, target: Target) -> bytes:
        """One input: now and then random bytes, mostly a damaged entry of the corpus."""
        if self._chance.random() < _RANDOM_SHARE:
            return self._chance.randbytes(self.below(64))
        corpus = target.corpus
        data = bytearray(corpus[self.below(len(corpus))])
        for _ in range(1 + self.below(4)):
            _MUTATIONS[self.below(len(_MUTATIONS))](self, data, corpus)
        if target.is_pdu and self._chance.random() < 0.5:
            _repair(data)
        return bytes(data[:MAXIMUM_INPUT_BYTES])

    # Each takes what it changes, and the corpus.

    def flip_bit(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        if data:
            data[self.below(len(data))] ^= 1 << self.below(8)

    def set_byte(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        if data:
            data[self.below(len(data))] = self.below(256)

    def edit_length(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        """Change 1, 2 or 4 bytes that may be a length, mostly near the beginning, where lengths are."""
        width = 1 << self.below(3)
        end = len(data) - width + 1
        if end <= 0:
            return
        at = self.below(min(end, 32)) if self.below(2) else self.below(end)
        order: Any = "big" if self.below(2) else "little"
        if self.below(2):
            value = _INTERESTING[self.below(len(_INTERESTING))]
        else:
            value = int.from_bytes(data[at : at + width], order) + (-1, 1, 2, -2)[self.below(4)]
        data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, order)

    def truncate(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        del data[self.below(len(data) + 1) :]

    def remove(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        start = self.below(len(data) + 1)
        del data[start : start + 1 + self.below(16)]

    def repeat(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        start = self.below(len(data) + 1)
        data[start:start] = data[start : start + 1 + self.below(256)]

    def insert(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        start = self.below(len(data) + 1)
        data[start:start] = self._chance.randbytes(1 + self.below(16))

    def splice(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        """The beginning of this, the end of another."""
        other = corpus[self.below(len(corpus))]
        data[self.below(len(data) + 1) :] = other[self.below(len(other) + 1) :]

    def append(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        data += corpus[self.below(len(corpus))]


_MUTATIONS: Final = (
    *(Mutator.flip_bit, Mutator.flip_bit, Mutator.set_byte, Mutator.edit_length, Mutator.edit_length),
    *(Mutator.truncate, Mutator.remove, Mutator.repeat, Mutator.insert, Mutator.splice, Mutator.append),
)


def _repair(data: bytearray) -> None:
    """Make the length of a PDU right again, so that what is wrong inside is reached."""
    if len(data) > 6:
        data[2:6] = (len(data) - 6).to_bytes(4, "big")


def attempt(name: str, target: Target, data: bytes, *, is_measured: bool = False) -> Finding | None:
    """Run one input; what is wrong with it, or None."""
    started_at = time.process_time()
    if is_measured:
        tracemalloc.start()
    try:
        target.run(data)
    except Exception as error:
        return _finding_of(name, data, error)
    finally:
        peak_bytes = 0
        if is_measured:
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    if peak_bytes > target.memory_bytes + _MEMORY_BYTES_PER_BYTE * len(data):
        return Finding(name, data, "memory", f"{peak_bytes} bytes of memory for {len(data)} bytes")
    seconds = time.process_time() - started_at
    if not is_measured and seconds > target.seconds + _SECONDS_PER_BYTE * len(data):
        return Finding(name, data, "time", f"{seconds:.3f} s of the processor for {len(data)} bytes")
    return None


def _finding_of(name: str, data: bytes, error: Exception) -> Finding:
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = str(error) if isinstance(error, Violation) else f"{last.filename}:{last.lineno}"
    text = "".join(traceback.format_exception(error)).rstrip()
    return Finding(name, data, f"{type(error).__name__} {kind}", text)


def shrink(target: Target, finding: Finding) -> Finding:
    """The same finding with fewer bytes, and zeros where other bytes do not matter."""
    runs = 0

    def still(data: bytes) -> bool:
        nonlocal finding, runs
        runs += 1
        again = attempt(finding.target, target, data, is_measured=finding.kind == "memory")
        if again is None or again.kind != finding.kind:
            return False
        finding = Finding(finding.target, data, again.kind, again.problem, finding.number)
        return True

    width = len(finding.data)
    while width and runs < _SHRINK_RUNS:
        start = 0
        while start < len(finding.data) and runs < _SHRINK_RUNS:
            if not still(finding.data[:start] + finding.data[start + width :]):
                start += width
        width //= 2
    for at, byte in enumerate(finding.data):
        if byte and runs < _SHRINK_RUNS:
            still(finding.data[:at] + b"\0" + finding.data[at + 1 :])
    return finding


def fuzz(
    targets: Mapping[str, Target],
    inputs: int,
    seed: int,
    *,
    first: int = 0,
    counts: Counter[str] | None = None,
    ends_at: float = math.inf,
) -> Finding | None:
    """Give the targets so many inputs in turn, until a time; the first finding, made smaller, or None."""
    mutator = Mutator(seed)
    names = [name for name, target in targets.items() for _ in range(target.weight)]
    for number in range(first, first + inputs):
        if time.monotonic() > ends_at:
            break
        mutator.begin(number)
        name = names[number % len(names)]
        target = targets[name]
        data = mutator.input_for(target)
        is_measured = number // len(names) % _MEASURED_EVERY == 0
        finding = attempt(name, target, data, is_measured=is_measured)
        if finding is not None and finding.kind == "time":  # a machine that is busy is slow once, not twice
            finding = attempt(name, target, data)
        if finding is not None:
            found = Finding(finding.target, finding.data, finding.kind, finding.problem, number)
            return found if found.kind == "time" else shrink(target, found)
        if counts is not None:
            counts[name] += 1
    return None


def _print_finding(finding: Finding, seed: int) -> None:
    where = "" if finding.number is None else f", seed {seed}, number {finding.number}"
    print(f"FOUND in {finding.target}{where}, {len(finding.data)} bytes:\n{finding.data.hex()}\n{finding.problem}")
    print(
        f"again: python -m tests.campaigns.fuzz --target {finding.target} --replay {finding.data.hex() or chr(39) * 2}"
    )


def _replay(targets: Mapping[str, Target], data: bytes) -> int:
    findings = [attempt(name, target, data) for name, target in targets.items()]
    for finding in filter(None, findings):
        _print_finding(finding, 0)
    return int(any(findings))


def main(arguments: Sequence[str] | None = None, targets: Mapping[str, Target] = TARGETS) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.fuzz", description="Damaged bytes for every decoder."
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seconds", type=float, metavar="S", help="for this long, in place of --inputs")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="begin with this input")
    parser.add_argument("--target", choices=sorted(targets), action="append", help="only this one (repeatable)")
    parser.add_argument("--replay", type=bytes.fromhex, metavar="HEX", help="run this one input only")
    options = parser.parse_args(arguments)
    targets = {name: targets[name] for name in options.target or targets}
    if options.replay is not None:
        return _replay(targets, options.replay)
    counts: Counter[str] = Counter()
    started_at = time.monotonic()
    inputs, ends_at = (options.inputs, math.inf)
    if options.seconds is not None:
        inputs, ends_at = sys.maxsize - options.first, started_at + options.seconds
    finding = fuzz(targets, inputs, options.seed, first=options.first, counts=counts, ends_at=ends_at)
    seconds = time.monotonic() - started_at
    for name, count in counts.items():
        print(f"{name:20} {count:9}")
    print(f"{'all':20} {counts.total():9}  in {seconds:.0f} s, {counts.total() / max(seconds, 1e-9):.0f} a second")
    if finding is not None:
        _print_finding(finding, options.seed)
        return 1
    print("nothing found")
    return 0


if __name__ == "__main__":
    gc.freeze()  # what was imported need not be looked at again and again
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
