"""Which files of the input are sent, and in which order."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from asyncstore.errors import LocalProtocolError
from asyncstore.inputs.trace import LeftOut
from asyncstore.record import record
from asyncstore.trace import emit

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

    from asyncstore.instances.instance import Instance

logger: logging.Logger = logging.getLogger("asyncstore.inputs")

Order: TypeAlias = Literal["found", "path", "newest", "largest"]

_LONGEST_MODALITY: Final = 16  # PS3.5 6.2, CS


@record(frozen=True, slots=True)
class Selection:
    """Which files of the input are sent, and in which order; by default all of them, as they are found.

        Selection(include=("*.dcm", "IM*"), exclude=("backup/",), modalities=("CT", "MR"))

    include     patterns; if there are any, a file must match one: `*.dcm`, `/CT/**`, `{CT,MR}*`
    exclude     patterns; a file that matches one is left out, also if it is included
    modalities  send only instances with one of these values of Modality (0008,0060)
    newer_than  send only files that were modified after this time, in seconds since 1970
    archives    also open ZIP and TAR archives that are found in directories; one that is a source itself always is
    order       "found": as the file system lists them. "path": by name in each directory, its files before its
                subdirectories. "newest", "largest": by time of modification or size, over all sources

    A pattern is compared with the path of a file relative to its source; without a slash at the beginning, the end of
    the path is enough. `*` does not match a slash, `**` does. A member of an archive is compared by its name in the
    archive, and has the time of the archive; `include` is not for the name of the archive itself.

    Sorting "newest" or "largest" looks at every file before the first is sent, and takes about 250 bytes of memory for
    each; an endless source is not possible then. It is the order in which files are read: associations may overtake
    each other. Members of an archive keep their order.

    Raises LocalProtocolError for a value that makes no sense.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    newer_than: float | None = None
    archives: bool = False
    order: Order = "found"

    @property
    def opens_files(self) -> bool:
        """Whether files found in directories must be opened to tell which are taken."""
        return bool(self.modalities or (self.include and self.archives))

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "modalities"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(isinstance(value, str) for value in values):
                raise LocalProtocolError(f"{name} is {values!r:.200}: it is a tuple of texts")
        _patterns("include", self.include)
        _patterns("exclude", self.exclude)
        for modality in self.modalities:
            if not modality.strip() or len(modality) > _LONGEST_MODALITY:
                raise LocalProtocolError(f"modalities has {modality!r:.200}: it is a value such as CT")
        if self.newer_than is not None and not isinstance(self.newer_than, int | float):
            raise LocalProtocolError(f"newer_than is {self.newer_than!r:.200}: it is a time in seconds since 1970")
        if self.order not in get_args(Order):
            raise LocalProtocolError(f"order is {self.order!r}: it is one of {', '.join(get_args(Order))}")


class Choice:
    """Applies a selection to what a run finds; `left_out` counts what it leaves out.

    Threads may ask at the same time.
    """

    def __init__(self, selection: Selection) -> None:
        self.left_out: int = 0
        self.archives: bool = selection.archives
        self.order = selection.order
        self.sorts_all: bool = selection.order in ("newest", "largest")
        self.looks_inside: bool = bool(selection.modalities)
        self._include = _patterns("include", selection.include)
        self._exclude = _patterns("exclude", selection.exclude)
        self._modalities = frozenset(modality.strip().upper() for modality in selection.modalities)
        self._newer_than_ns = None if selection.newer_than is None else int(selection.newer_than * 1e9)
        self._turn = threading.Lock()

    @classmethod
    def of(cls, selection: Selection) -> Choice | None:
        """The choice of a selection; None if that takes everything as it comes."""
        return None if selection == _EVERYTHING else cls(selection)

    def takes_name(self, path: str, relative: str) -> bool:
        """Whether a member is taken for its name; `relative` is its path in its source."""
        return self._takes(path, relative, is_included=self._includes(relative))

    def takes_file(
        self, path: str, relative: str, stamp: Callable[[], tuple[int, int] | None], *, is_named: bool = False
    ) -> bool:
        """Whether a file is taken for its name, and is new enough. Blocks.

        `include` is not for the names of files that lead to others: archives, and a DICOMDIR that the user named.
        `stamp` gives its size and modification time.
        """
        is_included = self._includes(relative) or ((is_named or self.archives) and _leads_to_others(path))
        if not self._takes(path, relative, is_included=is_included):
            return False
        if self._newer_than_ns is None:
            return True
        stamped = stamp()
        return stamped is None or stamped[1] > self._newer_than_ns or self._leave_out(path, "not new enough")

    def takes_instance(self, instance: Instance) -> bool:
        """Whether an instance is taken. Blocks if that depends on its modality."""
        if not self.looks_inside:
            return True
        from asyncstore.instances.study import modality_of

        modality = modality_of(instance)
        if modality is not None and modality.upper() in self._modalities:
            return True
        return self._leave_out(instance.path, f"its modality is {modality}" if modality else "it has no modality")

    def _includes(self, relative: str) -> bool:
        return not self._include or any(pattern.fullmatch(relative) for pattern in self._include)

    def _takes(self, path: str, relative: str, *, is_included: bool) -> bool:
        if not is_included:
            return self._leave_out(path, "not included")
        is_excluded = any(pattern.fullmatch(relative) for pattern in self._exclude)
        return not is_excluded or self._leave_out(path, "excluded")

    def _leave_out(self, path: str | None, why: str) -> bool:
        if logger.isEnabledFor(LeftOut.level):
            emit(logger, LeftOut(path=path, why=why))
        with self._turn:
            self.left_out += 1
        return False


def _leads_to_others(path: str) -> bool:
    from asyncstore.inputs.archives.opening import leads_to_others

    return leads_to_others(path)


def _patterns(name: str, globs: tuple[str, ...]) -> list[re.Pattern[str]]:
    if not globs:
        return []
    from asyncstore.inputs.globs import glob_pattern

    patterns = []
    for glob in globs:
        try:
            patterns.append(glob_pattern(glob))
        except ValueError as error:
            raise LocalProtocolError(f"{name} has {glob!r:.200}: {error}") from None
    return patterns


_EVERYTHING: Final = Selection()
