#!/usr/bin/env bash
# Guess: SimpleITK's ImageSeriesReader gives each slice of a series the values that ImageFileReader gives for it alone:
#   stored values times the slice's own Rescale Slope.
# Seen: it takes the pixel type of the first slice for the whole volume. When that one has integer values (a blank slice with
#   Rescale Slope 1), and the others have fractions, every value is cut to an integer: 0.64 becomes 0, 5.12 becomes 5, without a
#   word. ReadImage with a list of names does the same. When any slice with a fractional slope comes first, all are right.
# Matters: PET has a slope of its own in every slice, and an empty one at the end of the body may well have 1. In units where the
#   numbers are small (SUV, kBq/ml) the image is ruined in some patients and right in others. Ask for the type:
#   SetOutputPixelType(sitkFloat32), or ReadImage(names, sitkFloat32).
# Versions: SimpleITK 2.5.7, pydicom 3.0.2, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 simpleitk==2.5.7 pydicom==3.0.2 numpy==2.2.6
mkdir blank_first blank_last
venv/bin/python made_up.py ct1 ct2 ct3
cat >series.py <<'END'
import numpy
import pydicom

SLOPES = [1, 0.01, 0.08]
for folder, order in ("blank_first", [0, 1, 2]), ("blank_last", [1, 2, 0]):
    for place, number in enumerate(order):
        d = pydicom.dcmread(f"CT{number + 1}")
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
        d.Modality, d.Units = "PT", "GML"
        d.FrameOfReferenceUID = d.StudyInstanceUID + ".9"
        d.InstanceNumber = place + 1
        d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 3 * place], [1, 0, 0, 0, 1, 0]
        d.PixelSpacing, d.SliceThickness = [2, 2], 3
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.PixelData = numpy.full((16, 16), 64 if number else 0, "<i2").tobytes()
        d.RescaleIntercept, d.RescaleSlope = 0, SLOPES[number]
        d.save_as(f"{folder}/{place}.dcm")
END
venv/bin/python series.py
cat >read.py <<'END'
import sys

import SimpleITK

folder, how = sys.argv[1:]
reader = SimpleITK.ImageSeriesReader()
names = reader.GetGDCMSeriesFileNames(folder)
if how == "alone":
    images = [SimpleITK.ReadImage(name) for name in names]
    print(*(round(float(SimpleITK.GetArrayFromImage(image).max()), 4) for image in images))
else:
    reader.SetFileNames(names)
    if how == "float":
        reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    image = SimpleITK.ReadImage(names) if how == "list" else reader.Execute()
    print(*(round(float(value), 4) for value in SimpleITK.GetArrayFromImage(image).max(axis=(1, 2))), end=", ")
    print(image.GetPixelIDTypeAsString())
END
values() { venv/bin/python read.py "$@" 2>&1; }
expect "blank first, each slice alone" "$(values blank_first alone)" "0.0 0.64 5.12"
expect "blank first, ImageSeriesReader" "$(values blank_first series)" "0.0 0.0 5.0, 16-bit signed integer"
expect "blank first, ReadImage of a list" "$(values blank_first list)" "0.0 0.0 5.0, 16-bit signed integer"
expect "blank first, float asked for" "$(values blank_first float)" "0.0 0.64 5.12, 32-bit float"
expect "blank last, each slice alone" "$(values blank_last alone)" "0.64 5.12 0.0"
expect "blank last, ImageSeriesReader" "$(values blank_last series)" "0.64 5.12 0.0, 64-bit float"
finish
