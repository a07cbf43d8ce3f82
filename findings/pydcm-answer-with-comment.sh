#!/usr/bin/env bash
# Guess: pydcm's SCU returns the Status of the C-STORE-RSP, whichever of the optional elements come with it.
# Seen: it returns the peer's Status only when the answer has none of them. With an Error Comment (0000,0902) or an Offending
#   Element (0000,0901), which PS3.4 table B.2-1 lists for warnings and failures, it returns a status of its own, A700
#   (refused: out of resources), and says nothing of the peer's. A warning means that the peer has stored the instance.
# Matters: for a sender on top of pydcm, what is stored becomes "try again later", and so does a failure that will never go
#   away. The comment, the one thing that says why, is what hides the real status.
# Versions: pydcm 0.5.0 (Python 3.12 or later), pynetdicom 3.0.4 as the SCP.
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv "$(newer_python)" pydcm==0.5.0 pynetdicom==3.0.4 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2 ct3 sr pdf rtstruct

# The SCP answers by SOP Instance UID.
cat >answer.py <<'END'
import sys

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt

COMMENT = {"ErrorComment": "made up"}
ANSWERS = {
    "1.1": {"Status": 0x0000},
    "1.2": {"Status": 0xB007},
    "1.3": {"Status": 0xC001},
    "2.1": {"Status": 0xB000, **COMMENT},
    "3.1": {"Status": 0xB007, "OffendingElement": 0x00100010},
    "5.1": {"Status": 0xC001, **COMMENT},
}


def answer(event):
    uid = event.request.AffectedSOPInstanceUID
    status = Dataset()
    for keyword, value in ANSWERS[uid[-3:]].items():
        setattr(status, keyword, value)
    print(f"received {uid}, answered {status.Status:04X}", flush=True)
    return status


ae = AE()
ae.supported_contexts = AllStoragePresentationContexts
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, answer)])
END
cat >send.py <<'END'
import sys

from pydcm import dimse

port, *files = sys.argv[1:]
ae = dimse.AE("PYDCM")
ae.add_requested_contexts_for_files(files)
association = ae.associate("127.0.0.1", int(port))
for file in files:
    print(f"{file}={association.send_c_store_file(file).Status:04X}", end=" ")
association.release()
END
port=$(free_port)
serve "$port" venv/bin/python answer.py "$port"
expect "0000, B007, C001 and nothing else" \
    "$(venv/bin/python send.py "$port" CT1 CT2 CT3)" "CT1=0000 CT2=B007 CT3=C001 "
expect "B000 with comment, B007 with offending element, C001 with comment" \
    "$(venv/bin/python send.py "$port" SR PDF RTSTRUCT)" "SR=A700 PDF=A700 RTSTRUCT=A700 "
cat "server-$port.log"
expect "instances that the SCP received" "$(grep -c received "server-$port.log")" 6
finish
