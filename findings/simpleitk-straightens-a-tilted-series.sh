#!/usr/bin/env bash
# Guess: SimpleITK's ImageSeriesReader, which has no place for a sheared volume, warns of a series taken with a tilted gantry
#   (each slice shifted in its plane against the last one), and gives the slices their distance along the axis, at least.
# Seen: it warns of nothing. The shift is gone, and the spacing of slices is the length of the oblique step: with 1 mm of shift
#   for 3 mm of z it is 3.16, so that four slices from z = 0 to 9 end at 9.49, and the last is 3 mm aside. ReadImage with a
#   list of names does the same. Only after ForceOrthogonalDirectionOff() each voxel is where the slices say, in a volume that
#   is not orthogonal. highdicom refuses the series.
# Matters: head CT is often tilted, by up to 30 degrees, where the spacing is 15 % too large: so are volumes, and positions are
#   off by centimetres at the far end. Compare the last slice's Image Position with TransformIndexToPhysicalPoint.
# Versions: SimpleITK 2.5.7, highdicom 0.28.2, pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 simpleitk==2.5.7 highdicom==0.28.2 pydicom==3.0.2 numpy==2.2.6
venv/bin/python made_up.py ct1 ct2 ct3 ct4
cat >tilt.py <<'END'
import pydicom

for folder, shift in ("upright", 0), ("tilted", 1):
    for number in (1, 2, 3, 4):
        d = pydicom.dcmread(f"CT{number}")
        d.PatientBirthDate, d.FrameOfReferenceUID = "19500101", d.StudyInstanceUID + ".9"
        d.PositionReferenceIndicator, d.Manufacturer = "", "Made up"
        d.PixelSpacing, d.SliceThickness, d.ImageOrientationPatient = [2, 2], 3, [1, 0, 0, 0, 1, 0]
        d.ImagePositionPatient = [0, shift * (number - 1), 3 * (number - 1)]
        d.RescaleSlope, d.RescaleIntercept = 1, 0
        d.save_as(f"{folder}/{number}.dcm")
END
mkdir upright tilted
venv/bin/python tilt.py
cat >read.py <<'END'
import sys

import SimpleITK

folder, how = sys.argv[1:]
names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
reader = SimpleITK.ImageSeriesReader()
reader.SetFileNames(names)
if how == "free":
    reader.ForceOrthogonalDirectionOff()
image = SimpleITK.ReadImage(names) if how == "ReadImage" else reader.Execute()
last = image.TransformIndexToPhysicalPoint((0, 0, 3))
print(f"spacing {image.GetSpacing()[2]:.2f}, last slice at", *(f"{part:.2f}" for part in last))
END
cat >by_highdicom.py <<'END'
import sys
from pathlib import Path

import highdicom
import pydicom

try:
    volume = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in sorted(Path(sys.argv[1]).iterdir())])
    print(f"spacing {volume.spacing[0]:.2f}")
except ValueError as error:
    print("refused:", error)
END
# told FOLDER HOW: spacing of slices, where the last one is, and any warning.
told() {
    venv/bin/python read.py "$@" 2>&1
}
expect "upright" "$(told upright series)" "spacing 3.00, last slice at 0.00 0.00 9.00"
expect "tilted; the last slice is at 0 3 9" "$(told tilted series)" "spacing 3.16, last slice at 0.00 0.00 9.49"
expect "by ReadImage" "$(told tilted ReadImage)" "spacing 3.16, last slice at 0.00 0.00 9.49"
expect "with ForceOrthogonalDirectionOff" "$(told tilted free)" "spacing 3.16, last slice at 0.00 3.00 9.00"
expect "upright, highdicom" "$(venv/bin/python by_highdicom.py upright)" "spacing 3.00"
expect "tilted, highdicom" "$(venv/bin/python by_highdicom.py tilted)" "refused: Series is not a regularly-spaced volume."
finish
