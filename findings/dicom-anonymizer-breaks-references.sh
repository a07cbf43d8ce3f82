#!/usr/bin/env bash
# Guess: dicom-anonymizer, told to anonymize a folder, replaces a UID by the same new one wherever it stands, as its README says
#   of UIDs and PS3.15 asks for: a report or a structure set refers to its images afterwards.
# Seen: only UIDs at the top of the data set are replaced, and those that an SR has in its content. The evidence of an SR and all
#   references of an RT structure set keep the old UIDs, Frame of Reference among them: series, study and images that exist no
#   more. It ends with 0. `gdcmanon -e` on the same folder replaces all that it leaves there.
# Matters: structure sets cannot be put on their images any more, and key objects and reports lose theirs. Run apart on each
#   file it gives each a new study, too. Walk the data sets afterwards and look for UIDs that were there before.
# Versions: dicom-anonymizer 2.1.0, pydicom 3.0.2 (Python 3.10 or later), Debian libgdcm-tools 3.0.21-1.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian libgdcm-tools 3.0.21
command -v openssl >/dev/null || missing "openssl is not installed"
python_packages venv python3 dicom-anonymizer==2.1.0 pydicom==3.0.2
venv/bin/python made_up.py ct1 sr rtstruct
mkdir study by-anonymizer
cat >refer.py <<'END'
import pydicom
from pydicom.dataset import Dataset


def item(**values):
    d = Dataset()
    for keyword, value in values.items():
        setattr(d, keyword, value)
    return d


ct = pydicom.dcmread("CT1")
ct.FrameOfReferenceUID = frame = ct.StudyInstanceUID + ".9"
ct.save_as("study/CT1.dcm")
image = item(ReferencedSOPClassUID=ct.SOPClassUID, ReferencedSOPInstanceUID=ct.SOPInstanceUID)

sr = pydicom.dcmread("SR")
evidence = item(SeriesInstanceUID=ct.SeriesInstanceUID, ReferencedSOPSequence=[image])
sr.CurrentRequestedProcedureEvidenceSequence = [
    item(StudyInstanceUID=ct.StudyInstanceUID, ReferencedSeriesSequence=[evidence])
]
sr.ContentSequence = [item(RelationshipType="CONTAINS", ValueType="IMAGE", ReferencedSOPSequence=[image])]
sr.save_as("study/SR.dcm")

rt = pydicom.dcmread("RTSTRUCT")
series = item(SeriesInstanceUID=ct.SeriesInstanceUID, ContourImageSequence=[image])
study = item(
    ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
    ReferencedSOPInstanceUID=ct.StudyInstanceUID,
    RTReferencedSeriesSequence=[series],
)
rt.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
rt.StructureSetROISequence = [
    item(ROINumber=1, ReferencedFrameOfReferenceUID=frame, ROIName="made up", ROIGenerationAlgorithm="")
]
contour = item(
    ContourImageSequence=[image], ContourGeometricType="POINT", NumberOfContourPoints=1, ContourData=["0", "0", "0"]
)
rt.ROIContourSequence = [item(ReferencedROINumber=1, ContourSequence=[contour])]
rt.RTROIObservationsSequence = [
    item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="", ROIInterpreter="")
]
rt.save_as("study/RT.dcm")
END
venv/bin/python refer.py
# What the UIDs inside the sequences of a file refer to: something that is in the folder, something of before, or neither.
cat >references.py <<'END'
import sys
from collections import Counter

import pydicom

UIDS = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"


def top(folder):
    files = [pydicom.dcmread(f"{folder}/{name}.dcm") for name in ("CT1", "SR", "RT")]
    return {d[uid].value for d in files for uid in UIDS if uid in d}


def nested(d, inside=False):
    for element in d:
        if element.VR == "SQ":
            for below in element.value:
                yield from nested(below, True)
        elif inside and element.VR == "UI" and not element.keyword.endswith(("ClassUID", "SyntaxUID")):
            yield element.value


folder = sys.argv[1]
here, before = top(folder), top("study")
if len(sys.argv) == 2:
    sys.exit(print(len(here & before)))
name = sys.argv[2]
kinds = Counter(
    "here" if uid in here else "before" if uid in before else "nowhere"
    for uid in nested(pydicom.dcmread(f"{folder}/{name}.dcm"))
)
print(*(f"{kind} {number}" for kind, number in sorted(kinds.items())), sep=", ")
END
references() { venv/bin/python references.py "$@"; }
expect "SR as it was" "$(references study SR)" "here 4"
expect "RT structure set as it was" "$(references study RT)" "here 6"
expect "dicom-anonymizer's exit code" "$(status_of venv/bin/dicom-anonymizer study by-anonymizer)" 0
expect "UIDs at the top that stayed" "$(references by-anonymizer)" 0
expect "SR" "$(references by-anonymizer SR)" "before 3, here 1"
expect "RT structure set" "$(references by-anonymizer RT)" "before 6"
mkdir apart
for name in CT1 SR RT; do
    status_of venv/bin/dicom-anonymizer study/$name.dcm apart/$name.dcm >/dev/null
done
expect "studies, after a run for each of the three files" "$(venv/bin/python -c '
from pathlib import Path
import pydicom
print(len({pydicom.dcmread(path).StudyInstanceUID for path in Path("apart").iterdir()}))')" 3
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=made-up -keyout key.pem -out certificate.pem 2>/dev/null
expect "gdcmanon's exit code" "$(status_of gdcmanon -e -c certificate.pem -r study by-gdcmanon)" 0
# It empties the content of an SR, and keeps the evidence.
expect "SR" "$(references by-gdcmanon SR)" "here 3"
expect "RT structure set" "$(references by-gdcmanon RT)" "here 6"
finish
