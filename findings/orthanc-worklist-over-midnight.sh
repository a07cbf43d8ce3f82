#!/usr/bin/env bash
# Guess: Orthanc's worklist plugin takes a range of Scheduled Procedure Step Start Date and one of Start Time for one period, as
#   PS3.4 table K.6-1 says: 15 to 17 June with 1000-0930 is from 10 o'clock on the 15th until half past nine on the 17th. A time
#   of 10:15 (101500) lies in 0900-1015.
# Seen: it compares the two apart: only steps between 10 and half past nine, of which there are none, so that a period over
#   midnight finds nothing; and 15 to 17 June with 1000-1200 leaves out the step of the 16th at half past nine. Times are
#   compared as text, so 0900-1015 ends before 101500, and 093000 does not find 0930. A step for two stations is found for
#   neither. The final status is 0000. wlmscpfs finds each of these.
# Matters: a worklist of the night, from 18 o'clock to 6, is empty, and one of two days has gaps; a step that begins just at the
#   end, as appointments do, is missing. What a device does not find there is typed in by hand, and the study gets an identity
#   of its own. Ask for each date alone, and for times with all digits.
# Versions: Debian orthanc 1.10.1+dfsg-2+deb12u1, dcmtk 3.6.7-9~deb12u4, pynetdicom 3.0.4, pydicom 3.0.2.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
plugin=$(dpkg -L orthanc | grep '/plugins/libModalityWorklists.so$') || missing "Orthanc's worklist plugin is not installed"
mkdir -p worklists/WL store
touch worklists/WL/lockfile
cat >steps.py <<'END'
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

for name, date, time, station in (
    ("MONDAY", "20200615", "101500", "ONE"),
    ("TUESDAY", "20200616", "0930", "ONE"),
    ("WEDNESDAY", "20200617", "180000", ["ONE", "TWO"]),
):
    d, step = Dataset(), Dataset()
    d.PatientName = d.PatientID = d.AccessionNumber = name
    d.PatientBirthDate = d.PatientSex = d.ReferringPhysicianName = ""
    d.StudyInstanceUID = f"1.2.826.0.1.3680043.10.9999.4.{date}"
    d.RequestedProcedureDescription = d.RequestedProcedureID = "1"
    step.Modality, step.ScheduledStationAETitle = "CT", station
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = date, time
    step.ScheduledPerformingPhysicianName = ""
    step.ScheduledProcedureStepDescription = step.ScheduledProcedureStepID = "1"
    d.ScheduledProcedureStepSequence = [step]
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
    d.file_meta.MediaStorageSOPInstanceUID = d.StudyInstanceUID
    d.save_as(f"worklists/WL/{name}.wl", enforce_file_format=True)
END
venv/bin/python steps.py
cat >ask.py <<'END'
import sys

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind as Worklist

port, dates, times, station = sys.argv[1:]
ae = AE()
ae.add_requested_context(Worklist)
association = ae.associate("127.0.0.1", int(port), ae_title="WL")
d, step = Dataset(), Dataset()
step.ScheduledStationAETitle = station
step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = dates, times
d.PatientID, d.ScheduledProcedureStepSequence = "", [step]
answers = list(association.send_c_find(d, Worklist))
association.release()
print(*sorted(answer.PatientID for _, answer in answers if answer), f"{answers[-1][0].Status:04x}")
END
port=$(free_port)
cat >orthanc.json <<END
{"Name": "made up", "DicomPort": $port, "HttpServerEnabled": false, "StorageDirectory": "$work/store",
 "IndexDirectory": "$work/store", "Plugins": ["$plugin"], "AuthenticationEnabled": false,
 "DicomAlwaysAllowFindWorklist": true, "Worklists": {"Enable": true, "Database": "$work/worklists/WL"}}
END
serve "$port" Orthanc orthanc.json
other=$(free_port)
serve "$other" wlmscpfs -dfp worklists "$other"
# asked DATES TIMES STATION: what Orthanc finds and its final status, and the same of wlmscpfs.
asked() { echo "$(venv/bin/python ask.py "$port" "$@") | $(venv/bin/python ask.py "$other" "$@")"; }
expect "everything" "$(asked '' '' '')" "MONDAY TUESDAY WEDNESDAY 0000 | MONDAY TUESDAY WEDNESDAY 0000"
expect "15 to 17 June, dates alone" "$(asked 20200615-20200617 '' '')" \
    "MONDAY TUESDAY WEDNESDAY 0000 | MONDAY TUESDAY WEDNESDAY 0000"
expect "15 June 10:00 to 17 June 9:30" "$(asked 20200615-20200617 1000-0930 '')" "0000 | MONDAY TUESDAY 0000"
expect "15 June 10:00 to 17 June 12:00" "$(asked 20200615-20200617 1000-1200 '')" "MONDAY 0000 | MONDAY TUESDAY 0000"
expect "15 June, 9:00 to 10:15" "$(asked 20200615 0900-1015 '')" "0000 | MONDAY 0000"
expect "15 June, 9:00 to 10:15, all digits" "$(asked 20200615 090000-101500 '')" "MONDAY 0000 | MONDAY 0000"
expect "16 June, 093000" "$(asked 20200616 093000 '')" "0000 | TUESDAY 0000"
expect "station TWO" "$(asked '' '' TWO)" "0000 | WEDNESDAY 0000"
expect "station ONE" "$(asked '' '' ONE)" "MONDAY TUESDAY 0000 | MONDAY TUESDAY WEDNESDAY 0000"
finish
