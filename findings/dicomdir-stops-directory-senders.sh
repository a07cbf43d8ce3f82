#!/usr/bin/env bash
# Guess: storescu and dcmsend, told to send a medium (+sd +r), pass over its DICOMDIR with a warning and send the instances.
# Seen: both take the DICOMDIR for a fault. dcmsend sends nothing at all (exit code 22, "Invalid SOP Class UID").
#   storescu aborts the association when it gets there (exit code 1, "No SOP Class or Instance UID in file"): instances that
#   the directory lists later stay behind. With --no-halt both send the instances and end with 0, but then (storescu) every
#   other failure ends with 0 as well. `dcmsend +rd DICOMDIR` sends the medium as it is meant.
# Matters: every CD, DVD and exported file-set has a DICOMDIR in its root. Only a part may arrive, in an order that depends on
#   the file system.
# Versions: Debian dcmtk 3.6.7-9~deb12u4; pynetdicom 3.0.4 as the SCP.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2 ct3
mkdir -p medium/IMAGES && mv CT1 CT2 CT3 medium/IMAGES
(cd medium && dcmmkdir +r +id . IMAGES)

cat >receive.py <<'END'
import sys

from pynetdicom import AE, AllStoragePresentationContexts, evt


def stored(event):
    print("stored", flush=True)
    return 0x0000


def aborted(event):
    print("aborted", flush=True)


ae = AE()
ae.supported_contexts = AllStoragePresentationContexts
handlers = [(evt.EVT_C_STORE, stored), (evt.EVT_ABORTED, aborted)]
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=handlers)
END
# try PORT COMMAND...: a fresh SCP for one command.
try() {
    local port=$1
    shift
    serve "$port" venv/bin/python receive.py "$port"
    exit_code=$(status_of "$@")
    sleep 1
    stored=$(grep -c stored "server-$port.log" || true)
    aborted=$(grep -c aborted "server-$port.log" || true)
}
port=$(free_port)
try "$port" dcmsend +sd +r 127.0.0.1 "$port" medium
expect "dcmsend's exit code" "$exit_code" 22
expect "instances stored" "$stored" 0
expect "DICOMDIR named as the fault" "$(grep -c 'F: bad DICOM file: medium/DICOMDIR: Invalid SOP Class UID' output.txt)" 1
port=$(free_port)
try "$port" storescu +sd +r 127.0.0.1 "$port" medium
expect "storescu's exit code" "$exit_code" 1
expect "association aborted" "$aborted" 1
expect "DICOMDIR named as the fault" "$(grep -c 'No SOP Class or Instance UID in file: medium/DICOMDIR' output.txt)" 1
echo "instances stored before that, by the order of the file system: $stored of 3"
port=$(free_port)
try "$port" dcmsend --no-halt +sd +r 127.0.0.1 "$port" medium
expect "dcmsend --no-halt's exit code and instances" "$exit_code $stored" "0 3"
port=$(free_port)
try "$port" storescu --no-halt +sd +r 127.0.0.1 "$port" medium
expect "storescu --no-halt's exit code and instances" "$exit_code $stored" "0 3"
port=$(free_port)
try "$port" dcmsend +rd 127.0.0.1 "$port" medium/DICOMDIR
expect "dcmsend +rd's exit code and instances" "$exit_code $stored" "0 3"
finish
