"""A Storage SCP made with odil, for the system's Python, which has it: `python3 odil_scp.py PORT DIRECTORY`.

It leaves an empty file for each instance that it took, and serves one association after the other. odil answers in the
last presentation context of the SOP class, whichever the request came in.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import odil  # type: ignore[import-not-found]


def main(port: int, directory: Path) -> None:
    def store(request: Any) -> int:
        (directory / request.get_affected_sop_instance_uid()).touch()
        return 0

    while True:
        association = odil.Association()
        try:
            association.receive_association("v4", port)
            scp = odil.StoreSCP(association)
            scp.set_callback(store)
            while True:
                scp(association.receive_message())
        except (odil.AssociationReleased, odil.AssociationAborted, odil.Exception):
            continue


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
