#!/usr/bin/env bash
# Guess: a C-MOVE or C-GET goes through all its sub-operations. Where one of several instances cannot be sent or is refused, the
#   others arrive, and the final status is B000 with the number of failed ones (PS3.4 C.4.2, C.4.3). getscu's exit code shows it.
# Seen: Orthanc ends the whole retrieve at the first instance that fails, with C000. C-MOVE: the destination refuses one
#   instance, and those after it are never sent. C-GET: the same for an instance of a class that the requestor did not propose
#   (getscu and pynetdicom's getscu do not propose Encapsulated STL). dcmqrscp sends the others in both cases, B000 at the end.
#   After a C-GET that brought nothing but C000 both getscu end with exit code 0; movescu ends with 69.
# Matters: for migrations out of Orthanc. One odd instance in a study holds back those after it, asking again does not help, and
#   the numbers of the last answer do not say how many are missing. Retrieve such a study by series or by instance.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, orthanc 1.10.1+dfsg-2+deb12u1, pynetdicom 3.0.4.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
mkdir instances by-dcmqrscp
(cd instances && ../venv/bin/python ../made_up.py stl ct1 ct2 ct3 ct4 ct5)
study=1.2.826.0.1.3680043.10.9999.1
keys=(-S -k QueryRetrieveLevel=STUDY -k "StudyInstanceUID=$study")

# The destination of C-MOVE refuses the first instance that it gets, and takes every other.
cat >destination.py <<'END'
import sys

from pynetdicom import AE, AllStoragePresentationContexts, evt

received = []


def answer(event):
    received.append(event.request.AffectedSOPInstanceUID)
    status = 0xC000 if len(received) == 1 else 0x0000
    print(f"answered {status:04X}", flush=True)
    return status


ae = AE()
ae.supported_contexts = AllStoragePresentationContexts
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, answer)])
END

first_destination=$(free_port)
second_destination=$(free_port)
orthanc by-orthanc "\"DicomModalities\": {\"destination\": [\"DEST\", \"127.0.0.1\", $first_destination],
    \"getscu\": [\"GETSCU\", \"127.0.0.1\", 1], \"movescu\": [\"MOVESCU\", \"127.0.0.1\", 1]}"
dcmsend 127.0.0.1 "$port" instances/*
serve "$first_destination" venv/bin/python destination.py "$first_destination"
expect "movescu's exit code, Orthanc" "$(status_of movescu -v "${keys[@]}" -aem DEST 127.0.0.1 "$port")" 69
expect "final status" "$(grep -c 'Received Final Move Response (Failed: UnableToProcess)' output.txt)" 1
expect "instances sent to the destination" "$(grep -c answered "server-$first_destination.log")" 1

# instances_in DIRECTORY: fewer (than the five CT instances), or all.
instances_in() {
    local count
    count=$(find "$1" -type f | wc -l)
    if ((count < 5)); then echo fewer; else echo all; fi
}
mkdir get-orthanc get-orthanc-pynetdicom get-dcmqrscp
expect "getscu's exit code, Orthanc" "$(status_of getscu -v "${keys[@]}" -od get-orthanc 127.0.0.1 "$port")" 0
expect "final status" "$(grep -c 'Received C-GET Response (Failed: UnableToProcess)' output.txt)" 1
expect "CT instances received" "$(instances_in get-orthanc)" fewer
expect "pynetdicom getscu's exit code, Orthanc" \
    "$(status_of venv/bin/python -m pynetdicom getscu -v "${keys[@]}" -od get-orthanc-pynetdicom 127.0.0.1 "$port")" 0
expect "final status" "$(grep -c 'Get SCP Result: 0xC000 (Failure)' output.txt)" 1
expect "CT instances received" "$(instances_in get-orthanc-pynetdicom)" fewer

port=$(free_port)
cat >dcmqrscp.cfg <<END
NetworkTCPPort = $port
MaxPDUSize = 16384
MaxAssociations = 8
HostTable BEGIN
destination = (DEST, 127.0.0.1, $second_destination)
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
DCMQRSCP $work/by-dcmqrscp RW (10, 64mb) ANY
AETable END
END
serve "$port" dcmqrscp -c dcmqrscp.cfg
serve "$second_destination" venv/bin/python destination.py "$second_destination"
keys+=(-aec DCMQRSCP)
dcmsend -aec DCMQRSCP 127.0.0.1 "$port" instances/*
status_of movescu -v "${keys[@]}" -aem DEST 127.0.0.1 "$port" >/dev/null
expect "final status of C-MOVE, dcmqrscp" \
    "$(grep -c 'Received Final Move Response (Warning: SubOperationsCompleteOneOrMoreFailures)' output.txt)" 1
expect "CT instances sent to the destination" "$(grep -c answered "server-$second_destination.log")" 5
status_of getscu -v "${keys[@]}" -od get-dcmqrscp 127.0.0.1 "$port" >/dev/null
expect "final status of C-GET, dcmqrscp" \
    "$(grep -c 'Received C-GET Response (Warning: SubOperationsCompleteOneOrMoreFailures)' output.txt)" 1
expect "CT instances received" "$(instances_in get-dcmqrscp)" all
finish
