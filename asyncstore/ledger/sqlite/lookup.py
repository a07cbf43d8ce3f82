"""Looks up files and instances in a ledger: is this file settled, is this instance stored already? Blocks."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from asyncstore.instances.outcome import State
from asyncstore.ledger.accounts import STORED_STATES
from asyncstore.ledger.hashes import hash_of_path, hash_of_uid
from asyncstore.ledger.packing import ledger_path, unpack_uid
from asyncstore.ledger.protocol import KnownInstance
from asyncstore.ledger.settling import Kept, settled_outcome
from asyncstore.ledger.sqlite.file import ledger_errors, open_to_read
from asyncstore.ledger.sqlite.writer import padded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.protocol import Offered, Suspicion

_AT_ONCE: Final = 512
_NOWHERE: Final = ""

_INDEXED: Final = "SELECT id FROM hashed WHERE hash IN "
_SETTLED: Final = """
SELECT i.path, i.size_bytes, i.mtime_ns, a.state, a.standing, a.losses, a.status, a.reason, i.sop_instance_uid,
    i.recorded_at
FROM instance i JOIN account a ON a.id = i.account WHERE a.standing AND i.id IN """
_KNOWN: Final = f"""
SELECT i.sop_instance_uid, i.path, i.size_bytes, i.mtime_ns, a.state, i.recorded_at
FROM instance i JOIN account a ON a.id = i.account WHERE a.state IN ({STORED_STATES}) AND i.id IN """


class LedgerLookup:
    """Looks up files and instances in the ledger at `path`, on its own connection. Threads take turns.

    `waiting_ids` returns the rows whose hashes may not be in the index yet. `uncommitted` returns the stored instances
    with some SOP Instance UIDs that may not have a row yet.
    """

    def __init__(
        self,
        path: str,
        working_directory: str,
        waiting_ids: Callable[[Sequence[int]], list[int]],
        uncommitted: Callable[[Collection[str]], dict[str, list[KnownInstance]]],
    ) -> None:
        self._path = path
        self._working_directory = working_directory
        self._waiting_ids = waiting_ids
        self._uncommitted = uncommitted
        self._turn = threading.Lock()
        self._connection = open_to_read(path)

    def close(self) -> None:
        """Close the connection, after the current look-up."""
        with self._turn:
            self._connection.close()

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """See Ledger.settled. Paths are compared by size and modification time, and not opened."""
        outcomes: list[Outcome | Suspicion | None] = []
        with ledger_errors(self._path, "read"):
            for at in range(0, len(offered), _AT_ONCE):
                outcomes += self._settled_of(offered[at : at + _AT_ONCE])
        return outcomes

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """See Ledger.stored_elsewhere."""
        known: list[list[KnownInstance]] = []
        for at in range(0, len(instances), _AT_ONCE):
            part = instances[at : at + _AT_ONCE]
            paths = [self._absolute(instance.path) for instance in part]
            known += self._known_of([instance.sop_instance_uid for instance in part], paths)
        return known

    def known_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """The stored instance with a SOP Instance UID, from any path; None if there is none."""
        return next(iter(self._known_of([sop_instance_uid], [_NOWHERE])[0]), None)

    def _settled_of(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        paths = [self._absolute(each.name) for each in offered]
        keys = [os.fsencode(path) for path in paths if path is not None]
        rows = {row[0]: row for row in self._select(_SETTLED, [hash_of_path(key) for key in keys])} if keys else {}
        for key in self._outdated_duplicates(rows):
            del rows[key]
        remaining = iter(keys)
        return [
            None if path is None else settled_outcome(each, _kept(rows.get(next(remaining))))
            for each, path in zip(offered, paths, strict=True)
        ]

    def _outdated_duplicates(self, rows: dict[bytes, Any]) -> list[bytes]:
        """The duplicates among these rows whose SOP Instance UID was stored again later, from any file."""
        duplicates = {
            key: (unpack_uid(uid), recorded_at)
            for key, (*_, state, _, _, _, _, uid, recorded_at) in rows.items()
            if state == State.DUPLICATE
        }
        uids = {uid for uid, _ in duplicates.values()}
        stored_at = dict.fromkeys(self._uncommitted(uids), math.inf) if uids else {}
        for packed, *_, recorded_at in self._select(_KNOWN, [hash_of_uid(uid) for uid in uids]):
            uid = unpack_uid(packed)
            stored_at[uid] = max(stored_at.get(uid, 0), recorded_at)
        return [key for key, (uid, recorded_at) in duplicates.items() if stored_at.get(uid, 0) > recorded_at]

    def _known_of(self, uids: Sequence[str], paths: Sequence[str | None]) -> list[list[KnownInstance]]:
        """The stored instances of these UIDs that do not come from these paths."""
        # First the uncommitted, then the committed: the other order would miss one that is committed in between.
        wanted = frozenset(uids)
        candidates = self._uncommitted(wanted)
        with ledger_errors(self._path, "read"):
            for packed, path, size, mtime, state, _ in self._select(_KNOWN, [hash_of_uid(uid) for uid in uids]):
                known = KnownInstance(os.fsdecode(path) or None, size, mtime, State(state))
                uid = unpack_uid(packed)
                if uid in wanted:
                    candidates.setdefault(uid, []).append(known)
        return [
            [known for known in candidates.get(uid, ()) if known.path != path]
            for uid, path in zip(uids, paths, strict=True)
        ]

    def _select(self, query: str, hashes: Sequence[int]) -> list[Any]:
        if not hashes:
            return []
        # First the hashes that wait for the index, then the index: the other order would miss one that moves.
        waiting = self._waiting_ids(hashes)
        marks, values = padded(hashes)
        with self._turn:
            rows = self._connection.execute(f"{query}({_INDEXED}{marks})", values).fetchall()
            for at in range(0, len(waiting), _AT_ONCE):
                marks, values = padded(waiting[at : at + _AT_ONCE])
                rows += self._connection.execute(query + marks, values)
            return rows

    def _absolute(self, path: str | None) -> str | None:
        return None if path is None else ledger_path(path, self._working_directory)


def _kept(row: Any) -> Kept | None:
    return None if row is None else Kept(*row[1:8])
