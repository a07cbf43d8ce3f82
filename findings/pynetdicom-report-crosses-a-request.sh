#!/usr/bin/env bash
# Guess: a storage commitment SCP on pynetdicom, which reports on the requestor's own association (send_n_event_report from a
#   thread), gets along with a requestor that sends its next N-ACTION-RQ before it answers the report. Both roles may have one
#   message outstanding, and the two cross on the wire.
# Seen: the SCP takes the N-ACTION-RQ for the answer to its report ("invalid N-ACTION response"), and aborts the association.
#   Its send_n_event_report returns an empty status, as if the report had been lost, though the requestor has it; the second
#   request is never handled. When the requestor waits until it has answered the report, both requests and reports go through.
# Matters: for who asks for commitment in several requests one after the other, as is wise with many instances. Between asking
#   and the report's answer send nothing else on this association. An SCP on pynetdicom reports on an association of its own.
# Versions: pynetdicom 3.0.4, pydicom 3.0.2, on both sides.
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2

cat >scp.py <<'END'
import logging
import sys
import threading

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

logging.basicConfig(level=logging.ERROR, format="%(message)s")


def report(association, transaction):
    d = Dataset()
    d.TransactionUID, d.ReferencedSOPSequence = transaction, []
    status, _ = association.send_n_event_report(d, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    print(f"report of {transaction}: answer {status.Status:04X}" if status else f"report of {transaction}: no answer", flush=True)


def take(event):
    transaction = event.action_information.TransactionUID
    print(f"request {transaction}", flush=True)
    # Long after the N-ACTION-RSP is out.
    threading.Timer(0.5, report, (event.assoc, transaction)).start()
    return 0x0000, None


ae = AE()
ae.add_supported_context(StorageCommitmentPushModel)
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_N_ACTION, take)])
END

# The requestor asks twice. "crossing": it sends the second request while it holds the first report, which it answers after.
cat >request.py <<'END'
import sys
import threading
from io import BytesIO

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

crossing = sys.argv[2] == "crossing"
ended, reports, answered = threading.Event(), [], threading.Event()


def request(association, number):
    d = Dataset()
    d.TransactionUID, d.ReferencedSOPSequence = f"1.2.{number}", []
    (context,) = association.accepted_contexts
    message = N_ACTION()
    message.MessageID, message.ActionTypeID = number, 1
    message.RequestedSOPClassUID = StorageCommitmentPushModel
    message.RequestedSOPInstanceUID = StorageCommitmentPushModelInstance
    message.ActionInformation = BytesIO(encode(d, context.transfer_syntax[0].is_implicit_VR, True))
    association.dimse.send_msg(message, context.context_id)


def take(event):
    reports.append(event.event_information.TransactionUID)
    print("got the report of", reports[-1], flush=True)
    if crossing and len(reports) == 1:
        request(event.assoc, 2)
    return 0x0000, None


def sent(event):
    # What goes out after the first report is, when nothing crosses, its answer.
    if event.message.__class__.__name__ == "N_EVENT_REPORT_RSP":
        answered.set()
        if len(reports) == 2:
            ended.set()


ae = AE()
ae.add_requested_context(StorageCommitmentPushModel)
handlers = [(evt.EVT_N_EVENT_REPORT, take), (evt.EVT_DIMSE_SENT, sent), (evt.EVT_ABORTED, lambda event: ended.set())]
association = ae.associate("127.0.0.1", int(sys.argv[1]), evt_handlers=handlers)
request(association, 1)
answered.wait(30)
if not crossing:
    # The answer is written by another thread; give it time to leave.
    threading.Event().wait(1)
    request(association, 2)
ended.wait(30)
threading.Event().wait(1)
print("aborted" if association.is_aborted else "still established")
if association.is_established:
    association.release()
END

port=$(free_port)
serve "$port" venv/bin/python scp.py "$port"
status_of venv/bin/python request.py "$port" waiting >/dev/null
expect "requestor that waits" "$(grep -v 'service message' output.txt | paste -sd,)" \
    "got the report of 1.2.1,got the report of 1.2.2,still established"
expect "its SCP" "$(paste -sd, "server-$port.log")" \
    "request 1.2.1,report of 1.2.1: answer 0000,request 1.2.2,report of 1.2.2: answer 0000"
port=$(free_port)
serve "$port" venv/bin/python scp.py "$port"
status_of venv/bin/python request.py "$port" crossing >/dev/null
expect "requestor that crosses" "$(grep -v 'service message' output.txt | paste -sd,)" "got the report of 1.2.1,aborted"
expect "its SCP" "$(paste -sd, "server-$port.log")" \
    "request 1.2.1,Received an invalid N-ACTION response from the peer,report of 1.2.1: no answer"
finish
