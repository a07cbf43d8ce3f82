#!/usr/bin/env bash
# Guess: an SCP that accepts a compressed transfer syntax accepts the first acceptable one of a presentation context, so a
#   context with JPEG Baseline first, then explicit and implicit VR little endian, becomes a JPEG context.
# Seen: Orthanc and pynetdicom's storescp choose by an order of their own. Each accepts JPEG Baseline when a context has nothing
#   else; of the three together Orthanc chooses explicit and pynetdicom implicit VR little endian. `storescu -xy +C` (one
#   context with all syntaxes) cannot send a JPEG file to Orthanc: "unable to convert dataset from 'JPEG Baseline'", exit code
#   1. `storescu -xy` (JPEG in a context of its own) and dcmsend can. `storescp +xa` does take the first one.
# Matters: a sender that moves compressed files must propose each compressed syntax in a context of its own. One that combines
#   them and converts decompresses, without need, all it sends to these two.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, orthanc 1.10.1+dfsg-2+deb12u1, pynetdicom 3.0.4.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
venv/bin/python made_up.py ct1
dcmcjpeg +eb CT1 JPEG

cat >propose.py <<'END'
import sys

from pynetdicom import AE

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG, EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
ae = AE()
ae.add_requested_context(CT, [JPEG])
ae.add_requested_context(CT, [JPEG, EXPLICIT, IMPLICIT])
association = ae.associate("127.0.0.1", int(sys.argv[1]))
chosen = {context.context_id: context.transfer_syntax[0] for context in association.accepted_contexts}
print(*[{JPEG: "JPEG", EXPLICIT: "explicit", IMPLICIT: "implicit"}[chosen[number]] for number in (1, 3)])
association.release()
END
mkdir by-pynetdicom by-storescp
orthanc by-orthanc
expect "Orthanc: alone, and of three" "$(venv/bin/python propose.py "$port")" "JPEG explicit"
expect "storescu -xy +C to Orthanc" "$(status_of storescu -xy +C 127.0.0.1 "$port" JPEG)" 1
expect "its reason" "$(grep -c "unable to convert dataset from 'JPEG Baseline'" output.txt)" 1
expect "storescu -xy to Orthanc" "$(status_of storescu -xy 127.0.0.1 "$port" JPEG)" 0
expect "dcmsend to Orthanc" "$(status_of dcmsend 127.0.0.1 "$port" JPEG)" 0

port=$(free_port)
serve "$port" venv/bin/python -m pynetdicom storescp -od by-pynetdicom "$port"
expect "pynetdicom: alone, and of three" "$(venv/bin/python propose.py "$port")" "JPEG implicit"

port=$(free_port)
serve "$port" storescp +xa -od by-storescp "$port"
expect "storescp +xa: alone, and of three" "$(venv/bin/python propose.py "$port")" "JPEG JPEG"
finish
