#!/usr/bin/env bash
# Guess: a sender whose every file the SCP refuses (C000) ends with an exit code other than 0, and so does storescu with
#   --no-halt: that option says to go on, not to forget.
# Seen: storescu alone does so (192, the first byte of the status), and it stops at the first refusal. `storescu --no-halt`,
#   dcmsend and pynetdicom's storescu end with 0, and DCMTK's two print not a word at their default log level.
# Matters: a migration script that tests the exit code believes that all was stored. dcmsend -v counts the failures.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, pynetdicom 3.0.4.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2 ct3

cat >refuse.py <<'END'
import sys

from pynetdicom import AE, AllStoragePresentationContexts, evt


def refuse(event):
    print("refused", event.request.AffectedSOPInstanceUID, flush=True)
    return 0xC000


ae = AE()
ae.supported_contexts = AllStoragePresentationContexts
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, refuse)])
END
port=$(free_port)
serve "$port" venv/bin/python refuse.py "$port"
refusals() { grep -c refused "server-$port.log" || true; }

expect "storescu's exit code" "$(status_of storescu 127.0.0.1 "$port" CT1 CT2 CT3)" 192
expect "refusals so far" "$(refusals)" 1
expect "storescu --no-halt's exit code" "$(status_of storescu --no-halt 127.0.0.1 "$port" CT1 CT2 CT3)" 0
expect "its output" "$(cat output.txt)" ""
expect "refusals so far" "$(refusals)" 4
expect "dcmsend's exit code" "$(status_of dcmsend 127.0.0.1 "$port" CT1 CT2 CT3)" 0
expect "its output" "$(cat output.txt)" ""
expect "refusals so far" "$(refusals)" 7
status_of dcmsend -v 127.0.0.1 "$port" CT1 CT2 CT3 >/dev/null
expect "failures in dcmsend -v's summary" "$(sed -n 's/.*with status ERROR *: //p' output.txt)" 3
expect "refusals so far" "$(refusals)" 10
mkdir files && cp CT1 CT2 CT3 files
expect "pynetdicom storescu's exit code" "$(status_of venv/bin/python -m pynetdicom storescu 127.0.0.1 "$port" files)" 0
expect "refusals so far" "$(refusals)" 13
finish
