#!/usr/bin/env bash
# Guess: a DICOMDIR has each patient's name as the instances have it, with their Specific Character Set in the record (PS3.3
#   F.5 has that attribute in every kind of record).
# Seen: GDCM's gdcmgendir copies the bytes of the name and leaves the character set out. Orthanc's /studies/ID/media writes the
#   character set and leaves out every letter beyond ASCII: Müller becomes "Mller", a name in kanji "=^". Neither says so.
#   dcmmkdir and pydicom's FileSet write names right; the instances on the medium are right in all four.
# Matters: who lists a medium by its DICOMDIR, as viewers and importers do, sees another patient's name than the images have, and
#   an import that compares the two, or makes the patient from the record, stops or goes wrong. Write it with dcmmkdir.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, orthanc 1.10.1+dfsg-2+deb12u1, libgdcm-tools 3.0.21-1, pydicom 3.0.2.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
debian libgdcm-tools 3.0.21
export PYTHONIOENCODING=utf-8
python_packages venv python3 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2 ct3
cat >names.py <<'END'
import pydicom

for number, character_set, name in (
    (1, "ISO_IR 100", "M\u00fcller^J\u00f6rg"),
    (2, "ISO_IR 192", "\u0141ukasz^\u017b\u00f3\u0142w"),
    (3, ["", "ISO 2022 IR 149"], "=\u6d2a^\u5409\u6d1e"),
):
    d = pydicom.dcmread(f"CT{number}")
    d.SpecificCharacterSet, d.PatientName, d.PatientID = character_set, name, f"P{number}"
    d.StudyInstanceUID += f".{number}"
    d.SeriesInstanceUID += f".{number}"
    d.save_as(f"CT{number}")
END
venv/bin/python names.py
# Specific Character Set and name of every patient record: the name as it is read, or its bytes where no set is given.
cat >show.py <<'END'
import sys
from pathlib import Path

import pydicom

folder = Path(sys.argv[1])
d = pydicom.dcmread(folder / "DICOMDIR")
records = [record for record in d.DirectoryRecordSequence if record.DirectoryRecordType == "PATIENT"]
for record in sorted(records, key=lambda record: record.PatientID):
    name = record.get_item("PatientName").value if "SpecificCharacterSet" not in record else str(record.PatientName)
    print(record.get("SpecificCharacterSet", "no character set"), name)
END
cat >by_pydicom.py <<'END'
from pydicom.fileset import FileSet

files = FileSet()
for number in 1, 2, 3:
    files.add(f"CT{number}")
files.write("by-pydicom")
END
cat >by_orthanc.py <<'END'
import io
import json
import sys
import urllib.request
import zipfile


def call(path, body=None):
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{path}", body) as answer:
        return answer.read()


for number in 1, 2, 3:
    with open(f"CT{number}", "rb") as file:
        call("/instances", file.read())
medium = call("/tools/create-media", call("/studies"))
zipfile.ZipFile(io.BytesIO(medium)).extractall("by-orthanc")
END
mkdir by-dcmmkdir by-gdcm
cp CT1 CT2 CT3 by-dcmmkdir
cp CT1 CT2 CT3 by-gdcm
(cd by-dcmmkdir && dcmmkdir -q +D DICOMDIR CT1 CT2 CT3)
(cd by-gdcm && gdcmgendir -r --root-uid 1.2.826.0.1.3680043.10.9999.1 -i . -o DICOMDIR)
venv/bin/python by_pydicom.py
orthanc store
venv/bin/python by_orthanc.py "$http"
names() { venv/bin/python show.py "$1" | paste -sd';'; }
korean="['', 'ISO 2022 IR 149']"
right="ISO_IR 100 Müller^Jörg;ISO_IR 192 Łukasz^Żółw;$korean =洪^吉洞"
expect "dcmmkdir" "$(names by-dcmmkdir)" "$right"
expect "pydicom" "$(names by-pydicom)" "$right"
expect "Orthanc" "$(names by-orthanc)" "ISO_IR 100 Mller^Jrg;ISO_IR 192 ukasz^w;$korean =^"
expect "gdcmgendir, records without a character set" "$(venv/bin/python show.py by-gdcm | grep -c '^no character set')" 3
expect "gdcmgendir, bytes of the first name" "$(names by-gdcm | cut -d"'" -f2)" 'M\xfcller^J\xf6rg '
expect "names in Orthanc's instances" "$(venv/bin/python -c '
from pathlib import Path
import pydicom
print(*sorted(str(pydicom.dcmread(path).PatientName) for path in Path("by-orthanc/IMAGES").iterdir()))')" \
    "=洪^吉洞 Müller^Jörg Łukasz^Żółw"
finish
