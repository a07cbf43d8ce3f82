#!/usr/bin/env bash
# Guess: dicom-rs's storescu with -c (several associations at once) ends with an exit code other than 0 when an association
#   cannot be had, at least when none can.
# Seen: it ends with 0 although nothing listens on the port, or the SCP rejects every association: not one file is sent. Each of
#   its workers prints its own error and ends, and nobody adds them up. -c 1 is enough; without -c the exit code is 254.
# Matters: the option is the reason to take this tool for bulk, and exactly with it a script cannot tell "all sent" from "host
#   down". Look for ERROR in its output.
# Versions: dicom-storescu 0.10.1 (cargo; builds for some minutes), pynetdicom 3.0.4 as the SCP.
. "$(dirname "$(readlink -f "$0")")/support.sh"
command -v cargo >/dev/null || missing "cargo is not installed"
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
cargo install --quiet --locked --root rust dicom-storescu@0.10.1 >cargo.log 2>&1 || { cat cargo.log; exit 2; }
rust/bin/dicom-storescu --version
venv/bin/python made_up.py ct1 ct2 ct3

cat >reject.py <<'END'
import sys

from pynetdicom import AE, AllStoragePresentationContexts, evt

ae = AE()
ae.supported_contexts = AllStoragePresentationContexts
ae.require_called_aet = True
ae.ae_title = "OTHER"
handlers = [
    (evt.EVT_REJECTED, lambda event: print("rejected", flush=True)),
    (evt.EVT_C_STORE, lambda event: print("stored", flush=True) or 0x0000),
]
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=handlers)
END
send() { status_of rust/bin/dicom-storescu "$@" CT1 CT2 CT3; }

closed=$(free_port)
expect "nothing listens, without -c" "$(send "127.0.0.1:$closed")" 254
expect "nothing listens, -c 1" "$(send -c 1 "127.0.0.1:$closed")" 0
expect "nothing listens, -c 2" "$(send -c 2 "127.0.0.1:$closed")" 0

port=$(free_port)
serve "$port" venv/bin/python reject.py "$port"
expect "rejected, without -c" "$(send "SCP@127.0.0.1:$port")" 254
expect "rejected, -c 2" "$(send -c 2 "SCP@127.0.0.1:$port")" 0
expect "its errors" "$(grep -c 'association rejected' output.txt)" 2
expect "associations rejected" "$(grep -c rejected "server-$port.log")" 3
expect "instances stored" "$(grep -c stored "server-$port.log" || true)" 0
expect "the right title, -c 2" "$(send -c 2 "OTHER@127.0.0.1:$port")" 0
expect "instances stored" "$(grep -c stored "server-$port.log" || true)" 3
finish
