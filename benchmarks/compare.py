"""Sends the same files to the same receivers with every sender, in turn, and prints a table for each scene.

    python benchmarks/compare.py                         every scene (an hour and more)
    python benchmarks/compare.py --scene small ct big    some of them
    python benchmarks/compare.py --sender asyncstore 'DCMTK dcmsend' --rounds 3
    python benchmarks/compare.py --smoke                 tiny, in seconds; exit 1 unless asyncstore transfers everything

Whole processes are measured, from start to exit. A turn is one run of each sender; the first turn of a scene warms up
and does not count. The tables are written to benchmarks/results/ as Markdown and JSON. The exit code is 1 when
asyncstore was asked for and did not transfer everything, or is not there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import socket
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if not __package__:
    # Run as a script: the project comes first, and this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.data import Files, part, prepare
from benchmarks.delivery import check_delivery
from benchmarks.measure import (
    HERE,
    background,
    drop_from_page_cache,
    free_port,
    machine,
    output_of,
    seconds_to_first_byte,
)
from benchmarks.peers import SENDERS
from benchmarks.receivers import RECEIVERS, Endpoint, Receiver, choose_receiver
from benchmarks.report import Row, Table, growth, markdown, markdown_of
from benchmarks.scenes import NAMES, SCENES, SMOKE_PEERS, SMOKE_ROUND_TRIP_SECONDS, Scene
from benchmarks.versions import asyncstore_version, orthanc_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Run

RESULTS: Final = HERE / "results"


@dataclass(frozen=True, slots=True)
class Options:
    """How the scenes are run."""

    rounds: int
    senders: frozenset[str]
    smoke: bool
    timeout_seconds: float
    quiet: bool

    def say(self, text: str) -> None:
        """Tell on stderr how far it is."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _delayed(endpoint: Endpoint, round_trip_seconds: float) -> Iterator[Endpoint]:
    """The endpoint as it is, or seen through the delay proxy."""
    if not round_trip_seconds:
        yield endpoint
        return
    port = free_port()
    program = [sys.executable, str(HERE / "delay_proxy.py"), "--round-trip", str(round_trip_seconds)]
    with background([*program, "--to", str(endpoint.port), "--port", str(port)], [port]):
        yield Endpoint(port, endpoint.count)


class SceneRun:
    """One scene while it runs: its files, its receiver, and a row for each sender."""

    def __init__(self, scene: Scene, receiver: Receiver, options: Options) -> None:
        self.scene = scene
        self.receiver = receiver
        self.options = options
        self.table = Table(scene.name, scene.group, scene.title, receiver.description, receiver.name == "asyncstore")
        self.round_trip_seconds = scene.round_trip_seconds
        if options.smoke and scene.round_trip_seconds:
            self.round_trip_seconds = SMOKE_ROUND_TRIP_SECONDS
        if options.smoke:
            self.table.remarks.append("A smoke run: a few small files, once. The numbers mean nothing.")

    def run(self) -> Table:
        """Run all turns and return the table."""
        self.table.missing = self.receiver.missing()
        if self.table.missing:
            return self.table
        name = f"smoke-{self.scene.files}" if self.options.smoke else self.scene.files
        whole = prepare(name, on_disk=self.scene.cold)
        count = self.scene.smoke_count if self.options.smoke else self.scene.count
        files = part(whole, count or whole.count)
        work = [(self._row(name, files), self._files_for(name, files)) for name in self._names()]
        self.table.rows = [row for row, _ in work]
        try:
            self._turns(work)
        except RuntimeError as error:
            self.table.missing = f"the receiver did not start: {error}"
            return self.table
        self._first_bytes(files)
        return self.table

    def _turns(self, work: list[tuple[Row, Files]]) -> None:
        rounds = min(self.options.rounds, self.scene.most_rounds or self.options.rounds)
        warm_up = rounds > 1
        with contextlib.ExitStack() as stack:
            endpoint = None if self.receiver.keeps else stack.enter_context(self._endpoint())
            for turn in range(rounds + warm_up):
                counts = turn >= warm_up
                self.options.say(f"{self.scene.name}: {f'round {turn + 1 - warm_up}' if counts else 'warm-up'}")
                for row, given in work:
                    if row.missing is None and not row.given_up:
                        self._one(row, given, endpoint, counts=counts)

    def _names(self) -> list[str]:
        wanted = self.options.senders
        if wanted:
            return [name for name in self.scene.senders if name in wanted]
        if self.options.smoke and self.receiver.keeps:
            return [name for name in self.scene.senders if name in ("asyncstore", "DCMTK dcmsend")]
        if self.options.smoke:
            return [n for n in self.scene.senders if n in SMOKE_PEERS or SENDERS[n].family == "asyncstore"]
        return list(self.scene.senders)

    def _files_for(self, name: str, files: Files) -> Files:
        limit = SENDERS[name].parts.get(files.kind, files.count)
        return part(files, min(limit, 5) if self.options.smoke and SENDERS[name].parts else limit)

    def _row(self, name: str, files: Files) -> Row:
        sender = SENDERS[name]
        given = self._files_for(name, files)
        version = sender.version()
        return Row(
            sender=name,
            family=sender.family,
            version=version,
            command=shlex.join(sender.command(0, given.root)),
            instances=given.count,
            total_bytes=given.total_bytes,
            whole_scene=given.count == files.count,
            missing=None if version else "not available",
            note=sender.note,
        )

    @contextlib.contextmanager
    def _endpoint(self) -> Iterator[Endpoint]:
        with self.receiver.start() as endpoint, _delayed(endpoint, self.round_trip_seconds) as reached:
            yield reached

    def _one(self, row: Row, given: Files, endpoint: Endpoint | None, *, counts: bool) -> None:
        """One run of one sender; a warm-up that fails is a problem too."""
        with contextlib.ExitStack() as stack:
            if endpoint is None:
                endpoint = stack.enter_context(self._endpoint())
            self._make_cold(row, given)
            before = endpoint.count()
            run = SENDERS[row.sender].run(endpoint.port, given.root, self.options.timeout_seconds)
            after = endpoint.count()
        # One run that does not end is enough: every further one would take as long.
        row.given_up = run.timed_out
        if counts or run.timed_out:
            row.runs.append(run)
        row.problems += self._problems(row, run, before, after)

    def _problems(self, row: Row, run: Run, before: int | None, after: int | None) -> list[str]:
        if run.timed_out:
            return [f"not finished after {self.options.timeout_seconds:.0f} s"]
        if not SENDERS[row.sender].succeeded(run):
            last = run.output.strip().splitlines()[-1:]
            return [f"exit code {run.exit_code}: {' '.join(last)[:200]}"]
        if before is not None and after is not None and after - before != row.instances:
            return [f"the receiver took {after - before:,} of {row.instances:,} instances"]
        return []

    def _make_cold(self, row: Row, given: Files) -> None:
        if not self.scene.cold:
            return
        remark = drop_from_page_cache(given.paths(), everything=not self.options.smoke)
        # The files are to be cold, not the program.
        output_of([*SENDERS[row.sender].warm_up])
        if remark not in self.table.remarks:
            self.table.remarks.append(remark)

    def _first_bytes(self, files: Files) -> None:
        for name in self.scene.first_byte:
            sender = SENDERS[name]
            if sender.version() is None or (self.options.senders and name not in self.options.senders):
                continue
            row = next((row for row in self.table.rows if row.sender == name), None)
            if row is None:
                row = self._row(name, files)
                self.table.rows.append(row)
            self.options.say(f"{self.scene.name}: first byte of {name}")
            with socket.create_server(("127.0.0.1", 0)) as listener:
                row.first_byte_seconds = seconds_to_first_byte(
                    sender.command(listener.getsockname()[1], files.root),
                    listener,
                    environment=sender.full_environment(),
                    timeout_seconds=self.options.timeout_seconds,
                )


def _versions(tables: list[Table]) -> dict[str, str]:
    versions = {row.family: row.version for table in tables for row in table.rows if row.version}
    if any(table.scene == "orthanc" and not table.missing for table in tables):
        versions["orthanc"] = orthanc_version() or "Orthanc"
    return dict(sorted(versions.items()))


def _save(about: dict[str, Any], tables: list[Table], *, smoke: bool) -> list[Path]:
    RESULTS.mkdir(exist_ok=True)
    stem = f"{'smoke-' if smoke else ''}{time.strftime('%Y%m%d-%H%M%S')}"
    paths = [RESULTS / f"{stem}.md", RESULTS / f"{stem}.json"]
    paths[0].write_text(markdown(about, tables))
    paths[1].write_text(json.dumps(_as_json(about, tables), indent=1))
    return paths


def _as_json(about: dict[str, Any], tables: list[Table]) -> dict[str, Any]:
    return {**about, "growth": growth(tables), "scenes": [table.to_dict() for table in tables]}


def _ours_failed(tables: list[Table]) -> list[str]:
    """What is wrong with our own rows."""
    not_measured = [f"{table.scene}: {table.missing}" for table in tables if table.missing and table.needs_asyncstore]
    return not_measured + [
        f"{table.scene}: {row.sender}: {row.missing or '; '.join(dict.fromkeys(row.problems)) or 'did not run'}"
        for table in tables
        for row in table.rows
        if row.family == "asyncstore" and not row.is_good
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare asyncstore with other DICOM senders, side by side.")
    parser.add_argument("--scene", nargs="+", choices=NAMES, metavar="NAME", help=f"any of: {', '.join(NAMES)}")
    parser.add_argument("--sender", nargs="+", choices=SENDERS, metavar="NAME", help="see benchmarks/peers.py")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count, after a warm-up (5)")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="of a single run (900)")
    parser.add_argument("--smoke", action="store_true", help="tiny files, one round, a few seconds in total")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main() -> int:
    """Run the scenes that were asked for."""
    arguments = _parser().parse_args()
    options = Options(
        rounds=1 if arguments.smoke else max(arguments.rounds, 1),
        senders=frozenset(arguments.sender or ()),
        smoke=arguments.smoke,
        timeout_seconds=60 if arguments.smoke else arguments.timeout,
        quiet=arguments.smoke,
    )
    about: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
        "rounds": options.rounds,
        "machine": machine(),
    }
    tables: list[Table] = []
    for scene in SCENES:
        if arguments.scene and not {scene.name, scene.group} & set(arguments.scene):
            continue
        tables.append(SceneRun(scene, RECEIVERS[_receiver_for(scene, options)], options).run())
        if not arguments.json:
            print(markdown_of(tables[-1]), flush=True)
    about["versions"] = _versions(tables)
    failures = _ours_failed(tables)
    if arguments.smoke and asyncstore_version():
        failures += [f"delivery: {problem}" for problem in check_delivery()]
    if arguments.json:
        print(json.dumps(_as_json(about, tables), indent=1))
    for path in _save(about, tables, smoke=arguments.smoke):
        print(f"written: {path.relative_to(HERE.parent)}", file=sys.stderr)
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def _receiver_for(scene: Scene, options: Options) -> str:
    """A smoke run must do with what is installed; a real one says what is missing."""
    has_substitute = options.smoke and not scene.receiver.endswith("+tls")
    return choose_receiver(scene.receiver, "asyncstore") if has_substitute else scene.receiver


if __name__ == "__main__":
    sys.exit(main())
