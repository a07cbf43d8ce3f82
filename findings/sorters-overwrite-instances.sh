#!/usr/bin/env bash
# Guess: a program that sorts a folder of DICOM files into directories keeps every instance: where two would get one name it
#   numbers them, or it stops.
# Seen: dcm2dir keeps the base name and takes patient, study ID, series number and description for the directory. IM1 in two
#   folders of a medium becomes one file. simple-dicom-sort names files by Instance Number, and moves them unless told to copy:
#   of two series of a study with the same number and description it leaves one, and the other is neither in the source nor in
#   the target. Four instances in, two out, exit code 0, not a word. thedicomsort stops at the first ("Aborting to avoid data
#   loss").
# Matters: media have the same file names in each of their folders, and neither Series Number nor Instance Number has to be
#   unique in a study (UIDs do), as in what workstations derive. Sorting is what is done to an archive just before it is sent.
#   Count instances before and after, and put the SOP Instance UID into the name.
# Versions: dcm2dir 1.1.0.20250402, simple-dicom-sort 0.0.3, thedicomsort 1.0.1, pydicom 3.0.2 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 pydicom==3.0.2
python_packages sorters python3 dcm2dir==1.1.0.20250402 simple-dicom-sort==0.0.3 thedicomsort==1.0.1
mkdir -p medium/one medium/two
venv/bin/python made_up.py ct1 ct2
cat >series.py <<'END'
import pydicom

for folder in "one", "two":
    for number in 1, 2:
        d = pydicom.dcmread(f"CT{number}")
        d.SeriesInstanceUID += f".{folder == 'two':d}"
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{d.SeriesInstanceUID}.{number}"
        d.SeriesDescription = "Abdomen"
        d.save_as(f"medium/{folder}/IM{number}.dcm")
END
venv/bin/python series.py
# instances FOLDER: how many different ones there are in it.
cat >instances.py <<'END'
import pathlib
import sys

import pydicom

print(len({pydicom.dcmread(path).SOPInstanceUID for path in pathlib.Path(sys.argv[1]).rglob("*") if path.is_file()}))
END
instances() { venv/bin/python instances.py "$1"; }
expect "instances to sort" "$(instances medium)" 4
expect "dcm2dir's exit code" "$(status_of sorters/bin/dcm2dir -i medium -o by_dcm2dir)" 0
expect "its words" "$(tail -1 output.txt)" "Processing completed. No CSV report generated."
expect "instances that it has copied" "$(instances by_dcm2dir)" 2
expect "thedicomsort's exit code" \
    "$(status_of sorters/bin/dicomsort medium by_thedicomsort/%SeriesNumber_%SeriesDescription/%InstanceNumber.dcm)" 253
expect "its words" "$(grep -o 'Aborting.*' output.txt)" "Aborting to avoid data loss."
expect "instances left in the source" "$(instances medium)" 4
# The pattern is of the form that its help has as an example.
expect "simple-dicom-sort's exit code" \
    "$(status_of sorters/bin/dicom_sort medium by_dicom_sort '%PatientID%/%SeriesNumber%_%SeriesDescription%')" 0
expect "its words" "$(cat output.txt)" ""
expect "instances that it has moved" "$(instances by_dicom_sort)" 2
expect "instances left in the source" "$(instances medium)" 0
finish
