#!/usr/bin/env bash
# Guess: a tool that anonymizes by the Basic Application Level Confidentiality Profile removes what its table (PS3.15 E.1-1)
#   marks X for repeating groups as well: Overlay Data, Overlay Comments and Curve Data.
# Seen: `gdcmanon -e` and Orthanc's anonymize keep every overlay and curve of an image, with comments, labels and descriptions.
#   Neither says so; Orthanc names the profile in De-identification Method. dicom-anonymizer removes Overlay Data, Overlay
#   Comments and curves.
# Matters: an overlay is a bitmap beside the pixels, drawn on the image by a viewer, and may well have the patient's name or a
#   reader's notes in it. Whoever looks at the pixels of the anonymized image alone does not see it. Look for groups 50xx and
#   60xx afterwards.
# Versions: Debian libgdcm-tools 3.0.21-1, orthanc 1.10.1+dfsg-2+deb12u1, dicom-anonymizer 2.1.0, pydicom 3.0.2 (Python 3.10 or
#   later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian libgdcm-tools 3.0.21
debian orthanc 1.10.1
command -v curl >/dev/null || missing "curl is not installed"
python_packages venv python3 dicom-anonymizer==2.1.0 pydicom==3.0.2
venv/bin/python made_up.py ct1
cat >overlays.py <<'END'
import pydicom

d = pydicom.dcmread("CT1")
d.InstitutionName = "Made up"
for group in 0x6000, 0x6002:
    for element, vr, value in (
        (0x10, "US", 16),
        (0x11, "US", 16),
        (0x22, "LO", "description"),
        (0x40, "CS", "G"),
        (0x50, "SS", [1, 1]),
        (0x100, "US", 1),
        (0x102, "US", 0),
        (0x1500, "LO", "label"),
        (0x3000, "OW", bytes(range(32))),
        (0x4000, "LT", "comments"),
    ):
        d.add_new((group << 16) + element, vr, value)
for element, vr, value in ((0x05, "US", 1), (0x10, "US", 2), (0x20, "CS", "ROI"), (0x103, "US", 0), (0x3000, "OW", bytes(4))):
    d.add_new((0x5000 << 16) + element, vr, value)
d.save_as("ct.dcm")
END
venv/bin/python overlays.py
cat >left.py <<'END'
import sys

import pydicom

d = pydicom.dcmread(sys.argv[1])
assert d.PatientName != "Made^Up" and d.get("InstitutionName") != "Made up"
names = {0x0022: "description", 0x1500: "label", 0x3000: "data", 0x4000: "comments"}
for group in 0x5000, 0x6000, 0x6002:
    left = [name for element, name in names.items() if (group, element) in d]
    print(f"{group:04X}: {' '.join(left) or 'nothing'}", end=", ")
END
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=made up" -keyout key.pem -out certificate.pem 2>openssl.txt
everything="5000: data, 6000: description label data comments, 6002: description label data comments, "
expect "the image" "$(sed 's/^assert.*//' left.py | venv/bin/python - ct.dcm)" "$everything"
expect "gdcmanon" "$(status_of gdcmanon -e -c certificate.pem ct.dcm by-gdcm.dcm)" 0
expect "left by gdcmanon" "$(venv/bin/python left.py by-gdcm.dcm)" "$everything"

orthanc store
id=$(curl -s --data-binary @ct.dcm "http://127.0.0.1:$http/instances" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["ID"])')
curl -s --data '{}' "http://127.0.0.1:$http/instances/$id/anonymize" >by-orthanc.dcm
expect "left by Orthanc" "$(venv/bin/python left.py by-orthanc.dcm)" "$everything"
expect "its De-identification Method" \
    "$(venv/bin/python -c 'import pydicom; print(pydicom.dcmread("by-orthanc.dcm").DeidentificationMethod)')" \
    "Orthanc 1.10.1 - PS 3.15-2021b Table E.1-1 Basic Profile"

expect "dicom-anonymizer" "$(status_of venv/bin/dicom-anonymizer ct.dcm by-package.dcm)" 0
expect "left by dicom-anonymizer" "$(venv/bin/python left.py by-package.dcm)" \
    "5000: nothing, 6000: description label, 6002: description label, "
finish
