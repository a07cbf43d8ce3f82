"""Looks up files and instances in a ledger in PostgreSQL. Blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from asyncstore.instances.outcome import State
from asyncstore.ledger.accounts import STORED_STATES
from asyncstore.ledger.packing import uid_bytes, uid_of_bytes
from asyncstore.ledger.protocol import KnownInstance
from asyncstore.ledger.settling import Kept, settled_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.ledger.postgresql.database import Database
    from asyncstore.ledger.postgresql.places import Places
    from asyncstore.ledger.protocol import Offered, Suspicion

_AT_ONCE: Final = 512
_SETTLED: Final = """
SELECT t.path, t.name, i.size_bytes, i.mtime_ns, a.state, a.standing, a.losses, a.status, a.reason,
    i.sop_instance_uid, i.recorded_at
FROM unnest($2::bytea[], $3::bytea[]) AS t (path, name)
JOIN directory d ON d.root = $1 AND d.path = t.path
JOIN instance i ON i.directory = d.id AND i.name = t.name
JOIN account a ON a.id = i.account
WHERE a.standing <> 0"""
_KNOWN: Final = f"""
SELECT i.sop_instance_uid, d.root, d.path, i.name, i.size_bytes, i.mtime_ns, a.state, i.recorded_at
FROM (SELECT DISTINCT unnest($2::bytea[]) AS uid) AS t
JOIN instance i ON i.sop_instance_uid = t.uid
JOIN account a ON a.id = i.account
JOIN directory d ON d.id = i.directory
WHERE d.root = ANY($1::int[]) AND a.state IN ({STORED_STATES})"""

_Key = tuple[bytes, bytes]


class PostgresLookup:
    """Looks up files below a root, and instances in all roots of `places`.

    `uncommitted` returns the stored instances with some SOP Instance UIDs that may not have a row yet.
    """

    def __init__(
        self,
        database: Database,
        places: Places,
        uncommitted: Callable[[Collection[str]], dict[str, list[KnownInstance]]],
    ) -> None:
        self._database = database
        self._places = places
        self._uncommitted = uncommitted

    def close(self) -> None:
        """Close the connection, after the current look-up."""
        self._database.close()

    def settled(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        """See Ledger.settled. Paths are compared by size and modification time, and not opened."""
        outcomes: list[Outcome | Suspicion | None] = []
        for at in range(0, len(offered), _AT_ONCE):
            outcomes += self._settled_of(offered[at : at + _AT_ONCE])
        return outcomes

    def stored_elsewhere(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """See Ledger.stored_elsewhere."""
        known: list[list[KnownInstance]] = []
        for at in range(0, len(instances), _AT_ONCE):
            known += self._known_of(instances[at : at + _AT_ONCE])
        return known

    def known_instance(self, sop_instance_uid: str) -> KnownInstance | None:
        """The stored instance with a SOP Instance UID, from any path; None if there is none."""
        return next(iter(self._candidates([sop_instance_uid]).get(sop_instance_uid, ())), None)

    def _settled_of(self, offered: Sequence[Offered]) -> list[Outcome | Suspicion | None]:
        keys = [None if each.name is None else self._places.key(each.name) for each in offered]
        columns = list(zip(*(key for key in keys if key is not None), strict=True)) or [(), ()]
        found = self._database.fetch(_SETTLED, self._places.root, *columns)
        rows = {(row[0], row[1]): tuple(row)[2:] for row in found}
        for key in self._outdated_duplicates(rows):
            del rows[key]
        return [
            None if key is None else settled_outcome(each, Kept(*rows[key][:7]) if key in rows else None)
            for each, key in zip(offered, keys, strict=True)
        ]

    def _outdated_duplicates(self, rows: dict[_Key, Any]) -> list[_Key]:
        """The duplicates among these rows whose SOP Instance UID was stored again later, from any file."""
        duplicates = {
            key: (uid_of_bytes(uid), recorded_at)
            for key, (_, _, state, *_, uid, recorded_at) in rows.items()
            if state == State.DUPLICATE
        }
        uids = {uid for uid, _ in duplicates.values()}
        if not uids:
            return []
        stored_at = dict.fromkeys(self._uncommitted(uids), math.inf)
        for packed, *_, recorded_at in self._known_rows(uids):
            uid = uid_of_bytes(packed)
            stored_at[uid] = max(stored_at.get(uid, 0), recorded_at)
        return [key for key, (uid, recorded_at) in duplicates.items() if stored_at.get(uid, 0) > recorded_at]

    def _known_of(self, instances: Sequence[Instance]) -> list[list[KnownInstance]]:
        """The stored instances with the UIDs of these that do not come from their paths."""
        candidates = self._candidates([instance.sop_instance_uid for instance in instances])
        absolute = self._places.absolute
        paths = [None if instance.path is None else absolute(instance.path) for instance in instances]
        return [
            [known for known in candidates.get(instance.sop_instance_uid, ()) if known.path != path]
            for instance, path in zip(instances, paths, strict=True)
        ]

    def _candidates(self, uids: Sequence[str]) -> dict[str, list[KnownInstance]]:
        """The stored instances of these UIDs."""
        # First the uncommitted, then the committed: the other order would miss one that is committed in between.
        candidates = self._uncommitted(frozenset(uids))
        for packed, root, directory, name, size, mtime, state, _ in self._known_rows(uids):
            known = KnownInstance(self._places.path_of(root, directory, name), size, mtime, State(state))
            candidates.setdefault(uid_of_bytes(packed), []).append(known)
        return candidates

    def _known_rows(self, uids: Collection[str]) -> list[Any]:
        return self._database.fetch(_KNOWN, self._places.roots, [uid_bytes(uid) for uid in uids])
