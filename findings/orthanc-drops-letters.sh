#!/usr/bin/env bash
# Guess: Orthanc, whose REST API shows names in any script right, answers C-FIND in a character set that has the letters (that of
#   the request, that of the instances, or UTF-8), and ? in a key stands for any one letter (PS3.4 C.2.2.2.4).
# Seen: every answer is in DefaultEncoding, Latin-1 unless configured, whatever the request says, and letters that it lacks
#   are left out: no question mark, no warning, status 0000. The patient stored as Łukasz Żółw is answered as "ukasz^ów", a
#   Japanese name written in kanji as "=^". Asked for with all its letters the patient is found. A ? in the place of a letter
#   outside ASCII, even ü, finds nothing. And /instances/ID/modify writes "ukasz" too, when the instance has no character set,
#   or Latin-1, and is given "Łukasz".
# Matters: a check or a worklist by C-FIND takes patients for others, or for nameless, though the stored instances are right.
#   Set DefaultEncoding to Utf8 (it also says how instances without a character set are read), and give
#   SpecificCharacterSet together with a new name.
# Versions: Debian orthanc 1.10.1+dfsg-2+deb12u1, dcmtk 3.6.7-9~deb12u4 (sends), pynetdicom 3.0.4, pydicom 3.0.2.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
export PYTHONIOENCODING=utf-8
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2 ct3 ct4
cat >names.py <<'END'
import pydicom

for number, character_set, name in (
    (1, "ISO_IR 100", "M\u00fcller^J\u00f6rg"),
    (2, "ISO_IR 192", "\u0141ukasz^\u017b\u00f3\u0142w"),
    (3, ["", "ISO 2022 IR 87"], "=\u5c71\u7530^\u592a\u90ce"),
    (4, "ISO_IR 100", "Made^Up"),
):
    d = pydicom.dcmread(f"CT{number}")
    d.SpecificCharacterSet, d.PatientName, d.PatientID = character_set, name, f"P{number}"
    d.StudyInstanceUID += f".{number}"
    d.SeriesInstanceUID += f".{number}"
    d.save_as(f"CT{number}")
END
venv/bin/python names.py
cat >ask.py <<'END'
import sys

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

ae = AE()
ae.add_requested_context(StudyRoot)
association = ae.associate("127.0.0.1", int(sys.argv[1]))
for name in sys.argv[2:]:
    d = Dataset()
    d.SpecificCharacterSet, d.QueryRetrieveLevel = "ISO_IR 192", "STUDY"
    d.PatientName, d.PatientID = name, ""
    answers = [answer for _, answer in association.send_c_find(d, StudyRoot) if answer is not None]
    for answer in sorted(answers, key=lambda answer: answer.PatientID):
        print(answer.PatientID, answer.SpecificCharacterSet, answer.PatientName)
    if not answers:
        print("nothing")
association.release()
END
cat >rest.py <<'END'
import io
import json
import sys
import urllib.request

import pydicom


def call(path, body=None):
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{path}", body and json.dumps(body).encode()) as answer:
        return answer.read()


for instance in json.loads(call("/instances")):
    tags = json.loads(call(f"/instances/{instance}/simplified-tags"))
    if sys.argv[2] == "names":
        print(tags["PatientID"], tags["PatientName"])
    elif tags["PatientID"] == "P4":
        replaced = {"PatientName": "\u0141ukasz", **dict(option.split("=") for option in sys.argv[3:])}
        d = pydicom.dcmread(io.BytesIO(call(f"/instances/{instance}/modify", {"Replace": replaced})))
        print(d.SpecificCharacterSet, d.PatientName)
END
# start ENCODING: an Orthanc with this DefaultEncoding, which has the four instances.
start() {
    orthanc "store-$1" "\"DefaultEncoding\": \"$1\"" '"DicomAlwaysAllowFind": true'
    dcmsend 127.0.0.1 "$port" CT1 CT2 CT3 CT4
}
ask() { venv/bin/python ask.py "$port" "$@" | paste -sd,; }
start Latin1
expect "names by REST" "$(venv/bin/python rest.py "$http" names | sort | paste -sd,)" \
    "P1 Müller^Jörg,P2 Łukasz^Żółw,P3 =山田^太郎,P4 Made^Up"
expect "names by C-FIND" "$(ask '*')" \
    "P1 ISO_IR 100 Müller^Jörg,P2 ISO_IR 100 ukasz^ów,P3 ISO_IR 100 =^,P4 ISO_IR 100 Made^Up"
expect "Łukasz*" "$(ask 'Łukasz*')" "P2 ISO_IR 100 ukasz^ów"
expect "ukasz*" "$(ask 'ukasz*')" "nothing"
expect "M?de*, M?ller*, M??ller*" "$(ask 'M?de*' 'M?ller*' 'M??ller*')" "P4 ISO_IR 100 Made^Up,nothing,nothing"
expect "modified, Łukasz" "$(venv/bin/python rest.py "$http" modify)" "ISO_IR 100 ukasz"
expect "modified, with the character set" "$(venv/bin/python rest.py "$http" modify 'SpecificCharacterSet=ISO_IR 192')" \
    "ISO_IR 192 Łukasz"
start Utf8
expect "names by C-FIND, Utf8" "$(ask '*')" \
    "P1 ISO_IR 192 Müller^Jörg,P2 ISO_IR 192 Łukasz^Żółw,P3 ISO_IR 192 =山田^太郎,P4 ISO_IR 192 Made^Up"
expect "M?ller*, Utf8" "$(ask 'M?ller*')" "nothing"
finish
