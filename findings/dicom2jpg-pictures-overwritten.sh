#!/usr/bin/env bash
# Guess: dicom2jpg, told to convert a folder, makes a picture of each image in it.
# Seen: it names a picture by Series Number and Instance Number, in a folder of patient and study. Images that have both alike
#   overwrite each other: two series of one study with the same Series Number, or an Instance Number that is used twice in a
#   series. Four images in, two pictures out, no word. Without an Instance Number (type 2, so it may be empty) all of a
#   series become one.
# Matters: neither number has to be unique; PS3.3 leaves that to the UIDs. Series made by post-processing often repeat
#   the number of their source, and merged or anonymized studies do. A set of training pictures is smaller than the series, and
#   nothing in it says so. Count the pictures, or call it for each series with a target_root of its own.
# Versions: dicom2jpg 0.1.10, pydicom 3.0.2, numpy 2.2.6, opencv-python 4.11.0.86 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 dicom2jpg==0.1.10 pydicom==3.0.2 numpy==2.2.6 opencv-python==4.11.0.86
venv/bin/python made_up.py ct1 ct2 ct3
cat >folders.py <<'END'
from pathlib import Path

import pydicom


def write(folder, *images):
    Path(folder).mkdir()
    for number, (series, series_number, instance_number) in enumerate(images, 1):
        d = pydicom.dcmread("CT1")
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{d.SOPInstanceUID}.{number}"
        d.SeriesInstanceUID = f"{d.StudyInstanceUID}.{series}"
        d.SeriesNumber, d.InstanceNumber = series_number, instance_number
        d.save_as(Path(folder, f"{number}.dcm"))


write("plain", (1, 1, 1), (1, 1, 2), (2, 2, 1), (2, 2, 2))
write("same-series-number", (1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 1, 2))
write("same-instance-number", (1, 1, 1), (1, 1, 2), (1, 1, 1), (1, 1, 2))
write("no-instance-number", (1, 1, None), (1, 1, None), (1, 1, None), (1, 1, None))
END
venv/bin/python folders.py
for folder in plain same-series-number same-instance-number no-instance-number; do
    venv/bin/python -c "import dicom2jpg; dicom2jpg.dicom2png('$folder', target_root='pictures-$folder')" >said.txt 2>&1
    cat said.txt
    case $folder in plain) pictures=4 ;; no-*) pictures=1 ;; *) pictures=2 ;; esac
    expect "$folder, 4 images" "$(find "pictures-$folder" -name '*.png' | wc -l)" $pictures
done
finish
