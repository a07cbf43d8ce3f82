"""The real `asyncstore demo`."""

from __future__ import annotations

from tests.support import command


def test_the_demonstration_sends_real_files_and_explains_the_rest() -> None:
    done = command.run("demo")
    assert done.returncode == 0, done.stderr
    assert "I: Requesting Association\nI: Association Accepted\nI: Sending file: " in done.stderr
    *_, last, differing = done.stderr.splitlines()
    assert last == "I: Releasing Association"
    assert differing.endswith("more instances whose UIDs or File Meta Information are doubtful")
    assert "What was sent" in done.stdout
    assert "CT Image Storage" in done.stdout
    assert "What was not sent, and why" in done.stdout
    assert "meta_missing_tsyntax.dcm" in done.stdout
    assert " arrived at the SCP" in " ".join(done.stdout.split())


def test_a_quiet_demonstration_is_the_tables_alone() -> None:
    done = command.run("demo", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert "What was sent" in done.stdout
