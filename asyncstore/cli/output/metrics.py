"""The numbers of a run in the text format of Prometheus, version 0.0.4: what `--metrics-file` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asyncstore import __version__
from asyncstore.instances.outcome import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.transfer.report import Report
    from asyncstore.transfer.view import TransferView

BEGINNING: Final = "# HELP asyncstore_"  # of every such file, in all versions


class Reading(NamedTuple):
    """A run at one moment. `run` is its name. Times are in seconds since 1970.

    `answered_at` is when the latest response came, at first the start of the run. `exit_code` is None while it runs.
    """

    run: str
    destination: str
    report: Report
    view: TransferView
    started_at: float
    answered_at: float
    exit_code: int | None = None


def _metrics(now: Reading) -> tuple[tuple[str, str, float | None], ...]:
    """Each metric without labels of its own: name, what it is, and value; None: it has none yet."""
    report, view, code = now.report, now.view, now.exit_code
    return (
        ("instances_found_total", "Instances found in the input, those of an earlier run included.", report.found),
        ("input_complete", "Whether the input was read to its end.", report.scan_finished),
        ("attempts_total", "C-STORE requests for what has its outcome.", report.attempts),
        ("answers_total", "C-STORE responses.", report.answers),
        ("sent_bytes_total", "Bytes of data sets that were sent, in all attempts.", report.sent_bytes),
        ("stored_bytes_total", "Bytes of the data sets that this run stored.", report.stored_bytes),
        ("associations_open", "Associations that are open.", report.associations_open),
        ("associations_established_total", "Associations that were established.", report.associations_established),
        ("instances_waiting", "Instances that are ready to be sent.", view.waiting),
        ("instances_in_flight", "C-STORE requests that have no response yet.", view.in_flight),
        ("retries_waiting", "Instances that will be sent again.", view.retrying),
        ("outage", "Whether the peer takes nothing, and the run keeps trying.", view.trouble is not None),
        ("paused", "Whether the run sends nothing: --between, or the control file.", report.waiting_for is not None),
        ("start_timestamp_seconds", "When the run began.", now.started_at),
        (
            "latest_answer_timestamp_seconds",
            "When the latest C-STORE response came, or the run began.",
            now.answered_at,
        ),
        ("finished", "Whether the run has ended.", code is not None),
        ("exit_code", "The exit code of the run, once it has ended.", code),
    )


def metrics_text(now: Reading) -> str:
    """The whole file."""
    return "".join(f"{line}\n" for line in _lines(now))


def _lines(now: Reading) -> Iterator[str]:
    of_run = _label("run", now.run)
    about = ",".join((of_run, _label("destination", now.destination), _label("version", __version__)))
    yield from _head("run_info", "What the run is: its peer, and the version of asyncstore.")
    yield f"asyncstore_run_info{{{about}}} 1"
    yield from _head("instances_total", "Outcomes by state; skipped and some source-problem are files without one.")
    for state in State:
        yield f"asyncstore_instances_total{{{of_run},{_label('state', state.value)}}} {now.report.states[state]}"
    for name, meaning, value in _metrics(now):
        if value is not None:
            yield from _head(name, meaning)
            yield f"asyncstore_{name}{{{of_run}}} {_number(value)}"


def _head(name: str, meaning: str) -> tuple[str, str]:
    kind = "counter" if name.endswith("_total") else "gauge"
    return f"# HELP asyncstore_{name} {meaning}", f"# TYPE asyncstore_{name} {kind}"


def _label(name: str, value: str) -> str:
    for character, escaped in (("\\", r"\\"), ("\n", r"\n"), ('"', r"\"")):
        value = value.replace(character, escaped)
    return f'{name}="{value}"'


def _number(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(int(value))
