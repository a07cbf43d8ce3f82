#!/usr/bin/env bash
# Guess: the DICOMDIR of a medium names each instance by its kind: SR DOCUMENT, ENCAP DOC, RT STRUCTURE SET, IMAGE (PS3.3 F.4).
# Seen: Orthanc's /studies/ID/media and GDCM's gdcmgendir write a record of type IMAGE for each of them, without a word.
#   dcmmkdir and pydicom's FileSet write the right types.
# Matters: who picks from a medium by its DICOMDIR (images only, all reports, no RT) gets the wrong instances. Go by
#   Referenced SOP Class UID in File, which is right in all four.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, orthanc 1.10.1+dfsg-2+deb12u1, libgdcm-tools 3.0.21-1, pydicom 3.0.2.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
debian libgdcm-tools 3.0.21
python_packages venv python3 pydicom==3.0.2
mkdir instances by-dcmmkdir
(cd instances && ../venv/bin/python ../made_up.py ct1 sr pdf rtstruct)

cat >records.py <<'END'
import sys

import pydicom

KINDS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.88.11": "SR",
    "1.2.840.10008.5.1.4.1.1.104.1": "PDF",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
found = []
for record in pydicom.dcmread(sys.argv[1]).DirectoryRecordSequence:
    if "ReferencedSOPClassUIDInFile" in record:
        found.append(f"{KINDS[record.ReferencedSOPClassUIDInFile]}={record.DirectoryRecordType}")
print(*sorted(found), sep=", ")
END
right="CT=IMAGE, PDF=ENCAP DOC, RTSTRUCT=RT STRUCTURE SET, SR=SR DOCUMENT"
images="CT=IMAGE, PDF=IMAGE, RTSTRUCT=IMAGE, SR=IMAGE"

(cd instances && dcmmkdir +r +id . +D ../by-dcmmkdir/DICOMDIR CT1 SR PDF RTSTRUCT)
expect "dcmmkdir" "$(venv/bin/python records.py by-dcmmkdir/DICOMDIR)" "$right"

venv/bin/python -c '
from pathlib import Path
from pydicom.fileset import FileSet
file_set = FileSet()
for path in sorted(Path("instances").iterdir()):
    file_set.add(path)
file_set.write("by-pydicom")'
expect "pydicom's FileSet" "$(venv/bin/python records.py by-pydicom/DICOMDIR)" "$right"

expect "gdcmgendir's exit code" "$(status_of gdcmgendir -r -i instances -o by-gdcm --descriptor MADEUP)" 0
expect "its output" "$(cat output.txt)" ""
expect "gdcmgendir" "$(venv/bin/python records.py by-gdcm)" "$images"

orthanc by-orthanc
python3 - "$http" <<'END'
import io
import json
import sys
import zipfile
from pathlib import Path
from urllib.request import urlopen

root = f"http://127.0.0.1:{sys.argv[1]}"
for path in sorted(Path("instances").iterdir()):
    urlopen(f"{root}/instances", path.read_bytes()).read()
(study,) = json.load(urlopen(f"{root}/studies"))
zipfile.ZipFile(io.BytesIO(urlopen(f"{root}/studies/{study}/media").read())).extractall("medium")
END
expect "Orthanc" "$(venv/bin/python records.py medium/DICOMDIR)" "$images"
finish
